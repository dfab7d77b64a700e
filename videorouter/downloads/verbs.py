"""The verbs of a client for files, with the docs of their parameters; ``downloads.download`` does the work."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager
from typing import Annotated, Literal, Unpack, overload

from msgspec import UNSET

from videorouter.call.caller import Caller
from videorouter.config import Timeout, check_count
from videorouter.downloads import download
from videorouter.downloads.download import Place, Source
from videorouter.downloads.save import DownloadOptions, ManyOptions, SaveOptions, read_options
from videorouter.errors import VideoRouterError
from videorouter.events import EventHook
from videorouter.models import Download
from videorouter.plain import Whole
from videorouter.record import AS_IS


class DownloadVerbs:
    """The verbs that bring a file."""

    _caller: Caller

    async def save(
        self,
        source: Source,
        dest: Place,
        *,
        check: bool = True,
        sha256: bool = False,
        overwrite: bool | None = None,
        timeout: Timeout = UNSET,
        max_retries: Whole | None = None,
        on_progress: EventHook | None = None,
    ) -> Download:
        """Save a finished video, whole or not at all.

        Args:
            source: What ``generate``, ``edit`` or ``wait`` gave, one video of it, or a URL. Several videos of one
                result get ``-1``, ``-2``, ... behind their names.
            dest: A file's path; a folder (one that exists, or a text that ends in ``/``), where the name comes from
                the URL; an object store's URL (``s3://``, ``gs://``, ``az://``, ``memory://``), with the extra
                ``data``; or an object with a plain or async ``write``, which is never closed.
            check: Whether only a whole video file will do: MP4, or WebM, Matroska, QuickTime or GIF, which are saved
                under their own ending. What fails is kept as ``NAME.rejected``.
            sha256: Whether to compute the digest.
            overwrite: Whether an older file is replaced. Default: at a path, yes; in a folder, another name is taken.
                An object that is this very video is left as it is then.
            timeout: Seconds for one file; default: the client's; ``None`` means thirty days.
            max_retries: Attempts in a row that may bring nothing; default: the client's.
            on_progress: Is handed ``DownloadProgressed`` and ``DownloadFinished``, beside the client's own hook.

        Returns:
            The first file; its ``all`` has every one.

        Raises:
            DownloadError: It did not come whole. An older file of that name is as it was; what came is kept, where
                the same call can go on from it.
            InvalidRequestError: There is nothing to save, or no way to write there.
        """
        options = self._download_options(
            check=check,
            sha256=sha256,
            overwrite=overwrite,
            timeout=timeout,
            max_retries=max_retries,
            on_progress=on_progress,
        )
        return await download.save(self._caller, source, dest, options)

    @overload
    async def download(
        self, source: Iterable[Source], dest: Place, *, return_exceptions: Literal[True], **options: Unpack[ManyOptions]
    ) -> list[Download | VideoRouterError]: ...

    @overload
    async def download(  # type: ignore[overload-overlap]  # a str is an iterable of str, and means one URL
        self, source: Source, dest: Place, **options: Unpack[ManyOptions]
    ) -> Download: ...

    @overload
    async def download(
        self, source: Iterable[Source], dest: Place, **options: Unpack[ManyOptions]
    ) -> list[Download]: ...

    async def download(
        self,
        source: Annotated[Source | Iterable[Source], AS_IS],
        dest: Place,
        *,
        concurrency: Whole = 16,
        return_exceptions: bool = False,
        check: bool = True,
        sha256: bool = False,
        overwrite: bool | None = None,
        timeout: Timeout = UNSET,
        max_retries: Whole | None = None,
        on_progress: EventHook | None = None,
    ) -> Download | list[Download] | list[Download | VideoRouterError]:
        """Fetch files from any URLs, with every care that ``save`` takes, and without the API key.

        Args:
            source: A URL or a video, or many of them.
            dest: As ``save``; for many, a folder (made when it is missing) or a list with one place each.
            concurrency: Files at once. Downloads never take a generation's slot.
            return_exceptions: Whether the errors of many stand in the list instead of being raised.
            check: As ``save``, and so are the others: for each file.
            sha256: As ``save``.
            overwrite: As ``save``.
            timeout: As ``save``.
            max_retries: As ``save``.
            on_progress: As ``save``.

        Returns:
            For one, the file; for many, a list in their order.

        Raises:
            DownloadError: One did not come whole; the others are saved all the same.
            InvalidRequestError: There is nothing to save, or no way to write there.
        """
        chosen = self._download_options(
            check=check,
            sha256=sha256,
            overwrite=overwrite,
            timeout=timeout,
            max_retries=max_retries,
            on_progress=on_progress,
        )
        if download.is_source(source):
            return await download.save(self._caller, source, dest, chosen)
        at_once = check_count(concurrency, "concurrency", least=1)
        found = await download.save_many(self._caller, source, dest, chosen, concurrency=at_once)
        return found if return_exceptions else download.all_saved(found)

    def stream(
        self,
        source: Source,
        *,
        check: bool = True,
        timeout: Timeout = UNSET,
        max_retries: Whole | None = None,
        on_progress: EventHook | None = None,
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Read a video's bytes as they arrive: ``async with router.stream(video) as chunks: async for chunk in chunks``.

        A cut in between is repaired unseen. Bytes that were handed out cannot be taken back: treat them as a video only
        when the loop ends without an error.

        Args:
            source: A result with one video, a video, or a URL.
            check: Whether only a whole video file will do.
            timeout: Seconds in all; default: the client's; ``None`` means thirty days.
            max_retries: As ``save``.
            on_progress: As ``save``.

        Returns:
            A context manager over the chunks.

        Raises:
            DownloadError: It did not arrive whole, or is not a video file.
            InvalidRequestError: There is nothing to read.
        """
        options = self._download_options(check=check, timeout=timeout, max_retries=max_retries, on_progress=on_progress)
        return download.stream(self._caller, source, options)

    def _download_options(self, **given: Unpack[SaveOptions]) -> DownloadOptions:
        settings = self._caller.settings
        return read_options(given, timeout=settings.timeout, max_retries=settings.max_retries)
