"""Reads a journal without writing it, also while a batch runs: rows, totals, and notes about the batch."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec

from videorouter.journal.journal import COLUMNS, DOUBTFUL
from videorouter.journal.schema import open_readable, wrap_error
from videorouter.journal.states import RETRYABLE, SETTLED, UNCERTAIN, ItemRow, state_after_crash
from videorouter.locks import is_locked
from videorouter.models import ItemState

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


_BY_STATE = f"""
SELECT state, count(*), total(cost), total(reserved), total(unknown), sum({DOUBTFUL}),
       total(CASE WHEN json_valid(result) THEN json_extract(result, '$.cost') END),
       sum(json_valid(failure) AND json_extract(failure, '$.code') = ?) FROM items GROUP BY state
"""  # noqa: S608  constants of our own
_DOUBT = """
SELECT idempotency_key, request_id, sent FROM sendings WHERE item = ? AND state IN ('in_doubt', 'lost')
  ORDER BY number DESC LIMIT 1
"""
_UNSAVED = """
SELECT count(*) FROM items WHERE state = 'done' AND NOT EXISTS
  (SELECT 1 FROM files WHERE files.item = items.id AND saved IS NOT NULL)
"""


class Money(msgspec.Struct, frozen=True, kw_only=True):
    """US dollars: spent, held for accepted or running requests, and perhaps spent."""

    cost: float = 0.0
    reserved: float = 0.0
    unknown: float = 0.0


class JournalStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The status of a batch by its journal. Money is in US dollars.

    ``running``: a process is writing it right now. An item that was being sent when its process ended counts as in
    doubt. ``reported`` is the part of ``cost`` that the gateway named; the rest goes by the caller's price.
    ``doubtful`` items may have been billed; ``retryable`` ones were refused or failed and not settled as lost;
    ``unsaved`` ones are done without a saved file. ``meta`` has the notes of the batch about itself.
    """

    running: bool
    counts: Mapping[ItemState, int]
    money: Mapping[ItemState, Money]
    cost: float
    reserved: float
    unknown: float
    reported: float
    doubtful: int
    retryable: int
    unsaved: int
    meta: Mapping[str, str]

    @property
    def unmet(self) -> int:
        """Entries of the input without a row, as nothing was sent for them; 0 for an uncounted input."""
        planned = self.meta.get("planned", "")
        return max(0, int(planned) - sum(self.counts.values())) if planned.isdigit() else 0


@contextmanager
def open_reader(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a journal for reading."""
    database = open_readable(path)
    try:
        yield database
    except sqlite3.Error as error:
        raise wrap_error("read", error, path) from error
    finally:
        database.close()


def read_status(path: Path) -> JournalStatus:
    """Read the counts and the money of a journal."""
    running = is_locked(path)
    with open_reader(path) as database:
        rows = database.execute(_BY_STATE, (SETTLED,)).fetchall()
        meta = dict(database.execute("SELECT key, value FROM meta").fetchall())
        unsaved = database.execute(_UNSAVED).fetchone()[0]
    counts: dict[ItemState, int] = {}
    money: dict[ItemState, Money] = {}
    reported, doubtful, retryable = 0.0, 0, 0
    for state, count, spent, held, maybe, others, told, settled in rows:
        meaning = state if running else state_after_crash(state)
        doubtful += count if meaning == "in_doubt" else others
        reported += told
        retryable += count - (settled or 0) if meaning in RETRYABLE else 0
        counts[meaning] = counts.get(meaning, 0) + count
        before = money.get(meaning, Money())
        crashed = meaning != state
        money[meaning] = Money(
            cost=before.cost + spent,
            reserved=before.reserved + (0.0 if crashed else held),
            unknown=before.unknown + maybe + (held if crashed else 0.0),
        )
    return JournalStatus(
        running=running,
        counts=counts,
        money=money,
        cost=sum(part.cost for part in money.values()),
        reserved=sum(part.reserved for part in money.values()),
        unknown=sum(part.unknown for part in money.values()),
        reported=reported,
        doubtful=doubtful,
        retryable=retryable,
        unsaved=unsaved,
        meta=meta,
    )


def read_rows(
    path: Path, states: tuple[str, ...] = (), *, doubtful: bool = False
) -> Iterator[tuple[ItemRow, tuple[str, ...]]]:
    """Read rows in the order of the input, with their saved files.

    ``doubtful``: what may have been billed, whatever its state, with the key, the time and the request id of the sending
    that nobody knows of.
    """
    running = is_locked(path)
    wanted = set() if doubtful else set(states)
    if not running and (doubtful or "in_doubt" in wanted):
        wanted.add("sending")
    conditions = [f"state IN ({', '.join('?' * len(wanted))})"] if wanted else []
    conditions += [DOUBTFUL] if doubtful else []
    where = f"WHERE {' OR '.join(conditions)}" if conditions else ""
    columns = ", ".join(f"items.{column}" for column in COLUMNS)
    query = (
        f"SELECT {columns}, (SELECT group_concat(path, char(0)) FROM (SELECT path FROM files WHERE item = items.id "  # noqa: S608
        f"AND saved IS NOT NULL ORDER BY number)) FROM items {where} ORDER BY position, created"
    )
    with open_reader(path) as database:
        for *values, files in database.execute(query, tuple(sorted(wanted))):
            row = ItemRow(**dict(zip(COLUMNS, values, strict=True)))
            if row.state == "sending" and not running:
                row = msgspec.structs.replace(row, state="in_doubt", unknown=row.unknown + row.reserved, reserved=0.0)
            if doubtful and row.state not in UNCERTAIN:
                row = _show_doubt(database, row)
            names = str(files).split("\0") if files else []
            yield row, tuple(str(path.parent / name) for name in names)


def _show_doubt(database: sqlite3.Connection, row: ItemRow) -> ItemRow:
    """A row with the key, the request id and the time of its sending that is in doubt, where that is another one."""
    facts = database.execute(_DOUBT, (row.id,)).fetchone()
    if facts is None:
        return row
    key, request_id, sent = facts
    return msgspec.structs.replace(row, idempotency_key=key, request_id=request_id, sent=sent)
