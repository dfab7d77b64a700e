"""Reads the boxes of an MP4 or QuickTime file: whether they fill it, and the facts of its video.

A box is a big-endian 32-bit size, four letters, and its content; size 1 means that a 64-bit size follows, and size 0,
on ``mdat``, that it reaches to the end (ISO/IEC 14496-12, 4.2).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from videorouter.downloads.mp4_facts import BoxFacts

if TYPE_CHECKING:
    from videorouter.models import Media

MAX_BOXES = 100_000
"""More than any fragmented recording has; each costs a read."""


_READ = frozenset({b"ftyp", b"moov", b"moof", b"sidx"})
_MAX_KEPT = 4 * 2**20
_HEAD = struct.Struct(">I4s")
_LONG = struct.Struct(">Q")


class BoxParser:
    """Reads the boxes of an MP4 or QuickTime file; ``downloads.media`` feeds it. Bad content of a box fails no file.

    ``place`` is where the next box begins, ``need`` the bytes needed from there, ``reason`` why the file is not whole,
    ``open_ended`` whether the last box reaches to the end by its own account.
    """

    __slots__ = ("_boxes", "_ends", "facts", "need", "open_ended", "place", "reason")

    def __init__(self) -> None:
        self.place: int = 0
        self.need: int = 8
        self.reason: str | None = None
        self.open_ended: bool = False
        self.facts: BoxFacts = BoxFacts()
        self._boxes = 0
        self._ends = 0

    @property
    def done(self) -> bool:
        """Whether no further byte can change anything."""
        return self.open_ended or self.reason is not None

    @property
    def steps(self) -> int:
        """How many boxes were read, nested ones too."""
        return self._boxes + self.facts.steps

    def parse(self, data: bytes | bytearray | memoryview, begin: int) -> None:
        """Parse as far as these bytes allow, which begin at byte ``begin`` of the file."""
        end = len(data)
        place = self.place - begin
        need = 8
        while end - place >= 8:
            size, kind = _HEAD.unpack_from(data, place)
            head = 8
            if size == 1:
                if end - place < 16:
                    need = 16
                    break
                size = _LONG.unpack_from(data, place + 8)[0]
                head = 16
            if size < head:
                if size == 0 and kind == b"mdat":
                    self.open_ended = True
                else:
                    self.reason = f"a box at byte {begin + place} ({show_head(kind)}) has an impossible size"
                break
            self._ends = begin + place + size
            if kind in _READ:
                keep = min(size, head + _MAX_KEPT)
                if end - place < keep:
                    need = keep
                    break
                self.facts.read(kind, bytes(data[place + head : place + keep]), whole=keep == size)
            self._boxes += 1
            if self._boxes > MAX_BOXES:
                self.reason = f"it has more than {MAX_BOXES} top-level boxes"
                break
            place += size
        self.place = begin + place
        self.need = need

    def end(self, rest: bytes) -> None:
        """Read what there is of a truncated last box."""
        if len(rest) >= 16 and rest[4:8] in _READ:
            self.facts.read(rest[4:8], rest[16 if rest[:4] == b"\0\0\0\1" else 8 :], whole=False)

    def finish(self, size: int, *, framed: bool = True) -> str | None:
        """Return why a file of this size is not whole, or ``None``.

        Unless ``framed``, an open-ended last box proves nothing.
        """
        if self.reason is not None:
            return self.reason
        if self.open_ended:
            return None if framed else "neither the file host nor the file says where it ends, so it may be cut"
        if self._ends > size:
            return f"its last box ends {self._ends - size} bytes past the end: it is cut"
        return "bytes that are not a box follow its last box" if self.place < size else None

    def media(self) -> Media:
        """The facts that are known."""
        return self.facts.media()


def describe_content(head: bytes) -> str:
    """Describe bytes that are not an MP4, for a message."""
    if head[4:8] == b"ftyp":
        return "an MP4 file"
    text = head[:512].lstrip(b"\xef\xbb\xbf \t\r\n")
    lowered = text[:64].lower()
    if lowered.startswith((b"<!doctype", b"<html", b"<head", b"<body")):
        return "an HTML page"
    if lowered.startswith((b"<?xml", b"<error")):
        return "an XML document"
    if text[:1] in (b"{", b"["):
        return "JSON"
    if head[:2] == b"\x1f\x8b":
        return "gzip data"
    if head[:4] == b"\x1a\x45\xdf\xa3":
        return "a WebM or Matroska file"
    if text and all(byte >= 32 or byte in b"\t\r\n" for byte in text):
        return "text"
    return "unknown data"


def show_head(head: bytes) -> str:
    """Show the first bytes, for a message."""
    return repr(head[:8])[1:]
