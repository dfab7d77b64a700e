"""The cluster's one ledger: an actor on the driver's node that owns the journal and speaks for it to every worker.

Workers send words in groups; a group is one transaction, committed before it is answered. The ledger knows which
worker has which block of rows. A block that nobody has met, of a journal that was empty, needs no more than that: its
rows are named by their intents. When Ray runs a block again, the ledger says per row what to do: what is done is shown,
what was accepted is polled, what was being sent by a worker that has gone silent is in doubt, what was never sent runs.

A worker is taken for dead when it has said nothing for ``LEASE`` seconds and another one asks for a block of its.
That can be wrong, and nothing is lost by it: the silent one is refused its next intent, and an outcome that it still
brings is written over the doubt. This file knows no Ray, so that it can be tested without.
"""

from __future__ import annotations

import asyncio
import bisect
import itertools
import sqlite3
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec

from videorouter.errors import JournalError
from videorouter.integrations.ray.journal_rows import write_endings, write_intents
from videorouter.integrations.ray.words import (
    Accept,
    Answer,
    Claim,
    Find,
    FindFiles,
    FindInline,
    Finish,
    Intend,
    Leave,
    Meet,
    PlanFile,
    RecordFile,
    Refuse,
    Reply,
    Stop,
    Word,
    encode,
    read_words,
)
from videorouter.journal.budget import Budget, to_dollars, to_micros
from videorouter.journal.identity import name_item
from videorouter.journal.journal import (
    INSERT_REFUSED,
    SELECT_FILES,
    UPDATE_FILE,
    UPDATE_TASK,
    Ending,
    Journal,
    find_item,
    write_ending,
)
from videorouter.journal.states import FINAL, STATES

if TYPE_CHECKING:
    from collections.abc import Callable

    from videorouter.integrations.ray.journal_rows import EndingRow, IntentRow
    from videorouter.journal.states import ItemRow

LEASE = 10.0
"""Seconds of silence after which a worker's items may be taken over."""
GAP = 0.02
"""Seconds that a worker gathers words for one group, where there are few workers."""
_BUSY = 0.05
"""The same, while groups are large: then what a call costs matters more than that a request waits."""
_LARGE = 100
"""Words of a large group."""
CALLS_A_SECOND = 250.0
"""Groups a second that the ledger should get from all workers together."""
_OPENING = 15.0
"""Seconds in which the ledger of a driver that was killed has surely gone."""
_MET = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA cache_size = -65536;
CREATE TABLE met (position INTEGER PRIMARY KEY, id TEXT NOT NULL, digest TEXT);
CREATE INDEX met_id ON met (id);
CREATE TABLE takes (digest TEXT PRIMARY KEY, times INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE given (id TEXT PRIMARY KEY, position INTEGER NOT NULL) WITHOUT ROWID;
"""
_TAKE = "INSERT INTO takes VALUES (?, 1) ON CONFLICT (digest) DO UPDATE SET times = times + 1 RETURNING times"
_OF_SCHEMA_1 = """
SELECT id FROM items WHERE {} = ? AND spelling IS NOT NULL AND id GLOB spelling || '-*' ORDER BY position, created
"""
_DOUBT = """
UPDATE items SET state = 'in_doubt', unknown = unknown + reserved, reserved = 0,
  failure = coalesce(failure, ?) WHERE id = ? AND state = 'sending'
"""
_SENDING = "SELECT reserved FROM items WHERE id = ? AND state = 'sending'"
_LOST_NOTE = (
    '{"type":"OutcomeUnknownError","message":"The worker ended after the request may have left and before its outcome '
    'was recorded: it may have been billed.","in_doubt":true}'
)


class _Claim:
    """Who has a block of rows: the worker that took it last, until it leaves it."""

    __slots__ = ("rows", "worker")

    def __init__(self, rows: int, worker: str | None) -> None:
        self.rows = rows
        self.worker = worker


class Ledger:
    """The journal of a cluster.

    Args:
        path: The journal.
        max_cost: US dollars that are never exceeded, whatever the number of workers.
        key_path: A file that holds the API key; it is read once and removed.
        lease: Seconds of silence after which a worker's items may be taken over.
    """

    def __init__(
        self, path: str, *, max_cost: float | None = None, key_path: str | None = None, lease: float = LEASE
    ) -> None:
        self._path = path
        self._lease = lease
        self._key = _read_key(key_path)
        self._journal: Journal | None = None
        self._opening = asyncio.Lock()
        self._began = time.time()
        self._purse = Budget(max_cost)
        self._seen: dict[str, float] = {}
        self._fresh: bool | None = None
        self._claims: dict[int, _Claim] = {}
        self._blocks: list[int] = []
        self._held: dict[str, int] = {}
        self._lost: dict[str, int] = {}
        self._running: dict[str, set[str]] = {}
        """Requests that may give money back, by worker; kept where there is a cap."""
        self._stopped: str | None = None
        self._fatal: tuple[str, str] | None = None
        self._idler: asyncio.Task[None] | None = None
        self._met = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._met.executescript(_MET)
        self._met.execute("BEGIN")  # and never a commit: nobody else reads it, and it ends with this process
        self._do: dict[type[Word], Callable[[sqlite3.Connection, str, Any], Answer | None]] = {
            Claim: self._claim,
            Meet: self._meet,
            Accept: self._accept,
            Refuse: self._refuse,
            Leave: self._leave,
            Find: self._find,
            FindInline: self._find_inline,
            FindFiles: self._find_files,
            PlanFile: self._plan_file,
            RecordFile: self._record_file,
            Stop: self._stop,
        }

    async def open(self, wait: float = _OPENING) -> None:
        """Open the journal, also when the one of a driver that was just killed still lets go of it.

        Raises:
            JournalBusyError: Somebody else writes it.
            JournalError: It cannot be used.
        """
        async with self._opening:
            if self._journal is not None:
                return
            until = time.monotonic() + wait
            while True:
                try:
                    journal = await Journal.open(self._path)
                    break
                except JournalError as error:
                    if type(error) is JournalError or time.monotonic() >= until:
                        raise
                    await asyncio.sleep(0.25)
            for item, micros in self._held.items():
                self._lost[item] = micros
            self._held.clear()
            await journal.transact(_make_room)
            if self._fresh is None:
                await journal.drop_unreadable()
            totals = await journal.totals()
            if self._fresh is None:
                self._fresh = totals.items == 0
            self._purse = Budget(None if self._purse.cap is None else to_dollars(self._purse.cap))
            self._purse.carry_over(reserved=totals.reserved, confirmed=totals.cost, unknown=totals.unknown)
            self._journal = journal
            if self._idler is None:
                self._idler = asyncio.ensure_future(self._watch_idle())

    async def greet(self, worker: str) -> str | None:
        """A worker has started: hand it the key, unless it has its own."""
        self._seen[worker] = time.monotonic()
        return self._key

    async def workers(self) -> dict[str, float]:
        """Every worker of this run, as host, process id and a random word, and for how many seconds it was silent."""
        now = time.monotonic()
        return {worker: now - seen for worker, seen in self._seen.items()}

    async def fatal(self) -> tuple[str, str] | None:
        """What ended the whole run: the name of an error of this package, and its message."""
        return self._fatal

    async def exchange(self, worker: str, *pieces: bytes) -> bytes:
        """Take a group of words, in the pieces of ``words.cut``, commit what they say, and answer each."""
        self._seen[worker] = time.monotonic()
        words = read_words(b"".join(pieces))
        # The more workers and words, the longer each gathers: a call costs the same whatever it carries
        least = sum(1 for other in self._seen if self._is_alive(other)) / CALLS_A_SECOND
        gap = max(least, _BUSY if len(words) >= _LARGE else GAP)
        if not words:
            return encode(Reply([], stopped=self._stopped, gap=gap, least=least))
        try:
            if self._journal is None:
                await self.open()
            if self._journal is None:
                return encode(Reply([], trouble="The journal is closed.", stopped=self._stopped))
            answers = await self._journal.transact(
                lambda database: self._apply(database, worker, words),
                intends=any(type(word) is Intend for word in words),
            )
        except JournalError as error:
            self._stopped = self._stopped or str(error)
            return encode(Reply([], trouble=str(error), stopped=self._stopped))
        return encode(Reply(answers, stopped=self._stopped, gap=gap, least=least))

    async def count(self) -> dict[str, float]:
        """How the journal stands: items by state, and what they cost in US dollars."""
        await self.open()
        if self._journal is None:
            return {}

        def work(database: sqlite3.Connection) -> dict[str, float]:
            counts: dict[str, float] = dict.fromkeys(STATES, 0)
            counts.update(database.execute("SELECT state, count(*) FROM items GROUP BY state").fetchall())
            spent = database.execute("SELECT total(cost), total(unknown) FROM items").fetchone()
            return {**counts, "cost": spent[0], "cost_in_doubt": spent[1]}

        return await self._journal.transact(work)

    async def close(self) -> None:
        """Write what waits and let others write the journal. A later word opens it again."""
        async with self._opening:
            journal, self._journal = self._journal, None
            if journal is not None:
                await journal.aclose()

    async def _watch_idle(self) -> None:
        """Let go of the journal when no worker is left: `settle` and the next batch want it."""
        last = time.monotonic()
        while self._journal is not None:
            await asyncio.sleep(self._lease / 2)
            last = max(last, *self._seen.values()) if self._seen else last
            if time.monotonic() - last > 3 * self._lease:
                self._idler = None
                await self.close()
                return
        self._idler = None

    # What follows runs in the journal's writer thread, one group at a time, inside its transaction.

    def _apply(self, database: sqlite3.Connection, worker: str, words: list[Word]) -> list[Answer | None]:
        """Do what each word says, in order; neighbours of the two frequent kinds are written together."""
        answers: list[Answer | None] = []
        for kind, run in itertools.groupby(words, type):
            if kind is Finish:
                answers += self._finish(database, worker, cast("list[Finish]", list(run)))
            elif kind is Intend:
                answers += self._intend(database, worker, cast("list[Intend]", list(run)))
            else:
                do = self._do[kind]
                answers += [do(database, worker, word) for word in run]
        return answers

    def _is_alive(self, worker: str) -> bool:
        return time.monotonic() - self._seen.get(worker, float("-inf")) <= self._lease

    def _owns(self, worker: str, block: int) -> bool:
        claim = self._claims.get(block)
        return claim is not None and claim.worker == worker

    def _claim(self, database: sqlite3.Connection, worker: str, word: Claim) -> Answer:
        claim = self._claims.get(word.block)
        if claim is None:
            if self._overlaps(word):
                return Answer(verdict="changed")
            self._claims[word.block] = _Claim(word.rows, worker)
            bisect.insort(self._blocks, word.block)
            if not self._fresh:
                return Answer()
            twice = [
                offset
                for offset, given in enumerate(word.given)
                if given is not None and not self._give(given, word.block + offset)
            ]
            return Answer(verdict="fresh", twice=tuple(twice))
        if claim.rows != word.rows:
            return Answer(verdict="changed")
        if claim.worker != worker:
            if claim.worker is not None and self._is_alive(claim.worker):
                return Answer(verdict="wait")
            claim.worker = worker
            # The journal keeps the place that an item had first, which may be another row's in this run
            query = "SELECT id FROM met WHERE position >= ? AND position < ?"
            for (item,) in self._met.execute(query, (word.block, word.block + word.rows)).fetchall():
                for (reserved,) in database.execute(_SENDING, (item,)).fetchall():
                    self._put_in_doubt(database, item, reserved)
        return Answer()

    def _overlaps(self, word: Claim) -> bool:
        """Whether rows of a new block are rows of another one: blocks never change their shape within a run."""
        at = bisect.bisect(self._blocks, word.block)
        before = self._blocks[at - 1] if at else None
        after = self._blocks[at] if at < len(self._blocks) else None
        return (before is not None and before + self._claims[before].rows > word.block) or (
            after is not None and word.block + word.rows > after
        )

    def _give(self, item: str, position: int) -> bool:
        """Keep an id for one row; whether it was free, or this row's."""
        if self._met.execute("INSERT OR IGNORE INTO given VALUES (?, ?)", (item, position)).rowcount:
            return True
        return bool(self._met.execute("SELECT position FROM given WHERE id = ?", (item,)).fetchone()[0] == position)

    def _meet(self, database: sqlite3.Connection, worker: str, word: Meet) -> Answer:
        known = self._met.execute("SELECT id, digest FROM met WHERE position = ?", (word.position,)).fetchone()
        if known is not None:
            item, digest = known
        elif word.given is not None:
            item, digest = word.given, word.digest
            if not self._give(item, word.position):
                return Answer(verdict="twice", id=item)
        elif self._fresh:
            return Answer()  # nothing of it was ever written: its intent names it
        else:
            item = self._find_earlier(database, word)
            item = item or name_item(word.digest, self._met.execute(_TAKE, (word.digest,)).fetchone()[0])
            digest = word.digest
        if known is None:
            self._met.execute("INSERT INTO met VALUES (?, ?, ?)", (word.position, item, digest))
        recorded = find_item(database, item)
        if known is not None:
            digest = digest or (recorded.digest if recorded is not None else None) or word.digest
            same = recorded is not None and recorded.asks_for(word.digest, word.spelling)
            if digest != word.digest and not same:
                return Answer(verdict="changed", id=item)
        if recorded is not None and recorded.state == "done":
            return Answer(id=item, recorded=recorded)
        claim = self._claims.get(word.block)
        if claim is None or (claim.worker != worker and claim.worker is not None):
            return Answer(verdict="wait", id=item)
        claim.worker = worker
        if recorded is None or not recorded.digest:
            return Answer(id=item)
        if recorded.state == "sending":
            self._put_in_doubt(database, item, recorded.reserved)
            recorded = find_item(database, item)
        elif recorded.state == "accepted" and self._purse.cap is not None:
            self._held[item] = to_micros(recorded.reserved)
        return Answer(id=item, recorded=recorded, settled=recorded is not None and self._is_settled(recorded))

    def _find_earlier(self, database: sqlite3.Connection, word: Meet) -> str | None:
        """A row of schema 1 that is this request, and that no row of this run has taken yet."""
        for column, value in (("spelling", word.spelling), ("digest", word.digest)):
            for (item,) in database.execute(_OF_SCHEMA_1.format(column), (value,)).fetchall():
                if self._met.execute("SELECT 1 FROM met WHERE id = ?", (item,)).fetchone() is None:
                    return str(item)
        return None

    def _put_in_doubt(self, database: sqlite3.Connection, item: str, reserved: float) -> None:
        """Nobody is left who could say what became of it."""
        database.execute(_DOUBT, (_LOST_NOTE, item))
        micros = to_micros(reserved)
        self._held.pop(item, None)
        self._lost[item] = micros
        self._purse.doubt(micros)

    def _is_settled(self, recorded: ItemRow) -> bool:
        """Whether this run has sent it already as often as its caller may have wanted."""
        if recorded.sent is None or recorded.sent < self._began:
            return False
        return recorded.state in FINAL or recorded.sends > 1

    def _intend(self, database: sqlite3.Connection, worker: str, words: list[Intend]) -> list[Answer | None]:
        verdicts = [self._judge(worker, word) for word in words]
        rows = [word.row for word, verdict in zip(words, verdicts, strict=True) if verdict is None]
        ids = write_intents(database, rows, time.time())
        if self._fresh:
            known = [(row[1], item) for row, item in zip(rows, ids, strict=True)]
            self._met.executemany("INSERT OR IGNORE INTO met (position, id) VALUES (?, ?)", known)
        if self._purse.cap is not None:
            sent = [word for word, verdict in zip(words, verdicts, strict=True) if verdict is None]
            self._held.update((item, word.micros) for word, item in zip(sent, ids, strict=True))
            self._running.setdefault(worker, set()).update(ids)
        named = iter(zip(rows, ids, strict=True))
        return [verdict or _name(*next(named)) for verdict in verdicts]

    def _judge(self, worker: str, word: Intend) -> Answer | None:
        """Why a request must not be sent; ``None`` where its money is held."""
        if not self._owns(worker, word.block):
            return Answer(verdict="taken", id=word.row[0])
        if self._purse.reserve(word.micros):
            return None
        if any(items and self._is_alive(other) for other, items in self._running.items()):
            return Answer(verdict="wait", id=word.row[0])
        left = to_dollars(max(0, (self._purse.cap or 0) - self._purse.committed))
        return Answer(verdict="over", id=word.row[0], text=f"{left:.6g}")

    def _accept(self, database: sqlite3.Connection, worker: str, word: Accept) -> Answer | None:
        if not self._owns(worker, word.block):
            claim = self._claims.get(word.block)
            recorded = find_item(database, word.id)
            late = {"in_doubt", "sending"} if claim is None or claim.worker is None else {"in_doubt"}
            if recorded is None or recorded.state not in late:
                return None
        task = {"id": word.id, "task_id": word.task_id, "poll_url": word.poll_url, "request_id": word.request_id}
        database.execute(UPDATE_TASK, {**task, "now": time.time()})
        return None

    def _finish(self, database: sqlite3.Connection, worker: str, words: list[Finish]) -> list[Answer | None]:
        rows: list[EndingRow] = []
        running = self._running.get(worker, set())
        for word in words:
            row: EndingRow | None = word.row
            running.discard(word.row[0])
            if not self._owns(worker, word.block):
                row = self._bring_late(database, word)
            if row is None:
                continue
            if self._purse.cap is not None:
                self._count_money(row)
            if word.kept is not None:
                state, failure, phase, status = word.kept
                told = dict(zip(Ending.__struct_fields__, row, strict=False))
                kept = {"kept": state, "kept_failure": failure, "phase": phase, "status": status}
                write_ending(database, msgspec.convert({**told, **kept}, Ending), time.time())
                continue
            rows.append(row)
            for number, kind, data in word.inline:
                database.execute("INSERT OR REPLACE INTO inline VALUES (?, ?, ?, ?)", (row[0], number, kind, data))
        write_endings(database, rows, time.time())
        return [None] * len(words)

    def _count_money(self, row: EndingRow) -> None:
        item, state, reserved, cost, unknown, *_ = row
        purse = self._purse
        purse.reserved += to_micros(reserved) - self._held.pop(item, 0)
        purse.confirmed += to_micros(cost)
        purse.unknown = max(0, purse.unknown + to_micros(unknown))
        if state == "accepted":
            self._held[item] = to_micros(reserved)

    def _bring_late(self, database: sqlite3.Connection, word: Finish) -> EndingRow | None:
        """An outcome from a worker that was taken for dead: it is the truth, unless a better one stands there."""
        item, state, reserved, cost, unknown, *rest = word.row
        recorded = find_item(database, item)
        if recorded is None or recorded.state in FINAL:
            return None
        lost = to_dollars(self._lost.pop(item, 0))
        claim = self._claims.get(word.block)
        if recorded.state in {"in_doubt", "accepted"} or claim is None or claim.worker is None:
            return cast("EndingRow", (item, state, reserved, cost, unknown - lost, *rest))
        if cost is not None:
            # It is being sent a second time, as its caller wished: only the money of the first is told.
            database.execute(
                "UPDATE items SET cost = coalesce(cost, 0) + ?, unknown = max(0, unknown - ?) WHERE id = ?",
                (cost, lost, item),
            )
            self._purse.confirmed += to_micros(cost)
            self._purse.clear_unknown(lost)
        return None

    def _refuse(self, database: sqlite3.Connection, _: str, word: Refuse) -> Answer | None:
        failure = word.failure.decode("utf-8", "replace")
        values = {"id": word.id, "position": word.position, "verb": word.verb, "failure": failure, "now": time.time()}
        database.execute(INSERT_REFUSED, values)
        return None

    def _leave(self, _: sqlite3.Connection, worker: str, word: Leave) -> Answer | None:
        if self._owns(worker, word.block):
            self._claims[word.block].worker = None
        return None

    def _find(self, database: sqlite3.Connection, _: str, word: Find) -> Answer:
        return Answer(id=word.id, recorded=find_item(database, word.id))

    def _find_inline(self, database: sqlite3.Connection, _: str, word: FindInline) -> Answer:
        query = "SELECT number, data FROM inline WHERE item = ?"
        return Answer(id=word.id, inline=dict(database.execute(query, (word.id,)).fetchall()))

    def _find_files(self, database: sqlite3.Connection, _: str, word: FindFiles) -> Answer:
        rows = database.execute(SELECT_FILES, (word.id,)).fetchall()
        return Answer(id=word.id, files=tuple((self._lengthen(path), *facts) for path, *facts in rows))

    def _plan_file(self, database: sqlite3.Connection, _: str, word: PlanFile) -> Answer:
        if self._journal is None:
            raise sqlite3.ProgrammingError("the journal is closed")
        if "://" not in word.path:
            return Answer(
                id=word.id, text=str(self._journal.choose_file(database, word.id, word.number, Path(word.path)))
            )
        query = "SELECT path FROM files WHERE item = ? AND number = ?"
        known = database.execute(query, (word.id, word.number)).fetchone()
        if known is not None:
            return Answer(id=word.id, text=known[0])
        stem, dot, suffix = word.path.rpartition(".")
        for again in range(100):
            chosen = word.path if not again else f"{stem}-{again + 1}{dot}{suffix}"
            row = (chosen, word.id, word.number)
            if database.execute("INSERT OR IGNORE INTO files (path, item, number) VALUES (?, ?, ?)", row).rowcount:
                return Answer(id=word.id, text=chosen)
        raise sqlite3.IntegrityError(f"no free name for {word.path}")

    def _record_file(self, database: sqlite3.Connection, _: str, word: RecordFile) -> Answer | None:
        places = {"planned": self._shorten(word.planned), "path": self._shorten(word.path)}
        database.execute(UPDATE_FILE, {**msgspec.structs.asdict(word), **places, "now": time.time()})
        return None

    def _shorten(self, path: str) -> str:
        return path if "://" in path or self._journal is None else self._journal.shorten(Path(path))

    def _lengthen(self, path: str) -> str:
        return path if "://" in path or self._journal is None else str(self._journal.folder / path)

    def _stop(self, _: sqlite3.Connection, __: str, word: Stop) -> Answer | None:
        self._stopped = self._stopped or word.reason
        if word.kind and self._fatal is None:
            self._fatal = (word.kind, word.reason)
        return None


def _make_room(database: sqlite3.Connection) -> None:
    """A cluster writes more at once than one process: a page that changes twice is copied into the file once."""
    database.execute("PRAGMA cache_size = -65536")
    database.execute("PRAGMA wal_autocheckpoint = 4000").close()


def _name(row: IntentRow, item: str) -> Answer | None:
    """Tell a worker the id of a request, unless it is the one that it knows or expects."""
    return None if item == (row[0] or name_item(row[2], 1)) else Answer(id=item)


def _read_key(path: str | None) -> str | None:
    """The key that the driver has laid down for this actor; nobody can read it a second time."""
    if path is None:
        return None
    file = Path(path)
    try:
        text = file.read_text("utf-8")
    except OSError:
        return None  # this actor runs on another machine than the driver: its workers bring their own key
    file.unlink(missing_ok=True)
    return text
