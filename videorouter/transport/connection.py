"""One connection that carries one exchange at a time, and the connections to one origin.

A connection decides how far a request got (its phase), and whether it may be used again. Any exchange that does not end
with a whole response closes it: nothing half-read is ever reused. It never retries, and never waits without a timer. It
does not hold its event loop, so that a loop can be dropped, but never closes a descriptor that its loop still watches:
the next one with that number, perhaps another owner's, would be taken for it.

The life of an exchange::

    start -> (on_writable ...) -> on_readable -> _feed -> _finish | fail
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import struct
import sys
import time
from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING

from videorouter.errors import Phase
from videorouter.http import Attempt, Response, WireFailure, clip_body, cut_body
from videorouter.loops import resolve_future, running_loop
from videorouter.transport.body import decode_body
from videorouter.transport.causes import explain
from videorouter.transport.parser import HEAD_LIMIT, MOST_KEPT_OF_STREAM, PARSE_ERRORS, ResponseParser

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from videorouter.transport.target import Payload

POST_IDLE = 2.0
"""Seconds for which a connection may have been idle before a POST: a server's close that crosses it is in doubt."""
READ_IDLE = 15.0
"""Seconds for which a connection may have been idle before a request that can be sent again."""
READ_SIZE = 65_536
PIECE_SIZE = 262_144
REST_TIMEOUT = 30.0
"""Seconds for the rest of a response once its head is in."""
_CLOCK: int | None = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", None))
read_clock: Callable[[], float] = time.monotonic if _CLOCK is None else partial(time.clock_gettime, _CLOCK)
"""Seconds that go on while the machine is suspended, which no connection survives that a server or NAT then drops."""
_ABORT = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
"""``SO_LINGER`` for a close that resets."""


class OriginPool:
    """The connections to one scheme, host and port: idle ones, last used last, busy ones, and those being made."""

    __slots__ = ("__weakref__", "busy", "closes_silently", "dialing", "idle", "loop")

    def __init__(self, loop: Callable[[], asyncio.AbstractEventLoop | None]) -> None:
        self.loop: Callable[[], asyncio.AbstractEventLoop | None] = loop
        self.idle: OrderedDict[Connection, None] = OrderedDict()
        self.busy: set[Connection] = set()
        self.dialing: set[asyncio.Timeout] = set()
        self.closes_silently: bool = False

    def acquire(self, *, unsafe: bool) -> Connection | None:
        """Take the idle connection used last, if it is young enough, open and silent; it counts as busy from now on.

        A request that is ``unsafe`` to send twice never uses one that the origin may have closed meanwhile.
        """
        idle = self.idle
        longest = POST_IDLE if unsafe else READ_IDLE
        while idle and not (unsafe and self.closes_silently):
            connection = next(reversed(idle))
            if read_clock() - connection.idle_since > longest:
                break
            if connection.is_usable():
                del idle[connection]
                connection.reused = True
                self.busy.add(connection)
                return connection
            connection.close()
        if idle:
            # The new one takes the place of an idle one: there are never more than were once busy together.
            next(iter(idle)).close()
        return None

    def release(self, connection: Connection) -> None:
        """Keep a connection for the next request."""
        self.busy.discard(connection)
        connection.idle_since = read_clock()
        self.idle[connection] = None

    def discard(self, connection: Connection) -> None:
        """Forget a connection that closed."""
        self.busy.discard(connection)
        self.idle.pop(connection, None)

    def note_silent_close(self, connection: Connection) -> None:
        """Remember that this origin closes kept connections within the time in which a POST would use them."""
        if read_clock() - connection.idle_since <= POST_IDLE:
            self.closes_silently = True

    def sweep(self) -> bool:
        """Close connections that were idle for too long; return whether any are left."""
        latest = read_clock() - READ_IDLE
        while self.idle and (oldest := next(iter(self.idle))).idle_since < latest:
            oldest.close()
        return bool(self.idle or self.busy or self.dialing or self.closes_silently)

    def count(self) -> int:
        """Open connections; from any thread."""
        return len(self.idle) + len(self.busy)

    def abort(self) -> None:
        """Abort all connections, in their own loop or while it does not run."""
        if running_loop() is not None:
            for limit in self.dialing:
                if not limit.expired():
                    limit.reschedule(0.0)
        for connection in [*self.idle, *self.busy]:
            connection.fail(WireFailure.CLOSED)


class Connection:
    """A connected, non-blocking TCP socket, which it owns, and the exchange that it carries."""

    __slots__ = (
        "attempt",
        "broken",
        "deadline",
        "eof",
        "fd",
        "future",
        "idle_since",
        "max_body",
        "origin",
        "parser",
        "peer",
        "poller",
        "remaining",
        "rest",
        "rest_timed",
        "reused",
        "sock",
        "streaming",
        "timer",
        "unsent",
        "waiter",
    )

    def __init__(self, sock: socket.socket, origin: OriginPool, peer: str) -> None:
        self.sock: socket.socket | None = sock
        # Selectors look a number up; a socket's own repr, which they build on the way, costs two system calls.
        self.fd: int = sock.fileno()
        self.origin: OriginPool = origin
        self.peer: str = peer
        self.parser: ResponseParser = ResponseParser()
        self.poller: select.poll | None = None
        self.future: asyncio.Future[Response] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.waiter: asyncio.Future[bool] | None = None
        self.unsent: bytes | memoryview = b""
        self.rest: Iterator[memoryview] = iter(())
        self.idle_since: float = 0.0
        self.reused: bool = False
        self.streaming: bool = False
        self.eof: bool = False
        self.broken: OSError | None = None
        """The error that ended it, while earlier bytes are still to be read."""

    # The request goes out.

    def start(
        self,
        loop: asyncio.AbstractEventLoop,
        payload: Payload,
        attempt: Attempt,
        *,
        deadline: float,
        max_body: int,
        head_only: bool = False,
        streaming: bool = False,
    ) -> asyncio.Future[Response]:
        """Write a request and begin to listen for its response, which the future brings, or a ``WireError``.

        ``deadline`` is the running ``loop``'s time; ``head_only`` says that no body follows (``HEAD``); with ``streaming`` the
        future is done as soon as the head is in.
        """
        self.parser.head_only = head_only
        if streaming:
            self.parser.most_kept = MOST_KEPT_OF_STREAM
        self.attempt: Attempt = attempt
        self.max_body: int = max_body
        self.streaming = streaming
        self.deadline: float = deadline
        self.rest_timed: bool = False
        self.future = future = loop.create_future()
        self.timer = loop.call_at(deadline, self.fail, WireFailure.DEADLINE)
        attempt.phase = Phase.SENDING
        try:
            data = self._encode(payload.data)
            sent = self.sock.send(data)  # type: ignore[union-attr]  # open while an exchange runs
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as error:
            attempt.half_written = True
            self.unsent = payload.data
            self._fail_writing(error)
            return future
        if sent < len(data) or payload.rest:
            attempt.half_written = True
            self.rest = cut_body(payload.rest, PIECE_SIZE)
            self._write_later(memoryview(data)[sent:] or self._encode_next())
        else:
            attempt.phase = Phase.SENT
        return future

    def _write_later(self, rest: memoryview) -> None:
        """Send the rest when the socket takes more."""
        self.unsent = rest
        asyncio.get_running_loop().add_writer(self.fd, self.on_writable)

    def _encode(self, piece: bytes | memoryview) -> bytes | memoryview:
        """Encode bytes for the socket."""
        return piece

    def _encode_next(self) -> memoryview:
        """Encode the next piece of a body that is sent piece by piece; nothing at its end."""
        piece = next(self.rest, None)
        return memoryview(b"" if piece is None else self._encode(piece))

    def on_writable(self) -> None:
        """Write more of the request to the socket."""
        if self.sock is None:
            return
        try:
            sent = self.sock.send(self.unsent)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._fail_writing(error)
            return
        self.unsent = self.unsent[sent:] or self._encode_next()
        if not self.unsent:
            self.unsent = b""
            asyncio.get_running_loop().remove_writer(self.fd)
            if self.future is not None:
                self.attempt.half_written = False
                if self.attempt.phase is Phase.SENDING:
                    self.attempt.phase = Phase.SENT

    def _fail_writing(self, error: OSError) -> None:
        # A server may answer, say 413, and close before it has read everything: look for that first.
        self.on_readable()
        if self.future is not None and not self.future.done():
            self.fail(WireFailure.WRITE_FAILED, error)

    # The response comes in.

    def on_readable(self) -> None:
        """Read a response, the end of the connection, or bytes that were not asked for."""
        try:
            data = self._receive(READ_SIZE)
        except OSError as error:
            self._on_closed(error)
            return
        if data:
            self._feed(data)
            # A stream comes to its end as it is read.
            if self.eof and not (self.streaming and self.parser.status):
                self._on_closed(self.broken)
        elif data is not None:
            self._on_closed(None)

    def _receive(self, size: int) -> bytes | None:
        """Receive bytes of HTTP; ``b""`` at the end of the connection, ``None`` when there are none yet."""
        if self.sock is None:
            return None
        try:
            return self.sock.recv(size)
        except (BlockingIOError, InterruptedError):
            return None

    def _receive_into(self, memory: memoryview) -> int | None:
        """Receive bytes of HTTP into memory; 0 at the end of the connection, ``None`` when there are none yet."""
        if self.sock is None:
            return None
        try:
            return self.sock.recv_into(memory)
        except (BlockingIOError, InterruptedError):
            return None

    def _feed(self, data: bytes) -> None:
        if self.future is None:
            self.close()
            return
        parser = self.parser
        try:
            parser.feed(data)
        except PARSE_ERRORS as error:
            self.fail(WireFailure.PROTOCOL, error)
            return
        if parser.complete:
            self._finish()
        elif parser.status:
            self._wait_for_rest()
        elif parser.wire_size > HEAD_LIMIT:
            self.fail(WireFailure.TOO_LARGE)

    def _wait_for_rest(self) -> None:
        """Wait for the rest of the body, now that the head is in."""
        self.attempt.phase = Phase.ANSWERED
        if self.streaming:
            self._open_stream()
        elif self.parser.exceeds(self.max_body):
            self._pass_on_body()
        elif not self.rest_timed:
            self.rest_timed = True
            self._set_timer(min(self.deadline, asyncio.get_running_loop().time() + REST_TIMEOUT))

    def _pass_on_body(self, *, compressed: bool = False) -> None:
        """Pass on a body that is too large for memory, to be read in pieces."""
        wanted = self.attempt.make_spool is not None and 200 <= self.parser.status < 300
        if not wanted or (self.parser.body_size <= self.max_body and not compressed):
            self.fail(WireFailure.TOO_LARGE)
            return
        self.streaming, self.max_body = True, sys.maxsize
        self._open_stream()

    def _set_timer(self, when: float) -> None:
        if self.timer is not None:
            self.timer.cancel()
        failure = WireFailure.DEADLINE if when >= self.deadline else WireFailure.STALLED
        self.timer = asyncio.get_running_loop().call_at(when, self.fail, failure)

    # The exchange ends.

    def _finish(self) -> None:
        if self.streaming:
            self._open_stream()
            return
        if self.parser.body_size > self.max_body:
            self._pass_on_body()
            return
        future, attempt = self.future, self.attempt
        response = self.parser.build_response()
        if response.body[:2] != b'{"':
            response.body = decode_body(response.body, response.headers, self.max_body)
            if len(response.body) > self.max_body:
                self._pass_on_body(compressed=True)
                return
        attempt.response = response
        attempt.phase = Phase.COMPLETE
        self._go_idle()
        if future is not None:
            resolve_future(future, response)

    def _go_idle(self) -> None:
        """Return to the pool, or close when this connection cannot carry another exchange."""
        if self.parser.closes or self.unsent:
            self.close()
            return
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        self.future = None
        self.parser.reset()
        self.origin.release(self)

    def _on_closed(self, error: OSError | None) -> None:
        """Handle a close by the other side or the network."""
        if self.sock is None:
            return
        if self.future is None:
            self.origin.note_silent_close(self)
            self.close()
        elif error is None and self.parser.end():
            self._finish()
        elif self.parser.status:
            self.fail(WireFailure.BODY_CUT, error)
        elif self.unsent:
            self.fail(WireFailure.WRITE_FAILED, error)
        else:
            if self.reused and not self.parser.wire_size:
                self.origin.closes_silently = True
            self.fail(WireFailure.RESET, error)

    def fail(self, failure: WireFailure, error: BaseException | None = None) -> None:
        """End the exchange without a whole response, and this connection with it."""
        future = self.future
        self.abort()
        if future is not None and not future.done():
            future.set_exception(explain(failure, self.attempt.host, error))

    def abort(self) -> None:
        """Close for a caller that has gone, after noting how far the exchange got."""
        if self.future is not None:
            attempt = self.attempt
            if self.parser.status:
                attempt.phase = Phase.ANSWERED
                attempt.response = response = self.parser.build_response()
                response.body = clip_body(decode_body(response.body, response.headers, self.max_body), self.max_body)
            else:
                attempt.unread = self.parser.find_unread()
        self.close()

    def listen_again(self, seconds: float) -> asyncio.Future[Response]:
        """Wait a little longer for the response of an exchange whose future was cancelled."""
        loop = asyncio.get_running_loop()
        self.future = future = loop.create_future()
        self._set_timer(min(self.deadline, loop.time() + seconds))
        return future

    def is_usable(self) -> bool:
        """Check once whether an idle connection is still open and silent."""
        if self.sock is None:
            return False
        if self.poller is None:
            self.poller = select.poll()
            self.poller.register(self.fd, select.POLLIN)
        if self.poller.poll(0):
            self.on_readable()
        return not self.unsent and self.sock is not None

    def close(self) -> None:
        """Close the socket at once; from outside of its running loop, as soon as that comes to it. Idempotent."""
        sock = self.sock
        if sock is None:
            return
        loop = self.origin.loop()
        if loop is not None and loop.is_running() and loop is not running_loop():
            # Refused by a loop that was closed meanwhile, which watches nothing any more.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self.close)
                return
        self.sock = None
        self.future = None
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        if loop is not None and not loop.is_closed():
            loop.remove_reader(self.fd)
            loop.remove_writer(self.fd)
        if self.unsent:
            # A reset: what the kernel holds of a request that is cut off need not go out either.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
        sock.close()
        self.parser.drop()
        self.origin.discard(self)
        if self.waiter is not None:
            resolve_future(self.waiter, True)

    def close_descriptor(self) -> None:
        """Close the descriptor and nothing else: the loop belongs to a parent process."""
        if self.sock is not None:
            self.sock.close()
            self.sock = None
            self.future = self.timer = None
            self.parser.drop()

    # A body in pieces is read on demand only, so the socket itself slows the server down.

    def _open_stream(self) -> None:
        """Stop reading after the head until the body is asked for."""
        asyncio.get_running_loop().remove_reader(self.fd)
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        self.attempt.phase = Phase.ANSWERED
        self.remaining: int = self.parser.find_rest()
        response = Response(status=self.parser.status, headers=tuple(self.parser.headers))
        self.attempt.response = response
        if self.future is not None:
            resolve_future(self.future, response)

    def read_piece(self, memory: Callable[[], memoryview] | None = None) -> bytes | memoryview | None:
        """Read the next piece of the body; ``b""`` after the last, ``None`` when there is none yet.

        A body of known length is read into ``memory``, if that is given: the piece is the part of it that was filled.
        """
        if self.sock is None:
            raise explain(WireFailure.CLOSED, self.attempt.host)
        parser = self.parser
        while not (piece := parser.take_body()) and not parser.complete:
            data: bytes | memoryview | None
            try:
                if memory is not None and self.remaining > 0:
                    room = memory()[: self.remaining]
                    count = self._receive_into(room)
                    data = None if count is None else room[:count]
                else:
                    data = self._receive(PIECE_SIZE)
            except OSError as error:
                raise explain(WireFailure.BODY_CUT, self.attempt.host, error) from error
            if data is None:
                return None
            if not data:
                if not parser.end():
                    raise explain(WireFailure.BODY_CUT, self.attempt.host)
            elif self.remaining > 0:
                return self._count(data)
            else:
                self._feed_piece(bytes(data))
        return piece

    def _count(self, data: bytes | memoryview) -> bytes | memoryview:
        """A body of known length needs no parser; the parser that was passed over is used up."""
        self.parser.closes = True
        if len(data) >= self.remaining:
            self.parser.complete = True
            data = data[: self.remaining]
        self.remaining -= len(data)
        return data

    def _feed_piece(self, data: bytes) -> None:
        try:
            self.parser.feed(data)
        except PARSE_ERRORS as error:
            raise explain(WireFailure.PROTOCOL, self.attempt.host, error) from error
        if self.parser.exceeds(self.max_body):
            raise explain(WireFailure.PROTOCOL, self.attempt.host)

    async def wait_readable(self, seconds: float) -> bool:
        """Wait at most so many seconds for bytes; return whether there are any."""
        if self.sock is None:
            raise explain(WireFailure.CLOSED, self.attempt.host)
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[bool] = loop.create_future()
        self.waiter = ready
        loop.add_reader(self.fd, resolve_future, ready, True)
        timer = loop.call_later(seconds, resolve_future, ready, False)
        try:
            return await ready
        finally:
            timer.cancel()
            self.waiter = None
            if self.sock is not None:
                loop.remove_reader(self.fd)

    def finish_stream(self) -> None:
        """Return to the pool after the last piece, else close."""
        if self.sock is None or self.future is None:
            return
        if not self.parser.complete or self.parser.take_body():
            self.close()
            return
        self.attempt.phase = Phase.COMPLETE
        if self.eof:
            self.parser.closes = True
        if not self.parser.closes:
            asyncio.get_running_loop().add_reader(self.fd, self.on_readable)
        self._go_idle()
