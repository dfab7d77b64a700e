"""The SQLite ledger of a batch: one writer thread, group commit, every promise on disk before it is acted on.

The loop hands operations over and awaits them; all that wait while the disk is busy share the next commit. An awaited
operation has been committed with ``synchronous=FULL``. When a commit fails, every operation of its group fails with
``JournalError`` and none of them counts as happened. What was handed over cannot be taken back: whoever is cancelled meanwhile
learns what became of it first. This file decides nothing about items: ``journal/states.py`` does.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import sqlite3
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import msgspec

from videorouter.errors import JournalError
from videorouter.journal.schema import name_trouble, open_writable
from videorouter.journal.states import Recorded, name_item
from videorouter.locks import WriterLock
from videorouter.models import ItemState

if TYPE_CHECKING:
    from collections.abc import Callable

COLUMNS = Recorded.__struct_fields__
_SELECT = f"SELECT {', '.join(COLUMNS)} FROM items"  # noqa: S608  names of our own columns
_MEET = "INSERT INTO met VALUES (?, 1) ON CONFLICT (key) DO UPDATE SET times = times + 1 RETURNING times"
_AGAIN = "INSERT INTO met VALUES (?, 2) ON CONFLICT (key) DO UPDATE SET times = times + 1 RETURNING times"
_SENDING = """
INSERT INTO items (id, position, state, digest, verb, model, request, idempotency_key, reserved, sends, parent,
                   created, sent)
VALUES (?, ?, 'sending', ?, ?, ?, ?, ?, ?, 1, ?, ?, ?)
ON CONFLICT (id) DO"""
_INTEND = f"""{_SENDING} UPDATE SET
  state = 'sending', digest = excluded.digest, request = excluded.request, model = excluded.model,
  idempotency_key = excluded.idempotency_key, reserved = excluded.reserved, sends = sends + 1, sent = excluded.sent,
  task_id = NULL, poll_url = NULL, request_id = NULL, result = NULL, failure = NULL, accepted = NULL, finished = NULL
"""
_INSERT = (
    f"""{_INTEND}, position = excluded.position, verb = excluded.verb, parent = excluded.parent WHERE digest = ''"""
)
ACCEPT = """
UPDATE items SET state = 'accepted', task_id = ?, poll_url = ?, request_id = ?, accepted = ? WHERE id = ?
"""
_FINISH = """
UPDATE items SET state = ?, reserved = ?, cost = CASE WHEN ? IS NULL THEN cost ELSE coalesce(cost, 0) + ? END,
  unknown = max(0, unknown + ?), result = coalesce(?, result), failure = ?, task_id = coalesce(?, task_id),
  request_id = coalesce(?, request_id), finished = ? WHERE id = ?
"""
RESTORE = "UPDATE items SET idempotency_key = ?, sent = ? WHERE id = ?"
REFUSE = """
INSERT INTO items (id, position, state, digest, verb, failure, created, finished)
VALUES (?, ?, 'refused', '', ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET failure = excluded.failure, finished = excluded.finished
  WHERE digest = '' AND position = excluded.position
"""
_ELSEWHERE = "SELECT 1 FROM items WHERE id = ? AND position <> ?"
_CRASHED = """
UPDATE items SET state = 'in_doubt', unknown = unknown + reserved, reserved = 0,
  failure = coalesce(failure, ?) WHERE state = 'sending'
"""
_CRASH_NOTE = (
    '{"type":"OutcomeUnknownError","message":"The process ended after the request may have left and before its '
    'outcome was recorded: it may have been billed.","in_doubt":true}'
)


class Met(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of the input as the journal knows it: its id, how often this run met it, and what is recorded."""

    id: str
    times: int
    recorded: Recorded | None = None


class Intent(msgspec.Struct, frozen=True, kw_only=True):
    """A request that is about to be sent; an empty ``id`` has it named. ``reserved`` is in US dollars.

    ``new`` says that this run has not written it down before, in a journal that was empty when it began: then nobody
    else may have its id.
    """

    id: str
    position: int
    digest: str
    verb: str
    model: str
    request: str
    idempotency_key: str
    reserved: float = 0.0
    parent: str | None = None
    new: bool = False


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """How a sending ended, or for now: what changes in its row.

    ``reserved`` is what stays held, ``cost`` and ``unknown`` are what is added, all in US dollars. ``idempotency_key`` and
    ``sent`` are given where they shall be those of an earlier sending again.
    """

    id: str
    state: ItemState
    reserved: float = 0.0
    cost: float | None = None
    unknown: float = 0.0
    result: bytes | None = None
    failure: bytes | None = None
    task_id: str | None = None
    request_id: str | None = None
    idempotency_key: str | None = None
    sent: float | None = None
    inline: tuple[tuple[int, str | None, bytes], ...] = ()


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """What all runs of a journal hold, know and do not know to have spent, in US dollars."""

    reserved: float = 0.0
    cost: float = 0.0
    unknown: float = 0.0
    items: int = 0


T = TypeVar("T")
_GATHER = 0.001
"""Seconds in which operations wait for others, so that more of them share a commit, unless the last one was alone."""
IntentRow: TypeAlias = tuple[str, int, str, str, str, str, str, float, str | None]
"""An ``Intent``: id, position, digest, verb, model, request, idempotency key, reserved, parent."""
EndingRow: TypeAlias = tuple[str, str, float, float | None, float, str | None, str | None, str | None, str | None]
"""An ``Ending``: id, state, reserved, cost, unknown, result, failure, task id, request id."""


class Journal:
    """The one writer of a journal. Make it with ``open``; every method may be awaited from one loop at once.

    Args:
        path: The database.
        fault: Called in the writer thread with the name of each step before it happens (and ``committed`` after a
            commit); what it raises fails that step. For tests.
    """

    def __init__(self, path: str | os.PathLike[str], *, fault: Callable[[str], None] | None = None) -> None:
        self.path: Path = Path(os.path.realpath(path))
        self.folder: Path = self.path.parent
        self.commits: int = 0
        self.erased: bool = False
        """Whether what ``forget`` forgot is gone from the disk, too; known once the journal is closed."""
        self._fault = fault or (lambda _: None)
        self._inbox: queue.SimpleQueue[list[tuple[Any, asyncio.Future[Any]]] | None] = queue.SimpleQueue()
        self._pending: list[tuple[Any, asyncio.Future[Any]]] = []
        self._database: sqlite3.Connection | None = None
        self._lock: WriterLock | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closed: asyncio.Future[None] | None = None
        self._identity = (0, 0)
        self._vacuum = False
        self._alone = True

    @classmethod
    async def open(cls, path: str | os.PathLike[str], *, fault: Callable[[str], None] | None = None) -> Journal:
        """Open or make a journal, and say what an ended process left behind.

        Raises:
            JournalBusyError: Another process, or another batch, writes it.
            JournalError: It cannot be written, or the file is something else.
        """
        journal = cls(path, fault=fault)
        journal._loop = asyncio.get_running_loop()
        opening = asyncio.ensure_future(asyncio.to_thread(journal._open))
        try:
            database = await asyncio.shield(opening)
        except asyncio.CancelledError:
            await asyncio.wait([opening])
            journal._release()
            raise
        journal._thread = threading.Thread(
            target=journal._run, args=(database,), name="videorouter-journal", daemon=True
        )
        journal._thread.start()
        return journal

    def _open(self) -> sqlite3.Connection:
        self._fault("open")
        self._lock = WriterLock(self.path)
        try:
            self._database = database = open_writable(self.path)
            there = self.path.stat()
            self._identity = (there.st_dev, there.st_ino)
            database.execute("BEGIN IMMEDIATE")
            database.execute(_CRASHED, (_CRASH_NOTE,))
            database.execute("COMMIT")
        except BaseException as error:
            self._release()
            if isinstance(error, sqlite3.Error):
                raise name_trouble("open", error, self.path) from error
            raise
        return database

    def _check_place(self) -> None:
        """Refuse to promise anything in a file that the next run will not find."""
        try:
            there = os.stat(self.path)  # noqa: PTH116  this runs before each commit
        except OSError:
            there = None
        if there is None or (there.st_dev, there.st_ino) != self._identity:
            raise JournalError(
                f"The journal {self.path} was moved, replaced or deleted while the batch ran, so that the next run would "
                "pay again for what stands in it. Put it back and run the same batch again: it resumes.",
                path=str(self.path),
            )

    def _release(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    async def meet(self, digest: str, given: str | None, *, again: bool = True) -> Met:
        """Find out what is known of an entry, and what its id is.

        Args:
            digest: Of its request.
            given: The id that the caller gave it.
            again: Whether the same request once more is another item (four takes), and not the same one.
        """
        return await self._do("meet", lambda database: _meet(database, digest, given, again=again))

    async def intend(self, intent: Intent) -> str | None:
        """Commit that a request is about to be sent.

        Args:
            intent: The request. Without an id it is named by its digest and its occurrence number.

        Returns:
            Its id; ``None`` when it is new and another entry has that id: then nothing was written.

        Raises:
            JournalError: It could not be committed: the request must not be sent.
        """
        now = time.time()
        return await self._do("intend", lambda database: write_intent(database, intent, now))

    async def accept(self, item: str, task_id: str, poll_url: str | None = None, request_id: str | None = None) -> None:
        """Commit that the gateway has accepted a request and what its task is called."""
        row = (task_id, poll_url, request_id, time.time(), item)
        await self._execute("accept", ACCEPT, row)

    async def finish(self, ending: Ending) -> None:
        """Commit what became of a request."""
        now = time.time()
        await self._do("finish", lambda database: write_ending(database, ending, now))

    async def refuse(self, item: str, position: int, verb: str, failure: bytes) -> bool:
        """Commit that an entry could not be read, so that nothing was ever sent for it.

        Returns:
            Whether an entry at another place has that id: then nothing was written.
        """
        row = (item, position, verb, _text(failure), now := time.time(), now)

        def work(database: sqlite3.Connection) -> bool:
            written = database.execute(REFUSE, row).rowcount
            return not written and database.execute(_ELSEWHERE, (item, position)).fetchone() is not None

        return await self._do("refuse", work)

    async def forget_unreadable(self) -> None:
        """Commit that entries which could not be read are to be met again: they may have been mended since."""
        await self._execute("refuse", "DELETE FROM items WHERE state = 'refused' AND digest = '' AND sends = 0", ())

    async def find(self, item: str) -> Recorded | None:
        """What is recorded of an item."""
        return await self._do("find", lambda database: find_item(database, item))

    async def plan_file(self, item: str, number: int, path: Path) -> Path:
        """Reserve a file name for one video of an item: the same as before, and never one that something else has."""
        return await self._do("file", lambda database: self.choose_file(database, item, number, path))

    async def record_file(self, path: Path, *, size: int, sha256: str | None = None) -> None:
        """Commit that a file stands whole under its name."""
        row = (size, sha256, time.time(), self.shorten(path))
        await self._execute("file", "UPDATE files SET size = ?, sha256 = ?, saved = ? WHERE path = ?", row)

    async def find_files(self, item: str) -> tuple[tuple[Path, str | None], ...]:
        """The files of an item that were saved whole, with their digests, in order."""
        return await self._do("find", lambda database: self._files(database, item))

    async def find_inline(self, item: str) -> dict[int, bytes]:
        """The videos of an item that came inside its answer, by number."""
        query = "SELECT number, data FROM inline WHERE item = ?"
        return await self._do("find", lambda database: dict(database.execute(query, (item,)).fetchall()))

    async def totals(self) -> Totals:
        """What all runs so far hold, know and do not know to have spent."""
        query = "SELECT total(reserved), total(cost), total(unknown), count(*) FROM items"

        def work(database: sqlite3.Connection) -> Totals:
            reserved, cost, unknown, items = database.execute(query).fetchone()
            return Totals(reserved=reserved, cost=cost, unknown=unknown, items=items)

        return await self._do("find", work)

    async def note(self, key: str, value: str) -> None:
        """Commit a word about the batch itself, such as where its input lies."""
        await self._execute("note", "INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    async def transact(self, work: Callable[[sqlite3.Connection], T], *, intends: bool = False) -> T:
        """Do several things as one operation of the next commit: for a ledger that writes for many processes.

        Args:
            work: Is called with the database in the writer's thread, inside the transaction.
            intends: Whether an intent is among them: then the file must be where the next run looks for it.

        Returns:
            What ``work`` gave, once it is committed.
        """
        return await self._do("intend" if intends else "transact", work)

    async def forget(self) -> int:
        """Forget every prompt, and the prompts that the gateway rewrote; returns the rows.

        Closing the journal erases them from its free pages, which a full disk, or a reader, can keep it from: see
        ``erased``.
        """

        def work(database: sqlite3.Connection) -> int:
            database.execute("PRAGMA secure_delete = ON")
            database.execute(
                "UPDATE items SET result = json_set(result, '$.videos', (SELECT json_group_array(json_remove(value, "
                "'$.revised_prompt')) FROM json_each(result, '$.videos'))) WHERE json_valid(result)"
            )
            return database.execute("UPDATE items SET request = NULL WHERE request IS NOT NULL").rowcount

        changed = await self._do("forget", work)
        self._vacuum = True
        return changed

    async def change(self, statement: str, values: tuple[object, ...] = ()) -> int:
        """Run one statement of a command (retry, settle, forget) and commit it; returns the rows it changed."""
        return await self._execute("change", statement, values)

    async def aclose(self) -> None:
        """Write what waits, close the file, let others write. Idempotent."""
        if self._thread is None or self._loop is None:
            self._release()
            return
        if self._closed is None:
            self._closed = self._loop.create_future()
            self._flush()
            self._inbox.put(None)
        await asyncio.shield(self._closed)

    def shorten(self, path: Path) -> str:
        """A path as the journal keeps it: relative to its own folder where it lies below it."""
        absolute = Path(os.path.abspath(path))  # noqa: PTH100  a symlink that the user gave stays as given
        try:
            return absolute.relative_to(self.folder).as_posix()
        except ValueError:
            return str(absolute)

    def choose_file(self, database: sqlite3.Connection, item: str, number: int, path: Path) -> Path:
        """As ``plan_file``, inside a ``transact``."""
        known = database.execute("SELECT path FROM files WHERE item = ? AND number = ?", (item, number)).fetchone()
        if known is not None:
            return self.folder / str(known[0])
        for extra in ("", f"-{_tail(item)}", *(f"-{_tail(item)}-{again}" for again in range(2, 100))):
            chosen = path.with_name(f"{path.stem}{extra}{path.suffix}")
            if os.path.lexists(chosen):
                continue
            taken = database.execute(
                "INSERT OR IGNORE INTO files (path, item, number) VALUES (?, ?, ?)",
                (self.shorten(chosen), item, number),
            )
            if taken.rowcount:
                return chosen
        raise sqlite3.IntegrityError(f"no free file name for {path.name}")

    def _files(self, database: sqlite3.Connection, item: str) -> tuple[tuple[Path, str | None], ...]:
        query = "SELECT path, sha256 FROM files WHERE item = ? AND saved IS NOT NULL ORDER BY number"
        return tuple((self.folder / path, digest) for path, digest in database.execute(query, (item,)))

    async def _execute(self, name: str, statement: str, row: tuple[object, ...]) -> int:
        return await self._do(name, lambda database: database.execute(statement, row).rowcount)

    async def _do(self, name: str, work: Callable[[sqlite3.Connection], T]) -> T:
        if self._closed is not None or self._loop is None:
            raise JournalError(f"The journal {self.path} is closed.", path=str(self.path))
        future = _Promise(loop=self._loop)
        if not self._pending:
            if self._alone:
                self._loop.call_soon(self._flush)
            else:
                self._loop.call_later(_GATHER, self._flush)
        self._pending.append(((name, work), future))
        try:
            value: T = await future
        except asyncio.CancelledError:
            if not future.done():
                raise
            _put_off_cancellation()
            value = future.result()
        return value

    def _flush(self) -> None:
        if self._pending:
            self._alone = len(self._pending) == 1
            self._inbox.put(self._pending)
            self._pending = []

    def _run(self, database: sqlite3.Connection) -> None:
        ended = False
        while not ended:
            group = self._inbox.get()
            if group is None:
                break
            while not self._inbox.empty():
                more = self._inbox.get()
                if more is None:
                    ended = True
                    break
                group += more
            self._tell(_resolve, self._commit(database, group))
        if self._vacuum:
            with contextlib.suppress(sqlite3.Error):
                database.execute("VACUUM")
                self.erased = database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
        self._release()
        self._tell(_resolve, [(self._closed, None, None)])

    def _commit(
        self, database: sqlite3.Connection, group: list[tuple[Any, asyncio.Future[Any]]]
    ) -> list[tuple[Any, Any, Exception | None]]:
        fault = self._fault
        outcomes: list[tuple[Any, Any, Exception | None]] = []
        doing = "write"
        try:
            database.execute("BEGIN")
            if any(name == "intend" for (name, _), _ in group):
                self._check_place()
            for (name, work), future in group:
                fault(name)
                outcomes.append((future, work(database), None))
            fault("commit")
            database.execute("COMMIT")
            self.commits += 1
            fault("committed")
        except Exception as error:  # noqa: BLE001  whatever went wrong, those who wait must hear it
            if database.in_transaction:
                try:
                    database.execute("ROLLBACK")
                except sqlite3.Error:
                    doing = "roll back"
            named = error if isinstance(error, JournalError) else name_trouble(doing, error, self.path)
            named.__cause__ = error if named is not error else None
            return [(future, None, named) for _, future in group]
        return outcomes

    def _tell(self, callback: Callable[..., None], outcomes: list[tuple[Any, Any, Exception | None]]) -> None:
        if self._loop is None:
            return
        try:
            self._loop.call_soon_threadsafe(callback, outcomes)
        except RuntimeError:
            return  # the loop is gone, and with it everyone who waited


class _Promise(asyncio.Future[Any]):
    """What becomes of an operation that the writer has: nobody can cancel that, and so whoever waits is cancelled after it."""

    def cancel(self, msg: object = None) -> bool:  # noqa: ARG002  as asyncio calls it
        """Refuse."""
        return False


def _put_off_cancellation() -> None:
    """Have the task that was just cancelled be cancelled at its next wait instead."""
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()
        task.cancel()


def _resolve(outcomes: list[tuple[Any, Any, Exception | None]]) -> None:
    for future, value, error in outcomes:
        if future is None or future.done():
            continue
        if error is None:
            future.set_result(value)
        else:
            future.set_exception(error)


def _meet(database: sqlite3.Connection, digest: str, given: str | None, *, again: bool) -> Met:
    key = f"i{given}" if given is not None else f"d{digest}"
    times: int = database.execute(_MEET, (key,)).fetchone()[0]
    if given is None:
        given = name_item(digest, times if again else 1)
    if times > 1 and key[0] == "i":
        return Met(id=given, times=times)
    return Met(id=given, times=times, recorded=find_item(database, given))


def find_item(database: sqlite3.Connection, item: str) -> Recorded | None:
    """What is recorded of an item."""
    row = database.execute(f"{_SELECT} WHERE id = ?", (item,)).fetchone()
    return None if row is None else Recorded(**dict(zip(COLUMNS, row, strict=True)))


def write_intent(database: sqlite3.Connection, intent: Intent, now: float) -> str | None:
    """Write down that a request is about to be sent, as ``Journal.intend`` does; the caller commits."""
    row = (
        intent.position,
        intent.digest,
        intent.verb,
        intent.model,
        intent.request,
        intent.idempotency_key,
        intent.reserved,
        intent.parent,
        now,
        now,
    )
    if intent.id:
        written = database.execute(_INSERT if intent.new else _INTEND, (intent.id, *row)).rowcount
        return intent.id if written else None
    item = name_item(intent.digest, 1)
    while not database.execute(_INSERT, (item, *row)).rowcount:
        times: int = database.execute(_AGAIN, (f"n{intent.digest}",)).fetchone()[0]
        item = name_item(intent.digest, times)
    return item


def write_ending(database: sqlite3.Connection, ending: Ending, now: float) -> None:
    """Write down what became of a request; the caller commits."""
    row = (
        ending.state,
        ending.reserved,
        ending.cost,
        ending.cost,
        ending.unknown,
        _text(ending.result),
        _text(ending.failure),
        ending.task_id,
        ending.request_id,
        now,
        ending.id,
    )
    database.execute(_FINISH, row)
    if ending.sent is not None:
        database.execute(RESTORE, (ending.idempotency_key, ending.sent, ending.id))
    for number, kind, data in ending.inline:
        database.execute("INSERT OR REPLACE INTO inline VALUES (?, ?, ?, ?)", (ending.id, number, kind, data))


def write_intents(database: sqlite3.Connection, rows: list[IntentRow], now: float) -> list[str]:
    """As ``write_intent`` for many at once; gives their ids."""
    named = [row for row in rows if row[0]]
    if named:
        database.executemany(_INTEND, [(*row, now, now) for row in named])
    unnamed = [row for row in rows if not row[0]]
    if not unnamed:
        return [row[0] for row in rows]
    fresh = [(name_item(row[2], 1), *row[1:], now, now) for row in unnamed]
    if database.executemany(_INSERT, fresh).rowcount == len(fresh):
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
    """As ``write_ending`` for many at once, of results that hold no video."""
    database.executemany(_FINISH, [(*row[1:4], row[3], *row[4:], now, row[0]) for row in rows])


def _text(data: bytes | None) -> str | None:
    return None if data is None else data.decode("utf-8", "replace")


def _tail(item: str) -> str:
    return "".join(char if char.isalnum() else "_" for char in item[:12])
