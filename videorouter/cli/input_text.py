"""The text of an input file: its encoding, its lines, and what is no list of prompts at all.

A file that is something else (a spreadsheet, a web page, YAML) is refused whole. A row that cannot be used is a ``BadRow``.
"""

from __future__ import annotations

import math
import re
import unicodedata
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

from videorouter.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_LINE = 4 * 2**20
"""Characters of one line."""
_SPREADSHEET = "Open it in the spreadsheet and save it as 'CSV UTF-8'."
_PLAIN = "Save it as plain text, in UTF-8."
_MAGIC = (
    (b"PK\x03\x04", "a spreadsheet (.xlsx, .ods) or another zip file", _SPREADSHEET),
    (b"\xd0\xcf\x11\xe0", "a spreadsheet (.xls) or another Office file", _SPREADSHEET),
    (b"%PDF", "a PDF file", _PLAIN),
    (b"{\\rtf", "rich text (RTF)", _PLAIN),
    (b"\x1f\x8b", "a gzip file", "Unpack it first."),
    (b"PAR1", "a Parquet file", "Write it out as CSV or JSON lines."),
    (b"SQLite format 3", "a SQLite database", "Write it out as CSV or JSON lines."),
    (b"\xff\xfe\0\0", "text in UTF-32", _PLAIN),
    (b"\0\0\xfe\xff", "text in UTF-32", _PLAIN),
)
_UNUSABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffd\ud800-\udfff]")
_BLANKS = " \t\r\n\xa0\u3000"
_PAGE = re.compile(r"(<!doctype|<html|<head|<body|<\?xml|<svg)\b", re.IGNORECASE)
_RICH = ("{\\rtf", "%PDF")
_YAML = re.compile(r"""(-\s+)?["']?(prompts?|model)["']?\s*:(\s|$)""", re.IGNORECASE)
_JSON = re.compile(r"""\s*([\[{]\s*$|\{\s*["']|\[\s*["'{\[])""")


class BadRow(NamedTuple):
    """A row that cannot be used: where it begins, from line 1 (an entry of a JSON list, from 1), and why."""

    place: str
    reason: str


class Row(NamedTuple):
    """A row as it was read, before anybody asks whether it is an entry."""

    place: str
    value: Any


def find_encoding(head: bytes, name: str) -> str:
    """The encoding of a file by its first bytes; what is no text is refused."""
    for mark, what, advice in _MAGIC:
        if head.startswith(mark):
            raise ConfigurationError(f"{name} is {what}, which cannot be read. {advice}")
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    if b"\0" in head:
        line = head[: head.index(b"\0")].count(b"\n") + 1
        raise ConfigurationError(
            f"{name} is a binary file, or UTF-16 without its mark: line {line} has a NUL byte. {_PLAIN}"
        )
    return "utf-8"


def read_lines(file: TextIO, name: str, most: int = MAX_LINE) -> Iterator[tuple[int, str | None]]:
    """Each line with its number; ``None`` is one of more than ``most`` characters."""
    number, begun = 0, False
    try:
        while line := file.readline(most):
            number += 1
            text: str | None = line.removeprefix("\ufeff")
            while len(line) == most and not line.endswith("\n"):
                text, line = None, file.readline(most)
            if not begun and text is not None and text.strip():
                begun = True
                _check_first(text.lstrip(), f"{name}, line {number}")
            yield number, text
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            f"{name}, line {number + 1}: this is not {file.encoding.upper()} text. {_PLAIN}"
        ) from error


def say_too_long() -> str:
    """Why a line of more than ``MAX_LINE`` characters is not read."""
    return f"it is longer than {MAX_LINE:,} characters"


def read_prompts(file: TextIO, name: str) -> Iterator[Row | BadRow]:
    """A prompt a line."""
    begun = False
    for number, line in read_lines(file, name):
        place = f"line {number}"
        if line is None:
            yield BadRow(place, say_too_long())
            continue
        text = line.strip(_BLANKS)
        if text:
            _check_structure(text, f"{name}, {place}", first=not begun)
            begun = True
            tab = "it holds a tab. A table is read with --format csv" if "\t" in text else None
            fault = find_text_fault(text) or tab
            yield BadRow(place, fault) if fault else Row(place, text)


def find_text_fault(text: str) -> str | None:
    """What no text that is sent may hold: bytes that are no UTF-8, control characters."""
    found = _UNUSABLE.search(text)
    if found is None:
        return None
    character = found.group()
    if character == "\ufffd":
        return "it has lost a character (U+FFFD): it was not UTF-8 when it was converted"
    if character < "\ud800":
        return f"it holds a control character (U+{ord(character):04X})"
    return "it is not UTF-8 text"


def find_fault(value: object) -> str | None:
    """What no value that is sent may hold, however deep."""
    if isinstance(value, str):
        return find_text_fault(value)
    if isinstance(value, dict):
        return next((fault for pair in value.items() for part in pair if (fault := find_fault(part))), None)
    if isinstance(value, list):
        return next((fault for part in value if (fault := find_fault(part))), None)
    if isinstance(value, float) and not math.isfinite(value):
        return f"it holds {value}, which is no number"
    return None


def has_words(text: str) -> bool:
    """Whether a prompt holds a letter, a digit or a symbol such as an emoji: a rule or a bracket is no prompt."""
    return any(
        character.isalnum() or (character > "\x7f" and unicodedata.category(character)[0] in "LNS")
        for character in text
    )


def _check_first(text: str, place: str) -> None:
    what = "a web page or XML" if _PAGE.match(text) else "rich text or a PDF" if text.startswith(_RICH) else None
    if what is not None:
        raise ConfigurationError(f"{place}: this is {what}: {text.strip()[:40]!r}. {_PLAIN}")


def _check_structure(text: str, place: str, *, first: bool) -> None:
    """Refuse a list of prompts that has the marks of another kind of file."""
    shown = repr(text[:40])
    if _YAML.match(text) or (first and text.startswith(("---", "%YAML"))):
        raise ConfigurationError(
            f"{place}: {shown} is YAML or has the name of a field. Write one prompt a line and nothing else, or JSON "
            "lines (.jsonl)."
        )
    if not first:
        return
    if _JSON.match(text):
        raise ConfigurationError(
            f"{place}: {shown} is JSON. Name the file .jsonl (one object a line) or .json (a list), or pass --format."
        )
    for delimiter in ",;\t|":
        if "prompt" in [cell.strip(" \"'").lower() for cell in text.split(delimiter)]:
            raise ConfigurationError(
                f"{place}: {shown} is the header of a table. Name the file .csv, or pass --format csv."
            )
