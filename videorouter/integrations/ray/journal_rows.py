"""How Ray's ledger writes many intents and endings at once, in rows that cross between processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from videorouter.journal.identity import name_item
from videorouter.journal.journal import ARCHIVE, UPDATE_ENDING, UPSERT_INTENT

if TYPE_CHECKING:
    import sqlite3

IntentRow: TypeAlias = tuple[str, int, str, str, str, str, str, float, str | None, str | None]
"""An ``Intent``: id, position, digest, verb, model, request, idempotency key, reserved, parent, meta."""
EndingRow: TypeAlias = tuple[str, str, float, float | None, float, str | None, str | None, str | None, str | None]
"""An ``Ending``: id, state, reserved, cost, unknown, result, failure, task id, request id."""

_ARCHIVE = f"{ARCHIVE} sends > 0"
_INSERT = (
    f"{UPSERT_INTENT}, position = excluded.position, verb = excluded.verb, parent = excluded.parent WHERE digest = ''"
)
_AGAIN = "INSERT INTO met VALUES (?, 2) ON CONFLICT (key) DO UPDATE SET times = times + 1 RETURNING times"


def write_intents(database: sqlite3.Connection, rows: list[IntentRow], now: float) -> list[str]:
    """Write down that requests are about to be sent; those without an id are named by their digest. Gives their ids."""
    named = [(*row, now, now) for row in rows if row[0]]
    if named:
        database.executemany(_ARCHIVE, [(row[0],) for row in named])
        database.executemany(UPSERT_INTENT, named)
    unnamed = [(name_item(row[2], 1), *row[1:], now, now) for row in rows if not row[0]]
    if not unnamed:
        return [row[0] for row in rows]
    if database.executemany(_INSERT, unnamed).rowcount == len(unnamed):
        return [row[0] or name_item(row[2], 1) for row in rows]
    return [row[0] or _name_intent(database, row, now) for row in rows]


def _name_intent(database: sqlite3.Connection, row: IntentRow, now: float) -> str:
    """The id of an intent that has just been written, unless an equal one was there: then it is written now."""
    item = name_item(row[2], 1)
    key = database.execute("SELECT idempotency_key FROM items WHERE id = ?", (item,)).fetchone()[0]
    while key != row[6] and not database.execute(_INSERT, (item, *row[1:], now, now)).rowcount:
        times: int = database.execute(_AGAIN, (f"n{row[2]}",)).fetchone()[0]
        item = name_item(row[2], times)
    return item


def write_endings(database: sqlite3.Connection, rows: list[EndingRow], now: float) -> None:
    """Write down what became of requests, of results that hold no video."""
    database.executemany(UPDATE_ENDING, [(*row[1:], None, None, now, row[0]) for row in rows])
