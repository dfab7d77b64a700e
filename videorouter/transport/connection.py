"""One connection that carries one exchange at a time: a request out in a single write, an answer in, parsed by llhttp.

It decides how far a request got (its phase), when an answer is whole, and whether the connection may be used again.
Any exchange that does not end with a whole answer closes the connection: nothing half-read is ever reused. It never
retries, never waits without a timer, and holds no reference to its event loop, so that a loop can be dropped.

The life of an exchange::

    start -> (on_writable ...) -> on_readable -> _feed -> parser callbacks -> _finish | fail
"""

from __future__ import annotations

import asyncio
import select
from typing import TYPE_CHECKING

import httptools

from videorouter.errors import Phase
from videorouter.http import Attempt, Response, WireFailure, keep_piece
from videorouter.transport.causes import explain

if TYPE_CHECKING:
    import socket

    from videorouter.http import Header
    from videorouter.transport.pool import Origin

READ_SIZE = 65_536
PIECE_SIZE = 262_144
HEAD_LIMIT = 65_536
REST_TIMEOUT = 30.0
_CHUNK_OVERHEAD = 8
_MOST_PIECES = 256
"""Pieces that are kept as they come: a million chunks of one byte would weigh forty times as much as objects."""


class Connection:
    """A connected TCP socket and the exchange that it carries.

    Args:
        sock: A connected, non-blocking socket; this connection owns it.
        origin: Where it leads, and where it goes when it is idle.
        peer: The address at its other end.
    """

    __slots__ = (
        "attempt",
        "body",
        "body_size",
        "deadline",
        "done",
        "ended",
        "fd",
        "future",
        "head_only",
        "headers",
        "idle_since",
        "max_body",
        "origin",
        "outbox",
        "parser",
        "peer",
        "poller",
        "remaining",
        "resting",
        "reused",
        "sock",
        "spent",
        "status",
        "streaming",
        "timer",
        "waiter",
        "wire_size",
    )

    def __init__(self, sock: socket.socket, origin: Origin, peer: str) -> None:
        self.sock: socket.socket | None = sock
        # Selectors look a number up; a socket's own repr, which they build on the way, costs two system calls.
        self.fd: int = sock.fileno()
        self.origin: Origin = origin
        self.peer: str = peer
        self.parser: httptools.HttpResponseParser = httptools.HttpResponseParser(self)
        self.poller: select.poll | None = None
        self.future: asyncio.Future[Response] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.waiter: asyncio.Future[bool] | None = None
        self.outbox: bytes | memoryview = b""
        self.idle_since: float = 0.0
        self.reused: bool = False
        self.ended: bool = False
        self.streaming: bool = False
        self._clear()

    def _clear(self) -> None:
        self.status: int = 0
        self.headers: list[Header] = []
        self.body: list[bytes | bytearray] = []
        self.body_size: int = 0
        self.wire_size: int = 0
        self.remaining: int = -1
        self.resting: bool = False
        self.done: bool = False
        self.spent: bool = False

    # The request goes out.

    def start(
        self,
        payload: bytes,
        attempt: Attempt,
        *,
        deadline: float,
        max_body: int,
        head_only: bool = False,
        streaming: bool = False,
    ) -> asyncio.Future[Response]:
        """Write a request and begin to listen for its answer.

        Args:
            payload: Head and body, in one piece.
            attempt: Written as the exchange walks its phases.
            deadline: The loop's time at which it ends with ``WireFailure.DEADLINE``.
            max_body: Bytes of body to accept.
            head_only: Whether the answer has no body whatever its head says (``HEAD``).
            streaming: Whether the future is done as soon as the head is in.

        Returns:
            What to await; the answer, or a ``WireError``.
        """
        loop = asyncio.get_running_loop()
        self._clear()
        self.attempt: Attempt = attempt
        self.max_body: int = max_body
        self.head_only: bool = head_only
        self.streaming = streaming
        self.deadline: float = deadline
        self.future = future = loop.create_future()
        self.timer = loop.call_at(deadline, self.fail, WireFailure.DEADLINE)
        attempt.phase = Phase.SENDING
        try:
            data = self._encode(payload)
            sent = self.sock.send(data)  # type: ignore[union-attr]  # open while an exchange runs
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as error:
            self.outbox = payload
            self._fail_writing(error)
            return future
        if sent < len(data):
            self._keep(memoryview(data)[sent:])
        else:
            attempt.phase = Phase.SENT
        return future

    def _keep(self, rest: memoryview) -> None:
        """Send the rest when the socket takes more."""
        self.outbox = rest
        asyncio.get_running_loop().add_writer(self.fd, self.on_writable)

    def _encode(self, payload: bytes) -> bytes:
        """What goes over the socket."""
        return payload

    def on_writable(self) -> None:
        """Hand more of the request to the kernel."""
        if self.sock is None:
            return
        try:
            sent = self.sock.send(self.outbox)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._fail_writing(error)
            return
        self.outbox = self.outbox[sent:]
        if not self.outbox:
            self._stop_writing()
            if self.future is not None and self.attempt.phase is Phase.SENDING:
                self.attempt.phase = Phase.SENT

    def _stop_writing(self) -> None:
        self.outbox = b""
        asyncio.get_running_loop().remove_writer(self.fd)

    def _fail_writing(self, error: OSError) -> None:
        # A server may answer, say 413, and close before it has read everything: look for that first.
        self.on_readable()
        if self.future is not None and not self.future.done():
            self.fail(WireFailure.WRITE_FAILED, error)

    # The answer comes in.

    def on_readable(self) -> None:
        """Read what is there: an answer, the end of the connection, or what nobody asked for."""
        try:
            data = self._receive(READ_SIZE)
        except OSError as error:
            self._end(error)
            return
        if data:
            self._feed(data)
            if self.ended:
                self._end(None)
        elif data is not None:
            self._end(None)

    def _receive(self, size: int) -> bytes | None:
        """Bytes of HTTP; ``b""`` at the end of the connection, ``None`` when there is nothing yet."""
        if self.sock is None:
            return None
        try:
            return self.sock.recv(size)
        except (BlockingIOError, InterruptedError):
            return None

    def _feed(self, data: bytes) -> None:
        if self.future is None:
            self.close()
            return
        self.wire_size += len(data)
        try:
            if not self.status and self.wire_size > HEAD_LIMIT:
                self._feed_long_head(data)
            else:
                self.parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if self.done:
                self.spent = True
            else:
                self.fail(WireFailure.PROTOCOL, error)
                return
        if self.done:
            self._finish()
        elif self.status:
            self._await_rest()
        elif self.wire_size > HEAD_LIMIT:
            self.fail(WireFailure.TOO_LARGE)

    def _feed_long_head(self, data: bytes) -> None:
        """Let the parser see no more than the limit of a head that does not end."""
        split = max(0, HEAD_LIMIT - (self.wire_size - len(data)))
        self.parser.feed_data(data[:split])
        if self.status:
            self.parser.feed_data(data[split:])

    def _await_rest(self) -> None:
        """The head is in, the body is not whole."""
        if self.streaming:
            self._open_stream()
        elif self.body_size > self.max_body or self.wire_size > self._most_on_wire():
            self.fail(WireFailure.TOO_LARGE)
        elif not self.resting:
            self.resting = True
            self._set_timer(min(self.deadline, asyncio.get_running_loop().time() + REST_TIMEOUT))

    def _most_on_wire(self) -> int:
        """Framing and trailers are bounded too: chunks of one byte each cost six."""
        return 2 * HEAD_LIMIT + _CHUNK_OVERHEAD * self.body_size

    def _set_timer(self, when: float) -> None:
        if self.timer is not None:
            self.timer.cancel()
        failure = WireFailure.DEADLINE if when >= self.deadline else WireFailure.STALLED
        self.timer = asyncio.get_running_loop().call_at(when, self.fail, failure)

    # What the parser calls.

    def on_message_begin(self) -> None:
        """A second answer to one request is no answer to the next."""
        if self.done:
            self.spent = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """Collect a field of the head; trailers are dropped."""
        if not self.status:
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """The head is in: an interim answer (1xx) is passed over."""
        if self.done:
            return
        status = self.parser.get_status_code()
        if 100 <= status < 200:
            self.headers.clear()
            return
        self.status = status
        self.attempt.phase = Phase.ANSWERED
        if self.head_only:
            self.done = self.spent = True

    def on_body(self, piece: bytes) -> None:
        """Collect a piece of the body."""
        if self.done:
            return
        body = self.body
        self.body_size += len(piece)
        if len(body) < _MOST_PIECES:
            body.append(piece)
        elif isinstance(body[-1], bytearray):
            body[-1] += piece
        else:
            body.append(bytearray(piece))

    def on_message_complete(self) -> None:
        """The answer is whole."""
        if self.status and not self.done:
            self.done = True
            # Only now: the parser forgets what the head said as soon as the message is over.
            self.spent = self.spent or not self.parser.should_keep_alive()

    # The exchange ends.

    def _finish(self) -> None:
        future = self.future
        if self.streaming:
            self._open_stream()
            return
        if self.body_size > self.max_body:
            self.fail(WireFailure.TOO_LARGE)
            return
        attempt = self.attempt
        body = self.body
        response = Response(
            status=self.status,
            headers=tuple(self.headers),
            body=bytes(body[0]) if len(body) == 1 else b"".join(body),
        )
        attempt.response = response
        attempt.phase = Phase.COMPLETE
        self._release()
        if future is not None and not future.done():
            future.set_result(response)

    def _release(self) -> None:
        """Go back to the pool, or close when this connection cannot carry another exchange."""
        if self.spent or self.outbox:
            self.close()
            return
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        self.future = None
        self.body = []
        self.headers = []
        self.origin.give(self)

    def _end(self, error: OSError | None) -> None:
        """The other side closed, or the network did."""
        if self.sock is None:
            return
        if self.future is None:
            self.origin.note_silent_close(self)
            self.close()
        elif self.status and error is None and self._ends_with_connection():
            self.spent = self.done = True
            self._finish()
        elif self.status:
            self.fail(WireFailure.BODY_CUT, error)
        elif self.outbox:
            self.fail(WireFailure.WRITE_FAILED, error)
        else:
            if self.reused and not self.wire_size:
                self.origin.closes_silently = True
            self.fail(WireFailure.RESET, error)

    def _ends_with_connection(self) -> bool:
        return not any(name in (b"content-length", b"transfer-encoding") for name, _ in self.headers)

    def fail(self, failure: WireFailure, error: BaseException | None = None) -> None:
        """End the exchange without a whole answer, and this connection with it."""
        future = self.future
        self.abandon()
        if future is not None and not future.done():
            future.set_exception(explain(failure, self.attempt.host, error))

    def abandon(self) -> None:
        """Nobody waits for this exchange any more: note how far it got, and close."""
        if self.future is not None:
            attempt = self.attempt
            attempt.write_failed = len(self.outbox) > 0
            if self.status:
                body = keep_piece(b"".join(self.body), self.max_body)
                attempt.response = Response(status=self.status, headers=tuple(self.headers), body=body)
        self.close()

    def listen_again(self, seconds: float) -> asyncio.Future[Response]:
        """Wait a little longer for the answer of an exchange whose future was cancelled."""
        loop = asyncio.get_running_loop()
        self.future = future = loop.create_future()
        self._set_timer(min(self.deadline, loop.time() + seconds))
        return future

    def is_usable(self) -> bool:
        """Look once whether an idle connection is still open and silent."""
        if self.sock is None:
            return False
        if self.poller is None:
            self.poller = select.poll()
            self.poller.register(self.fd, select.POLLIN)
        if self.poller.poll(0):
            self.on_readable()
        return self.is_open() and not self.outbox

    def is_open(self) -> bool:
        """Whether the socket is there."""
        return self.sock is not None

    def close(self) -> None:
        """Close the socket at once. Idempotent, and safe without a running loop."""
        sock = self.sock
        if sock is None:
            return
        self.sock = None
        self.future = None
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        loop = asyncio._get_running_loop()  # noqa: SLF001 - documented for event loops, and gives None outside one
        if loop is not None:
            loop.remove_reader(self.fd)
            if self.outbox:
                loop.remove_writer(self.fd)
        sock.close()
        # An error's traceback keeps this object for as long as its owner likes.
        self.body = []
        self.origin.lose(self)
        if self.waiter is not None:
            _settle(self.waiter, True)
        # The parser holds bound methods of this object: a ring that the collector would have to find.
        del self.parser

    def release_socket(self) -> None:
        """Close the descriptor and nothing else: the loop is gone, or belongs to a parent process."""
        if self.sock is not None:
            self.sock.close()
            self.sock = None
            self.future = self.timer = None
            del self.parser

    # A body in pieces: nothing is read that nobody asked for, so the socket itself holds the server back.

    def _open_stream(self) -> None:
        """The head is in: stop reading until somebody asks for the body."""
        asyncio.get_running_loop().remove_reader(self.fd)
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        if not self.done and not any(name == b"transfer-encoding" for name, _ in self.headers):
            length = next((value for name, value in self.headers if name == b"content-length"), None)
            if length is not None:
                self.remaining = int(length) - self.body_size
        response = Response(status=self.status, headers=tuple(self.headers))
        self.attempt.response = response
        if self.future is not None and not self.future.done():
            self.future.set_result(response)

    def pull(self) -> bytes | None:
        """The next piece of the body; ``b""`` after the last, ``None`` when there is nothing yet.

        Raises:
            WireError: The body ended early, or is no HTTP.
        """
        if self.sock is None:
            raise explain(WireFailure.CLOSED, self.attempt.host)
        while not self.body and not self.done:
            try:
                data = self._receive(PIECE_SIZE)
            except OSError as error:
                raise explain(WireFailure.BODY_CUT, self.attempt.host, error) from error
            if data is None:
                return None
            if data == b"":
                if not self._ends_with_connection():
                    raise explain(WireFailure.BODY_CUT, self.attempt.host)
                self.spent = self.done = True
            elif self.remaining > 0:
                return self._count(data)
            else:
                self._parse_piece(data)
        if len(self.body) == 1:
            return bytes(self.body.pop())
        piece = b"".join(self.body)
        self.body.clear()
        return piece

    def _count(self, data: bytes) -> bytes:
        """A body of known length needs no parser; the parser that was passed over is used up."""
        self.spent = True
        if len(data) >= self.remaining:
            self.done = True
            data = data[: self.remaining]
        self.remaining -= len(data)
        return data

    def _parse_piece(self, data: bytes) -> None:
        self.wire_size += len(data)
        try:
            self.parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if not self.done:
                raise explain(WireFailure.PROTOCOL, self.attempt.host, error) from error
            self.spent = True
        if self.wire_size > self._most_on_wire():
            raise explain(WireFailure.PROTOCOL, self.attempt.host)

    async def wait_readable(self, seconds: float) -> bool:
        """Wait at most so many seconds for bytes; whether there are any."""
        if self.sock is None:
            raise explain(WireFailure.CLOSED, self.attempt.host)
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[bool] = loop.create_future()
        self.waiter = ready
        loop.add_reader(self.fd, _settle, ready, True)
        timer = loop.call_later(seconds, _settle, ready, False)
        try:
            return await ready
        finally:
            timer.cancel()
            self.waiter = None
            if self.sock is not None:
                loop.remove_reader(self.fd)

    def finish_stream(self) -> None:
        """Go back to the pool after the last piece, else close."""
        if self.sock is None or self.future is None:
            return
        if not self.done or self.body:
            self.close()
            return
        self.attempt.phase = Phase.COMPLETE
        if not self.spent:
            asyncio.get_running_loop().add_reader(self.fd, self.on_readable)
        self._release()


def _settle(waiter: asyncio.Future[bool], outcome: bool) -> None:
    if not waiter.done():
        waiter.set_result(outcome)
