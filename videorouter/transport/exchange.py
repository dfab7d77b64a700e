"""One request on a connection of our own, through its phases from ``QUEUED`` to ``COMPLETE``.

Read it from top to bottom: ``Exchanger.exchange`` takes an idle connection or dials one, writes head and body at once,
waits for one future, and closes whatever did not end with a whole response. It never sends anything twice. A body in
pieces (``BodyStream``) is read from the socket on demand only.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from contextlib import aclosing
from typing import TYPE_CHECKING

import anyio

from videorouter.errors import Phase
from videorouter.http import ConnectStep, WireError, WireFailure
from videorouter.loops import PerLoop
from videorouter.transport.causes import explain, name_connect_failure
from videorouter.transport.connection import REST_TIMEOUT, Connection
from videorouter.transport.dialing import connect, interleave, parse_literal
from videorouter.transport.live_guard import check_host
from videorouter.transport.pool import Pools
from videorouter.transport.target import Payload, find_target
from videorouter.transport.tls import HTTP1, TlsConnection, share_context

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import AsyncGenerator, Callable

    from videorouter.http import Attempt, Header, Request, Response
    from videorouter.transport.connection import OriginPool
    from videorouter.transport.pool import LoopPool
    from videorouter.transport.target import RequestTarget

CANCEL_GRACE = 1.0
"""Seconds for which a cancelled POST still listens: a response on its way brings the id of a paid task."""
UNSAFE_METHODS = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_MOST_BYTES = 1 << 62
_DAY = 86_400.0
_PIECES_IN_A_ROW = 8
_BYTES_PER_ITERATION = 2 * 2**20


class Exchanger:
    """Carries requests over connections of our own. ``connect_timeout`` counts from when the connect really starts."""

    def __init__(self, *, ssl_context: ssl.SSLContext | None = None, connect_timeout: float = 10.0) -> None:
        self.pools: Pools = Pools()
        self._ssl_context = ssl_context
        self._connect_timeout = connect_timeout

    async def exchange(self, request: Request, attempt: Attempt, *, deadline: float, max_body: int) -> Response:
        """Send once and read the whole response; see ``Sender.send``."""
        loop = asyncio.get_running_loop()
        target = find_target(request.url)
        attempt.host = target.label
        body = request.body
        method = request.method
        unsafe = method in UNSAFE_METHODS
        if body is None and unsafe:
            body = b""
        payload = Payload(method, target, request.headers, body)
        left = deadline - time.monotonic()
        ends = loop.time() + left
        pool = self._find_pool(target)
        origin = pool.find_origin(target.key)
        connection = origin.acquire(unsafe=unsafe)
        if connection is None:
            connection = await self._dial(pool, origin, target, attempt, deadline=ends)
            left = deadline - time.monotonic()
        if left <= 0:
            raise _come_too_late(connection, target)
        future = connection.start(
            loop,
            payload,
            attempt,
            deadline=ends,
            max_body=max_body,
            head_only=method == "HEAD",
        )
        try:
            response = await future
            if attempt.phase is not Phase.COMPLETE:
                await _spool_body(connection, response, ends)
        except asyncio.CancelledError:
            listening = connection.future is future and not connection.streaming
            if unsafe and listening and not attempt.half_written:
                await _catch_response(connection)
            raise
        else:
            return response
        finally:
            if connection.attempt is attempt and attempt.phase is not Phase.COMPLETE:
                connection.abort()

    async def open(
        self,
        request: Request,
        attempt: Attempt,
        *,
        deadline: float,
        stall: float,
        addresses: tuple[str, ...] = (),
        head_within: float = _DAY,
    ) -> BodyStream:
        """Send once and return as soon as the head is in; see ``Sender.stream``.

        ``head_within`` bounds the seconds until then, where that is less than the whole transfer's deadline.
        """
        loop = asyncio.get_running_loop()
        target = find_target(request.url)
        attempt.host = target.label
        payload = Payload(request.method, target, request.headers, request.body)
        now = loop.time()
        ends = now + (deadline - time.monotonic())
        pool = self._find_pool(target)
        origin = pool.find_origin(target.key)
        connection = origin.acquire(unsafe=request.method in UNSAFE_METHODS)
        if connection is not None and addresses and connection.peer not in addresses:
            connection.close()
            connection = None
        if connection is None:
            connection = await self._dial(pool, origin, target, attempt, deadline=ends, addresses=addresses)
        if time.monotonic() >= deadline:
            raise _come_too_late(connection, target)
        future = connection.start(
            loop,
            payload,
            attempt,
            deadline=min(ends, now + head_within),
            max_body=_MOST_BYTES,
            head_only=request.method == "HEAD",
            streaming=True,
        )
        try:
            head = await future
        except BaseException:
            connection.abort()
            raise
        return BodyStream(connection, head, deadline=ends, stall=stall)

    def _find_pool(self, target: RequestTarget) -> LoopPool:
        if self.pools.closed:
            raise explain(WireFailure.CLOSED, target.label)
        return self.pools.find()

    async def _dial(
        self,
        pool: LoopPool,
        origin: OriginPool,
        target: RequestTarget,
        attempt: Attempt,
        *,
        deadline: float,
        addresses: tuple[str, ...] = (),
    ) -> Connection:
        """Make a connection; at most a few dozen at once, since thousands would time each other out."""
        check_host(target.host)
        ends = deadline
        try:
            async with asyncio.timeout_at(deadline) as limit:
                origin.dialing.add(limit)
                try:
                    async with pool.connects:
                        attempt.phase = Phase.CONNECTING
                        ends = min(deadline, asyncio.get_running_loop().time() + self._connect_timeout)
                        limit.reschedule(ends)
                        return await self._connect(pool, origin, target, attempt, addresses)
                finally:
                    origin.dialing.discard(limit)
        except TimeoutError as error:
            failure = WireFailure.DEADLINE if ends >= deadline else WireFailure.CONNECT_TIMEOUT
            raise explain(WireFailure.CLOSED if self.pools.closed else failure, target.label, error) from error
        except (OSError, UnicodeError) as error:
            pool.resolver.invalidate(target.host, target.port)
            raise explain(name_connect_failure(error), target.label, error) from error

    async def _connect(
        self,
        pool: LoopPool,
        origin: OriginPool,
        target: RequestTarget,
        attempt: Attempt,
        addresses: tuple[str, ...],
    ) -> Connection:
        if addresses:
            literals = (parse_literal(address, target.port) for address in addresses)
            places = interleave(literal for literal in literals if literal is not None)
        else:
            attempt.step = ConnectStep.RESOLVE
            places = await pool.resolver.resolve(target.host, target.port)
        attempt.step = ConnectStep.CONNECT
        context = (self._ssl_context or await share_context()) if target.secure else None
        sock = await connect(places)
        peer = sock.getpeername()[0]
        if context is None:
            connection = Connection(sock, origin, peer)
        else:
            if self._ssl_context is not None:
                # Whoever shares it may have had it offer HTTP/2, which a connection of ours could not read.
                self._ssl_context.set_alpn_protocols([HTTP1])
            attempt.step = ConnectStep.HANDSHAKE
            connection = await _secure(sock, origin, peer, context, target.host)
        if self.pools.closed:
            connection.close()
            raise explain(WireFailure.CLOSED, target.label)
        origin.busy.add(connection)
        asyncio.get_running_loop().add_reader(connection.fd, connection.on_readable)
        return connection


async def _secure(
    sock: socket.socket, origin: OriginPool, peer: str, context: ssl.SSLContext, hostname: str
) -> Connection:
    connection = TlsConnection(sock, origin, peer, context=context, hostname=hostname)
    try:
        await connection.shake_hands()
    except BaseException:
        connection.close()
        raise
    return connection


def _come_too_late(connection: Connection, target: RequestTarget) -> WireError:
    """Build the error for a loop that was blocked past the deadline: nothing was sent, the connection is reusable."""
    connection.origin.release(connection)
    return explain(WireFailure.DEADLINE, target.label)


async def _catch_response(connection: Connection) -> None:
    """Listen a little longer after a cancellation, while a response may be on its way."""
    with anyio.CancelScope(shield=True), contextlib.suppress(WireError):
        await connection.listen_again(CANCEL_GRACE)


class _ReadQuota:
    """Limits what all bodies of a loop read in one iteration, so that many at once do not delay everything else."""

    def __init__(self) -> None:
        self.used = 0
        self._resetting = False

    def count(self, size: int) -> None:
        self.used += size
        if not self._resetting:
            self._resetting = True
            asyncio.get_running_loop().call_soon(self._reset)

    def _reset(self) -> None:
        self.used = 0
        self._resetting = False


_quotas: PerLoop[_ReadQuota] = PerLoop(_ReadQuota)


async def _spool_body(connection: Connection, head: Response, deadline: float) -> None:
    """Read a body that is too large for memory into the attempt's spool."""
    attempt = connection.attempt
    if attempt.make_spool is None:
        raise explain(WireFailure.TOO_LARGE, attempt.host)
    attempt.spool = attempt.make_spool()
    async with aclosing(BodyStream(connection, head, deadline=deadline, stall=REST_TIMEOUT).chunks()) as pieces:
        async for piece in pieces:
            writing = attempt.spool.write(bytes(piece))
            del piece  # a traceback keeps this frame
            await writing


class BodyStream:
    """The ``ResponseStream`` over a connection of our own, whose head is in; ``stall``: seconds without a byte."""

    def __init__(self, connection: Connection, head: Response, *, deadline: float, stall: float) -> None:
        self.status: int = head.status
        self.headers: tuple[Header, ...] = head.headers
        self._connection = connection
        self._deadline = deadline
        self._stall = stall
        self._over = False

    async def chunks(self, memory: Callable[[], memoryview] | None = None) -> AsyncGenerator[bytes | memoryview, None]:
        """Yield the pieces of the body as they arrive; see ``ResponseStream.chunks``."""
        connection = self._connection
        loop = asyncio.get_running_loop()
        quota = _quotas.find()
        given = 0
        try:
            while True:
                while quota.used >= _BYTES_PER_ITERATION:  # noqa: ASYNC110 - the next iteration is what is waited for
                    await asyncio.sleep(0)
                piece = connection.read_piece(memory)
                if piece is None:
                    await self._wait(connection, self._deadline - loop.time())
                elif piece:
                    quota.count(len(piece))
                    yield piece
                    given += 1
                    if not given % _PIECES_IN_A_ROW:
                        # A fast server never lets the socket run dry; other tasks must run all the same.
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
        """Release the connection when the body is complete, else abort it. Idempotent."""
        if not self._over:
            self._over = True
            self._connection.close()
