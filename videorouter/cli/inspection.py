"""Whether a saved file is a whole MP4 that plays: its boxes fill it, and every frame decodes.

Importing this needs PyAV, from the extra ``sandbox``. It reads files and never writes one.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import av
import av.error

from videorouter.downloads.file import read_media

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
    with path.open("rb") as file:
        _, reason = read_media(file.fileno(), path.stat().st_size)
    if reason is not None:
        raise NotPlayableError(f"{path} is no whole MP4 file: {reason}")
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
