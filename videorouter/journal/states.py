"""The states of a batch item: the moves between them, what each crash point means, and when a batch stops.

::

                 intent            task id            outputs
    not_sent ------------> sending ----------> accepted ------> done
       ^  ^                 |  |  |               |
       |  |  never sent     |  |  |  refused      |  the task failed
       |  +-----------------+  |  +---------> refused        failed
       |                       |  no answer                    ^
       |   settled             v                               |
       +------------------- in_doubt          accepted --------+

An intent also moves what is ``refused`` or ``failed`` (by ``retry``) and what is ``in_doubt`` (by ``resend``) back to
``sending``: only by name, and never what is ``accepted`` or ``done``. What was in doubt and is sent again stays in doubt
unless that bought something: neither a refusal nor a lost connection tells how the earlier sending ended.

A crash leaves the last state that was committed, and the commit order makes each one mean a single thing:

* nothing, or ``not_sent``: no byte left; it runs.
* ``sending``: the intent was committed, the outcome was not. It may have been billed: **in doubt**, never re-sent
  silently.
* ``accepted``: paid, and its task id is known: it is polled again, never submitted again.
* ``done``: never sent again; a download that is missing is finished.
* ``refused`` and ``failed``: stay as they are until ``retry`` is asked for.
* ``lost``: it was accepted, and the gateway knows its task no more. It may have been billed, and is settled like a doubt; until
  then each run asks once more, since it may have asked the wrong gateway.
* ``cancelled``: taken back before it was sent; nothing sends it.

This file decides; it writes nothing, sends nothing and reads no clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import msgspec

from videorouter.errors import (
    APIConnectionError,
    APIStatusError,
    AuthenticationError,
    BadRequestError,
    BudgetExceededError,
    ClientClosedError,
    ConfigurationError,
    ContentPolicyError,
    InsufficientCreditsError,
    InvalidRequestError,
    JournalError,
    NotFoundError,
    OutcomeUnknownError,
    PermissionDeniedError,
    TaskFailedError,
    TaskPollError,
    TaskTimeoutError,
    UnprocessableEntityError,
    VideoRouterError,
)
from videorouter.models import BatchSummary, Failure, ItemState

if TYPE_CHECKING:
    from collections.abc import Iterable

STATES: tuple[ItemState, ...] = get_args(ItemState)
FINAL: frozenset[ItemState] = frozenset({"done", "refused", "failed"})
UNCERTAIN: frozenset[ItemState] = frozenset({"in_doubt", "lost"})
"""May have been billed, and nothing is in hand."""
RETRYABLE: frozenset[ItemState] = frozenset({"refused", "failed"})

Resumption = Literal["send", "poll", "collect", "doubt", "keep"]
Policy = Literal["report", "resend", "replay"]
POLICIES: tuple[Policy, ...] = get_args(Policy)

SETTLED = "settled"
"""The code of a failure that the user has settled: it was billed, and its video is lost."""

_GONE = 404
STOP_AFTER = 20
"""Identical 400, 404 or 422 answers, or failures to connect, in a row after which a batch stops."""

Move = Literal["cancellation", "retry", "refusal", "intent", "task", "ending", "crash", "settlement"]
"""Causes of a change: the user takes it back or puts it back, a job is put back that was refused or has failed, an entry that cannot be used, a request about to be sent, its
task id, its end, the death of its process, and the user's settlement."""

MOVES: dict[Move, dict[ItemState, frozenset[ItemState]]] = {
    "cancellation": {"not_sent": frozenset({"cancelled"}), "cancelled": frozenset({"not_sent"})},
    "retry": {"refused": frozenset({"not_sent"}), "failed": frozenset({"not_sent"})},
    "refusal": {"not_sent": frozenset({"refused"})},
    "intent": {
        "not_sent": frozenset({"sending"}),
        "refused": frozenset({"sending"}),
        "failed": frozenset({"sending"}),
        "in_doubt": frozenset({"sending"}),
    },
    "task": {"sending": frozenset({"accepted"}), "accepted": frozenset({"accepted"})},
    "ending": {
        "sending": frozenset({"not_sent", "accepted", "done", "refused", "failed", "in_doubt"}),
        "accepted": frozenset({"accepted", "done", "failed", "lost"}),
        "lost": frozenset({"accepted", "done", "failed", "lost"}),
    },
    "crash": {"sending": frozenset({"in_doubt"})},
    "settlement": {
        "in_doubt": frozenset({"not_sent", "done", "failed"}),
        "lost": frozenset({"not_sent", "done", "failed"}),
        "not_sent": frozenset({"not_sent", "done"}),
        "refused": frozenset({"refused", "done"}),
        "failed": frozenset({"failed", "done"}),
        "done": frozenset({"done"}),
    },
}
"""Each change of a state that may be written: by which move, from which state, to which.

The journal's statements are built from it. Ray's ledger writes its own and is held to it by tests. An item without a
row is ``not_sent``."""


def list_sources(move: Move, after: ItemState) -> tuple[ItemState, ...]:
    """List the states from which a move may take an item to a state, in the order of ``STATES``."""
    moves = MOVES[move]
    return tuple(state for state in STATES if after in moves.get(state, ()))


def state_after_crash(state: ItemState) -> ItemState:
    """Return the meaning of a state that an ended process left behind."""
    return "in_doubt" if state == "sending" else state


def decide_resumption(
    state: ItemState, retry: frozenset[ItemState] = frozenset(), *, settled: bool = False
) -> Resumption:
    """Decide what a new run does with an item of its journal.

    ``send`` it, ``poll`` its task, ``collect`` its missing files, ask what to do about a ``doubt``, or ``keep`` it.
    ``retry`` has the final states to send again; an item ``settled`` as billed and lost is never sent again.
    """
    state = state_after_crash(state)
    if state == "not_sent" or (state in RETRYABLE and state in retry and not settled):
        return "send"
    if state in {"accepted", "lost"}:
        return "poll"
    if state == "in_doubt":
        return "doubt"
    return "collect" if state == "done" else "keep"


def state_after_error(error: BaseException, *, sent: bool, task_id: str | None = None) -> ItemState:
    """Return the state of an item after its call raised.

    ``sent``: its intent had been committed, so that bytes may have left. ``task_id``: a task was accepted before.
    """
    if isinstance(error, VideoRouterError):
        task_id = task_id or error.task_id
    if isinstance(error, TaskFailedError) or (isinstance(error, ContentPolicyError) and task_id is not None):
        return "failed"
    if isinstance(error, TaskPollError) and error.status == _GONE:
        return "lost"
    if task_id is not None:
        return "accepted"
    if isinstance(error, TaskPollError | TaskTimeoutError):
        return "accepted"
    if isinstance(error, OutcomeUnknownError) or (isinstance(error, VideoRouterError) and error.in_doubt):
        return "in_doubt"
    if isinstance(error, APIStatusError | InvalidRequestError):
        return "refused"
    if isinstance(error, VideoRouterError):
        return "not_sent"
    return "in_doubt" if sent else "not_sent"


def keep_doubt(state: ItemState, *, decided: bool) -> ItemState:
    """Return the state of an item in doubt after it was sent again, which ended as ``state``.

    ``decided``: the user has settled this very item with "send it again", and not all in doubt. If nothing left, it is
    then still to be sent.
    """
    if state == "not_sent" and decided:
        return "not_sent"
    return "in_doubt" if state in {"not_sent", "refused"} else state


def describe_failure(error: BaseException) -> Failure:
    """Describe an error as plain data, for a journal or an encoder."""
    if not isinstance(error, VideoRouterError):
        return Failure(type=type(error).__name__, message=str(error)[:2000])
    return Failure(
        type=type(error).__name__,
        message=str(error),
        status=error.status,
        code=error.code,
        request_id=error.request_id,
        in_doubt=error.in_doubt,
    )


class StopRule:
    """Decides when a batch must stop: at errors that every further item would meet as well.

    ``after`` is how many identical 400, 404 or 422 answers in a row are too many.
    """

    __slots__ = ("_key", "_streak", "after")

    def __init__(self, after: int = STOP_AFTER) -> None:
        self.after: int = after
        self._key: tuple[object, ...] | None = None
        self._streak = 0

    def note_success(self) -> None:
        """Reset the count of equal errors after an accepted request."""
        self._streak = 0

    def judge(self, error: BaseException) -> str | None:
        """Return why dispatch must stop now, in words, or ``None``."""
        if isinstance(error, AuthenticationError):
            return f"the gateway does not accept the API key (401): {error}"
        if isinstance(error, InsufficientCreditsError):
            return f"the account is out of credit ({error.status or 402}): {error}"
        if isinstance(error, PermissionDeniedError):
            return f"the account is not let in (403): {error}"
        if isinstance(error, BudgetExceededError | ClientClosedError | ConfigurationError | JournalError):
            return str(error)
        if isinstance(error, ContentPolicyError) or not isinstance(
            error, APIConnectionError | BadRequestError | NotFoundError | UnprocessableEntityError
        ):
            self._streak = 0
            return None
        key = (type(error), error.status, error.code, error.type, error.param, error.host)
        self._streak = self._streak + 1 if key == self._key else 1
        self._key = key
        if self._streak >= self.after:
            what = "refusals" if error.status is not None else "failures to connect"
            return f"{self._streak} identical {what} in a row: {error}"
        return None


def check_retry(states: Iterable[str] | bool) -> frozenset[ItemState]:
    """Check the states to send again; raises ``ConfigurationError`` for any but ``refused`` and ``failed``."""
    if isinstance(states, bool):
        return RETRYABLE if states else frozenset()
    chosen = {states} if isinstance(states, str) else set(states)
    wrong = chosen - RETRYABLE
    if wrong:
        raise ConfigurationError(
            f"retry takes 'refused' and 'failed', not {', '.join(sorted(map(repr, wrong)))}. What is in doubt is "
            "decided by on_outcome_unknown; everything else resumes by itself."
        )
    return frozenset(state for state in RETRYABLE if state in chosen)


class Counts:
    """Counts the items of a batch by state, and their cost."""

    __slots__ = ("cost", "counts", "mismatched", "not_in_input", "unknown", "unpriced", "unpriced_doubts")

    def __init__(self) -> None:
        self.counts: dict[ItemState, int] = dict.fromkeys(STATES, 0)
        self.cost: int = 0
        self.unknown: int = 0
        self.mismatched: int = 0
        self.not_in_input: int = 0
        self.unpriced: int = 0
        self.unpriced_doubts: int = 0

    def count(self, state: ItemState, number: int = 1) -> None:
        """Count items in their state; one that is still sending is in doubt."""
        self.counts[state_after_crash(state)] += number

    def summarise(
        self, *, cost: float | None, cost_in_doubt: float | None, unmet: int, stopped: str | None, elapsed: float
    ) -> BatchSummary:
        """Return the counts as a value. ``unmet`` are known items that the batch never reached."""
        counts = self.counts
        return BatchSummary(
            done=counts["done"],
            refused=counts["refused"],
            failed=counts["failed"],
            accepted=counts["accepted"],
            in_doubt=counts["in_doubt"],
            not_sent=counts["not_sent"] + unmet,
            lost=counts["lost"],
            cancelled=counts["cancelled"],
            not_in_input=self.not_in_input,
            cost=cost,
            cost_in_doubt=cost_in_doubt,
            unpriced=self.unpriced + self.unpriced_doubts,
            mismatched=self.mismatched,
            stopped=stopped,
            elapsed=elapsed,
        )


class ItemRow(msgspec.Struct, frozen=True, kw_only=True):
    """The row of one item.

    ``reserved``, ``cost`` and ``unknown`` are US dollars: held for a running request, spent, and perhaps spent.
    """

    id: str
    position: int
    state: ItemState
    digest: str
    spelling: str | None = None
    verb: str = "generate"
    model: str | None = None
    request: str | None = None
    idempotency_key: str | None = None
    task_id: str | None = None
    poll_url: str | None = None
    request_id: str | None = None
    reserved: float = 0.0
    cost: float | None = None
    unknown: float = 0.0
    sends: int = 0
    result: str | None = None
    failure: str | None = None
    parent: str | None = None
    created: float | None = None
    sent: float | None = None
    accepted: float | None = None
    finished: float | None = None
    number: int | None = None
    phase: str | None = None
    status: int | None = None
    meta: str | None = None

    def asks_for(self, digest: str, spelling: str) -> bool:
        """Whether it is this request: by what it says or, where that is not known of a row of schema 1, by its spelling."""
        return self.digest == digest or (self.spelling is not None and self.spelling == spelling)
