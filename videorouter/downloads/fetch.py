"""The walk of one file's bytes from their host: guarded hops, retries, and going on where it stopped.

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
import anyio.lowlevel
import msgspec

from videorouter.call.refusals import show_body
from videorouter.call.retry import THROTTLED_COST, TRANSIENT_COST
from videorouter.downloads.guard import MAX_HOPS, check_addresses, check_target, next_target, read_policy, show_url
from videorouter.downloads.mp4 import BoxCheck, describe_content
from videorouter.downloads.transfer import (
    LEAST_PROGRESS,
    Again,
    GoOn,
    Known,
    Redirect,
    Start,
    name_shortfall,
    pause_before,
    plan_headers,
    read_answer,
)
from videorouter.errors import ClientClosedError, DownloadError, Phase
from videorouter.events import DownloadProgressed, RetryScheduled
from videorouter.http import Attempt, Request, WireError, WireFailure

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

    from videorouter.call.caller import Caller
    from videorouter.downloads.guard import Policy, Target
    from videorouter.events import Event
    from videorouter.http import ResponseStream, Sender

STALL = 30.0
"""Seconds without a byte after which a connection is given up."""

_CLOSING = 2.0
_PEEK = 4096
_PEEK_SECONDS = 5.0
_TELL_EVERY = 0.25
_BATONS = 4
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


class _Turns:
    """Transfers of one event loop take turns, so that many fast ones leave room for everything else."""

    def __init__(self) -> None:
        self.active = 0
        self._baton = anyio.Semaphore(_BATONS, fast_acquire=True)

    async def take(self) -> None:
        """Let the loop look around; with many transfers at once, only after those that asked before."""
        async with self._baton:
            await anyio.lowlevel.checkpoint()


_turns: anyio.lowlevel.RunVar[_Turns] = anyio.lowlevel.RunVar("download turns")


def _find_turns() -> _Turns:
    try:
        return _turns.get()
    except LookupError:
        turns = _Turns()
        _turns.set(turns)
        return turns


class Fetch:
    """One file on its way.

    Args:
        caller: The client's way to the wire.
        url: Where it lies.
        deadline: ``time.monotonic()`` value at which the whole transfer ends.
        max_retries: Attempts in a row that may bring nothing.
        call_id: Of its events.
        name: Of the file, in events.
        tell: Is handed the progress events.

    Attributes:
        known: What is here, and what is known of the whole.
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
        tell: Callable[[Event], Awaitable[None]] | None = None,
    ) -> None:
        self.known: Known = Known()
        self.framed: bool = True
        self.transferred: int = 0
        self.attempts: int = 0
        self._caller = caller
        self._url = url
        self._policy = read_policy(caller.settings)
        self._deadline = deadline
        self._max_retries = max_retries
        self._call_id = call_id
        self._name = name
        self._tell = tell
        self._began = time.monotonic()
        self._told = self._began
        self._host = ""
        self._phase: Phase | None = None
        self._turn = 0
        self._last_cost = 1
        self._failures = 0
        self._refusals = 0

    async def pieces(self) -> AsyncGenerator[Start | bytes, None]:
        """The bytes after ``known.offset``, as they arrive; a ``Start`` says that they begin anew from the first.

        Close it (``contextlib.aclosing``): an open connection hangs on it.

        Raises:
            VideoRouterError: It did not come whole.
        """
        if self.known.offset and self.known.offset == self.known.total:
            return
        turns = _find_turns()
        while True:
            before = self.transferred
            self.attempts += 1
            try:
                stream, step = await self._open()
                try:
                    if isinstance(step, Again):
                        again = step
                    else:
                        self.framed = step.framed
                        if isinstance(step, Start):
                            self.known = Known(etag=step.etag, total=step.total)
                            yield step
                        else:
                            self.known = msgspec.structs.replace(self.known, total=step.total)
                        offset, total = self.known.offset, self.known.total
                        limit = self._caller.settings.max_download_bytes if total is None else total
                        async with _closing(stream.chunks(), turns) as chunks:
                            async for chunk in chunks:
                                offset += len(chunk)
                                self.transferred += len(chunk)
                                if offset > limit:
                                    self._refuse_excess(total, limit)
                                self.known = Known(offset=offset, etag=self.known.etag, total=total)
                                yield chunk
                                if turns.active > _BATONS:
                                    await turns.take()
                                if self._tell is not None:
                                    await self._report()
                        shortfall = name_shortfall(self.known)
                        if shortfall is None:
                            if self._tell is not None:
                                await self._report(last=True)
                            self._caller.shared.budget.repay(self._last_cost)
                            return
                        again = Again(error=self._fail(shortfall))
                finally:
                    with anyio.move_on_after(_CLOSING, shield=True):
                        await stream.aclose()
            except WireError as error:
                again = self._judge(error)
            await self._pause(again, brought=self.transferred - before)

    async def _pause(self, again: Again, *, brought: int) -> None:
        """Wait for the next attempt, or raise where there is none."""
        if again.afresh or self.known.etag is None:
            self.known = Known()
        if self.known.etag is not None and brought >= LEAST_PROGRESS:
            self._failures = 0
        elif not again.refused:
            self._failures += 1
        self._refusals = self._refusals + 1 if again.refused else 0
        if self._max_retries == 0 or (not again.refused and self._failures > self._max_retries):
            self._raise(again)
        if self._failures or again.refused:
            cost = THROTTLED_COST if again.refused else TRANSIENT_COST
            if not self._caller.shared.budget.spend(cost) and not again.refused:
                again.error.add(budget_exhausted=True)
                self._raise(again)
            self._last_cost = cost
        pause = pause_before(again, self._refusals or self._failures, random.random())  # noqa: S311  jitter
        if time.monotonic() + pause >= self._deadline:
            self._raise(again)
        event = RetryScheduled(
            call_id=self._call_id, attempt=self.attempts + 1, wait=pause, reason=again.error.message[:200]
        )
        await self._caller.emit(event)
        await anyio.sleep(pause)
        self._caller.check_open()

    async def _open(self) -> tuple[ResponseStream, Start | GoOn | Again]:
        """Walk the redirects, each judged, to an answer that is none."""
        settings = self._caller.settings
        target = check_target(self._url, self._policy)
        headers = (
            (b"user-agent", settings.user_agent.encode("latin-1")),
            (b"accept", b"*/*"),
            (b"accept-encoding", b"identity"),
            *plan_headers(self.known),
        )
        for _ in range(MAX_HOPS + 1):
            stream = await self._knock(target, headers)
            done = False
            try:
                step = read_answer(
                    stream.status,
                    stream.headers,
                    self.known,
                    url=target.url,
                    host=self._host,
                    limit=settings.max_download_bytes,
                    wall=time.time(),
                )
                if not isinstance(step, Redirect):
                    if isinstance(step, Again):
                        await self._keep_evidence(stream, step.error)
                    done = True
                    return stream, step
            except DownloadError as error:
                await self._keep_evidence(stream, error)
                self._add_facts(error)
                raise
            finally:
                if not done:
                    with anyio.move_on_after(_CLOSING, shield=True):
                        await stream.aclose()
            target = next_target(target, step.location, self._policy)
        msg = f"The file was not fetched: more than {MAX_HOPS} redirects, the last one from {self._host}."
        raise DownloadError(msg, host=self._host, result_url=show_url(self._url))

    async def _knock(self, target: Target, headers: tuple[tuple[bytes, bytes], ...]) -> ResponseStream:
        sender = self._caller.shared.sender
        addresses = await find_addresses(sender, target, self._policy, deadline=self._deadline)
        request = Request(method="GET", url=target.url, headers=headers)
        for turn in range(max(1, len(addresses))):
            first = (self._turn + turn) % len(addresses) if addresses else 0
            attempt = Attempt()
            try:
                return await sender.stream(
                    request,
                    attempt,
                    deadline=self._deadline,
                    stall=STALL,
                    addresses=addresses[first:] + addresses[:first],
                )
            except WireError as error:
                # A sender may try the first address only: give each one its turn before the host counts as down.
                if error.failure not in _NOT_CONNECTED or turn + 1 >= len(addresses):
                    raise
            finally:
                self._host = attempt.host or target.host
                self._phase = attempt.phase
                self._turn = first
        raise AssertionError

    async def _keep_evidence(self, stream: ResponseStream, error: DownloadError) -> None:
        body = b""
        with contextlib.suppress(WireError), anyio.move_on_after(_PEEK_SECONDS):
            async with _closing(stream.chunks(), _find_turns()) as chunks:
                async for chunk in chunks:
                    body += chunk[:_PEEK]
                    if len(body) >= _PEEK:
                        break
        error.add(body=show_body(body, self._caller.settings.redact) if body else None, host=self._host)

    def _judge(self, error: WireError) -> Again:
        if error.failure is WireFailure.CLOSED:
            msg = "The client was closed while a file was on its way."
            raise ClientClosedError(msg) from error
        if error.failure is WireFailure.STALLED:
            found = self._fail(f"no byte came for {STALL:g} s")
        elif error.failure is WireFailure.DEADLINE:
            found = self._fail("its timeout passed", "Allow a longer timeout=.")
        else:
            found = self._fail(error.message)
        found.__cause__ = error
        if error.failure in _FINAL or error.failure is WireFailure.DEADLINE:
            self._add_facts(found)
            raise found
        return Again(error=found)

    def _fail(self, reason: str, advice: str = "") -> DownloadError:
        have = ""
        if self.known.offset:
            whole = f" of {self.known.total}" if self.known.total is not None else ""
            have = f" {self.known.offset}{whole} bytes had come."
        msg = f"The file could not be fetched whole from {self._host or show_url(self._url)}: {reason}.{have}"
        return DownloadError(f"{msg} {advice}".rstrip(), result_url=show_url(self._url))

    def _refuse_excess(self, total: int | None, limit: int) -> NoReturn:
        self.known = Known()
        reason = (
            f"it is longer than max_download_bytes={limit}"
            if total is None
            else f"it is longer than the {total} bytes that were promised"
        )
        error = self._fail(reason)
        self._add_facts(error)
        raise error

    def _raise(self, again: Again) -> NoReturn:
        self._add_facts(again.error)
        raise again.error

    def _add_facts(self, error: DownloadError) -> None:
        error.add(
            host=self._host or None,
            phase=self._phase,
            attempts=self.attempts,
            elapsed=time.monotonic() - self._began,
            result_url=show_url(self._url),
        )

    async def _report(self, *, last: bool = False) -> None:
        now = time.monotonic()
        if self._tell is None or (now - self._told < _TELL_EVERY and not last):
            return
        self._told = now
        known = self.known
        rate = self.transferred / max(now - self._began, 1e-6)
        left = None if known.total is None or rate <= 0 else max(0.0, (known.total - known.offset) / rate)
        event = DownloadProgressed(
            call_id=self._call_id,
            name=self._name,
            received=known.offset,
            total=known.total,
            rate=rate,
            time_left=left,
        )
        await self._tell(event)


async def find_addresses(sender: Sender, target: Target, policy: Policy, *, deadline: float) -> tuple[str, ...]:
    """The checked addresses to connect to; empty for a literal, or where a proxy or a mock resolves names itself.

    The connection goes to these, so that a second DNS answer changes nothing.
    """
    if target.literal is not None:
        return ()
    addresses = await sender.resolve(target.url, deadline=deadline)
    check_addresses(target, addresses, policy)
    return addresses


@contextlib.asynccontextmanager
async def _closing(chunks: AsyncIterator[bytes], turns: _Turns) -> AsyncGenerator[AsyncIterator[bytes], None]:
    turns.active += 1
    try:
        yield chunks
    finally:
        turns.active -= 1
        close = getattr(chunks, "aclose", None)
        if close is not None:
            await close()


async def steady_pieces(fetch: Fetch, *, check: bool) -> AsyncGenerator[bytes, None]:
    """A file's bytes once each, for someone who cannot take bytes back.

    When a transfer must start over, the bytes that are out already are compared, by digest, with those that come
    again: it goes on only when they are the same.

    Args:
        fetch: The transfer.
        check: Whether to hold the first bytes back until they look like MP4, and to check the boxes at the end.

    Raises:
        VideoRouterError: It did not come whole, or is no MP4 file.
    """
    boxes = BoxCheck()
    digest = again = sha256()
    given = repeated = 0
    held = b""
    async with aclosing(fetch.pieces()) as pieces:
        async for piece in pieces:
            if isinstance(piece, Start):
                held, repeated, again = b"", 0, sha256()
                continue
            if repeated < given:
                part = piece[: given - repeated]
                again.update(part)
                repeated += len(part)
                if repeated == given and again.digest() != digest.digest():
                    msg = "The file changed on its host while it was being read; what was handed out is worth nothing."
                    raise DownloadError(msg)
                piece = piece[len(part) :]  # noqa: PLW2901  the rest of it is what is new
                if not piece:
                    continue
            held += piece
            if check and given == 0 and len(held) < 8:
                continue
            piece, held = held, b""  # noqa: PLW2901  what was held back comes first
            if check:
                boxes.feed(piece)
                _refuse_content(boxes.reason, piece if given == 0 else b"")
            digest.update(piece)
            given += len(piece)
            repeated = given
            yield piece
    if given + len(held) != fetch.known.offset:
        msg = "The file became shorter on its host while it was being read; what was handed out is worth nothing."
        raise DownloadError(msg)
    if check:
        boxes.feed(held)
        _refuse_content(boxes.finish(given + len(held), framed=fetch.framed), held)


def _refuse_content(reason: str | None, head: bytes) -> None:
    if reason is not None:
        looks = f" It looks like {describe_content(head)}." if head else ""
        msg = f"This is no whole MP4 file: {reason}.{looks} Pass check=False to take any bytes."
        raise DownloadError(msg)
