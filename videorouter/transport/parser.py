"""Puts one response together from the bytes of a connection, parsed by llhttp: is it whole, and how large may it grow?

What llhttp refuses is read once more, leniently (``lenient``); for that the bytes are kept for as long as it may refuse
them: until the head is in, and of a body in chunks up to a bound. It performs no I/O and knows no clock. Bodies are not
decoded, and trailers are dropped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import httptools

from videorouter.http import Response, find_header
from videorouter.transport.lenient import LenientReader, UnreadableError

if TYPE_CHECKING:
    from videorouter.http import Header

HEAD_LIMIT = 65_536
_CHUNK_OVERHEAD = 8
_MOST_PIECES = 256
"""Pieces that are kept as they come: a million chunks of one byte would weigh forty times as much as objects."""

MOST_KEPT = 8 * 2**20
"""Bytes of an answer that are kept for a second reading: all that an answer may have, its framing included."""
MOST_KEPT_OF_STREAM = 2**18

PARSE_ERRORS = (httptools.HttpParserError, httptools.HttpParserUpgrade, UnreadableError)


class ResponseParser:
    """The response that a connection is reading.

    ``head_only``: no body follows (``HEAD``). ``status`` is 0 until the head is in; ``closes``: the connection can
    carry no further exchange. ``body_size`` and ``wire_size`` count bytes so far, the latter with head and framing.
    """

    __slots__ = (
        "_again",
        "_kept",
        "_llhttp",
        "_pieces",
        "_skipped",
        "body_size",
        "closes",
        "complete",
        "head_only",
        "headers",
        "most_kept",
        "status",
        "wire_size",
    )

    def __init__(self) -> None:
        self._llhttp: httptools.HttpResponseParser = httptools.HttpResponseParser(self)
        self.reset()

    def reset(self) -> None:
        """Begin the next response."""
        self.head_only: bool = False
        self.most_kept: int = MOST_KEPT
        self.status: int = 0
        self.headers: list[Header] = []
        self._pieces: list[bytes | bytearray] = []
        self.body_size: int = 0
        self.wire_size: int = 0
        self.complete: bool = False
        self.closes: bool = False
        self._kept: bytearray | None = None
        self._again: LenientReader | None = None
        self._skipped: int = 0

    def drop(self) -> None:
        """Drop the body: an error's traceback keeps this object for as long as its owner likes."""
        self._pieces = []
        self._kept = self._again = None
        # llhttp's wrapper holds bound methods of this object: a ring that the collector would have to find.
        del self._llhttp

    def feed(self, data: bytes) -> None:
        """Parse bytes of the connection; raises one of ``PARSE_ERRORS``. Bytes after a complete response are discarded."""
        self.wire_size += len(data)
        if self._again is not None:
            self._feed_again(self._again, data)
            return
        try:
            if not self.status and self.wire_size > HEAD_LIMIT:
                self._feed_long_head(data)
            else:
                self._llhttp.feed_data(data)
        except PARSE_ERRORS as error:
            self.closes = True
            if not self.complete:
                self._read_again(data, error)
        else:
            if not self.complete:
                self._keep(data)

    def _keep(self, data: bytes) -> None:
        """Keep bytes that llhttp has taken, in case it refuses what follows."""
        if self.status and (self.wire_size > self.most_kept or not self._is_chunked()):
            self._kept = None
        elif self._kept is not None:
            self._kept += data
        elif self.wire_size == len(data):
            self._kept = bytearray(data)

    def _is_chunked(self) -> bool:
        return any(name == b"transfer-encoding" for name, _ in self.headers)

    def _read_again(self, data: bytes, error: Exception) -> None:
        """Read a refused response again from its first byte; the body that is known already is skipped."""
        kept = bytes(self._kept or b"") + data
        self._kept = bytearray(kept[:HEAD_LIMIT])
        if len(kept) < self.wire_size or isinstance(error, httptools.HttpParserUpgrade):
            raise error
        self._again = LenientReader(head_only=self.head_only, head_limit=HEAD_LIMIT)
        self._skipped = self.body_size
        self._feed_again(self._again, kept)

    def _feed_again(self, reader: LenientReader, data: bytes) -> None:
        body = reader.feed(data)
        self.status, self.headers = reader.status, reader.headers
        skipped = min(self._skipped, len(body))
        self._skipped -= skipped
        if len(body) > skipped:
            self.on_body(body[skipped:])
        self.complete = reader.complete

    def find_unread(self) -> bytes:
        """Return the bytes where no head could be read: evidence, at most as long as a head."""
        if self.status:
            return b""
        unread = self._kept if self._again is None else self._again.rest
        return bytes(unread[:HEAD_LIMIT]) if unread is not None else b""

    def _feed_long_head(self, data: bytes) -> None:
        """Feed llhttp no more than the limit of a head that does not end."""
        split = max(0, HEAD_LIMIT - (self.wire_size - len(data)))
        self._llhttp.feed_data(data[:split])
        if self.status:
            self._llhttp.feed_data(data[split:])

    def end(self) -> bool:
        """Return whether the end of the connection completes the response, as it does without a length."""
        if not self.status or any(name in (b"content-length", b"transfer-encoding") for name, _ in self.headers):
            return False
        self.closes = self.complete = True
        return True

    def exceeds(self, max_body: int) -> bool:
        """Whether it is too large. Framing and trailers count too: chunks of one byte each cost six."""
        return self.body_size > max_body or self.wire_size > 2 * HEAD_LIMIT + _CHUNK_OVERHEAD * self.body_size

    def find_rest(self) -> int:
        """Return the missing bytes of the body; -1 when the head has no length, or the framing is chunked."""
        length = find_header(self.headers, b"content-length")
        if self.complete or length is None or find_header(self.headers, b"transfer-encoding") is not None:
            return -1
        return int(length) - self.body_size

    def take_body(self) -> bytes:
        """Return the body received since the last call."""
        pieces, self._pieces = self._pieces, []
        return bytes(pieces[0]) if len(pieces) == 1 else b"".join(pieces)

    def build_response(self) -> Response:
        """Build the response, with the body received so far."""
        pieces = self._pieces
        body = bytes(pieces[0]) if len(pieces) == 1 else b"".join(pieces)
        return Response(status=self.status, headers=tuple(self.headers), body=body)

    # What llhttp calls.

    def on_message_begin(self) -> None:
        """Refuse a second response to one request."""
        if self.complete:
            self.closes = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """Collect a field of the head; trailers are dropped."""
        if not self.status:
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Finish the head; an interim response (1xx) is skipped."""
        if self.complete:
            return
        status = self._llhttp.get_status_code()
        if 100 <= status < 200:
            self.headers.clear()
            return
        self.status = status
        if self.head_only:
            self.complete = self.closes = True

    def on_body(self, piece: bytes) -> None:
        """Collect a piece of the body."""
        if self.complete:
            return
        pieces = self._pieces
        self.body_size += len(piece)
        if len(pieces) < _MOST_PIECES:
            pieces.append(piece)
        elif isinstance(pieces[-1], bytearray):
            pieces[-1] += piece
        else:
            pieces.append(bytearray(piece))

    def on_message_complete(self) -> None:
        """Note that the response is whole."""
        if self.status and not self.complete:
            self.complete = True
            # Only now: llhttp forgets what the head said as soon as the message is over.
            self.closes = self.closes or not self._llhttp.should_keep_alive()
