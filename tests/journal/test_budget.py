"""The cap of a batch: never exceeded, whatever happens in whatever order."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given, strategies as st

from videorouter.batch.prices import Prices
from videorouter.errors import ConfigurationError, InvalidRequestError
from videorouter.journal.budget import Budget, PriceCorrection, check_budget, find_price, to_dollars, to_micros


@given(
    cap=st.integers(0, 3_000_000),
    steps=st.lists(
        st.tuples(st.integers(0, 900_000), st.sampled_from(["hold", "release", "confirm", "cheaper", "doubt"]))
    ),
)
def test_no_order_of_events_exceeds_the_cap(cap, steps):
    budget = Budget(to_dollars(cap))
    held: list[int] = []
    for amount, step in steps:
        if step == "hold":
            if budget.reserve(amount):
                held.append(amount)
        elif held:
            reserved = held.pop()
            if step == "release":
                budget.release(reserved)
            elif step == "confirm":
                budget.confirm(reserved, reserved, None)
            elif step == "cheaper":
                budget.confirm(reserved, reserved, to_dollars(reserved // 2))
            else:
                budget.doubt(reserved)
        assert budget.committed <= cap
        assert budget.reserved == sum(held)


def test_a_million_small_prices_add_up_to_the_cent():
    budget = Budget()
    price = to_micros(0.1)
    for _ in range(10_000):
        budget.reserve(price)
        budget.confirm(price, price, None)
    assert to_dollars(budget.confirmed) == 1000.0


def test_the_gateways_cost_replaces_the_reservation():
    budget = Budget(1.0)
    assert budget.reserve(to_micros(0.9))
    assert not budget.reserve(to_micros(0.2))
    assert budget.confirm(to_micros(0.9), to_micros(0.9), 0.6111) == 0.6111
    assert budget.reserve(to_micros(0.2))


def test_every_dollar_is_held_confirmed_or_unknown():
    budget = Budget(10.0)
    assert all(budget.reserve(1_000_000) for _ in range(6))
    assert budget.reserved == 6_000_000
    assert [budget.doubt(1_000_000), budget.doubt(1_000_000)] == [1.0, 1.0]
    assert [budget.confirm(1_000_000, 1_000_000, 0.25), budget.confirm(1_000_000, 1_000_000, 0.5)] == [0.25, 0.5]
    assert budget.confirm(1_000_000, 500_000, None) == 0.5
    assert (budget.reserved, budget.confirmed, budget.unknown, budget.left) == (1_000_000, 1_250_000, 2_000_000, 5.75)


def test_what_earlier_runs_spent_counts_against_the_cap():
    budget = Budget(10.0)
    budget.reserve(1)
    for _ in range(2):
        budget.carry_over(reserved=0.5, confirmed=1.0, unknown=2.0)
    assert (budget.reserved, budget.confirmed, budget.unknown) == (1_000_001, 2_000_000, 4_000_000)
    assert budget.left == 2.999999


def test_a_cap_can_be_spent_to_its_last_millionth():
    budget = Budget(1.0)
    assert budget.reserve(1_000_000)
    assert not budget.reserve(1)
    assert budget.left == 0


def test_a_replayed_key_takes_what_it_cost_out_of_the_unknown_once_and_never_below_nothing():
    budget = Budget()
    budget.carry_over(reserved=0.0, confirmed=0.0, unknown=3.0)
    budget.clear_unknown(1.0)
    assert budget.unknown == 2_000_000
    budget.clear_unknown(5.0)
    assert budget.unknown == 0


def test_a_model_that_cost_more_than_its_price_is_held_at_what_it_cost_from_then_on():
    correction = PriceCorrection()
    correction.note("m", 1_200_000, 3.2)
    correction.note("m", 2_400_000, 3.2)
    assert correction.correct("m", 1_200_000) == 3_200_000
    assert correction.correct("m", 600_000) == 1_600_000
    assert correction.correct("other", 1_200_000) == 1_200_000


@pytest.mark.parametrize(("priced", "cost"), [(1_200_000, 0.4), (1_200_000, None), (None, 3.2)])
def test_a_price_that_was_enough_or_unknown_is_held_as_it_is(priced, cost):
    prices = Prices(1.2, needed=True)
    prices.learn("m", priced, cost)
    assert prices.correct("m", 1_200_000) == 1_200_000


@given(st.lists(st.tuples(st.integers(1, 5_000_000), st.integers(0, 9_000_000))))
def test_what_is_held_is_never_less_than_the_price_nor_than_what_the_like_has_cost(told):
    correction = PriceCorrection()
    for priced, cost in told:
        correction.note("m", priced, to_dollars(cost))
        assert correction.correct("m", priced) >= max(priced, cost)


def test_a_silent_gateway_costs_the_price_however_much_was_held():
    budget = Budget()
    budget.reserve(3_200_000)
    assert budget.confirm(3_200_000, 1_200_000, None) == 1.2
    assert (budget.reserved, budget.confirmed) == (0, 1_200_000)


def test_a_cap_without_a_price_is_refused():
    with pytest.raises(ConfigurationError, match="needs a price"):
        check_budget(10.0, None)


@pytest.mark.parametrize(
    ("cap", "price"),
    [(-1, 1.0), (float("nan"), 1.0), (1e308, 1.0), (10**400, 1.0), (True, 1.0), (1.0, -1), (1.0, {"m": "x"})],
)
def test_a_cap_or_price_that_is_no_money_is_refused(cap, price):
    with pytest.raises(ConfigurationError, match="must be US dollars, 0 or more, not"):
        check_budget(cap, price)


@pytest.mark.parametrize(
    ("cap", "price"),
    [
        (0, {"m": 0}),
        (1e12, 1e12),
        (None, 1.0),
        (None, None),
        (1.0, {"m": 1}),
        (1.0, lambda _: None),
        (None, {"*": 0.5}),
    ],
)
def test_a_cap_and_a_price_that_can_be_kept_are_taken(cap, price):
    check_budget(cap, price)


@pytest.mark.parametrize(
    ("price", "micros"), [(0.0000001, 1), (0.1 + 0.2, 300_000), (1.0000001, 1_000_001), ({"m": 0}, 0)]
)
def test_a_price_is_rounded_up_to_a_millionth_but_not_for_the_noise_of_floats(price, micros):
    assert find_price(price, {"model": "m"}, needed=True) == micros


@pytest.mark.parametrize(
    ("price", "micros"),
    [
        (0.4, 400_000),
        ({"m": 1.5}, 1_500_000),
        ({"*": 2}, 2_000_000),
        (lambda fields: len(fields["prompt"]) / 10, 300_000),
    ],
)
def test_a_price_is_a_number_a_table_or_a_function(price, micros):
    assert find_price(price, {"model": "m", "prompt": "abc"}, needed=True) == micros


@pytest.mark.parametrize(
    ("price", "told"),
    [
        ({"other": 1}, "has no entry for model 'm'"),
        (lambda _: None, "function gave no price"),
        (lambda _: -2, "0 or more, not -2"),
        (lambda _: float("inf"), "0 or more, not inf"),
    ],
)
def test_a_request_without_a_price_is_not_sent_under_a_cap(price, told):
    with pytest.raises(InvalidRequestError, match=told):
        find_price(price, {"model": "m"}, needed=True)


def test_without_a_cap_an_unknown_price_is_nothing():
    assert find_price({"other": 1}, {"model": "m"}, needed=False) is None
    assert find_price(None, {"model": "m"}, needed=False) is None


@pytest.mark.parametrize("price", [0, 0.0, -0.0, {"*": 0}, {"m": 1.0, "*": 0}])
def test_a_price_of_0_is_refused_unless_it_is_given_by_name(price):
    for cap in (None, 1.0):
        with pytest.raises(ConfigurationError, match="counts only for a model that it is given to by name"):
            check_budget(cap, price)


def test_a_function_that_says_0_does_not_know_the_price():
    assert find_price(lambda _: 0, {"model": "m"}, needed=False) is None
    with pytest.raises(InvalidRequestError, match="came out as 0"):
        find_price(lambda _: 0, {"model": "m"}, needed=True)


def test_a_model_that_was_free_and_costs_is_held_at_what_it_cost_from_then_on():
    correction = PriceCorrection()
    correction.note("m", 0, 0.4)
    correction.note("m", 0, 0.3)
    assert (correction.correct("m", 0), correction.correct("other", 0)) == (400_000, 0)


def test_money_may_be_a_decimal():
    check_budget(Decimal("20.00"), {"veo": Decimal("1.20")})
    assert find_price({"veo": Decimal("1.20")}, {"model": "veo"}, needed=True) == 1_200_000
    with pytest.raises(ConfigurationError, match="max_cost must be US dollars"):
        check_budget(Decimal("NaN"), 1.2)
