"""Opening a journal: what is refused, what is migrated, who may read."""

from __future__ import annotations

import asyncio
import re
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from batching import read

from videorouter.errors import JournalError
from videorouter.journal import schema
from videorouter.journal.journal import Intent, Journal
from videorouter.journal.schema import open_readable
from videorouter.journal.status import read_status
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


async def test_an_older_journal_is_brought_up_to_date_and_keeps_its_rows(tmp_path, monkeypatch):
    path = tmp_path / "run.db"
    journal = await Journal.open(path)
    await journal.record_intent(intent("a"))
    await journal.aclose()
    steps = (*schema.MIGRATIONS, "ALTER TABLE items ADD COLUMN note TEXT")
    monkeypatch.setattr(schema, "MIGRATIONS", steps)
    journal = await Journal.open(path)
    assert (await journal.find("a")).state == "in_doubt"
    await journal.aclose()
    assert read(path, "PRAGMA user_version") == [(2,)]
    assert read(path, "SELECT id, note FROM items") == [("a", None)]


async def test_a_migration_that_fails_changes_nothing(tmp_path, monkeypatch):
    path = tmp_path / "run.db"
    await (await Journal.open(path)).aclose()
    broken = "ALTER TABLE items ADD COLUMN note TEXT; CREATE TABLE items (x)"
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, broken))
    with pytest.raises(JournalError):
        await Journal.open(path)
    monkeypatch.undo()
    journal = await Journal.open(path)
    await journal.record_intent(intent("a"))
    await journal.aclose()
    assert read(path, "PRAGMA user_version") == [(1,)]


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
    assert all(step.strip() in page for step in schema.MIGRATIONS)
    assert f"`PRAGMA user_version` is {len(schema.MIGRATIONS)}" in page
