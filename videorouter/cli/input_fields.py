"""The documented fields of an entry, and names that are hardly meant as they are spelt."""

from __future__ import annotations

import inspect
from difflib import get_close_matches
from typing import TYPE_CHECKING

from videorouter.client import AsyncVideoRouter

if TYPE_CHECKING:
    from collections.abc import Iterable

_OWN = frozenset({"id", "edit_of", "video", "video_id", "then", "meta"})


def find_known_fields() -> frozenset[str]:
    """The documented fields of an entry."""
    return (_OWN | inspect.signature(AsyncVideoRouter.submit).parameters.keys()) - {"self", "fields"}


def find_typos(names: Iterable[str], known: Iterable[str]) -> list[tuple[str, str]]:
    """Names that look like known ones, each with the one that it looks like."""
    fields = sorted(known)
    strange = sorted(set(names) - set(fields))
    close = {name: get_close_matches(name.lower(), fields, 1, 0.8) for name in strange}
    return [(name, found[0]) for name, found in close.items() if found]
