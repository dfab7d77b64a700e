"""Tables and columns as entries: data frames, Arrow tables and arrays, known by their shape and never imported.

A table goes over to its rows, each a dict without the cells that are empty. Columns that are no documented fields are the
user's own: they become ``meta``, come back with the item and are never sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from videorouter.batch.entries import FIELDS, WHOLE_NUMBERS
from videorouter.call.requests import find_near_miss
from videorouter.errors import ConfigurationError

_AT_ONCE = 1000
"""Rows that become objects of Python at once."""


class Rows:
    """The entries of a table or a column, as often as they are wanted."""

    def __init__(self, source: Any, columns: list[str] | None) -> None:
        self._source = source
        self._columns = columns
        self._own = frozenset() if columns is None else _check_columns(columns)

    def __len__(self) -> int:
        return len(self._source)

    def __iter__(self) -> Iterator[Any]:
        if self._columns is None:
            for cell in _read_column(self._source):
                value = _read_cell(cell)
                yield {} if value is None else value
            return
        for cells in _read_rows(self._source):
            yield self._make_entry(cells)

    def _make_entry(self, cells: Iterable[Any]) -> dict[str, Any]:
        entry: dict[str, Any] = {}
        own: dict[str, Any] = {}
        for column, cell in zip(self._columns or (), cells, strict=True):
            value = _read_cell(cell)
            if value is None:
                continue
            if column in self._own:
                own[column] = _make_encodable(value)
            elif column in WHOLE_NUMBERS and isinstance(value, float) and value.is_integer():
                entry[column] = int(value)  # a column with an empty cell is one of floats
            else:
                entry[column] = value
        if own:
            entry["meta"] = {"meta": entry["meta"], **own} if "meta" in entry else own
        return entry


def read_table(source: object) -> object:
    """The rows of a table, or what was given where it is none.

    Raises:
        ConfigurationError: It has no prompts, or going over it gives names or numbers and no entries.
    """
    columns = _find_columns(source)
    if columns is not None:
        return Rows(source, columns)
    shape = getattr(source, "shape", None)
    if isinstance(shape, tuple) and hasattr(source, "dtype"):
        if len(shape) != 1:
            raise ConfigurationError(
                f"An array of {len(shape)} dimensions has no names for its columns. Pass a column of prompts, a DataFrame or a "
                "list of dicts."
            )
        return Rows(source, None)
    if hasattr(source, "to_pylist") and hasattr(source, "__len__"):
        return Rows(source, None)
    is_mapping = isinstance(source, Mapping) or (hasattr(source, "keys") and hasattr(source, "__getitem__"))
    if is_mapping:
        raise ConfigurationError(
            f"A batch takes entries, and a {type(source).__name__} gives only its names. For one entry pass [entry]; of a dict "
            "of entries pass its values()."
        )
    if isinstance(source, Iterable) and not callable(getattr(source, "columns", len)):
        raise ConfigurationError(
            f"Going over a {type(source).__name__} gives no rows that are known here. Pass its rows as dicts. Nothing was sent."
        )
    return source


def _find_columns(source: Any) -> list[str] | None:
    """The names of a table's columns; ``None`` of what is no table."""
    if not hasattr(source, "__len__"):
        return None
    if hasattr(source, "itertuples") or hasattr(source, "iter_rows"):
        return [str(name) for name in source.columns]
    if hasattr(source, "schema") and hasattr(source, "to_pylist"):
        return [str(name) for name in source.schema.names]
    names = getattr(getattr(source, "dtype", None), "names", None)
    return None if names is None else [str(name) for name in names]


def _read_rows(source: Any) -> Iterator[Iterable[Any]]:
    if hasattr(source, "itertuples"):
        return iter(source.itertuples(index=False, name=None))
    if hasattr(source, "iter_rows"):
        return iter(source.iter_rows())
    return (row for part in _slice(source) for row in _read_part(part))


def _read_part(part: Any) -> Iterable[Any]:
    if hasattr(part, "to_pylist"):
        return zip(*(column.to_pylist() for column in part.columns), strict=True)
    return part.tolist()  # type: ignore[no-any-return]


def _read_column(source: Any) -> Iterator[Any]:
    if hasattr(source, "to_pylist"):
        return (cell for part in _slice(source) for cell in part.to_pylist())
    return iter(source)


def _slice(source: Any) -> Iterator[Any]:
    for start in range(0, len(source), _AT_ONCE):
        yield source.slice(start, _AT_ONCE) if hasattr(source, "slice") else source[start : start + _AT_ONCE]


def _check_columns(columns: list[str]) -> frozenset[str]:
    """The columns that are the user's own."""
    shown = ", ".join(columns[:8])[:200] or "none"
    if "prompt" not in columns:
        raise ConfigurationError(
            f"The table has no column named prompt. Its columns: {shown}. Rename the one that holds the prompts. Nothing was sent."
        )
    twice = next((name for name in columns if columns.count(name) > 1), None)
    if twice is not None:
        raise ConfigurationError(f"The table has two columns named {twice!r}: rename one. Nothing was sent.")
    own = frozenset(columns) - FIELDS
    for name in sorted(own):
        meant = find_near_miss(name, tuple(sorted(FIELDS)))
        if meant is not None:
            raise ConfigurationError(
                f"The table's column {name!r} is no documented field. Is it meant to be {meant!r}? Rename it: columns of your own "
                "come back as item.meta and are never sent. Nothing was sent."
            )
    return own


def _read_cell(cell: Any) -> Any:
    """A cell as Python has it; ``None`` where it is empty: NaN, NaT and pandas.NA are."""
    kind = type(cell)
    if kind is str or cell is None:
        return cell
    if kind is float:
        return None if cell != cell else cell  # noqa: PLR0124  only NaN is not itself
    if kind.__name__ in {"NAType", "NaTType"}:
        return None
    if kind.__module__ == "numpy":
        return _read_cell(cell.tolist())
    return cell


def _make_encodable(value: Any) -> Any:
    """What JSON can hold of a cell of the user's own."""
    try:
        msgspec.json.encode(value)
    except (TypeError, ValueError, RecursionError):
        return str(value)
    return value
