"""What each state of a batch item means, and what stops a batch."""

from __future__ import annotations

import pytest

from videorouter import errors
from videorouter.rules.ledger import (
    STATES,
    StopRule,
    check_retry,
    decide_resumption,
    describe_failure,
    digest_request,
    judge_error,
    keep_doubt,
    may_move,
    name_item,
    read_crash,
)


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
    ]


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
        (errors.TaskTimeoutError("x", task_id="t"), True, "accepted"),
        (RuntimeError("a bug"), True, "in_doubt"),
        (RuntimeError("a bug"), False, "not_sent"),
    ],
)
def test_an_error_ends_in_the_state_that_never_pays_twice(error, sent, state):
    assert judge_error(error, sent=sent) == state


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


def test_an_error_after_acceptance_leaves_the_item_accepted():
    assert judge_error(RuntimeError("a bug"), sent=True, task_id="t-1") == "accepted"


def test_a_done_item_never_moves():
    assert [after for after in STATES if may_move("done", after)] == ["done"]
    assert not may_move("accepted", "not_sent")
    assert not may_move("accepted", "sending")


def test_a_crash_while_sending_is_in_doubt():
    assert [read_crash(state) for state in STATES] == [state if state != "sending" else "in_doubt" for state in STATES]


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
    assert StopRule().judge(error)


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


def test_the_same_body_is_another_request_as_an_edit():
    assert digest_request("generate", b"{}") != digest_request("edit", b"{}")
    assert digest_request("generate", b"{}") == digest_request("generate", b"{}")
    assert name_item("ab", 4) == "ab-4"


def test_a_failure_is_plain_data():
    failure = describe_failure(errors.BadRequestError("bad", status=400, request_id="r-1", code="x"))
    assert (failure.type, failure.status, failure.request_id, failure.code) == ("BadRequestError", 400, "r-1", "x")
    assert describe_failure(KeyError("k")).type == "KeyError"
