"""The way from sync code to the client: one event loop in one thread of its own, asyncio whatever the caller runs.

A bare portal has four traps; each is cured here. Left open it would keep the interpreter from ending: it is closed when
its owner is forgotten, and at exit. In a forked child its thread does not exist: the child starts one of its own. Ctrl-C
would leave a paid call running: whatever interrupts the waiting thread cancels the call and waits a little for its end.
And the loop is never the caller's own, so a running asyncio or trio loop changes nothing. This file decides nothing about
requests.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from contextvars import copy_context
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from videorouter.errors import ClientClosedError, ConfigurationError
from videorouter.forks import after_fork

CANCEL_TIMEOUT = 2.0
"""Seconds that an interrupted caller waits for its call to end: time to catch a response that is under way."""
CLOSE_TIMEOUT = 5.0
"""Seconds that a close waits for the thread."""

T = TypeVar("T")
Work = Callable[[], Awaitable[T]]


class Closable(Protocol):
    """An object that a portal keeps on its loop."""

    async def aclose(self) -> None:
        """Close what is open."""


C = TypeVar("C", bound=Closable)

_of_parent: list[object] = []
"""Kept for ever in a forked child: collecting the parent's loop or client would close them in the parent, too."""


class BlockingCall(Generic[T]):
    """One call into the loop for whose ``result`` a thread waits, and which that thread can cancel."""

    def __init__(self, work: Work[T]) -> None:
        self._work = work
        self._task: asyncio.Task[Any] | None = None
        self._cancelled = False
        self.result: Future[T] = Future()

    async def run(self) -> None:
        """Do the work in the current task and set the result."""
        if self._is_cancelled():
            self.result.cancel()
            return
        self._task = task = asyncio.current_task()
        try:
            value = await self._work()
        except asyncio.CancelledError:
            self.result.cancel()
            if not self._is_cancelled():
                raise
        except BaseException as error:  # noqa: BLE001  it is raised again in the thread that waits
            self.result.set_exception(error)
        else:
            self.result.set_result(value)
        finally:
            if self._is_cancelled() and task is not None:
                task.uncancel()

    def cancel(self) -> None:
        """Cancel the work, begun or not. On the loop's thread only."""
        if self.result.done():
            return
        self._cancelled = True
        if self._task is not None:
            self._task.cancel()

    def _is_cancelled(self) -> bool:
        return self._cancelled


class PortalTask:
    """One task on the loop that does a caller's calls one after another.

    Generators and context managers must be entered, moved and left by the same task: theirs is this one.
    """

    def __init__(self, thread: _LoopThread) -> None:
        self._thread = thread
        self._calls: asyncio.Queue[BlockingCall[Any] | None] = asyncio.Queue()
        self._closed = False
        thread.schedule(thread.spawn, self.serve)

    def call(self, work: Work[T]) -> T:
        """Do ``work`` in this task and wait for its result."""
        return self._thread.wait_for(BlockingCall(work), self._calls.put_nowait)

    def close(self, last: Work[object] | None = None) -> None:
        """Do ``last``, then let the task end. Idempotent, and safe where a garbage collector calls it."""
        if self._closed:
            return
        self._closed = True
        try:
            if last is not None and not self._thread.of_parent:
                call = BlockingCall(last)
                if threading.current_thread() is self._thread.thread:
                    self._thread.schedule(self._calls.put_nowait, call)
                else:
                    self._thread.wait_for(call, self._calls.put_nowait)
        finally:
            self._thread.schedule(self._calls.put_nowait, None)

    async def serve(self) -> None:
        """Do calls until closed."""
        while (call := await self._calls.get()) is not None:
            await call.run()


class SharedLoop:
    """The loop that some portals share: its thread is started by the first call, and started again in a forked child."""

    def __init__(self) -> None:
        self.mutex: threading.RLock = threading.RLock()
        self._thread: _LoopThread | None = None
        self._closed = False
        after_fork(self, SharedLoop._forget_parent)

    def _forget_parent(self) -> None:
        # A thread of the parent that held it at the fork does not exist here.
        self.mutex = threading.RLock()
        _of_parent.append(self._thread)
        self._thread = None

    def start(self, closing: Work[None]) -> _LoopThread:
        """The thread of this process; ``closing`` is awaited on its loop before it ends."""
        if self._closed:
            msg = "This client is closed. Make a new one, or keep it open with `with` around its use."
            raise ClientClosedError(msg)
        thread = self._thread
        if thread is None:
            with self.mutex:
                thread = self._thread
                if thread is None:
                    thread = self._thread = _LoopThread(closing)
                    weakref.finalize(self, thread.stop_forgotten)
        if thread.thread is threading.current_thread():
            msg = (
                "A sync call from a hook or callback of the same client would wait for itself. Call it from another "
                "thread, or use AsyncVideoRouter."
            )
            raise ConfigurationError(msg)
        return thread

    def clean_up(self, work: Work[object]) -> None:
        """Do the last ``work`` on a loop that runs, waiting for it except on the loop's own thread."""
        thread = self._thread
        if thread is None:
            return
        if thread.thread is threading.current_thread():
            thread.schedule(thread.spawn_call, BlockingCall(work))
        else:
            thread.wait_for(BlockingCall(work), thread.spawn_call)

    def close(self, closing: Work[None]) -> None:
        """Await ``closing``, end the loop, and wait for its thread. Idempotent."""
        if not self._closed:
            thread = self.start(closing)
            self._closed = True
            thread.stop(wait=True)


class Portal(Generic[C]):
    """A client on a loop that is not the caller's.

    Args:
        make: Makes the client; called once in each process that uses the portal. A forked child gets its own: the
            parent's holds sockets and slots of the parent.
        loop: The loop to share; default: one of its own.
    """

    def __init__(self, make: Callable[[], C], *, loop: SharedLoop | None = None) -> None:
        self._make = make
        self._loop = loop or SharedLoop()
        self._client: C | None = make()
        after_fork(self, Portal._forget_parent)

    def _forget_parent(self) -> None:
        _of_parent.append(self._client)
        self._client = None

    @property
    def client(self) -> C:
        """This process's client."""
        client = self._client
        if client is None:
            with self._loop.mutex:
                client = self._client
                if client is None:
                    client = self._client = self._make()
        return client

    def derive(self, change: Callable[[C], C]) -> Portal[C]:
        """Another client, made from this one, on the same loop."""
        return Portal(lambda: change(self.client), loop=self._loop)

    def call(self, work: Callable[[C], Awaitable[T]], *, keep: Callable[[C, T], Work[None]] | None = None) -> T:
        """Do ``work`` with the client on the loop, and wait for its result.

        ``keep`` takes a result that came and could not be handed over, since Ctrl-C was quicker: in any thread, and what
        it gives is done on the loop.

        Raises:
            ClientClosedError: The portal is closed, or was closed meanwhile.
            ConfigurationError: The caller is the loop's own thread, where waiting would never end.
        """
        client = self.client
        thread = self._loop.start(client.aclose)
        call = BlockingCall(lambda: work(client))
        try:
            return thread.wait_for(call, thread.spawn_call)
        except BaseException:
            if keep is not None:
                call.result.add_done_callback(partial(_keep_undelivered, thread, partial(keep, client)))
            raise

    def clean_up(self, work: Callable[[C], Awaitable[object]]) -> None:
        """Do the last ``work`` of something; nothing where the client is closed already.

        Where the loop's own thread collects garbage it is begun and not waited for.
        """
        with suppress(ClientClosedError):
            client = self.client
            self._loop.clean_up(lambda: work(client))

    def open_task(self) -> PortalTask:
        """Start a task that does several calls one after another."""
        return PortalTask(self._loop.start(self.client.aclose))

    @contextmanager
    def wrap_context_manager(
        self, make: Callable[[C], AbstractAsyncContextManager[AsyncIterator[T]]]
    ) -> Iterator[Iterator[T]]:
        """A plain context manager around an async one that gives an iterator; a plain iterator over its items."""
        manager = make(self.client)
        task = self.open_task()
        try:
            items = task.call(manager.__aenter__)
            try:
                yield _iterate(task, items)
            except BaseException as error:
                if not task.call(partial(manager.__aexit__, type(error), error, error.__traceback__)):
                    raise
            else:
                task.call(partial(manager.__aexit__, None, None, None))
        finally:
            task.close()

    def close(self) -> None:
        """Close the client, end the loop, and wait for its thread. Idempotent."""
        self._loop.close(self.client.aclose)


def _keep_undelivered(thread: _LoopThread, keep: Callable[[T], Work[None]], result: Future[T]) -> None:
    if not result.cancelled() and result.exception() is None:
        thread.schedule(thread.spawn, keep(result.result()))


def _iterate(task: PortalTask, items: AsyncIterator[T]) -> Iterator[T]:
    while True:
        try:
            yield task.call(items.__anext__)
        except StopAsyncIteration:
            return


class _LoopThread:
    """A loop that runs in a thread of its own, in one process."""

    def __init__(self, closing: Work[None]) -> None:
        self.of_parent: bool = False
        """Whether this process is a fork of the one that started the thread."""
        self._closing = closing
        self._waited_for: set[BlockingCall[Any]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        ready: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        self.thread: threading.Thread = threading.Thread(
            target=self._run, args=(ready,), name="videorouter-portal", daemon=True
        )
        after_fork(self, _LoopThread._leave_to_parent)
        try:
            self.thread.start()
            self._loop, self._stop = ready.result()
        except (RuntimeError, OSError, MemoryError) as error:
            msg = (
                f"The thread and the event loop of sync calls could not be started ({str(error) or 'out of memory'}). Nothing was sent. The "
                "interpreter is ending, or this process has no thread, file descriptor or memory left."
            )
            raise ConfigurationError(msg) from error

    def _leave_to_parent(self) -> None:
        self.of_parent = True

    def schedule(self, function: Callable[..., object], *args: object) -> bool:
        """Run a function on the loop soon, without waiting; false when there is no such loop any more."""
        if self.of_parent:
            return False
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:
            return False
        return True

    def spawn(self, run: Callable[[], Any]) -> None:
        """Start a task. On the loop's thread only."""
        task = self._loop.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def spawn_call(self, call: BlockingCall[Any]) -> None:
        """Start a task for one call. On the loop's thread only."""
        self.spawn(call.run)

    def wait_for(self, call: BlockingCall[T], begin: Callable[[BlockingCall[T]], object]) -> T:
        """Begin a call and wait for its result; whatever interrupts the waiting cancels the call."""
        self._waited_for.add(call)
        try:
            if not self.schedule(copy_context().run, begin, call):
                call.result.cancel()
            return call.result.result()
        except BaseException as error:
            if not call.result.done() and self.schedule(call.cancel):
                # Not futures.wait(): a future that is cancelled does not wake it.
                with suppress(TimeoutError, CancelledError):
                    call.result.exception(CANCEL_TIMEOUT)
            if isinstance(error, CancelledError):
                msg = "The client was closed while this call ran. What may have been billed is in client.in_doubt."
                raise ClientClosedError(msg) from error
            raise
        finally:
            self._waited_for.discard(call)

    def stop(self, *, wait: bool) -> None:
        """End the loop."""
        if self.schedule(self._stop.set) and wait and threading.current_thread() is not self.thread:
            self.thread.join(CLOSE_TIMEOUT)

    def stop_forgotten(self) -> None:
        """End the loop of an owner that is gone; wait for it only where the interpreter is ending."""
        # A finalizer runs wherever the collector does, under any lock: waiting there could wait for itself.
        self.stop(wait=not threading.main_thread().is_alive())

    def _run(self, ready: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]]) -> None:
        try:
            with asyncio.Runner() as runner:
                runner.run(self._serve(ready))
        except BaseException as error:  # noqa: BLE001  the thread that waits raises it
            if not ready.done():
                ready.set_exception(error)
        finally:
            for call in tuple(self._waited_for):
                call.result.cancel()

    async def _serve(self, ready: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]]) -> None:
        stop = asyncio.Event()
        ready.set_result((asyncio.get_running_loop(), stop))
        await stop.wait()
        with suppress(TimeoutError):
            async with asyncio.timeout(CANCEL_TIMEOUT):
                await self._closing()
