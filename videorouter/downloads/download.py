"""Saves the videos of a call's result: finds them, chooses a path for each, and saves several at a time.

A file is whole and right under its final name, or it is not there. ``downloads.save`` saves each one.
"""

from __future__ import annotations

import os
import time
from contextlib import aclosing, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import anyio

from videorouter.call.requests import find_request, keep_request
from videorouter.call.spool import view_inline
from videorouter.call.tasks import look_at_task
from videorouter.downloads.file import is_folder
from videorouter.downloads.names import name_video, number_name
from videorouter.downloads.save import save_one, stream_one
from videorouter.downloads.sink import is_sink
from videorouter.errors import DownloadError, InvalidRequestError, VideoRouterError
from videorouter.models import BatchItem, Download, Task, TaskStatus, Video, VideoResult
from videorouter.places import ObjectURL, read_url
from videorouter.plain import URLObject, as_url
from videorouter.record import AS_IS
from videorouter.threads import run_in_thread

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Sequence

    from typing_extensions import TypeIs

    from videorouter.call.caller import Caller
    from videorouter.downloads.file import Conflict
    from videorouter.downloads.save import DownloadOptions

Source: TypeAlias = Annotated[Video | VideoResult | Task | TaskStatus | BatchItem | str | URLObject, AS_IS]
Place: TypeAlias = Annotated[str | os.PathLike[str] | Any, AS_IS]
LOOK_SECONDS = 60.0
"""Timeout for the poll that refreshes a task's links."""

_WAITING = frozenset({408, 425, 429})
_RESULTS = (Video, VideoResult, Task, TaskStatus, BatchItem)


async def save(caller: Caller, source: Source, dest: Place, options: DownloadOptions) -> Download:
    """Save one video, or all videos of a result; return the first file, whose ``all`` has every one.

    One that fails does not stop the others. An expired link is refreshed once.
    """
    caller.check_open()
    videos = find_videos(source)
    places, conflict = await _choose_places(videos, dest, options)

    async def save_some(some: Sequence[Video], numbers: Sequence[int]) -> list[Download | VideoRouterError]:
        jobs = [partial(save_one, caller, some[n], places[n], options, conflict=conflict) for n in numbers]
        return await _run(jobs, concurrency=len(jobs))

    found = await save_some(videos, range(len(videos)))
    refused = [number for number, one in enumerate(found) if _may_have_expired(one, places[number])]
    fresh = await fetch_current_result(caller, source) if refused else None
    if fresh is not None and len(fresh.videos) == len(videos):
        for number, one in zip(refused, await save_some(fresh.videos, refused), strict=True):
            found[number] = one
    saved = all_saved(found)
    return saved[0].with_extras(all_=tuple(saved)) if len(saved) > 1 else saved[0]


async def save_many(
    caller: Caller,
    sources: Iterable[Source],
    dest: Place | Sequence[Place],
    options: DownloadOptions,
    *,
    concurrency: int,
) -> list[Download | VideoRouterError]:
    """Save many, ``concurrency`` at a time; return the outcomes in the order of the sources."""
    caller.check_open()
    wanted = list(sources)
    if isinstance(dest, list | tuple):
        places = list(dest)
        if len(places) != len(wanted):
            msg = f"There are {len(wanted)} files and {len(places)} places for them; give one place each, or a folder."
            raise InvalidRequestError(msg)
    else:
        if is_sink(dest):
            msg = "Many files do not fit into one file object; give a folder, or a list of places."
            raise InvalidRequestError(msg)
        places = [f"{_spell_place(dest).removesuffix('/')}/"] * len(wanted)
    pairs = zip(wanted, places, strict=True)
    return await _run([partial(save, caller, *pair, options) for pair in pairs], concurrency=concurrency)


@asynccontextmanager
async def stream(
    caller: Caller, source: Source, options: DownloadOptions
) -> AsyncGenerator[AsyncIterator[bytes], None]:
    """Yield a video's bytes as they arrive."""
    caller.check_open()
    videos = find_videos(source)
    if len(videos) > 1:
        msg = f"This result has {len(videos)} videos: stream one of them, such as result.videos[0]."
        raise InvalidRequestError(msg)
    async with aclosing(stream_one(caller, videos[0], options)) as chunks:
        yield chunks


async def fetch_current_result(caller: Caller, source: Source) -> VideoResult | None:
    """Fetch the current links of the task behind a result, if it has one; nothing is paid for that."""
    if isinstance(source, Task):
        task = source
    elif not isinstance(source, VideoResult | TaskStatus | BatchItem) or source.task_id is None:
        return None
    else:
        result = source if isinstance(source, VideoResult) else source.result
        task = Task(id=source.task_id, model=source.model if isinstance(source, BatchItem | VideoResult) else None)
        if result is not None and (request := find_request(result.video)) is not None:
            keep_request(task, request)
    if not task.id:
        return None
    try:
        return (await look_at_task(caller, task, deadline=time.monotonic() + LOOK_SECONDS)).result
    except VideoRouterError:
        return None


def is_expired(error: VideoRouterError) -> bool:
    """Whether a file host's refusal may mean an expired link: any 4xx that does not ask to wait."""
    return error.status is not None and 400 <= error.status < 500 and error.status not in _WAITING


def _may_have_expired(found: Download | VideoRouterError, place: Place) -> bool:
    if isinstance(found, Download) or not is_expired(found):
        return False
    return (
        isinstance(place, Path | ObjectURL) or found.attempts == 1
    )  # a file object may have bytes of an earlier attempt


def is_source(source: object) -> TypeIs[Source]:
    """Whether it is one thing to save, and not many."""
    return isinstance(source, _RESULTS) or as_url(source) is not None


def find_videos(source: object) -> tuple[Video, ...]:
    """Return the videos of a call's result; a URL counts as a video."""
    if isinstance(source, Video):
        videos: tuple[Video, ...] = (source,)
    elif isinstance(source, VideoResult):
        videos = source.videos
    elif isinstance(source, Task | TaskStatus | BatchItem):
        if source.result is None:
            msg = "It has no result yet, so there is nothing to save: `await router.wait(task)` first."
            raise InvalidRequestError(msg)
        videos = source.result.videos
    elif (url := as_url(source)) is not None:
        videos = (Video(url=url),)
    else:
        msg = (
            f"A result, a video, a finished task or a URL can be saved, not {type(source).__name__}. "
            "For many of them: `await router.download(them, folder)`."
        )
        raise InvalidRequestError(msg)
    for video in videos:
        if video.url is None and view_inline(video) is None:
            msg = "This video has neither a URL nor inline bytes: nothing can be saved."
            raise InvalidRequestError(msg)
    return videos


async def _choose_places(
    videos: tuple[Video, ...], dest: Place, options: DownloadOptions
) -> tuple[Sequence[Place], Conflict]:
    """Choose a path for each video, and what to do about older files there."""
    several = len(videos) > 1
    conflict: Conflict = "refuse" if options.overwrite is False else "replace"
    if is_sink(dest):
        if several:
            msg = f"This result has {len(videos)} videos, which do not fit into one file object: save each one."
            raise InvalidRequestError(msg)
        return [dest], conflict
    text = _spell_place(dest)
    url = read_url(text)
    if url is not None:
        return _choose_objects(videos, url, options)
    if "\0" in text:
        raise DownloadError("The destination's path contains a NUL character, which file names may not.")
    path = Path(text)
    places = [path] * len(videos)
    if text.endswith(("/", os.sep)) or await run_in_thread(partial(is_folder, path)):
        places = [path / name_video(video.url, video.video_id) for video in videos]
        conflict = "number" if options.overwrite is None else conflict
    if several:
        places = [place.with_name(number_name(place.name, number)) for number, place in enumerate(places, 1)]
    return places, conflict


def _choose_objects(
    videos: tuple[Video, ...], url: ObjectURL, options: DownloadOptions
) -> tuple[Sequence[Place], Conflict]:
    """Choose an object for each video, as for paths: a URL that ends in a slash is a folder."""
    conflict: Conflict = "refuse" if options.overwrite is False else "replace"
    places = [url] * len(videos)
    if url.endswith("/"):
        places = [url.with_name(name_video(video.url, video.video_id)) for video in videos]
        conflict = "number" if options.overwrite is None else conflict
    if len(videos) > 1:
        places = [place.with_name(number_name(place.name, number)) for number, place in enumerate(places, 1)]
    return places, conflict


def _spell_place(dest: object) -> str:
    if not isinstance(dest, str | bytes | os.PathLike):
        msg = (
            "The destination is a path, a folder, or an object with write(), "
            f"not {type(dest).__name__}. Open files in binary mode ('wb')."
        )
        raise InvalidRequestError(msg)
    return os.path.expanduser(os.fsdecode(dest))  # noqa: PTH111  a slash at its end tells of a folder


async def _run(
    jobs: Sequence[Callable[[], Awaitable[Download]]], *, concurrency: int
) -> list[Download | VideoRouterError]:
    """Run jobs over a bounded number of workers; return the outcomes in their order."""
    found: dict[int, Download | VideoRouterError] = {}
    waiting = iter(enumerate(jobs))

    async def work() -> None:
        for index, job in waiting:
            try:
                found[index] = await job()
            except VideoRouterError as error:
                found[index] = error

    if len(jobs) == 1:
        await work()
    else:
        async with anyio.create_task_group() as group:
            for _ in range(min(concurrency, len(jobs))):
                group.start_soon(work)
    return [found[index] for index in range(len(jobs))]


def all_saved(found: list[Download | VideoRouterError]) -> list[Download]:
    """Return the files when all are whole; else raise the first error, with the whole files named in its notes."""
    saved = [item for item in found if isinstance(item, Download)]
    errors = [item for item in found if isinstance(item, VideoRouterError)]
    if not errors:
        return saved
    if len(found) > 1:
        errors[0].add_note(f"{len(errors)} of {len(found)} files failed; saved: {', '.join(s.file for s in saved)}")
    raise errors[0]
