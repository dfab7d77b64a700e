"""Reads a journal without writing it, also while a batch runs: rows, totals, and notes about the batch."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec

from videorouter.journal.journal import COLUMNS, DOUBTFUL, SavedFile
from videorouter.journal.money import COUNT_OTHERS, UNPRICED
from videorouter.journal.records import name_kind, read_mismatches
from videorouter.journal.schema import open_readable, wrap_error
from videorouter.journal.states import RETRYABLE, SETTLED, UNCERTAIN, ItemRow, state_after_crash
from videorouter.locks import is_locked
from videorouter.models import ItemState
from videorouter.places import find_place

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path


_BY_STATE = f"""
SELECT state, count(*), total(cost), total(reserved), total(unknown), sum({UNPRICED}), sum({DOUBTFUL}),
       total(CASE WHEN json_valid(result) THEN json_extract(result, '$.cost') END),
       sum(json_valid(failure) AND json_extract(failure, '$.code') = ?) FROM items GROUP BY state
"""  # noqa: S608  constants of our own
_DOUBT = """
SELECT idempotency_key, request_id, sent FROM sendings WHERE item = ? AND state IN ('in_doubt', 'lost')
  ORDER BY number DESC LIMIT 1
"""
_MISMATCHES = """
SELECT mismatches, count(*) FROM files WHERE saved IS NOT NULL AND mismatches IS NOT NULL GROUP BY mismatches
"""
_FILES = """
SELECT json_group_array(json_array(path, size, sha256, media, mismatches)) FROM
  (SELECT * FROM files WHERE item = items.id AND saved IS NOT NULL ORDER BY number)
"""
_UNSAVED = """
SELECT count(*) FROM items WHERE state = 'done' AND NOT EXISTS
  (SELECT 1 FROM files WHERE files.item = items.id AND saved IS NOT NULL)
"""


_read_files = msgspec.json.Decoder(list[tuple[str, int, str | None, str | None, str | None]]).decode


class Money(msgspec.Struct, frozen=True, kw_only=True):
    """US dollars: spent, held for accepted or running requests, and perhaps spent; and for how many requests nobody knows it."""

    cost: float = 0.0
    reserved: float = 0.0
    unknown: float = 0.0
    unpriced: int = 0


class JournalStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The status of a batch by its journal. Money is in US dollars, and ``None`` where nothing of it is known.

    ``running``: a process is writing it right now. An item that was being sent when its process ended counts as in
    doubt. ``unpriced`` requests were bought, or may have been, for a price that nobody knows. ``reported`` is the part of
    ``cost`` that the gateway named; the rest goes by the caller's price.
    ``doubtful`` items may have been billed; ``retryable`` ones were refused or failed and not settled as lost;
    ``unsaved`` ones are done without a saved file. ``mismatched`` files are not what was asked for, and ``mismatches`` says
    how many of them are shorter, without sound and so on. ``meta`` has the notes of the batch about itself.
    """

    running: bool
    counts: Mapping[ItemState, int]
    money: Mapping[ItemState, Money]
    cost: float | None
    reserved: float | None
    unknown: float | None
    unpriced: int
    reported: float
    doubtful: int
    retryable: int
    unsaved: int
    mismatched: int
    mismatches: Mapping[str, int]
    meta: Mapping[str, str]

    @property
    def at_most(self) -> float | None:
        """The most US dollars that all of it can come to; ``None`` where a price is missing."""
        return None if self.unpriced else (self.cost or 0.0) + (self.reserved or 0.0) + (self.unknown or 0.0)

    @property
    def not_in_input(self) -> int:
        """Rows that the input of the last run did not have."""
        return self._read_note("not_in_input")

    @property
    def unmet(self) -> int:
        """Entries of the input without a row, as nothing was sent for them; 0 for an uncounted input."""
        return max(0, self._read_note("planned") - sum(self.counts.values()) + self.not_in_input)

    def _read_note(self, name: str) -> int:
        note = self.meta.get(name, "")
        return int(note) if note.isdigit() else 0


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
        found = [(read_mismatches(text), count) for text, count in database.execute(_MISMATCHES)]
        others_unpriced = database.execute(COUNT_OTHERS).fetchone()[0]
    mismatches: Counter[str] = Counter()
    for differences, count in found:
        mismatches.update(dict.fromkeys((name_kind(each) for each in differences), count))
    counts: dict[ItemState, int] = {}
    money: dict[ItemState, Money] = {}
    reported, doubtful, retryable = 0.0, 0, 0
    for state, count, spent, held, maybe, unpriced, others, told, settled in rows:
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
            unpriced=before.unpriced + unpriced,
        )
    bought, running_now = (_find_unpriced(money, states) for states in (("done",), ("sending", "accepted")))
    everything = sum(part.unpriced for part in money.values())
    return JournalStatus(
        running=running,
        counts=counts,
        money=money,
        cost=_add_up((part.cost for part in money.values()), bought),
        reserved=_add_up((part.reserved for part in money.values()), running_now),
        unknown=_add_up((part.unknown for part in money.values()), everything - bought - running_now + others_unpriced),
        unpriced=everything + others_unpriced,
        reported=reported,
        doubtful=doubtful,
        retryable=retryable,
        unsaved=unsaved,
        mismatched=sum(count for differences, count in found if differences),
        mismatches=dict(sorted(mismatches.items(), key=lambda kind: (-kind[1], kind[0]))),
        meta=meta,
    )


def _find_unpriced(money: Mapping[ItemState, Money], states: tuple[ItemState, ...]) -> int:
    return sum(money[state].unpriced for state in states if state in money)


def _add_up(amounts: Iterable[float], unpriced: int) -> float | None:
    """A sum, unless there are only amounts that nobody knows."""
    known = sum(amounts)
    return None if unpriced and not known else known


def read_rows(
    path: Path, states: tuple[str, ...] = (), *, doubtful: bool = False
) -> Iterator[tuple[ItemRow, tuple[SavedFile, ...]]]:
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
    query = f"SELECT {columns}, ({_FILES}) FROM items {where} ORDER BY position, created"  # noqa: S608  our own columns
    with open_reader(path) as database:
        for *values, files in database.execute(query, tuple(sorted(wanted))):
            row = ItemRow(**dict(zip(COLUMNS, values, strict=True)))
            if row.state == "sending" and not running:
                row = msgspec.structs.replace(row, state="in_doubt", unknown=row.unknown + row.reserved, reserved=0.0)
            if doubtful and row.state not in UNCERTAIN:
                row = _show_doubt(database, row)
            yield row, tuple(_to_file(path.parent, values) for values in _read_files(files))


def _to_file(folder: Path, values: tuple[str, int, str | None, str | None, str | None]) -> SavedFile:
    name, size, sha256, media, mismatches = values
    return SavedFile(path=find_place(folder, name), size=size, sha256=sha256, media=media, mismatches=mismatches)


def _show_doubt(database: sqlite3.Connection, row: ItemRow) -> ItemRow:
    """A row with the key, the request id and the time of its sending that is in doubt, where that is another one."""
    facts = database.execute(_DOUBT, (row.id,)).fetchone()
    if facts is None:
        return row
    key, request_id, sent = facts
    return msgspec.structs.replace(row, idempotency_key=key, request_id=request_id, sent=sent)
