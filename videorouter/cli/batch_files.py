"""The input of a batch: a file, which is checked whole before anything is sent, or a stream, which ends at its first bad row.

A regular file is read twice through one descriptor. The first pass checks, counts and digests all of it; the second finds
the same bytes, or the input ends there.
"""

from __future__ import annotations

import hashlib
import io
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TextIO

from videorouter.cli.input_csv import read_csv
from videorouter.cli.input_json import read_json_lines, read_json_list
from videorouter.cli.input_survey import Survey, check_entry
from videorouter.cli.input_text import BadRow, find_encoding, read_prompts
from videorouter.errors import ConfigurationError, InvalidRequestError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from videorouter.cli.input_text import Row

_BLOCK = 2**18
"""Bytes that are digested, and compared, at once."""
_HEAD = 4096
_FORMS = {".csv": "csv", ".tsv": "csv", ".txt": "lines", ".json": "json", ".jsonl": "jsonl", ".ndjson": "jsonl"}
_SPREADSHEETS = frozenset({".xlsx", ".xls", ".xlsm", ".ods", ".numbers"})


class InputChangedError(Exception):
    """The file holds something else than its first pass has checked."""


class EntryFile:
    """The entries of one file; ``-`` is stdin. A form of ``None`` goes by the file's ending."""

    def __init__(
        self,
        name: str,
        form: str | None = None,
        *,
        prompt_field: str = "prompt",
        field_columns: str | None = None,
        skip_bad_rows: bool = False,
    ) -> None:
        self.name: str = "stdin" if name == "-" else name
        self.path: Path | None = None if name == "-" else Path(name)
        self.prompt_field = prompt_field
        self.field_columns = field_columns
        """Which columns of a CSV that are no documented fields are sent: ``all``, ``none``, or their names."""
        self.skip_bad_rows = skip_bad_rows
        self.skipped: int = 0
        """Bad rows that were left out."""
        self.ended: str | None = None
        """Why the entries ended before the file did; what came before it is as good as ever."""
        self._digests: list[bytes] = []
        self._size = 0
        self.regular: bool = self.path is not None and _is_regular(self.path)
        """Whether it can be read twice: no pipe, no terminal."""
        self.form: str = form or _find_form(self.path)
        self._file: io.FileIO | None = _open(self.path) if self.path is not None and self.regular else None

    @classmethod
    def of(cls, args: argparse.Namespace) -> EntryFile:
        """The input that a command names."""
        return cls(
            args.file,
            args.format,
            prompt_field=args.prompt_field or "prompt",
            field_columns=args.field_columns,
            skip_bad_rows=args.skip_bad_rows,
        )

    def survey(self) -> Survey:
        """The first pass: read all of it, and say what it holds. A stream has no second one."""
        found = Survey(self.name)
        self._digests, self._size = [], 0
        with self._open_text(first=True) as text:
            for row in self._read(text):
                found.add(row, text=self.form == "lines")
        found.check_whole()
        return found

    def __iter__(self) -> Iterator[Any]:
        """The entries, up to the first bad row. Of a regular file this is the second pass, after ``survey``, and may be repeated."""
        self.skipped, self.ended = 0, None
        try:
            with self._open_text(first=False) as text:
                for row in self._read(text):
                    entry = _find_entry(row)
                    if not isinstance(entry, BadRow):
                        yield entry
                    elif self.skip_bad_rows:
                        self.skipped += 1
                    else:
                        self.ended = f"{self.name}, {entry.place}: {entry.reason}"
                        return
        except (ConfigurationError, InputChangedError) as error:
            self.ended = str(error)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._file is not None:
            self._file.close()

    def _read(self, file: TextIO) -> Iterator[Row | BadRow]:
        if self.form == "csv":
            rows = read_csv(file, self.name, self.prompt_field, self.field_columns)
        elif self.form == "json":
            rows = read_json_list(file, self.name)
        else:
            rows = (read_prompts if self.form == "lines" else read_json_lines)(file, self.name)
        if self.prompt_field == "prompt":
            return rows
        return (_rename_prompt(row, self.prompt_field) for row in rows)

    def _open_text(self, *, first: bool) -> TextIO:
        encoding = "utf-8"
        if self.path is None:
            raw: Any = io.BufferedReader(io.FileIO(sys.stdin.fileno(), closefd=False))
        elif self._file is None:
            raw = io.BufferedReader(_open(self.path))
        else:
            self._file.seek(0)
            encoding = find_encoding(self._file.read(_HEAD), self.name)
            self._file.seek(0)
            raw = io.BufferedReader(_Pass(self, self._file, first=first), _BLOCK)
        errors = "surrogateescape" if encoding == "utf-8" else "strict"
        return io.TextIOWrapper(raw, encoding=encoding, errors=errors, newline="")

    def note_block(self, block: bytes, number: int, *, first: bool) -> None:
        """Remember what the first pass read; raise where the second reads something else."""
        digest = hashlib.blake2b(block, digest_size=16).digest()
        if first:
            self._digests.append(digest)
        elif number >= len(self._digests) or self._digests[number] != digest:
            raise InputChangedError(
                f"{self.name} was changed while it was read. What it holds from there on was not checked, and is not sent"
            )


class _Pass(io.RawIOBase):
    """One pass over a file, a block at a time."""

    def __init__(self, owner: EntryFile, file: io.FileIO, *, first: bool) -> None:
        self._owner = owner
        self._file = file
        self._first = first
        self._number = 0
        self._rest = memoryview(b"")
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, into: Any, /) -> int:
        if not self._rest and not self._ended:
            block = self._read_block()
            self._owner.note_block(block, self._number, first=self._first)
            self._number += 1
            self._ended = not block  # the end is digested too: a file that has grown is another
            self._rest = memoryview(block)
        count = min(len(self._rest), len(into))
        into[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def _read_block(self) -> bytes:
        parts, wanted = [], _BLOCK
        while wanted and (part := self._file.read(wanted)):
            parts.append(part)
            wanted -= len(part)
        return b"".join(parts)


def _find_entry(row: Row | BadRow) -> Any:
    """The entry of a row, or why it is none."""
    if isinstance(row, BadRow):
        return row
    try:
        check_entry(row.value)
    except InvalidRequestError as error:
        return BadRow(row.place, error.message.removesuffix("."))
    return row.value


def _rename_prompt(row: Row | BadRow, field: str) -> Row | BadRow:
    if isinstance(row, BadRow) or not isinstance(row.value, dict) or field not in row.value:
        return row
    if "prompt" in row.value:
        return BadRow(row.place, f"it has both prompt and {field}: which one is the prompt?")
    return row._replace(value={"prompt" if key == field else key: value for key, value in row.value.items()})


def _is_regular(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError as error:
        raise _name_unreadable(path, error) from error


def _find_form(path: Path | None) -> str:
    if path is None:
        return "jsonl"
    ending = path.suffix.lower()
    if ending in _SPREADSHEETS:
        raise ConfigurationError(f"{path} is a spreadsheet. Open it there and save it as 'CSV UTF-8'.")
    if ending not in _FORMS:
        raise ConfigurationError(
            f"The name of {path} does not say how to read it. Pass --format jsonl, csv, json or lines (a prompt a line)."
        )
    return _FORMS[ending]


def _open(path: Path) -> io.FileIO:
    try:
        return io.FileIO(path)
    except OSError as error:
        raise _name_unreadable(path, error) from error


def _name_unreadable(path: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError(f"{path} cannot be read: {error.strerror or error}. Check the path; - reads stdin.")
