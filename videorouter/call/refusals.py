"""What a refusal is called and what it tells the user to do: an error answer in, an exception out.

Statuses choose the class; moderation is one class wherever it surfaces. This file decides nothing about retries.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from videorouter.errors import (
    APIStatusError,
    AuthenticationError,
    BadRequestError,
    ContentPolicyError,
    InsufficientCreditsError,
    InternalServerError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    UnprocessableEntityError,
)
from videorouter.http import find_header

if TYPE_CHECKING:
    from collections.abc import Callable

    from videorouter.call.answers import ErrorAnswer, Headers

MAX_EVIDENCE = 4096
"""Bytes of an answer that an error keeps."""

MAX_WORDS = 1000
"""Characters of a message, a type or a code that an error keeps."""

_WINDOW = 64 * MAX_EVIDENCE
"""Bytes that are searched for the key: what is taken out must not pull an unsearched piece into sight."""

_CLASSES: dict[int, type[APIStatusError]] = {
    400: BadRequestError,
    401: AuthenticationError,
    402: InsufficientCreditsError,
    403: PermissionDeniedError,
    404: NotFoundError,
    422: UnprocessableEntityError,
    429: RateLimitError,
}
_MODERATION = re.compile(
    r"content[ _-]?polic|moderat|safety|sensitive|nsfw|prohibited|flagged|responsible[ _-]ai|\bharmful", re.IGNORECASE
)
_REQUEST_ID = re.compile(r"\(request id: ([^)\s]{1,200})\)")
_SECRET_HEADERS = frozenset({"authorization", "proxy-authorization", "cookie", "set-cookie", "x-api-key"})


def is_moderation(kind: object, code: object = None, message: str = "") -> bool:
    """Whether a refusal or a failed task speaks of the content, by its type, its code or its words."""
    return any(isinstance(text, str) and _MODERATION.search(text) for text in (kind, code, message))


def find_request_id(headers: Headers, message: str = "") -> str | None:
    """The gateway's id of a request: from its header, else from the end of its message."""
    found = find_header(headers, b"x-infron-request-id")
    if found:
        return found[:200]
    match = _REQUEST_ID.search(message)
    return match.group(1) if match else None


def show_body(body: bytes, redact: Callable[[str], str]) -> str:
    """The first 4 KiB of an answer as text, without the key; a piece of it at the cut goes too."""
    text = redact(body[:_WINDOW].decode("utf-8", "replace"))
    return text[:MAX_EVIDENCE]


def show_words(text: str, redact: Callable[[str], str], most: int = MAX_WORDS) -> str:
    """Some of what an answer says, bounded, without the key."""
    return redact(text[:_WINDOW])[:most]


def show_headers(headers: Headers, redact: Callable[[str], str]) -> tuple[tuple[str, str], ...]:
    """Header fields as text, bounded, without secrets."""
    return tuple(
        (
            redact(name.decode("latin-1"))[:200],
            "<redacted>"
            if name.lower().decode("latin-1") in _SECRET_HEADERS
            else redact(value.decode("latin-1"))[:1000],
        )
        for name, value in headers[:64]
    )


def build_refusal(
    answer: ErrorAnswer,
    headers: Headers,
    *,
    redact: Callable[[str], str],
    auth_scheme: str | None,
    model: str | None = None,
    what: str = "request",
    cls: type[APIStatusError] | None = None,
) -> APIStatusError:
    """The exception for an answer that says no, with everything known about it and no secret; ``cls`` overrides."""
    status = answer.effective or answer.status
    message = show_words(answer.message, redact)
    body = show_body(answer.body, redact)
    if cls is None:
        cls = _CLASSES.get(status, InternalServerError if status >= 500 else APIStatusError)
        if status in {400, 403, 422} and is_moderation(answer.type, answer.code, message):
            cls = ContentPolicyError
    said = f": {message}" if message else "."
    under = f" under HTTP {answer.status}" if answer.effective != answer.status else ""
    return cls(
        f"The gateway refused the {what} with {status}{under}{said} {_advise(cls, status, auth_scheme, model, body)}",
        status=answer.status if answer.effective == answer.status else status,
        code=show_words(answer.code, redact) if isinstance(answer.code, str) else answer.code,
        type=show_words(answer.type, redact) if answer.type else None,
        param=show_words(answer.param, redact) if answer.param else None,
        request_id=_clean(find_request_id(headers, answer.message), redact),
        cf_ray=_clean(find_header(headers, b"cf-ray"), redact),
        body=body,
        headers=show_headers(headers, redact),
        model=model,
    )


def _clean(text: str | None, redact: Callable[[str], str]) -> str | None:
    return None if text is None else redact(text)[:200]


def _advise(cls: type[APIStatusError], status: int, auth_scheme: str | None, model: str | None, body: str) -> str:
    if cls is ContentPolicyError:
        return "Moderation refused it: nothing was bought. Change the prompt or the input."
    if cls is RateLimitError:
        return "Nothing was bought. Wait retry_after seconds, lower max_concurrency, or allow a longer timeout."
    if status == 401:
        if auth_scheme is None:
            return (
                "The key was sent bare, as the vendor's quickstart shows. Check the key; if it is right, this host may "
                'want a scheme: pass auth_scheme="Bearer".'
            )
        return f"The key was sent as `{auth_scheme} <key>`. Check the key, or pass auth_scheme=None to send it bare."
    if status == 403 and re.search(r"error code:?\s*10\d\d|cloudflare", body, re.IGNORECASE):
        return (
            "This is Cloudflare refusing the client's agent string or address, not a bad key. Pass another "
            "user_agent=..., or try from another network."
        )
    return {
        400: "Nothing was bought. Check the request's fields against the model's page.",
        402: "The account is out of credit: nothing was bought. Top it up on the vendor's billing page.",
        403: "Nothing was bought. The account or key may not use this model; check it on the vendor's page.",
        404: f"Nothing was bought. Check the model id ({model}), the video or task id, and base_url."
        if model
        else "Nothing was bought. Check the id and base_url.",
        405: "Nothing was bought. Check base_url: this path does not take such a request.",
        413: "Nothing was bought. The request is too large: pass inputs as URLs.",
        422: "Nothing was bought. A field has a value that this model does not take; param names it when known.",
    }.get(status, "")
