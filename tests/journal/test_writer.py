"""What a writer trusts: its file, its log, its lock; and how long it waits for others."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3

import pytest
from batching import read

from videorouter.errors import JournalError
from videorouter.journal import writer
from videorouter.journal.journal import Ending, Intent, Journal

pytestmark = pytest.mark.anyio


def intent(item: str) -> Intent:
    return Intent(
        id=item, position=0, digest="d" * 32, verb="generate", model="m", request="{}", idempotency_key=f"k-{item}"
    )


async def write_and_die(path) -> None:
    """A journal as a killed run leaves it: what it wrote is in its log."""
    made = path.with_name("made")
    made.mkdir()
    journal = await Journal.open(made / path.name)
    await journal.record_intent(intent("a"))
    for file in made.iterdir():
        shutil.copy(file, path.parent)
    await journal.aclose()
    path.with_name("run.db-shm").unlink()


async def test_a_journal_without_its_log_is_refused_and_with_it_nothing_is_lost(tmp_path):
    path = tmp_path / "run.db"
    await write_and_die(path)
    log = path.with_name("run.db-wal").rename(tmp_path / "left behind")
    with pytest.raises(JournalError, match=r"older than its last run.*run\.db-wal was left behind.*Nothing was sent"):
        await Journal.open(path)
    log.rename(path.with_name("run.db-wal"))
    journal = await Journal.open(path)
    assert (await journal.find("a")).state == "in_doubt"
    await journal.aclose()


async def test_an_older_copy_is_refused_until_somebody_says_that_it_shall_be_used(tmp_path):
    path = tmp_path / "run.db"
    for item in ("a", "b"):
        journal = await Journal.open(path)
        await journal.record_intent(intent(item))
        await journal.aclose()
        shutil.copy(path, tmp_path / f"after {item}")
    shutil.copy(tmp_path / "after a", path)
    with pytest.raises(JournalError, match=r"older than its last run: \d of \d commits.*delete run\.db\.lock"):
        await Journal.open(path)
    shutil.copy(tmp_path / "after b", path)
    await (await Journal.open(path)).aclose()
    shutil.copy(tmp_path / "after a", path)
    path.with_name("run.db.lock").unlink()
    journal = await Journal.open(path)
    assert await journal.find("b") is None
    await journal.aclose()


LEFT = [
    "emptied",
    "emptied beside its log",
    "its log alone",
    "its lock alone",
    "its head alone",
    "a text",
    "another database",
]


@pytest.mark.parametrize("left", LEFT)
async def test_what_is_left_of_a_journal_is_never_taken_for_a_new_one(tmp_path, left):
    path = tmp_path / "run.db"
    await write_and_die(path)
    if left != "emptied beside its log" and left != "its log alone":
        path.with_name("run.db-wal").unlink()
    if left.startswith("emptied"):
        os.truncate(path, 0)
    elif left in {"its log alone", "its lock alone"}:
        path.unlink()
    elif left == "a text":
        path.write_text("a list of prompts\n" * 1000)
    elif left == "another database":
        path.unlink()
        foreign = sqlite3.connect(path)
        foreign.execute("CREATE TABLE items (id TEXT)")
        foreign.close()
    else:
        path.unlink()
        path.with_name("run.db.lock").unlink()
        bare = sqlite3.connect(path)
        bare.execute("PRAGMA journal_mode = WAL")
        bare.close()
    before = {file.name: file.read_bytes() for file in tmp_path.glob("run.db*") if not file.name.endswith("lock")}
    with pytest.raises(JournalError, match="again") as refused:
        await Journal.open(path)
    assert "another path" not in refused.value.message
    assert before == {
        file.name: file.read_bytes() for file in tmp_path.glob("run.db*") if not file.name.endswith("lock")
    }


@pytest.mark.parametrize("left", ["an empty file", "a deleted journal's lock"])
async def test_a_place_without_traces_is_taken_for_a_new_journal(tmp_path, left):
    path = tmp_path / "run.db"
    if left == "an empty file":
        path.touch()
    else:
        await (await Journal.open(path)).aclose()
        path.unlink()
    journal = await Journal.open(path)
    await journal.record_intent(intent("a"))
    await journal.aclose()
    assert read(path, "SELECT id FROM items") == [("a",)]


async def test_the_file_alone_is_whole_as_soon_as_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "_IDLE", 0.01)
    journal = await Journal.open(tmp_path / "run.db")
    await journal.record_intent(intent("a"))
    alone = tmp_path / "alone.db"
    for _ in range(500):
        shutil.copy(journal.path, alone)
        if read(alone, "SELECT id FROM items") == [("a",)]:
            break
        await asyncio.sleep(0.01)
    assert read(alone, "SELECT id FROM items") == [("a",)]
    await journal.aclose()


class Foreign:
    """Another program that has begun to write the database."""

    def __init__(self, path) -> None:
        self.database = sqlite3.connect(path, isolation_level=None)
        self.database.execute("BEGIN IMMEDIATE")

    def end(self) -> None:
        self.database.execute("COMMIT")
        self.database.close()


async def test_a_program_that_holds_the_database_is_waited_for(tmp_path):
    journal = await Journal.open(tmp_path / "run.db")
    await journal.writer.do("find", lambda database: database.execute("PRAGMA busy_timeout = 1").close())
    foreign = Foreign(journal.path)
    writing = [asyncio.ensure_future(journal.record_intent(intent(item))) for item in "ab"]
    await asyncio.sleep(0.05)
    assert not any(each.done() for each in writing)
    foreign.end()
    await asyncio.gather(*writing)
    assert read(journal.path, "SELECT count(*) FROM items") == [(2,)]
    await journal.aclose()


async def test_what_was_paid_for_waits_longer_than_what_is_to_be_sent(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "PATIENCE", 0.05)
    journal = await Journal.open(tmp_path / "run.db")
    await journal.writer.do("find", lambda database: database.execute("PRAGMA busy_timeout = 1").close())
    await journal.record_intent(intent("a"))
    foreign = Foreign(journal.path)
    with pytest.raises(JournalError, match="Another program holds the database"):
        await journal.record_intent(intent("b"))
    paid = asyncio.ensure_future(journal.record_ending(Ending(id="a", state="done", result="{}")))
    await asyncio.sleep(0.1)
    assert not paid.done()
    foreign.end()
    await paid
    await journal.aclose()
    assert read(journal.path, "SELECT id, state FROM items") == [("a", "done")]


async def test_of_two_writers_whose_lock_was_deleted_only_one_goes_on(tmp_path):
    path = tmp_path / "run.db"
    first = await Journal.open(path)
    await first.record_intent(intent("a"))
    path.with_name("run.db.lock").unlink()
    second = await Journal.open(path)
    for item in ("a", "b"):
        with pytest.raises(JournalError, match="lock file"):
            await first.record_intent(intent(item))
    assert (await second.find("a")).state == "in_doubt"
    await second.record_intent(intent("b"))
    await first.aclose()
    await second.record_ending(Ending(id="b", state="done", result="{}"))
    await second.aclose()
    assert read(path, "SELECT id, state FROM items") == [("a", "in_doubt"), ("b", "done")]
