"""Idle connections by origin, one pool for each event loop; nothing here is ever scanned.

It decides which idle connection may carry a request: the one used last, if it was idle for at most 2 s before a POST
(15 s before a read) and its origin has not closed silently before. A pool belongs to one loop of one process: it is
dropped with its loop, and a forked child never touches its parent's sockets.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import weakref
from collections import deque
from typing import TYPE_CHECKING

from videorouter.http import WireFailure
from videorouter.transport.dialing import Names
from videorouter.transport.gate import Gate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from videorouter.transport.connection import Connection

POST_IDLE = 2.0
READ_IDLE = 15.0
CONNECTS_AT_ONCE = 96


class Origin:
    """The connections to one scheme, host and port: the idle ones, last used on top, and the busy ones."""

    __slots__ = ("__weakref__", "busy", "closes_silently", "idle")

    def __init__(self) -> None:
        self.idle: deque[Connection] = deque()
        self.busy: set[Connection] = set()
        self.closes_silently: bool = False

    def take(self, now: float, longest_idle: float) -> Connection | None:
        """The idle connection used last, if it is young enough, open and silent; it counts as busy from here on."""
        idle = self.idle
        while idle:
            connection = idle[-1]
            if now - connection.idle_since > longest_idle:
                return None
            idle.pop()
            if connection.is_usable():
                connection.reused = True
                self.busy.add(connection)
                return connection
        return None

    def give(self, connection: Connection) -> None:
        """Keep a connection for the next request."""
        self.busy.discard(connection)
        connection.idle_since = asyncio.get_running_loop().time()
        self.idle.append(connection)

    def lose(self, connection: Connection) -> None:
        """Forget a connection that closed; among the idle ones it is passed over when its turn comes."""
        self.busy.discard(connection)

    def note_silent_close(self, connection: Connection) -> None:
        """Remember that this origin closes what it said to keep, within the time in which a POST would use it."""
        if asyncio.get_running_loop().time() - connection.idle_since <= POST_IDLE:
            self.closes_silently = True


class Pool:
    """What one event loop keeps: origins, names and the gate for connects."""

    def __init__(self) -> None:
        self.connects: Gate = Gate(CONNECTS_AT_ONCE)
        self.names: Names = Names()
        self._origins: dict[object, Origin] = {}
        self._sweeping = False
        self._sweeper: weakref.ref[asyncio.TimerHandle] | None = None

    def find_origin(self, key: object) -> Origin:
        """The origin of a key; made when it is new."""
        origin = self._origins.get(key)
        if origin is None:
            origin = self._origins[key] = Origin()
        if not self._sweeping:
            self._sweeping = True
            self._sweep_later(asyncio.get_running_loop())
        return origin

    def _sweep_later(self, loop: asyncio.AbstractEventLoop) -> None:
        handle = loop.call_later(READ_IDLE, _sweep, weakref.ref(self))
        # A handle refers to its loop, and a pool must not: else neither would ever be dropped.
        with contextlib.suppress(TypeError):
            self._sweeper = weakref.ref(handle)

    def sweep(self, now: float) -> bool:
        """Close what was idle for too long; whether anything is left to look after."""
        for key, origin in list(self._origins.items()):
            while origin.idle and now - origin.idle[0].idle_since > READ_IDLE:
                origin.idle.popleft().close()
            if not origin.idle and not origin.busy and not origin.closes_silently:
                del self._origins[key]
        self._sweeping = bool(self._origins)
        return self._sweeping

    def sweep_again(self, loop: asyncio.AbstractEventLoop) -> None:
        """Sweep, and come back while there is something left."""
        if self.sweep(loop.time()):
            self._sweep_later(loop)

    def connections(self) -> Iterator[Connection]:
        """All connections, idle and busy."""
        for origin in self._origins.values():
            yield from origin.idle
            yield from origin.busy

    def close(self) -> None:
        """Abort what runs and close what is idle; in the pool's own loop."""
        for connection in list(self.connections()):
            connection.fail(WireFailure.CLOSED)
        self._origins.clear()
        handle = self._sweeper() if self._sweeper is not None else None
        if handle is not None:
            handle.cancel()
        self._sweeping = False

    def release(self) -> None:
        """Close the descriptors and nothing else: the loop is gone, or belongs to another process."""
        for connection in list(self.connections()):
            connection.release_socket()
        self._origins.clear()

    def __del__(self) -> None:
        """The loop is gone: nothing listens any more, only the sockets are left to close."""
        self.release()


def _sweep(reference: weakref.ref[Pool]) -> None:
    pool = reference()
    if pool is not None:
        pool.sweep_again(asyncio.get_running_loop())


class Pools:
    """One ``Pool`` for each running event loop of this process."""

    def __init__(self) -> None:
        self.closed: bool = False
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._by_loop: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Pool] = weakref.WeakKeyDictionary()
        self._last: tuple[weakref.ref[asyncio.AbstractEventLoop], weakref.ref[Pool]] | None = None
        _watch_forks(self)

    def count(self) -> int:
        """Connections that are open in all loops, idle ones included."""
        with self._lock:
            pools = list(self._by_loop.values())
        return sum(1 for pool in pools for _ in pool.connections())

    def here(self, loop: asyncio.AbstractEventLoop) -> Pool:
        """The pool of the running loop."""
        last = self._last
        if last is not None and last[0]() is loop:
            pool = last[1]()
            if pool is not None:
                return pool
        return self._find(loop)

    def _find(self, loop: asyncio.AbstractEventLoop) -> Pool:
        with self._lock:
            pool = self._by_loop.get(loop)
            if pool is None:
                for other in [known for known in self._by_loop if known.is_closed()]:
                    del self._by_loop[other]
                pool = self._by_loop[loop] = Pool()
        self._last = (weakref.ref(loop), weakref.ref(pool))
        return pool

    def forget_parent(self) -> None:
        """In a forked child: close its copies of the descriptors, and say nothing on the wire or to epoll."""
        # The thread that held the lock at the fork does not exist here.
        self._lock = threading.Lock()
        self._last = None
        for pool in self._by_loop.values():
            pool.release()
        self._by_loop = weakref.WeakKeyDictionary()

    def close(self) -> None:
        """Close every pool, each in its own loop."""
        self.closed = True
        here = asyncio._get_running_loop()  # noqa: SLF001 - documented for event loops, and gives None outside one
        with self._lock:
            pools = list(self._by_loop.items())
        for loop, pool in pools:
            if loop is here:
                pool.close()
            elif loop.is_running():
                loop.call_soon_threadsafe(pool.close)
            else:
                pool.release()


_forkable: weakref.WeakSet[Pools] = weakref.WeakSet()
_watching: list[bool] = []


def _watch_forks(pools: Pools) -> None:
    _forkable.add(pools)
    if not _watching and hasattr(os, "register_at_fork"):
        _watching.append(True)
        os.register_at_fork(after_in_child=_forget_parents)


def _forget_parents() -> None:
    for pools in list(_forkable):
        pools.forget_parent()
