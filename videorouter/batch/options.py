"""What a batch was asked to do, checked before anything is sent. This file starts nothing."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from videorouter.call.requests import Verb
from videorouter.config import check_count
from videorouter.downloads.names import DEFAULT_NAME, check_template
from videorouter.errors import ConfigurationError
from videorouter.journal.budget import check_budget
from videorouter.journal.states import STOP_AFTER, VERDICTS, check_retry
from videorouter.models import BatchItem, ItemState

if TYPE_CHECKING:
    from videorouter.config import Settings

Doubt: TypeAlias = str | Callable[[BatchItem], "str | Awaitable[str]"]
_NOT_HERE = frozenset(
    {"models", "fallback_on_failure", "idempotency_key", "prompt", "id", "then", "edit_of", "video", "video_id"}
)
MOST_AT_ONCE = 1000


class BatchOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options of one batch, checked. Money is in US dollars."""

    verb: Verb
    common: dict[str, Any]
    limit: int
    ordered: bool = False
    journal: Path | None = None
    save_to: Path | None = None
    name: str = DEFAULT_NAME
    max_cost: float | None = None
    price: Any = None
    doubt: Any = "report"
    deduplicate: bool = False
    stop_after: int = STOP_AFTER
    retry: frozenset[ItemState] = frozenset()


def check_options(settings: Settings, verb: Verb, given: Mapping[str, Any]) -> BatchOptions:
    """Check what a batch was asked to do.

    Args:
        settings: The client's.
        verb: What an entry asks for that names no video.
        given: Options of ``generate_many`` by name; what is none of them belongs to every request.

    Raises:
        ConfigurationError: Something cannot be used; nothing was sent.
    """
    common = dict(given)

    def take(name: str, default: Any = None) -> Any:
        return common.pop(name, default)

    max_cost, price, doubt = take("max_cost"), take("price"), take("on_outcome_unknown", "report")
    concurrency, journal, save_to = take("concurrency"), take("journal"), take("save_to")
    ordered, deduplicate = bool(take("ordered", False)), bool(take("deduplicate", False))
    name = take("name") or DEFAULT_NAME
    stop_after, retry = take("stop_after", STOP_AFTER), take("retry", ())
    check_budget(max_cost, price)
    wrong = _NOT_HERE & common.keys()
    if wrong:
        raise ConfigurationError(f"A batch takes no {', '.join(sorted(wrong))} for all its entries.")
    if not callable(doubt) and doubt not in VERDICTS:
        raise ConfigurationError(
            "on_outcome_unknown must be 'report', 'resend' (you accept a second charge), 'replay' (the gateway honours "
            f"idempotency keys) or a function of the item that gives one of these, not {doubt!r}."
        )
    if doubt == "replay":
        check_replay(settings)
    most = settings.max_concurrency or MOST_AT_ONCE
    return BatchOptions(
        verb=verb,
        common={field: value for field, value in common.items() if value is not None},
        limit=most if concurrency is None else min(most, check_count(concurrency, "concurrency", least=1)),
        ordered=ordered,
        journal=None if journal is None else _check_path(journal, "journal"),
        save_to=None if save_to is None else _check_path(save_to, "save_to"),
        name=check_template(name),
        max_cost=max_cost,
        price=price,
        doubt=doubt,
        deduplicate=deduplicate,
        stop_after=check_count(stop_after, "stop_after", least=1),
        retry=check_retry(retry),
    )


def check_replay(settings: Settings) -> None:
    """Refuse to replay on a gateway of which nobody has said that it honours keys.

    Raises:
        ConfigurationError: Nobody has.
    """
    if settings.idempotency != "honoured":
        raise ConfigurationError(
            "on_outcome_unknown='replay' sends the same key again, which is only safe where the gateway honours it: "
            "declare that with AsyncVideoRouter(idempotency='honoured'), or choose 'report' or 'resend'."
        )


def _check_path(value: str | os.PathLike[str], name: str) -> Path:
    try:
        text: object = os.fspath(value)
    except TypeError as error:
        raise ConfigurationError(f"{name} must be a path, not {type(value).__name__}.") from error
    if not isinstance(text, str) or not text.strip() or "\0" in text:
        raise ConfigurationError(f"{name} must be a path, not {value!r}.")
    return Path(text)
