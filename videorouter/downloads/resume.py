"""Decides from a response's head whether a download starts, resumes, starts over or ends.

Two versions of a file are never mixed: a transfer goes on only behind a strong ``ETag`` that the answer repeats, at
exactly the byte that was asked for, in a file of exactly the length that was known. Everything else starts over.
It reads no clock and no body.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from videorouter.call.failures import FailedAttempt
from videorouter.call.retry import Outcome, find_outcome, read_retry_after
from videorouter.downloads.guard import REDIRECTS, show_url
from videorouter.downloads.host_errors import build_refusal
from videorouter.errors import DownloadError, VideoRouterError
from videorouter.http import WireFailure, find_header

if TYPE_CHECKING:
    from collections.abc import Sequence

Headers: TypeAlias = "Sequence[tuple[bytes, bytes]]"

MIN_PROGRESS = 4096
"""Bytes that an attempt must have received not to count as a failure."""

_STRONG = re.compile(rb'"[\x21\x23-\x7e\x80-\xff]{0,200}"')
_RANGE = re.compile(r"bytes\s+(\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", re.IGNORECASE)
_DIGITS = re.compile(r"\d{1,18}")
_FINAL = frozenset(
    {
        WireFailure.NAME_MISSING,
        WireFailure.CERTIFICATE,
        WireFailure.PROXY_REFUSED,
        WireFailure.ADDRESS_REFUSED,
        WireFailure.TOO_LARGE,
    }
)


class TransferState(msgspec.Struct, frozen=True, kw_only=True):
    """How far a transfer is: bytes received, the strong validator to resume with, the length if known."""

    offset: int = 0
    etag: str | None = None
    total: int | None = None


class FullContent(msgspec.Struct, frozen=True, kw_only=True):
    """The whole file follows; ``framed``: its end can be told from a cut."""

    total: int | None = None
    etag: str | None = None
    framed: bool = True


class PartialContent(msgspec.Struct, frozen=True, kw_only=True):
    """The bytes from ``offset`` on follow, of a file of ``total`` bytes."""

    total: int | None
    framed: bool = True


class Redirect(msgspec.Struct, frozen=True, kw_only=True):
    """The file is at another URL."""

    location: str | None


class FailedFetch(FailedAttempt, kw_only=True):
    """A failed attempt at a file; ``start_over``: the received bytes must be discarded first."""

    raised: VideoRouterError
    start_over: bool = False


Answer: TypeAlias = FullContent | PartialContent | Redirect | FailedFetch


def build_range_headers(state: TransferState) -> tuple[tuple[bytes, bytes], ...]:
    """Build the header fields that ask for the missing bytes."""
    if state.offset <= 0 or state.etag is None:
        return ()
    return (
        (b"range", f"bytes={state.offset}-".encode()),
        (b"if-range", state.etag.encode("latin-1")),
    )


def read_answer(
    status: int, headers: Headers, state: TransferState, *, url: str, host: str, limit: int, wall: float
) -> Answer:
    """Decide what a response's head means for a transfer of at most ``limit`` bytes; a larger file is refused.

    ``wall`` is the Unix time in seconds, for a ``Retry-After`` that is a date.
    """
    shown = show_url(url)
    if status == 200:
        return _read_whole(headers, shown, host, limit)
    if status == 206:
        return _read_part(headers, state, shown, host, limit)
    if status in REDIRECTS:
        return Redirect(location=find_header(headers, b"location"))
    if status == 416 and state.offset > 0:
        return _restart(host, shown, "has no bytes where the transfer stopped", status)
    retry_after = read_retry_after(headers, wall=wall)
    error = build_refusal(status, host, shown, retry_after=retry_after)
    outcome = Outcome.UNUSABLE if status < 300 else find_outcome(status, retry_after=retry_after)
    return FailedFetch(outcome=outcome, raised=error, retry_after=retry_after)


def find_file_outcome(failure: WireFailure) -> Outcome:
    """Return the outcome of an attempt that failed on the wire, before the head or within the body."""
    if failure is WireFailure.CLOSED:
        return Outcome.CLOSED
    if failure is WireFailure.DEADLINE:
        return Outcome.EXPIRED
    return Outcome.HOPELESS if failure in _FINAL else Outcome.CUT


def check_length(state: TransferState) -> str | None:
    """Return why a body that ended properly is not the whole file, or ``None``."""
    if state.total is None or state.offset == state.total:
        return None
    if state.offset < state.total:
        return f"it ended after {state.offset} of {state.total} bytes"
    return f"it is longer than the {state.total} bytes that were promised"


def choose_block_size(total: int | None) -> int:
    """Choose how many bytes to gather before a write: few thread hops for large files, little loss for small ones.

    A megabyte is still in the processor's cache when a thread takes it; four are not, and cost twice the time.
    """
    return 2**20 if total is None else min(2**20, max(2**18, total // 32))


def _read_whole(headers: Headers, shown: str, host: str, limit: int) -> Answer:
    lengths = {value.strip() for name, value in headers if name == b"content-length"}
    total: int | None = None
    if lengths:
        text = lengths.pop().decode("latin-1")
        if lengths or not _DIGITS.fullmatch(text):
            msg = f"{host} states a length that makes no sense ({text[:40]!r})."
            return FailedFetch(
                outcome=Outcome.UNUSABLE, raised=DownloadError(msg, status=200, result_url=shown), start_over=True
            )
        total = int(text)
    if total is not None and total > limit:
        raise _too_large(total, limit, shown)
    chunked = any(name == b"transfer-encoding" for name, _ in headers)
    return FullContent(
        total=total,
        etag=_strong_etag(headers),
        framed=total is not None or chunked,
    )


def _read_part(headers: Headers, state: TransferState, shown: str, host: str, limit: int) -> Answer:
    match = _RANGE.fullmatch((find_header(headers, b"content-range") or "").strip())
    first, last = (int(match[1]), int(match[2])) if match is not None else (-1, -1)
    total = int(match[3]) if match is not None and match[3] != "*" else None
    length = find_header(headers, b"content-length")
    consistent = length is None or length.strip() == str(last - first + 1)
    if total is not None and total > limit:
        raise _too_large(total, limit, shown)
    if first == 0 and total is not None and last == total - 1 and consistent:
        return FullContent(total=total, etag=_strong_etag(headers))
    if state.offset <= 0 or state.etag is None:
        return _restart(host, shown, "sent a part of the file though the whole was asked for", 206)
    if match is None:
        return _restart(host, shown, "does not say which part of the file it sent", 206)
    if first != state.offset or last < first or (total is not None and last >= total):
        return _restart(host, shown, "sent another part of the file than was asked for", 206)
    if total is not None and state.total is not None and total != state.total:
        return _restart(host, shown, "has a file of another length by now", 206)
    if state.total is not None and last >= state.total:
        return _restart(host, shown, "has a file of another length by now", 206)
    if _strong_etag(headers) != state.etag:
        return _restart(host, shown, "has another version of the file by now", 206)
    if not consistent:
        return _restart(host, shown, "contradicts itself about the length of a part", 206)
    return PartialContent(
        total=state.total if total is None else total, framed=total is not None or state.total is not None
    )


def _restart(host: str, shown: str, reason: str, status: int) -> FailedFetch:
    msg = f"The file could not be fetched whole: {host} {reason}. Run it again; it starts from the first byte."
    return FailedFetch(
        outcome=Outcome.UNUSABLE, raised=DownloadError(msg, status=status, result_url=shown), start_over=True
    )


def _too_large(total: int, limit: int, shown: str) -> DownloadError:
    msg = f"The file has {total} bytes, more than max_download_bytes={limit}. Raise it if the file is really wanted."
    return DownloadError(msg, result_url=shown)


def _strong_etag(headers: Headers) -> str | None:
    found = {value.strip() for name, value in headers if name == b"etag"}
    if len(found) != 1:
        return None
    value = found.pop()
    return value.decode("latin-1") if _STRONG.fullmatch(value) else None
