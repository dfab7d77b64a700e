"""Blocking work in threads: a cancelled caller waits until its thread has let go of the descriptor, file or lock.

anyio's shield alone does not do that: asyncio's own cancellation passes through it, so the wait is for a future that
refuses to be cancelled. A thread that hangs for ``PATIENCE`` seconds is left behind and keeps its resource:
``ThreadedResource`` lets one thread in at a time and closes last.
"""

from __future__ import annotations

import logging
import threading
from functools import partial
from typing import TYPE_CHECKING, Generic, ParamSpec, Self, TypeVar

import anyio
import anyio.to_thread

from videorouter.logs import report
from videorouter.loops import UncancellableFuture, resolve_future, running_loop

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

P = ParamSpec("P")
T = TypeVar("T")

PATIENCE = 30.0
"""Seconds that a cancelled caller waits for its thread: a disk that takes longer does not answer at all."""


async def run_in_thread(function: Callable[[], T], *, limiter: anyio.CapacityLimiter | None = None) -> T:
    """Run it in a thread; a cancelled caller goes on when the thread is done, or before it has begun."""
    work = _Work(function)
    try:
        return await anyio.to_thread.run_sync(work.run, limiter=limiter)
    except anyio.get_cancelled_exc_class():
        await work.join(insist=False)
        raise


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
    threading.Thread(target=function, name="videorouter-close").start()


class _Work(Generic[T]):
    """One piece of work for a thread: whether it has begun, and the waiter for its end."""

    def __init__(self, function: Callable[[], T]) -> None:
        self._function = function
        self._mutex = threading.Lock()
        self._begun = False
        self._ended = False
        self._waiter: _Ending | None = None

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
