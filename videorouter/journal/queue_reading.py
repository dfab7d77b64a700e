"""Reads a queue without writing it: jobs, events and counts; and notices when any process has changed it."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from typing import TYPE_CHECKING, TypeVar

import msgspec

from videorouter.errors import JournalError
from videorouter.forks import after_fork
from videorouter.journal.queue import JOBS, KIND, SAVES, JobRow, read_jobs
from videorouter.journal.schema import open_readable, wrap_error
from videorouter.journal.status import open_reader
from videorouter.threads import run_in_thread, start_thread

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

T = TypeVar("T")
PAGE = 500
LOOK = 0.05
"""Seconds between two looks at whether another process has changed the file."""
_LINGER = 5.0
"""Seconds for which the watching goes on when nobody waits."""
_EVENTS = """
SELECT events.number, events.item, coalesce(items.owner, ''), events.state, events.at, events.note
  FROM events LEFT JOIN items ON items.id = events.item WHERE events.number > :after {} ORDER BY events.number LIMIT :limit
"""
_OF_JOB = "AND events.item = :item"
_OF_OWNER = "AND events.item IN (SELECT id FROM items WHERE owner = :owner)"
_WAITING = """
SELECT owner, min(created) FROM items WHERE state = 'not_sent' AND (:owner IS NULL OR owner = :owner) GROUP BY owner
"""
_MONEY = """
SELECT coalesce(owner, ''), total(cost), total(unknown), total(reserved) FROM items WHERE (:owner IS NULL OR owner = :owner) GROUP BY owner
"""
_ENDED = frozenset({"refused", "failed", "in_doubt", "lost", "cancelled", "saved", "unsaved"})

_of_parent: list[object] = []
"""Kept for ever in a forked child, which must not close its parent's connections."""


class EventRow(msgspec.Struct, frozen=True):
    """One change of one job. ``over``: nothing more happens to the job by itself."""

    number: int
    item: str
    owner: str
    state: str
    at: float
    note: str | None
    over: bool = False


class OwnerRow(msgspec.Struct, kw_only=True):
    """What a queue has of one owner. Money is in US dollars; ``oldest`` is a Unix time."""

    counts: dict[str, int] = msgspec.field(default_factory=dict)
    oldest: float | None = None
    cost: float = 0.0
    unknown: float = 0.0
    reserved: float = 0.0


class QueueReader:
    """Reads one queue, from any loop and any thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._reset()
        after_fork(self, QueueReader._forget_parent)

    def _reset(self) -> None:
        self._mutex = threading.Lock()
        self._database: sqlite3.Connection | None = None

    def _forget_parent(self) -> None:
        _of_parent.append(self._database)
        self._reset()

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do something with a connection that only reads, in a thread, and in one transaction."""
        return await run_in_thread(lambda: self._read(work))

    def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with self._mutex:
            try:
                if self._database is None:
                    self._database = open_readable(self.path)
                database = self._database
                database.execute("BEGIN")
                try:
                    return work(database)
                finally:
                    database.execute("ROLLBACK")
            except sqlite3.Error as error:
                self._close()
                raise wrap_error("read", error, self.path) from error

    def close(self) -> None:
        """Close the file; a later read opens it again."""
        with self._mutex:
            self._close()

    def _close(self) -> None:
        database, self._database = self._database, None
        if database is not None:
            database.close()


def list_jobs(
    database: sqlite3.Connection, *, owner: str | None, states: tuple[str, ...], before: int | None, limit: int
) -> list[JobRow]:
    """List jobs, the newest first; ``before``: those that were put before this place."""
    chosen = f"AND state IN ({', '.join('?' * len(states))})" if states else ""
    where = "owner = ?" if owner is not None else "? IS NULL"
    clause = f"WHERE {where} AND position < ? {chosen} ORDER BY position DESC LIMIT ?"
    return read_jobs(database, clause, (owner, before if before is not None else 2**62, *states, limit))


def read_events(
    database: sqlite3.Connection, after: int, *, item: str | None = None, owner: str | None = None, limit: int = PAGE
) -> list[EventRow]:
    """Read what happened after an event: to one job, to those of one owner, or to all."""
    saves = read_note(database, SAVES) == "1"
    where = _OF_JOB if item is not None else _OF_OWNER if owner is not None else ""
    values = {"after": after, "item": item, "owner": owner, "limit": limit}
    return [
        EventRow(number, job, whose, state, at, note, over=state in _ENDED or (state == "done" and not saves))
        for number, job, whose, state, at, note in database.execute(_EVENTS.format(where), values).fetchall()
    ]


def read_last_event(database: sqlite3.Connection) -> int:
    """The number of the last event."""
    return int(database.execute("SELECT coalesce(max(number), 0) FROM events").fetchone()[0])


def read_note(database: sqlite3.Connection, key: str) -> str | None:
    """A note of the queue about itself."""
    row = database.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return None if row is None else str(row[0])


def is_queue(path: Path) -> bool:
    """Whether a journal is a queue, which many write."""
    with open_reader(path) as database:
        return read_note(database, KIND) == JOBS


def read_owners(database: sqlite3.Connection, owner: str | None) -> dict[str, OwnerRow]:
    """Count the jobs and the money of each owner."""
    owners: dict[str, OwnerRow] = {}
    counts = "SELECT owner, state, jobs FROM tally WHERE jobs > 0 AND (:owner IS NULL OR owner = :owner)"
    for name, state, jobs in database.execute(counts, {"owner": owner}).fetchall():
        owners.setdefault(name, OwnerRow()).counts[state] = jobs
    for name, oldest in database.execute(_WAITING, {"owner": owner}).fetchall():
        owners.setdefault(name or "", OwnerRow()).oldest = oldest
    for name, cost, unknown, reserved in database.execute(_MONEY, {"owner": owner}).fetchall():
        row = owners.setdefault(name, OwnerRow())
        row.cost, row.unknown, row.reserved = cost, unknown, reserved
    return owners


class Watcher:
    """Notices what any process has changed, in a thread of its own that lives while somebody waits.

    ``waiter`` is told in the thread of each page of events; one that has just been added is told of none, too, so that it
    looks for itself.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reset()
        after_fork(self, Watcher._forget_parent)

    def _reset(self) -> None:
        self._mutex = threading.Lock()
        self._changed = threading.Event()
        self._waiters: dict[Callable[[list[EventRow]], object], None] = {}
        self._thread: threading.Thread | None = None
        self._database: sqlite3.Connection | None = None

    def _forget_parent(self) -> None:
        _of_parent.extend((self._database, self._thread))
        self._reset()

    def note_commit(self) -> None:
        """This process has changed the file: look at once."""
        self._changed.set()

    def add(self, waiter: Callable[[list[EventRow]], object]) -> None:
        """Tell this function from now on. What has happened before, it finds itself."""
        with self._mutex:
            if waiter in self._waiters and self._thread is not None:
                return
            self._waiters[waiter] = None
            if self._thread is None:
                self._thread = start_thread(self._watch, "videorouter-jobs-events")
        waiter([])

    def remove(self, waiter: Callable[[list[EventRow]], object]) -> None:
        """Tell it no more."""
        with self._mutex:
            self._waiters.pop(waiter, None)

    def _tell(self, events: list[EventRow]) -> None:
        with self._mutex:
            waiters = list(self._waiters)
        for waiter in waiters:
            waiter(events)

    def _watch(self) -> None:
        version, last = -1, -1
        alone_since = time.monotonic()
        while True:
            try:
                if self._database is None:
                    self._database = open_readable(self._path)
                    last, version = read_last_event(self._database), -1
                    self._tell([])
                now = self._database.execute("PRAGMA data_version").fetchone()[0]
                if now != version:
                    version = now
                    while events := read_events(self._database, last):
                        last = events[-1].number
                        self._tell(events)
            except (
                sqlite3.Error,
                JournalError,
            ):  # it is there again in a moment, or those who wait run into it themselves
                self._close()
            if self._waiters:
                alone_since = time.monotonic()
            elif time.monotonic() - alone_since > _LINGER:
                with self._mutex:
                    if not self._waiters:
                        self._close()
                        self._thread = None
                        return
            self._changed.wait(LOOK)
            self._changed.clear()

    def _close(self) -> None:
        database, self._database = self._database, None
        if database is not None:
            with contextlib.suppress(sqlite3.Error):
                database.close()
