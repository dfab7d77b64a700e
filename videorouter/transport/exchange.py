"""One request on a connection of our own, from the pool to the answer: the walk that ``QUEUED`` to ``COMPLETE`` names.

Read it from top to bottom: ``Exchanger.exchange`` takes an idle connection or dials one, writes head and body at once,
waits for one future, and closes whatever did not end with a whole answer. It never sends anything twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import anyio

from videorouter.errors import Phase
from videorouter.http import WireError, WireFailure
from videorouter.transport.causes import explain, name_connect_failure
from videorouter.transport.connection import Connection
from videorouter.transport.dialing import connect, parse_literal, take_turns
from videorouter.transport.live_guard import check_host
from videorouter.transport.pool import POST_IDLE, READ_IDLE, Pools
from videorouter.transport.target import find_target, write_head
from videorouter.transport.tls import TlsConnection, share_context

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator

    from videorouter.http import Attempt, Header, Request, Response
    from videorouter.transport.gate import Gate
    from videorouter.transport.pool import Origin, Pool
    from videorouter.transport.target import Target

LINGER = 1.0
_UNSAFE = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_MOST_BYTES = 1 << 62
_LONG = 86_400.0
_FAIR_SHARE = 8
_TURN_BYTES = 2 * 2**20


class Exchanger:
    """Carries requests over connections of our own.

    Args:
        ssl_context: Decides about trust; ``None`` is the process's shared one.
        connect_timeout: Seconds for name, TCP and TLS together, counted from when the connect really starts.
    """

    def __init__(self, *, ssl_context: ssl.SSLContext | None = None, connect_timeout: float = 10.0) -> None:
        self.pools: Pools = Pools()
        self._ssl_context = ssl_context
        self._connect_timeout = connect_timeout

    async def exchange(self, request: Request, attempt: Attempt, *, deadline: float, max_body: int) -> Response:
        """Send once and read the whole answer; see ``Sender.send``."""
        loop = asyncio.get_running_loop()
        target = find_target(request.url)
        attempt.host = target.label
        body = request.body
        method = request.method
        unsafe = method in _UNSAFE
        if body is None and unsafe:
            body = b""
        sealed = _Sealed(method, target, request.headers, body)
        now = loop.time()
        ends = now + (deadline - time.monotonic())
        pool = self._find_pool(loop, target)
        origin = pool.find_origin(target.key)
        connection: Connection | None = None
        if not (unsafe and origin.closes_silently):
            connection = origin.take(now, POST_IDLE if unsafe else READ_IDLE)
        if connection is None:
            connection = await self._dial(pool, origin, target, attempt, deadline=ends)
        future = connection.start(
            sealed.payload,
            attempt,
            deadline=ends,
            max_body=max_body,
            head_only=method == "HEAD",
        )
        try:
            return await future
        except asyncio.CancelledError:
            if unsafe and connection.future is future:
                await _linger(connection)
            raise
        finally:
            if connection.attempt is attempt and attempt.phase is not Phase.COMPLETE:
                connection.abandon()

    async def open(
        self,
        request: Request,
        attempt: Attempt,
        *,
        deadline: float,
        stall: float,
        addresses: tuple[str, ...] = (),
        head_within: float = _LONG,
    ) -> BodyStream:
        """Send once and return as soon as the head is in; see ``Sender.stream``.

        ``head_within`` bounds the seconds until then, where that is less than the whole transfer's deadline.
        """
        loop = asyncio.get_running_loop()
        target = find_target(request.url)
        attempt.host = target.label
        sealed = _Sealed(request.method, target, request.headers, request.body)
        now = loop.time()
        ends = now + (deadline - time.monotonic())
        pool = self._find_pool(loop, target)
        origin = pool.find_origin(target.key)
        connection = origin.take(now, READ_IDLE)
        if connection is not None and addresses and connection.peer not in addresses:
            connection.close()
            connection = None
        if connection is None:
            connection = await self._dial(pool, origin, target, attempt, deadline=ends, addresses=addresses)
        future = connection.start(
            sealed.payload,
            attempt,
            deadline=min(ends, now + head_within),
            max_body=_MOST_BYTES,
            head_only=request.method == "HEAD",
            streaming=True,
        )
        try:
            head = await future
        except BaseException:
            connection.abandon()
            raise
        return BodyStream(connection, head, deadline=ends, stall=stall)

    def _find_pool(self, loop: asyncio.AbstractEventLoop, target: Target) -> Pool:
        if self.pools.closed:
            raise explain(WireFailure.CLOSED, target.label)
        return self.pools.here(loop)

    async def _dial(
        self,
        pool: Pool,
        origin: Origin,
        target: Target,
        attempt: Attempt,
        *,
        deadline: float,
        addresses: tuple[str, ...] = (),
    ) -> Connection:
        """Make a connection; at most a few dozen at once, since thousands would time each other out."""
        check_host(target.host)
        loop = asyncio.get_running_loop()
        gate = pool.connects
        await _enter(gate, deadline, target)
        try:
            attempt.phase = Phase.CONNECTING
            ends = min(deadline, loop.time() + self._connect_timeout)
            try:
                async with asyncio.timeout_at(ends):
                    return await self._connect(pool, origin, target, addresses)
            except TimeoutError as error:
                failure = WireFailure.DEADLINE if ends >= deadline else WireFailure.CONNECT_TIMEOUT
                raise explain(failure, target.label, error) from error
            except (OSError, UnicodeError) as error:
                pool.names.forget(target.host, target.port)
                raise explain(name_connect_failure(error), target.label, error) from error
        finally:
            gate.leave()

    async def _connect(self, pool: Pool, origin: Origin, target: Target, addresses: tuple[str, ...]) -> Connection:
        if addresses:
            literals = (parse_literal(address, target.port) for address in addresses)
            places = take_turns(literal for literal in literals if literal is not None)
        else:
            places = await pool.names.find(target.host, target.port)
        context = await self._find_context() if target.secure else None
        sock = await connect(places)
        peer = sock.getpeername()[0]
        if context is None:
            connection = Connection(sock, origin, peer)
        else:
            connection = await _secure(sock, origin, peer, context, target.host)
        if self.pools.closed:
            connection.close()
            raise explain(WireFailure.CLOSED, target.label)
        origin.busy.add(connection)
        asyncio.get_running_loop().add_reader(connection.fd, connection.on_readable)
        return connection

    async def _find_context(self) -> ssl.SSLContext:
        if self._ssl_context is not None:
            return self._ssl_context
        return await share_context()


class _Sealed:
    """Head and body in one piece, checked before a connection is taken, and shown by no traceback: the key is in it."""

    __slots__ = ("payload",)

    def __init__(self, method: str, target: Target, headers: tuple[Header, ...], body: bytes | None) -> None:
        head = write_head(method, target, headers, body)
        self.payload: bytes = head + body if body else head


async def _enter(gate: Gate, deadline: float, target: Target) -> None:
    if gate.free > 0:
        await gate.enter()
        return
    try:
        async with asyncio.timeout_at(deadline):
            await gate.enter()
    except TimeoutError as error:
        raise explain(WireFailure.DEADLINE, target.label) from error


async def _secure(sock: object, origin: Origin, peer: str, context: ssl.SSLContext, hostname: str) -> Connection:
    connection = TlsConnection(sock, origin, peer, context=context, hostname=hostname)  # type: ignore[arg-type]
    try:
        await connection.shake_hands()
    except BaseException:
        connection.close()
        raise
    return connection


async def _linger(connection: Connection) -> None:
    """Cancelled while an answer may be on its way: listen for a second more, so that a paid task's id is caught."""
    with anyio.CancelScope(shield=True), contextlib.suppress(WireError):
        await connection.listen_again(LINGER)


class _Turn:
    """What all bodies of a loop have read in its present turn: many at once must not hold up everything else."""

    __slots__ = ("_armed", "spent")

    def __init__(self) -> None:
        self.spent = 0
        self._armed = False

    def note(self, size: int) -> None:
        self.spent += size
        if not self._armed:
            self._armed = True
            asyncio.get_running_loop().call_soon(self._begin)

    def _begin(self) -> None:
        self.spent = 0
        self._armed = False


_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, _Turn] = WeakKeyDictionary()


class BodyStream:
    """The ``IncomingStream`` over a connection of our own.

    Args:
        connection: Carries the body; its head is in.
        head: Status and header fields.
        deadline: The loop's time at which the transfer ends with ``WireFailure.DEADLINE``.
        stall: Seconds without a byte after which it ends with ``WireFailure.STALLED``.
    """

    def __init__(self, connection: Connection, head: Response, *, deadline: float, stall: float) -> None:
        self.status: int = head.status
        self.headers: tuple[Header, ...] = head.headers
        self._connection = connection
        self._deadline = deadline
        self._stall = stall
        self._over = False

    async def chunks(self) -> AsyncIterator[bytes]:
        """The pieces of the body as they arrive; see ``IncomingStream.chunks``."""
        connection = self._connection
        loop = asyncio.get_running_loop()
        given = 0
        turn = _turns.setdefault(loop, _Turn())
        try:
            while True:
                while turn.spent >= _TURN_BYTES:  # noqa: ASYNC110 - the next turn is what is waited for
                    await asyncio.sleep(0)
                piece = connection.pull()
                if piece is None:
                    await self._wait(connection, self._deadline - loop.time())
                elif piece:
                    turn.note(len(piece))
                    yield piece
                    given += 1
                    if not given % _FAIR_SHARE:
                        # A fast server never lets the socket run dry; others want their turn all the same.
                        await asyncio.sleep(0)
                        if loop.time() >= self._deadline:
                            raise explain(WireFailure.DEADLINE, connection.attempt.host)
                else:
                    break
            connection.finish_stream()
            self._over = True
        finally:
            if not self._over:
                await self.aclose()

    async def _wait(self, connection: Connection, left: float) -> None:
        if left <= 0 or not await connection.wait_readable(min(left, self._stall)):
            failure = WireFailure.DEADLINE if left <= self._stall else WireFailure.STALLED
            raise explain(failure, connection.attempt.host)

    async def aclose(self) -> None:
        """Give the connection back when the body is complete, else abort it. Idempotent."""
        if not self._over:
            self._over = True
            self._connection.close()
