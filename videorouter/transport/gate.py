"""A first-come gate that lets at most so many pass at once, and never loses a place.

``asyncio.Semaphore`` wakes waiters through tasks' own steps; here a place is handed over at the moment that it is
given back, and a cancelled waiter that already holds one passes it on.
"""

from __future__ import annotations

import asyncio
from collections import deque


class Gate:
    """Lets at most ``places`` holders in at once, in the order of their coming.

    Args:
        places: How many may be inside.
    """

    __slots__ = ("_waiting", "free")

    def __init__(self, places: int) -> None:
        self.free: int = places
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def waiting(self) -> int:
        """How many stand outside."""
        return sum(1 for waiter in self._waiting if not waiter.done())

    async def enter(self) -> None:
        """Take a place, waiting for one if need be; give it back with ``leave``."""
        if self.free > 0 and not self._waiting:
            self.free -= 1
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            await waiter
        except BaseException:
            if waiter.done() and not waiter.cancelled():
                self.leave()
            raise

    def leave(self) -> None:
        """Give a place back: to the first who still waits, else to whoever comes next."""
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self.free += 1
