"""The journal's tables, the migration of older files, and how the file is opened.

``docs/explanation/journal.md`` documents the same for users; a test keeps the two equal. This file holds no state.
"""

from __future__ import annotations

import glob
import os
import sqlite3
import time
from typing import TYPE_CHECKING

import msgspec

from videorouter.errors import JournalError
from videorouter.journal.identity import digest_stored
from videorouter.locks import read_commit_note

if TYPE_CHECKING:
    from pathlib import Path

APPLICATION_ID = 0x56524A31
"""``VRJ1``: how the file says in its header that it is a journal of this package."""

_ITEMS = """
CREATE TABLE items (
  id              TEXT PRIMARY KEY,            -- given by the caller, else digest-occurrence
  position        INTEGER NOT NULL,            -- place in the input, from 0
  state           TEXT NOT NULL CHECK (state IN ('not_sent','sending','accepted','done','refused','failed','in_doubt',
                                                 'lost','cancelled')),
  digest          TEXT NOT NULL,               -- of verb and request, however it is spelt; '' where it could not be read
  spelling        TEXT,                        -- of rows that schema 1 wrote: its digest, of the very bytes
  verb            TEXT NOT NULL,               -- generate | edit
  model           TEXT,
  request         TEXT,                        -- the JSON body as it was sent; NULL once forgotten
  parent          TEXT,                        -- the item whose video it edits
  meta            TEXT,                        -- JSON: the caller's own columns, which are never sent
  sends           INTEGER NOT NULL DEFAULT 0,  -- intents committed
  number          INTEGER,                     -- of the sending that the state follows from, from 1; its facts:
  idempotency_key TEXT,
  phase           TEXT,                        -- how far it came: QUEUED, CONNECTING, SENDING, SENT, ANSWERED, COMPLETE
  status          INTEGER,                     -- the HTTP status of its answer, where it failed
  task_id         TEXT,
  poll_url        TEXT,
  request_id      TEXT,                        -- the gateway's, for its support
  sent            REAL,                        -- Unix times in seconds
  accepted        REAL,
  finished        REAL,
  reserved        REAL NOT NULL DEFAULT 0,     -- US dollars held while it runs
  cost            REAL,                        -- US dollars known to be spent, for all sendings of the item
  unknown         REAL NOT NULL DEFAULT 0,     -- US dollars that may have been billed, nobody knows; for all of them
  result          TEXT,                        -- JSON: videos with their URLs and ids
  failure         TEXT,                        -- JSON: type, message, status, request_id
  created         REAL,
  owner           TEXT,                        -- of jobs, from here on
  key             TEXT,
  priority        INTEGER NOT NULL DEFAULT 0,
  options         TEXT,                        -- JSON: timeout, retries, headers
  notify          TEXT,                        -- JSON: whom to tell of its end
  epoch           INTEGER                      -- the runner's life that sent it
);
CREATE INDEX items_state ON items (state) WHERE state <> 'done';
CREATE INDEX items_digest ON items (digest) WHERE spelling IS NOT NULL;
CREATE INDEX items_spelling ON items (spelling) WHERE spelling IS NOT NULL;
CREATE UNIQUE INDEX items_key ON items (owner, key) WHERE key IS NOT NULL;
CREATE TABLE sendings (                        -- the other sendings of an item: each keeps what is known of it
  item            TEXT NOT NULL,
  number          INTEGER NOT NULL,            -- from 1
  state           TEXT NOT NULL,               -- how it ended
  idempotency_key TEXT,
  phase           TEXT,
  status          INTEGER,
  task_id         TEXT,
  poll_url        TEXT,
  request_id      TEXT,
  sent            REAL,
  accepted        REAL,
  finished        REAL,
  cost            REAL,
  unknown         REAL NOT NULL DEFAULT 0,
  failure         TEXT,
  PRIMARY KEY (item, number)
) WITHOUT ROWID;
CREATE TABLE files (
  path       TEXT PRIMARY KEY,                 -- from the journal's folder where it lies below it, or an object's URL
  item       TEXT NOT NULL,
  number     INTEGER NOT NULL,                 -- which of the item's videos, from 0
  size       INTEGER,
  sha256     TEXT,
  saved      REAL,                             -- Unix time; NULL while it is only planned
  media      TEXT,                             -- JSON: seconds, width, height, frames a second, codecs, sound
  mismatches TEXT                              -- JSON: how it differs from what was asked for
);
CREATE INDEX files_item ON files (item);
CREATE TABLE events (                          -- changes of the states of jobs, numbered
  number INTEGER PRIMARY KEY AUTOINCREMENT,
  item   TEXT NOT NULL,
  state  TEXT NOT NULL,
  at     REAL NOT NULL,
  note   TEXT
);
CREATE TABLE outbox (                          -- ends of jobs that somebody is still to be told of
  number INTEGER PRIMARY KEY AUTOINCREMENT,
  event  INTEGER NOT NULL,
  item   TEXT NOT NULL,
  tries  INTEGER NOT NULL DEFAULT 0,
  due    REAL NOT NULL,                        -- Unix time of the next try
  error  TEXT
);
CREATE TABLE inbox (                           -- what others ask of the run that writes this file
  number  INTEGER PRIMARY KEY AUTOINCREMENT,
  item    TEXT,
  command TEXT NOT NULL,                       -- JSON
  at      REAL NOT NULL
);
CREATE VIEW overview AS
  SELECT position, id, state, model, json_extract(request, '$.prompt') AS prompt, cost, unknown AS cost_in_doubt,
         task_id, request_id, json_extract(result, '$.videos[0].url') AS url,
         json_extract(failure, '$.message') AS failure,
         (SELECT path FROM files WHERE files.item = items.id AND saved IS NOT NULL ORDER BY number LIMIT 1) AS file,
         datetime(finished, 'unixepoch') AS finished
  FROM items ORDER BY position, id;
"""
_OTHERS = """
CREATE TABLE inline (
  item      TEXT NOT NULL,
  number    INTEGER NOT NULL,
  mime_type TEXT,
  data      BLOB NOT NULL,                     -- a video that came inside the answer and not as a URL
  PRIMARY KEY (item, number)
);
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT);
"""
TABLES = f"{_ITEMS.rstrip()}{_OTHERS}"
"""The tables of the newest version."""
_FROM_1 = f"""
DROP VIEW overview;
DROP INDEX items_state;
DROP INDEX files_item;
ALTER TABLE items RENAME TO items_1;
ALTER TABLE files RENAME TO files_1;
{_ITEMS}
INSERT INTO items (id, position, state, digest, spelling, verb, model, request, parent, sends, number, idempotency_key,
                   task_id, poll_url, request_id, sent, accepted, finished, reserved, cost, unknown, result, failure, created)
  SELECT id, position, state, coalesce(redigest(verb, request, parent), digest), nullif(digest, ''), verb, model, request,
         parent, sends, nullif(sends, 0), idempotency_key, task_id, poll_url, request_id, sent, accepted, finished, reserved,
         cost, unknown, result, failure, created
  FROM items_1;
UPDATE items SET digest = (SELECT one.digest FROM items AS one WHERE one.spelling = items.spelling AND one.request IS NOT NULL)
  WHERE request IS NULL AND EXISTS
    (SELECT 1 FROM items AS one WHERE one.spelling = items.spelling AND one.request IS NOT NULL);
INSERT INTO files (path, item, number, size, sha256, saved) SELECT path, item, number, size, sha256, saved FROM files_1;
DROP TABLE items_1;
DROP TABLE files_1;
"""  # noqa: S608  constants of our own
MIGRATIONS: dict[int, str] = {1: _FROM_1}
"""How a file of an earlier version becomes one of the next. ``redigest`` gives the digest of a request that is kept."""
VERSION = 2
_READ_1 = """
CREATE TEMP VIEW items AS SELECT *, NULL AS spelling, NULL AS meta, nullif(sends, 0) AS number, NULL AS phase, NULL AS status
  FROM main.items;
CREATE TEMP VIEW files AS SELECT *, NULL AS media, NULL AS mismatches FROM main.files;
CREATE TEMP TABLE sendings (item, number, state, idempotency_key, request_id, sent, cost, unknown);
"""
"""How a reader, which changes no file, sees one of schema 1 as one of this version."""


_MAGIC = b"SQLite format 3\0"
_HEADER_SIZE = 100
_PAGE_SIZE = 4096
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
        migrate(database, path)
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
    size = _find_size(path)
    there = size is not None
    log = path.with_name(f"{path.name}-wal")
    has_log = bool(_find_size(log))
    if size:
        if commits and not has_log and _is_foreign(path):
            raise JournalError(
                f"{path} is no longer the journal that a run had written {commits:,} times: it was overwritten. A new run elsewhere "
                f"would pay again for what stood in it. Put a copy of it back. Nothing was sent. To begin anew delete {path.name} "
                f"and {path.name}.lock.",
                path=str(path),
            )
        return
    if has_log:
        raise JournalError(
            f"{path} is {'empty' if there else 'missing'}, and its log {log.name} is there: a new run would pay again for what "
            f"stands in it. Put the file back beside its log. Nothing was sent. To begin anew delete {log.name}.",
            path=str(path),
        )
    if commits:
        raise JournalError(
            f"{path} was {'emptied' if there else 'moved or deleted'}: a run had written it {commits:,} times, and a new one would "
            f"pay again for what stood in it. Put it back, or a copy of it. Nothing was sent. To begin anew delete "
            f"{f'{path.name} and ' if there else ''}{path.name}.lock.",
            path=str(path),
        )


def _find_size(path: Path) -> int | None:
    """The size of a file, which others may delete meanwhile."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def _is_foreign(path: Path) -> bool:
    """Whether a file is none of SQLite's, or another program's database; one of a single page holds no table."""
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER_SIZE)
    except OSError:
        return False  # opening it says why
    if not header.startswith(_MAGIC):
        return True
    return int.from_bytes(header[68:72], "big") != APPLICATION_ID and path.stat().st_size > _PAGE_SIZE


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
        raise JournalError(f"There is no journal at {path}. Check the path.", path=str(path))
    check_traces(path, read_commit_note(path))
    try:
        # A reader must be able to recover the log that a killed writer left, which a read-only connection cannot.
        mode = "rw" if os.access(path, os.W_OK) else "ro" if path.with_name(f"{path.name}-wal").exists() else _SHELVED
        database = sqlite3.connect(
            f"{path.resolve().as_uri()}?mode={mode}",
            uri=True,
            isolation_level=None,
            timeout=5.0,
            check_same_thread=False,
        )
        _check_identity(database, path, empty_ok=False)
        if database.execute("PRAGMA user_version").fetchone()[0] < VERSION:
            database.executescript(_READ_1)
        database.execute("PRAGMA query_only = ON")
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
    if version > VERSION:
        raise JournalError(
            f"The journal {path} was written by a newer videorouter (schema {version}, this one knows "
            f"{VERSION}). Upgrade videorouter.",
            path=str(path),
        )


def migrate(database: sqlite3.Connection, path: Path) -> None:
    """Make the tables, or migrate those of an earlier version to the newest, each step in one transaction."""
    version = database.execute("PRAGMA user_version").fetchone()[0]
    if version == 0:
        _run_step(database, TABLES, VERSION)
        return
    if version < VERSION:
        keep_copy(database, path, version)
        database.create_function("redigest", 3, _redigest, deterministic=True)
    for number in range(version, VERSION):
        _run_step(database, MIGRATIONS[number], number + 1)


def _run_step(database: sqlite3.Connection, statements: str, version: int) -> None:
    identity = f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {version}"
    database.executescript(f"BEGIN IMMEDIATE; {statements}; {identity}; COMMIT;")


def keep_copy(database: sqlite3.Connection, path: Path, version: int) -> None:
    """Keep a copy of a journal before it is changed, for an earlier version of this package.

    Raises:
        JournalError: There is no room for it. Nothing was changed.
    """
    number, copy = 1, path.with_name(f"{path.name}.schema-{version}")
    while copy.exists():
        number += 1
        copy = path.with_name(f"{path.name}.schema-{version}.{number}")
    try:
        create_file(copy)
        kept = sqlite3.connect(copy)
        try:
            database.backup(kept)
        finally:
            kept.close()
    except (OSError, sqlite3.Error) as error:
        copy.unlink(missing_ok=True)
        raise JournalError(
            f"No copy of {path} could be kept before it is changed for this version: {error}. Nothing was changed or sent. "
            f"Free disk space in {path.parent} and run the same batch again.",
            path=str(path),
        ) from error


def list_copies(path: Path) -> list[Path]:
    """The copies of a journal that were kept before it was changed for a newer version."""
    return sorted(path.parent.glob(f"{glob.escape(path.name)}.schema-*"))


def _redigest(verb: str, request: str | None, parent: str | None) -> str | None:
    """The digest of a request that schema 1 kept; ``None`` where it is forgotten."""
    if request is None:
        return None
    try:
        return digest_stored(verb, request.encode("utf-8", "surrogatepass"), parent)
    except (msgspec.MsgspecError, ValueError):
        return None


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
