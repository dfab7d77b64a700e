"""Whose turn it is to look at a task: one schedule per event loop, so that thousands of tasks are no herd.

Looks start at most so many a second, whatever the number of tasks; a ``Retry-After`` holds them all. After the machine
was suspended everybody who rests is woken, since what was waited for is probably long done.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import anyio

if TYPE_CHECKING:
    from collections.abc import MutableMapping

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
    """The schedule of one event loop."""

    def __init__(self) -> None:
        self._next = 0.0
        self._sleepers: set[asyncio.Future[None]] = set()
        self._ticking = False
        self._suspension = 0.0

    async def wait_turn(self, until: float) -> bool:
        """Wait until a look may start.

        Args:
            until: ``time.monotonic()`` value after which it is of no use.

        Returns:
            Whether it may; ``False`` at once when too many others come first.
        """
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

    async def rest(self, seconds: float) -> None:
        """Wait, or until the machine has been woken from a suspension."""
        loop = asyncio._get_running_loop()  # noqa: SLF001  documented for event loops; gives None outside one
        if loop is None:
            await anyio.sleep(max(0.0, seconds))
            return
        sleeper: asyncio.Future[None] = loop.create_future()
        timer = loop.call_later(max(0.0, seconds), _finish, sleeper)
        self._sleepers.add(sleeper)
        if not self._ticking:
            self._ticking = True
            self._suspension = read_suspension()
            loop.call_later(_TICK, self._tick, loop)
        try:
            await sleeper
        finally:
            self._sleepers.discard(sleeper)
            timer.cancel()

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._sleepers:
            self._ticking = False
            return
        suspension = read_suspension()
        if suspension - self._suspension > _JUMP:
            for sleeper in self._sleepers:
                _finish(sleeper)
        self._suspension = suspension
        loop.call_later(_TICK, self._tick, loop)


def _finish(sleeper: asyncio.Future[None]) -> None:
    if not sleeper.done():
        sleeper.set_result(None)


class PollSchedules:
    """The schedules of all event loops that a client is used in; one that is gone takes its schedule along."""

    def __init__(self) -> None:
        self._by_loop: MutableMapping[asyncio.AbstractEventLoop, PollSchedule] = WeakKeyDictionary()
        self._elsewhere = PollSchedule()

    def find(self) -> PollSchedule:
        """The schedule of the loop that runs."""
        loop = asyncio._get_running_loop()  # noqa: SLF001  as above
        if loop is None:
            return self._elsewhere
        turns = self._by_loop.get(loop)
        if turns is None:
            turns = self._by_loop[loop] = PollSchedule()
        return turns
