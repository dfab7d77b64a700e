"""Idle connections by origin, one pool for each event loop; nothing here is ever scanned.

It decides how long a connection may be idle, and how many may be opened at once. A pool belongs to one loop of one
process: it is dropped with its loop, and a forked child never touches its parent's sockets.
"""

from __future__ import annotations

import asyncio
import contextlib
import weakref

import anyio

from videorouter.forks import after_fork
from videorouter.loops import PerLoop, running_loop
from videorouter.transport.connection import READ_IDLE, OriginPool
from videorouter.transport.dialing import Resolver

CONNECTS_AT_ONCE = 96


class LoopPool:
    """The resources of one event loop: connections by origin, resolved names, and places for connects."""

    def __init__(self) -> None:
        # Not asyncio's own: that one holds its loop, which would then never be dropped.
        self.connects: anyio.Semaphore = anyio.Semaphore(CONNECTS_AT_ONCE, fast_acquire=True)
        self.resolver: Resolver = Resolver()
        self._loop: weakref.ref[asyncio.AbstractEventLoop] = weakref.ref(asyncio.get_running_loop())
        self._origins: dict[object, OriginPool] = {}
        self._sweeping = False
        self._sweeper: weakref.ref[asyncio.TimerHandle] | None = None

    def find_origin(self, key: object) -> OriginPool:
        """Return the connections to one origin."""
        origin = self._origins.get(key)
        if origin is None:
            origin = self._origins[key] = OriginPool(self._loop)
        if not self._sweeping:
            self._sweeping = True
            self._sweep_later(asyncio.get_running_loop())
        return origin

    def _sweep_later(self, loop: asyncio.AbstractEventLoop) -> None:
        handle = loop.call_later(READ_IDLE, _sweep, weakref.ref(self))
        # A handle refers to its loop, and a pool must not: else neither would ever be dropped.
        with contextlib.suppress(TypeError):
            self._sweeper = weakref.ref(handle)

    def sweep(self) -> None:
        """Close connections that were idle for too long, and repeat while any are left."""
        for key, origin in list(self._origins.items()):
            if not origin.sweep():
                del self._origins[key]
        self._sweeping = bool(self._origins)
        if self._sweeping:
            self._sweep_later(asyncio.get_running_loop())

    def count(self) -> int:
        """Open connections; from any thread."""
        return sum(origin.count() for origin in self._origins.copy().values())

    def close(self) -> None:
        """Abort what runs and close what is idle, in the pool's own loop."""
        _abort(list(self._origins.values()), self._loop())
        self._origins.clear()
        handle = self._sweeper() if self._sweeper is not None else None
        if handle is not None:
            handle.cancel()
        self._sweeping = False

    def leave_to_parent(self) -> None:
        """Close a forked child's copies of the descriptors, without a word on the wire or to epoll."""
        for origin in self._origins.values():
            origin.loop = _no_loop
            for connection in [*origin.idle, *origin.busy]:
                connection.close_descriptor()
        self._origins.clear()

    def __del__(self) -> None:
        """Abort when the client was forgotten, or its loop is gone."""
        if self._origins:
            _abort(list(self._origins.values()), self._loop(), soon=True)


def _no_loop() -> None:
    """Stand in for a reference to another process's loop."""


def _abort(origins: list[OriginPool], loop: asyncio.AbstractEventLoop | None, *, soon: bool = False) -> None:
    """Abort connections in their loop, soon: the collector may run in the middle of anything."""
    if loop is not None and loop.is_running() and (soon or loop is not running_loop()):
        # Refused by a loop that was closed meanwhile.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(_abort, origins, loop)
            return
    for origin in origins:
        origin.abort()


def _sweep(reference: weakref.ref[LoopPool]) -> None:
    pool = reference()
    if pool is not None:
        pool.sweep()


class Pools(PerLoop[LoopPool]):
    """One pool for each running event loop of this process."""

    def __init__(self) -> None:
        super().__init__(LoopPool)
        self.closed: bool = False
        after_fork(self, Pools._forget_parent)

    def count(self) -> int:
        """Connections that are open in all loops, idle ones included."""
        return sum(pool.count() for _, pool in self.pairs())

    def _forget_parent(self) -> None:
        for _, pool in self.pairs():
            pool.leave_to_parent()
        self.clear()

    def close(self) -> None:
        """Close every pool."""
        self.closed = True
        for _, pool in self.pairs():
            pool.close()
