"""Rows in, rows out: how prompts become numbered blocks, and what a finished row looks like.

Every row gets its place in the whole input, once, before anything is sent: it is how the ledger knows a row again when
Ray runs its block a second time. Nothing here sends anything.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import ray
import ray.data

from videorouter.errors import ConfigurationError

if TYPE_CHECKING:
    from ray.data.dataset import MaterializedDataset

    from videorouter.models import BatchItem

POSITION = "__videorouter_position"
MOST_ROWS = 500
"""Rows of a block: what a worker takes at once, and what runs again when it dies."""
SCHEMA = pa.schema(
    [
        ("index", pa.int64()),
        ("id", pa.string()),
        ("state", pa.string()),
        ("prompt", pa.string()),
        ("model", pa.string()),
        ("url", pa.string()),
        ("video_id", pa.string()),
        ("task_id", pa.string()),
        ("cost", pa.float64()),
        ("error", pa.string()),
        ("path", pa.string()),
        ("urls", pa.list_(pa.string())),
        ("paths", pa.list_(pa.string())),
        ("resumed", pa.bool_()),
    ]
)
_READERS = {
    ".parquet": ray.data.read_parquet,
    ".jsonl": ray.data.read_json,
    ".ndjson": ray.data.read_json,
    ".json": ray.data.read_json,
    ".csv": ray.data.read_csv,
}


def open_source(source: Any, prompt_column: str) -> ray.data.Dataset | Iterator[pa.Table]:
    """A dataset as it is, a path as a dataset, and any table or iterable as tables.

    Raises:
        ConfigurationError: It is none of these.
    """
    if isinstance(source, ray.data.Dataset):
        return source
    if isinstance(source, str | os.PathLike):
        path = os.fspath(source)
        ending = os.path.splitext(path)[1].lower() or ".parquet"  # noqa: PTH122  may be a URL
        reader = _READERS.get(ending)
        try:
            if reader is not None:
                return reader(path)
            trouble = f"{ending} is no such file"
        except OSError as error:
            trouble = f"{type(error).__name__}: {error}"
        raise ConfigurationError(
            f"{path!r} is no file of prompts that can be read ({trouble}): give Parquet, JSON Lines, CSV, a folder of "
            "Parquet files, a dataset, a table or an iterable. For one prompt pass [prompt]."
        )
    if hasattr(source, "columns") and hasattr(source, "__arrow_c_stream__"):
        return iter([pa.table(source)])
    if isinstance(source, pa.Array | pa.ChunkedArray):
        source = source.to_pylist()
    # Going over these gives the names of columns, keys, or numbers: none of them is a prompt
    if isinstance(source, Iterable) and not (hasattr(source, "columns") or isinstance(source, Mapping | bytes)):
        return _make_tables(source, prompt_column)
    raise ConfigurationError(
        "generate_dataset takes a dataset, a path, a table (pandas, Arrow, Polars) or an iterable of prompts or dicts, not "
        f"{type(source).__name__}."
    )


def _make_tables(source: Iterable[Any], prompt_column: str, size: int = 10_000) -> Iterator[pa.Table]:
    rows = (_make_row(row, place, prompt_column) for place, row in enumerate(source))
    while chunk := list(itertools.islice(rows, size)):
        names = dict.fromkeys(name for row in chunk for name in row)
        yield pa.table({name: _make_column(name, [row.get(name) for row in chunk]) for name in names})


def _make_row(row: object, place: int, prompt_column: str) -> dict[str, Any]:
    if isinstance(row, Mapping):
        return {str(name): value for name, value in row.items()}
    if isinstance(row, float) and math.isnan(row):
        row = None  # what pandas has for a prompt that is missing
    if row is not None and not isinstance(row, str):
        raise ConfigurationError(
            f"Row {place} of the input is neither a prompt nor a dict but {type(row).__name__}. Nothing was sent."
        )
    return {prompt_column: row}


def _make_column(name: str, values: list[Any]) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowException, UnicodeError, OverflowError) as error:
        raise ConfigurationError(
            f"The values of {name!r} are no column: {error}. Nothing was sent. Give all rows values of one type there."
        ) from error


def number_rows(
    source: ray.data.Dataset | Iterator[pa.Table], columns: Iterable[str], size: int | None, spread: int
) -> tuple[MaterializedDataset[Any], int]:
    """Give each row its place, in small blocks.

    Args:
        source: From ``open_source``.
        columns: Columns that must be there.
        size: Rows of a block; ``None`` for what keeps ``spread`` lanes busy.
        spread: How many blocks there should be at least.

    Returns:
        The numbered dataset, and how many rows it has.

    Raises:
        ConfigurationError: A column is missing.
    """
    if isinstance(source, ray.data.Dataset):
        return _number_dataset(source, columns, size, spread)
    tables = list(source)
    if not tables:
        return _from_blocks([]), 0
    try:
        table = pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        raise ConfigurationError(
            f"A column changes its type on the way: {error}. Nothing was sent. Give all rows values of one type there."
        ) from error
    total = table.num_rows
    if not total:
        return _from_blocks([]), 0
    _check_columns(columns, table.column_names)
    return _from_blocks(_slice(table, 0, _choose_size(total, size, spread))), total


def _number_dataset(
    source: ray.data.Dataset, columns: Iterable[str], size: int | None, spread: int
) -> tuple[MaterializedDataset[Any], int]:
    """As ``number_rows``, where the rows are: the driver sees only how many they are."""
    refs = source.to_arrow_refs()
    counted = ray.get([ray.remote(_describe).options(num_cpus=0).remote(ref) for ref in refs])
    total = sum(rows for rows, _ in counted)
    most = _choose_size(total, size, spread)
    blocks: list[Any] = []
    offset = 0
    for ref, (rows, names) in zip(refs, counted, strict=True):
        if rows:
            _check_columns(columns, names)
            pieces = -(-rows // most)
            cut: Any = ray.remote(_cut).options(num_cpus=0, num_returns=pieces).remote(ref, offset, most)
            blocks.extend(cut if pieces > 1 else [cut])
        offset += rows
    return (ray.data.from_arrow_refs(blocks) if blocks else _from_blocks([])), total


def _choose_size(total: int, size: int | None, spread: int) -> int:
    return size or max(1, min(MOST_ROWS, -(-total // max(1, spread))))


def _check_columns(columns: Iterable[str], names: list[str]) -> None:
    missing = [name for name in columns if name not in names]
    if missing:
        raise ConfigurationError(
            f"The dataset has no column {missing[0]!r}; it has {', '.join(names)}. Name the right ones with "
            "prompt_column=, id_column= and field_columns=."
        )
    wrong = next((name for name in names if name == POSITION or names.count(name) > 1), None)
    if wrong is not None:
        raise ConfigurationError(f"The dataset has a column {wrong!r} too many. Nothing was sent. Drop or rename it.")


def _from_blocks(blocks: list[pa.Table]) -> MaterializedDataset[Any]:
    return ray.data.from_blocks(blocks) if blocks else ray.data.from_arrow(SCHEMA.empty_table())


def _slice(table: pa.Table, offset: int, most: int) -> list[pa.Table]:
    numbered = table.append_column(POSITION, pa.array(range(offset, offset + table.num_rows), pa.int64()))
    return [numbered.slice(start, most).combine_chunks() for start in range(0, table.num_rows, most)]


def _describe(table: pa.Table) -> tuple[int, list[str]]:
    return table.num_rows, table.column_names


def _cut(table: pa.Table, offset: int, most: int) -> Any:
    pieces = _slice(table, offset, most)
    return tuple(pieces) if len(pieces) > 1 else pieces[0]


def read_rows(
    block: pa.Table, prompt_column: str, id_column: str | None, field_columns: tuple[str, ...]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a numbered block: place, and entry as a batch takes it; what is null is not there."""
    positions = block.column(POSITION).to_pylist()
    names = {"prompt": prompt_column, **{name: name for name in field_columns}}
    if id_column is not None:
        names["id"] = id_column
    columns = [block.column(column).to_pylist() for column in names.values()]
    for position, *values in zip(positions, *columns, strict=True):
        yield position, {name: value for name, value in zip(names, values, strict=True) if value is not None}


def make_table(block: pa.Table, items: list[BatchItem]) -> pa.Table:
    """A finished block: what came of each row, and the other columns of the input as they were."""
    kept = [name for name in block.column_names if name not in SCHEMA.names and name != POSITION]
    done = pa.Table.from_pylist([_describe_item(item) for item in items], SCHEMA)
    for name in kept:
        done = done.append_column(name, block.column(name))
    return done


def _describe_item(item: BatchItem) -> dict[str, Any]:
    videos = item.result.videos if item.result is not None else ()
    urls = [video.url for video in videos if video.url is not None]
    return {
        "index": item.index,
        "id": item.id,
        "state": item.state,
        "prompt": item.prompt,
        "model": item.model,
        "url": urls[0] if urls else None,
        "video_id": videos[0].video_id if videos else None,
        "task_id": item.task_id,
        "cost": item.cost,
        "error": item.failure.message if item.failure is not None else None,
        "path": item.files[0] if item.files else None,
        "urls": urls,
        "paths": list(item.files),
        "resumed": item.resumed,
    }
