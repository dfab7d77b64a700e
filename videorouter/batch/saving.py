"""Saves the videos of a batch beside its requests, so that a slow file host never delays the next prompt.

A missing file never leads to a second payment: the item stays done, and the next run fetches the file.
"""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from videorouter.downloads.download import fetch_current_result, is_expired
from videorouter.downloads.file import find_free
from videorouter.downloads.names import fill_template, number_name
from videorouter.downloads.save import read_options, save_one, still_stands
from videorouter.errors import DownloadError, JournalError, VideoRouterError
from videorouter.http import WireError
from videorouter.journal.journal import SavedFile
from videorouter.journal.records import encode, read_media, read_mismatches, show_path
from videorouter.journal.states import describe_failure
from videorouter.models import Download, Video
from videorouter.places import ObjectURL, find_place

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from videorouter.batch.run import BatchRun
    from videorouter.models import BatchItem

    Save = Callable[[Video, Path], Awaitable[Download]]

DISK_FAILURES = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO})
"""Errors of a disk that the next file would meet as well."""
_OF_ONE_VIDEO = (VideoRouterError, WireError, ValueError, FileExistsError)
"""Causes of failures that say nothing of the store that another video goes to."""
AT_ONCE = 8
"""Downloads at once, as browsers and file hosts are used to."""


class Saver:
    """Saves finished items into a folder, or into an object store."""

    def __init__(self, run: BatchRun, folder: Path | ObjectURL, template: str, save: Save) -> None:
        self._run = run
        self._folder = folder
        self._template = template
        self._save = save
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._saving: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """Of items that are being saved: equal entries that are one item have one file, which the first of them fetches."""

    def wants(self, item: BatchItem) -> bool:
        """Whether an item has videos that are not saved yet."""
        return item.state == "done" and item.result is not None and not self._is_whole(item)

    def _is_whole(self, item: BatchItem) -> bool:
        count = len(item.result.videos) if item.result is not None else 0
        if isinstance(self._folder, ObjectURL):  # the store was asked when the journal told of them
            return len(item.files) >= count
        return len(item.files) >= count and all(Path(name).is_file() for name in item.files)

    async def save(self, item: BatchItem, step: int) -> BatchItem:
        """Save an item's videos; return the item with its files, or with the error of the one that failed."""
        one_at_a_time = self._saving.setdefault(item.id, asyncio.Lock())
        async with one_at_a_time, self._slots:
            saved: list[Download] = []
            try:
                try:
                    await self._save_all(item, step, saved)
                except DownloadError as error:
                    fresh = await fetch_current_result(self._run.caller, item) if is_expired(error) else None
                    if fresh is None:
                        raise
                    item, saved = item.replace(result=fresh), []
                    await self._save_all(item, step, saved)
            except (VideoRouterError, OSError) as error:
                named = error if isinstance(error, VideoRouterError) else _wrap_error(error, self._folder)
                if isinstance(named, JournalError) or _is_disk_failure(named, self._folder):
                    self._run.stop_for(named)
                kept = self._with_files(item, saved)
                return kept.replace(failure=describe_failure(named)).with_extras(error_=named)
        return self._with_files(item, saved)

    async def _save_all(self, item: BatchItem, step: int, saved: list[Download]) -> None:
        videos = item.result.videos if item.result is not None else ()
        for number, video in enumerate(videos):
            saved.append(await self._save_one(item, step, number, len(videos), video))

    async def _save_one(self, item: BatchItem, step: int, number: int, count: int, video: Video) -> Download:
        path: Path | ObjectURL = self._folder / fill_template(
            self._template,
            index=item.index,
            item_id=item.id,
            prompt=item.prompt,
            model=item.model,
            step=step,
            video_id=video.video_id,
            task_id=item.task_id,
        )
        if count > 1:
            path = path.with_name(number_name(path.name, number + 1))
        journal = self._run.journal
        if journal is not None:
            path = await journal.plan_file(item.id, number, path)
            known = next((file for file in await journal.find_files(item.id) if file.path == path), None)
            path = show_path(path, self._folder)
            if known is not None and await still_stands(known.path, known.size):
                return Download(
                    file=str(path),
                    size=known.size if isinstance(path, ObjectURL) else path.stat().st_size,
                    sha256=known.sha256,
                    media=read_media(known.media),
                    mismatches=read_mismatches(known.mismatches),
                )
        elif isinstance(path, Path):
            path = find_free(path)  # what stands there was paid for as well
        if isinstance(path, ObjectURL):
            download = await self._save_object(video, path)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            download = await self._save(video, path)
        if journal is not None:
            await journal.record_file(path, _describe_file(download))
        return download

    async def _save_object(self, video: Video, url: ObjectURL) -> Download:
        """Put a video into the store; another object of that name, which was paid for as well, stays beside it."""
        settings = self._run.caller.settings
        options = read_options({}, timeout=settings.timeout, max_retries=settings.max_retries)
        return await save_one(self._run.caller, video, url, options, conflict="number")

    def _with_files(self, item: BatchItem, saved: list[Download]) -> BatchItem:
        files = tuple(download.file for download in saved)
        if not saved:
            return item.replace(files=files, sha256=None)
        mismatches = tuple(mismatch for download in saved for mismatch in download.mismatches)
        return item.replace(files=files, sha256=saved[0].sha256, media=saved[0].media, mismatches=mismatches)


def _describe_file(download: Download) -> SavedFile:
    """A saved file as the journal keeps it."""
    return SavedFile(
        path=find_place(Path(), download.file),
        size=download.size,
        sha256=download.sha256,
        media=None if download.media is None else encode(download.media),
        mismatches=encode(download.mismatches) if download.mismatches else None,
    )


def _wrap_error(error: OSError, folder: Path | ObjectURL) -> DownloadError:
    named = DownloadError(
        f"A video could not be saved in {folder}: {error}. It is paid for and its URL is in the item: fix the folder and "
        "run the same batch again, which fetches what is missing.",
        path=str(folder),
    )
    named.__cause__ = error
    return named


def _is_disk_failure(error: VideoRouterError, folder: Path | ObjectURL) -> bool:
    """Whether the next file could not be saved either, so that buying more is pointless until the disk works."""
    cause = error.__cause__
    if isinstance(folder, ObjectURL):  # its package has tried again before it raised
        return cause is not None and not isinstance(cause, _OF_ONE_VIDEO)
    return isinstance(cause, OSError) and cause.errno in DISK_FAILURES
