"""The money cap of a batch: what is reserved for running requests, confirmed, and perhaps billed.

``reserved + confirmed + unknown`` never exceeds the cap when a request is let through. A price is reserved before a
request is sent; the gateway's own cost replaces the reservation; what ends in doubt stays counted, for it may have been
billed. Sums are kept in whole millionths of a dollar, so that a million items add up to the cent.

This file is pure: it has no clock and no journal.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, TypeGuard

from videorouter.errors import ConfigurationError, InvalidRequestError
from videorouter.plain import Number, as_number

Price: TypeAlias = Number | Mapping[str, Number] | Callable[[Mapping[str, Any]], Number]
MICROS = 1_000_000
_MOST = 1e12
"""The most US dollars that are accepted: a larger number is a mistake."""


def to_micros(dollars: float | None) -> int:
    """Convert US dollars to whole millionths; ``None`` counts as 0."""
    return 0 if dollars is None else round(dollars * MICROS)


def to_dollars(micros: int) -> float:
    """Convert whole millionths to US dollars."""
    return micros / MICROS


class Budget:
    """The money of one batch: dollars at its edge, millionths of a dollar inside."""

    __slots__ = ("cap", "confirmed", "reserved", "unknown")

    def __init__(self, cap: float | None = None) -> None:
        self.cap: int | None = None if cap is None else to_micros(cap)
        self.reserved: int = 0
        self.confirmed: int = 0
        self.unknown: int = 0

    @property
    def committed(self) -> int:
        """The most that may have to be paid, in millionths of a dollar."""
        return self.reserved + self.confirmed + self.unknown

    @property
    def left(self) -> float | None:
        """US dollars until the cap; ``None`` without one."""
        return None if self.cap is None else to_dollars(max(0, self.cap - self.committed))

    def carry_over(self, *, reserved: float, confirmed: float, unknown: float) -> None:
        """Add what earlier runs of the same batch spent, in US dollars."""
        self.reserved += to_micros(reserved)
        self.confirmed += to_micros(confirmed)
        self.unknown += to_micros(unknown)

    def reserve(self, micros: int) -> bool:
        """Reserve money for one request; ``False``, without reserving any, when the cap does not allow it."""
        if self.cap is not None and self.committed + micros > self.cap:
            return False
        self.reserved += micros
        return True

    def release(self, micros: int) -> None:
        """Release the money of a request that was never accepted."""
        self.reserved -= micros

    def confirm(self, reserved: int, priced: int | None, cost: float | None) -> float | None:
        """Confirm the cost of a finished request: the gateway's, else the price; ``None`` when neither is known."""
        self.reserved -= reserved
        if cost is not None:
            self.confirmed += to_micros(cost)
            return cost
        if priced is None:
            return None
        self.confirmed += priced
        return to_dollars(priced)

    def clear_unknown(self, dollars: float) -> None:
        """Remove an unknown amount: a replayed key has shown that it is the request that is now confirmed."""
        self.unknown = max(0, self.unknown - to_micros(dollars))

    def doubt(self, reserved: int) -> float:
        """Keep the money of a request that may have been billed counted; returns US dollars."""
        self.reserved -= reserved
        self.unknown += reserved
        return to_dollars(reserved)


class PriceCorrection:
    """Tracks the highest ratio of a model's cost to its price, so that later reservations cover the real cost.

    Beside a price of 0 there is no ratio: the highest cost itself is then the least that is reserved.
    """

    __slots__ = ("_factors", "_least")

    def __init__(self) -> None:
        self._factors: dict[str, float] = {}
        self._least: dict[str, int] = {}

    def note(self, model: str, priced: int, cost: float) -> None:
        """Record a cost in US dollars beside its price in millionths of a dollar."""
        paid = to_micros(cost)
        if not priced:
            self._least[model] = max(paid, self._least.get(model, 0))
        elif paid > priced * self._factors.get(model, 1.0):
            self._factors[model] = paid / priced

    def correct(self, model: str, priced: int) -> int:
        """Return the reservation for a price, in millionths of a dollar, rounded up."""
        return max(math.ceil(round(priced * self._factors.get(model, 1.0), 3)), self._least.get(model, 0))


def check_budget(max_cost: Number | None, price: Price | None) -> None:
    """Refuse a cap that cannot be kept."""
    cap: object = max_cost
    if cap is not None and not _is_money(cap):
        raise ConfigurationError(f"max_cost must be US dollars, 0 or more, not {max_cost!r}.")
    if max_cost is not None and price is None:
        raise ConfigurationError(
            "max_cost needs a price: the gateway says what a call cost only afterwards, if at all. Pass price= in US "
            'dollars a call, a table such as {"veo3-fast": 1.2}, or a function of the request.'
        )
    if price is None or callable(price):
        return
    prices: list[object] = list(price.values()) if isinstance(price, Mapping) else [price]
    for value in prices:
        if not _is_money(value):
            raise ConfigurationError(f"price must be US dollars, 0 or more, not {value!r}.")
    if (price.get("*") if isinstance(price, Mapping) else price) == 0:
        raise ConfigurationError(
            'A price of 0 counts only for a model that it is given to by name: price={"my-model": 0}. For all models it would '
            "make any cap hold. Leave the price out where it is unknown."
        )


def find_price(price: Price | None, request: Mapping[str, Any], *, needed: bool) -> int | None:
    """Return the price of one request, in millionths of a dollar, rounded up; ``None`` where it has none.

    With ``needed``, a request without a price is refused. 0 is a price only in a table, under the model's own name.
    """
    value: object
    by_name = False
    if isinstance(price, Mapping):
        model = str(request.get("model"))
        by_name = model in price
        value = price.get(model, price.get("*"))
        if value is None and needed:
            raise InvalidRequestError(
                f"The price table has no entry for model {model!r}, and max_cost needs one. Add it, or a '*' entry."
            )
    elif callable(price):
        given: object = price(request)
        value = given
        if value is None and needed:
            raise InvalidRequestError("The price function gave no price for this request, and max_cost needs one.")
    else:
        value = price
    if value is None:
        return None
    if not _is_money(value):
        raise InvalidRequestError(f"The price of a request must be US dollars, 0 or more, not {value!r}.")
    if value == 0 and not by_name:
        if needed:
            raise InvalidRequestError(
                "The price of this request came out as 0, which counts only for a model that it is given to by name, as in "
                'price={"my-model": 0}, and max_cost needs a price.'
            )
        return None
    return math.ceil(round(float(value) * MICROS, 3))


def _is_money(value: object) -> TypeGuard[Number]:
    dollars = as_number(value)
    return dollars is not None and 0 <= dollars <= _MOST
