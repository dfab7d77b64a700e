"""Saves videos into a store that fsspec knows (``s3://``, ``gs://``, ``abfs://``, ...), whole or not at all.

A video is fetched into a temporary file with every check of a download, then handed to the store in one piece. The
place is planned and recorded in the ledger, so that a second run finds it there and fetches nothing twice.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from videorouter.batch.saving import Saver
from videorouter.downloads.names import fill_template
from videorouter.errors import ConfigurationError, DownloadError
from videorouter.journal.journal import SavedFile
from videorouter.models import Download

if TYPE_CHECKING:
    from videorouter.batch.saving import Save
    from videorouter.integrations.ray.books import WorkerBooks
    from videorouter.models import BatchItem, Video


def open_store(url: str) -> tuple[Any, str]:
    """The file system behind a URL, and the path inside it.

    Raises:
        ConfigurationError: fsspec does not know it.
    """
    try:
        from fsspec.core import url_to_fs  # noqa: PLC0415  only where a URL is given

        store, path = url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise ConfigurationError(
            f"save_to={url!r} cannot be opened: {error}. Install the package of that store (s3fs for s3://, gcsfs for "
            "gs://) on every node, or give a folder that all nodes share."
        ) from error
    return store, str(path)


class StoreSaver(Saver):
    """Saves what is done into a store.

    Args:
        books: The worker's.
        url: Where to.
        template: Names of files.
        save: Saves one video into a file.
    """

    def __init__(self, books: WorkerBooks, url: str, template: str, save: Save) -> None:
        super().__init__(books, Path(), template, save)
        self._url = url.rstrip("/")
        self._remote = books.remote
        self._store, _ = open_store(url)

    def _is_whole(self, item: BatchItem) -> bool:
        return len(item.files) >= (len(item.result.videos) if item.result is not None else 0)

    async def _save_one(self, item: BatchItem, step: int, number: int, count: int, video: Video) -> Download:
        name = fill_template(
            self._template,
            index=item.index,
            item_id=item.id,
            prompt=item.prompt,
            model=item.model,
            step=step,
            video_id=video.video_id,
            task_id=item.task_id,
        )
        stem, dot, suffix = name.rpartition(".")
        if count > 1:
            name = f"{stem}-{number + 1}{dot}{suffix}"
        place = f"{self._url}/{name}"
        if self._remote is not None:
            place = await self._remote.plan_place(item.id, number, place)
        with tempfile.TemporaryDirectory(prefix="videorouter-") as folder:
            file = Path(folder) / "video.mp4"
            download = await self._save(video, file)
            try:
                await asyncio.to_thread(self._put, file, place)
            except Exception as error:
                raise DownloadError(
                    f"A video could not be put at {place}: {type(error).__name__}: {error}. It is paid for and its URL is "
                    "in the result: mend the store and run the same call again, which fetches what is missing.",
                    path=place,
                ) from error
        if self._remote is not None:
            saved = SavedFile(path=cast("Path", place), size=download.size, sha256=download.sha256)
            await self._remote.record_file(place, saved)
        return Download(file=place, size=download.size, sha256=download.sha256)

    def _put(self, file: Path, place: str) -> None:
        path = self._store._strip_protocol(place)  # noqa: SLF001  fsspec's own way to say it; it has no other
        parent = path.rpartition("/")[0]
        if parent:
            self._store.makedirs(parent, exist_ok=True)
        self._store.put_file(str(file), path)
