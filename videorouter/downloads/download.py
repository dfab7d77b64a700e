"""The walk of a finished video to its place: a path, a folder, an object with ``write``, or whoever iterates.

A file is whole and right under its final name, or it is not there. Downloads have lanes of their own and never take a
generation's slot. The bytes come from ``downloads.fetch``; the disk is ``downloads.file``.
"""

from __future__ import annotations

import hashlib
import inspect
import logging
import os
import time
import uuid
from contextlib import aclosing, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict

import anyio
import anyio.lowlevel
import anyio.to_thread
import msgspec

from videorouter.call.limiter import read_file_limit
from videorouter.config import check_count, check_timeout
from videorouter.downloads.fetch import Fetch, stream_once
from videorouter.downloads.file import Busy, PartialFile, is_folder
from videorouter.downloads.mp4 import BoxCheck, describe_content
from videorouter.downloads.names import name_video, number_name
from videorouter.downloads.sink import Sink, is_sink, name_sink
from videorouter.downloads.transfer import FullContent, TransferState, choose_block_size
from videorouter.errors import DownloadError, InvalidRequestError, VideoRouterError
from videorouter.events import DownloadFinished
from videorouter.models import BatchItem, Download, Task, TaskStatus, Video, VideoResult

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Sequence

    from videorouter.call.caller import Caller
    from videorouter.events import Event, EventHook

Source: TypeAlias = Video | VideoResult | Task | TaskStatus | BatchItem | str
Place: TypeAlias = "str | os.PathLike[str] | Any"
SOURCES = (Video, VideoResult, Task, TaskStatus, BatchItem, str)

MOST_LANES = 64
"""Transfers at once in one event loop, where file descriptors allow; more wait their turn."""

_DISK_THREADS = 8
_LINGER = 0.05
log: logging.Logger = logging.getLogger("videorouter")
_lanes: anyio.lowlevel.RunVar[tuple[anyio.Semaphore, anyio.CapacityLimiter]] = anyio.lowlevel.RunVar("download lanes")


class DownloadOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How to save.

    Attributes:
        seconds: For one file, from the moment that it has a lane.
        check: Whether only a whole MP4 file will do.
        sha256: Whether to compute the digest.
        overwrite: Whether an older file is replaced. ``None``: at a path that was given, yes; in a folder that was
            given, another name is taken.
        max_retries: Attempts in a row that may bring nothing.
        on_progress: Is handed the events of this call, beside the client's own hook.
        call_id: Of its events.
    """

    seconds: float
    check: bool = True
    sha256: bool = False
    overwrite: bool | None = None
    max_retries: int = 4
    on_progress: Any = None
    call_id: str | None = None


class SaveOptions(TypedDict, total=False):
    """The options of ``save`` by name; see there."""

    check: bool
    sha256: bool
    overwrite: bool | None
    timeout: float | msgspec.UnsetType | None
    max_retries: int | None
    on_progress: EventHook | None


class ManyOptions(SaveOptions, total=False):
    """The options of ``download`` by name; see there."""

    concurrency: int


def read_options(given: SaveOptions, *, timeout: float, max_retries: int) -> DownloadOptions:
    """Check the options of one call and fill the rest.

    Args:
        given: By name.
        timeout: Seconds of the client.
        max_retries: Of the client.

    Raises:
        ConfigurationError: One cannot be used.
    """
    seconds = given.get("timeout", msgspec.UNSET)
    retries = given.get("max_retries")
    return DownloadOptions(
        seconds=timeout if isinstance(seconds, msgspec.UnsetType) else check_timeout(seconds),
        check=given.get("check", True),
        sha256=given.get("sha256", False),
        overwrite=given.get("overwrite"),
        max_retries=max_retries if retries is None else check_count(retries, "max_retries", least=0),
        on_progress=given.get("on_progress"),
    )


async def save(caller: Caller, source: Source, dest: Place, options: DownloadOptions) -> Download:
    """Save what a call gave: one video, or all videos of a result.

    Returns:
        The first file; ``all`` has every one.

    Raises:
        DownloadError: One did not come whole. The others are saved all the same.
    """
    caller.check_open()
    videos = find_videos(source)
    jobs = await _plan(videos, dest, options)
    found = await _run([partial(_save_one, caller, *job, options) for job in jobs], concurrency=len(jobs))
    saved = settle(found)
    return saved[0].with_extras(all_=tuple(saved)) if len(saved) > 1 else saved[0]


async def save_many(
    caller: Caller,
    sources: Iterable[Source],
    dest: Place | Sequence[Place],
    options: DownloadOptions,
    *,
    concurrency: int,
) -> list[Download | VideoRouterError]:
    """Save many, ``concurrency`` at a time.

    Returns:
        What became of each, in the order of the sources.

    Raises:
        InvalidRequestError: They do not fit the places.
    """
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
        places = [f"{os.fsdecode(_as_path(dest))}/"] * len(wanted)
    pairs = zip(wanted, places, strict=True)
    return await _run([partial(save, caller, *pair, options) for pair in pairs], concurrency=concurrency)


@asynccontextmanager
async def stream(
    caller: Caller, source: Source, options: DownloadOptions
) -> AsyncGenerator[AsyncIterator[bytes], None]:
    """Give a video's bytes as they arrive.

    Raises:
        DownloadError: It did not come whole, or is no MP4 file.
    """
    caller.check_open()
    videos = find_videos(source)
    if len(videos) > 1:
        msg = f"This result has {len(videos)} videos: stream one of them, such as result.videos[0]."
        raise InvalidRequestError(msg)
    video = videos[0]
    if video.data is not None:
        if options.check:
            _check_inline(video.data)
        yield _give_inline(video.data)
        return
    fetch = _open_fetch(caller, video, name_video(video.url, video.video_id), options)
    async with aclosing(stream_once(fetch, check=options.check)) as pieces:
        yield pieces


def find_videos(source: object) -> tuple[Video, ...]:
    """The videos of whatever a call gave; a URL stands for the video that lies there.

    Raises:
        InvalidRequestError: It has none (yet).
    """
    if isinstance(source, Video):
        videos: tuple[Video, ...] = (source,)
    elif isinstance(source, str):
        videos = (Video(url=source),)
    elif isinstance(source, VideoResult):
        videos = source.videos
    elif isinstance(source, Task | TaskStatus | BatchItem):
        if source.result is None:
            msg = "It has no result yet, so there is nothing to save: `await router.wait(task)` first."
            raise InvalidRequestError(msg)
        videos = source.result.videos
    else:
        msg = (
            f"A result, a video, a finished task or a URL can be saved, not {type(source).__name__}. "
            "For many of them: `await router.download(them, folder)`."
        )
        raise InvalidRequestError(msg)
    for video in videos:
        if video.url is None and video.data is None:
            msg = "This video has neither a URL nor inline bytes: nothing can be saved."
            raise InvalidRequestError(msg)
    return videos


async def _plan(videos: tuple[Video, ...], dest: Place, options: DownloadOptions) -> list[tuple[Video, Any, bool]]:
    """Which video goes where, and whether the name was found here."""
    several = len(videos) > 1
    if is_sink(dest):
        if several:
            msg = f"This result has {len(videos)} videos, which do not fit into one file object: save each one."
            raise InvalidRequestError(msg)
        return [(videos[0], dest, False)]
    text = os.fsdecode(_as_path(dest))
    if "\0" in text:
        raise DownloadError("The destination's path holds a NUL character; no file can have it.")
    path = Path(text)
    folder = text.endswith(("/", os.sep)) or await anyio.to_thread.run_sync(is_folder, path)
    jobs: list[tuple[Video, Any, bool]] = []
    for number, video in enumerate(videos, 1):
        place = path / name_video(video.url, video.video_id) if folder else path
        if several:
            place = place.with_name(number_name(place.name, number))
        jobs.append((video, place, folder and options.overwrite is None))
    return jobs


def _as_path(dest: object) -> Any:
    if not isinstance(dest, str | bytes | os.PathLike):
        msg = (
            "The destination is a path, a folder, or an object with write(), "
            f"not {type(dest).__name__}. Open files in binary mode ('wb')."
        )
        raise InvalidRequestError(msg)
    return dest


async def _run(
    jobs: Sequence[Callable[[], Awaitable[Download]]], *, concurrency: int
) -> list[Download | VideoRouterError]:
    """Run jobs over a bounded number of workers; each one's outcome stands in its place."""
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


def settle(found: list[Download | VideoRouterError]) -> list[Download]:
    """The files, when all are whole.

    Raises:
        DownloadError: The first that is not; its notes name those that are.
    """
    saved = [item for item in found if isinstance(item, Download)]
    errors = [item for item in found if isinstance(item, VideoRouterError)]
    if not errors:
        return saved
    if len(found) > 1:
        errors[0].add_note(f"{len(errors)} of {len(found)} files failed; saved: {', '.join(s.file for s in saved)}")
    raise errors[0]


async def _save_one(caller: Caller, video: Video, place: Place, named: bool, options: DownloadOptions) -> Download:
    lane, _ = _find_lanes()
    async with lane:
        name = place.name if isinstance(place, Path) else name_sink(place)
        call_id = options.call_id or uuid.uuid4().hex
        options = msgspec.structs.replace(options, call_id=call_id)
        began = time.monotonic()
        try:
            if isinstance(place, Path):
                saved = await _save_to_path(caller, video, place, named, options)
            else:
                saved = await _save_to_sink(caller, video, place, options)
        except VideoRouterError as error:
            elapsed = time.monotonic() - began
            error.add(path=str(place) if isinstance(place, Path) else None, elapsed=elapsed)
            await _tell_end(caller, options, name=name, elapsed=elapsed, error_type=type(error).__name__)
            raise
        elapsed = time.monotonic() - began
        await _tell_end(caller, options, name=name, size=saved.size, elapsed=elapsed)
        return saved.replace(elapsed=elapsed)


async def _save_to_path(caller: Caller, video: Video, place: Path, named: bool, options: DownloadOptions) -> Download:
    landing = PartialFile(
        place,
        key=hashlib.sha256((video.url or "").encode(errors="surrogatepass")).hexdigest(),
        hashed=options.sha256,
        replace=options.overwrite is not False,
        fresh_name=named,
    )
    kept = False
    fetch: Fetch | None = None
    gathered: list[bytes] = []
    try:
        known = await _hop(landing.open)
        if video.data is not None:
            await _hop(landing.begin, TransferState(total=len(video.data)))
            await _finish_file(landing, [video.data], options, framed=True)
        else:
            fetch = _open_fetch(caller, video, landing.path.name, options)
            fetch.state = known
            await _gather(fetch, landing, gathered)
            await _finish_file(landing, gathered, options, framed=fetch.framed)
    except Busy as error:
        msg = (
            f"{place} is being written by another download, in this process or another. Wait for that one, or choose "
            "another name."
        )
        raise DownloadError(msg) from error
    except OSError as error:
        gathered.clear()
        fetch = None
        raise _name_disk_failure(error, place) from error
    except ValueError as error:
        if isinstance(error, VideoRouterError):
            raise
        raise DownloadError(f"{place} is no name that a file can have: {error}") from error
    finally:
        with anyio.CancelScope(shield=True):
            kept = await _hop(_leave, landing, fetch, gathered)
    log.debug("saved %s, %d bytes%s", landing.path, landing.size, " (kept)" if kept else "")
    return Download(
        file=str(landing.path),
        size=landing.size,
        url=video.url,
        sha256=landing.sha256,
        resumed_from=known.offset,
        transferred=0 if fetch is None else fetch.transferred,
    )


def _leave(landing: PartialFile, fetch: Fetch | None, gathered: list[bytes]) -> bool:
    """Let go of a destination; what came is kept for a later transfer, where one can go on from it."""
    keep = fetch is not None and fetch.state.etag is not None
    if keep and fetch is not None and gathered and landing.size + sum(map(len, gathered)) == fetch.state.offset:
        try:
            landing.write(gathered)
        except OSError:
            keep = False
    return landing.close(keep=keep)


async def _gather(fetch: Fetch, landing: PartialFile, gathered: list[bytes]) -> None:
    """Read pieces into blocks and write each block in a thread; the last one stays gathered."""
    size = 0
    block = choose_block_size(fetch.state.total)
    written = time.monotonic()
    async with aclosing(fetch.pieces()) as pieces:
        async for piece in pieces:
            if isinstance(piece, FullContent):
                gathered.clear()
                size = 0
                block = choose_block_size(piece.total)
                await _hop(landing.begin, TransferState(etag=piece.etag, total=piece.total))
                continue
            gathered.append(piece)
            size += len(piece)
            if size >= block or time.monotonic() - written >= _LINGER:
                full = gathered.copy()
                gathered.clear()
                size = 0
                await _hop(landing.write, full)
                written = time.monotonic()


async def _finish_file(landing: PartialFile, rest: list[bytes], options: DownloadOptions, *, framed: bool) -> None:
    parts = rest.copy()
    rest.clear()

    def finish() -> tuple[str, Path | None] | None:
        landing.write(parts)
        reason = landing.inspect(framed=framed) if options.check else None
        if reason is None:
            landing.commit()
            return None
        looks = describe_content(landing.head())
        return f"{reason} (it looks like {looks})", landing.reject() if landing.size else None

    trouble = await _hop(finish)
    if trouble is None:
        return
    reason, kept = trouble
    where = f" What came is kept as {kept}, since it was paid for." if kept else ""
    msg = f"What came is no whole MP4 file: {reason}.{where} Look at it, or pass check=False to take any bytes."
    raise DownloadError(msg, path=None if kept is None else str(kept))


async def _save_to_sink(caller: Caller, video: Video, target: Any, options: DownloadOptions) -> Download:
    sink = Sink(target)
    digest = hashlib.sha256() if options.sha256 else None
    size = transferred = 0

    async def pour(parts: list[bytes]) -> None:
        nonlocal size
        block = b"".join(parts)
        if digest is not None:
            digest.update(block)
        size += len(block)
        try:
            await sink.write(block)
        except VideoRouterError:
            raise
        except Exception as error:
            raise _name_sink_failure(error, target) from error

    if video.data is not None:
        if options.check:
            _check_inline(video.data)
        await pour([video.data])
    else:
        fetch = _open_fetch(caller, video, name_sink(target), options)
        await _pour_pieces(fetch, pour, check=options.check)
        transferred = fetch.transferred
    try:
        await sink.flush()
    except Exception as error:
        raise _name_sink_failure(error, target) from error
    return Download(
        file=name_sink(target),
        size=size,
        url=video.url,
        sha256=None if digest is None else digest.hexdigest(),
        transferred=transferred,
    )


async def _pour_pieces(fetch: Fetch, pour: Callable[[list[bytes]], Awaitable[None]], *, check: bool) -> None:
    gathered: list[bytes] = []
    size = 0
    written = time.monotonic()
    async with aclosing(stream_once(fetch, check=check)) as pieces:
        async for piece in pieces:
            gathered.append(piece)
            size += len(piece)
            if size >= choose_block_size(fetch.state.total) or time.monotonic() - written >= _LINGER:
                await pour(gathered)
                gathered, size, written = [], 0, time.monotonic()
    if gathered:
        await pour(gathered)


def _open_fetch(caller: Caller, video: Video, name: str, options: DownloadOptions) -> Fetch:
    return Fetch(
        caller,
        video.url or "",
        deadline=time.monotonic() + options.seconds,
        max_retries=options.max_retries,
        call_id=options.call_id or uuid.uuid4().hex,
        name=name,
        emit=_find_tell(caller, options),
    )


def _find_tell(caller: Caller, options: DownloadOptions) -> Callable[[Event], Awaitable[None]] | None:
    hook: EventHook | None = options.on_progress
    if hook is None:
        return None if caller.on_event is None else caller.emit

    async def tell(event: Event) -> None:
        await caller.emit(event)
        try:
            outcome = hook(event)
            if inspect.isawaitable(outcome):
                await outcome
        except Exception:
            log.exception("an on_progress hook failed")

    return tell


async def _tell_end(caller: Caller, options: DownloadOptions, **facts: Any) -> None:
    tell = _find_tell(caller, options)
    if tell is not None:
        await tell(DownloadFinished(call_id=options.call_id or "", **facts))


def _check_inline(data: bytes) -> None:
    boxes = BoxCheck()
    boxes.feed(data)
    reason = boxes.finish(len(data))
    if reason is not None:
        looks = describe_content(data)
        msg = (
            f"The inline bytes are no whole MP4 file: {reason} (they look like {looks}). Pass check=False to take them."
        )
        raise DownloadError(msg)


async def _give_inline(data: bytes) -> AsyncGenerator[bytes, None]:
    step = choose_block_size(len(data))
    for start in range(0, len(data), step):
        yield data[start : start + step]


def _find_lanes() -> tuple[anyio.Semaphore, anyio.CapacityLimiter]:
    try:
        return _lanes.get()
    except LookupError:
        # A transfer holds three descriptors, and downloads may hold an eighth of all of them.
        count = min(MOST_LANES, max(4, (read_file_limit() or 2048) // 32))
        lanes = anyio.Semaphore(count), anyio.CapacityLimiter(_DISK_THREADS)
        _lanes.set(lanes)
        return lanes


async def _hop(function: Callable[..., Any], *arguments: Any) -> Any:
    return await anyio.to_thread.run_sync(function, *arguments, limiter=_find_lanes()[1])


def _name_disk_failure(error: OSError, place: Path) -> DownloadError:
    what = error.strerror or str(error)
    if isinstance(error, FileExistsError):
        return DownloadError(f"{place} exists already, and overwrite=False was given. Nothing was changed.")
    msg = f"{place} could not be written: {what}. An older file of that name is as it was. Free room or choose another"
    return DownloadError(f"{msg} folder, and save again: nothing is paid for that.")


def _name_sink_failure(error: Exception, target: Any) -> DownloadError:
    msg = (
        f"Writing to {name_sink(target)} failed ({type(error).__name__}: {error}). What was written so far is no whole "
        "video. Mend the writer and save again: nothing is paid for that. Files must be open in binary mode."
    )
    return DownloadError(msg)
