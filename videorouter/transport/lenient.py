"""Reads a response that llhttp refuses again, from its kept bytes: as curl and httpx read it, and bounded.

A paid result must not be lost to a spelling: bare LF, folded fields, repeated equal lengths, a length beside chunks,
padded chunk sizes, odd bytes in names and values. Ambiguous responses stay refused: lengths that differ, an invalid
status line. Such a response closes its connection, so that nothing can be smuggled into the next one. It performs no
I/O and knows no clock.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from videorouter.http import Header

_BLANK_LINE = re.compile(rb"\r?\n\r?\n")
_LINE_END = re.compile(rb"\r?\n")
_FOLD = re.compile(rb"\r?\n[ \t]+")
_STATUS_LINE = re.compile(rb"HTTP/[0-9]{1,2}(?:\.[0-9])?[ \t]+([1-9][0-9]{2})(?:[ \t].*)?", re.IGNORECASE | re.DOTALL)
_START = b"HTTP/"
_LENGTH = re.compile(rb"\+?([0-9]{1,18})")
_CHUNK_SIZE = re.compile(rb"[ \t]*([0-9A-Fa-f]{1,15})[ \t]*(?:;.*)?", re.DOTALL)
_LONGEST_LINE = 4096
"""Bytes in which the size of a chunk must come to its end."""
_BODILESS = frozenset({204, 304})


class UnreadableError(Exception):
    """The bytes are not a response, however leniently they are read."""


class LenientReader:
    """Reads one response from its first byte on.

    ``head_only``: no body follows (``HEAD``). ``head_limit`` includes interim responses. ``status`` is 0 until the head
    is in; ``headers`` have at most one ``Content-Length`` or ``Transfer-Encoding: chunked``; ``rest`` is unparsed.
    """

    __slots__ = (
        "_body_left",
        "_chunked",
        "_head_limit",
        "_head_only",
        "_searched",
        "complete",
        "headers",
        "rest",
        "status",
    )

    def __init__(self, *, head_only: bool, head_limit: int) -> None:
        self.status: int = 0
        self.headers: list[Header] = []
        self.complete: bool = False
        self.rest: bytearray = bytearray()
        self._head_only = head_only
        self._head_limit = head_limit
        self._searched = 0
        self._chunked = False
        self._body_left: int | None = None
        """Of the body, or of its present chunk; ``None`` where only the end of the connection or the next size tells."""

    def feed(self, data: bytes) -> bytes:
        """Parse bytes of the connection and return the body in them; raises ``UnreadableError``."""
        rest = self.rest
        rest += data
        while not self.status:
            if not self._read_head():
                return b""
        body = bytearray()
        while rest and not self.complete:
            if self._chunked and not self._body_left:
                if not self._read_chunk_size():
                    break
                continue
            size = len(rest) if self._body_left is None else min(self._body_left, len(rest))
            body += rest[:size]
            del rest[:size]
            if self._body_left is not None:
                self._body_left -= size
                self.complete = not self._body_left and not self._chunked
        return bytes(body)

    def _read_head(self) -> bool:
        """Read a head; return whether it was complete. An interim response (1xx) is skipped."""
        rest = self.rest
        del rest[: len(rest) - len(rest.lstrip(b"\r\n"))]
        if rest[: len(_START)].upper() != _START[: len(rest)]:
            raise UnreadableError("no status line")
        end = _BLANK_LINE.search(rest, max(0, self._searched - 3))
        if end is None:
            self._searched = len(rest)
            if len(rest) > self._head_limit:
                raise UnreadableError("a head without an end")
            return False
        self._searched = 0
        line, *fields = _LINE_END.split(_FOLD.sub(b" ", bytes(rest[: end.start()])))
        found = _STATUS_LINE.fullmatch(line)
        if found is None:
            raise UnreadableError("no status line")
        status = int(found.group(1))
        if status == 101:
            raise UnreadableError("another protocol")
        if status >= 200:
            self._take_fields(status, fields)
            self.status = status
        del rest[: end.end()]
        return True

    def _take_fields(self, status: int, lines: list[bytes]) -> None:
        """Parse the fields of the head and the length of its body; an invalid line is skipped."""
        headers: list[Header] = []
        codings: list[bytes] = []
        lengths: set[bytes] = set()
        for line in lines:
            name, colon, value = line.partition(b":")
            name, value = name.strip().lower(), value.strip()
            if not colon or not name:
                continue
            if name == b"transfer-encoding":
                codings += (coding.strip().lower() for coding in value.split(b","))
            elif name == b"content-length":
                lengths.update(length.strip() for length in value.split(b","))
            else:
                headers.append((name, value))
        self._chunked = b"chunked" in codings
        if self._head_only or status in _BODILESS:
            self.complete = True
        elif self._chunked:
            headers.append((b"transfer-encoding", b"chunked"))
        elif lengths:
            self._body_left = _read_length(lengths)
            self.complete = not self._body_left
            headers.append((b"content-length", b"%d" % self._body_left))
        self.headers = headers

    def _read_chunk_size(self) -> bool:
        """Read the end of a chunk and the size line of the next; return whether it was complete."""
        rest = self.rest
        if self._body_left == 0:
            ending = b"\r\n" if rest[:1] == b"\r" else b"\n"
            if rest[:2] == b"\r":
                return False
            if not rest.startswith(ending):
                raise UnreadableError("a chunk without an end")
            del rest[: len(ending)]
            self._body_left = None
        end = _LINE_END.search(rest, 0, _LONGEST_LINE)
        if end is None:
            if len(rest) >= _LONGEST_LINE:
                raise UnreadableError("a chunk without a size")
            return False
        found = _CHUNK_SIZE.fullmatch(bytes(rest[: end.start()]))
        if found is None:
            raise UnreadableError("a chunk without a size")
        del rest[: end.end()]
        self._body_left = int(found.group(1), 16)
        # Trailers are dropped, and the connection is not used again: there is nothing left to read.
        self.complete = not self._body_left
        return True


def _read_length(texts: set[bytes]) -> int:
    found = [_LENGTH.fullmatch(text) for text in texts]
    lengths = {int(match.group(1)) for match in found if match is not None}
    if None in found or len(lengths) != 1:
        raise UnreadableError("lengths that differ, or are invalid")
    return lengths.pop()
