"""The output of a batch: finished items for one reader, as they finish or in the order of the input."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from videorouter.loops import resolve_future

if TYPE_CHECKING:
    from videorouter.models import BatchItem


class ItemQueue:
    """Finished items that wait for the reader.

    In order, an entry's items wait until all earlier entries are finished; ``begin``, ``expect`` and ``end`` count the
    unfinished work of an entry. ``ready`` has the items that the reader may take.
    """

    __slots__ = ("_begun", "_held", "_next", "_open", "_reader", "_room", "ready")

    def __init__(self) -> None:
        self.ready: deque[BatchItem] = deque()
        self._held: dict[int, list[BatchItem]] = {}
        self._open: dict[int, int] = {}
        self._begun = 0
        self._next = 0
        self._reader: asyncio.Future[None] | None = None
        self._room: asyncio.Event | None = None

    @property
    def lag(self) -> int:
        """Entries from the first unfinished one to the last that has begun; counted in order alone."""
        return self._begun - self._next

    @property
    def has_reader(self) -> bool:
        """Whether a reader waits already."""
        return self._reader is not None

    def put(self, item: BatchItem) -> None:
        """Add an item for the reader."""
        self.ready.append(item)
        self.wake()

    def put_in_order(self, item: BatchItem) -> None:
        """Add an item for the reader once all earlier entries are finished."""
        self._held.setdefault(item.index, []).append(item)

    def begin(self, index: int) -> None:
        """Count an entry that begins. Entries begin in the order of the input."""
        self._open[index] = 1
        self._begun = index + 1

    def expect(self, index: int) -> None:
        """Count an item of an entry that is unfinished beside the entry itself: it is being saved."""
        self._open[index] += 1

    def end(self, index: int) -> None:
        """Count the end of an entry, or of an item that was expected of it."""
        left = self._open[index] - 1
        if left:
            self._open[index] = left
            return
        del self._open[index]
        while self._next < self._begun and self._next not in self._open:
            self.ready.extend(self._held.pop(self._next, ()))
            self._next += 1
        self.make_room()
        self.wake()

    def take(self) -> BatchItem:
        """Return the next item, which must be ready."""
        item = self.ready.popleft()
        if self._room is not None:
            self.make_room()
        return item

    async def wait(self) -> None:
        """Wait until an item is put, or ``wake`` is called."""
        self._reader = asyncio.get_running_loop().create_future()
        try:
            await self._reader
        finally:
            self._reader = None

    def wake(self) -> None:
        """Wake the reader."""
        if self._reader is not None:
            resolve_future(self._reader)

    async def wait_for_room(self) -> None:
        """Wait until the reader has taken an item, or ``make_room`` is called."""
        if self._room is None:
            self._room = asyncio.Event()
        await self._room.wait()

    def make_room(self) -> None:
        """Wake the workers that wait for room."""
        room, self._room = self._room, None
        if room is not None:
            room.set()
