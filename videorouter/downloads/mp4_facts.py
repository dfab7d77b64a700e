"""Reads the facts of a video from the index of an MP4 or QuickTime file: ``moov``, and the fragments' ``moof``.

It takes whole boxes and never raises: an unreadable fact is unknown. Box layouts: ISO/IEC 14496-12.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, ClassVar

from videorouter.downloads.codecs import name_sample_entry
from videorouter.models import Media

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_STEPS = 100_000
"""The most nested boxes that are read in one file; later facts stay unknown."""

_MAX_TRACKS = 64
_MAX_DEPTH = 8
_MAX_TIMES = 8192
_MAX_SIDE = 2**20
_ENTERED = frozenset({b"trak", b"edts", b"mdia", b"minf", b"stbl", b"mvex", b"traf"})
_NO_DURATION = frozenset({0, 2**32 - 1, 2**64 - 1})
_HEAD = struct.Struct(">I4s")
_WORD = struct.Struct(">I")
_LONG = struct.Struct(">Q")
_PAIR = struct.Struct(">II")
_MATRIX = struct.Struct(">9i")
_FIELDS = tuple(flags.bit_count() for flags in range(16))
"""Words a sample has in ``trun``, by the flags that say which."""

_OFFSET = struct.Struct(">i")
_EDIT, _EDIT_WIDE = struct.Struct(">Ii4x"), struct.Struct(">Qq4x")
_TREX = struct.Struct(">III")
_SIDES = struct.Struct(">HH")


class _BoxTrack:
    """One track; times count ticks, of which ``timescale`` make a second.

    ``span`` adds up its frames, the first of which is decoded at ``start`` and shown ``lag`` later; an edit list leaves
    out what lies before ``edit``, and shows nothing for ``pause`` ticks of the movie.
    """

    __slots__ = (
        "codec", "edit", "end", "frames", "handler", "height", "lag", "length", "number", "pause", "pixel_ratio",
        "shown", "span", "start", "stretch", "timescale", "turned", "usual", "width",
    )  # fmt: skip

    def __init__(self) -> None:
        self.number: int = 0
        self.handler: bytes | None = None
        self.codec: str | None = None
        self.width: int = 0
        self.height: int = 0
        self.shown: tuple[int, int] = (0, 0)
        self.stretch: float = 0.0
        self.pixel_ratio: float = 0.0
        self.turned: bool = False
        self.timescale: int = 0
        self.length: int = 0
        self.frames: int = 0
        self.span: int = 0
        self.usual: int = 0
        self.start: int = 0
        self.end: int = 0
        self.lag: int = 0
        self.edit: int = 0
        self.pause: int = 0

    def measure(self) -> tuple[int, int] | None:
        """Return width and height as a player shows them: in square pixels, rotated as the file says."""
        width, height = self.width, self.height
        across, down = self.shown
        if not (width and height):
            width, height = across, down
        if not (width and height):
            return None
        ratio = self.pixel_ratio or self.stretch or (height * across / (width * down) if across and down else 1.0)
        if 1 <= width * ratio < _MAX_SIDE:
            width = round(width * ratio)
        return (height, width) if self.turned else (width, height)

    def count_fps(self) -> float | None:
        """Return the average frames per second."""
        return self.frames * self.timescale / self.span if self.frames and self.span and self.timescale else None


class BoxFacts:
    """The facts of one file, box by box."""

    __slots__ = (
        "_brand", "_complete", "_fragmented", "_indexed", "_length", "_matrix", "_moov", "_promised", "_time",
        "_timescale", "_track", "_tracks", "_usual", "steps",
    )  # fmt: skip

    def __init__(self) -> None:
        self.steps: int = 0
        self._brand: bytes | None = None
        self._moov = False
        self._complete = True
        self._fragmented = False
        self._timescale = 0
        self._length = 0
        self._promised = 0
        self._indexed = 0.0
        self._matrix: tuple[int, ...] = (65536, 0, 0, 0, 65536, 0, 0, 0, 2**30)
        self._tracks: list[_BoxTrack] = []
        self._track: _BoxTrack | None = None
        self._time = 0
        self._usual = 0

    def read(self, kind: bytes, content: bytes, *, whole: bool = True) -> None:
        """Read the next top-level box of a relevant kind; ``whole``: the content is complete."""
        if kind == b"ftyp":
            self._brand = self._brand or content[:4]
        elif kind == b"moov":
            if self._moov:
                return
            self._moov = True
            self._complete = whole
            self._read_boxes(content, 0, len(content), 0)
        elif kind == b"moof":
            self._fragmented = True
            self._complete = self._complete and whole
            self._read_boxes(content, 0, len(content), 0)
        elif kind == b"sidx":
            self._read_sidx(content, 0, len(content))

    def media(self) -> Media:
        """The facts that are known."""
        video = next((track for track in self._tracks if track.handler == b"vide"), None)
        sound = next((track for track in self._tracks if track.handler == b"soun"), None)
        width, height = (video and video.measure()) or (None, None)
        seconds = self._find_seconds()
        fps = video and video.count_fps()
        return Media(
            container="mp4" if self._brand not in {None, b"qt  "} else "mov",
            seconds=round(seconds, 3) if seconds else None,
            width=width,
            height=height,
            fps=round(fps, 3) if fps else None,
            video_codec=video.codec if video else None,
            audio_codec=sound.codec if sound else None,
            has_sound=True if sound else (False if self._moov and self._complete else None),
        )

    def _find_seconds(self) -> float | None:
        """Return the duration. ``mvhd`` has it, edits included, but in a fragmented file only for ``moov``."""
        if self._fragmented:
            if self._complete and any(track.end for track in self._tracks):
                return self._add_up()
            promised = self._promised / self._timescale if self._timescale else 0.0
            return self._indexed or promised or None
        if self._length and self._timescale:
            return self._length / self._timescale
        lengths = [(track.length or track.span) / track.timescale for track in self._tracks if track.timescale]
        return max(lengths, default=None)

    def _add_up(self) -> float | None:
        """Add up from the first frame to the end of the last: a track may begin late, as frames are reordered."""
        timed = [track for track in self._tracks if track.timescale and track.end > track.start]
        if not timed:
            return None
        lags = [
            (track.start + track.lag - track.edit) / track.timescale
            + (track.pause / self._timescale if self._timescale else 0.0)
            for track in timed
        ]
        spans = [(track.end - track.start) / track.timescale for track in timed]
        return max(*spans, max(map(sum, zip(lags, spans, strict=True))) - min(lags))

    def _read_boxes(self, data: bytes, place: int, end: int, depth: int) -> None:
        """Read the boxes inside a box."""
        while end - place >= 8:
            size, kind = _HEAD.unpack_from(data, place)
            content = place + 8
            if size == 1 and end - place >= 16:
                size = _LONG.unpack_from(data, content)[0]
                content = place + 16
            elif size == 0:
                size = end - place
            self.steps += 1
            if size < content - place or self.steps > MAX_STEPS:
                self._complete = False
                return
            last = place + size
            if last > end:
                last = end
                self._complete = False
            reader = self._READERS.get(kind)
            if reader is not None:
                if last - content >= 8:
                    reader(self, data, content, last)
            elif kind in _ENTERED and depth < _MAX_DEPTH:
                if kind == b"trak":
                    if len(self._tracks) >= _MAX_TRACKS:
                        self._complete = False
                        return
                    self._tracks.append(_BoxTrack())
                self._read_boxes(data, content, last, depth + 1)
            place += size

    @property
    def _last(self) -> _BoxTrack:
        return self._tracks[-1] if self._tracks else _BoxTrack()

    def _read_mvhd(self, data: bytes, place: int, end: int) -> None:
        self._timescale, self._length = _read_times(data, place, end)
        where = place + (48 if data[place] == 1 else 36)
        if end - where >= 36:
            self._matrix = _MATRIX.unpack_from(data, where)

    def _read_tkhd(self, data: bytes, place: int, end: int) -> None:
        track = self._last
        where = place + (52 if data[place] == 1 else 40)
        if end - where < 44:
            return
        track.number = _WORD.unpack_from(data, where - 32 if data[place] == 1 else where - 28)[0]
        a, b, _, c, d, *_ = _MATRIX.unpack_from(data, where)
        across, down = _PAIR.unpack_from(data, where + 36)
        track.shown = across >> 16, down >> 16
        e, f, _, g, h, *_ = self._matrix
        a, b, c, d = (a * e + b * g) >> 16, (a * f + b * h) >> 16, (c * e + d * g) >> 16, (c * f + d * h) >> 16
        track.turned = abs(b) > abs(a)
        wide, high = (a * a + c * c) ** 0.5, (b * b + d * d) ** 0.5
        if across and down and wide > 1 and high > 1 and abs(wide / high - 1) > 0.01:
            track.stretch = wide / high

    def _read_mdhd(self, data: bytes, place: int, end: int) -> None:
        track = self._last
        track.timescale, track.length = _read_times(data, place, end)

    def _read_hdlr(self, data: bytes, place: int, end: int) -> None:
        track = self._last
        if track.handler is None and end - place >= 12:  # QuickTime has a second one, of the data's own handler
            track.handler = data[place + 8 : place + 12]

    def _read_elst(self, data: bytes, place: int, end: int) -> None:
        track = self._last
        form = _EDIT_WIDE if data[place] == 1 else _EDIT
        for where in range(place + 8, min(end, place + 8 + 2 * form.size) - form.size + 1, form.size):
            pause, media_time = form.unpack_from(data, where)
            if media_time >= 0:
                track.edit = media_time
                return
            track.pause = pause

    def _read_stsd(self, data: bytes, place: int, end: int) -> None:
        track = self._last
        if track.codec is not None or end - place < 24:
            return
        size, code = _HEAD.unpack_from(data, place + 8)
        entry = data[place + 8 : min(end, place + 8 + max(size, 16))]
        track.codec = name_sample_entry(code, entry)
        if track.handler != b"vide" or len(entry) < 36:
            return
        track.width, track.height = _SIDES.unpack_from(entry, 32)
        found = entry.find(b"\0\0\0\x10pasp")
        if found >= 0 and len(entry) - found >= 16:
            across, down = _PAIR.unpack_from(entry, found + 8)
            track.pixel_ratio = across / down if down else 0.0

    def _read_stts(self, data: bytes, place: int, end: int) -> None:
        track = self._last
        count = min(_WORD.unpack_from(data, place + 4)[0], (end - place - 8) // 8)
        if count <= _MAX_TIMES:
            times = struct.unpack_from(f">{2 * count}I", data, place + 8)
            counts, lengths = times[::2], times[1::2]
            track.frames = sum(counts)
            track.span = sum(map(int.__mul__, counts, lengths))
            track.end = track.span

    def _read_stsz(self, data: bytes, place: int, end: int) -> None:
        track = self._last
        if not track.frames and end - place >= 12:  # its times were too many to add up
            track.frames = _WORD.unpack_from(data, place + 8)[0]
            track.span = track.end = track.length

    def _read_trex(self, data: bytes, place: int, end: int) -> None:
        self._fragmented = True
        if end - place >= 16:
            number, _, usual = _TREX.unpack_from(data, place + 4)
            for track in self._tracks:
                if track.number == number:
                    track.usual = usual

    def _read_mehd(self, data: bytes, place: int, end: int) -> None:
        self._promised = _read_number(data, place, end, 4)

    def _read_tfhd(self, data: bytes, place: int, end: int) -> None:
        flags, number = _PAIR.unpack_from(data, place)
        self._track = track = next((track for track in self._tracks if track.number == number), None)
        if track is None:
            return
        self._time = track.end
        self._usual = track.usual
        if flags & 0x8:
            where = place + 8 + 8 * (flags & 1) + 2 * (flags & 2)
            if end - where >= 4:
                self._usual = _WORD.unpack_from(data, where)[0]

    def _read_tfdt(self, data: bytes, place: int, end: int) -> None:
        track = self._track
        if track is not None:
            self._time = _read_number(data, place, end, 4)
            if not track.frames:
                track.start = self._time

    def _read_trun(self, data: bytes, place: int, end: int) -> None:
        track = self._track
        if track is None:
            return
        flags, count = _PAIR.unpack_from(data, place)
        width = _FIELDS[flags >> 8 & 15]
        where = place + 8 + 4 * (flags & 1) + (flags & 4)
        if not track.frames and flags & 0x800 and end - where >= 4 * width:
            track.lag = _OFFSET.unpack_from(data, where + 4 * width - 4)[0]
        if flags & 0x100:
            count = min(count, (end - where) // (4 * width))
            length = sum(struct.unpack_from(f">{count * width}I", data, where)[::width]) if count > 0 else 0
        else:
            length = count * self._usual
        track.frames += count
        track.span += length
        self._time += length
        track.end = max(track.end, self._time)

    def _read_sidx(self, data: bytes, place: int, end: int) -> None:
        wide = data[place : place + 1] == b"\1"
        where = place + (28 if wide else 20)
        if end - where < 4:
            return
        timescale = _WORD.unpack_from(data, place + 8)[0]
        count = min(_WORD.unpack_from(data, where)[0] & 0xFFFF, (end - where - 4) // 12)
        if timescale and count:
            begin = (_LONG if wide else _WORD).unpack_from(data, place + 12)[0]
            lengths = struct.unpack_from(f">{3 * count}I", data, where + 4)[1::3]
            self._indexed = max(self._indexed, (begin + sum(lengths)) / timescale)

    _READERS: ClassVar[dict[bytes, Callable[[BoxFacts, bytes, int, int], None]]] = {
        b"mvhd": _read_mvhd,
        b"tkhd": _read_tkhd,
        b"mdhd": _read_mdhd,
        b"hdlr": _read_hdlr,
        b"elst": _read_elst,
        b"stsd": _read_stsd,
        b"stts": _read_stts,
        b"stsz": _read_stsz,
        b"stz2": _read_stsz,
        b"trex": _read_trex,
        b"mehd": _read_mehd,
        b"tfhd": _read_tfhd,
        b"tfdt": _read_tfdt,
        b"trun": _read_trun,
    }


def _read_number(data: bytes, place: int, end: int, where: int) -> int:
    """Read a number of 64 bits in version 1 of a box and 32 bits in version 0."""
    wide = data[place] == 1
    if end - place < where + (8 if wide else 4):
        return 0
    number: int = (_LONG if wide else _WORD).unpack_from(data, place + where)[0]
    return number


def _read_times(data: bytes, place: int, end: int) -> tuple[int, int]:
    """Read the ticks per second and the duration of ``mvhd`` and ``mdhd``."""
    where = 20 if data[place] == 1 else 12
    if end - place < where + 4:
        return 0, 0
    timescale: int = _WORD.unpack_from(data, place + where)[0]
    length = _read_number(data, place, end, where + 4)
    return timescale, 0 if length in _NO_DURATION else length
