"""Event loops: the one that runs, what each of them keeps for itself, and futures that may be done already."""

from __future__ import annotations

import asyncio
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The asyncio loop that runs here; ``None`` outside one, and in trio."""
    return asyncio._get_running_loop()  # noqa: SLF001  documented for event loops; raises nothing where none runs


@overload
def finish(future: asyncio.Future[None]) -> None: ...
@overload
def finish(future: asyncio.Future[T], result: T) -> None: ...
def finish(future: asyncio.Future[Any], result: object = None) -> None:
    """Set the result, unless somebody was quicker or has gone."""
    if not future.done():
        future.set_result(result)


class PerLoop(Generic[T]):
    """One value for each event loop, made on first use and forgotten with its loop; one for where no loop runs.

    A value must not hold its loop: neither would ever go.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        # By the loop's number: a WeakKeyDictionary makes two more calls for each look.
        self._by_loop: dict[int, tuple[weakref.ref[asyncio.AbstractEventLoop], T]] = {}
        self._elsewhere: T | None = None

    def find(self) -> T:
        """The value of the loop that runs."""
        loop = asyncio._get_running_loop()  # noqa: SLF001  as above; this runs for each request
        kept = self._by_loop.get(id(loop))
        if kept is not None and kept[0]() is loop:
            return kept[1]
        if loop is not None:
            return self._add(loop)
        if self._elsewhere is None:
            self._elsewhere = self._make()
        return self._elsewhere

    def _add(self, loop: asyncio.AbstractEventLoop) -> T:
        for other, _ in self.pairs():
            if other.is_closed():  # a traceback may still hold it
                self._by_loop.pop(id(other), None)
        value = self._make()
        self._by_loop[id(loop)] = (weakref.ref(loop, partial(_forget, weakref.ref(self), id(loop))), value)
        return value

    def pairs(self) -> list[tuple[asyncio.AbstractEventLoop, T]]:
        """Every loop that is still there, with its value."""
        kept = [(reference(), value) for reference, value in self._by_loop.copy().values()]
        return [(loop, value) for loop, value in kept if loop is not None]

    def clear(self) -> None:
        """Forget all values."""
        self._by_loop = {}
        self._elsewhere = None


def _forget(owner: weakref.ref[PerLoop[Any]], number: int, _: object) -> None:
    per_loop = owner()
    if per_loop is not None:
        per_loop._by_loop.pop(number, None)  # noqa: SLF001  of this very class
