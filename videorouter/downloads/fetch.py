"""Fetches one file's bytes from its host: checked addresses and redirects, retries, and resuming where it stopped.

It sends no API key and no cookie, and writes nothing.
"""

from __future__ import annotations

import contextlib
import time
from contextlib import aclosing
from hashlib import sha256
from typing import TYPE_CHECKING, NoReturn

import anyio
import msgspec

from videorouter.call.caller import Call
from videorouter.call.failures import FailedAttempt, show_body
from videorouter.call.retry import Outcome, RequestKind, RetryAfter
from videorouter.downloads.guard import (
    MAX_REDIRECTS,
    build_policy,
    check_addresses,
    check_file_url,
    follow_redirect,
    show_url,
)
from videorouter.downloads.mp4 import describe_content
from videorouter.downloads.resume import (
    MIN_PROGRESS,
    FailedFetch,
    FullContent,
    PartialContent,
    Redirect,
    TransferState,
    build_range_headers,
    check_length,
    find_file_outcome,
    read_answer,
)
from videorouter.errors import ClientClosedError, DownloadError, Phase, VideoRouterError
from videorouter.events import DownloadProgressed, RetryScheduled
from videorouter.http import Attempt, Request, ResponseStream, WireError, WireFailure

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

    from videorouter.downloads.guard import AddressPolicy, FileUrl
    from videorouter.downloads.media import MediaReader

STALL_SECONDS = 30.0
"""A connection without a byte for so long is given up."""

_CLOSE_SECONDS = 2.0
_SNIFF_BYTES = 12
_EVIDENCE_BYTES = 4096
_EVIDENCE_SECONDS = 5.0
_PROGRESS_SECONDS = 0.25
_NOT_CONNECTED = frozenset({WireFailure.CONNECTION_REFUSED, WireFailure.UNREACHABLE, WireFailure.CONNECT_TIMEOUT})


class Fetch(Call[tuple[ResponseStream, FullContent | PartialContent]], kw_only=True, eq=False):
    """One file transfer; set ``state`` before ``pieces`` to resume.

    ``name`` is for its events; ``framed`` says whether the end could be told from a cut; ``transferred`` are bytes on
    the wire. ``memory``, if given, returns where the next bytes may be read to: see ``ResponseStream.chunks``.
    """

    kind: RequestKind = RequestKind.FILE
    url: str
    call_id: str
    name: str
    emit: Callable[..., Awaitable[None]] | None = None
    memory: Callable[[], memoryview] | None = None
    state: TransferState = TransferState()
    framed: bool = True
    transferred: int = 0
    _before: int = 0
    _reported: float = 0.0
    _host: str = ""
    _phase: Phase | None = None
    _first_address: int = 0

    def __post_init__(self) -> None:
        self.history.began = self._reported = time.monotonic()

    async def pieces(self) -> AsyncGenerator[FullContent | bytes | memoryview, None]:
        """Yield the bytes after ``state.offset`` as they arrive; ``FullContent`` means a restart from the first.

        Close it (``contextlib.aclosing``): it holds an open connection.
        """
        if self.state.offset and self.state.offset == self.state.total:
            return
        failed: FailedFetch | None = None
        while True:
            stream, content = await self.caller.send(self, failed)
            try:
                if isinstance(content, FullContent):
                    self.state = TransferState(etag=content.etag, total=content.total)
                    yield content
                else:
                    self.state = msgspec.structs.replace(self.state, total=content.total)
                self.framed = content.framed
                offset, total = self.state.offset, self.state.total
                limit = self.caller.settings.max_download_bytes if total is None else total
                async with _closing(stream, self.memory) as chunks:
                    async for chunk in chunks:
                        offset += len(chunk)
                        self.transferred += len(chunk)
                        if offset > limit:
                            self._refuse_excess(total, limit)
                        self.state = TransferState(offset=offset, etag=self.state.etag, total=total)
                        yield chunk
                        if self.emit is not None:
                            await self._report_progress()
                shortfall = check_length(self.state)
                if shortfall is None:
                    if self.emit is not None:
                        await self._report_progress(last=True)
                    self.caller.shared.retry_budget.repay(self.history.last_cost)
                    return
                failed = self._break_off(FailedFetch(outcome=Outcome.CUT, raised=self._describe(shortfall)))
            except WireError as error:
                failed = self._break_off(self._read_failure(error))
            finally:
                await _close(stream)

    def _break_off(self, failed: FailedFetch) -> FailedFetch:
        """Decide whether the received bytes survive a failed attempt: without a strong validator they are lost."""
        if failed.start_over or self.state.etag is None:
            self.state = TransferState()
        elif failed.outcome is Outcome.CUT and self.transferred - self._before >= MIN_PROGRESS:
            failed.outcome = Outcome.PARTIAL
        return failed

    async def send_once(self) -> tuple[ResponseStream, FullContent | PartialContent] | FailedFetch:
        """Follow the redirects, each one checked, to the file."""
        caller = self.caller
        caller.check_open()
        self.history.attempts += 1
        self._before = self.transferred
        policy = build_policy(caller.settings)
        target = check_file_url(self.url, policy)
        headers = (
            (b"user-agent", caller.settings.user_agent.encode("latin-1")),
            (b"accept", b"*/*"),
            (b"accept-encoding", b"identity"),
            *build_range_headers(self.state),
        )
        for _ in range(MAX_REDIRECTS + 1):
            try:
                stream = await self._open(target, headers, policy)
            except WireError as error:
                return self._break_off(self._read_failure(error))
            kept = False
            try:
                answer = read_answer(
                    stream.status,
                    stream.headers,
                    self.state,
                    url=target.url,
                    host=self._host,
                    limit=caller.settings.max_download_bytes,
                    wall=time.time(),
                )
                if isinstance(answer, FailedFetch):
                    await self._keep_evidence(stream, answer.raised)
                    return self._break_off(answer)
                if not isinstance(answer, Redirect):
                    kept = True
                    return stream, answer
            except DownloadError as error:
                await self._keep_evidence(stream, error)
                self._add_facts(error)
                raise
            finally:
                if not kept:
                    await _close(stream)
            target = follow_redirect(target, answer.location, policy)
        msg = f"The file was not fetched: more than {MAX_REDIRECTS} redirects, the last one from {self._host}."
        raise DownloadError(msg, host=self._host, result_url=show_url(self.url))

    async def _open(
        self, target: FileUrl, headers: tuple[tuple[bytes, bytes], ...], policy: AddressPolicy
    ) -> ResponseStream:
        """Send one request, to each checked address in turn until one lets us connect."""
        addresses = await self._resolve(target, policy)
        request = Request(method="GET", url=target.url, headers=headers)
        for number in range(max(1, len(addresses))):
            first = (self._first_address + number) % len(addresses) if addresses else 0
            attempt = Attempt()
            self.attempt: Attempt | None = attempt
            try:
                return await self.caller.open_stream(
                    request,
                    attempt,
                    deadline=self.deadline,
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

    async def _resolve(self, target: FileUrl, policy: AddressPolicy) -> tuple[str, ...]:
        """Return the checked addresses to connect to; empty for a literal, or where a proxy or a mock resolves names.

        The connection uses these, so that a second DNS answer changes nothing.
        """
        if target.literal is not None:
            return ()
        addresses = await self.caller.shared.sender.resolve(target.url, deadline=self.deadline)
        check_addresses(target, addresses, policy)
        return addresses

    async def _keep_evidence(self, stream: ResponseStream, error: VideoRouterError) -> None:
        body = b""
        with contextlib.suppress(WireError), anyio.move_on_after(_EVIDENCE_SECONDS):
            async with _closing(stream) as chunks:
                async for chunk in chunks:
                    body += chunk[:_EVIDENCE_BYTES]
                    if len(body) >= _EVIDENCE_BYTES:
                        break
        error.add(body=show_body(body, self.caller.settings.redact) if body else None, host=self._host)

    def _read_failure(self, error: WireError) -> FailedFetch:
        found: VideoRouterError
        if error.failure is WireFailure.CLOSED:
            found = ClientClosedError("The client was closed while a file was on its way.")
        elif error.failure is WireFailure.STALLED:
            found = self._describe(f"no byte came for {STALL_SECONDS:g} s")
        elif error.failure is WireFailure.DEADLINE:
            found = self._describe("its timeout passed", "Allow a longer timeout=.")
        else:
            found = self._describe(error.message)
        found.__cause__ = error
        return FailedFetch(outcome=find_file_outcome(error.failure), raised=found)

    def _describe(self, reason: str, advice: str = "") -> DownloadError:
        have = ""
        if self.state.offset:
            whole = f" of {self.state.total}" if self.state.total is not None else ""
            have = f" {self.state.offset}{whole} bytes had come."
        shown = show_url(self.url)
        msg = f"The file could not be fetched whole from {self._host or shown}: {reason}.{have}"
        return DownloadError(f"{msg} {advice}".rstrip(), result_url=shown)

    def _refuse_excess(self, total: int | None, limit: int) -> NoReturn:
        self.state = TransferState()
        what = f"max_download_bytes={limit}" if total is None else f"the {total} bytes that were promised"
        error = self._describe(f"it is longer than {what}")
        self._add_facts(error)
        raise error

    def build_error(self, failed: FailedAttempt) -> VideoRouterError:
        """Build the error of the attempt, with the facts of the transfer."""
        error = failed.raised or self._describe("no answer came")
        self._add_facts(error)
        return error

    def _add_facts(self, error: VideoRouterError) -> None:
        error.add(
            host=self._host or None,
            phase=self._phase,
            attempts=self.history.attempts,
            elapsed=time.monotonic() - self.history.began,
            result_url=show_url(self.url),
        )

    async def tell_retry(self, decision: RetryAfter) -> None:
        """Report a coming retry to the event hook."""
        reason = self.failed.raised.message[:200] if self.failed is not None and self.failed.raised is not None else ""
        await self.caller.emit(
            RetryScheduled(call_id=self.call_id, attempt=self.history.attempts + 1, wait=decision.after, reason=reason)
        )

    async def _report_progress(self, *, last: bool = False) -> None:
        now = time.monotonic()
        if self.emit is None or (now - self._reported < _PROGRESS_SECONDS and not last):
            return
        self._reported = now
        state = self.state
        rate = self.transferred / max(now - self.history.began, 1e-6)
        left = None if state.total is None or rate <= 0 else max(0.0, (state.total - state.offset) / rate)
        event = DownloadProgressed(
            call_id=self.call_id,
            name=self.name,
            received=state.offset,
            total=state.total,
            rate=rate,
            time_left=left,
        )
        await self.emit(event, deadline=self.deadline)


@contextlib.asynccontextmanager
async def _closing(
    stream: ResponseStream, memory: Callable[[], memoryview] | None = None
) -> AsyncGenerator[AsyncIterator[bytes | memoryview], None]:
    chunks = stream.chunks(memory)
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
    """Yield each byte of a file once, for a reader that cannot take bytes back.

    When a transfer must start over, the bytes that were yielded are compared by digest with the new ones: it goes on
    only when they are equal. With ``check``, the first bytes are held back until they look like a video, and the
    structure is checked at the end. ``media`` receives every byte.
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
                    msg = "The file changed on its host while it was being read. Discard the bytes received so far."
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
        msg = "The file became shorter on its host while it was being read. Discard the bytes received so far."
        raise DownloadError(msg)
    media.feed(held)
    reason = media.finish(given + len(held), framed=fetch.framed)
    if check:
        _refuse_content(reason, held)


def _refuse_content(reason: str | None, head: bytes) -> None:
    if reason is not None:
        looks = f" It looks like {describe_content(head)}." if head else ""
        msg = f"This is not a whole video file: {reason}.{looks} Pass check=False to take any bytes."
        raise DownloadError(msg)
