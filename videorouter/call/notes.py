"""Notes on what some models' fields want, as data. They make a warning before anything is paid and never block.

Sources: the vendor's model pages and public clients that ran against the live gateway. A model that is not named here,
or a note that has gone stale, costs nothing: the request passes through untouched either way.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_SECONDS = re.compile(r"\d+s")


def _wants_seconds(value: object) -> bool:
    return isinstance(value, str) and _SECONDS.fullmatch(value) is not None


def _wants_seedance_text(value: object) -> bool:
    return isinstance(value, str) and (value == "auto" or (value.isdigit() and 4 <= int(value) <= 15))


NOTES: tuple[tuple[re.Pattern[str], str, Callable[[object], bool], str], ...] = (
    (
        re.compile(r"veo-?3\.?1", re.IGNORECASE),
        "duration",
        _wants_seconds,
        'Veo 3.1 takes duration as text such as "4s" or "8s"; other forms were seen to be silently ignored',
    ),
    (
        re.compile(r"seedance-?2", re.IGNORECASE),
        "duration",
        _wants_seedance_text,
        'Seedance 2 takes duration as text from "4" to "15", or "auto"',
    ),
)
_NOTED = frozenset(name for _, name, _, _ in NOTES)
_FAMILY = re.compile(r"veo|sora|seedance|kling|wan|hailuo|runway|luma|pixverse|vidu|hunyuan", re.IGNORECASE)


def find_notes(model: str, fields: Mapping[str, Any], made_by: str | None = None) -> tuple[str, ...]:
    """What to warn of before a request is paid.

    Args:
        model: The model that is asked for.
        fields: The request's fields.
        made_by: For an edit, the model that made the video, where it is known.
    """
    if made_by is None and _NOTED.isdisjoint(fields):
        return ()
    notes = tuple(
        f"{model}: {words}; got {name}={fields[name]!r}."
        for pattern, name, fits, words in NOTES
        if fields.get(name) is not None and pattern.search(model) and not fits(fields[name])
    )
    if made_by is not None and differ_in_family(made_by, model):
        notes += (f"{model}: the gateway edits videos of the same model family only, and {made_by} made this one.",)
    return notes


def find_family(model: str | None) -> str | None:
    """The family that a model id names, where it is known."""
    match = _FAMILY.search(model or "")
    return match.group(0).lower() if match else None


def differ_in_family(one: str | None, other: str | None) -> bool:
    """Whether two model ids are known to be of different families: the gateway edits within one family only."""
    first, second = find_family(one), find_family(other)
    return first is not None and second is not None and first != second
