"""Saves one video: to a path, whole or not at all, or to an object with ``write``.

The bytes come from ``downloads.fetch``; ``downloads.file`` and ``downloads.sink`` put them away. Transfers have slots of
their own and never take a generation's.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import time
import uuid
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import anyio
import msgspec

from videorouter.call.limiter import read_file_limit
from videorouter.call.requests import find_request
from videorouter.call.spool import view_inline
from videorouter.config import Timeout, check_count, check_timeout
from videorouter.downloads.fetch import Fetch, stream_once
from videorouter.downloads.file import PartialFile, find_size, is_cut
from videorouter.downloads.media import MediaReader, compare_request
from videorouter.downloads.mp4 import describe_content
from videorouter.downloads.names import name_video
from videorouter.downloads.resume import FullContent, TransferState, choose_block_size
from videorouter.downloads.resume_file import Busy
from videorouter.downloads.sink import Sink, name_sink
from videorouter.downloads.store import BLOCK, StoredObject, find_object_size
from videorouter.errors import DownloadError, VideoRouterError
from videorouter.events import DownloadFinished
from videorouter.logs import report
from videorouter.loops import PerLoop
from videorouter.models import Download
from videorouter.places import ObjectURL
from videorouter.threads import ThreadedResource, run_in_thread

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator

    from videorouter.call.caller import Caller
    from videorouter.downloads.file import Conflict
    from videorouter.events import EventHook
    from videorouter.models import Media, Video
    from videorouter.plain import Whole

MAX_TRANSFERS = 64
"""Transfers at once in one event loop, where file descriptors allow; more wait for a slot."""

_DISK_THREADS = 8
_FLUSH_SECONDS = 0.05


class _Limits:
    """The limits that the transfers of one event loop share."""

    def __init__(self) -> None:
        # A transfer holds three descriptors, and downloads may hold an eighth of all of them.
        slots = min(MAX_TRANSFERS, max(4, (read_file_limit() or 2048) // 32))
        self.transfers = anyio.Semaphore(slots)
        self.disk = anyio.CapacityLimiter(_DISK_THREADS)


_limits = PerLoop(_Limits)


class DownloadOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How to save.

    ``seconds`` count for one file, from its slot on. ``check``: only a whole video file will do. ``overwrite`` of
    ``None`` replaces a file at a given path, and takes another name in a given folder. ``max_retries`` limits attempts
    in a row without progress. ``on_progress`` gets this call's events, beside the client's own hook.
    """

    seconds: float
    check: bool = True
    sha256: bool = False
    overwrite: bool | None = None
    max_retries: int = 4
    on_progress: Any = None


class SaveOptions(TypedDict, total=False):
    """The options of ``save`` by name."""

    check: bool
    sha256: bool
    overwrite: bool | None
    timeout: Timeout
    max_retries: Whole | None
    on_progress: EventHook | None


class ManyOptions(SaveOptions, total=False):
    """The options of ``download`` by name."""

    concurrency: Whole


def read_options(given: SaveOptions, *, timeout: float, max_retries: int) -> DownloadOptions:
    """Check the options of one call, and fill the rest from the client's."""
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


async def save_one(
    caller: Caller, video: Video, place: Path | ObjectURL | Any, options: DownloadOptions, *, conflict: Conflict
) -> Download:
    """Save one video to a path, an object store or an object with ``write``, and report its end."""
    async with _limits.find().transfers:
        call_id = uuid.uuid4().hex
        emit = _find_emit(caller, options)
        began = time.monotonic()
        try:
            if isinstance(place, ObjectURL):
                name, path = place.name, str(place)
                saved = await _save_to_store(caller, video, place, options, conflict=conflict, call_id=call_id)
            elif isinstance(place, Path):
                name, path = place.name, str(place)
                saved = await _FileSave(caller, video, place, options, conflict=conflict, call_id=call_id).run()
            else:
                name, path = name_sink(place), None
                saved = await _save_to_sink(caller, video, place, options, call_id)
        except VideoRouterError as error:
            elapsed = time.monotonic() - began
            error.add(path=path, elapsed=elapsed)
            if emit is not None:
                failed = type(error).__name__
                await emit(DownloadFinished(call_id=call_id, name=name, elapsed=elapsed, error_type=failed))
            raise
        mismatches = compare_request(find_request(video), saved.media)
        saved = saved.replace(elapsed=time.monotonic() - began, mismatches=mismatches)
        if emit is not None:
            await emit(
                DownloadFinished(
                    call_id=call_id,
                    name=name,
                    size=saved.size,
                    elapsed=saved.elapsed,
                    media=saved.media,
                    mismatches=mismatches,
                )
            )
        return saved


async def stream_one(caller: Caller, video: Video, options: DownloadOptions) -> AsyncGenerator[bytes, None]:
    """Yield the bytes of one video, once each, checked at the end."""
    data = view_inline(video)
    if data is not None:
        _read_inline(data, check=options.check)
        for block in _cut(data):
            yield bytes(block)
        return
    fetch = _open_fetch(caller, video, name_video(video.url, video.video_id), options, uuid.uuid4().hex)
    async with aclosing(stream_once(fetch, check=options.check, media=MediaReader())) as pieces:
        async for piece in pieces:
            yield piece


async def still_stands(place: Path | ObjectURL, size: int) -> bool:
    """Whether a video of the saved size is still there. Another one in its place is left alone, and logged.

    Raises:
        DownloadError: The store cannot be asked.
    """
    if isinstance(place, ObjectURL):
        found = await run_in_thread(partial(find_object_size, place))
        gone = found is None  # an object is never cut: it is there whole, or not
    else:
        found = find_size(place)
        gone = found is None or (found != size and await run_in_thread(partial(is_cut, place, size)))
    if not gone and found != size:
        report(logging.WARNING, "%s is another video than the one that was saved there: it is left as it is", place)
    return not gone


class _Block:
    """Pieces that wait to be written together: few writes for large files, and no late one for slow files."""

    def __init__(self) -> None:
        self.parts: list[bytes | memoryview] = []
        self.size: int = 0
        self._memory = memoryview(b"")
        self._flushed = time.monotonic()

    def find_memory(self, total: int | None) -> memoryview:
        """Return where the next piece can be read to: the same memory after each write."""
        if self.size >= len(self._memory):
            self._memory = memoryview(bytearray(self.size + choose_block_size(total)))
        return self._memory[self.size :]

    def add(self, piece: bytes | memoryview, total: int | None) -> bool:
        """Add a piece of a file of that length; return whether it is time to write."""
        self.parts.append(piece)
        self.size += len(piece)
        return self.size >= choose_block_size(total) or time.monotonic() - self._flushed >= _FLUSH_SECONDS

    def clear(self) -> None:
        """Drop the pieces: they were written, or the file starts over."""
        self.parts, self.size = [], 0
        self._flushed = time.monotonic()


class _FileSave:
    """One video during its transfer to a path."""

    def __init__(
        self, caller: Caller, video: Video, path: Path, options: DownloadOptions, *, conflict: Conflict, call_id: str
    ) -> None:
        self._caller = caller
        self._video = video
        self._path = path
        self._options = options
        self._call_id = call_id
        key = hashlib.sha256((video.url or "").encode(errors="surrogatepass")).hexdigest()
        self._file = PartialFile(path, key=key, hashed=options.sha256, conflict=conflict)
        self._block = _Block()
        self._fetch: Fetch | None = None
        self._spoiled = False
        self._media: Media | None = None

    async def run(self) -> Download:
        try:
            async with ThreadedResource(self._leave, limiter=_limits.find().disk) as owned:
                try:
                    resumed_from = await self._transfer(owned)
                except OSError as error:
                    self._spoiled = not isinstance(error, VideoRouterError)
                    raise
        except VideoRouterError:
            raise
        except Busy as error:
            msg = (
                f"{self._path} is being written by another download, in this process or another. Wait for that one, or "
                "choose another name."
            )
            raise DownloadError(msg) from error
        except OSError as error:
            raise _name_disk_failure(error, self._path) from error
        except ValueError as error:
            raise DownloadError(f"{self._path} is not a valid file name: {error}") from error
        report(logging.DEBUG, "saved %s, %d bytes", self._file.path, self._file.size)
        return Download(
            file=str(self._file.path),
            size=self._file.size,
            url=self._video.url,
            sha256=self._file.sha256,
            resumed_from=resumed_from,
            transferred=0 if self._fetch is None else self._fetch.transferred,
            media=self._media,
        )

    async def _transfer(self, owned: ThreadedResource) -> int:
        """Write all bytes and rename the file; return where an earlier transfer had stopped."""
        state = await owned.run(self._file.open)
        data = view_inline(self._video)
        if data is not None:
            await owned.run(self._file.begin, TransferState(total=len(data)))
            for block in _cut(data):
                await owned.run(self._file.write, [block])
        else:
            self._fetch = fetch = _open_fetch(
                self._caller, self._video, self._file.path.name, self._options, self._call_id
            )
            fetch.state = state
            fetch.memory = lambda: self._block.find_memory(fetch.state.total)
            async with aclosing(fetch.pieces()) as pieces:
                async for piece in pieces:
                    if isinstance(piece, FullContent):
                        self._block.clear()
                        await owned.run(self._file.begin, TransferState(etag=piece.etag, total=piece.total))
                    elif self._block.add(piece, fetch.state.total):
                        await owned.run(self._file.write, self._block.parts)
                        self._block.clear()
        await owned.run(self._finish)
        return state.offset

    def _finish(self) -> None:
        """Write the rest and rename the file, or keep it under another name when it is not a video."""
        file = self._file
        file.write(self._block.parts)
        framed = self._fetch is None or self._fetch.framed
        self._media, reason = file.inspect(framed=framed)
        if not self._options.check:
            file.commit()
            return
        if reason is None:
            container = "mp4" if self._media is None else self._media.container
            file.commit(container)
            if container != "mp4":
                report(logging.WARNING, "the video is not an MP4 file but %s: saved as %s", container, file.path)
            return
        looks = describe_content(file.head())
        kept = file.reject() if file.size else None
        where = f" What came is kept as {kept}, since it was paid for." if kept else ""
        msg = (
            f"This is not a whole video file: {reason} (it looks like {looks}).{where} Look at it, or pass check=False "
            "to take any bytes."
        )
        raise DownloadError(msg, path=None if kept is None else str(kept))

    def _leave(self) -> None:
        """Release the destination; received bytes are kept if a later transfer can resume."""
        fetch, file = self._fetch, self._file
        keep = not self._spoiled and (fetch is None or fetch.state.etag is not None)
        if keep and fetch is not None and file.size + self._block.size == fetch.state.offset:
            try:
                file.write(self._block.parts)
            except OSError:
                keep = False
        file.close(keep=keep)


async def _save_to_sink(caller: Caller, video: Video, target: Any, options: DownloadOptions, call_id: str) -> Download:
    sink = Sink(target, hashed=options.sha256)
    transferred = 0
    data = view_inline(video)
    if data is not None:
        media = _read_inline(data, check=options.check)
        for block in _cut(data):
            await sink.write([block])
    else:
        fetch = _open_fetch(caller, video, sink.name, options, call_id)
        waiting, reader = _Block(), MediaReader()
        async with aclosing(stream_once(fetch, check=options.check, media=reader)) as pieces:
            async for piece in pieces:
                if waiting.add(piece, fetch.state.total):
                    await sink.write(waiting.parts)
                    waiting.clear()
        await sink.write(waiting.parts)
        transferred, media = fetch.transferred, reader.media
    await sink.flush()
    return Download(
        file=sink.name, size=sink.size, url=video.url, sha256=sink.sha256, transferred=transferred, media=media
    )


async def _save_to_store(
    caller: Caller, video: Video, place: ObjectURL, options: DownloadOptions, *, conflict: Conflict, call_id: str
) -> Download:
    target = StoredObject(
        place, mark=_mark_video(video), hashed=options.sha256, overwrite=options.overwrite, conflict=conflict
    )
    data, transferred = view_inline(video), 0
    try:
        async with ThreadedResource(target.abort) as owned:
            await owned.run(target.open)
            if data is not None:
                media = _read_inline(data, check=options.check)
                written = await owned.run(target.begin, len(data), _name_container(media, options))
                for start in range(0, len(data) if written else 0, BLOCK):
                    await owned.run(target.write, [data[start : start + BLOCK]])
            else:
                fetch = _open_fetch(caller, video, place.name, options, call_id)
                written, media = await _fetch_to_store(fetch, target, options, owned)
                transferred = fetch.transferred
            if written:
                await owned.run(target.commit)
            else:
                media = await owned.run(target.measure)
    except VideoRouterError:
        raise
    except FileExistsError as error:
        raise DownloadError(f"{target.url} exists already. Nothing was changed.") from error
    except Exception as error:
        raise _name_store_failure(error, target.url) from error
    if not written:
        report(logging.INFO, "%s is there already: it is left as it is", target.url)
    return Download(
        file=str(target.url),
        size=target.size,
        url=video.url,
        sha256=target.sha256,
        transferred=transferred,
        media=media,
    )


def _mark_video(video: Video) -> str:
    """Name a video for its object's metadata: by its bytes, or by its URL without what a signature changes each time."""
    data = view_inline(video)
    what = (video.url or "").partition("?")[0].encode(errors="surrogatepass") if data is None else data
    return hashlib.sha256(what).hexdigest()


async def _fetch_to_store(
    fetch: Fetch, target: StoredObject, options: DownloadOptions, owned: ThreadedResource
) -> tuple[bool, Media | None]:
    """Put the bytes of a video into a store; return whether that was needed, and what the file says of itself."""
    reader, parts, size, begun = MediaReader(), list[bytes](), 0, False
    async with aclosing(stream_once(fetch, check=options.check, media=reader)) as pieces:
        async for piece in pieces:
            if not begun:
                begun = await owned.run(target.begin, fetch.state.total, _name_container(reader.media, options))
                if not begun:
                    return False, None
            parts.append(piece)
            size += len(piece)
            if size >= BLOCK:
                await owned.run(target.write, parts)
                parts, size = [], 0
    if not begun:
        begun = await owned.run(target.begin, 0, "mp4")
    if begun:
        await owned.run(target.write, parts)
    return begun, reader.media


def _name_container(media: Media | None, options: DownloadOptions) -> str:
    """The kind of file whose ending the name takes."""
    return "mp4" if media is None or not options.check else media.container


def _open_fetch(caller: Caller, video: Video, name: str, options: DownloadOptions, call_id: str) -> Fetch:
    return Fetch(
        caller=caller,
        url=video.url or "",
        deadline=time.monotonic() + options.seconds,
        max_retries=options.max_retries,
        call_id=call_id,
        name=name,
        emit=_find_emit(caller, options),
    )


def _find_emit(caller: Caller, options: DownloadOptions) -> Callable[..., Awaitable[None]] | None:
    """Return a function that passes an event to the client's hook and to the call's own; ``None`` without a hook."""
    if caller.on_event is None and options.on_progress is None:
        return None
    return partial(caller.emit, also=options.on_progress)


def _cut(data: memoryview) -> Iterator[memoryview]:
    """Cut inline bytes into blocks; those of a large video are read from its file one by one."""
    step = choose_block_size(len(data))
    return (data[start : start + step] for start in range(0, len(data), step))


def _read_inline(data: memoryview, *, check: bool) -> Media | None:
    reader = MediaReader()
    reader.feed(data)
    reason = reader.finish(len(data))
    if reason is not None and check:
        looks = describe_content(bytes(data[:512]))
        msg = f"The inline bytes are not a whole video file: {reason} (they look like {looks}). Pass check=False to take them."
        raise DownloadError(msg)
    return reader.media


def _name_store_failure(error: Exception, url: ObjectURL) -> DownloadError:
    msg = (
        f"{url} could not be written ({type(error).__name__}: {error}). What was there is as it was, and nothing of the new "
        "video is there. Mend the store or choose another place, and save again: nothing is paid for that."
    )
    return DownloadError(msg)


def _name_disk_failure(error: OSError, path: Path) -> DownloadError:
    what = error.strerror or str(error)
    if isinstance(error, FileExistsError):
        return DownloadError(f"{path} exists already, and overwrite=False was given. Nothing was changed.")
    remedy = "Free room or choose another folder"
    if error.errno in (errno.EMFILE, errno.ENFILE):
        remedy = "Lower concurrency or raise `ulimit -n`"
    msg = f"{path} could not be written: {what}. An older file of that name is as it was. {remedy}, and save again:"
    return DownloadError(f"{msg} nothing is paid for that.")
