"""Reads the entries of a batch from a file or stdin: JSON lines, CSV, a JSON list, or plain prompts.

A line that cannot be read is an entry of its own that says why: it never loses the others. Files are read as they are
sent, never whole (a JSON list excepted).
"""

from __future__ import annotations

import csv
import inspect
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from videorouter.batch.entries import Unreadable
from videorouter.errors import ConfigurationError, InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

MAX_LINE = 4 * 2**20
_MOST_NAMES = 1000
_NUMBERS = frozenset({"seed", "n"})
_SWITCHES = frozenset({"generate_audio"})
_YES_NO = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


class EntryFile:
    """The entries of one file; ``-`` is stdin. A form of ``None`` goes by the file's ending."""

    def __init__(self, name: str, form: str | None = None) -> None:
        self.name = name
        self.path: Path | None = None if name == "-" else Path(name)
        self.form: str = form or _guess_form(name)
        self.unnamed: int = 0
        """Entries that name no model, once they have been counted."""
        self._names: set[str] = set()
        self._ids: set[object] = set()
        if self.path is not None:
            self._open().close()

    def __iter__(self) -> Iterator[Any]:
        with self._open() as file:
            yield from read_entries(file, self.form, self.name)

    def count(self) -> int:
        """How many items it makes: its entries, and the edits that follow from them."""
        total = self.unnamed = 0
        for entry in self:
            total += 1 + _count_steps(entry)
            self.unnamed += isinstance(entry, str) or (isinstance(entry, dict) and not entry.get("model"))
            if isinstance(entry, dict):
                self._names.update(entry)
        return total

    def note(self, entry: object) -> None:
        """Look at an entry that will not be sent now, and refuse it where an earlier one has its id."""
        if isinstance(entry, dict):
            self._names.update(entry)
            given = entry.get("id")
            if isinstance(given, str | int) and given != "":
                if given in self._ids:
                    raise InvalidRequestError(f"the id {given!r} came before: give each entry an id of its own")
                self._ids.add(given)

    def find_typos(self) -> list[tuple[str, str]]:
        """Names of fields that look like known ones, each with the one that it looks like."""
        from difflib import get_close_matches  # noqa: PLC0415  who runs a batch pays for it

        from videorouter.client import AsyncVideoRouter  # noqa: PLC0415  as above

        known = {
            *inspect.signature(AsyncVideoRouter.submit).parameters,
            "id",
            "edit_of",
            "video",
            "video_id",
            "then",
        } - {"self", "fields"}
        strange = sorted(self._names - known)[:_MOST_NAMES]
        close = {name: get_close_matches(name.lower(), known, 1, 0.8) for name in strange}
        return [(name, found[0]) for name, found in close.items() if found]

    def _open(self) -> TextIO:
        if self.path is None:
            return sys.stdin
        try:
            return self.path.open(encoding="utf-8-sig", errors="surrogateescape", newline="")
        except OSError as error:
            raise ConfigurationError(
                f"{self.path} cannot be read: {error.strerror or error}. Check the path; - reads stdin."
            ) from error


def _count_steps(entry: object) -> int:
    then = entry.get("then") if isinstance(entry, dict) else None
    return len(then) if isinstance(then, list) else int(bool(then))


async def read_stdin(form: str | None) -> AsyncIterator[Any]:
    """Entries as they come in on stdin, without holding up what runs."""
    from anyio.to_thread import run_sync  # noqa: PLC0415  only here

    entries = read_entries(sys.stdin, form or "jsonl", "stdin")
    end = object()
    while True:
        entry = await run_sync(next, entries, end, abandon_on_cancel=True)
        if entry is end:
            return
        yield entry


def read_entries(file: TextIO, form: str, name: str) -> Iterator[Any]:
    """Entries of an open file."""
    if form == "csv":
        yield from _read_csv(file, name)
    elif form == "json":
        yield from _read_list(file, name)
    else:
        for number, line in enumerate(_read_lines(file), 1):
            text = line.strip()
            if text:
                yield text if form == "lines" else _read_line(text, f"{name}, line {number}")


def _guess_form(name: str) -> str:
    ending = Path(name).suffix.lower()
    return {".csv": "csv", ".tsv": "csv", ".txt": "lines", ".json": "json"}.get(ending, "jsonl")


def _read_lines(file: TextIO) -> Iterator[str]:
    while line := file.readline(MAX_LINE):
        yield line


def _read_line(text: str, place: str) -> object:
    if text[0] not in '{"[':
        return text if _is_text(text) else Unreadable(f"{place}: this is not UTF-8 text.")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        return Unreadable(f"{place}: this is no JSON ({error}).")
    return _check(value, place)


def _check(value: object, place: str) -> object:
    if isinstance(value, str | dict):
        return value if _is_text(json.dumps(value, ensure_ascii=False)) else Unreadable(f"{place}: not UTF-8 text.")
    return Unreadable(f"{place}: an entry is a prompt or an object of fields, not {type(value).__name__}.")


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _read_list(file: TextIO, name: str) -> Iterator[Any]:
    try:
        values = json.load(file)
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"{name} is no JSON: {error}. One object a line is JSONL: name it .jsonl.") from error
    if not isinstance(values, list):
        raise ConfigurationError(f"{name} must hold a list of prompts or objects.")
    for number, value in enumerate(values, 1):
        yield _check(value, f"{name}, entry {number}")


def _read_csv(file: TextIO, name: str) -> Iterator[Any]:
    csv.field_size_limit(MAX_LINE)
    head = file.readline(MAX_LINE)
    dialect = "excel-tab" if head.count("\t") > head.count(",") else "excel"
    delimiter = ";" if dialect == "excel" and head.count(";") > head.count(",") else None
    options: dict[str, Any] = {"dialect": dialect} if delimiter is None else {"delimiter": delimiter}
    names = next(csv.reader([head], **options), [])
    columns = [column.strip() for column in names]
    if not _is_text(head) or "\0" in head:
        raise ConfigurationError(f"{name} is not UTF-8 text. Save it as UTF-8: in a spreadsheet, as 'CSV UTF-8'.")
    if "prompt" not in columns:
        raise ConfigurationError(
            f"{name} has no column named prompt: its first line must name the columns, such as id,prompt,model. "
            f"It reads {', '.join(columns[:8]) or 'nothing'}."
        )
    # Strict, so that a quote that is never closed does not make one prompt of the rest of the file.
    rows = csv.reader(file, strict=True, **options)
    number = 1
    while True:
        number += 1
        try:
            cells = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            words = "a quote is opened and never closed" if "unexpected end" in str(error) else str(error)
            yield Unreadable(f"{name}, row {number}: {words}.")
            continue
        if any(cell.strip() for cell in cells):
            yield _read_row(columns, cells, f"{name}, row {number}")


def _read_row(columns: list[str], cells: list[str], place: str) -> object:
    if len(cells) > len(columns):
        return Unreadable(f"{place}: {len(cells)} cells for {len(columns)} columns. Quote cells that hold commas.")
    entry: dict[str, Any] = {}
    for column, cell in zip(columns, cells, strict=False):
        if not cell.strip() or not column:
            continue
        if not _is_text(cell):
            return Unreadable(f"{place}: {column} is not UTF-8 text.")
        try:
            field, value = _read_cell(column, cell)
        except (ValueError, KeyError, RecursionError) as error:
            return Unreadable(f"{place}: {column} cannot be read from {cell[:60]!r} ({error}).")
        entry[field] = value
    return entry


def _read_cell(column: str, cell: str) -> tuple[str, Any]:
    """A cell is text. A few documented fields are not, and ``name:json`` says that a column holds JSON."""
    field, _, form = column.partition(":")
    if form == "json":
        return field, json.loads(cell)
    if field in _NUMBERS:
        return field, int(cell)
    if field in _SWITCHES:
        return field, _YES_NO[cell.strip().lower()]
    if field.endswith("_urls"):
        return field, json.loads(cell) if cell.lstrip().startswith("[") else cell.split()
    if field == "then":
        return field, json.loads(cell) if cell.lstrip().startswith(("[", "{")) else cell
    return field, cell
