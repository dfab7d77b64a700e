"""Reads the catalogue and the balance, and remembers the catalogue for a few minutes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from videorouter.call.model_list import pick_models, read_balance, read_models
from videorouter.errors import UnexpectedResponseError

if TYPE_CHECKING:
    from videorouter.call.caller import Caller
    from videorouter.models import Balance, Model

FRESH = 300.0
"""Seconds for which a catalogue counts as fresh."""


class Catalog:
    """The models of one gateway, read at most once in five minutes."""

    def __init__(self) -> None:
        self._models: tuple[Model, ...] = ()
        self._until = 0.0

    async def read(self, caller: Caller, *, category: str | None, refresh: bool) -> tuple[Model, ...]:
        """The rows of a category, from memory while they are fresh.

        Raises:
            VideoRouterError: The gateway refused, or could not be reached.
            UnexpectedResponseError: The answer has no list of models.
        """
        if refresh or time.monotonic() >= self._until:
            settings = caller.settings
            url = f"{settings.models_base_url}/models"
            response = await caller.get(url, deadline=time.monotonic() + settings.timeout)
            models = read_models(response.body)
            if models is None:
                msg = f"{url} answered without a list of models. Check models_base_url."
                raise UnexpectedResponseError(msg, **caller.evidence(response))
            self._models = models
            self._until = time.monotonic() + FRESH
        return pick_models(self._models, category)


async def read_account(caller: Caller) -> Balance:
    """What is left on the account.

    Raises:
        VideoRouterError: The gateway refused, or could not be reached.
        UnexpectedResponseError: The answer names no amount.
    """
    settings = caller.settings
    url = f"{settings.models_base_url}/balance"
    response = await caller.get(url, deadline=time.monotonic() + settings.timeout)
    balance = read_balance(response.body)
    if balance is None:
        msg = f"{url} answered without a balance. Check models_base_url; the vendor may not offer it for this key."
        raise UnexpectedResponseError(msg, **caller.evidence(response))
    return balance
