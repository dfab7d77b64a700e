"""What became of one attempt that brought no success: its outcome for the retry law, and the error that a user sees.

It decides nothing about retries (``call.retry`` does) and sends nothing. Everything that may have cost money keeps
its evidence: status, request id, header fields and the first 4 KiB of the body, without the key.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

import msgspec

from videorouter.call.answers import ErrorAnswer, Unusable, decode_json, find_error
from videorouter.call.refusals import (
    build_refusal,
    find_request_id,
    show_body,
    show_headers,
    show_words,
)
from videorouter.call.retry import UNDECIDED, Outcome, Raise, RequestKind, find_outcome, read_retry_after
from videorouter.errors import (
    APIConnectionError,
    APIStatusError,
    ClientClosedError,
    DeadlineExceededError,
    InternalServerError,
    OutcomeUnknownError,
    Phase,
    RateLimitError,
    UnexpectedResponseError,
    VideoRouterError,
)
from videorouter.http import Attempt, Response, WireError, WireFailure, find_header

if TYPE_CHECKING:
    from collections.abc import Callable

    from videorouter.config import ClientSettings

_HOPELESS = frozenset(
    {
        WireFailure.CERTIFICATE,
        WireFailure.PROXY_REFUSED,
        WireFailure.ADDRESS_REFUSED,
        WireFailure.PROTOCOL,
        WireFailure.TOO_LARGE,
    }
)
_UNSENT = frozenset(
    {
        Outcome.UNREACHED,
        Outcome.NAME_MISSING,
        Outcome.HOPELESS,
        Outcome.EXPIRED,
        Outcome.CLOSED,
        Outcome.UNSENT,
    }
)
_SAYS_NO = frozenset({Outcome.REFUSED, Outcome.FORBIDDEN, Outcome.MISSING, Outcome.REJECTED})
_TASK_ID = re.compile(rb'"task_id"\s*:\s*"([^"\\\x00-\x1f]{1,200})"')
_MAY_BE_BILLED = (
    "It may have been accepted and billed, so it is not sent a second time. Look for the video in the vendor's "
    "dashboard, with request_id or the time of the call, before you decide what to do."
)


class FailedAttempt(msgspec.Struct, kw_only=True):
    """The end of one attempt that brought no success."""

    outcome: Outcome
    attempt: Attempt
    error: WireError | None = None
    response: Response | None = None
    answer: ErrorAnswer | Unusable | None = None
    retry_after: float | None = None
    raised: VideoRouterError | None = None
    """What it ends with, when that is known already."""

    def __repr__(self) -> str:
        return f"<FailedAttempt {self.outcome.name}>"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("outcome", self.outcome)]

    @property
    def status(self) -> int | None:
        """The status that counts: the error's own under HTTP 200."""
        if isinstance(self.answer, ErrorAnswer):
            return self.answer.effective or self.answer.status
        return None

    @property
    def left(self) -> bool:
        """Whether the request may have reached the gateway."""
        return self.outcome not in _UNSENT


def has_left(attempt: Attempt) -> bool:
    """Whether an attempt may have reached the gateway, by its phase alone."""
    if attempt.phase in {Phase.QUEUED, Phase.CONNECTING}:
        return False
    return not (attempt.phase is Phase.SENDING and attempt.write_failed)


def name_failure(error: WireError, attempt: Attempt, *, kind: RequestKind, refused: frozenset[int]) -> FailedAttempt:
    """The end of an attempt that brought no whole answer."""
    failure = error.failure
    if not has_left(attempt):
        if failure is WireFailure.DEADLINE:
            outcome = Outcome.EXPIRED
        elif failure is WireFailure.CLOSED:
            outcome = Outcome.CLOSED
        elif attempt.phase is Phase.SENDING:
            outcome = Outcome.UNSENT
        elif failure is WireFailure.NAME_MISSING:
            outcome = Outcome.NAME_MISSING
        else:
            outcome = Outcome.HOPELESS if failure in _HOPELESS else Outcome.UNREACHED
        return FailedAttempt(outcome=outcome, attempt=attempt, error=error)
    response = attempt.response
    if response is None:
        return FailedAttempt(outcome=Outcome.LOST, attempt=attempt, error=error)
    if 200 <= response.status < 300:
        outcome = Outcome.UNUSABLE if failure is WireFailure.TOO_LARGE else Outcome.CUT
        answer = Unusable(status=response.status, reason=failure.value, body=response.body)
        return FailedAttempt(outcome=outcome, attempt=attempt, error=error, response=response, answer=answer)
    failed = name_answer(_decode_error(response), response, attempt, kind=kind, refused=refused)
    failed.error = error
    return failed


def name_surprise(
    error: Exception, attempt: Attempt, *, kind: RequestKind, refused: frozenset[int], redact: Callable[[str], str]
) -> FailedAttempt:
    """The end of an attempt in which a transport of others raised what it should not have."""
    words = redact(f"{type(error).__name__}: {error}")[:300]
    failure = WireError(WireFailure.RESET, f"the transport failed unexpectedly ({words})", host=attempt.host)
    failure.__cause__ = error
    return name_failure(failure, attempt, kind=kind, refused=refused)


def _decode_error(response: Response) -> ErrorAnswer:
    try:
        root: object = decode_json(response.body)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        root = None
    found = find_error(response.status, root, response.body)
    return found or ErrorAnswer(status=response.status, effective=response.status, body=response.body)


def name_answer(
    answer: ErrorAnswer | Unusable,
    response: Response,
    attempt: Attempt,
    *,
    kind: RequestKind,
    refused: frozenset[int],
) -> FailedAttempt:
    """The end of an attempt whose answer is no success."""
    retry_after = read_retry_after(response.headers, wall=time.time())
    if isinstance(answer, Unusable):
        outcome = Outcome.EMPTY_TASK if answer.completed else Outcome.UNUSABLE
    else:
        outcome = find_outcome(answer.effective, retry_after=retry_after, refused=refused)
        under_200 = 200 <= answer.status < 300
        if under_200 and outcome not in _SAYS_NO and not (kind.read and answer.effective):
            outcome = Outcome.ERROR_IN_200
        elif answer.effective in {409, 422} and not kind.read and _speaks_of_key(answer):
            honoured = kind is RequestKind.HONOURED
            outcome = Outcome.KEY_CONFLICT if honoured or answer.effective == 409 else Outcome.REJECTED
    return FailedAttempt(outcome=outcome, attempt=attempt, response=response, answer=answer, retry_after=retry_after)


def _speaks_of_key(answer: ErrorAnswer) -> bool:
    words = (answer.message, answer.type, answer.param, answer.code)
    return any(isinstance(word, str) and "idempoten" in word.lower() for word in words)


def keep_evidence(response: Response, redact: Callable[[str], str]) -> dict[str, Any]:
    """The facts that an answer leaves on an error, without secrets."""
    return {
        "status": response.status,
        "request_id": _clean(find_request_id(response.headers), redact),
        "cf_ray": _clean(find_header(response.headers, b"cf-ray"), redact),
        "body": show_body(response.body, redact),
        "headers": show_headers(response.headers, redact),
    }


def _clean(text: str | None, redact: Callable[[str], str]) -> str | None:
    return None if text is None else redact(text)[:200]


def build_error(
    ending: Raise, failed: FailedAttempt, settings: ClientSettings, *, kind: RequestKind, model: str | None = None
) -> VideoRouterError:
    """The error that ends a call, with everything that its last attempt left behind.

    Args:
        ending: What the law says is to be raised.
        failed: The attempt.
        settings: For what the key is and how it was sent.
        kind: What kind of request it was.
        model: That was asked for.
    """
    attempt = failed.attempt
    error = failed.error
    said = settings.redact(error.message).rstrip(".") if error is not None else ""
    facts: dict[str, Any] = {"phase": attempt.phase, "host": attempt.host or (error.host if error else None)}
    if failed.retry_after is not None:
        facts["retry_after"] = failed.retry_after
    built: VideoRouterError
    if ending is Raise.CLOSED:
        built = ClientClosedError(f"The client was closed while this call waited. {_NOTHING_SENT}", **facts)
    elif ending is Raise.DEADLINE:
        built = DeadlineExceededError(
            f"{said}. {_NOTHING_SENT} Allow a longer timeout, or fewer calls at once.", **facts
        )
    elif ending is Raise.CONNECTION:
        built = APIConnectionError(f"{said}. {_NOTHING_READ if failed.left else _NOTHING_SENT}", **facts)
    elif ending is Raise.STATUS and isinstance(failed.answer, ErrorAnswer) and failed.response is not None:
        built = _build_status(failed, failed.answer, failed.response, settings, kind=kind, model=model)
        built.add(**facts)
    elif ending is Raise.UNEXPECTED:
        built = _build_unexpected(failed, settings, facts)
    else:
        built = _build_doubt(failed, settings, said, facts)
    built.add(model=model)
    if error is not None:
        clean_chain(error, settings.redact)
        built.__cause__ = error
    return built


_NOTHING_SENT = "Nothing was sent, so nothing was bought."
_NOTHING_READ = "It was a read: nothing was bought, and it can be repeated."


def _build_status(
    failed: FailedAttempt,
    answer: ErrorAnswer,
    response: Response,
    settings: ClientSettings,
    *,
    kind: RequestKind,
    model: str | None,
) -> VideoRouterError:
    redact = settings.redact
    if 300 <= answer.status < 400:
        target = redact(find_header(response.headers, b"location") or "nowhere")[:200]
        msg = (
            f"The gateway redirects with {answer.status} to {target}. Requests that carry the key are never redirected, "
            "and nothing was bought. If that address is the gateway's own, pass it as base_url."
        )
        return APIStatusError(msg, **keep_evidence(response, redact))
    cls: type[APIStatusError] | None = None
    if kind.read and failed.outcome is Outcome.SERVER_ERROR:
        cls = InternalServerError
    elif not kind.read and failed.outcome is Outcome.REFUSED:
        cls = RateLimitError
    return build_refusal(
        answer,
        response.headers,
        redact=redact,
        auth_scheme=settings.auth_scheme,
        model=model,
        what="request" if not kind.read else "read",
        cls=cls,
    )


def _build_unexpected(failed: FailedAttempt, settings: ClientSettings, facts: dict[str, Any]) -> VideoRouterError:
    reason = _find_reason(failed, settings)
    msg = (
        f"The answer to this read makes no sense ({reason}). Nothing was bought. Check base_url; a proxy or a login "
        "page may have answered in the gateway's place."
    )
    evidence = keep_evidence(failed.response, settings.redact) if failed.response is not None else {}
    return UnexpectedResponseError(msg, **facts, **evidence)


def _find_reason(failed: FailedAttempt, settings: ClientSettings) -> str:
    answer = failed.answer
    if isinstance(answer, Unusable):
        return settings.redact(answer.reason)
    if isinstance(answer, ErrorAnswer):
        words = show_words(answer.message, settings.redact, 300)
        return f"status {answer.effective or answer.status}" + (f": {words}" if words else "")
    return "no answer"


def _build_doubt(failed: FailedAttempt, settings: ClientSettings, said: str, facts: dict[str, Any]) -> VideoRouterError:
    redact = settings.redact
    answer = failed.answer
    response = failed.response
    if response is not None:
        facts.update(keep_evidence(response, redact))
        found = _TASK_ID.search(response.body)
        if found is not None:
            facts["task_id"] = redact(found.group(1).decode("utf-8", "replace"))
    if isinstance(answer, ErrorAnswer):
        facts["code"] = show_words(answer.code, redact) if isinstance(answer.code, str) else answer.code
        facts["type"] = show_words(answer.type, redact) if answer.type else None
        facts["param"] = show_words(answer.param, redact) if answer.param else None
        facts["request_id"] = facts.get("request_id") or _clean(find_request_id((), answer.message), redact)
        happened = f"The gateway took the request and answered without a result ({_find_reason(failed, settings)})."
        if answer.status == 524:
            happened += " Cloudflare gave up waiting for the gateway, where the job may go on."
    elif isinstance(answer, Unusable):
        if answer.url is not None:
            facts["result_url"] = redact(answer.url)
        reason = _find_reason(failed, settings)
        if said:
            reason = said if said.startswith(reason) else f"{reason}: {said}"
        happened = f"The gateway's answer of status {answer.status} is not usable ({reason})."
    else:
        happened = f"{said or 'The answer is missing'}. The request had left (phase {failed.attempt.phase})."
    collect = ""
    if facts.get("task_id"):
        collect = f" The answer names the task {facts['task_id']!r}: `await router.wait(error.task_id)` may collect it."
    facts = {name: value for name, value in facts.items() if value is not None}
    return OutcomeUnknownError(f"{happened} {_MAY_BE_BILLED}{collect}", **facts)


def find_doubt(attempt: Attempt, *, kind: RequestKind, refused: frozenset[int]) -> FailedAttempt | None:
    """The first of an attempt's earlier sendings that may have been accepted, where a client sent again by itself."""
    for past in attempt.earlier:
        error = WireError(WireFailure.RESET, "http_client sent the request again by itself", host=past.host)
        failed = name_failure(error, past, kind=kind, refused=refused)
        if failed.outcome in UNDECIDED:
            return failed
    return None


def clean_chain(error: BaseException, redact: Callable[[str], str]) -> None:
    """Take what a server echoed of the key out of an error and whatever it was raised from."""
    if isinstance(error, WireError):
        error.message = redact(error.message)
        error.args = (error.message,)
    current: BaseException | None = error
    for _ in range(32):
        if current is None:
            return
        below = current.__cause__ or current.__context__
        if below is not None and redact(f"{below!r}{below}") != f"{below!r}{below}":
            current.__cause__ = None
            current.__context__ = None
            return
        current = below
