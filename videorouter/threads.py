"""Blocking work in threads: a cancelled caller waits until its thread has let go of the descriptor, file or lock.

anyio's shield alone does not do that: asyncio's own cancellation passes through it, so the wait is for a future that
refuses to be cancelled. A thread that hangs for ``PATIENCE`` seconds is left behind and keeps its resource:
``ThreadedResource`` lets one thread in at a time and closes last. ``ThreadedIterator`` reads what may block for ever, and
is never waited for.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import weakref
from collections import deque
from collections.abc import Generator
from contextlib import nullcontext
from contextvars import copy_context
from functools import partial
from queue import SimpleQueue
from time import perf_counter
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Self, TypeVar

import anyio
import anyio.to_thread

from videorouter.errors import ConfigurationError
from videorouter.logs import report
from videorouter.loops import UncancellableFuture, resolve_future, running_loop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable
    from contextlib import AbstractContextManager
    from types import TracebackType

P = ParamSpec("P")
T = TypeVar("T")

PATIENCE = 30.0
"""Seconds that a cancelled caller waits for its thread: a disk that takes longer does not answer at all."""
QUICK = 20e-6
"""Seconds in which an iterator gives an entry that it need not wait for."""


async def run_in_thread(function: Callable[[], T], *, limiter: anyio.CapacityLimiter | None = None) -> T:
    """Run it in a thread; a cancelled caller goes on when the thread is done, or before it has begun."""
    work = _Work(function)
    try:
        return await anyio.to_thread.run_sync(work.run, limiter=limiter)
    except anyio.get_cancelled_exc_class():
        await work.join(insist=False)
        raise
    except RuntimeError:
        if work.begun:
            raise
    report(logging.WARNING, "the system gives no more threads: work on a file holds up the event loop")
    return work.run()  # a short stall costs less than an answer that was paid for


def start_thread(function: Callable[[], object], name: str) -> threading.Thread:
    """Start a daemon thread; raises ``ConfigurationError`` where the system gives none."""
    thread = threading.Thread(target=function, name=name, daemon=True)
    try:
        thread.start()
    except (RuntimeError, MemoryError) as error:
        raise ConfigurationError(
            f"No thread can be started ({str(error) or 'out of memory'}). Nothing was sent. This process or its user has as many as the "
            "system allows: end some, or raise `ulimit -u`."
        ) from error
    return thread


class ThreadedResource:
    """A resource that threads use one at a time; when the block fails, ``close`` runs after the last of them.

    ``async with ThreadedResource(close) as owned: await owned.run(function, ...)``. ``close`` blocks and runs in a
    thread, however often the caller is cancelled, and also when its loop was closed under it.
    """

    def __init__(self, close: Callable[[], object], *, limiter: anyio.CapacityLimiter | None = None) -> None:
        self._close = close
        self._limiter = limiter
        self._mutex = threading.Lock()
        self._closed = False
        self._loop = running_loop()

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run it in a thread, after all other work on the resource."""
        return await run_in_thread(partial(self._work, function, *args, **kwargs), limiter=self._limiter)

    def _work(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        with self._mutex:
            try:
                return function(*args, **kwargs)
            finally:
                if self._loop is not None and self._loop.is_closed():
                    self._close_once()

    def _close_last(self) -> None:
        with self._mutex:
            self._close_once()

    def _close_once(self) -> None:
        if not self._closed:
            self._closed = True
            self._close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            return
        if kind is GeneratorExit:  # the loop was closed, and its task forgotten: nobody can wait here any more
            _start(self._close_last)
        else:
            await _Work(self._close_last).join(insist=True)


def _start(function: Callable[[], object]) -> None:
    """Start a thread of its own: urgent work may not wait for a free one."""
    try:
        threading.Thread(target=function, name="videorouter-close").start()
    except RuntimeError:  # no thread is to be had
        function()


class _Work(Generic[T]):
    """One piece of work for a thread: whether it has begun, and the waiter for its end."""

    def __init__(self, function: Callable[[], T]) -> None:
        self._function = function
        self._mutex = threading.Lock()
        self._begun = False
        self._ended = False
        self._waiter: _Ending | None = None

    @property
    def begun(self) -> bool:
        return self._begun

    def run(self) -> T:
        with self._mutex:
            if self._begun:
                raise RuntimeError("it ran already, or never will")
            self._begun = True
        try:
            return self._function()
        finally:
            with self._mutex:
                self._ended = True
                waiter = self._waiter
            if waiter is not None:
                waiter.finish_from_thread()

    async def join(self, *, insist: bool) -> None:
        """Wait until it has ended. Work that has not begun begins now, or never, as ``insist`` says."""
        loop = running_loop()
        with self._mutex:
            begun = self._begun
            if self._ended or (not begun and not insist):
                self._begun = True
                return
            if loop is not None:
                self._waiter = _Ending(loop=loop)
        with anyio.CancelScope(shield=True):
            if self._waiter is None or loop is None:  # trio's threads are never left, and its shield holds
                await anyio.to_thread.run_sync(self.run)
                return
            if not begun:
                _start(self.run)
            timer = loop.call_later(PATIENCE, resolve_future, self._waiter)
            try:
                await self._waiter
            finally:
                timer.cancel()
                if not self._ended:
                    report(logging.WARNING, "a thread is still at work %g s after its caller was cancelled", PATIENCE)


class _Ending(UncancellableFuture):
    """The end of a thread's work, which a cancelled caller still waits for."""

    def finish_from_thread(self) -> None:
        """Wake the waiter, if its loop still runs."""
        try:
            self.get_loop().call_soon_threadsafe(resolve_future, self)
        except RuntimeError:
            report(logging.DEBUG, "the loop is closed, and with it whoever waited for a thread")


class ThreadedIterator(Generic[T]):
    """An iterator that a thread of its own reads: an entry for each that is waited for.

    While an entry takes less than ``QUICK`` seconds, up to ``ahead`` of them are read before: to wake the thread costs more.
    All of it happens in that one thread, since a database connection may belong to the thread that opened it. The thread is
    a daemon: one that waits for ever, as for a terminal, holds up neither ``close`` nor the end of the process.
    """

    def __init__(self, source: Iterable[T], *, ahead: int = 0) -> None:
        self._source = source
        self._ahead = ahead
        self._loop = asyncio.get_running_loop()
        self._woken: SimpleQueue[None] = SimpleQueue()
        self._read: deque[T] = deque()
        self._waiters: deque[asyncio.Future[T]] = deque()
        self._taking = 0
        self._is_told = False
        self._ended = False
        self._closed = False
        self._error: BaseException | None = None
        work = partial(copy_context().run, self._work)
        start_thread(work, "videorouter-iterator")

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        """Return the next entry; any number of callers get theirs in the order in which they ask."""
        if self.ready:
            return self.pop()
        waiter: asyncio.Future[T] = self._loop.create_future()
        self._waiters.append(waiter)
        self._taking += 1
        try:
            if self._read or self._ended:
                self._loop.call_soon(self._deliver)  # after those who have an entry already, and have not run since
            else:
                self._woken.put(None)
            return await waiter
        finally:
            self._taking -= 1
            if waiter.cancelled() and waiter in self._waiters:
                self._waiters.remove(waiter)

    @property
    def ready(self) -> bool:
        """Whether an entry was read that is for the next who asks."""
        return bool(self._read) and not self._taking

    def pop(self) -> T:
        """Return the entry that is ready."""
        return self._read.popleft()

    def close(self) -> None:
        """Give what was read and nothing more, and let the thread end when it can. In the loop; idempotent."""
        self._closed = self._ended = True
        self._woken.put(None)
        self._deliver()

    def _deliver(self) -> None:
        self._is_told = False
        waiters = self._waiters
        while waiters and (self._read or self._ended):
            waiter = waiters.popleft()
            if waiter.done():
                continue
            if self._read:
                waiter.set_result(self._read.popleft())
            else:
                error, self._error = self._error, None
                waiter.set_exception(error or StopAsyncIteration())

    def _work(self) -> None:
        source, own = self._source, None
        try:
            entries = iter(source)
            own = entries if entries is not source else None
            alone = _find_lock(entries)
            ahead = 0
            while not self._closed:
                if len(self._read) >= len(self._waiters) + ahead:
                    self._woken.get()
                    continue
                began = perf_counter()
                with alone:
                    entry = next(entries)
                ahead = self._ahead if perf_counter() - began < QUICK else 0
                self._read.append(entry)
                self._tell()
        except StopIteration:
            pass
        except BaseException as error:  # noqa: BLE001  raised again where the entry is waited for
            if type(error).__module__ == "sqlite3" and "thread" in str(error):
                error.add_note(_BOUND)
            if not self._closed:
                self._error = error
        finally:
            close: Callable[[], object] | None = getattr(own, "close", None)
            try:
                if close is not None:
                    close()
            finally:
                self._ended = True
                self._tell()

    def _tell(self) -> None:
        if not self._is_told:
            self._is_told = True
            try:
                self._loop.call_soon_threadsafe(self._deliver)
            except RuntimeError:  # the loop is closed
                self._closed = True


_BOUND = (
    "An iterator is read in a thread of its own. Connect with check_same_thread=False, open the connection inside the generator, "
    "or pass a list."
)
_locks: weakref.WeakKeyDictionary[Generator[Any, Any, Any], threading.Lock] = weakref.WeakKeyDictionary()


def _find_lock(entries: object) -> AbstractContextManager[object]:
    """What lets one thread at a time into a generator, which several may read."""
    return _locks.setdefault(entries, threading.Lock()) if isinstance(entries, Generator) else nullcontext()
