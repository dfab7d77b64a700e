"""Reads a GIF file: its size, and whether it is whole.

A header and a table of colors are followed by blocks: pictures and extensions, each with data in sub-blocks of at most
255 bytes of which an empty one is the last, until the trailer (CompuServe, GIF89a, 1990).
"""

from __future__ import annotations

from videorouter.models import Media

MAX_BLOCKS = 4_000_000
"""The most sub-blocks that are read in one file: about a gigabyte."""

_HEADER, _PICTURE, _EXTENSION = 13, 10, 2
_PICTURE_MARK, _EXTENSION_MARK, _TRAILER = 0x2C, 0x21, 0x3B


class GifParser:
    """Reads the blocks of a GIF file; ``downloads.media`` feeds it.

    ``place`` is where the next block or sub-block begins, ``need`` the bytes needed from there, ``reason`` why the file
    is not whole. Once ``done``, no further byte can change anything.
    """

    __slots__ = ("_in_data", "_size", "done", "need", "place", "reason", "steps")

    def __init__(self) -> None:
        self.place: int = 0
        self.need: int = _HEADER
        self.reason: str | None = None
        self.steps: int = 0
        self.done: bool = False
        self._size = (0, 0)
        self._in_data = False

    def parse(self, data: bytes | bytearray | memoryview, begin: int) -> None:
        """Parse as far as these bytes allow, which begin at byte ``begin`` of the file."""
        end = len(data)
        place = self.place - begin
        while end - place >= self.need and not self.done:
            self.steps += 1
            if self._in_data:
                size = data[place]
                place += 1 + size
                self._in_data = size > 0
                self.need = 1
            elif begin + place == 0:
                self._size = int.from_bytes(data[6:8], "little"), int.from_bytes(data[8:10], "little")
                place += _HEADER + _count_colors(data[10])
                self.need = 1
            else:
                place = self._read_block(data, place, begin)
            if self.steps > MAX_BLOCKS:
                self._stop(f"it has more than {MAX_BLOCKS} blocks")
        self.place = begin + place

    def _read_block(self, data: bytes | bytearray | memoryview, place: int, begin: int) -> int:
        """Read the head of one block, if it is complete."""
        mark = data[place]
        size = {_PICTURE_MARK: _PICTURE, _EXTENSION_MARK: _EXTENSION, _TRAILER: 1}.get(mark)
        if size is None:
            self._stop(f"bytes that are not a block at byte {begin + place}")
        elif mark == _TRAILER:
            self.done = True
            place += 1
        elif len(data) - place < size:
            self.need = size
        else:
            # Behind a picture's head come its colors and a byte that says how its data is packed.
            place += size + (_count_colors(data[place + 9]) + 1 if mark == _PICTURE_MARK else 0)
            self._in_data = True
            self.need = 1
        return place

    def _stop(self, reason: str) -> None:
        self.reason, self.done = reason, True

    def end(self, rest: bytes) -> None:
        """Read what there is of a truncated header."""
        if not self.steps and len(rest) >= 10:
            self._size = int.from_bytes(rest[6:8], "little"), int.from_bytes(rest[8:10], "little")

    def finish(self, size: int, *, framed: bool = True) -> str | None:  # noqa: ARG002  its trailer says where it ends
        """Return why a file of this size is not whole, or ``None``."""
        if self.reason is not None:
            return self.reason
        return None if self.done and self.place <= size else "it ends before its trailer: it is cut"

    def media(self) -> Media:
        """The facts that are known."""
        width, height = self._size
        return Media(container="gif", width=width or None, height=height or None, video_codec="gif", has_sound=False)


def _count_colors(flags: int) -> int:
    """Return the bytes of a table of colors, by its flags."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0
