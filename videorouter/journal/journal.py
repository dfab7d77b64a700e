"""The verbs of a journal: the records of every item, every write of a state, its money and its files.

Each verb is one operation of the writer, committed when it returns. A change of a state that ``states.MOVES`` lacks is
refused and writes nothing. All other decisions about items are made in ``journal/states.py``.
"""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

import msgspec

from videorouter.errors import JournalError
from videorouter.journal.identity import digest_request, digest_spelling, fill_step, name_item
from videorouter.journal.schema import list_copies
from videorouter.journal.states import MOVES, SETTLED, STATES, ItemRow, Move, list_sources
from videorouter.journal.writer import INTENT, RefusedChangeError, Writer
from videorouter.models import ItemState
from videorouter.places import ObjectURL, find_place

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")
Settlement: TypeAlias = Literal["not_bought", "send_again", "bought"]
"""The user's decision about an item that may have been billed."""


class Fingerprint(msgspec.Struct, frozen=True):
    """What an entry asks for: its request, the digest of what that says, and the chain that follows from it.

    ``steps`` are the bodies of the chain, each with the id that it was given, and ``chain`` is the digest of all of it: equal
    ones are takes of each other.
    """

    verb: str
    body: bytes
    digest: str
    chain: str
    steps: tuple[tuple[str | None, bytes], ...] = ()

    @property
    def spelling(self) -> str:
        """The digest by the rule of schema 1."""
        return digest_spelling(self.verb, self.body)

    def matches(self, row: ItemRow) -> bool:
        """Whether a row is this request."""
        return row.digest == self.digest or (row.spelling is not None and row.asks_for(self.digest, self.spelling))


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """The identity of an input entry: its id, how often this run has met it, and its row, if it has one."""

    id: str
    times: int = 1
    row: ItemRow | None = None


_NAMED_LATER = Identity(id="")


class Intent(msgspec.Struct, frozen=True, kw_only=True):
    """A request that is about to be sent. ``reserved`` is in US dollars."""

    id: str
    position: int
    digest: str
    verb: str
    model: str
    request: str
    idempotency_key: str
    reserved: float = 0.0
    parent: str | None = None
    meta: str | None = None


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """How a sending ended, or for now: the changes to its row.

    ``reserved`` is what stays held, ``cost`` and ``unknown`` are what is added, all in US dollars. ``kept`` is the state of an item
    of which an earlier sending is in doubt still, since this one bought nothing, and ``kept_failure`` what is told of it.
    """

    id: str
    state: ItemState
    reserved: float = 0.0
    cost: float | None = None
    unknown: float = 0.0
    result: str | None = None
    failure: str | None = None
    task_id: str | None = None
    request_id: str | None = None
    phase: str | None = None
    status: int | None = None
    kept: ItemState | None = None
    kept_failure: str | None = None
    inline: tuple[tuple[int, str | None, bytes], ...] = ()


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """The money of all runs of a journal: held, spent and perhaps spent, in US dollars."""

    reserved: float = 0.0
    cost: float = 0.0
    unknown: float = 0.0
    items: int = 0


class SavedFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file that was saved whole."""

    path: Path | ObjectURL
    size: int
    sha256: str | None = None
    media: str | None = None
    mismatches: str | None = None


COLUMNS = ItemRow.__struct_fields__
_SELECT = f"SELECT {', '.join(COLUMNS)} FROM items WHERE id = ?"  # noqa: S608  names of our own columns
_ANY_ITEM = "SELECT EXISTS (SELECT 1 FROM items)"
CLAIM = "INSERT OR IGNORE INTO met VALUES (?, 1)"
_COUNT = "INSERT INTO met VALUES (?, 2) ON CONFLICT (key) DO UPDATE SET times = times + 1 RETURNING times"
_OF_SCHEMA_1 = "SELECT EXISTS (SELECT 1 FROM items WHERE spelling IS NOT NULL)"
_OF_ENTRY = "SELECT id FROM items WHERE {} = ? AND spelling IS NOT NULL AND id GLOB spelling || '-*'"
"""Rows of schema 1 whose ids were made from their requests."""
_UNCLAIMED = "AND NOT EXISTS (SELECT 1 FROM met WHERE key = 'i' || items.id)"
"""Those that this run has not met yet."""


def _guard(move: Move, after: ItemState) -> str:
    """Return the SQL condition under which a move may take a row to a state."""
    return f"state IN ({', '.join(repr(state) for state in list_sources(move, after))})"


_NO_COLUMNS = ("kept", "kept_failure", "inline")
"""The last fields of an ending, which are written by statements of their own."""
_INSERT_INTENT = """
INSERT INTO items (id, position, state, digest, verb, model, request, idempotency_key, reserved, sends, number, parent,
                   meta, created, sent)
VALUES (?, ?, 'sending', ?, ?, ?, ?, ?, ?, 1, 1, ?, ?, ?, ?)
ON CONFLICT (id) DO
"""
"""Takes an intent's fields in their order, then the time twice: binding by name is slower."""
UPSERT_INTENT = f"""{_INSERT_INTENT} UPDATE SET
  state = 'sending', digest = excluded.digest, request = excluded.request, model = excluded.model,
  meta = coalesce(excluded.meta, meta),
  idempotency_key = excluded.idempotency_key, reserved = excluded.reserved, sends = sends + 1, number = sends + 1,
  sent = excluded.sent, phase = NULL, status = NULL, task_id = NULL, poll_url = NULL, request_id = NULL, result = NULL,
  failure = NULL, accepted = NULL, finished = NULL
"""
_FIRST_INTENT = f"{_INSERT_INTENT} NOTHING"
_NEXT_INTENT = f"{UPSERT_INTENT} WHERE {_guard('intent', 'sending')}"
_FACTS = "number, idempotency_key, phase, status, task_id, poll_url, request_id, sent, accepted, finished"
_SHARE = "(SELECT total({0}) FROM sendings WHERE item = items.id)"
ARCHIVE = f"""
INSERT INTO sendings (item, {_FACTS}, state, cost, unknown, failure)
  SELECT id, {_FACTS},
    CASE WHEN state = 'not_sent' AND json_valid(failure) AND json_extract(failure, '$.in_doubt') THEN 'in_doubt' ELSE state END,
    CASE state WHEN 'failed' THEN cost - {_SHARE.format("cost")} ELSE nullif(coalesce(cost, 0) - {_SHARE.format("cost")}, 0) END,
    max(0, unknown - {_SHARE.format("unknown")}), failure
  FROM items WHERE id = ? AND number IS NOT NULL AND
"""  # noqa: S608  constants of our own, here and below
_ARCHIVE_BEFORE_NEXT = f"{ARCHIVE} {_guard('intent', 'sending')}"
_ARCHIVE_DOUBT = f"{ARCHIVE} state IN ('in_doubt', 'lost')"
UPDATE_TASK = """
UPDATE items SET state = 'accepted', task_id = :task_id, poll_url = :poll_url, request_id = :request_id,
  accepted = :now WHERE id = :id
"""
_TASK = f"{UPDATE_TASK} AND {_guard('task', 'accepted')}"
UPDATE_ENDING = """
UPDATE items SET state = ?, reserved = ?, cost = coalesce(coalesce(cost, 0) + ?, cost), unknown = max(0, unknown + ?),
  result = coalesce(?, result), failure = ?, task_id = coalesce(?, task_id), request_id = coalesce(?, request_id),
  phase = ?, status = ?, finished = ? WHERE id = ?
"""
"""Takes an ending's fields in their order, but its id last, after the time."""
_ENDINGS = {
    state: f"{UPDATE_ENDING} AND {_guard('ending', state)}" for state in STATES if list_sources("ending", state)
}
_ARCHIVE_VAIN = {
    state: f"""
INSERT INTO sendings (item, number, state, idempotency_key, phase, status, request_id, sent, finished, failure)
  SELECT id, number, :state, idempotency_key, :phase, :status, :request_id, sent, :now, :failure
  FROM items WHERE id = :id AND {_guard("ending", state)}
"""  # noqa: S608
    for state in ("in_doubt", "not_sent")
}
_RESTORE = f"""
UPDATE items SET state = :kept, failure = :kept_failure, reserved = 0, ({_FACTS}) =
  (SELECT {_FACTS} FROM sendings WHERE item = :id AND state = 'in_doubt' ORDER BY number DESC LIMIT 1) WHERE id = :id
"""  # noqa: S608
_FORGET_RESTORED = "DELETE FROM sendings WHERE item = :id AND number = (SELECT number FROM items WHERE id = :id)"
INSERT_REFUSED = """
INSERT INTO items (id, position, state, digest, verb, failure, created, finished)
VALUES (:id, :position, 'refused', '', :verb, :failure, :now, :now)
ON CONFLICT (id) DO UPDATE SET failure = excluded.failure, finished = excluded.finished
  WHERE digest = '' AND position = excluded.position
"""
_ELSEWHERE = "SELECT 1 FROM items WHERE id = :id AND position <> :position"
_CRASHED = f"""
UPDATE items SET state = 'in_doubt', unknown = unknown + reserved, reserved = 0,
  failure = coalesce(failure, ?) WHERE {_guard("crash", "in_doubt")}
"""  # noqa: S608  constants of our own, here and below
CRASH_NOTE = (
    '{"type":"OutcomeUnknownError","message":"The process ended after the request may have left and before its '
    'outcome was recorded: it may have been billed.","in_doubt":true}'
)
DOUBTFUL = """
(state IN ('in_doubt', 'lost') OR unknown > 0 OR id IN (SELECT item FROM sendings WHERE state IN ('in_doubt', 'lost')))
"""
"""The condition of a row that may have been billed, nobody knows, for one of its sendings."""
_SETTLEABLE = f"id = :id AND {DOUBTFUL} AND state IN ({', '.join(map(repr, MOVES['settlement']))})"
_NOT_BOUGHT = f"""
UPDATE items SET state = CASE WHEN state IN ('in_doubt', 'lost') THEN 'not_sent' ELSE state END, unknown = 0,
  failure = CASE WHEN state IN ('in_doubt', 'lost') THEN NULL ELSE failure END,
  cost = CASE WHEN state = 'failed' THEN coalesce(cost, 0) ELSE cost END WHERE {_SETTLEABLE}
"""  # noqa: S608
_SEND_AGAIN = "UPDATE items SET state = 'not_sent', number = NULL WHERE id = :id AND state IN ('in_doubt', 'lost')"
_WITH_COST = "coalesce(coalesce(cost, 0) + coalesce(:cost, nullif(unknown, 0)), cost)"
"""What an item cost with what was in doubt: unknown, where nobody knows what that was."""
_LOST = f"""
UPDATE items SET state = CASE WHEN state IN ('in_doubt', 'lost') THEN 'failed' ELSE state END,
  cost = {_WITH_COST}, unknown = 0,
  failure = CASE WHEN state IN ('in_doubt', 'lost') THEN :failure ELSE failure END, finished = coalesce(finished, :now)
  WHERE {_SETTLEABLE}
"""  # noqa: S608
_FOUND = f"""
UPDATE items SET state = 'done', cost = {_WITH_COST}, unknown = 0, result = :result,
  failure = NULL, finished = :now WHERE {_SETTLEABLE} AND state <> 'done'
"""  # noqa: S608
_SETTLE_SENDINGS = """
UPDATE sendings SET state = CASE WHEN state IN ('in_doubt', 'lost') THEN :became ELSE state END,
  cost = CASE WHEN :became = 'failed' AND :cost IS NULL THEN nullif(coalesce(cost, 0) + unknown, 0) ELSE cost END, unknown = 0
  WHERE item = :id AND (state IN ('in_doubt', 'lost') OR unknown > 0)
"""
UPDATE_FILE = """
UPDATE OR IGNORE files SET path = :path, size = :size, sha256 = :sha256, media = :media, mismatches = :mismatches, saved = :now
  WHERE path = :planned
"""
SELECT_FILES = """
SELECT path, size, sha256, media, mismatches FROM files WHERE item = ? AND saved IS NOT NULL ORDER BY number
"""
_LOST_NOTE = '{"type":"TaskFailedError","message":"Settled by hand: it was billed, its video is lost.","code":"%s"}'


class Journal:
    """A journal, open for writing. Make it with ``open``; every verb may be awaited from one loop by many at once."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        fault: Callable[[str], None] | None = None,
        writer: Writer | None = None,
    ) -> None:
        self.writer: Writer = writer or Writer(path, fault=fault)
        self.path: Path = self.writer.path
        self.folder: Path = self.path.parent
        self._of_schema_1 = False
        self._had_items = True

    @classmethod
    async def open(cls, path: str | os.PathLike[str], *, fault: Callable[[str], None] | None = None) -> Journal:
        """Open or make a journal; whatever an ended process was sending is in doubt from now on."""
        journal = cls(path, fault=fault)
        await journal.writer.open(journal._recover)
        return journal

    def _recover(self, database: sqlite3.Connection) -> None:
        if database.execute("SELECT value FROM meta WHERE key = 'kind'").fetchone() is not None:
            raise JournalError(
                f"{self.path} is a queue of jobs, which router.jobs() runs, and no journal of a batch. Nothing was sent. Pass "
                "another path.",
                path=str(self.path),
            )
        database.execute(_CRASHED, (CRASH_NOTE,))
        self._of_schema_1 = bool(database.execute(_OF_SCHEMA_1).fetchone()[0])
        self._had_items = bool(database.execute(_ANY_ITEM).fetchone()[0])

    async def identify(self, entry: Fingerprint, given: str | None, *, again: bool = True) -> Identity:
        """Count an entry of the input, name it, and find its row. ``again``: an equal request is another item.

        In a new journal an entry without an id and a chain is named by its intent, which saves it a commit: until then its id
        is empty.
        """
        if not self._had_items and given is None and again and not entry.steps:
            return _NAMED_LATER

        def work(database: sqlite3.Connection) -> Identity:
            if given is None:
                item, times = self.name(database, entry, again=again)
            else:
                item, times = given, 2 - database.execute(CLAIM, (f"i{given}",)).rowcount
                if times > 1:
                    return Identity(id=given, times=times)
            # What this run writes is claimed before: only an earlier run can have left the row of a new claim.
            row = find_item(database, item) if self._had_items or times > 1 else None
            return Identity(id=item, times=times, row=row)

        return await self.writer.do("identify", work)

    async def claim(self, given: str) -> bool:
        """Keep an id for the entry of this run that came with it first; whether that is this one."""
        return await self.writer.do("identify", lambda database: database.execute(CLAIM, (f"i{given}",)).rowcount > 0)

    async def find(self, item: str) -> ItemRow | None:
        """Return the row of an item."""
        return await self.writer.do("find", lambda database: find_item(database, item))

    async def record_intent(self, intent: Intent) -> str:
        """Commit that a request is about to be sent; until then it must not be.

        Returns its id, which is chosen only here where ``identify`` has left it open, and on Ray.
        """
        now = time.time()
        return await self.writer.do(INTENT, lambda database: self._write_intent(database, intent, now))

    async def record_task(
        self, item: str, task_id: str, poll_url: str | None = None, request_id: str | None = None
    ) -> None:
        """Commit that the gateway has accepted a request, with its task id."""
        values = {"id": item, "task_id": task_id, "poll_url": poll_url, "request_id": request_id, "now": time.time()}

        def work(database: sqlite3.Connection) -> None:
            if not database.execute(_TASK, values).rowcount:
                raise self._refuse_change(database, item, "accepted")

        await self.writer.do("task", work)

    def record_ending(self, ending: Ending) -> Awaitable[None]:
        """Commit how a request ended."""
        now = time.time()
        return self.writer.do("ending", lambda database: self._write_ending(database, ending, now))

    async def record_invalid_entry(self, item: str, position: int, verb: str, failure: str) -> bool:
        """Commit that an entry cannot be used; ``True``, without a write, when another entry has its id."""
        values = {"id": item, "position": position, "verb": verb, "failure": failure, "now": time.time()}

        def work(database: sqlite3.Connection) -> bool:
            written = database.execute(INSERT_REFUSED, values).rowcount
            return not written and database.execute(_ELSEWHERE, values).fetchone() is not None

        return await self.writer.do("refusal", work)

    async def settle(
        self,
        item: str,
        settlement: Settlement,
        *,
        cost: float | None = None,
        url: str | None = None,
        video_id: str | None = None,
    ) -> bool:
        """Commit the user's decision about an item that may have been billed; ``False`` when there was no doubt.

        ``not_bought``: it is sent again. ``send_again``: it is, and a second charge is accepted. ``bought``: it is done
        if its video is named, else paid and lost; ``cost`` is then what was billed, by default what may have been.
        """

        def work(database: sqlite3.Connection) -> bool:
            return settle_item(database, item, settlement, cost=cost, url=url, video_id=video_id)

        return await self.writer.do("settle", work)

    async def erase_prompts(self) -> int:
        """Erase every prompt, the prompts that the gateway rewrote, and the caller's own columns; returns the number of rows.

        Copies that were kept before the file was changed for a newer version are deleted. Closing the journal erases the
        prompts from its free pages, unless a full disk or a reader prevents it: see ``erased``.
        """

        def work(database: sqlite3.Connection) -> int:
            database.execute("PRAGMA secure_delete = ON")
            database.execute(
                "UPDATE items SET result = json_set(result, '$.videos', (SELECT json_group_array(json_remove(value, "
                "'$.revised_prompt')) FROM json_each(result, '$.videos'))) WHERE json_valid(result)"
            )
            database.execute("UPDATE items SET meta = NULL WHERE meta IS NOT NULL")
            return database.execute("UPDATE items SET request = NULL WHERE request IS NOT NULL").rowcount

        changed = await self.writer.do("forget", work)
        for copy in list_copies(self.path):
            copy.unlink(missing_ok=True)
        self.writer.erases = True
        return changed

    @property
    def erased(self) -> bool:
        """Whether the erased prompts are gone from the disk, too; known once the journal is closed."""
        return self.writer.erased

    async def drop_unreadable(self) -> None:
        """Commit that unreadable entries are to be read again: they may have been corrected since."""
        await self._execute("refusal", "DELETE FROM items WHERE state = 'refused' AND digest = '' AND sends = 0", {})

    async def totals(self) -> Totals:
        """Return the money of all runs so far: held, spent and perhaps spent."""
        query = "SELECT total(reserved), total(cost), total(unknown), count(*) FROM items"

        def work(database: sqlite3.Connection) -> Totals:
            reserved, cost, unknown, items = database.execute(query).fetchone()
            return Totals(reserved=reserved, cost=cost, unknown=unknown, items=items)

        return await self.writer.do("find", work)

    async def note(self, key: str, value: str) -> None:
        """Commit a note about the batch itself, such as the path of its input."""
        await self._execute("note", "INSERT OR REPLACE INTO meta VALUES (:key, :value)", {"key": key, "value": value})

    async def plan_file(self, item: str, number: int, path: Path | ObjectURL) -> Path | ObjectURL:
        """Reserve a file name for one video of an item: the same as before, and never another file's."""
        return await self.writer.do("file", lambda database: self.choose_file(database, item, number, path))

    async def record_file(self, planned: Path | ObjectURL, file: SavedFile) -> None:
        """Commit that a file is whole, under its planned name or with another ending."""
        values = {**msgspec.structs.asdict(file), "path": self.shorten(file.path), "planned": self.shorten(planned)}
        await self._execute("file", UPDATE_FILE, {**values, "now": time.time()})

    async def find_files(self, item: str) -> tuple[SavedFile, ...]:
        """Return the files of an item that were saved whole, in order."""
        rows = await self.writer.do("find", lambda database: database.execute(SELECT_FILES, (item,)).fetchall())
        return tuple(
            SavedFile(path=find_place(self.folder, path), size=size, sha256=sha256, media=media, mismatches=mismatches)
            for path, size, sha256, media, mismatches in rows
        )

    async def find_inline(self, item: str) -> dict[int, bytes]:
        """Return the videos that arrived inside an item's answer, by number."""
        query = "SELECT number, data FROM inline WHERE item = ?"
        return await self.writer.do("find", lambda database: dict(database.execute(query, (item,)).fetchall()))

    async def aclose(self) -> None:
        """Write what waits, close the file, release the lock. Idempotent."""
        await self.writer.aclose()

    async def transact(self, work: Callable[[sqlite3.Connection], T], *, intends: bool = False) -> T:
        """Run the writes of many processes as one operation of the next commit; for Ray alone."""
        return await self.writer.do(INTENT if intends else "transact", work)

    def shorten(self, path: Path | ObjectURL) -> str:
        """Make a path relative to the journal's folder, if it is below it."""
        if isinstance(path, ObjectURL):
            return str(path)
        absolute = Path(os.path.abspath(path))  # noqa: PTH100  a symlink that the user gave stays as given
        try:
            return absolute.relative_to(self.folder).as_posix()
        except ValueError:
            return str(absolute)

    def choose_file(
        self, database: sqlite3.Connection, item: str, number: int, path: Path | ObjectURL
    ) -> Path | ObjectURL:
        """Reserve a file name as ``plan_file`` does, inside the writer's thread."""
        known = database.execute("SELECT path FROM files WHERE item = ? AND number = ?", (item, number)).fetchone()
        if known is not None:
            return find_place(self.folder, str(known[0]))
        for extra in ("", f"-{_tail(item)}", *(f"-{_tail(item)}-{again}" for again in range(2, 100))):
            chosen = path.with_name(f"{path.stem}{extra}{path.suffix}")
            if isinstance(chosen, Path) and os.path.lexists(chosen):
                continue
            taken = database.execute(
                "INSERT OR IGNORE INTO files (path, item, number) VALUES (?, ?, ?)",
                (self.shorten(chosen), item, number),
            )
            if taken.rowcount:
                return chosen
        raise sqlite3.IntegrityError(f"no free file name for {path.name}")

    def name(self, database: sqlite3.Connection, entry: Fingerprint, *, again: bool) -> tuple[str, int]:
        """The id of an entry that was given none, and how often this run has met it."""
        earlier = _find_earlier(database, entry, claimed=not again) if self._of_schema_1 else None
        return _claim(database, entry.chain, earlier or name_item(entry.chain, 1), again=again)

    def _write_intent(self, database: sqlite3.Connection, intent: Intent, now: float) -> str:
        item, *fields = msgspec.structs.astuple(intent)
        item = item or _claim(database, intent.digest, name_item(intent.digest, 1))[0]
        values = (item, *fields, now, now)
        if not database.execute(_FIRST_INTENT, values).rowcount:
            database.execute(_ARCHIVE_BEFORE_NEXT, (item,))
            if not database.execute(_NEXT_INTENT, values).rowcount:
                raise self._refuse_change(database, item, "sending")
        return str(item)

    def _write_ending(self, database: sqlite3.Connection, ending: Ending, now: float) -> None:
        if not write_ending(database, ending, now):
            raise self._refuse_change(database, ending.id, ending.kept or ending.state)

    def _refuse_change(self, database: sqlite3.Connection, item: str, after: ItemState) -> RefusedChangeError:
        row = find_item(database, item)
        return RefusedChangeError(
            f"Item {item!r} of the journal {self.path} is {row.state if row else 'unknown'!r} and cannot become {after!r}. "
            "Nothing was written. This is a bug in videorouter: please report it.",
            path=str(self.path),
        )

    async def _execute(self, step: str, statement: str, values: dict[str, Any]) -> int:
        return await self.writer.do(step, lambda database: database.execute(statement, values).rowcount)


def _claim(database: sqlite3.Connection, chain: str, item: str, *, again: bool = True) -> tuple[str, int]:
    """Claim an id for an entry, or the next one that is free, and count how often this run has met such an entry."""
    times = 1
    while not database.execute(CLAIM, (f"i{item}",)).rowcount:
        times = database.execute(_COUNT, (f"d{chain}",)).fetchone()[0]
        if not again:
            break
        item = name_item(chain, times)
    return item, times


def find_item(database: sqlite3.Connection, item: str) -> ItemRow | None:
    """Return the row of an item."""
    row = database.execute(_SELECT, (item,)).fetchone()
    return None if row is None else ItemRow(**dict(zip(COLUMNS, row, strict=True)))


def settle_item(
    database: sqlite3.Connection,
    item: str,
    settlement: Settlement,
    *,
    cost: float | None = None,
    url: str | None = None,
    video_id: str | None = None,
) -> bool:
    """Write down the user's decision about an item that may have been billed, as ``Journal.settle`` does."""
    statement = {"not_bought": _NOT_BOUGHT, "send_again": _SEND_AGAIN, "bought": _LOST}[settlement]
    values: dict[str, object] = {"id": item, "cost": cost, "failure": _LOST_NOTE % SETTLED, "now": time.time()}
    values["became"] = "failed" if settlement == "bought" else "not_sent"
    if settlement == "bought" and (url or video_id):
        statement = _FOUND
        values["result"] = msgspec.json.encode({"videos": [{"url": url, "video_id": video_id}]}).decode()
    if settlement == "send_again":
        database.execute(_ARCHIVE_DOUBT, (item,))
    changed = database.execute(statement, values).rowcount > 0
    if changed and settlement != "send_again":
        database.execute(_SETTLE_SENDINGS, values)
    return changed


def write_ending(database: sqlite3.Connection, ending: Ending, now: float) -> bool:
    """Write down how a sending ended; whether that was possible, or had been done before."""
    if ending.kept is not None:
        values = {**msgspec.structs.asdict(ending), "now": now}
        written = database.execute(_ARCHIVE_VAIN[ending.kept], values).rowcount
        if written:
            database.execute(_RESTORE, values)
            database.execute(_FORGET_RESTORED, values)
    else:
        item, *fields = msgspec.structs.astuple(ending)[: -len(_NO_COLUMNS)]
        written = database.execute(_ENDINGS[ending.state], (*fields, now, item)).rowcount
    if not written:  # perhaps by a commit that was told as failed and is on the disk all the same
        row = find_item(database, ending.id)
        return row is not None and row.state == (ending.kept or ending.state)
    for number, kind, data in ending.inline:
        database.execute("INSERT OR REPLACE INTO inline VALUES (?, ?, ?, ?)", (ending.id, number, kind, data))
    return True


def _find_earlier(database: sqlite3.Connection, entry: Fingerprint, *, claimed: bool) -> str | None:
    """A row of schema 1 that is this request, spelt as it is now or in another way; ``claimed`` ones, too, where asked for."""
    query = _OF_ENTRY if claimed else f"{_OF_ENTRY} {_UNCLAIMED}"
    for column, value in (("spelling", entry.spelling), ("digest", entry.digest)):
        for (item,) in database.execute(f"{query.format(column)} ORDER BY position, created", (value,)).fetchall():
            if _has_chain(database, item, entry.steps):
                return str(item)
    return None


def _has_chain(database: sqlite3.Connection, item: str, steps: tuple[tuple[str | None, bytes], ...]) -> bool:
    """Whether the steps that follow from an item in the journal are those of an entry, as far as they are known."""
    before = item
    for number, (given, body) in enumerate(steps, 1):
        name = given or f"{item}/{number}"
        row = find_item(database, name)
        if row is None:
            return True
        filled = fill_step(body, before)
        digest = digest_request("edit", filled)
        if row.request is not None and not Fingerprint("edit", filled, digest, digest).matches(row):
            return False
        before = name
    return True


def _tail(item: str) -> str:
    return "".join(char if char.isalnum() else "_" for char in item[:12])
