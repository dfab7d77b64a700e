"""Opening a journal: what is refused, what is migrated, who may read."""

from __future__ import annotations

import asyncio
import errno
import re
import signal
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from batching import KEPT, read, unpack

from videorouter.errors import JournalError
from videorouter.journal import schema
from videorouter.journal.identity import digest_request
from videorouter.journal.journal import Intent, Journal
from videorouter.journal.schema import open_readable
from videorouter.journal.status import read_rows, read_status
from videorouter.locks import is_locked

pytestmark = pytest.mark.anyio


def intent(item):
    return Intent(
        id=item, position=0, digest="d" * 32, verb="generate", model="m", request="{}", idempotency_key=f"k-{item}"
    )


@pytest.mark.parametrize("content", [b"just some text, long enough to be no header at all", None])
async def test_a_file_that_is_something_else_is_left_alone(tmp_path, content):
    path = tmp_path / "run.db"
    if content is None:
        other = sqlite3.connect(path)
        other.execute("CREATE TABLE mine (x)")
        other.close()
    else:
        path.write_bytes(content)
    before = path.read_bytes()
    with pytest.raises(JournalError):
        await Journal.open(path)
    assert path.read_bytes() == before
    assert not is_locked(path)


@pytest.mark.parametrize("place", ["missing/run.db", "."])
async def test_a_place_that_cannot_be_written_is_said_at_once(tmp_path, place):
    with pytest.raises(JournalError, match="folder"):
        await Journal.open(tmp_path / place)


async def test_a_newer_journal_is_not_touched(tmp_path):
    path = tmp_path / "run.db"
    await (await Journal.open(path)).aclose()
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(JournalError, match="Upgrade"):
        await Journal.open(path)


def tables(path: Path) -> list[tuple]:
    return read(path, "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY type, name")


ROWS = "SELECT id, position, state, sends, cost, unknown FROM items ORDER BY position, created"


@pytest.mark.parametrize("name", sorted(path.stem for path in KEPT.glob("*.json")))
async def test_an_older_journal_is_brought_up_to_date_and_keeps_its_rows(tmp_path, name):
    rows = unpack(name, tmp_path)["rows"]
    await (await Journal.open(tmp_path / "run.db")).aclose()
    await (await Journal.open(tmp_path / "new.db")).aclose()
    assert tables(tmp_path / "run.db") == tables(tmp_path / "new.db")
    assert read(tmp_path / "run.db", "PRAGMA user_version") == [(schema.VERSION,)]
    assert read(tmp_path / "run.db", "PRAGMA integrity_check") == [("ok",)]
    crashed = {"sending": "in_doubt"}
    assert read(tmp_path / "run.db", ROWS) == [(*row[:2], crashed.get(row[2], row[2]), *row[3:]) for row in rows]
    (copy,) = tmp_path.glob("run.db.schema-1*")
    assert read(copy, ROWS) == [tuple(row) for row in rows]
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600


async def test_an_older_journal_is_read_as_it_is(tmp_path):
    rows = unpack("plain", tmp_path)["rows"]
    before = (tmp_path / "run.db").read_bytes()
    found = [
        (row.id, row.position, row.state, row.sends, row.cost, row.unknown) for row, _ in read_rows(tmp_path / "run.db")
    ]
    assert found == [tuple(row) for row in rows]
    assert read_status(tmp_path / "run.db").counts["done"] == 6
    assert [row.state for row, _ in read_rows(tmp_path / "run.db", doubtful=True)] == ["in_doubt", "failed"]
    assert (tmp_path / "run.db").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir() if "schema" in path.name] == []


async def test_the_digest_of_a_request_that_schema_1_kept_is_that_of_its_entry(tmp_path):
    unpack("chains", tmp_path)
    await (await Journal.open(tmp_path / "run.db")).aclose()
    (digest,) = read(tmp_path / "run.db", "SELECT digest FROM items WHERE id = 'a/1'")[0]
    told = b'{"prompt":"rain","output_format":"url","video_id":"item:a","model":"sora-2"}'
    assert digest == digest_request("edit", told)


async def test_a_migration_that_fails_changes_nothing(tmp_path, monkeypatch):
    path = tmp_path / "run.db"
    rows = unpack("plain", tmp_path)["rows"]
    monkeypatch.setitem(schema.MIGRATIONS, 1, f"{schema.MIGRATIONS[1]}; CREATE TABLE items (x)")
    for _ in range(2):
        with pytest.raises(JournalError):
            await Journal.open(path)
        assert read(path, "PRAGMA user_version") == [(1,)]
        assert read(path, ROWS) == [tuple(row) for row in rows]
    monkeypatch.undo()
    await (await Journal.open(path)).aclose()
    assert read(path, "PRAGMA user_version") == [(2,)]


async def test_without_room_for_a_copy_an_older_journal_is_left_alone(tmp_path, monkeypatch):
    path = tmp_path / "run.db"
    unpack("plain", tmp_path)

    def refuse(_: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    real = schema.create_file
    monkeypatch.setattr(schema, "create_file", lambda place: refuse(place) if "schema" in place.name else real(place))
    with pytest.raises(JournalError, match=r"No copy of .* could be kept.*Free disk space"):
        await Journal.open(path)
    assert read(path, "PRAGMA user_version") == [(1,)]


async def test_forgetting_deletes_the_kept_copy_as_well(tmp_path):
    unpack("plain", tmp_path)
    journal = await Journal.open(tmp_path / "run.db")
    assert await journal.erase_prompts() > 0
    await journal.aclose()
    assert b"otter 1" not in b"".join(path.read_bytes() for path in tmp_path.iterdir())


KILLED = """
import asyncio, os, signal, sys
from videorouter.journal.journal import Intent, Journal
async def main():
    journal = await Journal.open(sys.argv[1])
    await journal.record_intent(Intent(id="a", position=0, digest="d", verb="generate", model="m", request="{}",
                                idempotency_key="k"))
    await journal.record_task("a", "t-1")
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""


async def test_a_reader_sees_the_batch_while_it_runs_and_after_a_kill(tmp_path):
    path = tmp_path / "run.db"
    process = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", KILLED, str(path)],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert process.returncode == -signal.SIGKILL
    database = open_readable(path)
    assert database.execute("SELECT state FROM items").fetchall() == [("accepted",)]
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        database.execute("DELETE FROM items")
    database.close()
    with pytest.raises(JournalError, match="no journal at"):
        open_readable(tmp_path / "other.db")


async def test_a_journal_on_a_medium_that_nobody_can_write_is_read_all_the_same(tmp_path, monkeypatch):
    path = tmp_path / "run.db"
    journal = await Journal.open(path)
    await journal.record_intent(intent("a"))
    await journal.aclose()
    path.with_name("run.db.lock").unlink()
    monkeypatch.setattr(schema.os, "access", lambda *_: False)
    database = open_readable(path)
    assert database.execute("SELECT id FROM items").fetchall() == [("a",)]
    assert [file.name for file in tmp_path.iterdir()] == ["run.db"]
    database.close()


async def test_a_damaged_journal_says_how_not_to_pay_again(tmp_path):
    path = tmp_path / "run.db"
    journal = await Journal.open(path)
    for number in range(40):
        await journal.record_intent(intent(f"a{number}"))
    await journal.aclose()
    content = bytearray(path.read_bytes())
    content[4096:12288] = b"\x55" * 8192
    path.write_bytes(content)
    with pytest.raises(JournalError, match=r"would pay again.*\.recover"):
        await Journal.open(path)
    with pytest.raises(JournalError, match=r"\.recover"):
        read_status(path)


def test_only_the_journal_speaks_the_language_of_its_tables():
    package = Path(schema.__file__).parents[1]
    speaks = re.compile(r"(?s)\b(SELECT|INSERT|UPDATE|DELETE)\b.{0,200}?\b(items|files|inline|meta|met)\b")
    rooms = ("journal", "sandbox", "integrations/ray")  # the sandbox has tables of its own; Ray is replaced as a whole
    others = [path for path in package.rglob("*.py") if not path.relative_to(package).as_posix().startswith(rooms)]
    assert len(others) > 50
    assert [path.name for path in others if speaks.search(path.read_text())] == []


def test_the_page_about_the_journal_shows_its_tables():
    page = (Path(__file__).parents[2] / "docs" / "explanation" / "journal.md").read_text()
    assert schema.TABLES.strip() in page
    assert f"`PRAGMA user_version` is {schema.VERSION}" in page
