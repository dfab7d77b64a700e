"""The poll schedule: one per gateway and event loop, so that thousands of tasks do not poll all at once.

At most ``POLLS_PER_SECOND`` start, whatever the number of tasks; a ``Retry-After`` delays them all. After a suspension of
the machine all waiting polls start at once, since their tasks have probably ended. While the gateway cannot be reached, one task
asks for all of them.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from videorouter.loops import Sleepers, running_loop

if TYPE_CHECKING:
    import asyncio

POLLS_PER_SECOND = 200.0
_TICK = 1.0
_TOLD_AFTER = 2
"""Polls in a row that find no gateway before that is told, unless they take long: a single one may be a restart."""
_LONG = 5.0
_BOOT_CLOCK: int | None = getattr(time, "CLOCK_BOOTTIME", None)
_JUMP = 1.0 if _BOOT_CLOCK is not None else 5.0


def read_suspension() -> float:
    """Return a number that grows by the seconds of each suspension; without a boot clock also by changes of the time."""
    if _BOOT_CLOCK is not None:
        return time.clock_gettime(_BOOT_CLOCK) - time.monotonic()
    return time.time() - time.monotonic()


_KNOWN = 10.0
"""Seconds for which a task that begins to wait takes an outage for granted that others waited for before."""


class Outage:
    """A gateway that cannot be reached, since a ``time.monotonic()``; ``asker`` is the task that asks for all."""

    __slots__ = ("_at", "_is_told", "_last", "_polls", "_reason", "asker", "began")

    def __init__(self, asker: object, reason: str, began: float) -> None:
        self.asker: object | None = asker
        self.began: float = began
        self._last = time.monotonic()
        self._at = time.time() - (self._last - began)
        self._polls = 0
        self._is_told = False
        self._reason = reason

    @property
    def notice(self) -> str:
        """What is told of it, always the same; empty as long as it may be a restart, or nobody waits."""
        if not self._is_told or self.asker is None:
            return ""
        since = time.strftime("%H:%M:%S", time.localtime(self._at))
        return f"The gateway cannot be reached since {since}; accepted tasks wait for it: {self._reason}"

    @property
    def is_known(self) -> bool:
        """Whether it is none that is long past, since when nobody has asked."""
        return self._is_told and (self.asker is not None or time.monotonic() - self._last < _KNOWN)

    def count(self) -> bool:
        """Count a poll that found no gateway; whether that is to be told now."""
        self._polls += 1
        self._last = time.monotonic()
        was_told = self._is_told
        self._is_told = was_told or self._polls >= _TOLD_AFTER or self._last - self.began >= _LONG
        return self._is_told and not was_told


class PollSchedule:
    """When the tasks of one client and one gateway may be polled in one event loop."""

    def __init__(self) -> None:
        self._next = 0.0
        self.sleepers: Sleepers = Sleepers()
        self._ticking = False
        self._suspension = 0.0
        self.outage: Outage | None = None

    async def wait_for_gateway(self, asker: object, until: float) -> None:
        """Wait while another task asks whether the gateway can be reached, but not past a ``time.monotonic()``."""
        while (outage := self.outage) is not None and outage.asker is not asker:
            left = until - time.monotonic()
            if left <= 0:
                return
            if outage.asker is None:
                outage.asker = asker
                return
            await self.rest(left)

    def note_unreached(self, asker: object, reason: str, began: float) -> bool:
        """Note that a poll, begun at a ``time.monotonic()``, found no gateway; whether that is to be told now."""
        if self.outage is None:
            self.outage = Outage(asker, reason, began)
        return self.outage.asker is asker and self.outage.count()

    def note_reached(self) -> None:
        """End an outage: all tasks are polled."""
        if self.outage is not None:
            self.outage = None
            self.sleepers.wake()

    def leave(self, asker: object) -> None:
        """Let another task ask, where this one did and ends."""
        if self.outage is not None and self.outage.asker is asker:
            self.outage.asker = None
            self.sleepers.wake()

    def shorten(self, deadline: float, timeout: float) -> float:
        """A deadline that counts from the begin of an outage: tasks wait for the gateway together, not one after the other."""
        outage = self.outage
        if outage is None or outage.is_known:
            return deadline if outage is None else min(deadline, outage.began + timeout)
        if outage.asker is None:
            self.outage = None
        return deadline

    async def wait_for_poll(self, until: float) -> bool:
        """Wait until a poll may start; ``False`` at once when too many are ahead for it to start before ``until``."""
        now = time.monotonic()
        start = max(now, self._next)
        if start > until:
            return False
        self._next = start + 1.0 / POLLS_PER_SECOND
        if start > now:
            await self.rest(start - now)
        return True

    def hold(self, seconds: float) -> None:
        """Start no poll for so many seconds, as the gateway asked."""
        self._next = max(self._next, time.monotonic() + seconds)

    def end(self) -> None:
        """Wake all waiting polls: the client is closed."""
        self._next = 0.0
        self.outage = None
        self.sleepers.wake()

    async def rest(self, seconds: float) -> None:
        """Wait so many seconds, or until the machine wakes from a suspension."""
        loop = running_loop()
        if loop is not None and not self._ticking:
            self._ticking = True
            self._suspension = read_suspension()
            loop.call_later(_TICK, self._tick, loop)
        await self.sleepers.rest(seconds)

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self.sleepers:
            self._ticking = False
            return
        suspension = read_suspension()
        if suspension - self._suspension > _JUMP:
            self.sleepers.wake()
        self._suspension = suspension
        loop.call_later(_TICK, self._tick, loop)
