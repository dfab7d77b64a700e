"""When a task is polled next, and when no more."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from videorouter.call.retry import (
    FAILED_POLL,
    NEW_TASK,
    POLLING,
    GiveUp,
    History,
    Outcome,
    Raise,
    RequestKind,
    RetryAfter,
    decide,
    find_outcome,
    find_pause,
)

DICE = st.floats(0, 1)
POLL, REVIEW = RequestKind.POLL, RequestKind.REVIEW


def judge(outcome, history=None, kind=POLL, **changes):
    options = {"now": 0.0, "deadline": 1e9, "jitter": 0.5, "max_retries": 4, **changes}
    return decide(outcome, kind, history or History(attempts=1), **options)


def test_polls_come_further_apart_up_to_a_cap():
    pauses = [judge(Outcome.PENDING, History(attempts=polls)).after for polls in range(40)]
    assert pauses[0] == pytest.approx(0.25)
    assert pauses == sorted(pauses)
    assert pauses[-1] == POLLING.cap == 10.0
    assert sum(pauses[:12]) < 40


@given(st.integers(0, 10**9), DICE)
def test_every_pause_is_finite_and_jittered(polls, jitter):
    assert 0.2 <= judge(Outcome.PENDING, History(attempts=polls), jitter=jitter).after <= 12.001


def test_jitter_spreads_the_polls():
    assert find_pause(21, POLLING, 0.0) == pytest.approx(8.0)
    assert find_pause(21, POLLING, 1.0) == pytest.approx(12.0)


@given(st.integers(0, 10**6), DICE)
def test_a_failed_poll_is_repeated_within_ten_seconds(failed, jitter):
    assert 0.25 <= judge(Outcome.LOST, History(attempts=1, retries=failed), jitter=jitter).after <= 10.0


def test_failed_polls_back_off():
    assert find_pause(1, FAILED_POLL, 1.0) == 0.5
    assert find_pause(2, FAILED_POLL, 1.0) == pytest.approx(0.8)
    assert find_pause(3, FAILED_POLL, 0.0) == pytest.approx(0.64)
    assert find_pause(99, FAILED_POLL, 1.0) == 10.0


def test_what_the_gateway_asks_for_is_kept():
    assert judge(Outcome.THROTTLED, jitter=0.0, retry_after=42.0).after == 42.0
    assert judge(Outcome.SERVER_ERROR, jitter=1.0, retry_after=1.0).after == 1.5
    assert judge(Outcome.THROTTLED, jitter=1.0, retry_after=10.0).after == 12.0


@pytest.mark.parametrize("status", [401, 403])
def test_a_key_that_is_not_let_in_ends_the_polling(status):
    assert judge(find_outcome(status, retry_after=None)) == GiveUp(ending=Raise.TASK)


STAYS = {Outcome.FORBIDDEN, Outcome.MISSING, Outcome.CLOSED, Outcome.EMPTY_TASK, Outcome.PARTIAL}


@pytest.mark.parametrize("outcome", [outcome for outcome in Outcome if outcome not in STAYS], ids=lambda one: one.name)
@pytest.mark.parametrize("max_retries", [0, 4])
def test_nothing_else_does(outcome, max_retries):
    history = History(attempts=10**6, retries=10**6, refusals=10**6)
    decision = judge(outcome, history, now=1e8, max_retries=max_retries)
    assert isinstance(decision, RetryAfter)
    assert decision.cost == 0


@pytest.mark.parametrize("status", [400, 402, 408, 409, 410, 422, 429, 500, 502, 503, 504, 524])
def test_no_other_status_does(status):
    assert isinstance(judge(find_outcome(status, retry_after=None), now=1e8), RetryAfter)


def test_a_404_does_after_a_minute():
    assert NEW_TASK == 60.0
    assert isinstance(judge(Outcome.MISSING, History(began=40.0, attempts=1), now=99.99), RetryAfter)
    assert judge(Outcome.MISSING, History(began=40.0, attempts=1), now=100.0) == GiveUp(ending=Raise.TASK)


def test_a_second_completed_task_without_an_address_does():
    history = History(attempts=1)
    decision = judge(Outcome.EMPTY_TASK, history)
    history.note(Outcome.EMPTY_TASK, POLL, decision)
    assert isinstance(decision, RetryAfter)
    history.note(Outcome.PENDING, POLL, judge(Outcome.PENDING, history))
    assert judge(Outcome.EMPTY_TASK, history) == GiveUp(ending=Raise.TASK)


def test_only_such_a_task_counts_for_that():
    history = History(attempts=1)
    for outcome in (Outcome.LOST, Outcome.PENDING, Outcome.UNUSABLE):
        history.note(outcome, POLL, judge(outcome, history))
    assert isinstance(judge(Outcome.EMPTY_TASK, history), RetryAfter)


def test_failures_are_counted_until_a_poll_is_answered():
    history = History(attempts=1)
    for _ in range(3):
        history.note(Outcome.LOST, POLL, judge(Outcome.LOST, history))
    assert judge(Outcome.LOST, history, jitter=1.0).after == pytest.approx(0.5 * 1.6**3)
    history.note(Outcome.PENDING, POLL, judge(Outcome.PENDING, history))
    assert judge(Outcome.LOST, history, jitter=1.0).after == 0.5


def test_a_task_is_polled_at_its_deadline_too():
    assert judge(Outcome.PENDING, deadline=0.1).after == 0.1
    assert judge(Outcome.THROTTLED, deadline=0.1, retry_after=60.0).after == 0.1
    assert judge(Outcome.PENDING, deadline=0.1, now=0.1) == GiveUp(ending=Raise.TIMEOUT, too_late=True)
    assert judge(Outcome.MISSING, deadline=0.1, now=0.2) == GiveUp(ending=Raise.TASK, too_late=True)


def test_a_task_is_polled_once_however_late():
    assert judge(Outcome.PENDING, History(), deadline=0.0, now=5.0) == RetryAfter(after=0.0)


def test_a_review_is_not_polled_at_its_deadline():
    assert judge(Outcome.PENDING, kind=REVIEW, deadline=0.36).after == pytest.approx(0.35)
    assert judge(Outcome.PENDING, kind=REVIEW, deadline=0.35) == GiveUp(ending=Raise.TIMEOUT, too_late=True)


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 409, 410, 422])
def test_a_rejection_ends_a_review(status):
    assert judge(find_outcome(status, retry_after=None), kind=REVIEW) == GiveUp(ending=Raise.STATUS)
