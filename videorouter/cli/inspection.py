"""Whether a saved file is a whole MP4 that plays: its boxes fill it, and every frame decodes.

Importing this needs PyAV, from the extra ``sandbox``. It reads files and never writes one.
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import av
import av.error

if TYPE_CHECKING:
    from pathlib import Path

_POSTER_AT = 0.4
"""The part of a video after which its poster is taken."""


class NotPlayableError(Exception):
    """The file is no whole, playable MP4; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What was found in a file.

    Attributes:
        size: Bytes.
        width: Pixels.
        height: Pixels.
        frames: How many were decoded.
        seconds: How long it plays.
        codec: The video codec's name.
        poster: One frame as a JPEG file.
    """

    size: int
    width: int
    height: int
    frames: int
    seconds: float
    codec: str
    poster: bytes


def inspect_video(path: Path) -> Inspection:
    """Decode a file from end to end."""
    _check_boxes(path)
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise NotPlayableError(f"{path} has no picture")
            stream = container.streams.video[0]
            wanted = max(0, int(stream.frames * _POSTER_AT))
            frames, poster = 0, b""
            for frame in container.decode(stream):
                if frames == wanted:
                    picture = io.BytesIO()
                    frame.to_image().save(picture, "JPEG", quality=82)  # type: ignore[no-untyped-call]
                    poster = picture.getvalue()
                frames += 1
            duration = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else 0.0
            expected, codec, width, height = stream.frames, stream.codec_context.name, stream.width, stream.height
    except av.error.FFmpegError as error:
        raise NotPlayableError(f"{path} does not decode: {error}") from error
    if frames == 0 or (expected and frames != expected):
        raise NotPlayableError(f"{path} announces {expected} frames, and {frames} decode")
    return Inspection(
        size=path.stat().st_size,
        width=width,
        height=height,
        frames=frames,
        seconds=duration,
        codec=codec,
        poster=poster,
    )


def _check_boxes(path: Path) -> None:
    """The top-level boxes must begin with ``ftyp``, hold a ``moov`` and fill the file."""
    size = path.stat().st_size
    kinds: list[bytes] = []
    with path.open("rb") as file:
        place = 0
        while place < size:
            file.seek(place)
            head = file.read(16)
            length, kind = int.from_bytes(head[:4], "big"), head[4:8]
            if length == 1:
                length = int.from_bytes(head[8:16], "big")
            elif length == 0:
                length = size - place
            if len(head) < 8 or length < 8:
                raise NotPlayableError(f"{path} is broken at byte {place}")
            kinds.append(kind)
            place += length
    if place != size or kinds[:1] != [b"ftyp"] or b"moov" not in kinds:
        raise NotPlayableError(f"{path} is no whole MP4 file: {os.fspath(path)} ends inside a box or lacks one")
