"""The errors for a file host's refusals: each is a ``DownloadError`` and also of its status's class."""

from __future__ import annotations

from videorouter.errors import (
    AuthenticationError,
    BadRequestError,
    DownloadError,
    InternalServerError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
)


class FileBadRequestError(DownloadError, BadRequestError):
    """400: the file host does not understand the request for a file."""


class FileUnauthorizedError(DownloadError, AuthenticationError):
    """401: the file host asks for credentials, which are never sent to it."""


class FileForbiddenError(DownloadError, PermissionDeniedError):
    """403: the file host forbids this link."""


class FileMissingError(DownloadError, NotFoundError):
    """404 or 410: the file is not there, or not there any more."""


class FileRateLimitError(DownloadError, RateLimitError):
    """429: the file host asks for a slower pace, and the deadline leaves no time to wait for it."""


class FileHostError(DownloadError, InternalServerError):
    """5xx, after all retries."""


FILE_REFUSALS: dict[int, type[DownloadError]] = {
    400: FileBadRequestError,
    401: FileUnauthorizedError,
    403: FileForbiddenError,
    404: FileMissingError,
    410: FileMissingError,
    429: FileRateLimitError,
}
_LINK = (
    "The link may have expired. If the job ran as a task, `await router.wait(task_id)` returns its current link; "
    "nothing is paid for that."
)
_ADVICE = {
    401: _LINK,
    403: _LINK,
    404: _LINK,
    410: _LINK,
    429: "Try again later, or allow a longer timeout.",
}


def build_refusal(status: int, host: str, shown: str, *, retry_after: float | None = None) -> DownloadError:
    """Build the error for a status that is not the file; the file was paid for all the same."""
    cls = FILE_REFUSALS.get(status, FileHostError if status >= 500 else DownloadError)
    advice = _ADVICE.get(status, "Try again later: what was paid for is not lost." if status >= 500 else "")
    msg = f"{host} answered {status} instead of the file. {advice}".rstrip()
    return cls(msg, status=status, retry_after=retry_after, result_url=shown)
