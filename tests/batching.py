"""What tests of batches and journals share: prompts, two ways to take what comes, and a look at what was written."""

from __future__ import annotations

import gzip
import json
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os

    from videorouter import BatchItem


KEPT = Path(__file__).parent / "journals"
"""Journals of schema 1, as an earlier version wrote them; their README says what they hold."""


def unpack(name: str, folder: Path) -> dict:
    """Put a kept journal into a folder as ``run.db``, and give what is known of it."""
    for packed in KEPT.glob(f"{name}.*.gz"):
        place = packed.name.removesuffix(".gz").replace(f"{name}.db", "run.db")
        (folder / place).write_bytes(gzip.decompress(packed.read_bytes()))
    return json.loads((KEPT / f"{name}.json").read_text())


def prompts(count: int) -> list[str]:
    return [f"otter {number}" for number in range(count)]


async def gather(batch, items: list[BatchItem]) -> None:
    """Take items as they come, so that they are there whatever ends the batch."""
    async for item in batch:
        items.append(item)  # noqa: PERF401  what came before an error is kept


async def collect(batch) -> dict[int, BatchItem]:
    return {item.index: item async for item in batch}


def read(path: str | os.PathLike[str], query: str) -> list[tuple]:
    """The rows of a journal that nobody else has open when this returns."""
    database = sqlite3.connect(path)
    try:
        return database.execute(query).fetchall()
    finally:
        database.close()
