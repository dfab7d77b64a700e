"""What a journal holds of an input, before it is sent: what is met, what is new, and what would be bought again.

Bought again is what was paid for and is not met, where the input wants the same prompt under another digest: an option, an
id or a model was changed. Memory does not grow with the input: what must be known of it is in a temporary table.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import msgspec

from videorouter.journal.identity import digest_request, fill_step, name_parent
from videorouter.journal.journal import CLAIM, COLUMNS, Fingerprint, find_item
from videorouter.journal.states import ItemRow

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import AsyncIterator, Callable, Sequence

    from videorouter.journal.journal import Journal

PAID = ("done", "accepted", "in_doubt", "lost")
"""States of items that were paid for, or may have been."""
_LIST = ", ".join(map(repr, PAID))
_COUNT = f"SELECT count(*), total(state IN ({_LIST})) FROM items"  # noqa: S608  constants of our own, here and below
_FRESH = "CREATE TEMP TABLE IF NOT EXISTS fresh (key BLOB PRIMARY KEY, times INTEGER NOT NULL) WITHOUT ROWID"
_ADD = "INSERT INTO fresh VALUES (?, 1) ON CONFLICT (key) DO UPDATE SET times = times + 1"
_TAKE = "UPDATE fresh SET times = times - 1 WHERE key = ? AND times > 0"
UNMET = "NOT EXISTS (SELECT 1 FROM met WHERE key = 'i' || items.id)"
"""The condition of rows that this run has not met."""
_COUNT_UNMET = f"SELECT count(*) FROM items WHERE {UNMET}"  # noqa: S608
_UNSAVED = """
state = 'done' AND json_valid(result) AND
  (SELECT count(*) FROM files WHERE item = items.id AND saved IS NOT NULL) < json_array_length(result, '$.videos')
"""
_UNFINISHED = f"""
SELECT rowid, {", ".join(COLUMNS)} FROM items WHERE rowid > ? AND {UNMET} AND
  (state IN ('accepted', 'in_doubt', 'lost') OR (? AND {_UNSAVED})) ORDER BY rowid LIMIT 64
"""  # noqa: S608
_UNMET_PAID = f"SELECT request, parent FROM items WHERE state IN ({_LIST}) AND {UNMET}"  # noqa: S608
_PAID = f"SELECT id, request, parent FROM items WHERE state IN ({_LIST})"  # noqa: S608
_IS_MET = "EXISTS (SELECT 1 FROM met WHERE met.key = 'i' || {}.item)"
_DROP_MET = f"DELETE FROM bought WHERE key = ? AND {_IS_MET.format('bought')}"  # noqa: S608
_TAKE_BOUGHT = """
DELETE FROM bought WHERE rowid = (SELECT rowid FROM bought WHERE key = ? LIMIT 1) RETURNING item
"""
_COUNT_AGAIN = f"SELECT count(*) FROM again WHERE NOT {_IS_MET.format('again')}"  # noqa: S608
_FORGOTTEN = b""
"""The key of rows whose request is forgotten: they may be anything."""
_read = msgspec.json.Decoder(dict[str, Any]).decode


class Wanted(msgspec.Struct, frozen=True):
    """One entry of an input, as it will be identified."""

    index: int
    fingerprint: Fingerprint
    given: str | None


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What the journal holds, and what the input makes of it, in requests.

    ``unmet`` are rows that the input does not have, ``paid`` is what was paid for, or may have been, and ``again`` what of it
    would be bought again.
    """

    held: int = 0
    met: int = 0
    unmet: int = 0
    new: int = 0
    paid: int = 0
    again: int = 0


class IdTakenError(Exception):
    """A given id is another request's in the journal."""

    def __init__(self, row: ItemRow, index: int) -> None:
        super().__init__(row.id)
        self.row = row
        self.index = index


class _Place(msgspec.Struct, frozen=True):
    """A request of the input: its place, the id that it was given, and what stays the same however it is spelt."""

    index: int
    given: str | None
    prompt: object
    source: object


class JournalSurvey:
    """Looks an input up in a journal. ``sends`` says of a row that is met whether it is sent."""

    def __init__(self, journal: Journal, *, again: bool, sends: Callable[[ItemRow], bool]) -> None:
        self._journal = journal
        self._again = again
        self._sends = sends
        self._met = 0
        self._new = 0

    async def is_empty(self) -> bool:
        """Whether the journal holds nothing."""
        query = "SELECT NOT EXISTS (SELECT 1 FROM items)"
        return await self._journal.writer.do("find", lambda database: bool(database.execute(query).fetchone()[0]))

    async def look_up(self, entries: Sequence[Wanted]) -> list[list[bool]]:
        """Of each entry, and of the steps that follow from it, whether it would be sent.

        Raises:
            IdTakenError: An entry would stop the batch.
        """

        def work(database: sqlite3.Connection) -> list[list[bool]] | IdTakenError:
            database.execute(_FRESH)
            try:
                return [self._look_up(database, entry) for entry in entries]
            except IdTakenError as error:  # an answer, and no failure of the journal
                return error

        answer = await self._journal.writer.do("identify", work)
        if isinstance(answer, IdTakenError):
            raise answer
        return answer

    async def conclude(self) -> Found:
        """Compare what is new with what was paid for and is not met; then this run has met nothing yet."""

        def work(database: sqlite3.Connection) -> Found:
            database.execute(_FRESH)
            held, paid = database.execute(_COUNT).fetchone()
            (unmet,) = database.execute(_COUNT_UNMET).fetchone()
            again = self._count_again(database) if self._new else 0
            database.execute("DROP TABLE fresh")
            database.execute("DELETE FROM met")
            return Found(held=held, met=self._met, unmet=unmet, new=self._new, paid=int(paid), again=again)

        return await self._journal.writer.do("identify", work)

    def _look_up(self, database: sqlite3.Connection, entry: Wanted) -> list[bool]:
        fingerprint = entry.fingerprint
        if entry.given is None:
            item, times = self._journal.name(database, fingerprint, again=self._again)
            if times > 1 and not self._again:
                return [False] * (1 + len(fingerprint.steps))  # a copy of an entry before it
        elif database.execute(CLAIM, (f"i{entry.given}",)).rowcount:
            item = entry.given
        else:
            return [False] * (1 + len(fingerprint.steps))  # it is refused
        row = find_item(database, item)
        fields = _read(fingerprint.body)
        place = _Place(entry.index, entry.given, fields.get("prompt"), fields.get("video_id"))
        verdicts = [self._judge(database, row, fingerprint, place)]
        before, said = item, fields.get("prompt")
        for number, (given, body) in enumerate(fingerprint.steps, 1):
            name, filled = given or f"{item}/{number}", fill_step(body, before)
            database.execute(CLAIM, (f"i{name}",))
            digest, prompt = digest_request("edit", filled), _read(body).get("prompt")
            step = Fingerprint("edit", filled, digest, digest)
            place = _Place(entry.index, given, prompt, f"then {said}")
            verdicts.append(self._judge(database, find_item(database, name), step, place))
            before, said = name, prompt
        return verdicts

    def _judge(self, database: sqlite3.Connection, row: ItemRow | None, request: Fingerprint, place: _Place) -> bool:
        """Count one request; whether it would be sent. One whose id, made or given, is another request's never is."""
        if row is None or not row.digest:
            self._new += 1
            database.execute(_ADD, (_key(place.prompt, place.source),))
            return True
        if request.matches(row):
            self._met += 1
            return self._sends(row)
        if place.given is not None:
            raise IdTakenError(row, place.index)
        return False

    def _count_again(self, database: sqlite3.Connection) -> int:
        """What is new is matched with what was paid for, each once; what is forgotten may be anything."""
        matched = forgotten = 0
        for request, parent in database.execute(_UNMET_PAID):
            keys = _list_keys(database, request, parent)
            forgotten += not keys
            matched += any(database.execute(_TAKE, (key,)).rowcount for key in keys)
        return matched + min(forgotten, self._new - matched)


class StreamSurvey:
    """Compares what a stream brings, one request after the other, with what was paid for and is not met so far."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._is_listed = False

    async def take(self, body: bytes, before: str | None) -> bool:
        """Match a new request with one that was paid for and is not met, each once; whether there is one.

        ``before`` is the prompt of the item whose video a step of a chain edits.
        """
        fields = _read(body)
        key = _key(fields.get("prompt"), fields.get("video_id") if before is None else f"then {before}")

        def work(database: sqlite3.Connection) -> bool:
            if not self._is_listed:
                self._list_bought(database)
            return _take_bought(database, key) or _take_bought(database, _FORGOTTEN)

        return await self._journal.writer.do("identify", work)

    async def count(self) -> int:
        """How many that were paid for are matched and still not met."""
        return await self._journal.writer.do("find", lambda database: int(database.execute(_COUNT_AGAIN).fetchone()[0]))

    def _list_bought(self, database: sqlite3.Connection) -> None:
        database.execute("CREATE TEMP TABLE bought (key BLOB NOT NULL, item TEXT NOT NULL)")
        database.execute("CREATE TEMP TABLE again (item TEXT PRIMARY KEY) WITHOUT ROWID")
        for item, request, parent in database.execute(_PAID).fetchall():
            keys = _list_keys(database, request, parent) or [_FORGOTTEN]
            database.executemany("INSERT INTO bought VALUES (?, ?)", [(key, item) for key in keys])
        database.execute("CREATE INDEX temp.bought_key ON bought (key)")
        self._is_listed = True


def _take_bought(database: sqlite3.Connection, key: bytes) -> bool:
    """Match a new request with one that was paid for and is not met, each once."""
    database.execute(_DROP_MET, (key,))
    taken = database.execute(_TAKE_BOUGHT, (key,)).fetchone()
    if taken is not None:
        database.execute("INSERT OR IGNORE INTO again VALUES (?)", taken)
    return taken is not None


def _list_keys(database: sqlite3.Connection, request: str | None, parent: str | None) -> list[bytes]:
    """What a row may be recognised by under another spelling; nothing where its request is forgotten."""
    fields = _parse(request)
    if fields is None:
        return []
    prompt = fields.get("prompt")
    keys = [_key(prompt, fields.get("video_id") if parent is None else name_parent(parent))]
    before = None if parent is None else find_item(database, parent)
    said = None if before is None else _parse(before.request)
    return keys if said is None else [*keys, _key(prompt, f"then {said.get('prompt')}")]


async def count_unmet(journal: Journal) -> int:
    """How many rows this run has not met."""
    return await journal.writer.do("find", lambda database: int(database.execute(_COUNT_UNMET).fetchone()[0]))


async def list_unfinished(journal: Journal, *, saves: bool) -> AsyncIterator[ItemRow]:
    """Rows that this run has not met, and that may have been paid for without a result in hand.

    ``saves``: whether a result without its files is none.
    """
    last = 0

    def find_page(database: sqlite3.Connection) -> list[tuple[Any, ...]]:
        return database.execute(_UNFINISHED, (last, saves)).fetchall()

    while page := await journal.writer.do("find", find_page):
        last = page[-1][0]
        for _, *values in page:
            yield ItemRow(**dict(zip(COLUMNS, values, strict=True)))


def _parse(request: str | None) -> dict[str, Any] | None:
    """The fields of a request; ``None`` where it is forgotten, or cannot be read."""
    try:
        return None if request is None else _read(request.encode("utf-8", "surrogatepass"))
    except (msgspec.MsgspecError, ValueError):
        return None


def _key(prompt: object, source: object) -> bytes:
    """What stays the same when a request is spelt in another way: its prompt, and what it edits."""
    return hashlib.blake2b(f"{prompt}\0{source or ''}".encode("utf-8", "replace"), digest_size=16).digest()
