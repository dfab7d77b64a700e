"""The retry law: the table row by row, the theory above it as properties, Retry-After in every form."""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime

import pytest
from hypothesis import given, strategies as st

from videorouter.call.retry import (
    CONNECTING,
    KEPT_FOR_PROBES,
    LEAST_SLEEP,
    MAY_BE_ACCEPTED,
    RETRY_TOKENS,
    TABLE,
    THROTTLE_BACK_OFF,
    THROTTLED_COST,
    TRANSIENT_COST,
    BackOff,
    GiveUp,
    History,
    Outcome,
    Raise,
    RequestKind,
    Retry,
    RetryAfter,
    RetryBudget,
    decide,
    find_outcome,
    find_pause,
    read_date,
    read_retry_after,
    read_wait,
)

ONCE, HONOURED, READ, FILE = RequestKind.ONCE, RequestKind.HONOURED, RequestKind.READ, RequestKind.FILE
POLLS = {RequestKind.POLL, RequestKind.REVIEW}
COUNTED = [kind for kind in RequestKind if kind not in POLLS]
OUTCOMES = st.sampled_from(list(Outcome))
KINDS = st.sampled_from(list(RequestKind))
KINDS_COUNTED = st.sampled_from(COUNTED)
DICE = st.floats(0, 1)
UNCOUNTED = {Retry.WAIT, Retry.RESUME}
CELLS = [(outcome, kind) for outcome in Outcome for kind in COUNTED if TABLE[outcome][kind][0] not in UNCOUNTED]

# By outcome, as the promise has it: a POST, an honoured key, an upload, a read, a poll, an upload's review, a file.
PROMISED = {
    "UNREACHED": "again, again, again, again, poll, poll, fetch",
    "NAME_MISSING": "connection, connection, connection, connection, poll, poll, file",
    "HOPELESS": "connection, connection, connection, connection, poll, poll, file",
    "EXPIRED": "deadline, deadline, deadline, deadline, poll, poll, file",
    "CLOSED": "closed, closed, closed, closed, task, closed, closed",
    "UNSENT": "again, again, again, again, poll, poll, fetch",
    "LOST": "doubt, replay, connection, again, poll, poll, fetch",
    "OUT_OF_CREDIT": "status, status, status, status, poll, status, file",
    "THROTTLED": "wait, wait, wait, wait, poll, poll, wait for the file",
    "SERVER_ERROR": "doubt, replay, status, again 5xx, poll, poll, fetch",
    "CONFLICT": "doubt, replay, status, status, poll, status, file",
    "KEY_CONFLICT": "doubt, first, status, status, poll, status, file",
    "FORBIDDEN": "status, status, status, status, task, status, file",
    "MISSING": "status, status, status, status, poll while new, status, file",
    "REJECTED": "status, status, status, status, poll, status, file",
    "REDIRECT": "doubt, doubt, status, status, poll, status, file",
    "REDIRECT_REPEATING": "status, status, status, status, poll, status, file",
    "ERROR_IN_200": "doubt, doubt, unexpected, again once, poll, poll, fetch",
    "OTHER_STATUS": "doubt, doubt, status, status, poll, status, file",
    "CUT": "doubt, replay, unexpected, again once, poll, poll, fetch",
    "UNUSABLE": "doubt, doubt, unexpected, again once, poll, poll, fetch",
    "EMPTY_TASK": "doubt, doubt, unexpected, again once, poll once, poll, fetch",
    "PENDING": "doubt, doubt, unexpected, again once, poll, poll, fetch",
    "PARTIAL": "doubt, doubt, unexpected, again once, poll, poll, resume",
}
MEANT = {
    "again": (Retry.RETRY, Raise.CONNECTION),
    "again 5xx": (Retry.RETRY, Raise.STATUS),
    "again once": (Retry.RETRY_ONCE, Raise.UNEXPECTED),
    "replay": (Retry.RETRY, Raise.DOUBT),
    "fetch": (Retry.RETRY, Raise.FILE),
    "wait": (Retry.WAIT, Raise.STATUS),
    "wait for the file": (Retry.WAIT, Raise.FILE),
    "resume": (Retry.RESUME, Raise.FILE),
    "poll": (Retry.POLL, Raise.TIMEOUT),
    "poll while new": (Retry.POLL_NEW, Raise.TASK),
    "poll once": (Retry.POLL_ONCE, Raise.TASK),
    "connection": (Retry.STOP, Raise.CONNECTION),
    "deadline": (Retry.STOP, Raise.DEADLINE),
    "unexpected": (Retry.STOP, Raise.UNEXPECTED),
    "closed": (Retry.STOP, Raise.CLOSED),
    "doubt": (Retry.STOP, Raise.DOUBT),
    "first": (Retry.STOP, Raise.FIRST),
    "status": (Retry.STOP, Raise.STATUS),
    "task": (Retry.STOP, Raise.TASK),
    "file": (Retry.STOP, Raise.FILE),
}


@pytest.mark.parametrize("outcome", Outcome, ids=lambda outcome: outcome.name)
def test_the_table_says_what_was_promised(outcome):
    assert TABLE[outcome] == tuple(MEANT[word] for word in PROMISED[outcome.name].split(", "))
    assert len(TABLE[outcome]) == len(RequestKind)


def test_an_upload_follows_the_law_of_a_paid_request_but_is_never_in_doubt():
    assert all(cells[RequestKind.UPLOAD][0] is cells[ONCE][0] for cells in TABLE.values())
    assert all(cells[RequestKind.UPLOAD][1] is not Raise.DOUBT for cells in TABLE.values())


def test_only_a_paid_request_buys_and_only_a_read_can_be_repeated_without_effect():
    assert [kind for kind in RequestKind if kind.paid] == [ONCE, HONOURED]
    assert [kind for kind in RequestKind if kind.read] == [READ, RequestKind.POLL, RequestKind.REVIEW, FILE]


def test_nothing_that_may_have_been_accepted_is_sent_again_by_default():
    for outcome in MAY_BE_ACCEPTED | {Outcome.KEY_CONFLICT}:
        assert TABLE[outcome][ONCE] == (Retry.STOP, Raise.DOUBT)


def test_what_ends_in_doubt_is_undecided_and_nothing_else_is():
    assert {one for one in Outcome if TABLE[one][ONCE][1] is Raise.DOUBT} - {Outcome.KEY_CONFLICT} == MAY_BE_ACCEPTED


STATUSES = {
    **dict.fromkeys((400, 405, 413, 415, 422), Outcome.REJECTED),
    402: Outcome.OUT_OF_CREDIT,
    **dict.fromkeys((401, 403), Outcome.FORBIDDEN),
    404: Outcome.MISSING,
    **dict.fromkeys((425, 429), Outcome.THROTTLED),
    **dict.fromkeys((408, 500, 501, 502, 503, 504, 507, 520, 521, 524, 526, 599, 600, 999), Outcome.SERVER_ERROR),
    **dict.fromkeys((300, 301, 302, 303, 304, 305, 399), Outcome.REDIRECT),
    **dict.fromkeys((307, 308), Outcome.REDIRECT_REPEATING),
    **dict.fromkeys((0, 99, 406, 407, 410, 418, 423, 424, 426, 428, 431, 451, 499), Outcome.OTHER_STATUS),
    409: Outcome.CONFLICT,
}


@pytest.mark.parametrize(("status", "outcome"), STATUSES.items())
def test_each_status_has_its_outcome(status, outcome):
    assert find_outcome(status, retry_after=None) is outcome


@pytest.mark.parametrize("status", [500, 502, 504, 409, 400])
def test_retry_after_makes_a_refusal_of_503_only(status):
    assert find_outcome(503, retry_after=0.0) is Outcome.THROTTLED
    assert find_outcome(status, retry_after=1.0) is not Outcome.THROTTLED


def test_the_caller_may_declare_refusals():
    assert find_outcome(502, retry_after=None, refused=frozenset({502})) is Outcome.THROTTLED
    assert find_outcome(400, retry_after=None, refused=frozenset({400})) is Outcome.THROTTLED


def settle(outcome, kind, history=None, **changes):
    options = {"now": 0.0, "deadline": 100.0, "jitter": 0.5, "max_retries": 4, **changes}
    return decide(outcome, kind, history or History(), **options)


@given(OUTCOMES, KINDS_COUNTED, DICE)
def test_no_retries_means_none_and_the_ending_is_the_tables(outcome, kind, jitter):
    assert settle(outcome, kind, jitter=jitter, max_retries=0) == GiveUp(ending=TABLE[outcome][kind][1])


@given(st.sampled_from(CELLS), st.integers(1, 10), DICE)
def test_a_cell_whose_retries_are_used_up_ends_as_the_table_says(cell, most, jitter):
    outcome, kind = cell
    assert settle(outcome, kind, History(retries=most), jitter=jitter, max_retries=most) == GiveUp(
        ending=TABLE[outcome][kind][1]
    )


@given(st.sampled_from([cell for cell in CELLS if TABLE[cell[0]][cell[1]][0] is Retry.STOP]), DICE)
def test_a_cell_that_stops_does_so_at_the_first_attempt(cell, jitter):
    outcome, kind = cell
    assert settle(outcome, kind, jitter=jitter) == GiveUp(ending=TABLE[outcome][kind][1])


@given(OUTCOMES, KINDS, st.integers(0, 10), st.integers(0, 10), DICE, st.none() | st.floats(0, 1e6), st.floats(0, 200))
def test_again_is_always_before_the_deadline_and_never_too_soon(
    outcome, kind, retries, refusals, jitter, asked, deadline
):
    decision = settle(
        outcome, kind, History(retries=retries, refusals=refusals), jitter=jitter, retry_after=asked, deadline=deadline
    )
    if isinstance(decision, RetryAfter) and kind is not RequestKind.POLL:
        assert decision.after < deadline
        assert decision.after >= (asked if asked is not None else LEAST_SLEEP)
        assert TABLE[outcome][kind][0] is not Retry.STOP


@pytest.mark.parametrize("kind", COUNTED)
@given(most=st.integers(1, 6))
def test_max_retries_counts_retries_and_refusals_do_not_count(kind, most):
    history = History(refusals=50)
    for _ in range(most):
        decision = settle(Outcome.UNREACHED, kind, history, max_retries=most)
        assert isinstance(decision, RetryAfter)
        history.note(Outcome.UNREACHED, kind, decision)
    assert settle(Outcome.UNREACHED, kind, history, max_retries=most) == GiveUp(
        ending=TABLE[Outcome.UNREACHED][kind][1]
    )
    assert isinstance(settle(Outcome.THROTTLED, kind, history, max_retries=most), RetryAfter)


def test_a_senseless_read_is_repeated_once():
    history = History()
    decision = settle(Outcome.UNUSABLE, READ, history)
    history.note(Outcome.UNUSABLE, READ, decision)
    assert isinstance(decision, RetryAfter)
    assert settle(Outcome.UNUSABLE, READ, history) == GiveUp(ending=Raise.UNEXPECTED)


def test_a_retry_after_past_the_deadline_stops_at_once():
    assert settle(Outcome.THROTTLED, ONCE, retry_after=100.0) == GiveUp(ending=Raise.STATUS, too_late=True)
    assert settle(Outcome.THROTTLED, ONCE, retry_after=100.0, jitter=0.0) == GiveUp(ending=Raise.STATUS, too_late=True)
    assert isinstance(settle(Outcome.THROTTLED, ONCE, retry_after=99.0, jitter=0.0), RetryAfter)


def test_a_retry_that_would_start_at_the_deadline_is_too_late():
    assert settle(Outcome.THROTTLED, ONCE, retry_after=100.0, jitter=0.0) == GiveUp(ending=Raise.STATUS, too_late=True)


def test_once_in_doubt_always_in_doubt():
    history = History()
    history.note(Outcome.LOST, HONOURED, settle(Outcome.LOST, HONOURED))
    history.note(Outcome.THROTTLED, HONOURED, settle(Outcome.THROTTLED, HONOURED))
    assert history.doubtful


@given(st.lists(OUTCOMES, max_size=5), KINDS)
def test_a_call_is_in_doubt_when_a_paid_attempt_of_it_was_undecided_and_only_then(outcomes, kind):
    history = History()
    for outcome in outcomes:
        history.note(outcome, kind, settle(outcome, kind, history))
    assert history.doubtful == (kind.paid and not MAY_BE_ACCEPTED.isdisjoint(outcomes))


@given(st.lists(OUTCOMES.filter(lambda one: one not in {Outcome.PENDING, Outcome.PARTIAL}), max_size=9), KINDS)
def test_every_retry_and_every_refusal_of_a_call_is_counted(outcomes, kind):
    history, made = History(), []
    for outcome in outcomes:
        decision = settle(outcome, kind, history)
        history.note(outcome, kind, decision)
        made.append(decision)
    again = [decision.throttled for decision in made if isinstance(decision, RetryAfter)]
    assert (history.refusals, history.retries) == (again.count(True), again.count(False))


def test_a_file_that_comes_in_parts_forgets_its_failures_and_pays_nothing():
    history = History(retries=4, refusals=3)
    decision = settle(Outcome.PARTIAL, FILE, history, jitter=1.0)
    assert decision == RetryAfter(after=CONNECTING.first)
    history.note(Outcome.PARTIAL, FILE, decision)
    assert (history.retries, history.refusals, history.last_cost) == (0, 0, 0)
    assert settle(Outcome.PARTIAL, FILE, deadline=0.05) == GiveUp(ending=Raise.FILE, too_late=True)


@pytest.mark.parametrize("outcome", [Outcome.UNREACHED, Outcome.NAME_MISSING])
@pytest.mark.parametrize("kind", [ONCE, HONOURED])
def test_each_other_host_comes_first_when_one_cannot_be_reached(outcome, kind):
    history = History(retries=4)
    for _ in range(2):
        decision = settle(outcome, kind, history, hosts=3)
        assert decision == RetryAfter(after=LEAST_SLEEP, elsewhere=True)
        history.note(outcome, kind, decision)
    assert (history.failovers, history.retries) == (2, 6)
    assert settle(outcome, kind, history, hosts=3) == GiveUp(ending=Raise.CONNECTION)


@pytest.mark.parametrize("changes", [{"max_retries": 0}, {"deadline": LEAST_SLEEP}, {"hosts": 1}])
def test_no_other_host_is_tried_when_it_may_not_be(changes):
    assert settle(Outcome.NAME_MISSING, ONCE, **{"hosts": 2, **changes}) == GiveUp(ending=Raise.CONNECTION)


@given(OUTCOMES.filter(lambda one: one not in {Outcome.UNREACHED, Outcome.NAME_MISSING}), KINDS, DICE)
def test_nothing_but_a_missing_connection_goes_to_another_host(outcome, kind, jitter):
    assert settle(outcome, kind, jitter=jitter, hosts=2) == settle(outcome, kind, jitter=jitter)


@given(OUTCOMES, st.sampled_from([kind for kind in RequestKind if not kind.paid]), DICE)
def test_only_a_paid_request_has_other_hosts(outcome, kind, jitter):
    assert settle(outcome, kind, jitter=jitter, hosts=2) == settle(outcome, kind, jitter=jitter)


def test_what_a_retry_costs():
    assert settle(Outcome.UNREACHED, ONCE).cost == TRANSIENT_COST == 14
    refusal = settle(Outcome.THROTTLED, ONCE)
    assert (refusal.cost, refusal.throttled) == (THROTTLED_COST, True)
    assert THROTTLED_COST == 5
    history = History()
    assert history.last_cost == 1
    history.note(Outcome.THROTTLED, ONCE, refusal)
    assert (history.last_cost, history.refusals, history.retries) == (5, 1, 0)


@pytest.mark.parametrize(
    ("retry", "base", "cap", "jitter", "pause"),
    [
        (1, 0.1, 5.0, 1.0, 0.1),
        (2, 0.1, 5.0, 1.0, 0.2),
        (7, 0.1, 5.0, 1.0, 5.0),
        (1, 1.0, 30.0, 0.5, 0.5),
        (3, 1.0, 30.0, 1.0, 4.0),
        (60, 1.0, 30.0, 1.0, 30.0),
        (5, 1.0, 30.0, 0.0, 0.05),
    ],
)
def test_the_back_off(retry, base, cap, jitter, pause):
    assert find_pause(retry, BackOff(first=base, cap=cap), jitter) == pytest.approx(pause)


@pytest.mark.parametrize(
    ("asked", "jitter", "pause"), [(0, 1, 0.5), (10, 0, 10), (10, 1, 12), (1, 1, 1.5), (2.5, 1, 3), (100, 0.5, 110)]
)
def test_the_pause_that_was_asked_for(asked, jitter, pause):
    assert find_pause(9, THROTTLE_BACK_OFF, jitter, asked) == pytest.approx(pause)


@pytest.mark.parametrize(
    ("outcome", "least", "most"),
    [
        (Outcome.UNREACHED, 0.05, 0.1),
        (Outcome.LOST, 0.05, 0.1),
        (Outcome.THROTTLED, 0.05, 1.0),
        (Outcome.SERVER_ERROR, 0.05, 1.0),
    ],
)
def test_connections_are_tried_sooner_than_refusals(outcome, least, most):
    assert settle(outcome, READ, jitter=1.0).after == pytest.approx(most)
    assert settle(outcome, READ, jitter=0.0).after == pytest.approx(least)


@pytest.mark.parametrize(
    ("history", "outcome", "after"),
    [
        (History(refusals=3), Outcome.THROTTLED, 8.0),
        (History(retries=3), Outcome.THROTTLED, 1.0),
        (History(retries=3), Outcome.UNREACHED, 0.8),
        (History(refusals=3), Outcome.UNREACHED, 0.1),
    ],
)
def test_refusals_and_retries_back_off_apart(history, outcome, after):
    assert settle(outcome, ONCE, history, jitter=1.0).after == pytest.approx(after)


def test_the_last_tokens_of_a_budget_can_be_spent():
    budget = RetryBudget()
    assert budget.spend(RETRY_TOKENS)
    assert not budget.spend(1)


def test_the_budget_runs_dry_and_fills_again():
    budget = RetryBudget()
    assert sum(budget.spend(TRANSIENT_COST) for _ in range(1000)) == RETRY_TOKENS // TRANSIENT_COST == 35
    assert budget.tokens == 500 - 35 * 14
    budget.repay(14)
    assert budget.spend(14)
    budget.repay(10_000)
    assert budget.tokens == RETRY_TOKENS
    assert sum(budget.spend(THROTTLED_COST, keep=KEPT_FOR_PROBES) for _ in range(1000)) == 80
    for _ in range(20):
        budget.take_up_to(THROTTLED_COST)
    assert budget.tokens == 0


def test_a_retry_is_charged_or_not_made_and_a_refused_one_probes():
    budget = RetryBudget()
    budget.tokens = 2 * KEPT_FOR_PROBES
    assert budget.charge(RetryAfter(after=1.0, cost=14))
    assert budget.tokens == 2 * KEPT_FOR_PROBES - 14
    budget.tokens = 13
    assert not budget.charge(RetryAfter(after=1.0, cost=14))
    assert budget.tokens == 13
    assert budget.charge(RetryAfter(after=1.0))
    assert budget.tokens == 13
    budget.tokens = KEPT_FOR_PROBES + 5
    assert budget.charge(RetryAfter(after=1.0, cost=5, throttled=True))
    assert not budget.charge(RetryAfter(after=1.0, cost=5, throttled=True))
    assert budget.tokens == KEPT_FOR_PROBES - 5
    budget.tokens = 3
    assert not budget.charge(RetryAfter(after=1.0, cost=5, throttled=True))
    assert budget.tokens == 0


DATE = b"Sun, 06 Nov 1994 08:49:37 GMT"
ASKED = {
    b"0": 0.0,
    b"5": 5.0,
    b" 7 ": 7.0,
    b"1.5": 1.5,
    b"0.25": 0.25,
    b"120": 120.0,
    b"Sun, 06 Nov 1994 08:49:57 GMT": 20.0,
    b"Sunday, 06-Nov-94 08:49:47 GMT": 10.0,
    b"Sun Nov  6 08:50:37 1994": 60.0,
    b"Sun, 06 Nov 1994 08:00:00 GMT": 0.0,
    b"-5": None,
    b"+5": None,
    b"nan": None,
    b"inf": None,
    b"1e3": None,
    b"0x10": None,
    b".5": None,
    b"5.": None,
    b"5, 10": None,
    b"5;10": None,
    b"": None,
    b"soon": None,
    b"Sun, 06 Nov 99999 08:49:37 GMT": None,
    b"Sun, 31 Feb 1994 08:49:37 GMT": None,
    b"Sun, 06 Foo 1994 08:49:37 GMT": None,
    b"Sun, 06 Nov 1994 25:49:37 GMT": None,
    b"Sun, 06 Nov 0000 08:49:37 GMT": None,
    b"9" * 400: None,
    b"\xff\xfe": None,
    "\u0665".encode(): None,
}


@pytest.mark.parametrize(("value", "seconds"), ASKED.items())
def test_retry_after_in_every_form(value, seconds):
    assert read_retry_after([(b"retry-after", value), (b"date", DATE)], wall=0.0) == seconds


def test_a_date_is_measured_against_the_answers_own_clock_or_else_ours():
    value = b"Sun, 06 Nov 1994 08:49:57 GMT"
    wall = read_date(DATE.decode()) + 5
    assert read_retry_after([(b"retry-after", value)], wall=wall) == 15.0
    assert read_retry_after([(b"retry-after", value), (b"date", b"nonsense")], wall=wall) == 15.0
    assert read_retry_after([(b"date", DATE), (b"date", b"x"), (b"retry-after", value)], wall=0.0) == 20.0


def test_two_that_differ_are_a_list():
    assert read_retry_after([(b"retry-after", b"1"), (b"retry-after", b"2")], wall=0.0) is None
    assert read_retry_after([(b"retry-after", b"2"), (b"retry-after", b"2")], wall=0.0) == 2.0
    assert read_retry_after([], wall=0.0) is None


WAITS = {
    "Rate limit exceeded (5 requests per minute). Please try again after 6 seconds. (request id: r)": 6.0,
    "Please try again in 20ms.": 0.02,
    "please TRY AGAIN IN 1m30s": 90.0,
    "Please retry after 1 minute and 5 seconds": 65.0,
    "Too many requests, wait for 2 hours, 3 mins": 7380.0,
    "try again after: 1.5 s": 1.5,
    "try again in 7m": 420.0,
    "try again later": None,
    "try again after 6": None,
    "try again after 6 days": None,
    "5 requests per minute": None,
    "retry 3 seconds ago": 3.0,
    "": None,
    "try again in " + "9" * 400 + " s": None,
}


@pytest.mark.parametrize(("words", "seconds"), WAITS.items())
def test_a_wait_that_stands_in_the_words_of_a_refusal(words, seconds):
    assert read_wait(words) == (None if seconds is None else pytest.approx(seconds))


@given(st.text())
def test_any_words_are_read_without_trouble(words):
    assert (read_wait(f"try again in {words}") or 0.0) >= 0.0


MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]


@pytest.mark.parametrize("number", range(1, 13))
def test_each_month_has_its_number(number):
    moment = datetime(1994, number, 6, 8, 49, 37, tzinfo=UTC)
    assert read_date(f"Sun, 06 {MONTHS[number - 1]} 1994 08:49:37 GMT") == moment.timestamp()


@pytest.mark.parametrize("day", ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"])
def test_each_long_name_of_a_day_is_one(day):
    assert read_date(f"{day}, 06-Nov-94 08:49:37 GMT") == read_date(DATE.decode())


def test_a_leap_second_is_the_second_before_it():
    assert read_date("Sat, 31 Dec 2016 23:59:60 GMT") == read_date("Sat, 31 Dec 2016 23:59:59 GMT") == 1483228799.0


def test_a_date_means_the_same_in_every_time_zone(monkeypatch):
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("TZ", "XXX-09")
        time.tzset()
        found = read_date("Sun, 06 Nov 1994 08:49:37 GMT")
    time.tzset()
    assert found == 784111777.0


@pytest.mark.parametrize(
    ("text", "year"), [("Sunday, 06-Nov-70 00:00:00 GMT", 1970), ("Sunday, 06-Nov-69 00:00:00 GMT", 2069)]
)
def test_two_digits_of_a_year(text, year):
    assert read_date(text) == read_date(f"Sun, 06 Nov {year} 00:00:00 GMT")


@given(st.lists(st.tuples(st.sampled_from([b"retry-after", b"date", b"x"]), st.binary(max_size=60))), st.floats())
def test_parsing_never_raises_and_never_gives_nonsense(headers, wall):
    found = read_retry_after(headers, wall=wall)
    assert found is None or (found >= 0 and not math.isnan(found)) or math.isnan(wall)


@given(st.from_regex(r"[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT", fullmatch=True))
def test_any_date_is_read_or_refused(text):
    found = read_date(text)
    assert found is None or math.isfinite(found)
