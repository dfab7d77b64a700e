"""The one writer of a journal: a lock, a thread that owns the database, and commits that all waiting work shares.

The loop hands work over and awaits it; all work that waits while the disk is busy shares the next commit. Awaited work has
been committed with ``synchronous=FULL``. Work that fails by itself fails alone: the others of its group are then committed
one by one. When a commit fails, all work of its group fails with ``JournalError`` and none of it counts as happened. Work that was handed over cannot be taken back: a caller that is cancelled meanwhile first learns
what became of it. This file knows no table.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import sqlite3
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from videorouter.errors import JournalError
from videorouter.journal.schema import (
    check_age,
    check_traces,
    count_commit,
    is_busy,
    open_writable,
    read_commits,
    wrap_error,
)
from videorouter.locks import WriterLock
from videorouter.loops import UncancellableFuture
from videorouter.threads import ThreadedResource, start_thread

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

T = TypeVar("T")
Work: TypeAlias = tuple[str, Any, asyncio.Future[Any]]
"""The name of a step, what to call with the database, and who waits for what that gives."""
Outcome: TypeAlias = tuple[asyncio.Future[Any] | None, Any, Exception | None]

INTENT = "intent"
"""The step before which the file must still be where the next run looks for it, and the lock still held."""
READING = frozenset({"identify", "find"})
"""Steps that write nothing into the file."""
PAID = frozenset({"task", "ending"})
"""Steps that write down what was paid for."""
PATIENCE = 60.0
"""Seconds to wait for another program that holds the database, before a request that is about to be sent."""
PATIENCE_PAID = 600.0
"""The same, before what was paid for is only handed out and not written down."""
_IDLE = 1.0
"""Seconds without work after which the log is folded into the file, so that the file alone is whole."""
_GATHER = 0.001
"""Seconds in which work waits for more, so that more of it shares a commit, unless the last one was alone."""


class RefusedChangeError(JournalError):
    """Work that was refused before it wrote anything: it fails alone, and the rest of its commit does not."""


class Writer:
    """The writer of one journal. ``do`` may be awaited from one loop by many at once.

    For tests, ``fault`` is called in the writer's thread with the name of each step before it happens, and with
    ``committed`` after a commit; what it raises fails that step.
    """

    def __init__(self, path: str | os.PathLike[str], *, fault: Callable[[str], None] | None = None) -> None:
        self.path: Path = Path(os.path.realpath(path))
        self.commits: int = 0
        self.erases: bool = False
        """Whether closing erases what was deleted from the free pages."""
        self.erased: bool = False
        """Whether that was done; known once it is closed."""
        self._fault = fault or (lambda _: None)
        self._inbox: queue.SimpleQueue[list[Work] | None] = queue.SimpleQueue()
        self._pending: list[Work] = []
        self._database: sqlite3.Connection | None = None
        self._lock: WriterLock | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closed: asyncio.Future[None] | None = None
        self._identity = (0, 0)
        self._written = 0
        self._alone = True

    async def open(self, recover: Callable[[sqlite3.Connection], None]) -> None:
        """Lock and open the file, create it if it is missing, and commit what ``recover`` does."""
        self._loop = asyncio.get_running_loop()
        async with ThreadedResource(self._release) as owned:
            database = await owned.run(self._open, recover)
            self._thread = start_thread(partial(self._run, database), "videorouter-journal")

    async def do(self, step: str, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do work in the writer's thread, inside the next transaction; return its result once that is committed."""
        future = self.hand_over(step, work)
        try:
            value: T = await future
        except asyncio.CancelledError:
            if not future.done():
                raise
            _cancel_at_next_wait()
            value = future.result()
        return value

    def hand_over(self, step: str, work: Callable[[sqlite3.Connection], Any]) -> asyncio.Future[Any]:
        """Hand work to the thread, with what else this turn of the loop brings."""
        if self._closed is not None or self._loop is None:
            raise JournalError(f"The journal {self.path} is closed.", path=str(self.path))
        future = UncancellableFuture(loop=self._loop)
        if not self._pending:
            if self._alone:
                self._loop.call_soon(self._flush)
            else:
                self._loop.call_later(_GATHER, self._flush)
        self._pending.append((step, work, future))
        return future

    async def aclose(self) -> None:
        """Write what waits, close the file, release the lock. Idempotent."""
        if self._thread is None or self._loop is None:
            self._release()
            return
        if self._closed is None:
            self._closed = self._loop.create_future()
            self._flush()
            self._inbox.put(None)
        await asyncio.shield(self._closed)

    def _open(self, recover: Callable[[sqlite3.Connection], None]) -> sqlite3.Connection:
        self._fault("open")
        self._lock = lock = WriterLock(self.path)
        try:
            check_traces(self.path, lock.commits)
            fresh = not self.path.exists()
            self._database = database = self._open_patiently()
            there = self.path.stat()
            self._identity = (there.st_dev, there.st_ino)
            self._written = read_commits(database)
            if not fresh:
                check_age(self.path, self._written, lock.commits)
            lock.note(self._written)
            self._begin(database, {"open"})
            recover(database)
            database.execute("COMMIT")
        except BaseException as error:
            self._release()
            if isinstance(error, sqlite3.Error):
                raise wrap_error("open", error, self.path) from error
            raise
        return database

    def _open_patiently(self) -> sqlite3.Connection:
        """Open the database; wait for another program that holds it."""
        until = time.monotonic() + PATIENCE
        while True:
            try:
                return open_writable(self.path)
            except JournalError as error:
                if error.__cause__ is None or not is_busy(error.__cause__) or time.monotonic() >= until:
                    raise
                time.sleep(0.02)

    def find_displacement(self) -> JournalError | None:
        """Why the next run would not find this very file, and would pay again; ``None`` while it would."""
        try:
            there = os.stat(self.path)  # noqa: PTH116  this runs before each commit
        except OSError:
            there = None
        if there is not None and (there.st_dev, there.st_ino) == self._identity and there.st_size:
            return None
        return JournalError(
            f"The journal {self.path} was moved, replaced, emptied or deleted while the batch ran, so that the next run would "
            "pay again for what stands in it. Put it back before you run the same batch again: then it resumes.",
            path=str(self.path),
        )

    def _check_place(self) -> None:
        """Refuse to write into a file that was moved, or that others may write."""
        displaced = self.find_displacement()
        if displaced is not None:
            raise displaced
        if self._lock is not None:
            self._lock.check()

    def _find_intrusion(self) -> JournalError | None:
        """Why another run may have changed what this one was about to change."""
        try:
            self._check_place()
        except JournalError as error:
            return error
        return None

    def _release(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _flush(self) -> None:
        if self._pending:
            self._alone = len(self._pending) == 1
            self._inbox.put(self._pending)
            self._pending = []

    def _run(self, database: sqlite3.Connection) -> None:
        ended = False
        while not ended:
            group = self._wait_for_work(database)
            if group is None:
                break
            while not self._inbox.empty():
                more = self._inbox.get()
                if more is None:
                    ended = True
                    break
                group += more
            self._tell(self._commit(database, group))
        if self.erases:
            with contextlib.suppress(sqlite3.Error):
                database.execute("VACUUM")
                self.erased = database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
        self._release()
        self._tell([(self._closed, None, None)])

    def _wait_for_work(self, database: sqlite3.Connection) -> list[Work] | None:
        """Return the next group; after a pause without one, fold the log into the file first."""
        try:
            return self._inbox.get(timeout=_IDLE)
        except queue.Empty:
            with contextlib.suppress(sqlite3.Error):
                database.execute("PRAGMA wal_checkpoint(PASSIVE)").close()
            return self._inbox.get()

    def _begin(self, database: sqlite3.Connection, steps: set[str]) -> None:
        """Begin a commit; wait for another program that holds the database, longer for paid results."""
        if steps <= READING:
            database.execute("BEGIN")
            return
        until = time.monotonic() + (PATIENCE_PAID if steps & PAID else PATIENCE)
        while True:
            try:
                database.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                if not is_busy(error) or time.monotonic() >= until:
                    raise
            else:
                return

    def _count(self, database: sqlite3.Connection) -> int:
        """Count the commit that is under way; returns its number."""
        count_commit(database, self._written + 1)
        return self._written + 1

    def _commit(self, database: sqlite3.Connection, group: list[Work]) -> list[Outcome]:
        fault = self._fault
        outcomes: list[Outcome] = []
        doing = "write"
        steps = {step for step, _, _ in group}
        try:
            self._begin(database, steps)
            if INTENT in steps:
                self._check_place()
            for step, work, future in group:
                fault(step)
                try:
                    outcomes.append((future, work(database), None))
                except RefusedChangeError as refused:
                    outcomes.append((future, None, self._find_intrusion() or refused))
                except Exception:
                    if len(group) == 1:
                        raise
                    if database.in_transaction:
                        database.execute("ROLLBACK")
                    return [outcome for one in group for outcome in self._commit(database, [one])]
            fault("commit")
            written = self._written if steps <= READING else self._count(database)
            database.execute("COMMIT")
            self.commits += 1
            if not steps <= READING:
                self._written = written
                if self._lock is not None:
                    self._lock.note(self._written)
            fault("committed")
        except Exception as error:  # noqa: BLE001  whatever went wrong, those who wait must hear it
            if database.in_transaction:
                try:
                    database.execute("ROLLBACK")
                except sqlite3.Error:
                    doing = "roll back"
            named = error if isinstance(error, JournalError) else wrap_error(doing, error, self.path)
            named.__cause__ = error if named is not error else None
            return [(future, None, named) for _, _, future in group]
        return outcomes

    def _tell(self, outcomes: list[Outcome]) -> None:
        if self._loop is None:
            return
        try:
            self._loop.call_soon_threadsafe(resolve_outcomes, outcomes)
        except RuntimeError:
            return  # the loop is gone, and with it everyone who waited


def _cancel_at_next_wait() -> None:
    """Move the current task's cancellation to its next wait."""
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()
        task.cancel()


def resolve_outcomes(outcomes: list[Outcome]) -> None:
    """Tell those who wait, in their loop, what became of their work."""
    for future, value, error in outcomes:
        if future is None or future.done():
            continue
        if error is None:
            future.set_result(value)
        else:
            future.set_exception(error)
