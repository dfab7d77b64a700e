"""Videos, rendered when they are first asked for, in a thread, kept while there is room.

H.264 in an MP4 that starts with its index, by PyAV; the same scene gives the same bytes. PyAV and Pillow are loaded by
the first video, not by the sandbox's start. Nothing here runs on the event loop but the bookkeeping.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import struct
import tempfile
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from videorouter.sandbox.scene import Scene, stage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from av import AudioFrame

    from videorouter.sandbox.settings import Settings
    from videorouter.sandbox.store import Store, StoredJob

_RATE = 44_100
_ROOM = 96 * 1024 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Reel:
    """A finished file and its strong ETag."""

    data: bytes
    etag: str


class Studio:
    """Renders the files of one sandbox.

    Args:
        settings: They say sizes and lengths.
        store: What the jobs asked for.
    """

    def __init__(self, settings: Settings, store: Store) -> None:
        self.files_url = ""
        self._settings = settings
        self._store = store
        self._workers: ThreadPoolExecutor | None = None
        self._reels: OrderedDict[bytes, Reel] = OrderedDict()
        self._size = 0
        self._running: dict[bytes, asyncio.Future[Reel]] = {}

    async def film(self, job: StoredJob, take: int) -> Reel:
        """Return one video of a job, rendering it when nobody has asked before.

        Args:
            job: The job.
            take: Which of its videos.
        """
        return await self._make(b"mp4", job, take, render)

    async def poster(self, job: StoredJob, take: int) -> Reel:
        """Return one frame of a video as JPEG.

        Args:
            job: The job.
            take: Which of its videos.
        """
        return await self._make(b"jpg", job, take, render_poster)

    def close(self) -> None:
        """End the threads as soon as they are done with what they do."""
        if self._workers is not None:
            self._workers.shutdown(wait=False, cancel_futures=True)
            self._workers = None
        for future in self._running.values():
            future.cancel()
        self._running.clear()

    async def _make(self, sort: bytes, job: StoredJob, take: int, work: Callable[[Scene, int], Reel]) -> Reel:
        scene = stage(job, take, store=self._store, settings=self._settings, files_url=self.files_url)
        key = sort + scene.digest()
        reel = self._reels.get(key)
        if reel is not None:
            self._reels.move_to_end(key)
            return reel
        running = self._running.get(key)
        if running is None:
            if self._workers is None:
                self._workers = ThreadPoolExecutor(2, thread_name_prefix="videorouter-sandbox")
            loop = asyncio.get_running_loop()
            running = loop.run_in_executor(self._workers, work, scene, self._settings.min_file_bytes)
            self._running[key] = running
            running.add_done_callback(lambda done: self._keep(key, done))
        return await asyncio.shield(running)

    def _keep(self, key: bytes, done: asyncio.Future[Reel]) -> None:
        self._running.pop(key, None)
        if done.cancelled() or done.exception() is not None:
            return
        reel = done.result()
        self._reels[key] = reel
        self._size += len(reel.data)
        while self._size > _ROOM and len(self._reels) > 1:
            _, old = self._reels.popitem(last=False)
            self._size -= len(old.data)


def render(scene: Scene, least: int) -> Reel:
    """Return a scene as an MP4 file.

    Args:
        scene: What it shows.
        least: Bytes that the file must have; a ``free`` box fills it up.
    """
    import av  # noqa: PLC0415 - the first video pays for it, not the start
    from av.video.stream import VideoStream  # noqa: PLC0415

    from videorouter.sandbox.painting import Painter  # noqa: PLC0415

    painter = Painter(scene)
    with tempfile.TemporaryDirectory(prefix="videorouter-sandbox-") as folder:
        path = Path(folder) / "video.mp4"
        with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart", "fflags": "+bitexact"}) as file:
            stream = file.add_stream("libx264", rate=scene.rate)
            assert isinstance(stream, VideoStream)  # noqa: S101 - for the type checker
            stream.width, stream.height, stream.pix_fmt = scene.width, scene.height, "yuv420p"
            stream.options = {"preset": "superfast", "crf": "26", "threads": "1"}
            stream.thread_count = 1
            sound = file.add_stream("aac", rate=_RATE, layout="mono") if scene.sound else None
            for number in range(scene.frames):
                picture = av.VideoFrame.from_image(painter.paint(number))  # type: ignore[no-untyped-call]
                file.mux(stream.encode(picture))
            file.mux(stream.encode(None))
            if sound is not None:
                for samples in hum(scene.seconds):
                    file.mux(sound.encode(samples))
                file.mux(sound.encode(None))
        data = path.read_bytes()
    missing = least - len(data)
    if missing > 0:
        data += struct.pack(">I4s", max(8, missing), b"free") + bytes(max(0, missing - 8))
    return bind(data)


def hum(seconds: float) -> Iterator[AudioFrame]:
    """A quiet tone of that length."""
    import av  # noqa: PLC0415 - as above

    count = round(seconds * _RATE)
    wave = struct.pack(f"<{_RATE}f", *(math.sin(2 * math.pi * 220 * place / _RATE) / 20 for place in range(_RATE)))
    for start in range(0, count, _RATE):
        frame = av.AudioFrame(format="flt", layout="mono", samples=min(_RATE, count - start))
        frame.planes[0].update(wave[: frame.planes[0].buffer_size].ljust(frame.planes[0].buffer_size, b"\0"))
        frame.sample_rate, frame.pts = _RATE, start
        yield frame


def render_poster(scene: Scene, _least: int) -> Reel:
    """Return a frame of a scene as JPEG, at most 480 pixels wide.

    Args:
        scene: What it shows.
    """
    import io  # noqa: PLC0415

    from videorouter.sandbox.painting import Painter  # noqa: PLC0415

    frame = Painter(scene).paint(scene.frames * 2 // 5)
    frame.thumbnail((480, 480))
    out = io.BytesIO()
    frame.save(out, "JPEG", quality=82)
    return bind(out.getvalue())


def bind(data: bytes) -> Reel:
    """Return a file with its ETag.

    Args:
        data: The file.
    """
    return Reel(data=data, etag=f'"{hashlib.blake2b(data, digest_size=16).hexdigest()}"')
