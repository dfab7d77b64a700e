"""The walk of a file from its URL to its place: guarded, checked, and never half there.

It never sends the API key or a cookie to a file host, and never leaves an incomplete file under the final name.
"""

from __future__ import annotations

import os
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import anyio

from videorouter.errors import DownloadError, InvalidRequestError
from videorouter.io.transport.seam import Outgoing, Probe, WireError
from videorouter.models import Download, Task, Video, VideoResult

if TYPE_CHECKING:
    from videorouter.io.call import Caller

_BLOCK = 4 * 2**20


async def save(
    caller: Caller, source: VideoResult | Video | Task, dest: str | os.PathLike[str], *, deadline: float
) -> Download:
    """Save the first video of a result."""
    caller.check_open()
    video = source if isinstance(source, Video) else _find_result(source).video
    place = Path(dest)
    if place.is_dir() or str(dest).endswith("/"):
        place = place / f"{video.video_id or 'video'}.mp4"
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = place.with_name(f".{place.name}.{secrets.token_hex(16)}.part")
    began = time.monotonic()
    try:
        with temporary.open("xb", buffering=0) as file:
            size = await _fill(caller, video, file.write, deadline=deadline)
            os.fsync(file.fileno())
        temporary.replace(place)
    except OSError as error:
        msg = f"{place} could not be written: {error}"
        raise DownloadError(msg, path=str(place)) from error
    finally:
        temporary.unlink(missing_ok=True)
    return Download(file=str(place), size=size, url=video.url, transferred=size, elapsed=time.monotonic() - began)


def _find_result(source: VideoResult | Task) -> VideoResult:
    result = source.result if isinstance(source, Task) else source
    if result is None:
        msg = "This task is not finished: `await router.wait(task)` first."
        raise InvalidRequestError(msg)
    return result


async def _fill(caller: Caller, video: Video, write: object, *, deadline: float) -> int:
    assert callable(write)  # noqa: S101
    if video.data is not None:
        write(video.data)
        return len(video.data)
    url = video.url or ""
    parts = urlsplit(url)
    if parts.scheme != "https" and not (caller.settings.loopback and parts.scheme == "http"):
        msg = f"Files are fetched over https only, not from {parts.scheme}://{parts.hostname}."
        raise DownloadError(msg, result_url=url)
    headers = ((b"user-agent", caller.settings.user_agent.encode("latin-1")), (b"accept", b"*/*"))
    try:
        stream = await caller.shared.sender.stream(
            Outgoing(method="GET", url=url, headers=headers), Probe(), deadline=deadline, stall=30.0
        )
        size = 0
        try:
            if stream.status != 200:
                msg = f"The file host answered {stream.status}."
                raise DownloadError(msg, status=stream.status)
            block = bytearray()
            async for chunk in stream.chunks():
                block += chunk
                size += len(chunk)
                if len(block) >= _BLOCK:
                    await anyio.to_thread.run_sync(write, bytes(block))
                    block.clear()
            await anyio.to_thread.run_sync(write, bytes(block))
        finally:
            await stream.aclose()
    except WireError as error:
        raise DownloadError(error.message, host=error.host) from error
    return size
