"""The retry table. Input: an outcome and the call's history. Output: retry after N seconds, or give up.

A paid request costs its user money, so the only question that counts is whether the gateway may have accepted it.
Three answers exist, and each row of the table has exactly one of them:

* *not accepted, provably*: nothing left, the body never became complete, or the gateway said no. Sending again cannot
  buy twice. Transient failures are tried ``max_retries`` times; a refusal for load is tried until the deadline, at the
  pace of its model.
* *perhaps accepted*: the request left and no usable answer came. It is raised and never sent again, unless the caller
  has declared that the gateway honours idempotency keys: then the same key and bytes may go again.
* *no purchase at all*: a read, a poll or a file. It may be repeated.

Once an attempt of a call may have been accepted, no later failure can undo that: the call ends as unknown.

A poll never fails the task that it asks about, which is paid. The states of a task, as gateways word them::

    created, queued, in_progress, running, ...       -> pending: ask again
    completed, succeeded, success, finished, ...     -> completed: collect the outputs
    failed, failure, error, cancelled, expired, ...  -> failed: raise, the gateway's word is final
    anything unknown                                 -> completed when a result stands beside it, else pending

This table decides whether the same request is sent again. Around it ``paid`` refuses to start a call that cannot end in
time, ``tasks`` follows a poll to another host, and ``fallback`` and ``batch`` start new calls, each under this table again.
The file is pure: time and jitter are arguments.
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
RETRY_TOKENS = 500
TRANSIENT_COST = 14
THROTTLED_COST = 5
KEPT_FOR_PROBES = 100
"""Tokens that only probes may take: one request at a time that finds out whether a model is still refused."""
NEW_TASK = 60.0
"""Seconds after acceptance during which a 404 may only mean that the task is not visible yet."""


class Outcome(enum.Enum):
    """How one attempt ended."""

    UNREACHED = "no connection, for now"
    NAME_MISSING = "no connection, since the host's name does not exist"
    HOPELESS = "no connection, and trying again cannot help"
    EXPIRED = "the deadline passed before anything was sent"
    CLOSED = "the client was closed before anything was sent"
    UNSENT = "the write failed before the body was complete"
    LOST = "the request left and no answer came"
    OUT_OF_CREDIT = "the account is out of credit: 402, or a 403 or 429 that says so"
    THROTTLED = "refused for load: 429, 425, 503 with Retry-After, a status declared as refused"
    SERVER_ERROR = "408, 500 and above"
    CONFLICT = "409"
    KEY_CONFLICT = "409 or 422 about the idempotency key"
    FORBIDDEN = "401 or 403"
    MISSING = "404"
    REJECTED = "400, 405, 413, 415, 422"
    REDIRECT = "a redirect that would not repeat the request"
    REDIRECT_REPEATING = "307 or 308"
    ERROR_IN_200 = "HTTP 200 with an error that names no refusal and no rejection"
    OTHER_STATUS = "a status that no row names"
    CUT = "2xx, and the body was cut"
    UNUSABLE = "2xx, and the body brings nothing usable"
    EMPTY_TASK = "a task that is completed without an address"
    PENDING = "a task or an upload that is not ready yet"
    PARTIAL = "a part of the file, which stays"


class RequestKind(enum.IntEnum):
    """The kind of a request: a column of the table."""

    ONCE = 0
    """A paid POST."""
    HONOURED = 1
    """A paid POST to a gateway that honours idempotency keys."""
    UPLOAD = 2
    READ = 3
    POLL = 4
    """A read of the state of a paid task."""
    REVIEW = 5
    """A read of the state of an upload."""
    FILE = 6

    @property
    def paid(self) -> bool:
        """Whether it may buy something."""
        return self <= RequestKind.HONOURED

    @property
    def read(self) -> bool:
        """Whether it can be repeated without any effect."""
        return self >= RequestKind.READ


class Retry(enum.Enum):
    """Whether the same bytes may go again."""

    STOP = "stop"
    RETRY = "again, at most max_retries times"
    RETRY_ONCE = "again, once"
    WAIT = "again at the pace of its model, until the deadline"
    RESUME = "go on, and what failed before is forgotten"
    POLL = "again at the pace of polls, until the deadline"
    POLL_NEW = "again at the pace of polls, while the task is new"
    POLL_ONCE = "again at the pace of polls, once"


class Raise(enum.Enum):
    """The error to raise when the request may not be sent again."""

    CONNECTION = "APIConnectionError"
    DEADLINE = "DeadlineExceededError"
    CLOSED = "ClientClosedError"
    DOUBT = "OutcomeUnknownError"
    STATUS = "the class of its status"
    UNEXPECTED = "UnexpectedResponseError"
    FIRST = "the first failure of the call"
    TASK = "TaskPollError"
    TIMEOUT = "TaskTimeoutError"
    FILE = "DownloadError"


_Cell = tuple[Retry, Raise]
_STOP, _RETRY, _POLL = Retry.STOP, Retry.RETRY, Retry.POLL

_AGAIN: _Cell = (_RETRY, Raise.CONNECTION)
_NEVER: _Cell = (_STOP, Raise.CONNECTION)
_DEADLINE: _Cell = (_STOP, Raise.DEADLINE)
_CLOSED: _Cell = (_STOP, Raise.CLOSED)
_DOUBT: _Cell = (_STOP, Raise.DOUBT)
_REPLAY: _Cell = (_RETRY, Raise.DOUBT)
_FIRST: _Cell = (_STOP, Raise.FIRST)
_WAIT: _Cell = (Retry.WAIT, Raise.STATUS)
_STATUS: _Cell = (_STOP, Raise.STATUS)
_SERVER: _Cell = (_RETRY, Raise.STATUS)
_ODD: _Cell = (_STOP, Raise.UNEXPECTED)
_ONCE: _Cell = (Retry.RETRY_ONCE, Raise.UNEXPECTED)
_ASK: _Cell = (_POLL, Raise.TIMEOUT)
_NEW: _Cell = (Retry.POLL_NEW, Raise.TASK)
_EMPTY: _Cell = (Retry.POLL_ONCE, Raise.TASK)
_LEAVE: _Cell = (_STOP, Raise.TASK)
_FETCH: _Cell = (_RETRY, Raise.FILE)
_YIELD: _Cell = (Retry.WAIT, Raise.FILE)
_RESUME: _Cell = (Retry.RESUME, Raise.FILE)
_FILE: _Cell = (_STOP, Raise.FILE)

TABLE: dict[Outcome, tuple[_Cell, _Cell, _Cell, _Cell, _Cell, _Cell, _Cell]] = {
    #                            POST:      key         an         a          a poll of  a review   a
    #                            once       honoured    upload     read       a task     of upload  file
    Outcome.UNREACHED:          (_AGAIN,    _AGAIN,     _AGAIN,    _AGAIN,    _ASK,      _ASK,      _FETCH),
    Outcome.NAME_MISSING:       (_NEVER,    _NEVER,     _NEVER,    _NEVER,    _ASK,      _ASK,      _FILE),
    Outcome.HOPELESS:           (_NEVER,    _NEVER,     _NEVER,    _NEVER,    _ASK,      _ASK,      _FILE),
    Outcome.EXPIRED:            (_DEADLINE, _DEADLINE,  _DEADLINE, _DEADLINE, _ASK,      _ASK,      _FILE),
    Outcome.CLOSED:             (_CLOSED,   _CLOSED,    _CLOSED,   _CLOSED,   _LEAVE,    _CLOSED,   _CLOSED),
    Outcome.UNSENT:             (_AGAIN,    _AGAIN,     _AGAIN,    _AGAIN,    _ASK,      _ASK,      _FETCH),
    Outcome.LOST:               (_DOUBT,    _REPLAY,    _NEVER,    _AGAIN,    _ASK,      _ASK,      _FETCH),
    Outcome.OUT_OF_CREDIT:      (_STATUS,   _STATUS,    _STATUS,   _STATUS,   _ASK,      _STATUS,   _FILE),
    Outcome.THROTTLED:          (_WAIT,     _WAIT,      _WAIT,     _WAIT,     _ASK,      _ASK,      _YIELD),
    Outcome.SERVER_ERROR:       (_DOUBT,    _REPLAY,    _STATUS,   _SERVER,   _ASK,      _ASK,      _FETCH),
    Outcome.CONFLICT:           (_DOUBT,    _REPLAY,    _STATUS,   _STATUS,   _ASK,      _STATUS,   _FILE),
    Outcome.KEY_CONFLICT:       (_DOUBT,    _FIRST,     _STATUS,   _STATUS,   _ASK,      _STATUS,   _FILE),
    Outcome.FORBIDDEN:          (_STATUS,   _STATUS,    _STATUS,   _STATUS,   _LEAVE,    _STATUS,   _FILE),
    Outcome.MISSING:            (_STATUS,   _STATUS,    _STATUS,   _STATUS,   _NEW,      _STATUS,   _FILE),
    Outcome.REJECTED:           (_STATUS,   _STATUS,    _STATUS,   _STATUS,   _ASK,      _STATUS,   _FILE),
    Outcome.REDIRECT:           (_DOUBT,    _DOUBT,     _STATUS,   _STATUS,   _ASK,      _STATUS,   _FILE),
    Outcome.REDIRECT_REPEATING: (_STATUS,   _STATUS,    _STATUS,   _STATUS,   _ASK,      _STATUS,   _FILE),
    Outcome.ERROR_IN_200:       (_DOUBT,    _DOUBT,     _ODD,      _ONCE,     _ASK,      _ASK,      _FETCH),
    Outcome.OTHER_STATUS:       (_DOUBT,    _DOUBT,     _STATUS,   _STATUS,   _ASK,      _STATUS,   _FILE),
    Outcome.CUT:                (_DOUBT,    _REPLAY,    _ODD,      _ONCE,     _ASK,      _ASK,      _FETCH),
    Outcome.UNUSABLE:           (_DOUBT,    _DOUBT,     _ODD,      _ONCE,     _ASK,      _ASK,      _FETCH),
    Outcome.EMPTY_TASK:         (_DOUBT,    _DOUBT,     _ODD,      _ONCE,     _EMPTY,    _ASK,      _FETCH),
    Outcome.PENDING:            (_DOUBT,    _DOUBT,     _ODD,      _ONCE,     _ASK,      _ASK,      _FETCH),
    Outcome.PARTIAL:            (_DOUBT,    _DOUBT,     _ODD,      _ONCE,     _ASK,      _ASK,      _RESUME),
}  # fmt: skip

MAY_BE_ACCEPTED = frozenset(
    {
        Outcome.LOST,
        Outcome.SERVER_ERROR,
        Outcome.CONFLICT,
        Outcome.REDIRECT,
        Outcome.ERROR_IN_200,
        Outcome.OTHER_STATUS,
        Outcome.CUT,
        Outcome.UNUSABLE,
        Outcome.EMPTY_TASK,
        Outcome.PENDING,
        Outcome.PARTIAL,
    }
)
"""Outcomes after which a paid request may have been accepted.

Not ``KEY_CONFLICT``: it speaks of an earlier attempt, whose own outcome is the one in doubt."""

_POLLS = frozenset({Retry.POLL, Retry.POLL_NEW, Retry.POLL_ONCE})
_FAILS_OVER = frozenset({Outcome.UNREACHED, Outcome.NAME_MISSING})
_REJECTIONS = frozenset({400, 405, 413, 415, 422})
_REFUSALS = frozenset({425, 429})


class BackOff(msgspec.Struct, frozen=True, kw_only=True):
    """How pauses grow: ``first`` seconds, each ``growth`` times the one before, never more than ``cap``.

    Each is multiplied by a random number from ``low`` to ``high``, so that clients do not retry in step.
    """

    first: float
    growth: float = 2.0
    cap: float
    low: float = 0.0
    high: float = 1.0


CONNECTING = BackOff(first=0.1, cap=5.0)
THROTTLE_BACK_OFF = BackOff(first=1.0, cap=30.0)
POLLING = BackOff(first=0.25, growth=1.4, cap=10.0, low=0.8, high=1.2)
FAILED_POLL = BackOff(first=0.5, growth=1.6, cap=10.0, low=0.5)
_BACK_OFF = {
    Outcome.THROTTLED: THROTTLE_BACK_OFF,
    Outcome.SERVER_ERROR: THROTTLE_BACK_OFF,
    Outcome.CONFLICT: THROTTLE_BACK_OFF,
}


class RetryAfter(msgspec.Struct, frozen=True, kw_only=True):
    """Send it again after ``after`` seconds, at a price of ``cost`` tokens of the retry budget.

    ``throttled`` when the gateway refused it for load; ``elsewhere`` when it goes to the next of the caller's hosts.
    """

    after: float
    cost: int = 0
    throttled: bool = False
    elsewhere: bool = False


class GiveUp(msgspec.Struct, frozen=True, kw_only=True):
    """Do not send it again. ``too_late`` when only the deadline forbids it."""

    ending: Raise
    too_late: bool = False


Decision = RetryAfter | GiveUp


class History(msgspec.Struct, kw_only=True):
    """The attempts of one call so far, on the clock of ``decide``.

    ``retries`` counts, for polls, those in a row that failed; ``refusals`` those for load; ``failovers`` the changes of
    host. ``empty``: a poll has reported a completed task without a URL. ``doubtful``: one may have been accepted.
    """

    began: float = 0.0
    attempts: int = 0
    retries: int = 0
    refusals: int = 0
    failovers: int = 0
    empty: bool = False
    doubtful: bool = False
    last_cost: int = 1

    def note(self, outcome: Outcome, kind: RequestKind, decision: Decision) -> None:
        """Record an attempt's end and what was decided."""
        if kind.paid and outcome in MAY_BE_ACCEPTED:
            self.doubtful = True
        self.empty = self.empty or outcome is Outcome.EMPTY_TASK
        if isinstance(decision, GiveUp):
            return
        self.last_cost = decision.cost
        self.failovers += decision.elsewhere
        if outcome is Outcome.PENDING:
            self.retries = 0
        elif outcome is Outcome.PARTIAL:
            self.retries = self.refusals = 0
        elif decision.throttled:
            self.refusals += 1
        else:
            self.retries += 1


class RetryBudget:
    """A client's retry tokens, which keep a storm of failures from becoming a storm of requests."""

    __slots__ = ("tokens",)

    def __init__(self) -> None:
        self.tokens: int = RETRY_TOKENS

    def spend(self, cost: int, *, keep: int = 0) -> bool:
        """Take ``cost`` tokens and leave at least ``keep``; ``False``, without taking any, when there are too few."""
        if self.tokens < cost + keep:
            return False
        self.tokens -= cost
        return True

    def take_up_to(self, cost: int) -> None:
        """Take ``cost`` tokens, or all that are left: for a probe while a model is throttled."""
        self.tokens = max(0, self.tokens - cost)

    def charge(self, decision: RetryAfter) -> bool:
        """Take the tokens of a retry; ``False`` when there are too few. A throttled one may then go as a probe."""
        if not decision.throttled:
            return self.spend(decision.cost)
        if self.spend(decision.cost, keep=KEPT_FOR_PROBES):
            return True
        self.take_up_to(decision.cost)
        return False

    def repay(self, cost: int) -> None:
        """Repay after a success: the cost of its last retry, or 1."""
        self.tokens = min(RETRY_TOKENS, self.tokens + cost)


def find_outcome(status: int, *, retry_after: float | None, refused: frozenset[int] = frozenset()) -> Outcome:
    """Return the outcome of a status that is not a success; ``refused`` are statuses declared as throttling."""
    if status in _REFUSALS or status in refused or (status == 503 and retry_after is not None):
        return Outcome.THROTTLED
    if status in _REJECTIONS:
        return Outcome.REJECTED
    if status == 402:
        return Outcome.OUT_OF_CREDIT
    if status in {401, 403}:
        return Outcome.FORBIDDEN
    if status == 404:
        return Outcome.MISSING
    if status == 409:
        return Outcome.CONFLICT
    if status == 408 or status >= 500:
        return Outcome.SERVER_ERROR
    if 300 <= status < 400:
        return Outcome.REDIRECT_REPEATING if status in {307, 308} else Outcome.REDIRECT
    return Outcome.OTHER_STATUS


def decide(
    outcome: Outcome,
    kind: RequestKind,
    history: History,
    *,
    now: float,
    deadline: float,
    jitter: float,
    max_retries: int,
    retry_after: float | None = None,
    hosts: int = 1,
) -> Decision:
    """Decide what follows an attempt that ``history`` does not hold yet.

    ``now`` and ``deadline`` are of any one monotonic clock, ``jitter`` is a number from 0 to 1. ``max_retries=0`` turns
    off every retry but polls. ``hosts`` is how many may be tried.
    """
    retry, ending = TABLE[outcome][kind]
    if retry in _POLLS:
        return _decide_poll(outcome, kind, history, now=now, deadline=deadline, jitter=jitter, retry_after=retry_after)
    if max_retries == 0:
        return GiveUp(ending=ending)
    if kind.paid and outcome in _FAILS_OVER and history.failovers < hosts - 1 and now + LEAST_SLEEP < deadline:
        return RetryAfter(after=LEAST_SLEEP, elsewhere=True)
    if retry is Retry.STOP:
        return GiveUp(ending=ending)
    if retry is Retry.RESUME:
        made, cost = 0, 0
    elif retry is Retry.WAIT:
        made, cost = history.refusals, THROTTLED_COST
    else:
        made, cost = history.retries, TRANSIENT_COST
        if made >= (1 if retry is Retry.RETRY_ONCE else max_retries):
            return GiveUp(ending=ending)
    after = find_pause(made + 1, _BACK_OFF.get(outcome, CONNECTING), jitter, retry_after)
    if now + after >= deadline:
        return GiveUp(ending=ending, too_late=True)
    return RetryAfter(after=after, cost=cost, throttled=retry is Retry.WAIT)


def _decide_poll(
    outcome: Outcome,
    kind: RequestKind,
    history: History,
    *,
    now: float,
    deadline: float,
    jitter: float,
    retry_after: float | None,
) -> Decision:
    """Decide for requests that repeat until the deadline: they are free and not counted as retries."""
    retry, ending = TABLE[outcome][kind]
    if retry is Retry.POLL_NEW and not is_new(history, now):
        return GiveUp(ending=ending)
    if retry is Retry.POLL_ONCE and history.empty:
        return GiveUp(ending=ending)
    if outcome is Outcome.PENDING:
        after = find_pause(history.attempts + 1, POLLING, jitter, retry_after)
    else:
        after = find_pause(history.retries + 1, FAILED_POLL, jitter, retry_after)
    if kind is RequestKind.POLL and (now < deadline or not history.attempts):
        return RetryAfter(after=min(after, max(0.0, deadline - now)))  # a paid task is polled at its deadline, too
    if now + after >= deadline:
        return GiveUp(ending=ending, too_late=True)
    return RetryAfter(after=after)


def is_new(history: History, now: float) -> bool:
    """Whether a task may not be visible yet: ``history`` begins with its acceptance, where that is known."""
    return now - history.began < NEW_TASK


def find_pause(retry: int, back_off: BackOff, jitter: float, retry_after: float | None = None) -> float:
    """Return the seconds before a retry, numbered from 1: never less than asked for, and different for each client."""
    if retry_after is not None:
        return retry_after + jitter * max(0.5, 0.2 * retry_after)
    longest = min(back_off.cap, back_off.first * back_off.growth ** min(retry - 1, 40))
    return max(LEAST_SLEEP, longest * (back_off.low + (back_off.high - back_off.low) * jitter))


_SECONDS = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,12})?", re.ASCII)
_CLOCK = r"(?P<clock>\d\d:\d\d:\d\d)"
_DATES = (
    re.compile(rf"[A-Za-z]{{3}}, (?P<day>\d\d) (?P<month>[A-Za-z]{{3}}) (?P<year>\d{{4}}) {_CLOCK} GMT", re.ASCII),
    re.compile(rf"[A-Za-z]{{6,9}}, (?P<day>\d\d)-(?P<month>[A-Za-z]{{3}})-(?P<year>\d\d) {_CLOCK} GMT", re.ASCII),
    re.compile(rf"[A-Za-z]{{3}} (?P<month>[A-Za-z]{{3}}) (?P<day>[ \d]\d) {_CLOCK} (?P<year>\d{{4}})", re.ASCII),
)
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")


def read_retry_after(headers: Iterable[tuple[bytes, bytes]], *, wall: float) -> float | None:
    """Return the seconds that an answer asks to wait; ``None`` without a usable ``Retry-After``. It never raises.

    Digits, with or without a fraction, or an HTTP date measured against the answer's own ``Date``, else against
    ``wall``, the Unix time in seconds.
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


_WAIT_IN_WORDS = re.compile(
    r"\b(?:try again|retry|wait)(?: after| in| for)?:? ((?:\d{1,6}(?:\.\d{1,6})? ?(?:ms|milliseconds?|s|secs?|seconds?|m|mins?|minutes?|"
    r"h|hrs?|hours?)\b,? ?(?:and )?|\d{1,6}[hms](?=\d))+)",
    re.IGNORECASE | re.ASCII,
)
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?) ?(ms|milli|s|m|h)", re.IGNORECASE | re.ASCII)
_UNITS = {"ms": 0.001, "milli": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def read_wait(text: str) -> float | None:
    """Return the seconds that a refusal asks for in its message, as in ``Please try again after 6 seconds``."""
    found = _WAIT_IN_WORDS.search(text[:4096])
    if found is None:
        return None
    return sum(float(amount) * _UNITS[unit.lower()] for amount, unit in _AMOUNT.findall(found[1]))


def read_date(text: str) -> float | None:
    """Parse an HTTP date, in any of its three forms, to Unix time in seconds; ``None`` when it is not one."""
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
