"""What of a queue is paused, and when one job may ask again."""

from __future__ import annotations

import pytest

from videorouter.errors import (
    APIConnectionError,
    AuthenticationError,
    ContentPolicyError,
    InsufficientCreditsError,
    OutcomeUnknownError,
    UnprocessableEntityError,
)
from videorouter.jobs.pauses import PAUSES, Pauses


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.mark.parametrize("error", [AuthenticationError, InsufficientCreditsError, APIConnectionError])
def test_a_wall_pauses_all_and_one_job_at_a_time_tests_it_ever_less_often(clock, error):
    pauses = Pauses(20, clock)
    pauses.note_error("ann", "m", error("no"))
    pauses.note_error("bob", "n", error("no"))  # sent before: it puts nothing off
    for wait in (*PAUSES, PAUSES[-1]):
        assert pauses.find_room("m") == (0, {})
        clock.now += wait
        assert pauses.find_room("m") == (1, {})
        pauses.begin("ann", "m")
        assert pauses.find_room("n") == (0, {})
        pauses.note_error("ann", "m", error("no"))
        pauses.end("ann", "m")
    pauses.note_success("bob", "n")
    assert pauses.find_room("m") == (None, {})
    assert pauses.reasons == {}


def test_equal_refusals_pause_their_owner_and_model_alone(clock):
    pauses = Pauses(3, clock)
    for _ in range(3):
        pauses.note_error("ann", "m", UnprocessableEntityError("no", status=422))
        pauses.note_error("bob", "m", UnprocessableEntityError("no", status=422) if _ else ContentPolicyError("no"))
    assert pauses.find_room("m") == (None, {"ann": 0})
    assert pauses.find_room("n") == (None, {})
    assert list(pauses.reasons) == ["ann m"]


def test_outcomes_in_doubt_of_one_second_count_once(clock):
    pauses = Pauses(3, clock)
    for _ in range(10):
        pauses.note_doubt("ann", "m", OutcomeUnknownError("?"))
    assert pauses.reasons == {}
    for _ in range(2):
        clock.now += 1
        pauses.note_doubt("ann", "m", OutcomeUnknownError("?"))
    assert pauses.find_room("m") == (None, {"ann": 0})


def test_a_test_that_says_nothing_puts_the_next_one_off(clock):
    pauses = Pauses(20, clock)
    pauses.note_error("ann", "m", AuthenticationError("no"))
    clock.now += PAUSES[0]
    pauses.begin("ann", "m")
    pauses.end("ann", "m")  # it was cancelled, say
    assert pauses.find_room("m") == (0, {})
    assert pauses.left == PAUSES[1]
