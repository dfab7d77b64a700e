"""The poll schedule: one per gateway and event loop, so that thousands of tasks do not poll all at once.

Looks start at most so many a second, whatever the number of tasks; a ``Retry-After`` holds them all. After the machine
was suspended everybody who rests is woken, since what was waited for is probably long done.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from videorouter.loops import Sleepers, running_loop

if TYPE_CHECKING:
    import asyncio

LOOKS_A_SECOND = 200.0
_TICK = 1.0
_BOOT_CLOCK: int | None = getattr(time, "CLOCK_BOOTTIME", None)
_JUMP = 1.0 if _BOOT_CLOCK is not None else 5.0


def read_suspension() -> float:
    """A number that grows by the seconds that the machine was suspended, and by nothing else where it can be had."""
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

    async def wait_for_look(self, until: float) -> bool:
        """Wait until a poll may start; ``False`` at once when too many are ahead for it to start before ``until``."""
        now = time.monotonic()
        start = max(now, self._next)
        if start > until:
            return False
        self._next = start + 1.0 / LOOKS_A_SECOND
        if start > now:
            await self.rest(start - now)
        return True

    def hold(self, seconds: float) -> None:
        """Start no look for a while: the gateway has asked for it."""
        self._next = max(self._next, time.monotonic() + seconds)

    def end(self) -> None:
        """The client is closed: nobody waits any more."""
        self._next = 0.0
        self.sleepers.wake()

    async def rest(self, seconds: float) -> None:
        """Wait, or until the machine was woken from a suspension."""
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
