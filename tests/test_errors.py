"""Errors carry plain facts; what a lower floor knew is never overwritten."""

import pytest

from videorouter import errors
from videorouter.errors import APIStatusError, OutcomeUnknownError, RateLimitError, VideoRouterError


def test_facts_are_attributes_and_what_is_not_given_is_its_default():
    error = RateLimitError("slow down", status=429, retry_after=2.5)
    assert (error.message, error.status, error.retry_after, error.attempts) == ("slow down", 429, 2.5, 0)
    assert error.facts == {"status": 429, "retry_after": 2.5}


def test_a_fact_that_nobody_knows_is_refused():
    with pytest.raises(TypeError, match="colour"):
        VideoRouterError("what", colour="red")


def test_a_higher_floor_fills_in_and_never_overwrites():
    error = OutcomeUnknownError("lost", request_id="r-1")
    error.add(request_id="r-2", task_id="t-1", model=None)
    assert error.facts == {"request_id": "r-1", "task_id": "t-1"}


def test_only_an_unknown_outcome_is_in_doubt_by_itself():
    tree = [thing for thing in vars(errors).values() if isinstance(thing, type) and issubclass(thing, VideoRouterError)]
    assert [cls for cls in tree if cls("what").in_doubt] == [OutcomeUnknownError]


def test_errors_are_equal_by_class_message_and_facts():
    assert RateLimitError("a", status=429) == RateLimitError("a", status=429)
    assert RateLimitError("a", status=429) != RateLimitError("a", status=503)
    assert RateLimitError("a") != VideoRouterError("a")


@pytest.mark.parametrize(
    ("cls", "standard"),
    [
        (errors.ConfigurationError, ValueError),
        (errors.InvalidRequestError, ValueError),
        (errors.DeadlineExceededError, TimeoutError),
        (errors.TaskTimeoutError, TimeoutError),
    ],
)
def test_some_are_what_python_calls_them_too(cls, standard):
    assert issubclass(cls, standard)


def test_equal_errors_are_one_in_a_set_and_stay_there_when_a_fact_is_added():
    first, second = (RateLimitError("Slow down.", status=429) for _ in range(2))
    assert {first, second} == {first}
    known = {first}
    first.add(elapsed=1.0)
    assert first in known
    assert len({first, RateLimitError("Slower."), APIStatusError("Slow down.", status=429)}) == 3
