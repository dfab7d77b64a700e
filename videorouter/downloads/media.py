"""Reads the facts of a video file without a decoder, and how they differ from the request.

It reads MP4 and QuickTime (``downloads.mp4``), WebM and Matroska (``downloads.webm``), and GIF (``downloads.gif``).
Steps, depth and kept bytes are bounded, and nothing here raises: a fact that is missing or wrong is unknown.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec

from videorouter.downloads.gif import GifParser
from videorouter.downloads.mp4 import BoxParser, show_head
from videorouter.downloads.webm import ElementParser
from videorouter.models import Media, Mismatch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_SNIFF = 12
_LEAST = 8
_FIRST_BOXES = frozenset({b"ftyp", b"styp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"})
"""The boxes that an MP4 or QuickTime file may begin with."""

_GIF = frozenset({b"GIF87a", b"GIF89a"})
_EBML = b"\x1a\x45\xdf\xa3"


class MediaReader:
    """Reads a file's facts from its bytes, in order and in pieces of any size, as they are written or sent.

    ``at`` counts the bytes seen. With the whole file at hand, skip ahead: set ``at`` to ``wanted``, feed from there.
    """

    __slots__ = ("_head", "_held", "_missed", "_parser", "at")

    def __init__(self) -> None:
        self.at: int = 0
        self._head = b""
        self._held = bytearray()
        self._parser: BoxParser | ElementParser | GifParser | None = None
        self._missed = False

    @property
    def wanted(self) -> int:
        """Where the next bytes lie that matter."""
        return (self._parser.place if self._parser is not None else 0) + len(self._held)

    @property
    def missing(self) -> int:
        """How many bytes from ``wanted`` on are needed; 0 when no more are."""
        if self._missed or (self._parser is not None and self._parser.done):
            return 0
        return (self._parser.need if self._parser is not None else _SNIFF) - len(self._held)

    @property
    def steps(self) -> int:
        """How many boxes or elements were read."""
        return self._parser.steps if self._parser is not None else 0

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Read the next bytes, which begin at ``at``."""
        begin = self.at
        self.at = end = begin + len(data)
        while (missing := self.missing) > 0:
            wanted = self.wanted
            if wanted >= end:
                return
            if wanted < begin:
                self._missed = True  # bytes that matter were skipped: what follows means nothing
                return
            if not self._held and self._parser is not None and end - wanted >= missing:
                self._parser.parse(data, begin)
                continue
            self._held += data[wanted - begin : wanted - begin + missing]
            if end - wanted >= missing:
                self._go_on()

    def finish(self, size: int, *, framed: bool = True) -> str | None:
        """Return why a file of this size is not a whole video, or ``None``. Unless ``framed``, no length was declared."""
        if not self._head and self._held:
            self._choose(bytes(self._held))
        if size == 0:
            return "it is empty"
        if size < _LEAST:
            return "it is too short to be a video"
        if self._parser is None or self._missed:
            return self.reason
        self._parser.end(bytes(self._held))
        self._held.clear()
        reason = self._parser.finish(size, framed=framed)
        if reason is None and isinstance(self._parser, BoxParser) and self._head[4:8] != b"ftyp":
            media = self._parser.media()  # old QuickTime files begin with any box, and then must hold a video
            if media.container != "mov" or media.video_codec is None:
                return f"it is not an MP4 file: it begins with {show_head(self._head)}"
        return reason

    @property
    def reason(self) -> str | None:
        """Why this is not a video file, as soon as that is known."""
        if self._parser is None:
            return f"it is not a video file: it begins with {show_head(self._head)}" if self._head else None
        return self._parser.reason

    @property
    def media(self) -> Media | None:
        """The facts that are known; ``None`` for an unknown kind of file."""
        return self._parser.media() if self._parser is not None else None

    def _go_on(self) -> None:
        """Parse the bytes that were held back, now that there are enough."""
        block = bytes(self._held)
        if self._parser is None:
            self._choose(block)
            if self._parser is None:
                self._missed = True
                return
        begin = self._parser.place
        self._parser.parse(block, begin)
        del self._held[: self._parser.place - begin]

    def _choose(self, head: bytes) -> None:
        self._head = head
        if head[4:8] in _FIRST_BOXES:
            self._parser = BoxParser()
        elif head[:4] == _EBML:
            self._parser = ElementParser()
        elif head[:6] in _GIF:
            self._parser = GifParser()


def look_through(
    read: Callable[[int, int], bytes], size: int, *, framed: bool = True
) -> tuple[Media | None, str | None]:
    """Read the facts of a file of this size, and why it is not a whole video; ``read(start, count)`` gives its bytes."""
    reader = MediaReader()
    while (missing := reader.missing) > 0 and reader.wanted < size:
        reader.at = reader.wanted
        data = read(reader.at, missing)
        if not data:
            break
        reader.feed(data)
    reason = reader.finish(size, framed=framed)
    return reader.media, reason


_SECONDS = re.compile(r"\s*(\d{1,3}(?:\.\d{1,3})?)\s*(?:s|sec|secs|seconds?)?\s*", re.IGNORECASE)
_RATIO = re.compile(r"\s*(\d{1,5}(?:\.\d{1,3})?)\s*[:/]\s*(\d{1,5}(?:\.\d{1,3})?)\s*")
_LINES = re.compile(r"\s*(\d{3,4})\s*p?\s*", re.IGNORECASE)
_SIDES = re.compile(r"\s*(\d{2,5})\s*[x*\u00d7]\s*(\d{2,5})\s*", re.IGNORECASE)
_NEAR_SECONDS = 0.25
_NEAR_LENGTH = 0.03
_NEAR_RATIO = 0.02
_NEAR_AREA = 0.06


class _Asked(msgspec.Struct):
    duration: Any = None
    aspect_ratio: Any = None
    ratio: Any = None
    resolution: Any = None
    generate_audio: Any = None


_request_decoder = msgspec.json.Decoder(_Asked)


def compare_request(request: bytes | None, media: Media | None) -> tuple[Mismatch, ...]:
    """Compare a video with the body of its request; return the mismatches."""
    if request is None or media is None:
        return ()
    try:
        asked = _request_decoder.decode(request)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return ()
    return find_mismatches(msgspec.structs.asdict(asked), media)


def find_mismatches(asked: Mapping[str, object], media: Media) -> tuple[Mismatch, ...]:
    """Compare a video with its request; an unclear value on either side is not a mismatch."""
    found = (
        _compare_seconds(asked.get("duration"), media),
        _compare_ratio("aspect_ratio", asked.get("aspect_ratio"), media)
        or _compare_ratio("ratio", asked.get("ratio"), media),
        _compare_lines(asked.get("resolution"), media),
        _compare_sound(asked.get("generate_audio"), media),
    )
    return tuple(mismatch for mismatch in found if mismatch is not None)


def _compare_seconds(asked: object, media: Media) -> Mismatch | None:
    seconds = _match(_SECONDS, asked)
    if seconds is None or media.seconds is None:
        return None
    wanted = float(seconds[1])
    if wanted <= 0 or abs(media.seconds - wanted) <= max(_NEAR_SECONDS, _NEAR_LENGTH * wanted):
        return None
    return Mismatch(field="duration", asked=f"{wanted:g} s", delivered=f"{media.seconds:.4g} s")


def _compare_ratio(field: str, asked: object, media: Media) -> Mismatch | None:
    sides = _match(_RATIO, asked)
    if sides is None or not (media.width and media.height):
        return None
    across, down = float(sides[1]), float(sides[2])
    if not (across and down) or abs(media.width * down / (media.height * across) - 1) <= _NEAR_RATIO:
        return None
    return Mismatch(field=field, asked=f"{across:g}:{down:g}", delivered=f"{media.width}x{media.height}")


def _compare_lines(asked: object, media: Media) -> Mismatch | None:
    """Compare resolutions; some models read ``720p`` as a number of pixels in all, which is accepted too."""
    lines = _read_lines(asked)
    if lines is None or not (media.width and media.height):
        return None
    short, area = min(media.width, media.height), media.width * media.height
    if abs(short / lines - 1) <= _NEAR_RATIO or abs(area / (lines * lines * 16 / 9) - 1) <= _NEAR_AREA:
        return None
    return Mismatch(field="resolution", asked=str(asked).strip(), delivered=f"{media.width}x{media.height}")


def _compare_sound(asked: object, media: Media) -> Mismatch | None:
    if not isinstance(asked, bool) or media.has_sound is None or media.has_sound is asked:
        return None
    words = {True: "sound", False: "no sound"}
    return Mismatch(field="generate_audio", asked=words[asked], delivered=words[media.has_sound])


def _read_lines(asked: object) -> int | None:
    """Return the short side that a resolution names."""
    if isinstance(asked, str) and asked.strip().lower() == "4k":
        return 2160
    sides, lines = _match(_SIDES, asked), _match(_LINES, asked)
    if sides is not None:
        return min(int(sides[1]), int(sides[2]))
    return int(lines[1]) if lines is not None and int(lines[1]) else None


def _match(pattern: re.Pattern[str], asked: object) -> re.Match[str] | None:
    """Match a field, if it is text or a number."""
    if isinstance(asked, bool) or not isinstance(asked, str | int | float):
        return None
    try:
        return pattern.fullmatch(str(asked))
    except ValueError:  # a number of thousands of digits
        return None
