"""What a file host's refusal is called: always a ``DownloadError``, and of its status's class, too.

It decides nothing about the gateway's refusals, which say that nothing was bought: a file that is refused was paid for.
"""

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
    """401: the file host wants credentials, and gets none from here."""


class FileForbiddenError(DownloadError, PermissionDeniedError):
    """403: the file host lets nobody in with this link."""


class FileMissingError(DownloadError, NotFoundError):
    """404 or 410: the file is not there, or not there any more."""


class FileRateLimitError(DownloadError, RateLimitError):
    """429: the file host asks for a slower pace, and the deadline leaves no time to wait for it."""


class FileHostError(DownloadError, InternalServerError):
    """5xx, after all retries."""


_CLASSES: dict[int, type[DownloadError]] = {
    400: FileBadRequestError,
    401: FileUnauthorizedError,
    403: FileForbiddenError,
    404: FileMissingError,
    410: FileMissingError,
    429: FileRateLimitError,
}
_LINK = (
    "The link may have expired. If the job ran as a task, `await router.wait(task_id)` gives its current link; "
    "nothing is paid for that."
)
_ADVICE = {
    401: _LINK,
    403: _LINK,
    404: _LINK,
    410: _LINK,
    429: "Try again later, or allow a longer timeout.",
}


def build_file_refusal(status: int, host: str, shown: str, *, retry_after: float | None = None) -> DownloadError:
    """The exception for a file host's answer that is no file.

    Args:
        status: Of the answer.
        host: Who gave it.
        shown: The URL, fit for a message.
        retry_after: Seconds that it asked to wait.
    """
    cls = _CLASSES.get(status, FileHostError if status >= 500 else DownloadError)
    advice = _ADVICE.get(status, "Try again later: what was paid for is not lost." if status >= 500 else "")
    msg = f"{host} answered {status} instead of the file. {advice}".rstrip()
    return cls(msg, status=status, retry_after=retry_after, result_url=shown)
