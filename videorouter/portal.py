"""The thread bridge for sync callers: one event loop in one thread of its own, asyncio whatever the caller runs.

A bare bridge has four traps; each is cured here. Left open it would keep the interpreter from ending: it is closed
when its owner is forgotten, and at exit. In a forked child its thread does not exist: the process id is remembered
and the child starts a fresh one. Ctrl-C would leave a paid call running: whatever interrupts the waiting thread
cancels the work and waits for its last words. And the loop is never the caller's own, so a running asyncio or trio
loop changes nothing. This file decides nothing about requests.
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from contextvars import copy_context
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from videorouter.errors import ClientClosedError, ConfigurationError

LAST_WORDS = 2.0
"""Seconds that an interrupted caller waits for its work to end: time to catch an answer that is under way."""
CLOSING = 5.0
"""Seconds that a close waits for the thread."""

T = TypeVar("T")
Work = Callable[[], Awaitable[T]]


class Closable(Protocol):
    """What a portal holds on its loop."""

    async def aclose(self) -> None:
        """Close what is open."""


C = TypeVar("C", bound=Closable)


class Errand(Generic[T]):
    """One piece of work that a thread waits for, and that it can drop."""

    def __init__(self, work: Work[T]) -> None:
        self._work = work
        self._task: asyncio.Task[Any] | None = None
        self._dropped = False
        self.outcome: Future[T] = Future()

    async def run(self) -> None:
        """Do the work in the current task and settle ``outcome``."""
        if self._is_dropped():
            self.outcome.cancel()
            return
        self._task = task = asyncio.current_task()
        try:
            value = await self._work()
        except asyncio.CancelledError:
            self.outcome.cancel()
            if not self._is_dropped():
                raise
        except BaseException as error:  # noqa: BLE001  it is raised again in the thread that waits
            self.outcome.set_exception(error)
        else:
            self.outcome.set_result(value)
        finally:
            if self._is_dropped() and task is not None:
                task.uncancel()

    def drop(self) -> None:
        """Cancel the work, begun or not. On the loop's thread only."""
        if self.outcome.done():
            return
        self._dropped = True
        if self._task is not None:
            self._task.cancel()

    def _is_dropped(self) -> bool:
        return self._dropped


class Session:
    """One task on the loop that does a caller's errands one after another.

    Generators and context managers must be entered, moved and left by the same task: theirs is this one.
    """

    def __init__(self, running: _Running) -> None:
        self._running = running
        self._errands: asyncio.Queue[Errand[Any] | None] = asyncio.Queue()
        self._closed = False
        running.schedule(running.spawn, self.serve)

    def call(self, work: Work[T]) -> T:
        """Do ``work`` in this session's task and wait for its outcome."""
        return self._running.wait_for(Errand(work), self._errands.put_nowait)

    def close(self, last: Work[object] | None = None) -> None:
        """Do ``last``, then let the task end. Idempotent, and safe where a garbage collector calls it."""
        if self._closed:
            return
        self._closed = True
        on_loop = threading.current_thread() is self._running.thread
        try:
            if last is not None and self._running.mine:
                errand = Errand(last)
                if on_loop:
                    self._running.schedule(self._errands.put_nowait, errand)
                else:
                    self._running.wait_for(errand, self._errands.put_nowait)
        finally:
            self._running.schedule(self._errands.put_nowait, None)

    async def serve(self) -> None:
        """Do errands until closed."""
        while (errand := await self._errands.get()) is not None:
            await errand.run()


class Bridge:
    """The thread that some portals share: started by the first call, started again in a forked child."""

    def __init__(self) -> None:
        self._running: _Running | None = None
        self._closed = False

    def run(self, closing: Work[None]) -> _Running:
        """The loop of this process; ``closing`` is awaited on it before it ends."""
        if self._closed:
            msg = "This client is closed. Make a new one, or keep it open with `with` around its use."
            raise ClientClosedError(msg)
        running = self._running
        if running is None or not running.mine:
            with _own_lock():
                running = self._running
                if running is None or not running.mine:
                    # Never collected here: closing the parent's loop would unhook it in the parent, too.
                    _ORPHANS.append(running)
                    running = self._running = _Running(closing)
                    weakref.finalize(self, running.stop_forgotten)
        if running.thread is threading.current_thread():
            msg = (
                "A sync call from a hook or callback of the same client would wait for itself. Call it from another "
                "thread, or use AsyncVideoRouter."
            )
            raise ConfigurationError(msg)
        return running

    def finish(self, last: Work[object]) -> None:
        """Do ``last`` on a loop that runs, waiting for it except on the loop's own thread."""
        running = self._running
        if running is None or not running.mine:
            return
        if running.thread is threading.current_thread():
            running.schedule(running.spawn_errand, Errand(last))
        else:
            running.wait_for(Errand(last), running.spawn_errand)

    def close(self, closing: Work[None]) -> None:
        """Await ``closing``, end the loop, and wait for its thread. Idempotent."""
        if not self._closed:
            running = self.run(closing)
            self._closed = True
            running.stop(wait=True)


class Portal(Generic[C]):
    """A client on a loop that is not the caller's.

    Args:
        make: Makes the client; called once in each process that uses the portal. A forked child gets its own: the
            parent's holds sockets and slots of the parent.
        bridge: The thread to share; default: one of its own.
    """

    def __init__(self, make: Callable[[], C], *, bridge: Bridge | None = None) -> None:
        self._make = make
        self._bridge = bridge or Bridge()
        self._held = (os.getpid(), make())

    @property
    def client(self) -> C:
        """This process's client."""
        pid, client = self._held
        if pid != os.getpid():
            with _own_lock():
                pid, client = self._held
                if pid != os.getpid():
                    _ORPHANS.append(client)
                    client = self._make()
                    self._held = (os.getpid(), client)
        return client

    def derive(self, change: Callable[[C], C]) -> Portal[C]:
        """Another client, made from this one, on the same thread."""
        return Portal(lambda: change(self.client), bridge=self._bridge)

    def call(self, work: Callable[[C], Awaitable[T]]) -> T:
        """Do ``work`` with the client on the loop, and wait for its outcome.

        Raises:
            ClientClosedError: The portal is closed, or was closed meanwhile.
            ConfigurationError: The caller is the loop's own thread, where waiting would never end.
        """
        client = self.client
        running = self._bridge.run(client.aclose)
        return running.wait_for(Errand(lambda: work(client)), running.spawn_errand)

    def finish(self, work: Callable[[C], Awaitable[object]]) -> None:
        """Do the last ``work`` of something; nothing where the client is closed already.

        Where the loop's own thread collects garbage it is begun and not waited for.
        """
        with suppress(ClientClosedError):
            client = self.client
            self._bridge.finish(lambda: work(client))

    def open_session(self) -> Session:
        """Start a task that does several errands one after another."""
        return Session(self._bridge.run(self.client.aclose))

    @contextmanager
    def hold(self, make: Callable[[C], AbstractAsyncContextManager[AsyncIterator[T]]]) -> Iterator[Iterator[T]]:
        """A plain context manager around an async one that gives an iterator; a plain iterator over its items."""
        manager = make(self.client)
        session = self.open_session()
        try:
            items = session.call(manager.__aenter__)
            try:
                yield _step(session, items)
            except BaseException as error:
                if not session.call(partial(manager.__aexit__, type(error), error, error.__traceback__)):
                    raise
            else:
                session.call(partial(manager.__aexit__, None, None, None))
        finally:
            session.close()

    def close(self) -> None:
        """Close the client, end the loop, and wait for its thread. Idempotent."""
        self._bridge.close(self.client.aclose)


def _step(session: Session, items: AsyncIterator[T]) -> Iterator[T]:
    while True:
        try:
            yield session.call(items.__anext__)
        except StopAsyncIteration:
            return


class _Running:
    """A loop that runs in its thread, in one process."""

    def __init__(self, closing: Work[None]) -> None:
        self._pid = os.getpid()
        self._closing = closing
        self._waited_for: set[Errand[Any]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        ready: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        self.thread: threading.Thread = threading.Thread(
            target=self._live, args=(ready,), name="videorouter-portal", daemon=True
        )
        try:
            self.thread.start()
        except RuntimeError as error:
            msg = f"No thread could be started for sync calls ({error}): the interpreter is ending, or threads ran out."
            raise ConfigurationError(msg) from error
        self._loop, self._stop = ready.result()

    @property
    def mine(self) -> bool:
        """Whether this is the process that started the thread."""
        return self._pid == os.getpid()

    def schedule(self, function: Callable[..., object], *args: object) -> bool:
        """Run a function on the loop soon, without waiting; false when there is no such loop any more."""
        if not self.mine:
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

    def spawn_errand(self, errand: Errand[Any]) -> None:
        """Start a task for one errand. On the loop's thread only."""
        self.spawn(errand.run)

    def wait_for(self, errand: Errand[T], begin: Callable[[Errand[T]], object]) -> T:
        """Begin an errand and wait for its outcome; whatever interrupts the waiting drops the errand."""
        self._waited_for.add(errand)
        try:
            if not self.schedule(copy_context().run, begin, errand):
                errand.outcome.cancel()
            return errand.outcome.result()
        except BaseException as error:
            if not errand.outcome.done() and self.schedule(errand.drop):
                # Not futures.wait(): a future that is cancelled does not wake it.
                with suppress(TimeoutError, CancelledError):
                    errand.outcome.exception(LAST_WORDS)
            if isinstance(error, CancelledError):
                msg = "The client was closed while this call ran. What may have been billed is in client.in_doubt."
                raise ClientClosedError(msg) from error
            raise
        finally:
            self._waited_for.discard(errand)

    def stop(self, *, wait: bool) -> None:
        """End the loop."""
        if self.schedule(self._stop.set) and wait and threading.current_thread() is not self.thread:
            self.thread.join(CLOSING)

    def stop_forgotten(self) -> None:
        """End the loop of an owner that is gone; wait for it only where the interpreter is ending."""
        # A finalizer runs wherever the collector does, under any lock: waiting there could wait for itself.
        self.stop(wait=not threading.main_thread().is_alive())

    def _live(self, ready: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]]) -> None:
        try:
            with asyncio.Runner() as runner:
                runner.run(self._serve(ready))
        except BaseException as error:  # noqa: BLE001  the thread that waits raises it
            if not ready.done():
                ready.set_exception(error)
        finally:
            for errand in tuple(self._waited_for):
                errand.outcome.cancel()

    async def _serve(self, ready: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]]) -> None:
        stop = asyncio.Event()
        ready.set_result((asyncio.get_running_loop(), stop))
        await stop.wait()
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS):
                await self._closing()


_ORPHANS: list[object] = []
_LOCKS: dict[int, threading.RLock] = {}


def _own_lock() -> threading.RLock:
    """The lock of this process: one that the parent held while it forked would never open here."""
    return _LOCKS.setdefault(os.getpid(), threading.RLock())
