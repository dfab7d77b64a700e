"""Makes connected sockets: resolves names, and connects to the first address that answers.

It decides the order of addresses (families take turns, the next one starts after 250 ms or a failure) and sets
keep-alive, since NATs and balancers drop silent connections after 60 to 350 s. It knows neither TLS nor HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import sys
import time
from typing import TYPE_CHECKING, TypeAlias

import anyio
import anyio.to_thread

from videorouter.http import WireError, WireFailure, name_host
from videorouter.loops import resolve_future, start_task
from videorouter.transport.causes import explain, name_connect_failure
from videorouter.transport.live_guard import check_host
from videorouter.transport.target import find_target

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Address: TypeAlias = tuple[int, tuple[str, int] | tuple[str, int, int, int]]
"""A socket family and what ``socket.connect`` takes."""

_ATTEMPT_DELAY = 0.25
_NAME_LIFETIME = 15.0
_MOST_NAMES = 256
_KEEPALIVE_IDLE, _KEEPALIVE_INTERVAL, _KEEPALIVE_COUNT = 30, 10, 3

_OPTIONS: list[tuple[int, int, int]] = [
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
]
if sys.platform == "darwin":  # pragma: no cover
    _OPTIONS.append((socket.IPPROTO_TCP, 0x10, _KEEPALIVE_IDLE))
else:
    _OPTIONS.append((socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_IDLE))
_OPTIONS += [
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_INTERVAL),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _KEEPALIVE_COUNT),
]


def parse_literal(host: str, port: int) -> Address | None:
    """Return the address of an IP literal, ``None`` for a name."""
    with contextlib.suppress(OSError, ValueError):
        socket.inet_pton(socket.AF_INET, host)
        return socket.AF_INET, (host, port)
    if ":" in host:
        name, _, zone = host.partition("%")
        with contextlib.suppress(OSError, ValueError):
            socket.inet_pton(socket.AF_INET6, name)
            return socket.AF_INET6, (name, port, 0, _find_zone(zone))
    return None


def _find_zone(zone: str) -> int:
    if not zone:
        return 0
    return int(zone) if zone.isdigit() else socket.if_nametoindex(zone)


class Resolver:
    """Looks names up for one loop: one look-up at a time for a name, kept for 15 s."""

    __slots__ = ("_known", "_running")

    def __init__(self) -> None:
        self._known: dict[tuple[str, int], tuple[float, tuple[Address, ...]]] = {}
        self._running: dict[tuple[str, int], asyncio.Future[tuple[Address, ...]]] = {}

    async def resolve(self, host: str, port: int) -> tuple[Address, ...]:
        """Return the addresses of a host, in the order to try them."""
        literal = parse_literal(host, port)
        if literal is not None:
            return (literal,)
        loop = asyncio.get_running_loop()
        key = (host, port)
        known = self._known.get(key)
        if known is not None and known[0] > loop.time():
            return known[1]
        running = self._running.get(key)
        if running is None:
            try:
                running = loop.run_in_executor(None, look_up, host, port)
            except RuntimeError as error:
                raise _refuse_thread(error) from error
            self._running[key] = running
            running.add_done_callback(lambda done: self._keep(key, done, loop.time()))
        return await asyncio.shield(running)

    def invalidate(self, host: str, port: int) -> None:
        """Drop a name, none of whose addresses answered, so that it is looked up again."""
        self._known.pop((host, port), None)

    def _keep(self, key: tuple[str, int], done: asyncio.Future[tuple[Address, ...]], now: float) -> None:
        del self._running[key]
        if done.cancelled() or done.exception() is not None:
            return
        if len(self._known) >= _MOST_NAMES:
            self._known.clear()
        self._known[key] = (now + _NAME_LIFETIME, done.result())


def look_up(host: str, port: int) -> tuple[Address, ...]:
    """Ask the system for a name's addresses, in the order to try them. It blocks."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = dict.fromkeys((int(family), address) for family, _, _, _, address in found)
    return interleave(addresses)  # type: ignore[arg-type]  # only AF_INET and AF_INET6 come back


def _refuse_thread(error: RuntimeError) -> OSError:
    """The system's own error for a thread that it does not give. The look-up may take seconds: it cannot run in the loop."""
    return OSError(errno.EAGAIN, str(error))


async def resolve_name(url: str, *, deadline: float) -> tuple[str, ...]:
    """Return all addresses of the URL's host, in the order to try them: IP literals, without scope ids."""
    host = name_host(url)
    check_host(host)
    addresses: tuple[Address, ...] | None = None
    try:
        target = find_target(url)
        with anyio.move_on_after(deadline - time.monotonic()):
            addresses = await anyio.to_thread.run_sync(look_up, target.host, target.port, abandon_on_cancel=True)
    except RuntimeError as error:
        raise explain(WireFailure.OUT_OF_THREADS, host, error) from error
    except (OSError, UnicodeError) as error:
        raise explain(name_connect_failure(error), host, error) from error
    except WireError as error:
        raise explain(WireFailure.NAME_MISSING, host, error) from error
    if addresses is None:
        raise explain(WireFailure.NAME_TEMPORARY, host)
    return tuple(dict.fromkeys(address[0].partition("%")[0] for _, address in addresses))


def interleave(addresses: Iterable[Address]) -> tuple[Address, ...]:
    """Alternate the families, beginning with the one that the system prefers (RFC 8305)."""
    families: dict[int, list[Address]] = {}
    for address in addresses:
        families.setdefault(address[0], []).append(address)
    turns: list[Address] = []
    queues = list(families.values())
    while any(queues):
        turns.extend(queue.pop(0) for queue in queues if queue)
    return tuple(turns)


async def connect(addresses: Sequence[Address]) -> socket.socket:
    """Connect to the first address that answers. If none does: the first one's error, the others in its context."""
    if len(addresses) == 1:
        return await _connect_one(addresses[0])
    return await _race(addresses)


async def _race(addresses: Sequence[Address]) -> socket.socket:
    waiting = list(addresses)
    running: set[asyncio.Task[socket.socket]] = set()
    errors: list[OSError] = []
    winner: socket.socket | None = None
    try:
        while winner is None and (waiting or running):
            if waiting:
                running.add(start_task(_connect_one(waiting.pop(0))))
            done, running = await asyncio.wait(
                running, timeout=_ATTEMPT_DELAY if waiting else None, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                winner = _take_result(task, winner, errors)
    finally:
        for task in running:
            task.cancel()
            task.add_done_callback(_close_loser)
    if winner is None:
        raise errors[0] from (ExceptionGroup("every address failed", errors[1:]) if errors[1:] else None)
    return winner


def _take_result(
    task: asyncio.Task[socket.socket], winner: socket.socket | None, errors: list[OSError]
) -> socket.socket | None:
    try:
        sock = task.result()
    except OSError as error:
        errors.append(error)
        return winner
    if winner is not None:
        sock.close()
        return winner
    return sock


def _close_loser(task: asyncio.Task[socket.socket]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().close()


async def _connect_one(address: Address) -> socket.socket:
    family, target = address
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        for option in _OPTIONS:
            sock.setsockopt(*option)
        code = sock.connect_ex(target)
        if code in (errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EINTR):
            await _wait_writable(sock)
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if not code and sock.getsockname() == sock.getpeername():
            # A port that nobody listens on, out of the ephemeral range, can meet itself.
            code = errno.ECONNREFUSED
        _raise_code(code, target)
    except BaseException:
        sock.close()
        raise
    return sock


def _raise_code(code: int, target: tuple[str, int] | tuple[str, int, int, int]) -> None:
    if code:
        raise OSError(code, f"{os.strerror(code)} ({target[0]}:{target[1]})")


async def _wait_writable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    number = sock.fileno()
    loop.add_writer(number, resolve_future, ready)
    try:
        await ready
    finally:
        loop.remove_writer(number)
