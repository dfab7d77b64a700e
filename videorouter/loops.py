"""Event loops: the one that runs, what each of them keeps for itself, and futures that may be done already."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, TypeVar
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

T = TypeVar("T")


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The asyncio loop that runs here; ``None`` outside one, and in trio."""
    return asyncio._get_running_loop()  # noqa: SLF001  documented for event loops; raises nothing where none runs


def finish(future: asyncio.Future[None]) -> None:
    """Set the result, unless somebody was quicker or has gone."""
    if not future.done():
        future.set_result(None)


class PerLoop(Generic[T]):
    """One value for each event loop, made on first use and forgotten with its loop; one for where no loop runs."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._by_loop: MutableMapping[asyncio.AbstractEventLoop, T] = WeakKeyDictionary()
        self._elsewhere: T | None = None

    def find(self) -> T:
        """The value of the loop that runs."""
        loop = running_loop()
        if loop is None:
            if self._elsewhere is None:
                self._elsewhere = self._make()
            return self._elsewhere
        value = self._by_loop.get(loop)
        if value is None:
            value = self._by_loop[loop] = self._make()
        return value
