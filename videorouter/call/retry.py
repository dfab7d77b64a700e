"""The retry law as a table: what happened and what went before, in; again after so many seconds, or stop, out.

The theory. A request costs its user money, so the only question that counts is whether the gateway may have accepted
it. Three answers exist, and each row of the table has exactly one of them:

* *not accepted, provably*: nothing left, the body never became complete, or the gateway said no. Sending again cannot
  buy twice. Transient troubles are tried ``max_retries`` times; a refusal for load is tried until the deadline, at the
  lane's pace.
* *perhaps accepted*: the request left and no usable answer came. It is raised and never sent again, unless the caller
  has declared that the gateway honours idempotency keys: then the same key and bytes may go again.
* *no purchase at all*: a read. It may be repeated.

Once an attempt of a call may have been accepted, no later failure can undo that: the call ends as unknown.

Nothing else decides about retries. This file knows no clock and throws no dice: both are arguments.
"""

from __future__ import annotations

import enum
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable

LEAST_SLEEP = 0.05
BUDGET = 500
TRANSIENT_COST = 14
THROTTLED_COST = 5
KEPT_FOR_PROBES = 100
"""Tokens that only probes may take: one request at a time that finds out whether a lane still refuses."""


class Outcome(enum.Enum):
    """What happened to one attempt."""

    UNREACHED = "no connection, for now"
    HOPELESS = "no connection, and trying again cannot help"
    EXPIRED = "the deadline passed before anything was sent"
    CLOSED = "the client was closed before anything was sent"
    UNSENT = "the write failed before the body was complete"
    LOST = "the request left and no answer came"
    REFUSED = "refused for load: 429, 425, 503 with Retry-After, a status declared as refused"
    BROKEN = "408, 500 and above"
    CONFLICT = "409"
    KEY_CONFLICT = "409 or 422 about the idempotency key"
    REJECTED = "400, 401, 402, 403, 404, 405, 413, 415, 422"
    MOVED = "a redirect that would not repeat the request"
    MOVED_KEEPING = "307 or 308"
    TROUBLED_200 = "HTTP 200 with an error that names no refusal and no rejection"
    STRANGE = "a status that no row names"
    CUT = "2xx, and the body was cut"
    UNUSABLE = "2xx, and the body brings nothing usable"


class RequestKind(enum.IntEnum):
    """What kind of request it was."""

    ONCE = 0
    HONOURED = 1
    READ = 2


class Retry(enum.Enum):
    """Whether the same bytes may go again."""

    STOP = "stop"
    RETRY = "again, at most max_retries times"
    RETRY_ONE = "again, once"
    WAIT = "again with its lane, until the deadline"


class Raise(enum.Enum):
    """What is raised when it may not."""

    CONNECTION = "APIConnectionError"
    DEADLINE = "DeadlineExceededError"
    CLOSED = "ClientClosedError"
    DOUBT = "OutcomeUnknownError"
    STATUS = "the class of its status"
    UNEXPECTED = "UnexpectedResponseError"
    FIRST = "the first failure of the call"


_Cell = tuple[Retry, Raise]
_S, _R, _ONE, _W = Retry.STOP, Retry.RETRY, Retry.RETRY_ONE, Retry.WAIT
_UNMADE: _Cell = (_R, Raise.CONNECTION)
_DOUBT: _Cell = (_S, Raise.DOUBT)
_SAID_NO: _Cell = (_S, Raise.STATUS)
_AGAIN_IF_HONOURED: _Cell = (_R, Raise.DOUBT)

TABLE: dict[Outcome, tuple[_Cell, _Cell, _Cell]] = {
    #                   POST by default            POST, key honoured         GET
    Outcome.UNREACHED:     (_UNMADE,                   _UNMADE,                   _UNMADE),
    Outcome.HOPELESS:      ((_S, Raise.CONNECTION),   (_S, Raise.CONNECTION),   (_S, Raise.CONNECTION)),
    Outcome.EXPIRED:       ((_S, Raise.DEADLINE),     (_S, Raise.DEADLINE),     (_S, Raise.DEADLINE)),
    Outcome.CLOSED:        ((_S, Raise.CLOSED),       (_S, Raise.CLOSED),       (_S, Raise.CLOSED)),
    Outcome.UNSENT:        (_UNMADE,                   _UNMADE,                   _UNMADE),
    Outcome.LOST:          (_DOUBT,                    _AGAIN_IF_HONOURED,        _UNMADE),
    Outcome.REFUSED:       ((_W, Raise.STATUS),       (_W, Raise.STATUS),       (_W, Raise.STATUS)),
    Outcome.BROKEN:        (_DOUBT,                    _AGAIN_IF_HONOURED,        (_R, Raise.STATUS)),
    Outcome.CONFLICT:      (_DOUBT,                    _AGAIN_IF_HONOURED,        _SAID_NO),
    Outcome.KEY_CONFLICT:  (_DOUBT,                    (_S, Raise.FIRST),        _SAID_NO),
    Outcome.REJECTED:      (_SAID_NO,                  _SAID_NO,                  _SAID_NO),
    Outcome.MOVED:         (_DOUBT,                    _DOUBT,                    _SAID_NO),
    Outcome.MOVED_KEEPING: (_SAID_NO,                  _SAID_NO,                  _SAID_NO),
    Outcome.TROUBLED_200:  (_DOUBT,                    _DOUBT,                    (_ONE, Raise.UNEXPECTED)),
    Outcome.STRANGE:       (_DOUBT,                    _DOUBT,                    _SAID_NO),
    Outcome.CUT:           (_DOUBT,                    _AGAIN_IF_HONOURED,        (_ONE, Raise.UNEXPECTED)),
    Outcome.UNUSABLE:      (_DOUBT,                    _DOUBT,                    (_ONE, Raise.UNEXPECTED)),
}  # fmt: skip

UNDECIDED = frozenset(
    {
        Outcome.LOST,
        Outcome.BROKEN,
        Outcome.CONFLICT,
        Outcome.MOVED,
        Outcome.TROUBLED_200,
        Outcome.STRANGE,
        Outcome.CUT,
        Outcome.UNUSABLE,
    }
)
"""Rows after which a paid request may have been accepted."""

_CONNECTING = (0.1, 5.0)
_REFUSAL = (1.0, 30.0)
_BACK_OFF = {Outcome.REFUSED: _REFUSAL, Outcome.BROKEN: _REFUSAL, Outcome.CONFLICT: _REFUSAL}
_REJECTIONS = frozenset({400, 401, 402, 403, 404, 405, 413, 415, 422})
_REFUSALS = frozenset({425, 429})


class RetryAfter(msgspec.Struct, frozen=True, kw_only=True):
    """Send it again after ``after`` seconds; ``cost`` tokens of the retry budget, and ``throttled`` when refused."""

    after: float
    cost: int
    throttled: bool = False


class GiveUp(msgspec.Struct, frozen=True, kw_only=True):
    """Send it no more. ``too_late`` when only the deadline forbids it."""

    ending: Raise
    too_late: bool = False


Decision = RetryAfter | GiveUp


class History(msgspec.Struct, kw_only=True):
    """What one logical call has been through. ``doubtful`` once an attempt may have been accepted."""

    retries: int = 0
    refusals: int = 0
    doubtful: bool = False
    last_cost: int = 1

    def note(self, row: Outcome, column: RequestKind, decision: Decision) -> None:
        """Write down an attempt's end and what was decided."""
        if column is not RequestKind.READ and row in UNDECIDED:
            self.doubtful = True
        if isinstance(decision, RetryAfter):
            self.last_cost = decision.cost
            if decision.throttled:
                self.refusals += 1
            else:
                self.retries += 1


class RetryBudget:
    """A client's tokens for retries: a storm of failures must not become a storm of requests."""

    __slots__ = ("tokens",)

    def __init__(self) -> None:
        self.tokens: int = BUDGET

    def spend(self, cost: int, *, keep: int = 0) -> bool:
        """Take ``cost`` tokens and leave at least ``keep``; ``False``, and nothing is taken, when they are not there."""
        if self.tokens < cost + keep:
            return False
        self.tokens -= cost
        return True

    def drain(self, cost: int) -> None:
        """Take ``cost`` tokens, or what is left of them: a probe of a lane that refuses."""
        self.tokens = max(0, self.tokens - cost)

    def repay(self, cost: int) -> None:
        """A success pays back what its last retry cost, or 1."""
        self.tokens = min(BUDGET, self.tokens + cost)


def find_outcome(status: int, *, retry_after: float | None, refused: frozenset[int] = frozenset()) -> Outcome:
    """The row of an answer that is no success, by its status.

    Args:
        status: The HTTP status, or the error's own code under HTTP 200.
        retry_after: The answer's ``Retry-After`` in seconds, when it has a readable one.
        refused: Statuses that the caller has declared to be refusals.
    """
    if status in _REFUSALS or status in refused or (status == 503 and retry_after is not None):
        return Outcome.REFUSED
    if status in _REJECTIONS:
        return Outcome.REJECTED
    if status == 409:
        return Outcome.CONFLICT
    if status == 408 or status >= 500:
        return Outcome.BROKEN
    if 300 <= status < 400:
        return Outcome.MOVED_KEEPING if status in {307, 308} else Outcome.MOVED
    return Outcome.STRANGE


def decide(
    row: Outcome,
    column: RequestKind,
    history: History,
    *,
    now: float,
    deadline: float,
    dice: float,
    max_retries: int,
    retry_after: float | None = None,
) -> Decision:
    """What follows from an attempt.

    Args:
        row: What happened.
        column: What kind of request it was.
        history: What went before, this attempt not yet noted.
        now: Any monotonic clock.
        deadline: On that clock.
        dice: A number from 0 to 1.
        max_retries: Of the call; 0 turns every retry off.
        retry_after: Seconds that the gateway asked for.
    """
    ruling, ending = TABLE[row][column]
    if ruling is Retry.STOP or max_retries == 0:
        return GiveUp(ending=ending)
    throttled = ruling is Retry.WAIT
    made = history.refusals if throttled else history.retries
    if not throttled and made >= (1 if ruling is Retry.RETRY_ONE else max_retries):
        return GiveUp(ending=ending)
    base, cap = _BACK_OFF.get(row, _CONNECTING)
    after = find_pause(made + 1, base=base, cap=cap, dice=dice, retry_after=retry_after)
    if now + after >= deadline:
        return GiveUp(ending=ending, too_late=True)
    return RetryAfter(after=after, cost=THROTTLED_COST if throttled else TRANSIENT_COST, throttled=throttled)


def find_pause(retry: int, *, base: float, cap: float, dice: float, retry_after: float | None = None) -> float:
    """Seconds before a retry: never less than the gateway asked for, and never the same for all.

    Args:
        retry: Which retry it is, from 1.
        base: Seconds of the first one at most.
        cap: Seconds of any one at most.
        dice: A number from 0 to 1.
        retry_after: Seconds that the gateway asked for.
    """
    if retry_after is not None:
        return retry_after + dice * max(0.5, 0.2 * retry_after)
    return max(LEAST_SLEEP, dice * min(cap, base * 2.0 ** min(retry - 1, 30)))


_SECONDS = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,12})?", re.ASCII)
_CLOCK = r"(?P<clock>\d\d:\d\d:\d\d)"
_DATES = (
    re.compile(rf"[A-Za-z]{{3}}, (?P<day>\d\d) (?P<month>[A-Za-z]{{3}}) (?P<year>\d{{4}}) {_CLOCK} GMT", re.ASCII),
    re.compile(rf"[A-Za-z]{{6,9}}, (?P<day>\d\d)-(?P<month>[A-Za-z]{{3}})-(?P<year>\d\d) {_CLOCK} GMT", re.ASCII),
    re.compile(rf"[A-Za-z]{{3}} (?P<month>[A-Za-z]{{3}}) (?P<day>[ \d]\d) {_CLOCK} (?P<year>\d{{4}})", re.ASCII),
)
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")


def read_retry_after(headers: Iterable[tuple[bytes, bytes]], *, wall: float) -> float | None:
    """The seconds that an answer asks to wait; ``None`` when it does not say so in a form that makes sense.

    Digits, with or without a fraction, or an HTTP date measured against the answer's own ``Date``. It never raises.

    Args:
        headers: The answer's fields, names in lower case.
        wall: Unix time in seconds, for an answer without a usable ``Date``.
    """
    asked: set[bytes] = set()
    date: bytes | None = None
    for name, value in headers:
        if name == b"retry-after":
            asked.add(value.strip())
        elif name == b"date" and date is None:
            date = value
    if len(asked) != 1:
        return None
    text = asked.pop().decode("latin-1")
    if _SECONDS.fullmatch(text):
        return float(text)
    until = read_date(text)
    if until is None:
        return None
    since = read_date(date.decode("latin-1").strip()) if date is not None else None
    return max(0.0, until - (wall if since is None else since))


def read_date(text: str) -> float | None:
    """An HTTP date, in any of its three forms, as Unix time in seconds; ``None`` when it is none."""
    for form in _DATES:
        match = form.fullmatch(text)
        if match is None:
            continue
        try:
            month = _MONTHS.index(match["month"].lower()) + 1
            year = int(match["year"])
            if len(match["year"]) == 2:
                year += 1900 if year >= 70 else 2000
            hour, minute, second = map(int, match["clock"].split(":"))
            moment = datetime(year, month, int(match["day"]), hour, minute, min(second, 59), tzinfo=UTC)
        except ValueError:
            return None
        return moment.timestamp()
    return None
