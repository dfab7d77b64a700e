"""A writer of a journal that other processes write as well: many ask, and one of them pays.

The file is nobody's alone, so each commit begins by waiting for its turn. The turn is a courtesy lock that the kernel hands
over in the order of arrival; that two commits never mix is SQLite's own doing. The thread and its connection live while
there is work, so that a writer needs no closing, and a forked child makes its own. This file knows no table.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import sqlite3
import threading
from typing import TYPE_CHECKING, Any

from videorouter.errors import ConfigurationError, JournalError
from videorouter.forks import after_fork
from videorouter.journal.schema import check_age, check_traces, read_commits, wrap_error
from videorouter.journal.writer import READING, Writer, resolve_outcomes
from videorouter.locks import pass_turn, read_commit_note, wait_for_turn
from videorouter.loops import PerLoop, UncancellableFuture
from videorouter.threads import run_in_thread, start_thread

if TYPE_CHECKING:
    from collections.abc import Callable

    from videorouter.journal.writer import Outcome, Work
    from videorouter.locks import WriterLock

_IDLE = 1.0
"""Seconds without work after which the log is folded into the file."""
_LINGER = 10.0
"""Seconds without work after which the thread ends and the file is closed."""

_of_parent: list[object] = []
"""Kept for ever in a forked child: closing the parent's connection there would drop the parent's locks."""


class SharedWriter(Writer):
    """One of many writers of a file. ``do`` may be awaited from any loop of any thread.

    Args:
        path: The file.
        prepare: Makes what the file must have, in the transaction that first opens it.
        committed: Called in the writer's thread after each commit that wrote something.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        prepare: Callable[[sqlite3.Connection], None],
        committed: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(path)
        self._prepare = prepare
        self._committed = committed
        self._reset()
        after_fork(self, SharedWriter._forget_parent)

    def _reset(self) -> None:
        self._mutex = threading.Lock()
        self._inbox = queue.SimpleQueue()
        self._gathered: PerLoop[list[Work]] = PerLoop(list)
        self._thread = None
        self._database = None
        self._lock = None
        self._turn = -1

    def _forget_parent(self) -> None:
        _of_parent.extend((self._database, self._inbox, self._thread))
        if self._turn >= 0:
            os.close(self._turn)  # a turn that the parent holds must not outlive it here
        self._reset()

    def hold(self, lock: WriterLock | None) -> None:
        """Note the commits in this lock, until another is given."""
        self._lock = lock

    async def aclose(self) -> None:
        """Write what waits and close the file. Later work opens it again."""
        with self._mutex:
            thread = self._thread
            if thread is not None:
                self._inbox.put(None)
        if thread is not None:
            await run_in_thread(thread.join)

    def hand_over(self, step: str, work: Callable[[sqlite3.Connection], Any]) -> asyncio.Future[Any]:
        """Hand work to the thread, with what else this turn of the loop brings; start the thread where there is none."""
        loop = asyncio.get_running_loop()
        future = UncancellableFuture(loop=loop)
        gathered = self._gathered.find()
        if not gathered:
            loop.call_soon(self._pass_on, gathered)
        gathered.append((step, work, future))
        return future

    def _pass_on(self, gathered: list[Work]) -> None:
        group = gathered.copy()
        gathered.clear()
        with self._mutex:
            try:
                self._thread = self._thread or start_thread(self._serve, "videorouter-jobs")
            except ConfigurationError as error:
                self._tell([(future, None, error) for _, _, future in group])
            else:
                self._inbox.put(group)

    def _serve(self) -> None:
        """Open the file, commit what comes, and close it when nothing has come for a while."""
        try:
            database = self._open_shared()
        except Exception as error:  # noqa: BLE001  whatever went wrong, those who wait must hear it
            named = error if isinstance(error, JournalError) else wrap_error("open", error, self.path)
            while not self._end():
                self._tell([(future, None, named) for _, _, future in self._inbox.get() or ()])
            return
        while (group := self._next_group(database)) is not None:
            self._tell(self._commit(database, group))

    def _next_group(self, database: sqlite3.Connection) -> list[Work] | None:
        """Wait for work; ``None`` when the thread shall end."""
        for patience in (_IDLE, _LINGER):
            with contextlib.suppress(queue.Empty):
                group = self._inbox.get(timeout=patience)
                if group is not None:
                    return group
                break
            with contextlib.suppress(sqlite3.Error):
                database.execute("PRAGMA wal_checkpoint(PASSIVE)").close()
        return None if self._end() else []

    def _end(self) -> bool:
        """Close the file and let the next work start another thread, unless there is work."""
        with self._mutex:
            if not self._inbox.empty():
                return False
            if self._database is not None:
                self._database.close()
                self._database = None
            if self._turn >= 0:
                os.close(self._turn)
                self._turn = -1
            self._thread = None
            return True

    def _open_shared(self) -> sqlite3.Connection:
        """Open the file, one process at a time: SQLite alone cannot make a file for two at once."""
        try:
            self._turn = os.open(f"{self.path}.turn", os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
        except OSError as error:
            raise wrap_error("open", error, self.path) from error
        wait_for_turn(self._turn)
        try:
            noted = read_commit_note(self.path)
            check_traces(self.path, noted)
            fresh = not self.path.exists()
            self._database = database = self._open_patiently()
            there = self.path.stat()
            self._identity = (there.st_dev, there.st_ino)
            self._written = read_commits(database)
            if not fresh:
                check_age(self.path, self._written, noted)
            database.execute("BEGIN IMMEDIATE")
            self._prepare(database)
            database.execute("COMMIT")
        finally:
            pass_turn(self._turn)
        return database

    def _begin(self, database: sqlite3.Connection, steps: set[str]) -> None:
        super()._begin(database, steps)
        if not steps <= READING:
            displaced = self.find_displacement()
            if displaced is not None:
                raise displaced

    def _check_place(self) -> None:
        """The lock is the runner's alone, who checks it in its own work: it must not fail what others put."""

    def _count(self, database: sqlite3.Connection) -> int:
        """Count the commit among those of all processes."""
        count = "UPDATE meta SET value = value + 1 WHERE key = 'commits' RETURNING value"
        return int(database.execute(count).fetchone()[0])

    def _commit(self, database: sqlite3.Connection, group: list[Work]) -> list[Outcome]:
        if all(step in READING for step, _, _ in group):
            return super()._commit(database, group)
        wait_for_turn(self._turn)
        try:
            while not self._inbox.empty():  # what came while others had their turn shares this commit
                more = self._inbox.get()
                if more is None:
                    self._inbox.put(None)
                    break
                group = group + more
            outcomes = super()._commit(database, group)
        finally:
            pass_turn(self._turn)
        self._committed()
        return outcomes

    def _tell(self, outcomes: list[Outcome]) -> None:
        by_loop: dict[asyncio.AbstractEventLoop, list[Outcome]] = {}
        for outcome in outcomes:
            if outcome[0] is not None:
                by_loop.setdefault(outcome[0].get_loop(), []).append(outcome)
        for loop, own in by_loop.items():
            with contextlib.suppress(RuntimeError):  # the loop is gone, and with it everyone who waited
                loop.call_soon_threadsafe(resolve_outcomes, own)
