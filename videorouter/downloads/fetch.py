"""Fetches one file's bytes from its host: checked addresses and redirects, retries, and resuming where it stopped.

It sends no API key and no cookie, and writes nothing: whoever asked for the bytes decides where they go.
"""

from __future__ import annotations

import contextlib
import random
import time
from contextlib import aclosing
from hashlib import sha256
from typing import TYPE_CHECKING, NoReturn

import anyio
import msgspec

from videorouter.call.failures import show_body
from videorouter.call.retry import THROTTLED_COST, TRANSIENT_COST
from videorouter.downloads.guard import (
    MAX_REDIRECTS,
    build_policy,
    check_addresses,
    check_file_url,
    follow_redirect,
    show_url,
)
from videorouter.downloads.mp4 import describe_content
from videorouter.downloads.transfer import (
    MIN_PROGRESS,
    FailedFetch,
    FullContent,
    PartialContent,
    Redirect,
    TransferState,
    build_range_headers,
    check_length,
    pause_before,
    read_answer,
)
from videorouter.errors import ClientClosedError, DownloadError, Phase
from videorouter.events import DownloadProgressed, RetryScheduled
from videorouter.http import Attempt, Request, WireError, WireFailure

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

    from videorouter.call.caller import Caller
    from videorouter.downloads.guard import FileUrl
    from videorouter.downloads.media import MediaReader
    from videorouter.events import Event
    from videorouter.http import ResponseStream

STALL_SECONDS = 30.0
"""Without a byte for so long, a connection is given up."""

_CLOSE_SECONDS = 2.0
_SNIFF_BYTES = 12
_EVIDENCE_BYTES = 4096
_EVIDENCE_SECONDS = 5.0
_PROGRESS_SECONDS = 0.25
_FINAL = frozenset(
    {
        WireFailure.NAME_MISSING,
        WireFailure.CERTIFICATE,
        WireFailure.PROXY_REFUSED,
        WireFailure.ADDRESS_REFUSED,
        WireFailure.TOO_LARGE,
    }
)
_NOT_CONNECTED = frozenset({WireFailure.REFUSED, WireFailure.UNREACHABLE, WireFailure.CONNECT_TIMEOUT})


class Fetch:
    """One file on its way; set ``state`` before ``pieces`` to resume.

    Attributes:
        state: What is here, and what is known of the whole.
        framed: Whether its end could be told from a cut.
        transferred: Bytes that crossed the wire.
        attempts: Requests for the file, redirects not counted.
    """

    def __init__(
        self,
        caller: Caller,
        url: str,
        *,
        deadline: float,
        max_retries: int,
        call_id: str,
        name: str,
        emit: Callable[[Event], Awaitable[None]] | None = None,
    ) -> None:
        self.state: TransferState = TransferState()
        self.framed: bool = True
        self.transferred: int = 0
        self.attempts: int = 0
        self._caller = caller
        self._url = url
        self._shown = show_url(url)
        self._policy = build_policy(caller.settings)
        self._deadline = deadline
        self._max_retries = max_retries
        self._call_id = call_id
        self._name = name
        self._emit = emit
        self._began = time.monotonic()
        self._reported = self._began
        self._host = ""
        self._phase: Phase | None = None
        self._first_address = 0
        self._last_cost = 1
        self._failures = 0
        self._refusals = 0

    async def pieces(self) -> AsyncGenerator[FullContent | bytes, None]:
        """The bytes after ``state.offset``, as they arrive; ``FullContent`` says that they begin anew from the first.

        Close it (``contextlib.aclosing``): an open connection hangs on it.
        """
        if self.state.offset and self.state.offset == self.state.total:
            return
        while True:
            before = self.transferred
            self.attempts += 1
            try:
                stream, answer = await self._open()
                try:
                    if isinstance(answer, FailedFetch):
                        failed = answer
                    else:
                        self.framed = answer.framed
                        if isinstance(answer, FullContent):
                            self.state = TransferState(etag=answer.etag, total=answer.total)
                            yield answer
                        else:
                            self.state = msgspec.structs.replace(self.state, total=answer.total)
                        offset, total = self.state.offset, self.state.total
                        limit = self._caller.settings.max_download_bytes if total is None else total
                        async with _closing(stream) as chunks:
                            async for chunk in chunks:
                                offset += len(chunk)
                                self.transferred += len(chunk)
                                if offset > limit:
                                    self._refuse_excess(total, limit)
                                self.state = TransferState(offset=offset, etag=self.state.etag, total=total)
                                yield chunk
                                if self._emit is not None:
                                    await self._report_progress()
                        shortfall = check_length(self.state)
                        if shortfall is None:
                            if self._emit is not None:
                                await self._report_progress(last=True)
                            self._caller.shared.budget.repay(self._last_cost)
                            return
                        failed = FailedFetch(error=self._fail(shortfall))
                finally:
                    await _close(stream)
            except WireError as error:
                failed = self._read_failure(error)
            await self._pause(failed, brought=self.transferred - before)

    async def _pause(self, failed: FailedFetch, *, brought: int) -> None:
        """Wait for the next attempt, or raise where there is none."""
        if failed.start_over or self.state.etag is None:
            self.state = TransferState()
        if self.state.etag is not None and brought >= MIN_PROGRESS:
            self._failures = 0
        elif not failed.refused:
            self._failures += 1
        self._refusals = self._refusals + 1 if failed.refused else 0
        if self._max_retries == 0 or (not failed.refused and self._failures > self._max_retries):
            self._raise(failed.error)
        if self._failures or failed.refused:
            cost = THROTTLED_COST if failed.refused else TRANSIENT_COST
            if not self._caller.shared.budget.spend(cost) and not failed.refused:
                failed.error.add(budget_exhausted=True)
                self._raise(failed.error)
            self._last_cost = cost
        pause = pause_before(failed, self._refusals or self._failures, random.random())  # noqa: S311  jitter
        if time.monotonic() + pause >= self._deadline:
            self._raise(failed.error)
        event = RetryScheduled(
            call_id=self._call_id, attempt=self.attempts + 1, wait=pause, reason=failed.error.message[:200]
        )
        await self._caller.emit(event)
        await anyio.sleep(pause)
        self._caller.check_open()

    async def _open(self) -> tuple[ResponseStream, FullContent | PartialContent | FailedFetch]:
        """Follow the redirects, each one checked, to an answer that is none."""
        settings = self._caller.settings
        target = check_file_url(self._url, self._policy)
        headers = (
            (b"user-agent", settings.user_agent.encode("latin-1")),
            (b"accept", b"*/*"),
            (b"accept-encoding", b"identity"),
            *build_range_headers(self.state),
        )
        for _ in range(MAX_REDIRECTS + 1):
            stream = await self._open_one(target, headers)
            done = False
            try:
                answer = read_answer(
                    stream.status,
                    stream.headers,
                    self.state,
                    url=target.url,
                    host=self._host,
                    limit=settings.max_download_bytes,
                    wall=time.time(),
                )
                if not isinstance(answer, Redirect):
                    if isinstance(answer, FailedFetch):
                        await self._keep_evidence(stream, answer.error)
                    done = True
                    return stream, answer
            except DownloadError as error:
                await self._keep_evidence(stream, error)
                self._raise(error)
            finally:
                if not done:
                    await _close(stream)
            target = follow_redirect(target, answer.location, self._policy)
        msg = f"The file was not fetched: more than {MAX_REDIRECTS} redirects, the last one from {self._host}."
        raise DownloadError(msg, host=self._host, result_url=self._shown)

    async def _open_one(self, target: FileUrl, headers: tuple[tuple[bytes, bytes], ...]) -> ResponseStream:
        """Send one request, to each checked address in turn until one lets us connect."""
        sender = self._caller.shared.sender
        addresses = await self._resolve(target)
        request = Request(method="GET", url=target.url, headers=headers)
        for number in range(max(1, len(addresses))):
            first = (self._first_address + number) % len(addresses) if addresses else 0
            attempt = Attempt()
            try:
                return await sender.stream(
                    request,
                    attempt,
                    deadline=self._deadline,
                    stall=STALL_SECONDS,
                    addresses=addresses[first:] + addresses[:first],
                )
            except WireError as error:
                # A sender may try the first address only: try each one before the host counts as down.
                if error.failure not in _NOT_CONNECTED or number + 1 >= len(addresses):
                    raise
            finally:
                self._host = attempt.host or target.host
                self._phase = attempt.phase
                self._first_address = first
        raise AssertionError

    async def _resolve(self, target: FileUrl) -> tuple[str, ...]:
        """The checked addresses to connect to; empty for a literal, or where a proxy or a mock resolves names itself.

        The connection goes to these, so that a second DNS answer changes nothing.
        """
        if target.literal is not None:
            return ()
        addresses = await self._caller.shared.sender.resolve(target.url, deadline=self._deadline)
        check_addresses(target, addresses, self._policy)
        return addresses

    async def _keep_evidence(self, stream: ResponseStream, error: DownloadError) -> None:
        body = b""
        with contextlib.suppress(WireError), anyio.move_on_after(_EVIDENCE_SECONDS):
            async with _closing(stream) as chunks:
                async for chunk in chunks:
                    body += chunk[:_EVIDENCE_BYTES]
                    if len(body) >= _EVIDENCE_BYTES:
                        break
        error.add(body=show_body(body, self._caller.settings.redact) if body else None, host=self._host)

    def _read_failure(self, error: WireError) -> FailedFetch:
        if error.failure is WireFailure.CLOSED:
            msg = "The client was closed while a file was on its way."
            raise ClientClosedError(msg) from error
        if error.failure is WireFailure.STALLED:
            found = self._fail(f"no byte came for {STALL_SECONDS:g} s")
        elif error.failure is WireFailure.DEADLINE:
            found = self._fail("its timeout passed", "Allow a longer timeout=.")
        else:
            found = self._fail(error.message)
        found.__cause__ = error
        if error.failure in _FINAL or error.failure is WireFailure.DEADLINE:
            self._raise(found)
        return FailedFetch(error=found)

    def _fail(self, reason: str, advice: str = "") -> DownloadError:
        have = ""
        if self.state.offset:
            whole = f" of {self.state.total}" if self.state.total is not None else ""
            have = f" {self.state.offset}{whole} bytes had come."
        msg = f"The file could not be fetched whole from {self._host or self._shown}: {reason}.{have}"
        return DownloadError(f"{msg} {advice}".rstrip(), result_url=self._shown)

    def _refuse_excess(self, total: int | None, limit: int) -> NoReturn:
        self.state = TransferState()
        what = f"max_download_bytes={limit}" if total is None else f"the {total} bytes that were promised"
        self._raise(self._fail(f"it is longer than {what}"))

    def _raise(self, error: DownloadError) -> NoReturn:
        error.add(
            host=self._host or None,
            phase=self._phase,
            attempts=self.attempts,
            elapsed=time.monotonic() - self._began,
            result_url=self._shown,
        )
        raise error

    async def _report_progress(self, *, last: bool = False) -> None:
        now = time.monotonic()
        if self._emit is None or (now - self._reported < _PROGRESS_SECONDS and not last):
            return
        self._reported = now
        state = self.state
        rate = self.transferred / max(now - self._began, 1e-6)
        left = None if state.total is None or rate <= 0 else max(0.0, (state.total - state.offset) / rate)
        event = DownloadProgressed(
            call_id=self._call_id,
            name=self._name,
            received=state.offset,
            total=state.total,
            rate=rate,
            time_left=left,
        )
        await self._emit(event)


@contextlib.asynccontextmanager
async def _closing(stream: ResponseStream) -> AsyncGenerator[AsyncIterator[bytes], None]:
    chunks = stream.chunks()
    try:
        yield chunks
    finally:
        close = getattr(chunks, "aclose", None)
        if close is not None:
            await close()


async def _close(stream: ResponseStream) -> None:
    with anyio.move_on_after(_CLOSE_SECONDS, shield=True):
        await stream.aclose()


async def stream_once(fetch: Fetch, *, check: bool, media: MediaReader) -> AsyncGenerator[bytes, None]:
    """A file's bytes once each, for someone who cannot take bytes back.

    When a transfer must start over, the bytes that are out already are compared, by digest, with those that come
    again: it goes on only when they are the same. With ``check``, the first bytes are held back until they look
    like a video, and the structure is checked at the end. ``media`` is handed every byte.
    """
    digest = repeated_digest = sha256()
    given = repeated = 0
    held = b""
    async with aclosing(fetch.pieces()) as pieces:
        async for piece in pieces:
            if isinstance(piece, FullContent):
                held, repeated, repeated_digest = b"", 0, sha256()
                continue
            if repeated < given:
                part = piece[: given - repeated]
                repeated_digest.update(part)
                repeated += len(part)
                if repeated == given and repeated_digest.digest() != digest.digest():
                    msg = "The file changed on its host while it was being read; what was handed out is worth nothing."
                    raise DownloadError(msg)
                piece = piece[len(part) :]  # noqa: PLW2901  the rest of it is what is new
                if not piece:
                    continue
            held += piece
            if check and given == 0 and len(held) < _SNIFF_BYTES:
                continue
            piece, held = held, b""  # noqa: PLW2901  what was held back comes first
            media.feed(piece)
            if check:
                _refuse_content(media.reason, piece if given == 0 else b"")
            digest.update(piece)
            given += len(piece)
            repeated = given
            yield piece
    if given + len(held) != fetch.state.offset:
        msg = "The file became shorter on its host while it was being read; what was handed out is worth nothing."
        raise DownloadError(msg)
    media.feed(held)
    reason = media.finish(given + len(held), framed=fetch.framed)
    if check:
        _refuse_content(reason, held)


def _refuse_content(reason: str | None, head: bytes) -> None:
    if reason is not None:
        looks = f" It looks like {describe_content(head)}." if head else ""
        msg = f"This is no whole video file: {reason}.{looks} Pass check=False to take any bytes."
        raise DownloadError(msg)
