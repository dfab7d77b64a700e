"""JSON lines and JSON lists of an input: objects of fields, and quoted prompts."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TextIO

from videorouter.cli.input_text import BadRow, Row, find_fault, read_lines, say_too_long
from videorouter.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator


def read_json_lines(file: TextIO, name: str) -> Iterator[Row | BadRow]:
    """An object or a quoted prompt a line."""
    begun = False
    for number, line in read_lines(file, name):
        place = f"line {number}"
        text = line.strip() if line is not None else None
        if text is None:
            yield BadRow(place, say_too_long())
        elif text:
            if not begun and text in {"[", "[{", "{"}:
                raise ConfigurationError(
                    f"{name}, {place}: JSON lines have a whole object on each line, and this one is {text!r}. A JSON "
                    "list is read from a .json file, or with --format json."
                )
            begun = True
            yield _read_line(text, place)


def read_json_list(file: TextIO, name: str) -> Iterator[Row | BadRow]:
    """A list of objects and prompts. It is read whole."""
    text = "".join(line for _, line in read_lines(file, name, most=-1) if line is not None)
    try:
        values = _decode(text)
    except (ValueError, RecursionError) as error:
        lines = " One object a line is JSON lines: name it .jsonl, or pass --format jsonl."
        hint = lines if "Extra data" in str(error) else ""
        raise ConfigurationError(f"{name} is no JSON: {error}.{hint}") from error
    if isinstance(values, dict):
        lists = [key for key, value in values.items() if isinstance(value, list)]
        found = f" Its keys {', '.join(lists[:8])} hold lists: save one of them as a file." if lists else ""
        raise ConfigurationError(f"{name} must hold a list of prompts or objects, not one object.{found}")
    if not isinstance(values, list):
        raise ConfigurationError(f"{name} must hold a list of prompts or objects.")
    for number, value in enumerate(values, 1):
        yield _check(value, f"entry {number}")


def _decode(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_take_once, parse_constant=_refuse_constant)


def _read_line(text: str, place: str) -> Row | BadRow:
    if text[0] not in '{"':
        return BadRow(
            place,
            f"{text[:40]!r} is no JSON object and no quoted prompt. Plain prompts, one a line, are read with --format lines",
        )
    try:
        value = _decode(text)
    except (ValueError, RecursionError) as error:
        return BadRow(place, f"this is no JSON ({error})")
    return _check(value, place)


def _check(value: object, place: str) -> Row | BadRow:
    if not isinstance(value, str | dict):
        return BadRow(place, f"an entry is a prompt or an object of fields, not {type(value).__name__}")
    try:
        fault = find_fault(value)
    except RecursionError:
        fault = "it is nested too deep"
    return BadRow(place, fault) if fault else Row(place, value)


def _take_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object that says a thing twice says nothing."""
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} comes twice")
    return value


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number")
