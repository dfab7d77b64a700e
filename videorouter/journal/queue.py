"""A journal that is a queue as well: what its askers write, and what its one runner writes.

A row of ``items`` is a job's place in the queue and its journal in one, so that there are no two states to keep equal. What
changes a state leaves a numbered event by a trigger of the file itself: no writer can forget one. Each statement here takes
a group of rows, since a busy event loop may hold up a thread at each statement.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from typing import TYPE_CHECKING, Any

import msgspec

from videorouter.errors import JournalBusyError, JournalError, JournalMismatchError, QueueFullError, VideoRouterError
from videorouter.journal.journal import ARCHIVE, COLUMNS, Journal, settle_item
from videorouter.journal.shared import SharedWriter
from videorouter.journal.states import SETTLED, ItemRow, list_sources
from videorouter.loops import PerLoop, UncancellableFuture

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from videorouter.journal.journal import Settlement

PATIENCE = 30.0
"""Seconds to wait for the disk before a put is told as failed."""
KIND = "kind"
JOBS = "jobs"
"""The note of a journal that is a queue."""
OVER = ("done", "refused", "failed", "in_doubt", "lost", "cancelled")
"""States in which nothing more happens to a job by itself; one that is done may still have files to save."""
_NOW = "(julianday('now') - 2440587.5) * 86400"
_OVER = ", ".join(map(repr, OVER))
_RESTING = "({0}.state = 'not_sent' AND {0}.epoch IS NOT NULL)"
"""In the runner's hands, and not on the wire: it waits out a refusal. Nobody is told of that."""
_UNSAVED = """
(SELECT count(*) FROM files WHERE item = items.id AND saved IS NOT NULL) < coalesce(json_array_length(result, '$.videos'), 0)
"""
TABLES = f"""
CREATE TABLE IF NOT EXISTS tally (             -- how many jobs of an owner are in a state
  owner TEXT NOT NULL,
  state TEXT NOT NULL,
  jobs  INTEGER NOT NULL,
  PRIMARY KEY (owner, state)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS jobs_queued ON items (model, priority, owner, position) WHERE state = 'not_sent' AND epoch IS NULL;
CREATE INDEX IF NOT EXISTS jobs_owned ON items (owner, position);
CREATE INDEX IF NOT EXISTS jobs_events ON events (item);
CREATE TRIGGER IF NOT EXISTS jobs_put AFTER INSERT ON items BEGIN
  INSERT INTO events (item, state, at) VALUES (new.id, new.state, {_NOW});
  INSERT INTO tally VALUES (coalesce(new.owner, ''), new.state, 1) ON CONFLICT DO UPDATE SET jobs = jobs + 1;
END;
CREATE TRIGGER IF NOT EXISTS jobs_moved AFTER UPDATE OF state ON items WHEN new.state <> old.state BEGIN
  UPDATE tally SET jobs = jobs - 1 WHERE owner = coalesce(new.owner, '') AND state = old.state;
  INSERT INTO tally VALUES (coalesce(new.owner, ''), new.state, 1) ON CONFLICT DO UPDATE SET jobs = jobs + 1;
END;
CREATE TRIGGER IF NOT EXISTS jobs_told AFTER UPDATE OF state ON items
WHEN new.state <> old.state AND NOT {_RESTING.format("new")} AND NOT ({_RESTING.format("old")} AND new.state = 'sending')
BEGIN
  INSERT INTO events (item, state, at, note)
    VALUES (new.id, new.state, {_NOW}, CASE WHEN new.state IN ({_OVER}) AND json_valid(new.failure)
            THEN json_extract(new.failure, '$.message') END);
  INSERT INTO outbox (event, item, due) SELECT last_insert_rowid(), new.id, {_NOW}
    WHERE new.notify IS NOT NULL AND new.state IN ({_OVER});
END;
CREATE TRIGGER IF NOT EXISTS jobs_forgotten AFTER DELETE ON items BEGIN
  UPDATE tally SET jobs = jobs - 1 WHERE owner = coalesce(old.owner, '') AND state = old.state;
END;
CREATE TRIGGER IF NOT EXISTS jobs_saved AFTER UPDATE OF saved ON files WHEN new.saved IS NOT NULL AND old.saved IS NULL
BEGIN
  INSERT INTO events (item, state, at) SELECT id, 'saved', {_NOW} FROM items WHERE id = new.item AND NOT ({_UNSAVED});
END;
"""  # noqa: S608
"""What a queue's file has beside the tables of every journal."""
JOB_COLUMNS = (*COLUMNS, "owner", "key", "priority", "options", "notify", "epoch")


class JobRow(ItemRow, frozen=True, kw_only=True):
    """The row of one job."""

    owner: str | None = None
    key: str | None = None
    priority: int = 0
    options: str | None = None
    notify: str | None = None
    epoch: int | None = None
    files: str | None = None
    """JSON: the paths of its saved files."""
    over: bool = False
    """Whether nothing more happens to it by itself, its files included."""
    event: int = 0
    """The number of its last event."""


class NewJob(msgspec.Struct, frozen=True, kw_only=True):
    """A job that is about to be put. Its fields are columns, in the order of ``_INSERT``."""

    id: str
    digest: str
    verb: str
    model: str
    request: str
    owner: str
    key: str | None = None
    priority: int = 0
    options: str | None = None
    notify: str | None = None
    meta: str | None = None


SAVES = "saves"
"""The note of a queue whose runner saves files: ``1``."""
_MORE = f"""
(state = 'done' AND (SELECT value FROM meta WHERE key = '{SAVES}') = '1' AND {_UNSAVED}
 AND NOT EXISTS (SELECT 1 FROM events WHERE events.item = items.id AND events.state = 'unsaved'))
"""  # noqa: S608
"""The condition of a job whose files are still to be saved."""
_BESIDE = f"""
(SELECT json_group_array(path) FROM files WHERE files.item = items.id AND saved IS NOT NULL),
state IN ({_OVER}) AND NOT {_MORE}, (SELECT max(number) FROM events WHERE events.item = items.id)
"""  # noqa: S608
SELECT = f"SELECT {', '.join(f'items.{column}' for column in JOB_COLUMNS)}, {_BESIDE} FROM items"  # noqa: S608  our own columns
_INSERT = """
INSERT INTO items (id, position, state, digest, verb, model, request, owner, key, priority, options, notify, meta, created)
SELECT j.value ->> 0, :first + j.key, 'not_sent', j.value ->> 1, j.value ->> 2, j.value ->> 3, j.value ->> 4, j.value ->> 5,
       j.value ->> 6, j.value ->> 7, j.value ->> 8, j.value ->> 9, j.value ->> 10, :now
FROM json_each(:jobs) AS j
"""
_KNOWN = """
SELECT j.key, items.id, items.digest FROM json_each(?) AS j
  JOIN items ON items.owner = j.value ->> 0 AND items.key = j.value ->> 1 WHERE items.key IS NOT NULL
"""
_ARRIVED = "UPDATE meta SET value = value + ? WHERE key = 'arrived' RETURNING value"
_QUEUED = "SELECT total(jobs) FROM tally WHERE state = 'not_sent'"
_RETRY = """
UPDATE items SET state = 'not_sent', epoch = NULL, number = NULL, failure = NULL, phase = NULL, status = NULL
  WHERE id = ? AND state IN ({}) AND request IS NOT NULL AND coalesce(CASE WHEN json_valid(failure) THEN json_extract(failure, '$.code') END, '') <> ?
"""
_encode = msgspec.json.Encoder().encode


def make_queue(database: sqlite3.Connection) -> None:
    """Make a journal a queue; refuse one that a batch has written."""
    kind = database.execute("SELECT value FROM meta WHERE key = ?", (KIND,)).fetchone()
    if kind is None:
        if database.execute("SELECT EXISTS (SELECT 1 FROM items)").fetchone()[0]:
            raise JournalError(
                "This is the journal of a batch, not a queue of jobs: the batch would not know them. Nothing was written. "
                "Pass another path."
            )
        for statement in _split(TABLES):
            database.execute(statement)
        database.execute("INSERT INTO meta VALUES (?, ?), ('arrived', 0), ('epoch', 0)", (KIND, JOBS))
    elif kind[0] != JOBS:
        raise JournalError(
            f"This journal is of an unknown kind, {kind[0]!r}. Upgrade videorouter, or pass another path."
        )


def _split(statements: str) -> list[str]:
    """``executescript`` would commit: the tables are made in one transaction with the note that they are there."""
    found, part = [], ""
    for line in statements.splitlines(keepends=True):
        part += line
        if sqlite3.complete_statement(part):
            found.append(part)
            part = ""
    return found


def insert_jobs(
    database: sqlite3.Connection, jobs: list[NewJob], *, most: int | None, together: bool
) -> list[JobRow | VideoRouterError]:
    """Put jobs into the queue; what has a key that is known gives the job as it stands.

    ``most`` is how many may wait to be sent. ``together``: all are put or, where one cannot be, none.
    """
    results: list[Any] = [None] * len(jobs)
    known: dict[tuple[str, str], tuple[str, str]] = {}
    keyed = [(number, job) for number, job in enumerate(jobs) if job.key is not None]
    if keyed:
        asked = _encode([(job.owner, job.key) for _, job in keyed]).decode()
        for place, item, digest in database.execute(_KNOWN, (asked,)).fetchall():
            job = keyed[place][1]
            known[job.owner, str(job.key)] = (item, digest)
    fresh: list[NewJob] = []
    found: dict[int, str] = {}
    for number, job in enumerate(jobs):
        if job.key is not None:
            there = known.setdefault((job.owner, job.key), (job.id, job.digest))
            if there[1] != job.digest:
                results[number] = _name_mismatch(job, there[0])
                continue
            found[number] = there[0]
            if there[0] != job.id:
                continue
        else:
            found[number] = job.id
        fresh.append(job)
    if most is not None and fresh:
        room = most - int(database.execute(_QUEUED).fetchone()[0])
        if len(fresh) > room:
            if together:
                return [_name_full(most)]
            out = {job.id for job in fresh[max(0, room) :]}
            fresh = fresh[: max(0, room)]
            for number, item in list(found.items()):
                if item in out:
                    results[number] = _name_full(most)
                    del found[number]
    if together and any(results):
        return [next(filter(None, results))]
    rows: dict[str, JobRow] = {}
    if fresh:
        now, first = time.time(), int(database.execute(_ARRIVED, (len(fresh),)).fetchone()[0]) - len(fresh)
        values = [msgspec.structs.astuple(job) for job in fresh]
        database.execute(_INSERT, {"first": first, "jobs": _encode(values).decode(), "now": now})
        event = int(database.execute("SELECT max(number) FROM events").fetchone()[0]) - len(fresh) + 1
        for number, job in enumerate(fresh):  # what was written need not be read
            written = msgspec.structs.asdict(job)
            rows[job.id] = JobRow(
                **written, position=first + number, state="not_sent", created=now, event=event + number
            )
    old = [item for item in found.values() if item not in rows]
    rows.update((row.id, row) for row in (find_jobs(database, old) if old else ()))
    for number, item in found.items():
        results[number] = rows[item]
    return results


def _name_mismatch(job: NewJob, item: str) -> JournalMismatchError:
    return JournalMismatchError(
        f"The key {job.key!r} is that of job {item}, which asks for something else. Nothing was put. One key is one request: "
        "give the changed request another key."
    )


def _name_full(most: int) -> QueueFullError:
    return QueueFullError(
        f"{most:,} jobs wait to be sent, as many as max_queued allows. Nothing was put and nothing will be bought. Put it again "
        "when some have been sent."
    )


def find_jobs(database: sqlite3.Connection, items: list[str]) -> list[JobRow]:
    """Return the rows of jobs."""
    return read_jobs(database, "WHERE id IN (SELECT value FROM json_each(?))", (_encode(items).decode(),))


_OF_OWNER = "(:owner IS NULL OR owner = :owner)"


def read_jobs(
    database: sqlite3.Connection, clause: str, values: tuple[object, ...] | dict[str, object]
) -> list[JobRow]:
    """Return the rows of jobs that a clause chooses."""
    names = (*JOB_COLUMNS, "files", "over", "event")
    rows = database.execute(f"{SELECT} {clause}", values).fetchall()
    return [JobRow(**dict(zip(names, row, strict=True))) for row in rows]


def cancel_job(database: sqlite3.Connection, item: str, owner: str | None) -> JobRow | None:
    """Take a job back if it is not sent; returns it as it then stands, and ``None`` where the owner has no such job."""
    sources = ", ".join(map(repr, list_sources("cancellation", "cancelled")))
    database.execute(
        f"UPDATE items SET state = 'cancelled', finished = :now WHERE id = :item AND state IN ({sources}) AND {_OF_OWNER}",  # noqa: S608
        {"item": item, "now": time.time(), "owner": owner},
    )
    return find_job(database, item, owner)


def retry_job(database: sqlite3.Connection, item: str, owner: str | None) -> tuple[JobRow | None, bool]:
    """Put a job back that was refused, has failed or was cancelled; returns it, and whether that was so."""
    if find_job(database, item, owner) is None:
        return None, False
    sources = (*list_sources("retry", "not_sent"), *list_sources("cancellation", "not_sent"))
    states = ", ".join(map(repr, sources))
    database.execute(f"{ARCHIVE} state IN ({states})", (item,))
    changed = database.execute(_RETRY.format(states), (item, SETTLED)).rowcount > 0
    return find_job(database, item, owner), changed


def settle_job(
    database: sqlite3.Connection,
    item: str,
    owner: str | None,
    settlement: Settlement,
    *,
    cost: float | None = None,
    url: str | None = None,
    video_id: str | None = None,
) -> tuple[JobRow | None, bool]:
    """Write down what a person has decided of a job in doubt; returns it, and whether there was a doubt."""
    if find_job(database, item, owner) is None:
        return None, False
    changed = settle_item(database, item, settlement, cost=cost, url=url, video_id=video_id)
    if changed:
        database.execute("UPDATE items SET epoch = NULL WHERE id = ? AND state = 'not_sent'", (item,))
    return find_job(database, item, owner), changed


def find_job(database: sqlite3.Connection, item: str, owner: str | None = None) -> JobRow | None:
    """Return the row of a job, if it is this owner's."""
    return next(iter(read_jobs(database, f"WHERE id = :item AND {_OF_OWNER}", {"item": item, "owner": owner})), None)


_OLD = f"""
state IN ('done', 'refused', 'failed', 'cancelled') AND unknown = 0 AND finished < :before AND {_OF_OWNER}
  AND (key IS NULL OR request IS NOT NULL)
  AND NOT EXISTS (SELECT 1 FROM outbox WHERE outbox.item = items.id)
"""  # noqa: S608
_PRUNED = 500
_THESE = "IN (SELECT value FROM json_each(?))"
PRUNED = "pruned"
"""The note of a queue that has the US dollars which forgotten jobs have cost."""
_PRUNE = (
    f"""INSERT INTO meta SELECT '{PRUNED}', total(cost) FROM items WHERE key IS NULL AND id {_THESE}
        ON CONFLICT (key) DO UPDATE SET value = value + excluded.value""",  # noqa: S608
    *(f"DELETE FROM {table} WHERE item {_THESE}" for table in ("files", "inline", "sendings", "events")),  # noqa: S608
    f"DELETE FROM items WHERE key IS NULL AND id {_THESE}",  # noqa: S608
    f"UPDATE items SET request = NULL, result = NULL, failure = NULL, meta = NULL, options = NULL WHERE id {_THESE}",  # noqa: S608
)


def prune_jobs(database: sqlite3.Connection, before: float, owner: str | None) -> int:
    """Forget some jobs that ended before a Unix time; what has a key keeps it, its digest, its state and its money."""
    old = f"SELECT id FROM items WHERE {_OLD} LIMIT {_PRUNED}"  # noqa: S608
    chosen = [row[0] for row in database.execute(old, {"before": before, "owner": owner})]
    if not chosen:
        return 0
    named = (_encode(chosen).decode(),)
    for statement in _PRUNE:
        database.execute(statement, named)
    return len(chosen)


class QueueJournal(Journal):
    """A journal that is a queue, open for one of its many writers. It needs no opening and no closing.

    ``committed`` is called in the writer's thread after each commit.
    """

    writer: SharedWriter

    def __init__(self, path: Path, *, committed: Callable[[], None] = lambda: None) -> None:
        writer = SharedWriter(path, prepare=make_queue, committed=committed)
        super().__init__(path, writer=writer)
        self._putting: PerLoop[list[tuple[NewJob, asyncio.Future[JobRow]]]] = PerLoop(list)

    async def settle(
        self,
        item: str,
        settlement: Settlement,
        *,
        cost: float | None = None,
        url: str | None = None,
        video_id: str | None = None,
    ) -> bool:
        """As ``Journal.settle``, beside a living runner."""

        def work(database: sqlite3.Connection) -> bool:
            return settle_job(database, item, None, settlement, cost=cost, url=url, video_id=video_id)[1]

        return await self.writer.do("settle", work)

    async def put(self, job: NewJob, *, most: int | None) -> JobRow:
        """Put a job, with what else this turn of the loop puts; it is durable when this returns."""
        loop = asyncio.get_running_loop()
        group = self._putting.find()
        if not group:
            loop.call_soon(self._put_group, group, most)
        future: asyncio.Future[JobRow] = UncancellableFuture(loop=loop)
        group.append((job, future))
        return await future

    def _put_group(self, gathered: list[tuple[NewJob, asyncio.Future[JobRow]]], most: int | None) -> None:
        group = gathered.copy()
        gathered.clear()
        jobs = [job for job, _ in group]
        timer = asyncio.get_running_loop().call_later(PATIENCE, self._give_up, [future for _, future in group])
        written = self.writer.hand_over("put", lambda database: insert_jobs(database, jobs, most=most, together=False))

        def tell(ended: asyncio.Future[list[JobRow | VideoRouterError]]) -> None:
            timer.cancel()
            error = ended.exception()
            results = [error] * len(group) if error is not None else ended.result()
            for (_, future), result in zip(group, results, strict=True):
                if future.done():
                    continue
                if isinstance(result, BaseException):
                    future.set_exception(result)
                elif result is not None:
                    future.set_result(result)

        written.add_done_callback(tell)

    def _give_up(self, futures: list[asyncio.Future[JobRow]]) -> None:
        for future in futures:
            if not future.done():
                future.set_exception(self._name_busy())

    def _name_busy(self) -> JournalBusyError:
        return JournalBusyError(
            f"{self.path} could not be written for {PATIENCE:g} s: another program holds it. It may be put all the same: put it again "
            "by its key.",
            path=str(self.path),
        )

    async def put_all(self, jobs: list[NewJob], *, most: int | None) -> list[JobRow]:
        """Put jobs in one commit, all or none."""
        written = self.writer.hand_over("put", lambda database: insert_jobs(database, jobs, most=most, together=True))
        await asyncio.wait({written}, timeout=PATIENCE)
        if not written.done():
            written.add_done_callback(asyncio.Future.exception)  # nobody asks any more
            raise self._name_busy()
        results = written.result()
        for result in results:
            if isinstance(result, VideoRouterError):
                raise result
        return [row for row in results if isinstance(row, JobRow)]
