"""When a task is looked at next, and when no more."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from videorouter.call.polling import CAP, must_stop, next_interval, pause_after_error


def test_looks_come_further_apart_up_to_a_cap():
    pauses = [next_interval(polls, 0.0, 0.5) for polls in range(40)]
    assert pauses[0] == pytest.approx(0.25)
    assert pauses == sorted(pauses)
    assert pauses[-1] == CAP == 10.0
    assert sum(pauses[:12]) < 40


@given(st.integers(0, 10**9), st.floats(0, 1e9), st.floats(0, 1))
def test_every_pause_is_finite_and_jittered(polls, elapsed, dice):
    assert 0.2 <= next_interval(polls, elapsed, dice) <= 12.001


def test_dice_spread_the_looks():
    assert next_interval(20, 0.0, 0.0) == pytest.approx(8.0)
    assert next_interval(20, 0.0, 1.0) == pytest.approx(12.0)


@given(st.integers(1, 10**6), st.floats(0, 1))
def test_a_failed_look_is_repeated_within_ten_seconds(errors, dice):
    assert 0.25 <= pause_after_error(errors, dice) <= 10.0


def test_failed_looks_back_off():
    assert pause_after_error(1, 1.0) == 0.5
    assert pause_after_error(2, 1.0) == pytest.approx(0.8)
    assert pause_after_error(3, 0.0) == pytest.approx(0.64)
    assert pause_after_error(99, 1.0) == 10.0


def test_what_the_gateway_asks_for_is_kept():
    assert pause_after_error(1, 0.0, 42.0) == 42.0
    assert pause_after_error(1, 1.0, 1.0) == 1.5
    assert pause_after_error(1, 1.0, 10.0) == 12.0


@pytest.mark.parametrize("status", [401, 403])
def test_a_key_that_is_not_let_in_ends_the_looking(status):
    assert must_stop(status, 0.0)


@pytest.mark.parametrize("status", [None, 400, 402, 408, 409, 410, 422, 429, 500, 502, 503, 504, 524])
def test_nothing_else_does(status):
    assert not must_stop(status, 1e9)


def test_a_404_does_after_a_minute():
    assert not must_stop(404, 59.99)
    assert must_stop(404, 60.0)
