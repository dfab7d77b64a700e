"""Event loops: the running one, values kept for each loop, and futures that may be done already."""

from __future__ import annotations

import asyncio
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

import anyio

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")


def running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the running asyncio loop; ``None`` outside one, and in trio."""
    return asyncio._get_running_loop()  # noqa: SLF001  documented for event loops; raises nothing where none runs


def count_cancellations() -> int:
    """Count the running task's cancellations: a ``CancelledError`` that leaves the count unchanged is not its own."""
    task = asyncio.current_task() if running_loop() is not None else None
    return task.cancelling() if task is not None else 0


@overload
def resolve_future(future: asyncio.Future[None]) -> None: ...
@overload
def resolve_future(future: asyncio.Future[T], result: T) -> None: ...
def resolve_future(future: asyncio.Future[Any], result: object = None) -> None:
    """Set the result of a future that is not done: it may have been cancelled, or resolved before."""
    if not future.done():
        future.set_result(result)


def start_task(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Start a task whose first step comes in the loop's next turn, also where tasks are eager.

    An eager task runs inside ``create_task``, before who starts it knows it: no limit would count it.
    """
    return asyncio.Task(work, loop=asyncio.get_running_loop())


class UncancellableFuture(asyncio.Future[Any]):
    """A future that refuses to be cancelled: asyncio then cancels the waiting task once the future is done."""

    def cancel(self, msg: Any = None) -> bool:  # noqa: ARG002  as asyncio calls it
        """Refuse."""
        return False


class UncancellableTask(asyncio.Task[T]):
    """A task that refuses to be cancelled: work that must be done whoever else leaves, the loop's own end included."""

    def cancel(self, msg: Any = None) -> bool:  # noqa: ARG002  as asyncio calls it
        """Refuse."""
        return False


async def outlast(*tasks: asyncio.Future[Any]) -> None:
    """Wait until all of them are done. A waiter that is cancelled meanwhile, however often, is cancelled then."""
    if all(task.done() for task in tasks):
        return
    ended = UncancellableFuture(loop=asyncio.get_running_loop())
    asyncio.gather(*tasks, return_exceptions=True).add_done_callback(lambda _: resolve_future(ended))
    with anyio.CancelScope(shield=True):
        await ended


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
        """Return the value of the running loop."""
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
        """Return every living loop with its value."""
        kept = [(reference(), value) for reference, value in self._by_loop.copy().values()]
        return [(loop, value) for loop, value in kept if loop is not None]

    def tell(self, function: Callable[[T], object]) -> None:
        """Call it with each value, in the value's loop, if that runs."""
        here = running_loop()
        for loop, value in self.pairs():
            if loop is here:
                function(value)
            elif loop.is_running():
                loop.call_soon_threadsafe(function, value)
        if here is None and self._elsewhere is not None:
            function(self._elsewhere)

    def clear(self) -> None:
        """Forget all values."""
        self._by_loop = {}
        self._elsewhere = None


class Sleepers:
    """Timed waits in one loop, which can all be woken at once."""

    def __init__(self) -> None:
        self._futures: set[asyncio.Future[None]] = set()
        self._events: set[anyio.Event] = set()

    def __bool__(self) -> bool:
        return bool(self._futures or self._events)

    async def rest(self, seconds: float) -> None:
        """Wait so many seconds, or until ``wake``."""
        loop = running_loop()
        if loop is None:
            event = anyio.Event()
            self._events.add(event)
            try:
                with anyio.move_on_after(max(0.0, seconds)):
                    await event.wait()
            finally:
                self._events.discard(event)
            return
        future: asyncio.Future[None] = loop.create_future()
        timer = loop.call_later(max(0.0, seconds), resolve_future, future)
        self._futures.add(future)
        try:
            await future
        finally:
            self._futures.discard(future)
            timer.cancel()

    def wake(self) -> None:
        """Wake them all; in their own loop."""
        for future in self._futures:
            resolve_future(future)
        for event in self._events:
            event.set()


def _forget(owner: weakref.ref[PerLoop[Any]], number: int, _: object) -> None:
    per_loop = owner()
    if per_loop is not None:
        per_loop._by_loop.pop(number, None)  # noqa: SLF001  of this very class
