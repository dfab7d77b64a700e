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
from videorouter.journal.journal import Ending, Fingerprint, Intent, Journal, SavedFile
from videorouter.journal.states import STATES
from videorouter.journal.status import read_rows, read_status

pytestmark = pytest.mark.anyio


def fingerprint(digest: str) -> Fingerprint:
    return Fingerprint("generate", b"{}", digest, digest)


def intent(item: str, position: int = 0, **more) -> Intent:
    given = {"digest": "d" * 32, "verb": "generate", "model": "m", "request": '{"prompt":"An otter"}'}
    return Intent(id=item, position=position, **{**given, "idempotency_key": f"k-{item}", **more})


async def test_an_item_walks_from_intent_to_done_and_each_step_is_on_disk_when_it_returns(tmp_path):
    path = tmp_path / "run.db"
    journal = await Journal.open(path)
    met = await journal.identify(fingerprint("d" * 32), "a")
    assert (met.id, met.times, met.row) == ("a", 1, None)
    await journal.record_intent(intent("a", reserved=0.4))
    assert read(path, "SELECT state, reserved, sends FROM items") == [("sending", 0.4, 1)]
    await journal.record_task("a", "t-1", "https://x/t-1", "r-1")
    assert read(path, "SELECT state, task_id, request_id FROM items") == [("accepted", "t-1", "r-1")]
    await journal.record_ending(Ending(id="a", state="done", cost=0.3, result='{"videos":[{"url":"https://x/v"}]}'))
    assert read(path, "SELECT state, reserved, cost, unknown FROM items") == [("done", 0.0, 0.3, 0.0)]
    assert read(path, "SELECT prompt, url FROM overview") == [("An otter", "https://x/v")]
    await journal.aclose()
    await journal.aclose()


async def test_the_file_is_its_owners_alone(tmp_path):
    journal = await Journal.open(tmp_path / "run.db")
    await journal.record_intent(intent("a"))
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    await journal.aclose()
    assert len(modes) == 4
    assert set(modes.values()) == {0o600}


async def test_it_writes_ahead_and_waits_for_the_disk(tmp_path):
    journal = await Journal.open(tmp_path / "run.db")
    assert await journal.writer.do("find", lambda database: database.execute("PRAGMA journal_mode").fetchone()) == (
        "wal",
    )
    assert await journal.writer.do("find", lambda database: database.execute("PRAGMA synchronous").fetchone()) == (2,)
    await journal.aclose()


async def test_many_intents_share_a_commit(tmp_path):
    journal = await Journal.open(tmp_path / "run.db")
    await asyncio.gather(*(journal.record_intent(intent(str(number), number)) for number in range(200)))
    assert journal.writer.commits < 20
    assert read(journal.path, "SELECT count(*) FROM items") == [(200,)]
    await journal.aclose()


async def test_the_loop_goes_on_while_the_disk_is_slow(tmp_path):
    slow = threading.Event()
    journal = await Journal.open(tmp_path / "run.db", fault=lambda step: step == "commit" and slow.wait(10))
    writing = asyncio.ensure_future(journal.record_intent(intent("a")))
    for _ in range(100):
        await asyncio.sleep(0)
    assert not writing.done()
    slow.set()
    await writing
    await journal.aclose()


async def test_whoever_is_cancelled_twice_while_a_journal_opens_leaves_it_free_for_the_next(tmp_path):
    begun, release = threading.Event(), threading.Event()

    def fault(step: str) -> None:
        if step == "open":
            begun.set()
            assert release.wait(20)

    opening = asyncio.ensure_future(Journal.open(tmp_path / "run.db", fault=fault))
    assert await asyncio.to_thread(begun.wait, 20)
    for _ in range(2):
        opening.cancel()
        await asyncio.sleep(0)
    asyncio.get_running_loop().call_later(0.05, release.set)
    with pytest.raises(asyncio.CancelledError):
        await opening
    await (await Journal.open(tmp_path / "run.db")).aclose()


async def test_four_takes_of_one_prompt_are_four_items_and_keep_their_names(tmp_path):
    path, names = tmp_path / "run.db", ["ab-1", "ab-2", "ab-3", "ab-4"]
    journal = await Journal.open(path)
    assert (await journal.identify(fingerprint("ab"), None)).id == ""  # its intent names it
    assert [await journal.record_intent(intent("", number, digest="ab")) for number in range(4)] == names
    await journal.aclose()
    journal = await Journal.open(path)
    met = [await journal.identify(fingerprint("ab"), None) for _ in range(5)]
    assert [one.id for one in met] == [*names, "ab-5"]
    assert [one.row is not None for one in met] == [True] * 4 + [False]
    await journal.aclose()


async def test_a_given_id_that_comes_twice_is_told(tmp_path):
    journal = await Journal.open(tmp_path / "run.db")
    assert [(await journal.identify(fingerprint(digest), "a")).times for digest in ("x", "y")] == [1, 2]
    await journal.aclose()


async def test_an_ended_process_leaves_sending_as_in_doubt_with_its_money(tmp_path):
    path = tmp_path / "run.db"
    journal = await Journal.open(path)
    await journal.record_intent(intent("a", reserved=0.4))
    await journal.record_intent(intent("b", 1, reserved=0.4))
    await journal.record_task("b", "t-1")
    await journal.aclose()
    journal = await Journal.open(path)
    met = await journal.identify(fingerprint("d" * 32), "a")
    assert met.row is not None
    assert (met.row.state, met.row.unknown, met.row.reserved) == ("in_doubt", 0.4, 0.0)
    assert (await journal.find("b")).state == "accepted"
    totals = await journal.totals()
    assert (totals.reserved, totals.cost, totals.unknown) == (0.4, 0.0, 0.4)
    await journal.aclose()


STEPS = ("identify", "intent", "task", "ending", "commit")


async def walk(journal: Journal) -> None:
    await journal.identify(fingerprint("d" * 32), "a")
    await journal.record_intent(intent("a"))
    await journal.record_task("a", "t-1")
    await journal.record_ending(Ending(id="a", state="done", result="{}"))


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
    left = {"identify": [], "intent": [], "task": [("sending",)], "ending": [("accepted",)], "commit": []}
    assert read(path, "SELECT state FROM items") == left[step]
    await journal.record_intent(intent("b", 1))
    await journal.aclose()


KILLED = """
import asyncio, os, signal, sys
from videorouter.journal.journal import Ending, Fingerprint, Intent, Journal, SavedFile
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
    await journal.identify(Fingerprint("generate", b"{}", "d" * 32, "d" * 32), "a")
    await journal.record_intent(Intent(id="a", position=0, digest="d" * 32, verb="generate", model="m", request="{}",
                                idempotency_key="k"))
    print("intended", flush=True)
    await journal.record_task("a", "t-1")
    print("accepted", flush=True)
    await journal.record_ending(Ending(id="a", state="done", result="{}"))
    print("done", flush=True)
asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("step", "number", "told", "left"),
    [
        ("identify", 1, None, None),
        ("intent", 1, None, None),
        ("commit", 2, None, None),
        ("committed", 2, None, "in_doubt"),
        ("task", 1, "intended", "in_doubt"),
        ("commit", 3, "intended", "in_doubt"),
        ("committed", 3, "intended", "accepted"),
        ("ending", 1, "accepted", "accepted"),
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
    await journal.writer.do("find", lambda database: database.execute("PRAGMA max_page_count = 30").fetchone())
    written = 0
    refused = None
    while refused is None:
        try:
            await journal.record_intent(intent(str(written), written, request="x" * 900))
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
    await journal.record_file(second, SavedFile(path=second, size=3, sha256="ab", media="{}"))
    assert await journal.find_files("a") == ()
    assert await journal.find_files("b") == (SavedFile(path=second, size=3, sha256="ab", media="{}"),)
    assert read(journal.path, "SELECT path FROM files WHERE item = 'b'") == [("clips/otter-b.mp4",)]
    await journal.aclose()


async def test_inline_videos_are_kept_with_their_result(tmp_path):
    journal = await Journal.open(tmp_path / "run.db")
    await journal.record_intent(intent("a"))
    await journal.record_ending(Ending(id="a", state="done", result="{}", inline=((0, "video/mp4", b"bytes"),)))
    assert await journal.find_inline("a") == {0: b"bytes"}
    await journal.aclose()


async def test_a_closed_journal_says_so(tmp_path):
    journal = await Journal.open(tmp_path / "run.db")
    await journal.aclose()
    with pytest.raises(JournalError, match="closed"):
        await journal.record_intent(intent("a"))


@pytest.mark.parametrize("state", ["accepted", "done"])
async def test_what_was_paid_for_is_never_sent_again_whoever_asks(tmp_path, state):
    journal = await Journal.open(tmp_path / "run.db")
    await journal.record_intent(intent("a"))
    await journal.record_ending(Ending(id="a", state=state, task_id="t-1"))
    with pytest.raises(JournalError, match=f"'a' .* is '{state}' and cannot become 'sending'"):
        await journal.record_intent(intent("a"))
    assert (await journal.find("a")).sends == 1
    await journal.aclose()


async def test_a_change_that_is_refused_fails_alone_and_writes_nothing(tmp_path):
    journal = await Journal.open(tmp_path / "run.db")
    await journal.record_intent(intent("a"))
    await journal.record_ending(Ending(id="a", state="done", cost=0.3, result="{}"))
    outcomes = await asyncio.gather(
        journal.record_ending(Ending(id="a", state="failed", unknown=0.4)),
        journal.record_task("a", "t-1"),
        journal.record_task("nobody", "t-2"),
        journal.record_intent(intent("b", 1)),
        return_exceptions=True,
    )
    assert [isinstance(outcome, JournalError) for outcome in outcomes] == [True, True, True, False]
    row = await journal.find("a")
    assert (row.state, row.cost, row.unknown, row.task_id) == ("done", 0.3, 0.0, None)
    assert (await journal.find("b")).state == "sending"
    await journal.aclose()


async def test_an_ending_that_is_written_twice_counts_its_money_once(tmp_path):
    journal = await Journal.open(tmp_path / "run.db")
    await journal.record_intent(intent("a", reserved=0.4))
    await journal.record_intent(intent("b", 1, reserved=0.4))
    for _ in range(2):
        await journal.record_ending(Ending(id="a", state="done", cost=0.3, result="{}"))
        await journal.record_ending(Ending(id="b", state="in_doubt", unknown=0.4))
    totals = await journal.totals()
    assert (totals.reserved, totals.cost, totals.unknown) == (0.0, 0.3, 0.4)
    await journal.aclose()


async def test_each_change_of_a_state_that_the_table_forbids_raises_in_every_test(tmp_path, forbidden_changes):
    journal = await Journal.open(tmp_path / "run.db")
    await journal.record_intent(intent("a"))
    await journal.record_ending(Ending(id="a", state="done", result="{}"))
    birth = "INSERT INTO items (id, position, state, digest, verb) VALUES ('b', 1, 'failed', '', '')"
    for statement in ("UPDATE items SET state = 'sending'", birth):
        with pytest.raises(JournalError, match="the table of states forbids this change"):
            await journal.transact(lambda database, statement=statement: database.execute(statement).close())
    assert forbidden_changes == ["done -> sending", "not_sent -> failed"]
    forbidden_changes.clear()
    await journal.transact(lambda database: database.execute("UPDATE items SET state = 'done'").close())
    await journal.aclose()


UNCHANGED = {"refused": "refused", "failed": "failed"}


@pytest.mark.parametrize(
    ("settlement", "video", "states"),
    [
        ("not_bought", {}, {**UNCHANGED, "done": "done", "in_doubt": "not_sent", "lost": "not_sent"}),
        ("send_again", {}, {"in_doubt": "not_sent", "lost": "not_sent"}),
        ("bought", {}, {**UNCHANGED, "done": "done", "in_doubt": "failed", "lost": "failed"}),
        ("bought", {"url": "https://x/v"}, dict.fromkeys((*UNCHANGED, "in_doubt", "lost"), "done")),
    ],
)
async def test_only_what_may_have_been_billed_can_be_settled(tmp_path, settlement, video, states):
    journal = await Journal.open(tmp_path / "run.db")
    for state in STATES:
        if state not in {"not_sent", "cancelled"}:
            await journal.record_intent(intent(state, reserved=0.4))
        if state == "lost":
            await journal.record_task(state, "t-1")
        if state not in {"not_sent", "cancelled", "sending"}:
            await journal.record_ending(Ending(id=state, state=state, unknown=0.4))
    changed = {state: await journal.settle(state, settlement, cost=0.5, **video) for state in STATES}
    assert {state for state, done in changed.items() if done} == set(states)
    for state, after in states.items():
        row = await journal.find(state)
        assert row.state == after
        assert (row.cost, row.unknown) == {
            "not_bought": (0.0 if after == "failed" else None, 0.0),
            "send_again": (None, 0.4),
            "bought": (0.5, 0.0),
        }[settlement]
    await journal.aclose()


async def send_three_times(journal: Journal) -> None:
    """Item ``a``: in doubt, then refused, then done."""
    await journal.record_intent(intent("a", idempotency_key="k-1", reserved=0.4))
    await journal.record_ending(
        Ending(id="a", state="in_doubt", unknown=0.4, phase="SENT", status=502, request_id="r-1")
    )
    first = read(journal.path, "SELECT sent, finished FROM items")
    await journal.record_intent(intent("a", idempotency_key="k-2", reserved=0.4))
    refusal = Ending(id="a", state="refused", failure='{"message":"no"}', request_id="r-2", status=403)
    await journal.record_ending(msgspec.structs.replace(refusal, kept="in_doubt", kept_failure='{"message":"both"}'))
    facts = "state, number, idempotency_key, phase, status, request_id, reserved, unknown, sends, failure"
    assert read(journal.path, f"SELECT {facts} FROM items") == [
        ("in_doubt", 1, "k-1", "SENT", 502, "r-1", 0.0, 0.4, 2, '{"message":"both"}')
    ]
    assert read(journal.path, "SELECT sent, finished FROM items") == first
    assert read(journal.path, "SELECT number, state, idempotency_key, status, request_id, failure FROM sendings") == [
        (2, "refused", "k-2", 403, "r-2", '{"message":"no"}')
    ]
    await journal.record_intent(intent("a", idempotency_key="k-3", reserved=0.4))
    await journal.record_ending(Ending(id="a", state="done", cost=0.3, result="{}"))
    assert read(journal.path, "SELECT state, number, idempotency_key, cost, unknown, sends FROM items") == [
        ("done", 3, "k-3", 0.3, 0.4, 3)
    ]


async def test_each_sending_keeps_its_key_time_phase_status_and_money(tmp_path):
    journal = await Journal.open(tmp_path / "run.db")
    await send_three_times(journal)
    assert read(journal.path, "SELECT number, state, idempotency_key, phase, status, cost, unknown FROM sendings") == [
        (1, "in_doubt", "k-1", "SENT", 502, None, 0.4),
        (2, "refused", "k-2", None, 403, None, 0.0),
    ]
    await journal.aclose()


@pytest.mark.parametrize("price", [0.4, 0.0])
async def test_what_was_bought_by_a_later_sending_leaves_the_doubt_of_an_earlier_one_to_be_settled(tmp_path, price):
    journal = await Journal.open(tmp_path / "run.db")
    await journal.record_intent(intent("a", idempotency_key="k-1"))
    await journal.record_ending(Ending(id="a", state="in_doubt", unknown=price))
    await journal.record_intent(intent("a", idempotency_key="k-2"))
    await journal.record_ending(Ending(id="a", state="done", result="{}"))
    ((row, _),) = read_rows(journal.path, doubtful=True)
    assert (row.state, row.idempotency_key, read_status(journal.path).doubtful) == ("done", "k-1", 1)
    assert await journal.settle("a", "bought", cost=0.5)
    assert not await journal.settle("a", "bought", cost=0.5)
    assert list(read_rows(journal.path, doubtful=True)) == []
    row = await journal.find("a")
    assert (row.state, row.cost, row.unknown, row.idempotency_key) == ("done", 0.5, 0.0, "k-2")
    assert read(journal.path, "SELECT number, state, unknown FROM sendings") == [(1, "failed", 0.0)]
    await journal.aclose()


async def test_a_doubt_that_is_sent_again_by_name_comes_back_when_that_is_refused(tmp_path):
    journal = await Journal.open(tmp_path / "run.db")
    await journal.record_intent(intent("a", idempotency_key="k-1"))
    await journal.record_ending(Ending(id="a", state="in_doubt", unknown=0.4))
    assert await journal.settle("a", "send_again")
    assert (await journal.find("a")).state == "not_sent"
    await journal.record_intent(intent("a", idempotency_key="k-2"))
    await journal.record_ending(Ending(id="a", state="refused", kept="in_doubt"))
    row = await journal.find("a")
    assert (row.state, row.idempotency_key, row.number, row.sends, row.unknown) == ("in_doubt", "k-1", 1, 2, 0.4)
    assert read(journal.path, "SELECT number, state FROM sendings") == [(2, "refused")]
    await journal.aclose()


async def test_takes_skip_an_id_that_another_entry_was_given(tmp_path):
    journal = await Journal.open(tmp_path / "run.db")
    assert (await journal.identify(fingerprint("ab"), "ab-2")).id == "ab-2"
    assert [await journal.record_intent(intent("", n, digest="ab")) for n in range(3)] == ["ab-1", "ab-3", "ab-4"]
    assert (await journal.identify(fingerprint("ab"), "ab-3")).times > 1
    await journal.aclose()
    journal = await Journal.open(tmp_path / "run.db")
    assert (await journal.identify(fingerprint("cd"), "ab-2")).id == "ab-2"
    assert [(await journal.identify(fingerprint("ab"), None)).id for _ in range(3)] == ["ab-1", "ab-3", "ab-4"]
    await journal.aclose()
