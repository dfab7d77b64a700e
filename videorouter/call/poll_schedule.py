"""The poll schedule: one per gateway and event loop, so that thousands of tasks do not poll all at once.

At most ``POLLS_PER_SECOND`` start, whatever the number of tasks; a ``Retry-After`` delays them all. After a suspension of
the machine all waiting polls start at once, since their tasks have probably ended.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from videorouter.loops import Sleepers, running_loop

if TYPE_CHECKING:
    import asyncio

POLLS_PER_SECOND = 200.0
_TICK = 1.0
_BOOT_CLOCK: int | None = getattr(time, "CLOCK_BOOTTIME", None)
_JUMP = 1.0 if _BOOT_CLOCK is not None else 5.0


def read_suspension() -> float:
    """Return a number that grows by the seconds of each suspension; without a boot clock also by changes of the time."""
    if _BOOT_CLOCK is not None:
        return time.clock_gettime(_BOOT_CLOCK) - time.monotonic()
    return time.time() - time.monotonic()


class PollSchedule:
    """When the tasks of one client and one gateway may be polled in one event loop."""

    def __init__(self) -> None:
        self._next = 0.0
        self.sleepers: Sleepers = Sleepers()
        self._ticking = False
        self._suspension = 0.0

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
