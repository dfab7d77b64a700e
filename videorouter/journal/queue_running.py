"""What the one runner of a queue writes: its claims, how what it sent ended, and what it takes over from an earlier one.

A claim is one compare-and-set on a job's state and on the runner's epoch, and it is the intent: it decides against a
cancellation, a settlement and a second runner. How a sending ended is not fenced: what a runner learns late was paid for.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from videorouter.errors import ClientClosedError, JournalError
from videorouter.journal.journal import ARCHIVE, CRASH_NOTE, Ending, Journal, write_ending
from videorouter.journal.queue import JobRow, find_jobs, read_jobs
from videorouter.journal.states import list_sources
from videorouter.journal.writer import INTENT

if TYPE_CHECKING:
    import sqlite3
    from pathlib import Path

    from videorouter.journal.journal import Intent
    from videorouter.journal.shared import SharedWriter
    from videorouter.locks import WriterLock

MOST_OWNERS = 1000
"""Owners that one choice looks at: the next choice goes on after them."""
_FENCE = "(SELECT value FROM meta WHERE key = 'epoch') = :epoch"
_QUEUED = "FROM items WHERE state = 'not_sent' AND epoch IS NULL AND model = ?"
_NEXT_MODEL = "SELECT min(model) FROM items WHERE state = 'not_sent' AND epoch IS NULL AND model > ?"
_TOP = f"SELECT max(priority) {_QUEUED} AND priority < ?"
_NEXT_OWNER = f"SELECT min(owner) {_QUEUED} AND priority = ? AND owner > ?"
_FIRST = f"SELECT id {_QUEUED} AND priority = ? AND owner = ? ORDER BY position LIMIT ?"
_CLAIM = f"""
UPDATE items SET state = 'sending', epoch = :epoch, idempotency_key = j.value ->> 1, reserved = j.value ->> 2,
  sends = sends + 1, number = sends + 1, sent = :now, phase = NULL, status = NULL, task_id = NULL, poll_url = NULL,
  request_id = NULL, result = NULL, failure = NULL, accepted = NULL, finished = NULL
FROM json_each(:claims) AS j
WHERE items.id = j.value ->> 0 AND state = 'not_sent' AND items.epoch IS NULL AND {_FENCE} RETURNING items.id
"""  # noqa: S608
_REST = "UPDATE items SET state = 'not_sent' WHERE id = :id AND state = 'sending' AND epoch = :epoch"
_UNREST = "UPDATE items SET state = 'sending' WHERE id = :id AND state = 'not_sent' AND epoch = :epoch"
_CLAIM_AGAIN = f"{_UNREST} AND {_FENCE}"
_FOUND_LATE = """
UPDATE items SET state = 'sending', unknown = CASE WHEN sends = 1 THEN 0 ELSE unknown END
  WHERE id = :id AND state = 'in_doubt' AND epoch = :epoch
"""
_PUT_BACK = "UPDATE items SET epoch = NULL WHERE id = ? AND state = 'not_sent'"
_UNCLAIM = f"""
UPDATE items SET state = 'not_sent', epoch = NULL, reserved = 0, sends = sends - 1, number = nullif(sends - 1, 0), sent = NULL
  WHERE id IN (SELECT value FROM json_each(?)) AND state IN ({", ".join(map(repr, list_sources("ending", "not_sent")))})
"""  # noqa: S608
_BURY = """
UPDATE items SET state = 'in_doubt', unknown = unknown + reserved, reserved = 0, failure = coalesce(failure, :note)
  WHERE state = 'sending' AND (epoch IS NULL OR epoch NOT IN (SELECT value FROM json_each(:living)))
"""
_UNHAND = """
UPDATE items SET epoch = NULL WHERE state = 'not_sent' AND epoch IS NOT NULL AND epoch NOT IN (SELECT value FROM json_each(:living))
"""
_ADOPT = "UPDATE items SET epoch = :epoch WHERE state IN ('accepted', 'lost') AND epoch IS NOT :epoch RETURNING id"
_UNSAVED = """
WHERE state = 'done' AND json_valid(result) AND (SELECT count(*) FROM files WHERE item = items.id AND saved IS NOT NULL)
  < json_array_length(result, '$.videos') AND id > ? ORDER BY id LIMIT 500
"""
_ELDERS = """
SELECT coalesce(owner, ''), count(*) FROM items WHERE state = 'sending' AND epoch <> ? GROUP BY owner
"""
_SPENT = """
SELECT total(reserved), total(CASE WHEN coalesce(sent, created) >= :since THEN cost END)
         + coalesce((SELECT value FROM meta WHERE key = 'pruned' AND :since <= 0 AND :owner IS NULL), 0),
       total(CASE WHEN coalesce(sent, created) >= :since THEN unknown END) FROM items
"""
_SPENT_BY = f"{_SPENT} WHERE owner = :owner"
_encode = msgspec.json.Encoder().encode


class Claim(msgspec.Struct, frozen=True):
    """A job that is about to be sent, with its idempotency key and the US dollars that are held for it."""

    id: str
    key: str
    reserved: float = 0.0


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """Which jobs of a model may be sent next.

    ``number`` is how many at most, ``running`` how many of each owner run, ``per_owner`` how many may, and ``most`` how many
    more of some owners may. The owner whose turn it is comes after ``after``.
    """

    model: str
    number: int
    running: Mapping[str, int]
    per_owner: int | None = None
    most: Mapping[str, int] = msgspec.field(default_factory=dict)
    after: str = ""


def choose(database: sqlite3.Connection, choice: Choice) -> list[str]:
    """Choose by priority, then the owner with the fewest running, in turn, then the order of arrival."""
    chosen: list[str] = []
    running = dict(choice.running)
    taken: dict[str, int] = {}
    level = 2**62
    while len(chosen) < choice.number:
        level = database.execute(_TOP, (choice.model, level)).fetchone()[0]
        if level is None:
            break
        owners = _list_owners(database, choice, level, running, taken)
        while owners and len(chosen) < choice.number:
            owner = min(owners, key=lambda name: running.get(name, 0))  # of equal ones the first, whose turn it is
            waiting = owners[owner]
            if not waiting:
                waiting.extend(
                    row[0]
                    for row in database.execute(_FIRST, (choice.model, level, owner, choice.number)).fetchall()
                    if row[0] not in chosen
                )
                waiting.reverse()
            if not waiting:
                del owners[owner]
                continue
            chosen.append(waiting.pop())
            running[owner] = running.get(owner, 0) + 1
            taken[owner] = taken.get(owner, 0) + 1
            if not _may_run(choice, owner, running, taken):
                del owners[owner]
    return chosen


def _list_owners(
    database: sqlite3.Connection, choice: Choice, level: int, running: Mapping[str, int], taken: Mapping[str, int]
) -> dict[str, list[str]]:
    """The owners with jobs of a priority, in turn; no more than can be needed."""
    owners: dict[str, list[str]] = {}
    idle = 0
    ends: tuple[tuple[str | None, str | None], ...] = ((choice.after, None), (None, choice.after))
    for start, end in ends:
        name = start
        if name is None and database.execute(_FIRST, (choice.model, level, "", 1)).fetchone() is not None:
            owner: str | None = ""
        else:
            owner = database.execute(_NEXT_OWNER, (choice.model, level, name or "")).fetchone()[0]
        while owner is not None and (end is None or owner <= end):
            if _may_run(choice, owner, running, taken):
                owners[owner] = []
                idle += not running.get(owner, 0)
            if idle >= choice.number or len(owners) >= MOST_OWNERS:
                return owners
            owner = database.execute(_NEXT_OWNER, (choice.model, level, owner)).fetchone()[0]
    return owners


def _may_run(choice: Choice, owner: str, running: Mapping[str, int], taken: Mapping[str, int]) -> bool:
    if choice.per_owner is not None and running.get(owner, 0) >= choice.per_owner:
        return False
    return taken.get(owner, 0) < choice.most.get(owner, choice.number)


def list_models(database: sqlite3.Connection) -> list[str]:
    """List the models of the jobs that wait."""
    models: list[str] = []
    model = database.execute(_NEXT_MODEL, ("",)).fetchone()[0]
    while model is not None:
        models.append(model)
        model = database.execute(_NEXT_MODEL, (model,)).fetchone()[0]
    return models


def take_over(database: sqlite3.Connection, epoch: int, living: list[int]) -> None:
    """Begin a runner's epoch: what an ended runner was sending is in doubt from now on."""
    database.execute("UPDATE meta SET value = ? WHERE key = 'epoch' AND CAST(value AS INTEGER) < ?", (epoch, epoch))
    bury(database, living)


def bury(database: sqlite3.Connection, living: list[int]) -> None:
    """What runners that have ended were sending is in doubt, and what they had in hand waits again."""
    values = {"note": CRASH_NOTE, "living": _encode(living).decode()}
    database.execute(_BURY, values)
    database.execute(_UNHAND, values)


class RunnerJournal(Journal):
    """A queue's journal as its runner writes it, in one epoch."""

    writer: SharedWriter

    def __init__(self, path: Path, writer: SharedWriter, lock: WriterLock) -> None:
        super().__init__(path, writer=writer)
        self._lock = lock
        self.epoch: int = 0

    async def read_epoch(self) -> int:
        """The last epoch that has begun."""
        query = "SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'epoch'"
        return await self.writer.do("find", lambda database: int(database.execute(query).fetchone()[0]))

    async def begin(self, epoch: int, living: list[int]) -> None:
        """Begin an epoch."""
        self.epoch = epoch
        await self.writer.do(INTENT, lambda database: take_over(database, epoch, living))

    async def choose(self, choice: Choice) -> list[JobRow]:
        """Choose jobs, without claiming them."""
        return await self.writer.do("find", lambda database: find_jobs(database, choose(database, choice)))

    async def claim_jobs(self, claims: list[Claim]) -> list[JobRow]:
        """Commit that these jobs are about to be sent, those that still may be; until then they must not."""
        return await self.writer.do(INTENT, lambda database: self._claim(database, claims))

    async def claim_next(self, choice: Choice, keys: list[str]) -> list[JobRow]:
        """Choose and claim in one."""

        def work(database: sqlite3.Connection) -> list[JobRow]:
            chosen = choose(database, choice)
            return self._claim(database, [Claim(*pair) for pair in zip(chosen, keys, strict=False)])

        return await self.writer.do(INTENT, work)

    def _claim(self, database: sqlite3.Connection, claims: list[Claim]) -> list[JobRow]:
        if not claims:
            return []
        self._lock.check()
        before = find_jobs(database, [claim.id for claim in claims])
        sent = [(row.id,) for row in before if row.number is not None and row.state == "not_sent"]
        if sent:
            database.executemany(f"{ARCHIVE} state = 'not_sent' AND epoch IS NULL", sent)
        values = {
            "epoch": self.epoch,
            "now": time.time(),
            "claims": _encode([msgspec.structs.astuple(claim) for claim in claims]).decode(),
        }
        claimed = {row[0] for row in database.execute(_CLAIM, values).fetchall()}
        if not claimed and any(row.state == "not_sent" and row.epoch is None for row in before):
            raise JournalError(
                "Another process has become the runner of this queue. Nothing was sent.", path=str(self.path)
            )
        keys = {claim.id: claim for claim in claims}
        return [  # what was known of an earlier sending stays on these rows: it decides what a refusal means
            msgspec.structs.replace(
                row, idempotency_key=keys[row.id].key, reserved=keys[row.id].reserved, sends=row.sends + 1
            )
            for row in before
            if row.id in claimed
        ]

    async def refuse(self, item: str, failure: str) -> None:
        """Commit that a waiting job cannot be sent."""
        query = "UPDATE items SET state = 'refused', failure = :failure, finished = :now WHERE id = :id AND state = 'not_sent'"
        await self._execute("refusal", query, {"id": item, "failure": failure, "now": time.time()})

    async def rest(self, item: str) -> None:
        """Commit that a claimed job was refused for now and is not on the wire."""
        await self._execute("rest", _REST, {"id": item, "epoch": self.epoch})

    async def record_intent(self, intent: Intent) -> str:
        """Commit that a job that was refused is about to be sent again. What was cancelled meanwhile is not."""
        values = {"id": intent.id, "epoch": self.epoch}

        def work(database: sqlite3.Connection) -> int:
            self._lock.check()
            return database.execute(_CLAIM_AGAIN, values).rowcount

        if not await self.writer.do(INTENT, work):
            raise ClientClosedError(
                f"Job {intent.id} was cancelled, or another process runs its queue. It was not sent."
            )
        return intent.id

    async def record_ending(self, ending: Ending) -> None:
        """Commit how a sending ended; what was not sent waits again."""
        now = time.time()

        def work(database: sqlite3.Connection) -> None:
            values = {"id": ending.id, "epoch": self.epoch}
            written = write_ending(database, ending, now)
            # It waited out a refusal; or another runner gave it up, since this one's locks had been deleted.
            earlier = _FOUND_LATE if ending.state in {"done", "accepted"} else _UNREST
            if not written and any(database.execute(query, values).rowcount for query in {_UNREST, earlier}):
                written = write_ending(database, ending, now)
            if written and ending.state == "not_sent":
                database.execute(_PUT_BACK, (ending.id,))

        await self.writer.do("ending", work)

    async def unclaim(self, items: list[str]) -> None:
        """Commit that claimed jobs will not be sent by this runner."""
        await self.writer.do("transact", lambda database: database.execute(_UNCLAIM, (_encode(items).decode(),)))

    async def adopt(self) -> list[JobRow]:
        """Take up the accepted jobs that this runner does not follow yet."""

        def work(database: sqlite3.Connection) -> list[JobRow]:
            found = [row[0] for row in database.execute(_ADOPT, {"epoch": self.epoch}).fetchall()]
            return find_jobs(database, found)

        return await self.writer.do("transact", work)

    async def bury(self, living: list[int]) -> None:
        """Do for runners that have ended since what the takeover did."""
        await self.writer.do("transact", lambda database: bury(database, living))

    async def list_unsaved(self, after: str) -> list[JobRow]:
        """List jobs whose files are missing, from one id on."""
        return await self.writer.do("find", lambda database: read_jobs(database, _UNSAVED, (after,)))

    async def read_jobs(self, items: list[str]) -> list[JobRow]:
        """Read jobs as they stand."""
        return await self.writer.do("find", lambda database: find_jobs(database, items))

    async def list_models(self) -> list[str]:
        """List the models of the jobs that wait."""
        return await self.writer.do("find", list_models)

    async def count_elders(self) -> dict[str, int]:
        """Count what earlier runners still have on the wire, by owner."""
        return await self.writer.do("find", lambda db: dict(db.execute(_ELDERS, (self.epoch,)).fetchall()))

    async def read_spent(self, since: float, owner: str | None = None) -> tuple[float, float, float]:
        """US dollars held, spent and perhaps spent since a Unix time, by all or by one owner."""
        query = _SPENT if owner is None else _SPENT_BY
        values = {"since": since, "owner": owner}
        return await self.writer.do("find", lambda database: _three(database.execute(query, values).fetchone()))

    async def tell(self, item: str, state: str, note: str) -> None:
        """Commit an event that is no state: that a job's files could not be saved."""
        query = "INSERT INTO events (item, state, at, note) VALUES (?, ?, ?, ?)"
        values = (item, state, time.time(), note)
        await self.writer.do("note", lambda database: database.execute(query, values))


def _three(row: tuple[float, float, float]) -> tuple[float, float, float]:
    held, spent, unknown = row
    return held, spent, unknown
