"""What a success, a refusal and a Retry-After change, on a clock that the test turns."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from videorouter.call.pace import HELD_SECONDS, LONGEST_HOLD, MOST, START, AdaptiveRate, Recent, RecoveryProbe


def succeed(pace, times, now=0.0, used=None):
    for _ in range(times):
        pace.count_success(now, pace.limit if used is None else used)


def test_it_starts_at_16_and_doubles_per_window_until_the_first_refusal():
    pace = AdaptiveRate()
    assert pace.limit == START == 16
    assert HELD_SECONDS == 0.25
    succeed(pace, 16)
    assert pace.limit == 32
    succeed(pace, 32)
    assert pace.limit == 64


def test_after_a_refusal_it_grows_by_one_per_window():
    pace = AdaptiveRate()
    pace.count_refusal(10.0)
    assert pace.limit == pytest.approx(11.2)
    succeed(pace, 12, now=10.0)
    assert 12.1 < pace.limit < 12.4


def test_a_limit_that_nobody_uses_does_not_grow():
    pace = AdaptiveRate()
    succeed(pace, 100, used=7)
    assert pace.limit == 16
    succeed(pace, 1, used=8)
    assert pace.limit == 17


def test_it_shrinks_at_most_once_a_second_and_never_below_one():
    pace = AdaptiveRate()
    for now in (0.0, 0.3, 0.99):
        pace.count_refusal(now)
    assert pace.limit == pytest.approx(16 * 0.7)
    pace.count_refusal(1.0)
    assert pace.limit == pytest.approx(16 * 0.49)
    for second in range(2, 60):
        pace.count_refusal(float(second))
    assert pace.limit == 1


def test_an_overload_shrinks_the_limit_and_leaves_the_rate():
    pace = AdaptiveRate()
    pace.count_overload(0.0)
    assert (pace.limit, pace.rate) == (pytest.approx(11.2), None)
    assert not pace.learning


def test_the_limit_has_an_end():
    pace = AdaptiveRate()
    pace.limit = MOST
    pace.count_success(0.0, 10**9)
    assert pace.limit == MOST


def test_the_rate_starts_at_the_successes_of_the_last_second():
    pace = AdaptiveRate()
    assert pace.rate is None
    for tick in range(40):
        pace.count_success(100 + tick * 0.05, 16)
    pace.count_refusal(102.0)
    assert pace.rate == pytest.approx(19, abs=1.5)


def test_without_any_success_the_rate_starts_at_one():
    pace = AdaptiveRate()
    pace.count_refusal(5.0)
    assert pace.rate == 1.0
    assert pace.find_start() <= 5.0


def test_the_rate_shrinks_at_most_once_per_half_second():
    pace = AdaptiveRate()
    succeed(pace, 30, now=1.0)
    pace.count_refusal(1.0)
    assert pace.rate == 30
    pace.count_refusal(1.4)
    assert pace.rate == 30
    pace.count_refusal(1.5)
    assert pace.rate == 24
    pace.count_refusal(1.9)
    assert pace.rate == 24


def test_the_rate_grows_slowly_with_successes():
    pace = AdaptiveRate()
    succeed(pace, 30, now=1.0)
    pace.count_refusal(1.0)
    now = 1.0
    for _ in range(30):
        now += 1 / 30
        pace.count_success(now, 16)
    assert 30.5 < pace.rate < 33


def test_the_rate_comes_back_quickly_to_where_it_was_refused():
    pace = AdaptiveRate()
    succeed(pace, 30, now=1.0)
    pace.count_refusal(1.0)
    pace.count_refusal(1.6)
    assert pace.rate == 24
    succeed(pace, 20, now=1.7, used=1)
    assert 28 < pace.rate < 31


def test_a_rate_never_more_than_doubles_at_once_and_never_ends():
    pace = AdaptiveRate()
    for second in range(100):
        pace.count_refusal(float(second))
    assert pace.rate == 0.5
    pace.count_success(1000.0, 1)
    assert pace.rate <= 1.0


def test_starts_are_spaced_by_the_rate():
    pace = AdaptiveRate()
    succeed(pace, 10, now=1.0)
    pace.count_refusal(1.0)
    pace.count_start(1.0)
    assert pace.find_start() == pytest.approx(1.05, abs=0.06)
    for _ in range(10):
        pace.count_start(1.0)
    assert pace.find_start() == pytest.approx(2.05, abs=0.06)


def test_growth_speeds_up_with_the_time_since_the_last_refusal():
    pace = AdaptiveRate()
    succeed(pace, 30, now=1.0)
    pace.count_refusal(1.0)
    pace.count_success(1.0, 1)
    assert pace.rate == pytest.approx(30 + 1 / 30)
    pace.rate = 30.0
    pace.count_success(5.0, 1)
    assert pace.rate == pytest.approx(30 + 3 / 30)


def test_a_rate_that_was_allowed_and_never_used_is_forgotten_by_a_refusal():
    pace = AdaptiveRate()
    succeed(pace, 30, now=1.0)
    pace.count_refusal(1.0)
    pace.rate = 1000.0
    succeed(pace, 10, now=9.0)
    pace.count_refusal(9.0)
    assert pace.rate == pytest.approx(16.0)


def test_a_burst_makes_up_for_a_late_timer_and_no_more():
    pace = AdaptiveRate()
    succeed(pace, 10, now=1.0)
    pace.count_refusal(1.0)
    pace.count_start(5.0)
    assert pace.find_start() == pytest.approx(5.05)


def test_without_a_refusal_nothing_waits():
    pace = AdaptiveRate()
    for _ in range(1000):
        pace.count_start(5.0)
    assert pace.find_start() <= 5.0


def test_one_retry_after_holds_all_once():
    pace = AdaptiveRate()
    for _ in range(16):
        pace.count_refusal(10.0, 3.0)
    assert pace.find_start() == 13.0
    pace.count_refusal(10.5, 1.0)
    assert pace.find_start() == 13.0
    pace.count_refusal(10.5, 4.0)
    assert pace.find_start() == 14.5


def test_a_slip_does_not_stop_calls_for_good():
    pace = AdaptiveRate()
    pace.count_refusal(0.0, 1e12)
    assert pace.find_start() == LONGEST_HOLD


def test_recent_counts_the_last_second_only():
    recent = Recent()
    for tick in range(30):
        recent.count(tick * 0.1)
    assert recent.total(2.9) == 10
    assert recent.total(3.45) == 5
    assert recent.total(30.0) == 0


def test_probes_come_further_and_further_apart_until_a_success():
    probing = RecoveryProbe()
    assert (probing.troubled, probing.next_at) == (False, 0.0)
    probing.count_refusal()
    assert probing.troubled
    gaps = []
    for _ in range(8):
        probing.count_probe(100.0)
        gaps.append(probing.next_at - 100.0)
    assert gaps == [1, 2, 4, 8, 16, 30, 30, 30]
    probing.count_success()
    assert (probing.troubled, probing.next_at) == (False, 0.0)
    probing.count_probe(5.0)
    assert probing.next_at == 6.0


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["success", "refusal", "overload", "start"]), st.floats(0, 2), st.none() | st.floats(0, 50)
    )
)


@given(STEPS)
def test_whatever_happens_a_pace_never_stops_and_never_explodes(steps):
    pace = AdaptiveRate()
    now = 0.0
    for what, passed, asked in steps:
        now += passed
        if what == "success":
            pace.count_success(now, 16)
        elif what == "refusal":
            pace.count_refusal(now, asked)
        elif what == "overload":
            pace.count_overload(now)
        elif pace.find_start() <= now:
            pace.count_start(now)
        assert 1 <= pace.limit <= MOST
        assert pace.rate is None or pace.rate >= 0.5
        assert pace.find_start() <= now + max(LONGEST_HOLD, 2.0)
