"""Classifies a failed attempt: its outcome for the retry table, and the error that a user sees.

Statuses choose the class of a refusal; moderation is one class wherever it surfaces. Everything that may have cost money
keeps its evidence: status, request id, header fields and the first 4 KiB of the body, without the key.

This file decides nothing about retries: ``call.retry`` does.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec

from videorouter.call.answers import ErrorAnswer, Unusable, find_error
from videorouter.call.money import SAYS_NO, SENT_WHAT, UNSENT, describe_interruption, describe_money
from videorouter.call.retry import (
    MAY_BE_ACCEPTED,
    Outcome,
    Raise,
    RequestKind,
    find_outcome,
    read_retry_after,
    read_wait,
)
from videorouter.errors import (
    APIConnectionError,
    APIStatusError,
    AuthenticationError,
    BadRequestError,
    ClientClosedError,
    ContentPolicyError,
    DeadlineExceededError,
    InsufficientCreditsError,
    InternalServerError,
    NotFoundError,
    OutcomeUnknownError,
    PermissionDeniedError,
    Phase,
    RateLimitError,
    UnexpectedResponseError,
    UnprocessableEntityError,
    VideoRouterError,
)
from videorouter.http import Attempt, Response, WireError, WireFailure, find_header
from videorouter.lenient_json import BROKEN_JSON, decode_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from videorouter.call.answers import Headers
    from videorouter.config import ClientSettings

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
_LONGEST_SYMBOL = 100
"""Characters of a type or a code that names something."""
_NO_CREDIT_CODES = frozenset({"insufficient_user_quota", "insufficient_quota", "insufficient_credits"})
_NO_CREDIT_WORDS = re.compile(
    r"your current credits have been used up|free model requires team balance greater than|user quota is not enough",
    re.IGNORECASE,
)
_POLICY_CODE = re.compile(
    r"(?:\w+[ _.-])?(?:content[ _-]?(?:policy|filter)(?:ed)?|moderat(?:ion|ed)|nsfw|sensitive[ _-](?:content|words?|info\w*)"
    r"|(?:prohibited|unsafe)[ _-]content|responsible[ _-]ai|(?:safety|policy)(?=[ _-]))"
    r"(?:[ _-](?:violations?|violated|blocked|refused|rejected|flagged|detected))?|\w*SensitiveContentDetected[\w.]*",
    re.IGNORECASE,
)
_POLICY_WORDS = re.compile(
    r"\bcontent[ _-]polic(?:y|ies)|\bsafety (?:system|filters?|polic(?:y|ies)|guidelines)|\bresponsible[ _-]ai\b"
    r"|\bviolat\w+ (?:\w+ ){0,3}(?:content|usage|use|safety|community)[ -](?:polic(?:y|ies)|guidelines|rules)"
    r"|\b(?:blocked|refused|rejected|flagged|stopped) by (?:\w+ ){0,3}(?:moderation|content filter)"
    r"|\bmoderation (?:has |have )?(?:blocked|refused|rejected|flagged)|\b(?:fail\w*|not pass\w*) (?:\w+ ){0,3}moderation"
    r"|\bflagged (?:as|for) (?:\w+ ){0,3}(?:nsfw|unsafe|inappropriate|sensitive|sexual|violent|violence|harmful|hate)"
    r"|(?<![\w-])(?:sensitive|nsfw|prohibited|harmful|inappropriate|explicit|unsafe) (?:content|words?|information|material)",
    re.IGNORECASE,
)
_REQUEST_ID = re.compile(r"\(request id: ([^)\s]{1,200})\)")
_SECRET_HEADERS = frozenset({"authorization", "proxy-authorization", "cookie", "set-cookie", "x-api-key"})
_HOPELESS = frozenset(
    {
        WireFailure.CERTIFICATE,
        WireFailure.PROXY_REFUSED,
        WireFailure.ADDRESS_REFUSED,
        WireFailure.PROTOCOL,
        WireFailure.TOO_LARGE,
    }
)
_TASK_ID = re.compile(rb'"task_id"\s*:\s*"([^"\\\x00-\x1f]{1,200})"')


class FailedAttempt(msgspec.Struct, kw_only=True):
    """A failed attempt: its outcome and the evidence for the error."""

    outcome: Outcome
    attempt: Attempt = msgspec.field(default_factory=Attempt)
    error: WireError | None = None
    response: Response | None = None
    answer: ErrorAnswer | Unusable | None = None
    retry_after: float | None = None
    raised: VideoRouterError | None = None
    """The error to raise, when it is known already."""

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
        return self.outcome not in UNSENT


def classify_failure(
    error: WireError, attempt: Attempt, kind: RequestKind, settings: ClientSettings, *, wall: float
) -> FailedAttempt:
    """Classify an attempt without a complete answer; ``wall`` is the Unix time in seconds."""
    failure = error.failure
    if not attempt.has_left:
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
    failed = classify_answer(_decode_error(response), response, attempt, kind, settings, wall=wall)
    failed.error = error
    return failed


def classify_surprise(
    error: Exception, attempt: Attempt, kind: RequestKind, settings: ClientSettings, *, wall: float
) -> FailedAttempt:
    """Classify an attempt in which a foreign transport raised an unexpected exception."""
    words = settings.redact(f"{type(error).__name__}: {error}")[:300]
    failure = WireError(WireFailure.RESET, f"the transport failed unexpectedly ({words})", host=attempt.host)
    failure.__cause__ = error
    return classify_failure(failure, attempt, kind, settings, wall=wall)


def _decode_error(response: Response) -> ErrorAnswer:
    try:
        root: object = decode_json(response.body)
    except BROKEN_JSON:
        root = None
    found = find_error(response.status, root, response.body)
    return found or ErrorAnswer(status=response.status, effective=response.status, body=response.body)


def classify_answer(
    answer: ErrorAnswer | Unusable,
    response: Response,
    attempt: Attempt,
    kind: RequestKind,
    settings: ClientSettings,
    *,
    wall: float,
) -> FailedAttempt:
    """Classify an attempt whose answer is an error or unusable."""
    retry_after = read_retry_after(response.headers, wall=wall)
    if isinstance(answer, Unusable):
        outcome = Outcome.EMPTY_TASK if answer.completed else Outcome.UNUSABLE
    else:
        if retry_after is None and answer.effective == 429:
            retry_after = read_wait(answer.message)
        outcome = find_outcome(answer.effective, retry_after=retry_after, refused=settings.refused_statuses)
        if is_out_of_credit(answer):
            outcome = Outcome.OUT_OF_CREDIT
        under_200 = 200 <= answer.status < 300
        if under_200 and outcome not in SAYS_NO and not (kind.read and answer.effective):
            outcome = Outcome.ERROR_IN_200
        elif answer.effective in {409, 422} and not kind.read and _speaks_of_key(answer):
            honoured = kind is RequestKind.HONOURED
            outcome = Outcome.KEY_CONFLICT if honoured or answer.effective == 409 else Outcome.REJECTED
    return FailedAttempt(outcome=outcome, attempt=attempt, response=response, answer=answer, retry_after=retry_after)


def _speaks_of_key(answer: ErrorAnswer) -> bool:
    words = (answer.message, answer.type, answer.param, answer.code)
    return any(isinstance(word, str) and "idempoten" in word.lower() for word in words)


def build_error(
    ending: Raise, failed: FailedAttempt, settings: ClientSettings, *, kind: RequestKind, model: str | None = None
) -> VideoRouterError:
    """Build the error that ends a call, with the evidence of its last attempt."""
    attempt = failed.attempt
    error = failed.error
    said = _describe_cause(failed, settings)
    money = describe_money(kind, failed.outcome)
    facts: dict[str, Any] = {"phase": attempt.phase, "host": attempt.host or (error.host if error else None)}
    kept = attempt.spool.keep() if attempt.spool is not None else None
    if kept is not None and attempt.spool is not None:
        said = f"{said}; the {attempt.spool.size} bytes that came are in {kept}"
        facts["path"] = str(kept)
    if failed.retry_after is not None:
        facts["retry_after"] = failed.retry_after
    if failed.response is None and attempt.unread:
        facts["body"] = show_body(attempt.unread, settings.redact)
    built: VideoRouterError
    if ending is Raise.CLOSED:
        built = ClientClosedError(f"The client was closed {describe_interruption(attempt)}. {money}", **facts)
    elif ending is Raise.DEADLINE:
        built = DeadlineExceededError(f"{said}. {money} Allow a longer timeout, or fewer calls at once.", **facts)
    elif ending is Raise.CONNECTION:
        built = APIConnectionError(f"{said}. {money}", **facts)
    elif ending is Raise.STATUS and isinstance(failed.answer, ErrorAnswer) and failed.response is not None:
        built = _build_status(failed, failed.answer, failed.response, settings, kind=kind, model=model)
        built.add(**facts)
    elif ending is Raise.UNEXPECTED:
        built = _build_unexpected(failed, settings, facts, kind)
    else:
        built = _build_doubt(failed, settings, said, facts, kind)
    built.add(model=model)
    if error is not None:
        clean_chain(error, settings.redact)
        built.__cause__ = error
    return built


def _describe_cause(failed: FailedAttempt, settings: ClientSettings) -> str:
    error = failed.error
    if error is None:
        return ""
    if error.failure is WireFailure.DEADLINE:
        return f"The deadline passed {describe_interruption(failed.attempt)}"
    said = settings.redact(error.message).rstrip(".")
    if error.failure is WireFailure.CONNECT_TIMEOUT:
        return f"{said} {describe_interruption(failed.attempt)}"
    return said


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
            f"The gateway redirects with {answer.status} to {target}. Requests that carry the key are never redirected. "
            f"{describe_money(kind, failed.outcome)} If that address is the gateway's own, pass it as base_url."
        )
        return APIStatusError(msg, **keep_evidence(response, redact))
    cls: type[APIStatusError] | None = None
    if kind.read and failed.outcome is Outcome.SERVER_ERROR:
        cls = InternalServerError
    elif failed.outcome is Outcome.OUT_OF_CREDIT:
        cls = InsufficientCreditsError
    elif not kind.read and failed.outcome is Outcome.THROTTLED:
        cls = RateLimitError
    return build_refusal(
        answer,
        response.headers,
        redact=redact,
        auth_scheme=settings.auth_scheme,
        model=model,
        kind=kind,
        outcome=failed.outcome,
        cls=cls,
    )


def _build_unexpected(
    failed: FailedAttempt, settings: ClientSettings, facts: dict[str, Any], kind: RequestKind
) -> VideoRouterError:
    reason = _find_reason(failed, settings)
    msg = (
        f"The answer to this {SENT_WHAT[kind]} makes no sense ({reason}). {describe_money(kind, failed.outcome)} Check "
        "base_url; a proxy or a login page may have answered in the gateway's place."
    )
    evidence = keep_evidence(failed.response, settings.redact) if failed.response is not None else {}
    return UnexpectedResponseError(msg, **facts, **evidence)


def _find_reason(failed: FailedAttempt, settings: ClientSettings) -> str:
    answer = failed.answer
    if isinstance(answer, Unusable):
        named = ", ".join(repr(url) if url else "none" for url in answer.urls) if answer.url else ""
        return settings.redact(f"{answer.reason}: {named}" if named else answer.reason)
    if isinstance(answer, ErrorAnswer):
        words = show_words(answer.message, settings.redact, 300)
        return f"status {answer.effective or answer.status}" + (f": {words}" if words else "")
    return "no answer"


def _build_doubt(
    failed: FailedAttempt, settings: ClientSettings, said: str, facts: dict[str, Any], kind: RequestKind
) -> VideoRouterError:
    redact = settings.redact
    answer = failed.answer
    response = failed.response
    if response is not None:
        facts.update(keep_evidence(response, redact))
    found = _TASK_ID.search(response.body if response is not None else failed.attempt.unread)
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
        collect = f" The answer names the task {facts['task_id']!r}: `await router.wait(error)` may collect it."
    facts = {name: value for name, value in facts.items() if value is not None}
    return OutcomeUnknownError(f"{happened} {describe_money(kind, Outcome.LOST)}{collect}", **facts)


def find_doubt(attempt: Attempt, kind: RequestKind, settings: ClientSettings, *, wall: float) -> FailedAttempt | None:
    """Return the first of an attempt's earlier sendings, by the user's client, that may have been accepted."""
    for past in attempt.earlier:
        error = WireError(WireFailure.RESET, "http_client sent the request again by itself", host=past.host)
        failed = classify_failure(error, past, kind, settings, wall=wall)
        if failed.outcome in MAY_BE_ACCEPTED:
            return failed
    return None


def build_refusal(
    answer: ErrorAnswer,
    headers: Headers,
    *,
    redact: Callable[[str], str],
    auth_scheme: str | None,
    model: str | None = None,
    kind: RequestKind = RequestKind.ONCE,
    outcome: Outcome = Outcome.REJECTED,
    cls: type[APIStatusError] | None = None,
) -> APIStatusError:
    """Build the exception for an error answer, with all evidence and no secret; ``cls`` overrides its class."""
    status = answer.effective or answer.status
    message = show_words(answer.message, redact)
    body = show_body(answer.body, redact)
    if cls is None:
        cls = _CLASSES.get(status, InternalServerError if status >= 500 else APIStatusError)
        if status in {400, 403, 422} and is_moderation(answer.type, answer.code, message):
            cls = ContentPolicyError
    said = f": {message}" if message else "."
    under = f" under HTTP {answer.status}" if answer.effective != answer.status else ""
    did = "refused" if outcome in SAYS_NO else "answered"
    advice = _advise(cls, status, auth_scheme, model, body) if outcome in SAYS_NO else ""
    return cls(
        f"The gateway {did} the {SENT_WHAT[kind]} with {status}{under}{said} {describe_money(kind, outcome)} {advice}".rstrip(),
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


def _advise(cls: type[APIStatusError], status: int, auth_scheme: str | None, model: str | None, body: str) -> str:
    if cls is ContentPolicyError:
        return "Moderation refused it: change the prompt or the input."
    if cls is InsufficientCreditsError:
        return "The account is out of credit. Top it up on the vendor's billing page."
    if cls is RateLimitError:
        return "Wait retry_after seconds, lower max_concurrency, or allow a longer timeout."
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
        400: "Check the request's fields against the model's page.",
        403: "The account or key may not use this model; check it on the vendor's page.",
        404: f"Check the model id ({model}), the video or task id, and base_url."
        if model
        else "Check the id and base_url.",
        405: "Check base_url: this path does not take such a request.",
        413: "The request is too large: pass inputs as URLs.",
        422: "A field has a value that this model does not take; param names it when known.",
    }.get(status, "")


def is_moderation(kind: object, code: object = None, message: str = "") -> bool:
    """Whether a refusal or a failed task is about the content: by its type or its code, else by a whole phrase.

    A bare word proves nothing: ``flagged`` may be about billing, and model names are case-sensitive.
    """
    symbols = [symbol.strip() for symbol in (kind, code) if isinstance(symbol, str) and len(symbol) <= _LONGEST_SYMBOL]
    return any(map(_POLICY_CODE.fullmatch, symbols)) or bool(_POLICY_WORDS.search(message))


def is_out_of_credit(answer: ErrorAnswer) -> bool:
    """Whether an answer says that the account has no credit left, which no wait can help."""
    symbols = {symbol.strip().lower() for symbol in (answer.code, answer.type) if isinstance(symbol, str)}
    if answer.effective in {403, 429}:
        return not symbols.isdisjoint(_NO_CREDIT_CODES) or bool(_NO_CREDIT_WORDS.search(answer.message))
    return answer.effective == 402 or (answer.status == 200 and not symbols.isdisjoint(_NO_CREDIT_CODES))


def keep_evidence(response: Response, redact: Callable[[str], str]) -> dict[str, Any]:
    """Collect the facts of an answer for an error, without secrets."""
    return {
        "status": response.status,
        "request_id": _clean(find_request_id(response.headers), redact),
        "cf_ray": _clean(find_header(response.headers, b"cf-ray"), redact),
        "body": show_body(response.body, redact),
        "headers": show_headers(response.headers, redact),
    }


def _clean(text: str | None, redact: Callable[[str], str]) -> str | None:
    return None if text is None else redact(text)[:200]


def find_request_id(headers: Headers, message: str = "") -> str | None:
    """Return the gateway's id of a request: from its header, else from the end of its message."""
    found = find_header(headers, b"x-infron-request-id")
    if found:
        return found[:200]
    match = _REQUEST_ID.search(message)
    return match.group(1) if match else None


def show_body(body: bytes, redact: Callable[[str], str]) -> str:
    """Show the first 4 KiB of an answer as text, without the key or a piece of it at the cut."""
    text = redact(body[:_WINDOW].decode("utf-8", "replace"))
    return text[:MAX_EVIDENCE]


def show_words(text: str, redact: Callable[[str], str], most: int = MAX_WORDS) -> str:
    """Show some of an answer's text, bounded, without the key."""
    return redact(text[:_WINDOW])[:most]


def show_headers(headers: Headers, redact: Callable[[str], str]) -> tuple[tuple[str, str], ...]:
    """Show header fields as text, bounded, without secrets."""
    return tuple(
        (
            redact(name.decode("latin-1"))[:200],
            "<redacted>"
            if name.lower().decode("latin-1") in _SECRET_HEADERS
            else redact(value.decode("latin-1"))[:1000],
        )
        for name, value in headers[:64]
    )


def clean_chain(error: BaseException, redact: Callable[[str], str]) -> None:
    """Remove the key from an error and from the errors that caused it."""
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
