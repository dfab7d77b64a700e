"""Names of fields that are hardly meant as they are spelt."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def find_typos(names: Iterable[str], known: Iterable[str]) -> list[tuple[str, str]]:
    """Names that look like known ones, each with the one that it looks like."""
    fields = sorted(known)
    strange = sorted(set(names) - set(fields))
    close = {name: get_close_matches(name.lower(), fields, 1, 0.8) for name in strange}
    return [(name, found[0]) for name, found in close.items() if found]
