"""What the ledger says when a block runs again, with a clock that is not needed: no cluster."""

from __future__ import annotations

import sqlite3

import pytest

from videorouter.errors import JournalBusyError, JournalError
from videorouter.integrations.ray.ledger import Ledger
from videorouter.integrations.ray.proxy import RemoteJournal
from videorouter.integrations.ray.words import Accept, Finish, Intend, Leave, Meet, Stop, encode, read_reply
from videorouter.io.journal import Ending, Intent, Journal

pytestmark = pytest.mark.anyio
MICROS = 1_000_000


@pytest.fixture
async def ledger(tmp_path):
    made = Ledger(str(tmp_path / "run.db"), lease=60.0)
    await made.open()
    yield made
    await made.close()


async def say(ledger, worker, *words):
    reply = read_reply(await ledger.exchange(worker, encode(list(words))))
    assert reply.trouble is None
    return reply.answers


def intend(item, position=0, digest="d1", micros=0):
    return Intend(
        Intent(
            id=item,
            position=position,
            digest=digest,
            verb="generate",
            model="m",
            request="{}",
            idempotency_key="k",
            reserved=micros / MICROS,
        ),
        micros,
    )


def bury(ledger, worker):
    """The worker has been silent for longer than its lease."""
    ledger._seen[worker] = float("-inf")


async def test_a_row_that_comes_again_is_the_same_item_and_four_takes_are_four(ledger):
    met = await say(ledger, "a", *(Meet(position, "d1") for position in range(4)))
    assert [answer.id for answer in met] == ["d1-1", "d1-2", "d1-3", "d1-4"]
    (again,) = await say(ledger, "a", Meet(2, "d1"))
    assert (again.id, again.recorded) == ("d1-3", None)


async def test_an_id_of_another_row_is_refused(ledger):
    first, second = await say(ledger, "a", Meet(0, "d1", "otter"), Meet(1, "d2", "otter"))
    assert (first.verdict, second.verdict) == ("", "twice")


async def test_a_row_that_changed_between_two_runs_is_refused(ledger):
    await say(ledger, "a", Meet(0, "d1"))
    (answer,) = await say(ledger, "a", Meet(0, "d2"))
    assert answer.verdict == "changed"


async def test_while_its_worker_lives_nobody_else_gets_an_item(ledger):
    await say(ledger, "a", Meet(0, "d1", "x"))
    await say(ledger, "a", intend("x"))
    (answer,) = await say(ledger, "b", Meet(0, "d1", "x"))
    assert answer.verdict == "wait"


async def test_what_a_dead_worker_was_sending_is_in_doubt(ledger, tmp_path):
    await say(ledger, "a", Meet(0, "d1", "x"))
    await say(ledger, "a", intend("x", micros=2 * MICROS))
    bury(ledger, "a")
    (answer,) = await say(ledger, "b", Meet(0, "d1", "x"))
    assert answer.recorded.state == "in_doubt"
    assert answer.recorded.unknown == 2.0
    with sqlite3.connect(tmp_path / "run.db") as database:
        assert database.execute("SELECT state FROM items").fetchall() == [("in_doubt",)]


async def test_what_a_dead_worker_had_only_reserved_runs(ledger):
    await say(ledger, "a", Meet(0, "d1", "x"))
    bury(ledger, "a")
    (answer,) = await say(ledger, "b", Meet(0, "d1", "x"))
    assert (answer.verdict, answer.recorded) == ("", None)


async def test_what_was_accepted_is_polled_by_whoever_takes_over(ledger):
    await say(ledger, "a", Meet(0, "d1", "x"))
    await say(ledger, "a", intend("x"))
    await say(ledger, "a", Accept("x", "cgt-1"))
    bury(ledger, "a")
    (answer,) = await say(ledger, "b", Meet(0, "d1", "x"))
    assert (answer.recorded.state, answer.recorded.task_id) == ("accepted", "cgt-1")


async def test_a_worker_that_was_only_thought_dead_sends_nothing_more(ledger):
    await say(ledger, "a", Meet(0, "d1", "x"))
    bury(ledger, "a")
    await say(ledger, "b", Meet(0, "d1", "x"))
    (answer,) = await say(ledger, "a", intend("x"))
    assert answer.verdict == "taken"
    await say(ledger, "b", intend("x"))
    await say(ledger, "b", Finish(Ending(id="x", state="done", result=b"{}")))
    (answer,) = await say(ledger, "a", intend("x"))
    assert answer.verdict == "taken"


async def test_an_outcome_that_comes_late_replaces_the_doubt_and_its_money(ledger, tmp_path):
    await say(ledger, "a", Meet(0, "d1", "x"))
    await say(ledger, "a", intend("x", micros=2 * MICROS))
    bury(ledger, "a")
    await say(ledger, "b", Meet(0, "d1", "x"), Leave("x"))
    await say(ledger, "a", Finish(Ending(id="x", state="done", cost=1.5, result=b"{}")))
    with sqlite3.connect(tmp_path / "run.db") as database:
        row = database.execute("SELECT state, cost, unknown FROM items").fetchone()
    assert row == ("done", 1.5, 0.0)


async def test_done_is_told_to_everybody_at_once(ledger):
    await say(ledger, "a", Meet(0, "d1", "x"))
    await say(ledger, "a", intend("x"))
    await say(ledger, "a", Finish(Ending(id="x", state="done", result=b"{}")))
    (answer,) = await say(ledger, "b", Meet(0, "d1", "x"))
    assert answer.recorded.state == "done"


async def test_what_this_run_has_refused_is_not_tried_once_more(ledger):
    await say(ledger, "a", Meet(0, "d1", "x"))
    await say(ledger, "a", intend("x"))
    await say(ledger, "a", Finish(Ending(id="x", state="refused", failure=b"{}")))
    (answer,) = await say(ledger, "b", Meet(0, "d1", "x"))
    assert answer.settled


async def test_the_cap_holds_for_all_workers_together(tmp_path):
    ledger = Ledger(str(tmp_path / "run.db"), max_cost=2.5)
    await ledger.open()
    await say(ledger, "a", Meet(0, "d1", "x"), intend("x", micros=MICROS))
    await say(ledger, "b", Meet(1, "d2", "y"), intend("y", 1, "d2", MICROS))
    *_, waits = await say(ledger, "c", Meet(2, "d3", "z"), intend("z", 2, "d3", MICROS))
    assert waits.verdict == "wait", "what runs may still give its money back"
    await say(ledger, "a", Finish(Ending(id="x", state="done", cost=1.0, result=b"{}")))
    await say(ledger, "b", Finish(Ending(id="y", state="done", cost=1.0, result=b"{}")))
    (over,) = await say(ledger, "c", intend("z", 2, "d3", MICROS))
    assert (over.verdict, over.text) == ("over", "0.5")
    await ledger.close()


async def test_a_stop_reaches_every_worker(ledger):
    await say(ledger, "a", Stop("out of credit"))
    assert read_reply(await ledger.exchange("b", encode([]))).stopped == "out of credit"


async def test_a_journal_that_somebody_writes_is_not_opened(tmp_path):
    other = await Journal.open(tmp_path / "run.db")
    with pytest.raises(JournalBusyError):
        await Ledger(str(tmp_path / "run.db")).open(wait=0.0)
    await other.aclose()


async def test_a_file_that_is_no_journal_is_refused_without_waiting(tmp_path):
    (tmp_path / "run.db").write_bytes(b"something else altogether" * 100)
    with pytest.raises(JournalError):
        await Ledger(str(tmp_path / "run.db")).open(wait=60.0)


async def test_the_key_is_read_once_and_its_file_removed(tmp_path):
    file = tmp_path / "key"
    file.write_text("sk-1")
    ledger = Ledger(str(tmp_path / "run.db"), key_path=str(file))
    assert not file.exists()
    assert await ledger.greet("a") == "sk-1"


async def test_a_remote_journal_names_what_it_has_committed_as_a_journal_does(ledger, tmp_path):
    stops = []
    remote = RemoteJournal(lambda message: ledger.exchange("a", message), stops.append, path=tmp_path, beat=60.0)
    met = await remote.meet(0, "d1", None)
    assert await remote.intend(intend(met.id).intent) == met.id == "d1-1"
    await remote.finish(Ending(id=met.id, state="done", cost=0.5))
    found = await remote.find(met.id)
    assert (found.state, found.cost, stops) == ("done", 0.5, [])
    await remote.aclose()


async def test_a_ledger_that_fails_says_what_failed_and_one_that_has_gone_says_that(tmp_path):
    class TaskError(Exception):
        cause = ValueError("an id is missing")

    for error, words in ((TaskError("x"), "ValueError: an id is missing"), (OSError("x"), "cannot be reached")):

        async def fail(_, error=error):
            raise error

        stops = []
        remote = RemoteJournal(fail, stops.append, path=tmp_path, beat=60.0)
        with pytest.raises(JournalError, match=words):
            await remote.meet(0, "d1", None)
        assert len(stops) == 1
        await remote.aclose()
