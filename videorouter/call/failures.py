"""What became of one attempt that brought no success: a row of the retry law, and the error that a user sees.

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
    find_header,
    find_request_id,
    show_body,
    show_headers,
    show_words,
)
from videorouter.call.retry import Column, Ending, Row, find_row, read_retry_after
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
from videorouter.http import Incoming, Probe, Trouble, WireError

if TYPE_CHECKING:
    from collections.abc import Callable

    from videorouter.config import Settings

_HOPELESS = frozenset(
    {
        Trouble.NAME_MISSING,
        Trouble.CERTIFICATE,
        Trouble.PROXY_REFUSED,
        Trouble.ADDRESS_REFUSED,
        Trouble.PROTOCOL,
        Trouble.TOO_LARGE,
    }
)
_TASK_ID = re.compile(rb'"task_id"\s*:\s*"([^"\\\x00-\x1f]{1,200})"')
_MAY_BE_BILLED = (
    "It may have been accepted and billed, so it is not sent a second time. Look for the video in the vendor's "
    "dashboard, with request_id or the time of the call, before you decide what to do."
)


class Outcome(msgspec.Struct, kw_only=True):
    """The end of one attempt that brought no success."""

    row: Row
    probe: Probe
    error: WireError | None = None
    incoming: Incoming | None = None
    answer: ErrorAnswer | Unusable | None = None
    retry_after: float | None = None

    def __repr__(self) -> str:
        return f"<Outcome {self.row.name}>"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("row", self.row)]

    @property
    def status(self) -> int | None:
        """The status that counts: the error's own under HTTP 200."""
        if isinstance(self.answer, ErrorAnswer):
            return self.answer.effective or self.answer.status
        return None

    @property
    def left(self) -> bool:
        """Whether the request may have reached the gateway."""
        return self.row not in {Row.UNREACHED, Row.HOPELESS, Row.EXPIRED, Row.CLOSED, Row.UNSENT}


def has_left(probe: Probe) -> bool:
    """Whether an attempt may have reached the gateway, by its phase alone."""
    if probe.phase in {Phase.QUEUED, Phase.CONNECTING}:
        return False
    return not (probe.phase is Phase.SENDING and probe.write_failed)


def name_failure(error: WireError, probe: Probe, *, column: Column, refused: frozenset[int]) -> Outcome:
    """The outcome of an attempt that brought no whole answer."""
    trouble = error.trouble
    if not has_left(probe):
        if trouble is Trouble.DEADLINE:
            row = Row.EXPIRED
        elif trouble is Trouble.CLOSED:
            row = Row.CLOSED
        elif probe.phase is Phase.SENDING:
            row = Row.UNSENT
        else:
            row = Row.HOPELESS if trouble in _HOPELESS else Row.UNREACHED
        return Outcome(row=row, probe=probe, error=error)
    incoming = probe.incoming
    if incoming is None:
        return Outcome(row=Row.LOST, probe=probe, error=error)
    if 200 <= incoming.status < 300:
        row = Row.UNUSABLE if trouble is Trouble.TOO_LARGE else Row.CUT
        answer = Unusable(status=incoming.status, reason=trouble.value, body=incoming.body)
        return Outcome(row=row, probe=probe, error=error, incoming=incoming, answer=answer)
    outcome = name_answer(_decode_error(incoming), incoming, probe, column=column, refused=refused)
    outcome.error = error
    return outcome


def _decode_error(incoming: Incoming) -> ErrorAnswer:
    try:
        root: object = decode_json(incoming.body)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        root = None
    found = find_error(incoming.status, root, incoming.body)
    return found or ErrorAnswer(status=incoming.status, effective=incoming.status, body=incoming.body)


def name_answer(
    answer: ErrorAnswer | Unusable, incoming: Incoming, probe: Probe, *, column: Column, refused: frozenset[int]
) -> Outcome:
    """The outcome of an attempt whose answer is no success."""
    retry_after = read_retry_after(incoming.headers, wall=time.time())
    if isinstance(answer, Unusable):
        row = Row.UNUSABLE
    else:
        row = find_row(answer.effective, retry_after=retry_after, refused=refused)
        under_200 = 200 <= answer.status < 300
        if under_200 and row not in {Row.REFUSED, Row.REJECTED} and (column is not Column.READ or not answer.effective):
            row = Row.TROUBLED_200
        elif answer.effective in {409, 422} and column is not Column.READ and _speaks_of_key(answer):
            row = Row.KEY_CONFLICT if column is Column.HONOURED or answer.effective == 409 else Row.REJECTED
    return Outcome(row=row, probe=probe, incoming=incoming, answer=answer, retry_after=retry_after)


def _speaks_of_key(answer: ErrorAnswer) -> bool:
    words = (answer.message, answer.type, answer.param, answer.code)
    return any(isinstance(word, str) and "idempoten" in word.lower() for word in words)


def keep_evidence(incoming: Incoming, redact: Callable[[str], str]) -> dict[str, Any]:
    """The facts that an answer leaves on an error, without secrets."""
    return {
        "status": incoming.status,
        "request_id": _clean(find_request_id(incoming.headers), redact),
        "cf_ray": _clean(find_header(incoming.headers, b"cf-ray"), redact),
        "body": show_body(incoming.body, redact),
        "headers": show_headers(incoming.headers, redact),
    }


def _clean(text: str | None, redact: Callable[[str], str]) -> str | None:
    return None if text is None else redact(text)[:200]


def build_error(
    ending: Ending, outcome: Outcome, settings: Settings, *, column: Column, model: str | None = None
) -> VideoRouterError:
    """The error that ends a call, with everything that its last attempt left behind.

    Args:
        ending: What the law says is to be raised.
        outcome: The attempt.
        settings: For what the key is and how it was sent.
        column: What kind of request it was.
        model: That was asked for.
    """
    probe = outcome.probe
    error = outcome.error
    said = settings.redact(error.message).rstrip(".") if error is not None else ""
    facts: dict[str, Any] = {"phase": probe.phase, "host": probe.host or (error.host if error else None)}
    if outcome.retry_after is not None:
        facts["retry_after"] = outcome.retry_after
    built: VideoRouterError
    if ending is Ending.CLOSED:
        built = ClientClosedError(f"The client was closed while this call waited. {_NOTHING_SENT}", **facts)
    elif ending is Ending.DEADLINE:
        built = DeadlineExceededError(
            f"{said}. {_NOTHING_SENT} Allow a longer timeout, or fewer calls at once.", **facts
        )
    elif ending is Ending.CONNECTION:
        built = APIConnectionError(f"{said}. {_NOTHING_READ if outcome.left else _NOTHING_SENT}", **facts)
    elif ending is Ending.STATUS and isinstance(outcome.answer, ErrorAnswer) and outcome.incoming is not None:
        built = _build_status(outcome, outcome.answer, outcome.incoming, settings, column=column, model=model)
        built.add(**facts)
    elif ending is Ending.UNEXPECTED:
        built = _build_unexpected(outcome, settings, facts)
    else:
        built = _build_doubt(outcome, settings, said, facts)
    built.add(model=model)
    if error is not None:
        clean_chain(error, settings.redact)
        built.__cause__ = error
    return built


_NOTHING_SENT = "Nothing was sent, so nothing was bought."
_NOTHING_READ = "It was a read: nothing was bought, and it can be repeated."


def _build_status(
    outcome: Outcome, answer: ErrorAnswer, incoming: Incoming, settings: Settings, *, column: Column, model: str | None
) -> VideoRouterError:
    redact = settings.redact
    if 300 <= answer.status < 400:
        target = redact(find_header(incoming.headers, b"location") or "nowhere")[:200]
        msg = (
            f"The gateway redirects with {answer.status} to {target}. Requests that carry the key are never redirected, "
            "and nothing was bought. If that address is the gateway's own, pass it as base_url."
        )
        return APIStatusError(msg, **keep_evidence(incoming, redact))
    cls: type[APIStatusError] | None = None
    if column is Column.READ and outcome.row is Row.BROKEN:
        cls = InternalServerError
    elif column is not Column.READ and outcome.row is Row.REFUSED:
        cls = RateLimitError
    return build_refusal(
        answer,
        incoming.headers,
        redact=redact,
        auth_scheme=settings.auth_scheme,
        model=model,
        what="request" if column is not Column.READ else "read",
        cls=cls,
    )


def _build_unexpected(outcome: Outcome, settings: Settings, facts: dict[str, Any]) -> VideoRouterError:
    reason = _find_reason(outcome, settings)
    msg = (
        f"The answer to this read makes no sense ({reason}). Nothing was bought. Check base_url; a proxy or a login "
        "page may have answered in the gateway's place."
    )
    evidence = keep_evidence(outcome.incoming, settings.redact) if outcome.incoming is not None else {}
    return UnexpectedResponseError(msg, **facts, **evidence)


def _find_reason(outcome: Outcome, settings: Settings) -> str:
    answer = outcome.answer
    if isinstance(answer, Unusable):
        return settings.redact(answer.reason)
    if isinstance(answer, ErrorAnswer):
        words = show_words(answer.message, settings.redact, 300)
        return f"status {answer.effective or answer.status}" + (f": {words}" if words else "")
    return "no answer"


def _build_doubt(outcome: Outcome, settings: Settings, said: str, facts: dict[str, Any]) -> VideoRouterError:
    redact = settings.redact
    answer = outcome.answer
    incoming = outcome.incoming
    if incoming is not None:
        facts.update(keep_evidence(incoming, redact))
        found = _TASK_ID.search(incoming.body)
        if found is not None:
            facts["task_id"] = redact(found.group(1).decode("utf-8", "replace"))
    if isinstance(answer, ErrorAnswer):
        facts["code"] = show_words(answer.code, redact) if isinstance(answer.code, str) else answer.code
        facts["type"] = show_words(answer.type, redact) if answer.type else None
        facts["param"] = show_words(answer.param, redact) if answer.param else None
        facts["request_id"] = facts.get("request_id") or _clean(find_request_id((), answer.message), redact)
        happened = f"The gateway took the request and answered without a result ({_find_reason(outcome, settings)})."
        if answer.status == 524:
            happened += " Cloudflare gave up waiting for the gateway, where the job may go on."
    elif isinstance(answer, Unusable):
        if answer.url is not None:
            facts["result_url"] = redact(answer.url)
        reason = _find_reason(outcome, settings)
        if said:
            reason = said if said.startswith(reason) else f"{reason}: {said}"
        happened = f"The gateway's answer of status {answer.status} is not usable ({reason})."
    else:
        happened = f"{said or 'The answer is missing'}. The request had left (phase {outcome.probe.phase})."
    collect = ""
    if facts.get("task_id"):
        collect = f" The answer names the task {facts['task_id']!r}: `await router.wait(error.task_id)` may collect it."
    facts = {name: value for name, value in facts.items() if value is not None}
    return OutcomeUnknownError(f"{happened} {_MAY_BE_BILLED}{collect}", **facts)


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
