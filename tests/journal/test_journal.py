"""The ledger on disk: committed before it is acted on, one writer, and what a crash or a full disk leaves."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import stat
import subprocess
import sys
import threading

import msgspec
import pytest
from batching import read

from videorouter.errors import JournalError
from videorouter.journal.journal import Ending, Intent, Journal, write_endings, write_intents

pytestmark = pytest.mark.anyio


def intent(item: str, position: int = 0, **more) -> Intent:
    given = {"digest": "d" * 32, "verb": "generate", "model": "m", "request": '{"prompt":"An otter"}'}
    return Intent(id=item, position=position, idempotency_key=f"k-{item}", **{**given, **more})


async def test_an_item_walks_from_intent_to_done_and_each_step_is_on_disk_when_it_returns(tmp_path):
    path = tmp_path / "run.db"
    journal = await Journal.open(path)
    met = await journal.meet("d" * 32, "a")
    assert (met.id, met.times, met.recorded) == ("a", 1, None)
    await journal.intend(intent("a", reserved=0.4))
    assert read(path, "SELECT state, reserved, sends FROM items") == [("sending", 0.4, 1)]
    await journal.accept("a", "t-1", "https://x/t-1", "r-1")
    assert read(path, "SELECT state, task_id, request_id FROM items") == [("accepted", "t-1", "r-1")]
    await journal.finish(Ending(id="a", state="done", cost=0.3, result=b'{"videos":[{"url":"https://x/v"}]}'))
    assert read(path, "SELECT state, reserved, cost, unknown FROM items") == [("done", 0.0, 0.3, 0.0)]
    assert read(path, "SELECT prompt, url FROM overview") == [("An otter", "https://x/v")]
    await journal.aclose()
    await journal.aclose()


async def test_what_is_written_in_groups_is_what_is_written_one_by_one(tmp_path):
    digests = ["d1", "d2", "d1", "", "d1", "d3", "d2"]
    rows = {}
    for way in ("alone", "together"):
        journal = await Journal.open(tmp_path / f"{way}.db")
        intents = [
            msgspec.structs.replace(
                intent("" if digest else "given", position, digest=digest or "d4"), idempotency_key=f"k{position}"
            )
            for position, digest in enumerate(digests)
        ]
        if way == "alone":
            ids = [await journal.intend(one) for one in intents]
            for item in ids:
                await journal.finish(Ending(id=item, state="done", cost=0.3, result=b"{}", request_id="r"))
        else:
            fields = ("id", "position", "digest", "verb", "model", "request", "idempotency_key", "reserved", "parent")
            plain = [tuple(getattr(one, field) for field in fields) for one in intents]
            ids = []
            for group in (plain[:3], plain[3:]):
                ids += await journal.transact(lambda database, group=group: write_intents(database, group, 1.0))
            endings = [(item, "done", 0.0, 0.3, 0.0, "{}", None, None, "r") for item in ids]
            await journal.transact(lambda database, endings=endings: write_endings(database, endings, 2.0))
        assert ids == ["d1-1", "d2-1", "d1-2", "given", "d1-3", "d3-1", "d2-2"]
        await journal.aclose()
        columns = "id, position, state, digest, model, request, idempotency_key, sends, cost, result, request_id"
        rows[way] = read(tmp_path / f"{way}.db", f"SELECT {columns} FROM items ORDER BY position")
    assert rows["alone"] == rows["together"]


async def test_the_file_is_its_owners_alone(tmp_path):
    journal = await Journal.open(tmp_path / "run.db")
    await journal.intend(intent("a"))
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    await journal.aclose()
    assert len(modes) == 4
    assert set(modes.values()) == {0o600}


async def test_it_writes_ahead_and_waits_for_the_disk(tmp_path):
    journal = await Journal.open(tmp_path / "run.db")
    assert await journal._do("find", lambda database: database.execute("PRAGMA journal_mode").fetchone()) == ("wal",)
    assert await journal._do("find", lambda database: database.execute("PRAGMA synchronous").fetchone()) == (2,)
    await journal.aclose()


async def test_many_intents_share_a_commit(tmp_path):
    journal = await Journal.open(tmp_path / "run.db")
    await asyncio.gather(*(journal.intend(intent(str(number), number)) for number in range(200)))
    assert journal.commits < 20
    assert read(journal.path, "SELECT count(*) FROM items") == [(200,)]
    await journal.aclose()


async def test_the_loop_goes_on_while_the_disk_is_slow(tmp_path):
    slow = threading.Event()
    journal = await Journal.open(tmp_path / "run.db", fault=lambda step: step == "commit" and slow.wait(10))
    writing = asyncio.ensure_future(journal.intend(intent("a")))
    for _ in range(100):
        await asyncio.sleep(0)
    assert not writing.done()
    slow.set()
    await writing
    await journal.aclose()


async def test_four_takes_of_one_prompt_are_four_items_and_keep_their_names(tmp_path):
    path = tmp_path / "run.db"
    for _ in range(2):
        journal = await Journal.open(path)
        ids = [(await journal.meet("ab", None)).id for number in range(4)]
        assert ids == ["ab-1", "ab-2", "ab-3", "ab-4"]
        await journal.aclose()


async def test_a_given_id_that_comes_twice_is_told(tmp_path):
    journal = await Journal.open(tmp_path / "run.db")
    assert [(await journal.meet(digest, "a")).times for digest in ("x", "y")] == [1, 2]
    await journal.aclose()


async def test_an_ended_process_leaves_sending_as_in_doubt_with_its_money(tmp_path):
    path = tmp_path / "run.db"
    journal = await Journal.open(path)
    await journal.intend(intent("a", reserved=0.4))
    await journal.intend(intent("b", 1, reserved=0.4))
    await journal.accept("b", "t-1")
    await journal.aclose()
    journal = await Journal.open(path)
    met = await journal.meet("d" * 32, "a")
    assert met.recorded is not None
    assert (met.recorded.state, met.recorded.unknown, met.recorded.reserved) == ("in_doubt", 0.4, 0.0)
    assert (await journal.find("b")).state == "accepted"
    totals = await journal.totals()
    assert (totals.reserved, totals.cost, totals.unknown) == (0.4, 0.0, 0.4)
    await journal.aclose()


STEPS = ("meet", "intend", "accept", "finish", "commit")


async def walk(journal: Journal) -> None:
    await journal.meet("d" * 32, "a")
    await journal.intend(intent("a"))
    await journal.accept("a", "t-1")
    await journal.finish(Ending(id="a", state="done", result=b"{}"))


@pytest.mark.parametrize("step", STEPS)
async def test_a_write_that_fails_is_told_and_has_not_happened(tmp_path, step):
    path = tmp_path / "run.db"
    armed = [True]

    def fault(at: str) -> None:
        if at == step and armed.pop():
            armed.append(False)
            raise sqlite3.OperationalError("database or disk is full")

    journal = await Journal.open(path, fault=lambda at: fault(at) if armed[0] else None)
    with pytest.raises(JournalError, match="disk"):
        await walk(journal)
    left = {"meet": [], "intend": [], "accept": [("sending",)], "finish": [("accepted",)], "commit": []}
    assert read(path, "SELECT state FROM items") == left[step]
    await journal.intend(intent("b", 1))
    await journal.aclose()


KILLED = """
import asyncio, os, signal, sys
from videorouter.journal.journal import Ending, Intent, Journal, write_endings, write_intents
path, at, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
seen = 0
def fault(step):
    global seen
    if step == at:
        seen += 1
        if seen == number:
            os.kill(os.getpid(), signal.SIGKILL)
async def main():
    journal = await Journal.open(path, fault=fault)
    await journal.meet("d" * 32, "a")
    await journal.intend(Intent(id="a", position=0, digest="d" * 32, verb="generate", model="m", request="{}",
                                idempotency_key="k"))
    print("intended", flush=True)
    await journal.accept("a", "t-1")
    print("accepted", flush=True)
    await journal.finish(Ending(id="a", state="done", result=b"{}"))
    print("done", flush=True)
asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("step", "number", "told", "left"),
    [
        ("meet", 1, None, None),
        ("intend", 1, None, None),
        ("commit", 2, None, None),
        ("committed", 2, None, "in_doubt"),
        ("accept", 1, "intended", "in_doubt"),
        ("commit", 3, "intended", "in_doubt"),
        ("committed", 3, "intended", "accepted"),
        ("finish", 1, "accepted", "accepted"),
        ("commit", 4, "accepted", "accepted"),
        ("committed", 4, "accepted", "done"),
    ],
)
async def test_a_kill_at_any_step_leaves_what_was_promised(tmp_path, step, number, told, left):
    path = tmp_path / "run.db"
    process = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", KILLED, str(path), step, str(number)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert (process.stdout.split() or [None])[-1] == told
    journal = await Journal.open(path)
    recorded = await journal.find("a")
    assert (recorded.state if recorded else None) == left
    await journal.aclose()


async def test_a_full_disk_is_a_journal_error_and_the_file_stays_sound(tmp_path):
    journal = await Journal.open(tmp_path / "run.db")
    await journal._do("find", lambda database: database.execute("PRAGMA max_page_count = 30").fetchone())
    written = 0
    refused = None
    while refused is None:
        try:
            await journal.intend(intent(str(written), written, request="x" * 900))
            written += 1
        except JournalError as error:
            refused = error
    assert "Free disk space" in str(refused)
    await journal.aclose()
    assert written > 10
    assert read(journal.path, "SELECT count(*) FROM items") == [(written,)]
    assert read(journal.path, "PRAGMA integrity_check") == [("ok",)]


async def test_two_items_never_share_a_file_name(tmp_path):
    journal = await Journal.open(tmp_path / "run.db")
    wanted = tmp_path / "clips" / "otter.mp4"
    first = await journal.plan_file("a", 0, wanted)
    second = await journal.plan_file("b", 0, wanted)
    assert first == wanted
    assert second != wanted
    assert await journal.plan_file("b", 0, wanted) == second
    await journal.record_file(second, size=3, sha256="ab")
    assert await journal.find_files("a") == ()
    assert await journal.find_files("b") == ((second, "ab"),)
    assert read(journal.path, "SELECT path FROM files WHERE item = 'b'") == [("clips/otter-b.mp4",)]
    await journal.aclose()


async def test_inline_videos_are_kept_with_their_result(tmp_path):
    journal = await Journal.open(tmp_path / "run.db")
    await journal.intend(intent("a"))
    await journal.finish(Ending(id="a", state="done", result=b"{}", inline=((0, "video/mp4", b"bytes"),)))
    assert await journal.find_inline("a") == {0: b"bytes"}
    await journal.aclose()


async def test_a_closed_journal_says_so(tmp_path):
    journal = await Journal.open(tmp_path / "run.db")
    await journal.aclose()
    with pytest.raises(JournalError, match="closed"):
        await journal.intend(intent("a"))
