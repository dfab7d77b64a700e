"""CSV of an input: one dialect, a header that names the columns, and rows of its width."""

from __future__ import annotations

import csv
import json
import re
import shlex
from typing import TYPE_CHECKING, Any, TextIO

from videorouter.batch.entries import FIELDS, WHOLE_NUMBERS
from videorouter.cli.console import clean
from videorouter.cli.input_fields import find_typos
from videorouter.cli.input_text import MAX_LINE, BadRow, Row, find_fault, find_text_fault, read_lines, say_too_long
from videorouter.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

_SWITCHES = frozenset({"generate_audio"})
_YES_NO = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_WHOLE = re.compile(r"-?[0-9]+(\.0+)?")
_DELIMITERS = (",", ";", "\t", "|")
_HINT = re.compile(r'"?sep=([,;\t|])"?')
"""The line that a spreadsheet may write before the header."""


class UnknownColumnsError(ConfigurationError):
    """A table has columns that are no documented fields, and nobody has said whose they are."""


def read_csv(file: TextIO, name: str, prompt: str = "prompt", sent: str | None = None) -> Iterator[Row | BadRow]:
    """A row as fields, after the header.

    ``prompt`` is the column that holds the prompts; ``sent`` says which columns that are no documented fields are the
    gateway's (``all``, ``none``, or their names). The others are the user's own and become ``meta``.
    """
    csv.field_size_limit(MAX_LINE)
    reader = _Reader(file, name)
    columns = _read_header(reader, name, prompt)
    own = _find_own(columns, name, prompt, sent)
    while (cells := reader.read()) is not None:
        if any(cell.strip() for cell in cells):
            yield _read_row(columns, cells, f"line {reader.line}", own)


class _Reader:
    """Rows of cells, each with the line on which it begins. A quote that does not fit ends it: the rest is not to be told apart."""

    def __init__(self, file: TextIO, name: str) -> None:
        self.line = 0
        self._name = name
        self._last = 0
        self._lines = self._number(read_lines(file, name))
        self._rows: Iterator[list[str]] = iter(())

    def read_line(self) -> str | None:
        """The next line that is not blank, as text."""
        return next((line for line in self._lines if line.strip()), None)

    def begin(self, delimiter: str) -> None:
        """Read rows from here on."""
        self._rows = csv.reader(self._lines, delimiter=delimiter, strict=True)

    def read(self) -> list[str] | None:
        """The cells of the next row."""
        self.line = self._last + 1
        try:
            return next(self._rows, None)
        except csv.Error as error:
            words = "a quote is opened and never closed" if "unexpected end" in str(error) else str(error)
            raise ConfigurationError(
                f"{self._name}, line {self.line}: {words}. What follows cannot be told apart: correct this line first."
            ) from error

    def _number(self, lines: Iterator[tuple[int, str | None]]) -> Iterator[str]:
        for number, line in lines:
            self._last = number
            if line is None:
                raise ConfigurationError(f"{self._name}, line {number}: {say_too_long()}.")
            yield line


def _read_header(reader: _Reader, name: str, prompt: str) -> list[str]:
    head, hint = reader.read_line(), None
    if head is not None and (found := _HINT.fullmatch(head.strip("\r\n"))):
        hint, head = found[1], reader.read_line()
    if head is None:
        raise ConfigurationError(f"{name} is empty.")
    if find_text_fault(head):
        raise ConfigurationError(f"{name} is not UTF-8 text. Save it as UTF-8: in a spreadsheet, as 'CSV UTF-8'.")
    try:
        names = {each: next(csv.reader([head], delimiter=each, strict=True), []) for each in _DELIMITERS}
    except csv.Error as error:
        raise ConfigurationError(f"{name}: the header cannot be read ({error}). It stands on one line.") from error
    delimiter = hint or max(_DELIMITERS, key=lambda each: len(names[each]))
    columns = [column.strip() for column in names[delimiter]]
    shown = ", ".join(column for column in columns[:8] if column)[:200] or "nothing"
    if prompt not in columns:
        raise ConfigurationError(
            f"{name} has no column named {prompt}: its first line must name the columns, such as id,prompt,model. "
            f"It reads {shown}. Where another column holds the prompts, pass --prompt-field and its name."
        )
    twice = next((column for column in columns if column and columns.count(column) > 1), None)
    if twice is not None:
        raise ConfigurationError(f"{name} has two columns named {twice!r}: give each a name of its own.")
    reader.begin(delimiter)
    return columns


def _find_own(columns: list[str], name: str, prompt: str, sent: str | None) -> set[str]:
    """The columns that are the user's own."""
    own = {"meta"} & set(columns)
    unknown = [column for column in columns if column and column != prompt and column.partition(":")[0] not in FIELDS]
    unknown = [column for column in unknown if column not in own]
    if not unknown or sent == "all":
        return own
    if sent is None:
        shown = ", ".join(clean(column) for column in unknown)
        close = "".join(f" Is {name!r} meant to be {meant!r}?" for name, meant in find_typos(unknown, FIELDS))
        raise UnknownColumnsError(
            f"{name} has columns that are no documented fields: {shown}.{close} Say whose they are: --field-columns none (all "
            "yours: kept, shown, exported, never sent), --field-columns all (fields of the gateway), or name those that are "
            f"the gateway's: --field-columns {shlex.quote(unknown[0])}."
        )
    named = [] if sent == "none" else [each.strip() for each in sent.split(",") if each.strip()]
    strange = next((each for each in named if each not in columns), None)
    if strange is not None or not (named or sent == "none"):
        raise ConfigurationError(
            f"--field-columns {sent}: {name} has no column {strange!r}. Its own are {', '.join(unknown)}."
        )
    return own | {column for column in unknown if column not in named}


def _read_row(columns: list[str], cells: list[str], place: str, own: set[str]) -> Row | BadRow:
    if len(cells) != len(columns):
        quote = ". Quote cells that hold the separator" if len(cells) > len(columns) else ""
        return BadRow(place, f"{len(cells)} cells for {len(columns)} columns{quote}")
    entry: dict[str, Any] = {}
    meta: dict[str, str] = {}
    for column, cell in zip(columns, cells, strict=True):
        if not cell.strip():
            continue
        fault = find_text_fault(cell) or (None if column else f"{cell[:40]!r} stands in a column without a name")
        if fault:
            return BadRow(place, f"{column}: {fault}" if column else fault)
        if column in own:
            meta[column] = cell
            continue
        try:
            field, value = _read_cell(column, cell)
        except (ValueError, KeyError, RecursionError) as error:
            return BadRow(place, f"{column} cannot be read from {cell[:60]!r} ({error})")
        if fault := find_fault(value):
            return BadRow(place, f"{column}: {fault}")
        entry[field] = value
    if meta:
        entry["meta"] = {"meta": entry["meta"], **meta} if "meta" in entry else meta
    return Row(place, entry)


def _read_cell(column: str, cell: str) -> tuple[str, Any]:
    """A cell is text. A few documented fields are not, and ``name:json`` says that a column holds JSON."""
    field, _, form = column.partition(":")
    if form == "json":
        return field, json.loads(cell)
    if field in WHOLE_NUMBERS:
        return field, _read_number(cell.strip())
    if field in _SWITCHES:
        return field, _YES_NO[cell.strip().lower()]
    if field.endswith("_urls"):
        return field, json.loads(cell) if cell.lstrip().startswith("[") else cell.split()
    if field == "then":
        return field, json.loads(cell) if cell.lstrip().startswith(("[", "{")) else cell
    return field, cell


def _read_number(text: str) -> int:
    """A whole number; spreadsheets and data frames write 42 as 42.0, too."""
    if _WHOLE.fullmatch(text) is None:
        raise ValueError("not a whole number")
    return int(text.partition(".")[0])
