"""The cluster's one ledger: an actor on the driver's node that owns the journal and speaks for it to every worker.

Workers send words in groups; a group is one transaction, committed before it is answered. The ledger knows which
worker has which item. When Ray runs a block again, it says per item what to do: what is done is shown, what was
accepted is polled, what was being sent by a worker that has gone silent is in doubt, and what was never sent runs.

A worker is taken for dead when it has said nothing for ``LEASE`` seconds and another one asks for an item of its.
That can be wrong, and nothing is lost by it: the silent one is refused its next intent, and an outcome that it still
brings is written over the doubt. This file knows no Ray, so that it can be tested without.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from videorouter.errors import JournalError
from videorouter.integrations.ray.words import (
    Accept,
    Answer,
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
from videorouter.io.journal import ACCEPT, REFUSE, Ending, Journal, find_item, write_ending, write_intent
from videorouter.rules.ledger import FINAL, STATES, name_item
from videorouter.rules.money import Purse, to_dollars, to_micros

if TYPE_CHECKING:
    from collections.abc import Callable

    from videorouter.rules.ledger import Recorded

LEASE = 10.0
"""Seconds of silence after which a worker's items may be taken over."""
GAP = 0.02
"""Seconds that a worker gathers words for one group, where there are few workers."""
CALLS_A_SECOND = 250.0
"""Groups a second that the ledger should get from all workers together."""
_OPENING = 15.0
"""Seconds in which the ledger of a driver that was killed has surely gone."""
_MET = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA cache_size = -65536;
CREATE TABLE met (position INTEGER PRIMARY KEY, id TEXT NOT NULL, digest TEXT NOT NULL);
CREATE TABLE takes (digest TEXT PRIMARY KEY, times INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE given (id TEXT PRIMARY KEY, position INTEGER NOT NULL) WITHOUT ROWID;
"""
_TAKE = "INSERT INTO takes VALUES (?, 1) ON CONFLICT (digest) DO UPDATE SET times = times + 1 RETURNING times"
_DOUBT = """
UPDATE items SET state = 'in_doubt', unknown = unknown + reserved, reserved = 0,
  failure = coalesce(failure, ?) WHERE id = ? AND state = 'sending'
"""
_LOST_NOTE = (
    '{"type":"OutcomeUnknownError","message":"The worker ended after the request may have left and before its outcome '
    'was recorded: it may have been billed.","in_doubt":true}'
)


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
        self._purse = Purse(max_cost)
        self._seen: dict[str, float] = {}
        self._claims: dict[str, str] = {}
        self._held: dict[str, int] = {}
        self._lost: dict[str, int] = {}
        self._stopped: str | None = None
        self._fatal: tuple[str, str] | None = None
        self._idler: asyncio.Task[None] | None = None
        self._met = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._met.executescript(_MET)
        self._met.execute("BEGIN")  # and never a commit: nobody else reads it, and it ends with this process
        self._do: dict[type[Word], Callable[[sqlite3.Connection, str, Any], Answer | None]] = {
            Meet: self._meet,
            Intend: self._intend,
            Accept: self._accept,
            Finish: self._finish,
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
            await journal.transact(lambda database: database.execute("PRAGMA cache_size = -65536").close())
            totals = await journal.totals()
            self._purse = Purse(None if self._purse.cap is None else to_dollars(self._purse.cap))
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

    async def exchange(self, worker: str, message: bytes) -> bytes:
        """Take a group of words, commit what they say, and answer each."""
        self._seen[worker] = time.monotonic()
        words = read_words(message)
        if not words:
            return encode(Reply([], stopped=self._stopped, gap=self._find_gap()))
        try:
            if self._journal is None:
                await self.open()
            if self._journal is None:
                return encode(Reply([], trouble="The journal is closed.", stopped=self._stopped))
            answers = await self._journal.transact(lambda database: self._apply(database, worker, words))
        except JournalError as error:
            self._stopped = self._stopped or str(error)
            return encode(Reply([], trouble=str(error), stopped=self._stopped))
        return encode(Reply(answers, stopped=self._stopped, gap=self._find_gap()))

    def _find_gap(self) -> float:
        """The more workers, the longer each gathers: a call costs the same whatever it carries."""
        return max(GAP, sum(1 for worker in self._seen if self._is_alive(worker)) / CALLS_A_SECOND)

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
        do = self._do
        return [do[type(word)](database, worker, word) for word in words]

    def _is_alive(self, worker: str) -> bool:
        return time.monotonic() - self._seen.get(worker, float("-inf")) <= self._lease

    def _meet(self, database: sqlite3.Connection, worker: str, word: Meet) -> Answer:
        known = self._met.execute("SELECT id, digest FROM met WHERE position = ?", (word.position,)).fetchone()
        if known is None:
            if word.given is not None:
                item = word.given
                try:
                    self._met.execute("INSERT INTO given VALUES (?, ?)", (item, word.position))
                except sqlite3.IntegrityError:
                    return Answer(verdict="twice", id=item)
            else:
                item = name_item(word.digest, self._met.execute(_TAKE, (word.digest,)).fetchone()[0])
            self._met.execute("INSERT INTO met VALUES (?, ?, ?)", (word.position, item, word.digest))
        else:
            item = known[0]
            if known[1] != word.digest:
                return Answer(verdict="changed", id=item)
        recorded = find_item(database, item)
        if recorded is not None and recorded.state == "done":
            return Answer(id=item, recorded=recorded)
        owner = self._claims.get(item)
        if owner is not None and owner != worker:
            if self._is_alive(owner):
                return Answer(verdict="wait", id=item)
            if recorded is not None and recorded.state == "sending":
                recorded = self._put_in_doubt(database, recorded)
        elif recorded is not None and recorded.state == "sending":
            if owner is not None:
                return Answer(verdict="wait", id=item)
            recorded = self._put_in_doubt(database, recorded)
        self._claims[item] = worker
        if recorded is None or not recorded.digest:
            return Answer(id=item)
        if recorded.state == "accepted":
            self._held[item] = to_micros(recorded.reserved)
        return Answer(id=item, recorded=recorded, settled=self._is_settled(recorded))

    def _put_in_doubt(self, database: sqlite3.Connection, recorded: Recorded) -> Recorded | None:
        """Nobody is left who could say what became of it."""
        database.execute(_DOUBT, (_LOST_NOTE, recorded.id))
        micros = to_micros(recorded.reserved)
        self._held.pop(recorded.id, None)
        self._lost[recorded.id] = micros
        self._purse.doubt(micros)
        return find_item(database, recorded.id)

    def _is_settled(self, recorded: Recorded) -> bool:
        """Whether this run has sent it already as often as its caller may have wanted."""
        if recorded.sent is None or recorded.sent < self._began:
            return False
        return recorded.state in FINAL or recorded.sends > 1

    def _intend(self, database: sqlite3.Connection, worker: str, word: Intend) -> Answer | None:
        item = word.intent.id
        if self._claims.get(item) != worker:
            return Answer(verdict="taken", id=item)
        if not self._purse.reserve(word.micros):
            if self._held:
                return Answer(verdict="wait", id=item)
            left = to_dollars(max(0, (self._purse.cap or 0) - self._purse.committed))
            return Answer(verdict="over", id=item, text=f"{left:.6g}")
        if self._purse.cap is not None:
            self._held[item] = word.micros
        write_intent(database, word.intent, time.time())
        return None

    def _accept(self, database: sqlite3.Connection, worker: str, word: Accept) -> Answer | None:
        owner = self._claims.get(word.id)
        if owner != worker:
            recorded = find_item(database, word.id)
            if recorded is None or recorded.state not in ({"in_doubt", "sending"} if owner is None else {"in_doubt"}):
                return None
        database.execute(ACCEPT, (word.task_id, word.poll_url, word.request_id, time.time(), word.id))
        return None

    def _finish(self, database: sqlite3.Connection, worker: str, word: Finish) -> Answer | None:
        ending = word.ending
        owner = self._claims.get(ending.id)
        if owner == worker:
            before = self._held.pop(ending.id, 0)
            if ending.state in FINAL:
                del self._claims[ending.id]
            elif ending.state == "accepted" and self._purse.cap is not None:
                self._held[ending.id] = to_micros(ending.reserved)
        else:
            late = self._bring_late(database, ending)
            if late is None:
                return None
            ending, before = late, 0
        purse = self._purse
        purse.reserved += to_micros(ending.reserved) - before
        purse.confirmed += to_micros(ending.cost)
        purse.unknown = max(0, purse.unknown + to_micros(ending.unknown))
        write_ending(database, ending, time.time())
        return None

    def _bring_late(self, database: sqlite3.Connection, ending: Ending) -> Ending | None:
        """An outcome from a worker that was taken for dead: it is the truth, unless a better one stands there."""
        recorded = find_item(database, ending.id)
        if recorded is None or recorded.state in FINAL:
            return None
        lost = to_dollars(self._lost.pop(ending.id, 0))
        if recorded.state in {"in_doubt", "accepted"} or self._claims.get(ending.id) is None:
            return msgspec.structs.replace(ending, unknown=ending.unknown - lost)
        if ending.cost is not None:
            # It is being sent a second time, as its caller wished: only the money of the first is told.
            database.execute(
                "UPDATE items SET cost = coalesce(cost, 0) + ?, unknown = max(0, unknown - ?) WHERE id = ?",
                (ending.cost, lost, ending.id),
            )
            self._purse.confirmed += to_micros(ending.cost)
            self._purse.forget(lost)
        return None

    def _refuse(self, database: sqlite3.Connection, _: str, word: Refuse) -> Answer | None:
        now = time.time()
        row = (word.id, word.position, word.verb, word.failure.decode("utf-8", "replace"), now, now)
        database.execute(REFUSE, row)
        return None

    def _leave(self, _: sqlite3.Connection, worker: str, word: Leave) -> Answer | None:
        if self._claims.get(word.id) == worker:
            del self._claims[word.id]
            self._held.pop(word.id, None)
        return None

    def _find(self, database: sqlite3.Connection, _: str, word: Find) -> Answer:
        return Answer(id=word.id, recorded=find_item(database, word.id))

    def _find_inline(self, database: sqlite3.Connection, _: str, word: FindInline) -> Answer:
        query = "SELECT number, data FROM inline WHERE item = ?"
        return Answer(id=word.id, inline=dict(database.execute(query, (word.id,)).fetchall()))

    def _find_files(self, database: sqlite3.Connection, _: str, word: FindFiles) -> Answer:
        query = "SELECT path, sha256 FROM files WHERE item = ? AND saved IS NOT NULL ORDER BY number"
        rows = database.execute(query, (word.id,)).fetchall()
        return Answer(id=word.id, files=tuple((self._lengthen(path), digest) for path, digest in rows))

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
        path = word.path
        if "://" not in path and self._journal is not None:
            path = self._journal.shorten(Path(path))
        row = (word.size, word.sha256, time.time(), path)
        database.execute("UPDATE files SET size = ?, sha256 = ?, saved = ? WHERE path = ?", row)
        return None

    def _lengthen(self, path: str) -> str:
        return path if "://" in path or self._journal is None else str(self._journal.folder / path)

    def _stop(self, _: sqlite3.Connection, __: str, word: Stop) -> Answer | None:
        self._stopped = self._stopped or word.reason
        if word.kind and self._fatal is None:
            self._fatal = (word.kind, word.reason)
        return None


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
