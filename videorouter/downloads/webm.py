"""Reads a WebM or Matroska file: the facts of its video, and whether the file is whole.

An element is an id of one to four bytes, a size of one to eight, and its content; a size of all ones is unknown
(RFC 8794). ``Info`` and ``Tracks``, before the pictures, have the facts. Only where they lack the duration, as in
browsers' recordings, are the clusters' blocks read (RFC 9559).
"""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING

from videorouter.downloads.codecs import name_matroska
from videorouter.models import Media

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_STEPS = 100_000
"""The most elements that are read in one file."""

_MAX_KEPT = 2**20
_MAX_TRACKS = 64
_MAX_SIDE = 2**20
_MAX_BLOCK = 12
_LEAST_ID = 16
_UNIT_UNKNOWN = 4
_EBML, _DOC_TYPE = 0x1A45DFA3, 0x4282
_SEGMENT, _INFO, _TRACKS, _CLUSTER = 0x18538067, 0x1549A966, 0x1654AE6B, 0x1F43B675
_TICK, _DURATION = 0x2AD7B1, 0x4489
_ENTRY, _NUMBER, _TYPE, _CODEC, _PRIVATE, _FRAME_TIME = 0xAE, 0xD7, 0x83, 0x86, 0x63A2, 0x23E383
_VIDEO, _WIDTH, _HEIGHT, _ACROSS, _DOWN, _UNIT = 0xE0, 0xB0, 0xBA, 0x54B0, 0x54BA, 0x54B2
_PROJECTION, _ROLL = 0x7670, 0x7675
_TIME, _SIMPLE, _GROUP, _BLOCK, _LASTS = 0xE7, 0xA3, 0xA0, 0xA1, 0x9B
_KEPT = frozenset({_EBML, _INFO, _TRACKS})
_BLOCKS = frozenset({_SIMPLE, _BLOCK})
_READ = _KEPT | {_TIME, _LASTS}
_LENGTHS = bytes(0 if byte == 0 else 9 - byte.bit_length() for byte in range(256))
"""How many bytes an id or a size has, by its first byte."""

_MASKS = tuple((1 << 7 * length) - 1 for length in range(9))
"""Masks of the size in a size's bytes, by their number; all ones mean an unknown size."""


class _ElementTrack:
    """One track; times are in ticks."""

    __slots__ = ("codec", "first", "frame_time", "frames", "kind", "last", "lasts", "private", "roll", "shown", "size")

    def __init__(self) -> None:
        self.kind: int = 0
        self.codec: str = ""
        self.private: bytes = b""
        self.size: tuple[int, int] = (0, 0)
        self.shown: tuple[int, int] = (0, 0)
        self.roll: float = 0.0
        self.frame_time: int = 0
        self.frames: int = 0
        self.first: int = 0
        self.last: int = 0
        self.lasts: int = 0

    def measure(self) -> tuple[int, int] | None:
        """Return width and height as a player shows them."""
        width, height = self.size
        across, down = self.shown
        if not (width and height):
            return None
        if across and down and 1 <= height * across / down < _MAX_SIDE:
            width = round(height * across / down)
        return (height, width) if 45 < abs(self.roll) % 180 < 135 else (width, height)


class ElementParser:
    """Reads the elements of a file; ``downloads.media`` feeds it.

    ``place`` is where the next element begins, ``need`` the bytes needed from there, ``reason`` why it is not whole.
    """

    __slots__ = (
        "_block", "_by_number", "_cluster", "_complete", "_doc_type", "_duration", "_ends", "_segment_end", "_tick",
        "_tracks", "need", "place", "reason", "steps",
    )  # fmt: skip

    def __init__(self) -> None:
        self.place: int = 0
        self.need: int = 2
        self.reason: str | None = None
        self.steps: int = 0
        self._doc_type = ""
        self._ends = 0
        self._segment_end: int | None = 0
        self._tick = 1_000_000
        self._duration = 0.0
        self._tracks: list[_ElementTrack] | None = None
        self._complete = True
        self._by_number: dict[int, _ElementTrack] = {}
        self._cluster = 0
        self._block: _ElementTrack | None = None

    @property
    def done(self) -> bool:
        """Whether no further byte can change anything."""
        return self.reason is not None

    def parse(self, data: bytes | bytearray | memoryview, begin: int) -> None:
        """Parse as far as these bytes allow, which begin at byte ``begin`` of the file."""
        end = len(data)
        place = self.place - begin
        self.need = 2
        while end - place >= 2 and self.reason is None:
            room = end - place
            kind = data[place]
            id_length = _LENGTHS[kind]
            if room <= id_length:
                self.need = id_length + 1
                break
            size = data[place + id_length]
            size_length = _LENGTHS[size]
            head = id_length + size_length
            if kind < _LEAST_ID or not size_length:
                self.reason = f"bytes that are not an element at byte {begin + place}"
                break
            if room < head:
                self.need = head
                break
            if id_length > 1:
                kind = int.from_bytes(data[place : place + id_length], "big")
            if size_length > 1:
                size = int.from_bytes(data[place + id_length : place + head], "big")
            unknown = _MASKS[size_length]
            size &= unknown
            if kind in _BLOCKS and size != unknown:
                if room < head + _MAX_BLOCK and room < head + size:
                    self.need = head + min(size, _MAX_BLOCK)
                    break
                self._read_block(data, place + head, size)
                step = head + size
            else:
                step = self._find_step(kind, head, None if size == unknown else size, data, place, begin=begin)
                if not step:
                    break
            self.steps += 1
            if self.steps > MAX_STEPS:
                self.reason = f"it has more than {MAX_STEPS} elements"
            place += step
            self._ends = max(self._ends, begin + place)
        self.place = begin + place

    def _find_step(
        self, kind: int, head: int, size: int | None, data: bytes | bytearray | memoryview, place: int, *, begin: int
    ) -> int:
        """Read an element if it matters; return how far to go on, 0 until ``need`` bytes are there."""
        if kind == _SEGMENT:
            self._segment_end = None if size is None else begin + place + head + size
            return head
        if kind == _GROUP or (kind == _CLUSTER and (size is None or self._wants_blocks())):
            return head
        if size is None:
            self.reason = f"an element at byte {begin + place} has an impossible size"
            return 0
        if kind not in _READ:
            return head + size
        most = _MAX_KEPT if kind in _KEPT else _MAX_BLOCK
        need = head + min(size, most)
        if len(data) - place < need:
            self.need = need
            self._ends = max(self._ends, begin + place + head + size)
            return 0
        self._read(kind, bytes(data[place + head : place + need]), whole=size <= most)
        return head + size

    def end(self, rest: bytes) -> None:
        """Read what there is of a truncated last element."""
        for kind in _KEPT:
            name = kind.to_bytes(4, "big")
            if rest.startswith(name) and len(rest) > 5:
                self._read(kind, rest[4 + _LENGTHS[rest[4]] :], whole=False)

    def finish(self, size: int, *, framed: bool = True) -> str | None:
        """Return why a file of this size is not whole, or ``None``."""
        if self.reason is not None:
            return self.reason
        ends = max(self._ends, self._segment_end or 0)
        if ends > size:
            return f"its last element ends {ends - size} bytes past the end: it is cut"
        if self.place < size:
            return "bytes that are not an element follow its last one"
        if self._tracks is None:
            return "it holds no tracks"
        if self._segment_end is None:
            return None if framed else "neither the file host nor the file says where it ends, so it may be cut"
        return None

    def media(self) -> Media:
        """The facts that are known."""
        tracks = self._tracks or []
        video = next((track for track in tracks if track.kind == 1), None)
        sound = next((track for track in tracks if track.kind == 2), None)
        width, height = (video and video.measure()) or (None, None)
        seconds = self._find_seconds()
        fps = video and self._count_fps(video)
        return Media(
            container="webm" if self._doc_type == "webm" else "mkv",
            seconds=round(seconds, 3) if seconds else None,
            width=width,
            height=height,
            fps=round(fps, 3) if fps else None,
            video_codec=name_matroska(video.codec, video.private) if video else None,
            audio_codec=name_matroska(sound.codec, sound.private) if sound else None,
            has_sound=True if sound else (False if self._tracks is not None and self._complete else None),
        )

    def _wants_blocks(self) -> bool:
        """Whether only the blocks have the duration or the frame rate."""
        if self._tracks is None:
            return False
        video = next((track for track in self._tracks if track.kind == 1), None)
        return not self._duration or (video is not None and not video.frame_time)

    def _find_seconds(self) -> float | None:
        if self._duration:
            seconds = self._duration * self._tick / 1e9
            return seconds if math.isfinite(seconds) else None
        played = [track for track in self._by_number.values() if track.frames]
        if not played or self.reason is not None:
            return None
        ends = [track.last + (track.lasts or track.frame_time / self._tick) for track in played]
        return (max(ends) - min(track.first for track in played)) * self._tick / 1e9

    def _count_fps(self, video: _ElementTrack) -> float | None:
        if video.frame_time:
            return 1e9 / video.frame_time
        if video.last > video.first and self.reason is None:
            return (video.frames - 1) * 1e9 / ((video.last - video.first) * self._tick)
        return None

    def _read(self, kind: int, content: bytes, *, whole: bool) -> None:
        if kind == _TIME:
            self._cluster = int.from_bytes(content[:8], "big")
        elif kind == _LASTS:
            if self._block is not None:
                self._block.lasts = int.from_bytes(content[:8], "big")
        elif kind == _EBML:
            for name, value in _list_elements(content):
                if name == _DOC_TYPE:
                    self._doc_type = _read_text(value)
        elif kind == _INFO:
            for name, value in _list_elements(content):
                if name == _TICK:
                    self._tick = int.from_bytes(value[:8], "big") or self._tick
                elif name == _DURATION:
                    self._duration = max(0.0, _read_float(value))
        elif kind == _TRACKS and self._tracks is None:
            self._complete = whole
            self._tracks = []
            for name, value in _list_elements(content):
                if name == _ENTRY and len(self._tracks) < _MAX_TRACKS:
                    self._tracks.append(self._read_track(value))

    def _read_track(self, content: bytes) -> _ElementTrack:
        track = _ElementTrack()
        for name, value in _list_elements(content):
            number = int.from_bytes(value[:8], "big")
            if name == _NUMBER:
                self._by_number[number] = track
            elif name == _TYPE:
                track.kind = number
            elif name == _CODEC:
                track.codec = _read_text(value)
            elif name == _PRIVATE:
                track.private = value[:64]
            elif name == _FRAME_TIME:
                track.frame_time = number
            elif name == _VIDEO:
                _read_video(track, value)
        return track

    def _read_block(self, data: bytes | bytearray | memoryview, place: int, size: int) -> None:
        """Note when a frame is shown: a block begins with its track's number and its time in the cluster."""
        if size < 4:
            return
        number = data[place]
        length = _LENGTHS[number]
        if length != 1:
            if not length or size < length + 3:
                return
            number = int.from_bytes(data[place : place + length], "big")
        track = self._block = self._by_number.get(number & _MASKS[length])
        if track is not None:
            time = data[place + length] << 8 | data[place + length + 1]
            time += self._cluster - (65536 if time > 32767 else 0)
            if not track.frames or time < track.first:
                track.first = time
            if time >= track.last:
                track.last = time
                track.lasts = 0
            track.frames += 1


def _read_video(track: _ElementTrack, content: bytes) -> None:
    sides: dict[int, int] = {}
    for name, value in _list_elements(content):
        if name == _PROJECTION:
            for inner, roll in _list_elements(value):
                if inner == _ROLL:
                    track.roll = _read_float(roll)
        else:
            sides[name] = int.from_bytes(value[:8], "big")
    track.size = sides.get(_WIDTH, 0), sides.get(_HEIGHT, 0)
    if sides.get(_UNIT, 0) < _UNIT_UNKNOWN:
        track.shown = sides.get(_ACROSS, 0), sides.get(_DOWN, 0)


def _list_elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """List the elements inside an element, as far as they can be told apart."""
    place, end = 0, len(data)
    while end - place >= 2:
        id_length = _LENGTHS[data[place]]
        if not 1 <= id_length <= 4 or end - place <= id_length:
            return
        head = id_length + _LENGTHS[data[place + id_length]]
        if head == id_length or end - place < head:
            return
        size = int.from_bytes(data[place + id_length : place + head], "big") & ((1 << 7 * (head - id_length)) - 1)
        yield int.from_bytes(data[place : place + id_length], "big"), data[place + head : place + head + size]
        place += head + size


def _read_text(value: bytes) -> str:
    return value[:64].partition(b"\0")[0].decode("latin-1")


def _read_float(value: bytes) -> float:
    form = {4: ">f", 8: ">d"}.get(len(value))
    number: float = struct.unpack(form, value)[0] if form else 0.0
    return number if math.isfinite(number) else 0.0
