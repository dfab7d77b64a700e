"""The journal's tables, the migration of older files, and how the file is opened.

``docs/explanation/journal.md`` documents the same for users; a test keeps the two equal. This file holds no state.
"""

from __future__ import annotations

import os
import sqlite3
import time
from typing import TYPE_CHECKING

from videorouter.errors import JournalError

if TYPE_CHECKING:
    from pathlib import Path

APPLICATION_ID = 0x56524A31
"""``VRJ1``: how the file says in its header that it is a journal of this package."""

_FIRST = """
CREATE TABLE items (
  id              TEXT PRIMARY KEY,            -- given by the caller, else digest-occurrence
  position        INTEGER NOT NULL,            -- place in the input, from 0
  state           TEXT NOT NULL CHECK (state IN
                    ('not_sent','sending','accepted','done','refused','failed','in_doubt')),
  digest          TEXT NOT NULL,               -- of verb and body: the same id never stands for another request
  verb            TEXT NOT NULL,               -- generate | edit
  model           TEXT,
  request         TEXT,                        -- the JSON body as it was sent; NULL once forgotten
  idempotency_key TEXT,                        -- of the last sending
  task_id         TEXT,
  poll_url        TEXT,
  request_id      TEXT,                        -- the gateway's, for its support
  reserved        REAL NOT NULL DEFAULT 0,     -- US dollars held while it runs
  cost            REAL,                        -- US dollars known to be spent
  unknown         REAL NOT NULL DEFAULT 0,     -- US dollars that may have been billed, nobody knows
  sends           INTEGER NOT NULL DEFAULT 0,  -- intents committed
  result          TEXT,                        -- JSON: videos with their URLs and ids
  failure         TEXT,                        -- JSON: type, message, status, request_id
  parent          TEXT,                        -- the item whose video it edits
  created         REAL,                        -- Unix times in seconds
  sent            REAL,
  accepted        REAL,
  finished        REAL
);
CREATE INDEX items_state ON items (state) WHERE state <> 'done';
CREATE TABLE files (
  path   TEXT PRIMARY KEY,                     -- relative to the journal's folder where it lies below it
  item   TEXT NOT NULL,
  number INTEGER NOT NULL,                     -- which of the item's videos, from 0
  size   INTEGER,
  sha256 TEXT,
  saved  REAL                                  -- Unix time; NULL while it is only planned
);
CREATE INDEX files_item ON files (item);
CREATE TABLE inline (
  item      TEXT NOT NULL,
  number    INTEGER NOT NULL,
  mime_type TEXT,
  data      BLOB NOT NULL,                     -- a video that came inside the answer and not as a URL
  PRIMARY KEY (item, number)
);
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT);
CREATE VIEW overview AS
  SELECT position, id, state, model, json_extract(request, '$.prompt') AS prompt, cost, unknown AS cost_in_doubt,
         task_id, request_id, json_extract(result, '$.videos[0].url') AS url,
         json_extract(failure, '$.message') AS failure,
         (SELECT path FROM files WHERE files.item = items.id AND saved IS NOT NULL ORDER BY number LIMIT 1) AS file,
         datetime(finished, 'unixepoch') AS finished
  FROM items ORDER BY position, id;
"""

MIGRATIONS: tuple[str, ...] = (_FIRST,)
"""Step ``n`` makes a file of version ``n`` one of version ``n + 1``. Steps are only ever added."""


_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_SHELVED = "ro&immutable=1"
"""A file on a read-only medium needs no log, and none could be made."""


def create_file(path: Path) -> None:
    """Make an empty file that only its owner can read, unless it is there; SQLite's own files follow its mode."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        if path.is_file() and path.stat().st_size == 0:
            path.chmod(0o600)


def open_writable(path: Path) -> sqlite3.Connection:
    """Open, check and migrate a journal for its one writer."""
    try:
        create_file(path)
        database = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5.0)
    except (OSError, sqlite3.Error) as error:
        raise wrap_error("open", error, path) from error
    try:
        _check_identity(database, path)
        database.execute("PRAGMA busy_timeout = 5000")
        database.execute("PRAGMA synchronous = FULL")
        # Before the log is switched on: a file that holds nothing is then one whose log is missing, and never a new one.
        migrate(database)
        _switch_log_on(database)
        database.execute("BEGIN IMMEDIATE")
        database.execute("INSERT OR REPLACE INTO meta VALUES ('opened', ?)", (str(int(time.time())),))
        database.execute("INSERT OR IGNORE INTO meta VALUES ('commits', '0')")
        database.execute("COMMIT")
        database.execute("PRAGMA wal_checkpoint(PASSIVE)").close()
        database.execute("CREATE TEMP TABLE met (key TEXT PRIMARY KEY, times INTEGER NOT NULL) WITHOUT ROWID")
    except JournalError:
        database.close()
        raise
    except sqlite3.Error as error:
        database.close()
        raise wrap_error("open", error, path) from error
    return database


def check_traces(path: Path, commits: int) -> None:
    """Refuse to begin anew beside the log or the commit note of an earlier run. Called before the file is opened."""
    there = path.exists()
    if there and path.stat().st_size:
        return
    log = path.with_name(f"{path.name}-wal")
    if log.exists() and log.stat().st_size:
        raise JournalError(
            f"{path} is {'empty' if there else 'missing'}, and its log {log.name} is there: a new run would pay again for what "
            f"stands in it. Put the file back beside its log. Nothing was sent. To begin anew delete {log.name}.",
            path=str(path),
        )
    if there and commits:
        raise JournalError(
            f"{path} was emptied: a run had written it {commits:,} times, and a new one would pay again for what stood in it. "
            f"Put a copy back. Nothing was sent. To begin anew delete {path.name} and {path.name}.lock.",
            path=str(path),
        )


def check_age(path: Path, commits: int, noted: int) -> None:
    """Refuse a journal with fewer commits than were noted beside it: it is older than its last run."""
    if commits < noted:
        raise JournalError(
            f"{path} is older than its last run: {noted - commits:,} of {noted:,} commits are missing. Either an old copy was "
            f"put back, or its log {path.name}-wal was left behind when it was moved. A new run would pay again for what is "
            f"missing. Put the newest file back, with its log. Nothing was sent. To go on with this one delete {path.name}.lock.",
            path=str(path),
        )


def read_commits(database: sqlite3.Connection) -> int:
    """Return how many commits a journal has."""
    row = database.execute("SELECT value FROM meta WHERE key = 'commits'").fetchone()
    return int(row[0]) if row is not None else 0


def count_commit(database: sqlite3.Connection, commits: int) -> None:
    """Count the commit that is under way."""
    database.execute("UPDATE meta SET value = ? WHERE key = 'commits'", (str(commits),))


def is_busy(error: BaseException) -> bool:
    """Whether another connection holds the database."""
    return isinstance(error, sqlite3.OperationalError) and (error.sqlite_errorcode & 0xFF) in _BUSY


def _switch_log_on(database: sqlite3.Connection) -> None:
    """Switch the log on; a reader may prevent it for a moment, and SQLite does not wait for that."""
    until = time.monotonic() + 5.0
    while True:
        try:
            database.execute("PRAGMA journal_mode = WAL").close()
        except sqlite3.OperationalError as error:
            if not is_busy(error) or time.monotonic() >= until:
                raise
            time.sleep(0.02)
        else:
            return


def open_readable(path: Path) -> sqlite3.Connection:
    """Open a journal to read it, also while a batch is writing."""
    if not path.is_file():
        raise JournalError(f"There is no journal at {path}. Check the path, or run the batch first.", path=str(path))
    try:
        # A reader must be able to recover the log that a killed writer left, which a read-only connection cannot.
        mode = "rw" if os.access(path, os.W_OK) else "ro" if path.with_name(f"{path.name}-wal").exists() else _SHELVED
        database = sqlite3.connect(
            f"{path.resolve().as_uri()}?mode={mode}", uri=True, isolation_level=None, timeout=5.0
        )
        database.execute("PRAGMA query_only = ON")
        _check_identity(database, path, empty_ok=False)
    except sqlite3.Error as error:
        raise wrap_error("read", error, path) from error
    return database


def _check_identity(database: sqlite3.Connection, path: Path, *, empty_ok: bool = True) -> None:
    identity = database.execute("PRAGMA application_id").fetchone()[0]
    version = database.execute("PRAGMA user_version").fetchone()[0]
    tables = database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if not tables and path.stat().st_size:
        raise JournalError(
            f"{path} holds nothing. If it was copied or moved after a run was killed, its log {path.name}-wal was left behind: "
            "put it beside the file, or a new run pays again for what stands in it. Otherwise delete the file.",
            path=str(path),
        )
    if identity != APPLICATION_ID and (tables or not empty_ok):
        raise JournalError(
            f"{path} is an SQLite database but not a videorouter journal. Pass another path.", path=str(path)
        )
    if version > len(MIGRATIONS):
        raise JournalError(
            f"The journal {path} was written by a newer videorouter (schema {version}, this one knows "
            f"{len(MIGRATIONS)}). Upgrade videorouter.",
            path=str(path),
        )


def migrate(database: sqlite3.Connection) -> None:
    """Migrate the tables to the newest version, each step in one transaction."""
    version = database.execute("PRAGMA user_version").fetchone()[0]
    for number in range(version, len(MIGRATIONS)):
        database.executescript(
            f"BEGIN IMMEDIATE; {MIGRATIONS[number]}; PRAGMA application_id = {APPLICATION_ID}; "
            f"PRAGMA user_version = {number + 1}; COMMIT;"
        )


def wrap_error(doing: str, error: Exception, path: Path) -> JournalError:
    """Convert an error of the disk or of SQLite to one with advice."""
    said = str(error) or type(error).__name__
    if isinstance(error, sqlite3.DatabaseError) and "not a database" in said:
        advice = "The file is something else: pass another path."
    elif "malformed" in said:
        advice = (
            "The file is damaged. A run with another journal would pay again for what it holds: put a copy back, or "
            "save what is left with the command .recover of sqlite3."
        )
    elif "full" in said or "No space" in said:
        advice = "Free disk space and run the same batch again: it resumes."
    elif "locked" in said or "busy" in said:
        advice = "Another program holds the database: close it and run the same batch again."
    else:
        advice = "Check that its folder exists and can be written, and that the disk is sound."
    return JournalError(f"Could not {doing} the journal {path}: {said}. {advice}", path=str(path))
