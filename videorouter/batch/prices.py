"""What requests cost: the caller's price, corrected by what the gateway has charged in this run and in those before it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from videorouter.errors import ConfigurationError
from videorouter.journal.budget import PriceCorrection, find_price, to_dollars
from videorouter.journal.money import FREE, read_costs, read_unpriced, record_prices

if TYPE_CHECKING:
    from videorouter.call.requests import Submission
    from videorouter.journal.journal import Journal

_decode = msgspec.json.Decoder(dict[str, Any]).decode


class Prices:
    """The prices of one batch, in millionths of a dollar. ``needed``: there is a cap, so that each request must have one."""

    __slots__ = ("_correction", "_free", "_needed", "_price")

    def __init__(self, price: Any, *, needed: bool) -> None:
        self._price = price
        self._needed = needed
        self._free = [model for model, cost in price.items() if cost == 0] if isinstance(price, Mapping) else []
        self._correction = PriceCorrection()

    def find(self, submission: Submission) -> int | None:
        """Return the price of a request; ``None`` where nobody knows."""
        if self._price is None:
            return None
        fields: dict[str, Any] = _decode(submission.body) if callable(self._price) else {"model": submission.model}
        return find_price(self._price, fields, needed=self._needed)

    def correct(self, model: str | None, priced: int | None) -> int:
        """Return how much to reserve for a price: at least what the like has cost."""
        return 0 if priced is None else self._correction.correct(str(model), priced)

    def learn(self, model: str | None, priced: int | None, cost: float | None) -> None:
        """Learn from what the gateway charged, in US dollars."""
        if priced is not None and cost is not None:
            self._correction.note(str(model), priced, cost)

    def is_free(self, model: str | None) -> bool:
        """Whether the price of a model is 0, given by its name."""
        return model in self._free

    def quote(self, model: str | None, request: str | None) -> int | None:
        """Return the price of an earlier request, as far as the journal still has it; ``None`` where nobody knows."""
        if self._price is None:
            return None
        try:
            if not callable(self._price):
                return find_price(self._price, {"model": model}, needed=False)
            return None if request is None else find_price(self._price, _decode(request), needed=False)
        except Exception:  # noqa: BLE001  a function of the caller's that does not know an earlier request
            return None

    async def take_up(self, journal: Journal) -> None:
        """Learn from what earlier runs were charged, and price what they bought without a price.

        Raises:
            ConfigurationError: There is a cap, and some of it has no price now either.
        """
        if self._price is None:
            return
        if isinstance(self._price, Mapping):
            await journal.note(FREE, json.dumps(self._free))
        async for past in read_costs(journal, each=callable(self._price)):
            # Where its price is not known any more, what it cost is the least that is held for its model.
            self.learn(past.model, self.quote(past.model, past.request) or 0, past.cost)
        without = 0
        async for page in read_unpriced(journal):
            prices = {row: self.quote(row.model, row.request) for row in page}
            known = {
                row: to_dollars(self.correct(row.model, priced)) for row, priced in prices.items() if priced is not None
            }
            without += len(page) - len(known)
            await record_prices(journal, known)
        if without and self._needed:
            raise ConfigurationError(
                f"max_cost cannot be kept: {without:,} earlier requests of the journal {journal.path} were bought, or may have "
                "been, without a price, and price= has none for them. Nothing was sent. Name the price of each of their models "
                '(price={"veo3-fast": 1.2}, in a shell --price veo3-fast=1.20), or leave max_cost out.'
            )
