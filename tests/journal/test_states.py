"""What each state of a batch item means, and what stops a batch."""

from __future__ import annotations

import pytest

from videorouter import errors
from videorouter.journal.states import (
    MOVES,
    STATES,
    Counts,
    StopRule,
    check_retry,
    decide_resumption,
    describe_failure,
    keep_doubt,
    list_sources,
    state_after_crash,
    state_after_error,
)
from videorouter.models import BatchSummary, Failure


def may_move(before, after):
    """Whether any move of the table takes an item from one state to the other."""
    return any(after in moves.get(before, ()) for moves in MOVES.values())


@pytest.mark.parametrize(
    ("left", "means"),
    [
        ("not_sent", "send"),
        ("sending", "doubt"),
        ("accepted", "poll"),
        ("done", "collect"),
        ("refused", "keep"),
        ("failed", "keep"),
        ("in_doubt", "doubt"),
        ("lost", "poll"),
        ("cancelled", "keep"),
    ],
)
def test_each_state_that_a_crash_leaves_means_one_thing(left, means):
    assert decide_resumption(left) == means


def test_retry_by_name_sends_refused_and_failed_again_and_nothing_else():
    retry = check_retry(["refused", "failed"])
    assert [decide_resumption(state, retry) for state in STATES] == [
        "send",
        "doubt",
        "poll",
        "collect",
        "send",
        "send",
        "doubt",
        "poll",
        "keep",
    ]


@pytest.mark.parametrize(
    ("asked", "states"), [(True, {"refused", "failed"}), (False, set()), ("refused", {"refused"}), ([], set())]
)
def test_retry_takes_names_one_name_or_yes_and_no(asked, states):
    assert check_retry(asked) == states


@pytest.mark.parametrize("wrong", ["in_doubt", ["done"], ("refused", "accepted")])
def test_retry_refuses_states_that_could_buy_twice(wrong):
    with pytest.raises(errors.ConfigurationError, match="on_outcome_unknown"):
        check_retry(wrong)


@pytest.mark.parametrize(
    ("error", "sent", "state"),
    [
        (errors.InvalidRequestError("x"), False, "refused"),
        (errors.APIConnectionError("x"), True, "not_sent"),
        (errors.DeadlineExceededError("x"), True, "not_sent"),
        (errors.ClientClosedError("x"), False, "not_sent"),
        (errors.JournalError("x"), False, "not_sent"),
        (errors.BudgetExceededError("x"), False, "not_sent"),
        (errors.OutcomeUnknownError("x"), True, "in_doubt"),
        (errors.OutcomeUnknownError("x", task_id="t"), True, "accepted"),
        (errors.BadRequestError("x", status=400), True, "refused"),
        (errors.RateLimitError("x", status=429), True, "refused"),
        (errors.ContentPolicyError("x", status=422), True, "refused"),
        (errors.ContentPolicyError("x", task_id="t"), True, "failed"),
        (errors.TaskFailedError("x", task_id="t"), True, "failed"),
        (errors.TaskPollError("x", task_id="t"), True, "accepted"),
        (errors.TaskPollError("x", task_id="t", status=401), True, "accepted"),
        (errors.TaskPollError("x", task_id="t", status=404), True, "lost"),
        (errors.TaskTimeoutError("x", task_id="t"), True, "accepted"),
        (errors.TaskPollError("x"), True, "accepted"),
        (errors.TaskTimeoutError("x"), True, "accepted"),
        (RuntimeError("a bug"), True, "in_doubt"),
        (RuntimeError("a bug"), False, "not_sent"),
    ],
)
def test_an_error_ends_in_the_state_that_never_pays_twice(error, sent, state):
    assert state_after_error(error, sent=sent) == state


@pytest.mark.parametrize(
    ("ended", "decided", "stands"),
    [
        ("refused", False, "in_doubt"),
        ("refused", True, "in_doubt"),
        ("not_sent", False, "in_doubt"),
        ("not_sent", True, "not_sent"),
        ("in_doubt", True, "in_doubt"),
        ("accepted", False, "accepted"),
        ("failed", False, "failed"),
        ("done", False, "done"),
    ],
)
def test_what_is_in_doubt_stays_so_unless_a_second_sending_was_accepted(ended, decided, stands):
    assert keep_doubt(ended, decided=decided) == stands
    assert may_move("sending", stands)


def test_any_error_that_says_so_leaves_the_item_in_doubt():
    error = errors.APIConnectionError("x")
    error.in_doubt = True
    assert state_after_error(error, sent=True) == "in_doubt"


def test_an_error_after_acceptance_leaves_the_item_accepted():
    assert state_after_error(RuntimeError("a bug"), sent=True, task_id="t-1") == "accepted"


def test_a_done_item_never_moves():
    assert [after for after in STATES if may_move("done", after)] == ["done"]
    assert not may_move("accepted", "not_sent")
    assert not may_move("accepted", "sending")


def test_what_was_paid_for_is_never_sent_again_and_nothing_is_sent_unnoticed():
    assert list_sources("intent", "sending") == ("not_sent", "refused", "failed", "in_doubt")
    assert list_sources("task", "accepted") == ("sending", "accepted")
    assert list_sources("ending", "in_doubt") == ("sending",)
    assert list_sources("ending", "done") == ("sending", "accepted", "lost")
    assert list_sources("ending", "sending") == ()


def test_a_crash_moves_what_the_table_lets_it_move():
    for state in STATES:
        moved = state_after_crash(state)
        assert moved == state or state in list_sources("crash", moved)


def test_a_crash_while_sending_is_in_doubt():
    assert [state_after_crash(state) for state in STATES] == [
        state if state != "sending" else "in_doubt" for state in STATES
    ]


@pytest.mark.parametrize(
    "error",
    [
        errors.AuthenticationError("no", status=401),
        errors.InsufficientCreditsError("no", status=402),
        errors.PermissionDeniedError("no", status=403),
        errors.JournalError("full"),
    ],
)
def test_a_wall_stops_the_batch_at_once(error):
    assert error.message in StopRule().judge(error)


def test_what_stops_a_batch_is_said_in_words():
    rule = StopRule(2)
    for _ in range(2):
        told = rule.judge(errors.NotFoundError("no such model", status=404))
    assert told == "2 identical refusals in a row: no such model"
    for _ in range(2):
        told = rule.judge(errors.APIConnectionError("refused", host="x:1"))
    assert told == "2 identical failures to connect in a row: refused"


def test_one_refusal_is_no_row_not_even_the_first_nor_one_after_something_else():
    rule = StopRule(2)
    wrong = errors.NotFoundError("model not found", status=404)
    assert rule.judge(wrong) is None
    assert rule.judge(errors.OutcomeUnknownError("lost")) is None
    assert rule.judge(wrong) is None
    assert rule.judge(errors.UnprocessableEntityError("no", status=422)) is None
    assert rule.judge(errors.BadRequestError("no", status=422)) is None


def test_moderation_never_stops_a_batch():
    rule = StopRule(2)
    assert not any(rule.judge(errors.ContentPolicyError("no", status=403)) for _ in range(50))


def test_identical_refusals_in_a_row_stop_a_batch():
    rule = StopRule(3)
    wrong = errors.NotFoundError("model not found", status=404)
    assert [bool(rule.judge(wrong)) for _ in range(3)] == [False, False, True]


def test_a_gateway_that_cannot_be_reached_stops_a_batch_in_the_end():
    rule = StopRule(2)
    assert not rule.judge(errors.APIConnectionError("refused", host="x:1"))
    assert rule.judge(errors.APIConnectionError("refused", host="x:1"))


def test_a_success_or_another_refusal_starts_the_count_again():
    rule = StopRule(2)
    wrong = errors.NotFoundError("model not found", status=404)
    assert not rule.judge(wrong)
    rule.note_success()
    assert not rule.judge(wrong)
    assert not rule.judge(errors.BadRequestError("bad", status=400))
    assert not rule.judge(wrong)


def test_counts_hold_every_item_once_and_what_is_still_sending_as_in_doubt():
    counts = Counts()
    for number, state in enumerate(STATES, 1):
        counts.count(state, number)
    counts.count("done")
    numbers = dict(zip(STATES, range(1, 10), strict=True))
    summary = counts.summarise(cost=1.5, cost_in_doubt=0.5, unmet=100, stopped="why", elapsed=2.0)
    assert summary == BatchSummary(
        done=numbers["done"] + 1,
        refused=numbers["refused"],
        failed=numbers["failed"],
        accepted=numbers["accepted"],
        in_doubt=numbers["in_doubt"] + numbers["sending"],
        not_sent=numbers["not_sent"] + 100,
        lost=numbers["lost"],
        cancelled=numbers["cancelled"],
        cost=1.5,
        cost_in_doubt=0.5,
        stopped="why",
        elapsed=2.0,
    )
    assert (Counts().cost, Counts().unknown) == (0, 0)
    assert Counts().counts == dict.fromkeys(STATES, 0)


def test_a_failure_is_plain_data():
    failure = describe_failure(errors.BadRequestError("bad", status=400, request_id="r-1", code="x"))
    assert failure == Failure(type="BadRequestError", message="bad", status=400, request_id="r-1", code="x")
    assert describe_failure(errors.OutcomeUnknownError("lost")).in_doubt
    bug = describe_failure(ValueError("k" * 3000))
    assert bug == Failure(type="ValueError", message="k" * 2000)
