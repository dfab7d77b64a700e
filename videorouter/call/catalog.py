"""Reads the catalogue and the balance, leniently, and remembers the catalogue for a few minutes.

Only ``id`` is required of a row, and a row without one is left out. No request is checked against the catalogue: a model
that is not listed passes through like any other.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

from videorouter.call.caller import read_json
from videorouter.errors import UnexpectedResponseError
from videorouter.lenient_json import BROKEN_JSON, decode_json
from videorouter.models import Balance, Model

if TYPE_CHECKING:
    from videorouter.call.caller import Caller

CATALOG_SECONDS = 300.0
"""Seconds for which a catalogue counts as fresh."""


class Catalog:
    """The models of one gateway, read at most once in five minutes."""

    def __init__(self) -> None:
        self._models: tuple[Model, ...] = ()
        self._until = 0.0

    async def read(self, caller: Caller, *, category: str | None, refresh: bool) -> tuple[Model, ...]:
        """Return the rows of a category, from memory while they are fresh."""
        if refresh or time.monotonic() >= self._until:
            settings = caller.settings
            url = f"{settings.models_base_url}/models"
            response = await caller.get(url, deadline=time.monotonic() + settings.timeout, parse=read_json)
            models = read_models(response.body)
            if models is None:
                msg = f"{url} answered without a list of models. Check models_base_url."
                raise UnexpectedResponseError(msg, **caller.evidence(response))
            self._models = models
            self._until = time.monotonic() + CATALOG_SECONDS
        return pick_models(self._models, category)


async def read_account(caller: Caller) -> Balance:
    """Read the account's balance."""
    settings = caller.settings
    url = f"{settings.models_base_url}/balance"
    response = await caller.get(url, deadline=time.monotonic() + settings.timeout, parse=read_json)
    balance = read_balance(response.body)
    if balance is None:
        msg = f"{url} answered without a balance. Check models_base_url; the vendor may not offer it for this key."
        raise UnexpectedResponseError(msg, **caller.evidence(response))
    return balance


def read_models(body: bytes) -> tuple[Model, ...] | None:
    """Read all rows of the catalogue; ``None`` when the answer has no list of models."""
    root = _read(body)
    rows = root.get("data", root.get("models")) if isinstance(root, dict) else root
    if isinstance(rows, dict):
        rows = rows.get("models", rows.get("list"))
    if not isinstance(rows, list):
        return None
    return tuple(model for model in map(_read_row, rows) if model is not None)


def pick_models(models: tuple[Model, ...], category: str | None) -> tuple[Model, ...]:
    """Select the callable rows of one category, or all rows for ``None``.

    A catalogue without any category is returned whole.
    """
    if category is None or not any(model.category for model in models):
        return models
    word = category.lower()
    return tuple(model for model in models if word in (model.category or "").lower() and not model.display_only)


def read_balance(body: bytes) -> Balance | None:
    """Read the account's balance; ``None`` when the answer has no amount."""
    root = _read(body)
    if not isinstance(root, dict):
        return None
    data = root.get("data")
    for place in (root, data if isinstance(data, dict) else {}):
        amount = _number(place.get("credit_balance", place.get("balance")))
        if amount is not None:
            name = place.get("account_name")
            return Balance(credit_balance=amount, account_name=name if isinstance(name, str) else None)
    return None


def _read(body: bytes) -> object:
    try:
        decoded: object = decode_json(body)
    except BROKEN_JSON:
        return None
    return decoded


def _read_row(row: object) -> Model | None:
    if isinstance(row, str) and row:
        return Model(id=row)
    if not isinstance(row, dict) or not isinstance(row.get("id"), str) or not row["id"]:
        return None
    model = Model(
        id=row["id"],
        display_name=_text(row.get("display_name")),
        category=_text(row.get("category_type")),
        min_price=_number(row.get("min_request_price")),
        deprecated=row.get("deprecated") is True,
        display_only=row.get("is_display_only") is True,
    )
    return model.with_extras(raw_=row)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
