"""What a video shows, as a value: the words, the length, the size, the pictures and the video that it builds on.

The same request gives the same scene. This file decides sizes and lengths; it never draws.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from videorouter.sandbox.catalogue import read_duration
from videorouter.sandbox.uploads import PICTURE_FIELDS, find_held

if TYPE_CHECKING:
    from videorouter.sandbox.settings import Settings
    from videorouter.sandbox.store import Store, StoredJob

_LINES = {"480p": 480, "540p": 540, "720p": 720, "768p": 720, "1080p": 720, "4k": 720, "360p": 360}
_LONGEST = 15.0
_DEEPEST = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """A picture that the request names; ``data`` is ``None`` when the sandbox does not hold it."""

    label: str
    data: bytes | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """Everything that decides the frames of one video.

    Attributes:
        prompt: The prompt.
        model: The model id.
        take: Which of several videos of one request.
        seconds: Length.
        width: Pixels, even.
        height: Pixels, even.
        rate: Frames a second.
        seed: The request's seed.
        first: Picture to begin with.
        last: Picture to end with.
        references: Further pictures.
        parent: The scene that an edit builds on.
        sound: Whether it has a sound track.
    """

    prompt: str
    model: str
    take: int
    seconds: float
    width: int
    height: int
    rate: int
    seed: int
    first: Picture | None = None
    last: Picture | None = None
    references: tuple[Picture, ...] = ()
    parent: Scene | None = None
    sound: bool = False

    @property
    def frames(self) -> int:
        """How many frames there are."""
        return max(2, round(self.seconds * self.rate))

    def digest(self) -> bytes:
        """Return a digest of everything that decides the frames."""
        mark = hashlib.blake2b(digest_size=16)
        self._mark(mark)
        return mark.digest()

    def _mark(self, mark: hashlib.blake2b) -> None:
        plain = (self.prompt, self.model, self.take, self.seconds, self.width, self.height, self.rate, self.seed)
        mark.update(repr(plain).encode())
        for name, picture in (
            ("first", self.first),
            ("last", self.last),
            *(("more", item) for item in self.references),
        ):
            if picture is not None:
                mark.update(repr((name, picture.label, len(picture.data or b""))).encode())
                mark.update(picture.data or b"")
        if self.sound:
            mark.update(b"sound")
        if self.parent is not None:
            mark.update(b"parent")
            self.parent._mark(mark)  # noqa: SLF001 - a scene of its own kind


def stage(job: StoredJob, take: int, *, store: Store, settings: Settings, files_url: str, depth: int = 0) -> Scene:
    """Return the scene of one video of a job.

    Args:
        job: The job.
        take: Which of its videos.
        store: Where its parent and its pictures are.
        settings: They say the usual size and length.
        files_url: Origin of the sandbox's own files.
        depth: How many edits were followed so far.
    """
    body = json.loads(job.body)
    parent = None
    if job.parent is not None and depth < _DEEPEST:
        video = store.find_video(video_id=job.parent)
        older = None if video is None else store.job_of_number(video.number)
        if video is not None and older is not None:
            parent = stage(older, video.take, store=store, settings=settings, files_url=files_url, depth=depth + 1)
    pictures = {name: _find_pictures(body.get(name), store, files_url) for name in PICTURE_FIELDS}
    first = next(iter(pictures["image_url"] + pictures["start_image_url"]), None)
    last = next(iter(pictures["end_image_url"]), None)
    try:
        asked = read_duration(body.get("duration"), job.model)
    except ValueError:
        asked = None
    seconds = min(_LONGEST, asked or (parent.seconds if parent else settings.seconds))
    usual = (parent.width, parent.height) if parent else settings.size
    width, height = _measure(body.get("aspect_ratio", body.get("ratio")), body.get("resolution"), usual)
    seed = body.get("seed")
    return Scene(
        prompt=job.prompt,
        model=job.model,
        take=take,
        seconds=seconds,
        width=width,
        height=height,
        rate=24 if seconds <= 5 else 12,
        seed=seed if isinstance(seed, int) else 0,
        first=first,
        last=last,
        references=tuple(pictures["image_urls"][:4]),
        parent=parent,
        sound=body.get("generate_audio") is True,
    )


def _find_pictures(value: object, store: Store, files_url: str) -> tuple[Picture, ...]:
    urls = value if isinstance(value, list) else [value]
    return tuple(
        Picture(label=url[:120].partition(",")[0], data=find_held(url, store, files_url))
        for url in urls
        if isinstance(url, str) and url
    )


def _measure(ratio: object, resolution: object, usual: tuple[int, int]) -> tuple[int, int]:
    short = _LINES.get(str(resolution).lower())
    found = re.fullmatch(r"\s*(\d{1,2})\s*:\s*(\d{1,2})\s*", str(ratio))
    across, down = usual
    if found is not None and int(found[1]) and int(found[2]):
        across, down = int(found[1]), int(found[2])
    elif short is None:
        return across // 2 * 2, down // 2 * 2
    shape = min(3.0, max(1 / 3, across / down))
    short = short or min(usual)
    width, height = (short * shape, float(short)) if shape >= 1 else (float(short), short / shape)
    return round(width / 2) * 2, round(height / 2) * 2
