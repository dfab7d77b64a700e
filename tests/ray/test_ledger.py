"""What the ledger says when a block runs again, with a clock that is not needed: no cluster."""

from __future__ import annotations

import asyncio
import sqlite3

import msgspec
import pytest
from batching import unpack

from videorouter.errors import InvalidRequestError, JournalBusyError, JournalError
from videorouter.integrations.ray.ledger import Ledger
from videorouter.integrations.ray.proxy import Block, RemoteJournal
from videorouter.integrations.ray.words import (
    Accept,
    Claim,
    Finish,
    Intend,
    Leave,
    Meet,
    Refuse,
    Reply,
    Stop,
    cut,
    encode,
    read_reply,
    read_words,
)
from videorouter.journal.identity import digest_request, digest_spelling
from videorouter.journal.journal import Ending, Intent, Journal

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


def intend(item, position=0, digest="d1", micros=0, block=0, key="k"):
    row = (item, position, digest, "generate", "m", "{}", key, micros / MICROS, None, None)
    return Intend(block, micros, row)


def finish(item, state="done", cost=None, block=0, **texts):
    row = (item, state, 0.0, cost, 0.0, texts.get("result"), texts.get("failure"), None, None)
    return Finish(block, row)


def bury(ledger, worker):
    """The worker has been silent for longer than its lease."""
    ledger._seen[worker] = float("-inf")


async def test_the_rows_of_a_block_that_nobody_met_are_named_by_their_intents_and_four_takes_are_four(ledger):
    (claimed,) = await say(ledger, "a", Claim(0, 6))
    assert claimed.verdict == "fresh"
    rows = [intend("", position, "d1", key=f"k{position}") for position in range(4)]
    answers = await say(ledger, "a", *rows[:1]) + await say(ledger, "a", *rows[1:], intend("", 4, "d2"))
    assert [answer and answer.id for answer in answers] == [None, "d1-2", "d1-3", "d1-4", None]
    bury(ledger, "a")
    met = await say(ledger, "b", Claim(0, 6), *(Meet(0, position, "d1") for position in range(4)), Meet(0, 4, "d2"))
    assert [answer.id for answer in met[1:]] == ["d1-1", "d1-2", "d1-3", "d1-4", "d2-1"]
    assert {answer.recorded.state for answer in met[1:]} == {"in_doubt"}


async def test_a_journal_that_knows_rows_is_asked_about_each(tmp_path):
    for _ in range(2):
        ledger = Ledger(str(tmp_path / "run.db"))
        await ledger.open()
        (claimed,) = await say(ledger, "a", Claim(0, 4))
        met = await say(ledger, "a", *(Meet(0, position, "d1") for position in range(4)))
        await say(ledger, "a", *(intend(answer.id, key=answer.id) for answer in met if answer.id))
        if claimed.verdict == "fresh":
            await say(ledger, "a", intend("", 0, "d1"), finish("d1-1"))
        await ledger.close()
    assert claimed.verdict == ""
    assert [answer.id for answer in met] == ["d1-1", "d1-2", "d1-3", "d1-4"]
    assert [answer.recorded and answer.recorded.state for answer in met] == ["done", None, None, None]


async def test_a_row_that_could_not_be_read_is_met_again_by_the_next_run_and_by_no_earlier_one(tmp_path):
    ledger = Ledger(str(tmp_path / "run.db"))
    await say(ledger, "a", Claim(0, 1), Refuse("entry-0", 0, "generate", b"{}"))
    await ledger.close()
    assert (await ledger.count())["refused"] == 1
    await ledger.close()
    after = Ledger(str(tmp_path / "run.db"))
    assert (await after.count())["refused"] == 0
    await after.close()


async def test_a_ledger_whose_journal_was_moved_promises_nothing_more_and_still_takes_what_was_paid_for(tmp_path):
    ledger = Ledger(str(tmp_path / "run.db"))
    await say(ledger, "a", Claim(0, 2), intend("", 0, "d1"))
    (tmp_path / "run.db").rename(tmp_path / "elsewhere.db")
    reply = read_reply(await ledger.exchange("a", encode([intend("", 1, "d2")])))
    assert "moved, replaced, emptied or deleted" in reply.trouble
    assert reply.stopped == reply.trouble
    await say(ledger, "a", finish("d1-1"))
    (tmp_path / "elsewhere.db").rename(tmp_path / "run.db")
    await ledger.close()
    with sqlite3.connect(tmp_path / "run.db") as database:
        assert database.execute("SELECT id, state FROM items").fetchall() == [("d1-1", "done")]


async def test_an_id_of_another_row_is_refused(ledger):
    (claimed,) = await say(ledger, "a", Claim(0, 3, ("otter", "seal", "otter")))
    assert (claimed.verdict, claimed.twice) == ("fresh", (2,))
    (elsewhere,) = await say(ledger, "b", Claim(3, 2, ("crab", "seal")))
    assert elsewhere.twice == (1,)
    (met,) = await say(ledger, "b", Meet(3, 4, "d9", "seal"))
    assert met.verdict == "twice"


async def test_a_row_that_changed_between_two_runs_is_refused(ledger):
    await say(ledger, "a", Claim(0, 1), intend("", 0, "d1"), Leave(0))
    (_, answer) = await say(ledger, "b", Claim(0, 1), Meet(0, 0, "d2"))
    assert answer.verdict == "changed"


async def test_a_block_that_changed_its_shape_is_refused(ledger):
    await say(ledger, "a", Claim(100, 50), Leave(100))
    for changed in (Claim(100, 40), Claim(90, 20), Claim(149, 1), Claim(0, 101)):
        (answer,) = await say(ledger, "b", changed)
        assert answer.verdict == "changed"
    (beside, after) = await say(ledger, "b", Claim(90, 10), Claim(150, 10))
    assert {beside.verdict, after.verdict} == {"fresh"}


async def test_while_its_worker_lives_nobody_else_gets_a_block(ledger):
    await say(ledger, "a", Claim(0, 1), intend("x"))
    (claimed, met, sent) = await say(ledger, "b", Claim(0, 1), Meet(0, 0, "d1"), intend("x"))
    assert (claimed.verdict, met.verdict, sent.verdict) == ("wait", "wait", "taken")


async def test_what_a_dead_worker_was_sending_is_in_doubt(ledger, tmp_path):
    await say(ledger, "a", Claim(0, 1), intend("x", micros=2 * MICROS))
    bury(ledger, "a")
    (_, answer) = await say(ledger, "b", Claim(0, 1), Meet(0, 0, "d1", "x"))
    assert answer.recorded.state == "in_doubt"
    assert answer.recorded.unknown == 2.0
    with sqlite3.connect(tmp_path / "run.db") as database:
        assert database.execute("SELECT state FROM items").fetchall() == [("in_doubt",)]


async def test_what_a_dead_worker_had_never_sent_runs(ledger):
    await say(ledger, "a", Claim(0, 2, ("x", None)))
    bury(ledger, "a")
    (claimed, given, other) = await say(ledger, "b", Claim(0, 2), Meet(0, 0, "d1", "x"), Meet(0, 1, "d2"))
    assert claimed.verdict == ""
    assert (given.verdict, given.id, given.recorded) == ("", "x", None)
    assert (other.verdict, other.recorded) == ("", None)


async def test_what_was_accepted_is_polled_by_whoever_takes_over(ledger):
    await say(ledger, "a", Claim(0, 1), intend("x"))
    await say(ledger, "a", Accept(0, "x", "cgt-1"))
    bury(ledger, "a")
    (_, answer) = await say(ledger, "b", Claim(0, 1), Meet(0, 0, "d1", "x"))
    assert (answer.recorded.state, answer.recorded.task_id) == ("accepted", "cgt-1")


async def test_a_worker_that_was_only_thought_dead_sends_nothing_more(ledger):
    await say(ledger, "a", Claim(0, 1))
    bury(ledger, "a")
    await say(ledger, "b", Claim(0, 1))
    (answer,) = await say(ledger, "a", intend("x"))
    assert answer.verdict == "taken"
    await say(ledger, "b", intend("x"))
    await say(ledger, "b", finish("x"), Leave(0))
    (answer,) = await say(ledger, "a", intend("x"))
    assert answer.verdict == "taken"


async def test_an_outcome_that_comes_late_replaces_the_doubt_and_its_money(ledger, tmp_path):
    await say(ledger, "a", Claim(0, 1), intend("x", micros=2 * MICROS))
    bury(ledger, "a")
    await say(ledger, "b", Claim(0, 1))
    await say(ledger, "a", finish("x", cost=1.5, result="{}"))
    with sqlite3.connect(tmp_path / "run.db") as database:
        row = database.execute("SELECT state, cost, unknown FROM items").fetchone()
    assert row == ("done", 1.5, 0.0)


async def test_the_late_outcome_of_what_is_being_sent_a_second_time_changes_only_its_money(ledger, tmp_path):
    await say(ledger, "a", Claim(0, 1), intend("x", micros=2 * MICROS))
    bury(ledger, "a")
    await say(ledger, "b", Claim(0, 1), intend("x", micros=2 * MICROS))
    await say(ledger, "a", finish("x", cost=1.5, result="{}"))
    with sqlite3.connect(tmp_path / "run.db") as database:
        row = database.execute("SELECT state, cost, unknown, reserved FROM items").fetchone()
    assert row == ("sending", 1.5, 0.0, 2.0)


async def test_done_is_told_to_everybody_at_once(ledger):
    await say(ledger, "a", Claim(0, 2), intend("x"))
    await say(ledger, "a", finish("x", result="{}"))
    (answer,) = await say(ledger, "b", Meet(0, 0, "d1", "x"))
    assert answer.recorded.state == "done"


async def test_what_this_run_has_refused_is_not_tried_once_more(ledger):
    await say(ledger, "a", Claim(0, 1), intend("x"))
    await say(ledger, "a", finish("x", "refused", failure="{}"), Leave(0))
    (_, answer) = await say(ledger, "b", Claim(0, 1), Meet(0, 0, "d1", "x"))
    assert answer.settled


async def test_the_cap_holds_for_all_workers_together(tmp_path):
    ledger = Ledger(str(tmp_path / "run.db"), max_cost=2.5)
    await ledger.open()
    await say(ledger, "a", Claim(0, 1), intend("x", micros=MICROS))
    await say(ledger, "b", Claim(1, 1), intend("y", 1, "d2", MICROS, block=1))
    *_, waits = await say(ledger, "c", Claim(2, 1), intend("z", 2, "d3", MICROS, block=2))
    assert waits.verdict == "wait", "what runs may still give its money back"
    await say(ledger, "a", finish("x", cost=1.0))
    await say(ledger, "b", finish("y", cost=1.0, block=1))
    (over,) = await say(ledger, "c", intend("z", 2, "d3", MICROS, block=2))
    assert (over.verdict, over.text) == ("over", "0.5")
    await ledger.close()


async def test_no_money_is_waited_for_that_a_task_holds_which_waits_for_a_job_to_end(tmp_path):
    ledger = Ledger(str(tmp_path / "run.db"), max_cost=1.0)
    await say(ledger, "a", Claim(0, 1), intend("x", micros=MICROS), Accept(0, "x", "cgt-1"))
    await ledger.close()
    after = Ledger(str(tmp_path / "run.db"), max_cost=1.5)
    (_, met) = await say(after, "a", Claim(0, 1), Meet(0, 0, "d1", "x"))
    assert met.recorded.state == "accepted"
    (_, over) = await say(after, "b", Claim(1, 1), intend("y", 1, "d2", MICROS, block=1))
    assert over.verdict == "over", "with one job at once, the task could never be looked at"
    await say(after, "a", finish("x", cost=0.25))
    (sent,) = await say(after, "b", intend("y", 1, "d2", MICROS, block=1))
    assert sent is None
    await after.close()


async def test_no_money_is_waited_for_that_a_task_holds_which_is_not_looked_at_any_more(tmp_path):
    ledger = Ledger(str(tmp_path / "run.db"), max_cost=1.5)
    await say(ledger, "a", Claim(0, 2), intend("x", micros=MICROS), Accept(0, "x", "cgt-1"))
    (waits,) = await say(ledger, "a", intend("y", 1, "d2", MICROS))
    assert waits.verdict == "wait"
    row = ("x", "accepted", 1.0, None, 0.0, None, "{}", "cgt-1", None)
    await say(ledger, "a", Finish(0, row))
    (over,) = await say(ledger, "a", intend("y", 1, "d2", MICROS))
    assert over.verdict == "over"
    await ledger.close()


async def test_no_money_is_waited_for_that_a_dead_worker_held(tmp_path):
    ledger = Ledger(str(tmp_path / "run.db"), max_cost=1.5, lease=60.0)
    await say(ledger, "a", Claim(0, 1), intend("x", micros=MICROS))
    bury(ledger, "a")
    (_, over) = await say(ledger, "b", Claim(1, 1), intend("y", 1, "d2", MICROS, block=1))
    assert over.verdict == "over"
    await ledger.close()


async def test_what_another_row_sends_is_not_in_doubt_because_it_stood_there_in_an_earlier_run(tmp_path):
    ledger = Ledger(str(tmp_path / "run.db"))
    await say(ledger, "a", Claim(0, 1), intend("x"), finish("x", "refused", failure="{}"))
    await ledger.close()
    after = Ledger(str(tmp_path / "run.db"), lease=60.0)
    await say(after, "a", Claim(0, 1), Meet(0, 0, "d0", "other"), intend("other", 0, "d0"))
    await say(after, "b", Claim(7, 1), Meet(7, 7, "d1", "x"), intend("x", 7, micros=MICROS, block=7))
    bury(after, "a")
    await say(after, "c", Claim(0, 1))
    with sqlite3.connect(tmp_path / "run.db") as database:
        rows = dict(database.execute("SELECT id, state FROM items").fetchall())
    assert rows == {"x": "sending", "other": "in_doubt"}
    await after.close()


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


def make_intent(item, position, digest="d1"):
    return Intent(
        id=item, position=position, digest=digest, verb="generate", model="m", request="{}", idempotency_key=item or "k"
    )


async def enter(remote, start, *given):
    """Have a block of rows in this worker."""
    block = Block(start, list(given))
    remote.blocks.update((start + offset, block) for offset in range(len(given)))
    await remote.claim(block)
    return block


async def test_a_remote_journal_names_what_it_has_committed_as_a_journal_does(ledger, tmp_path):
    stops = []
    remote = RemoteJournal(lambda message: ledger.exchange("a", message), stops.append, path=tmp_path, beat=60.0)
    block = await enter(remote, 0, None, "otter")
    assert remote.is_new(0, None)
    assert await remote.record_intent(make_intent("", 0)) == "d1-1"
    assert remote.is_new(1, "otter")
    assert await remote.record_intent(make_intent("otter", 1, "d2")) == "otter"
    for item in ("d1-1", "otter"):
        await remote.record_ending(Ending(id=item, state="done", cost=0.5))
    await remote.leave(block)
    found = [await remote.find(item) for item in ("d1-1", "otter")]
    assert [(one.state, one.cost) for one in found] == [("done", 0.5)] * 2
    assert stops == []
    await remote.aclose()


async def test_rows_of_a_fresh_block_cost_no_question_each(ledger, tmp_path):
    remote = RemoteJournal(lambda message: ledger.exchange("a", message), print, path=tmp_path, beat=60.0)
    await enter(remote, 0, *[f"otter {n % 99}" for n in range(100)])
    groups = remote.groups
    assert all(remote.is_new(position, f"otter {position}") for position in range(99))
    with pytest.raises(InvalidRequestError, match="came twice"):
        remote.is_new(99, "otter 0")
    assert remote.groups == groups
    assert not remote.is_new(0, "an id that was spelled in another way")
    assert (await remote.meet(0, "d0", "an id that was spelled in another way")).verdict == ""
    await remote.aclose()


async def test_a_block_that_cannot_be_taken_says_so_for_each_of_its_rows(ledger, tmp_path):
    remote = RemoteJournal(lambda message: ledger.exchange("a", message), print, path=tmp_path, beat=60.0)
    await enter(remote, 0, None, None)
    await enter(remote, 1, None, None)
    with pytest.raises(InvalidRequestError, match="another one"):
        await remote.meet(1, "d1", None)
    await remote.aclose()


async def test_a_full_group_goes_at_once_and_a_small_one_gathers(tmp_path):
    sizes = []

    async def answer(message):
        words = read_words(message)
        sizes.append(len(words))
        return encode(Reply([None] * len(words), gap=60.0))

    remote = RemoteJournal(answer, print, path=tmp_path, beat=60.0)
    await remote.record_task("x", "cgt-1")
    first = asyncio.ensure_future(remote.record_task("y", "cgt-2"))
    await asyncio.sleep(0)
    rest = [asyncio.ensure_future(remote.record_task(f"z{n}", "cgt")) for n in range(600)]
    await asyncio.gather(first, *rest)
    assert sizes == [1, 601]


async def gather_groups(tmp_path, say):
    """The groups that a worker sends while it says many things at once."""
    groups = []

    async def answer(message):
        groups.append(read_words(message))
        return encode(Reply([None] * len(groups[-1]), gap=60.0))

    remote = RemoteJournal(answer, print, path=tmp_path, beat=60.0)
    block = await enter(remote, 0, *[None] * 1500)
    groups.clear()
    await say(remote, block)
    return groups


async def test_no_group_holds_all_intents_of_a_worker_so_that_others_are_at_the_gateway_meanwhile(tmp_path):
    async def say(remote, _):
        await asyncio.gather(*[remote.record_intent(make_intent("", n, f"d{n}")) for n in range(1200)])

    assert [len(group) for group in await gather_groups(tmp_path, say)] == [400, 400, 400]


async def test_a_group_goes_soon_where_half_of_all_jobs_wait_for_it(tmp_path):
    async def say(remote, _):
        remote.room = 8
        async with asyncio.timeout(10.0):  # the gap that the ledger asked for is a minute
            await asyncio.gather(*[remote.record_intent(make_intent("", n, f"d{n}")) for n in range(4)])

    assert [len(group) for group in await gather_groups(tmp_path, say)] == [4]


async def test_the_ledger_gets_no_more_groups_from_many_workers_than_it_can_take(ledger):
    for worker in range(50):
        await ledger.greet(str(worker))
    reply = read_reply(await ledger.exchange("a", encode([Claim(0, 1)])))
    assert (reply.least, reply.gap) == (51 / 250, 51 / 250)


async def test_a_block_is_left_after_all_its_endings_however_many_they_are(tmp_path):
    async def say(remote, block):
        for n in range(1500):
            await remote.record_ending(Ending(id=f"d{n}-1", state="done"))
        await remote.leave(block)

    groups = await gather_groups(tmp_path, say)
    assert [type(word) for group in groups for word in group] == [Finish] * 1500 + [Leave]
    assert len(groups) > 1


@pytest.mark.parametrize(("size", "pieces"), [(1, 1), (90_000, 1), (90_001, 2), (300_000, 4), (5_000_000, 1)])
async def test_a_message_travels_with_its_call_unless_it_holds_videos(size, pieces):
    message = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    made = cut(message)
    assert (b"".join(made), len(made)) == (message, pieces)


async def test_a_group_in_pieces_is_one_group(ledger):
    message = encode([Claim(0, 2), intend("", 0, "d1"), intend("", 1, "d2")])
    reply = read_reply(await ledger.exchange("a", message[:7], message[7:40], message[40:]))
    assert (reply.trouble, [answer and answer.verdict for answer in reply.answers]) == (None, ["fresh", None, None])


async def test_what_became_of_a_request_and_could_not_be_written_is_said_again(tmp_path):
    said = []

    async def answer(message):
        words = read_words(message)
        said.append([type(word) for word in words])
        if len(said) == 2:
            return encode(Reply([], trouble="the disk is full", stopped="the disk is full"))
        return encode(Reply([None] * len(words)))

    remote = RemoteJournal(answer, lambda _: None, path=tmp_path, beat=60.0)
    block = await enter(remote, 0, None)
    await remote.record_ending(Ending(id="d1-1", state="done"))
    with pytest.raises(JournalError, match="the disk is full"):
        await remote.leave(block)
    await remote.aclose()
    assert said == [[Claim], [Finish, Leave], [Finish]]


async def test_a_row_shows_its_earlier_sending_again_where_that_one_is_in_doubt(ledger, tmp_path):
    remote = RemoteJournal(lambda message: ledger.exchange("a", message), print, path=tmp_path, beat=60.0)
    block = await enter(remote, 0, None)
    first = make_intent("d1-1", 0)
    await remote.record_intent(first)
    await remote.record_ending(Ending(id="d1-1", state="in_doubt", unknown=0.4))
    await remote.record_intent(msgspec.structs.replace(first, idempotency_key="second"))
    await remote.record_ending(Ending(id="d1-1", state="refused", kept="in_doubt", kept_failure="{}", status=403))
    await remote.leave(block)
    found = await remote.find("d1-1")
    assert (found.state, found.idempotency_key, found.number, found.unknown) == (
        "in_doubt",
        first.idempotency_key,
        1,
        0.4,
    )
    await remote.aclose()


async def test_a_row_that_schema_1_wrote_is_met_by_its_spelling_and_by_what_it_says(tmp_path):
    rows = unpack("plain", tmp_path)["rows"]
    bodies = (
        b'{"model":"m","prompt":"takes","output_format":"url"}',
        b'{"prompt":"takes","model":"m","output_format":"url"}',
    )
    words = [
        Meet(0, position, digest_request("generate", body), None, digest_spelling("generate", body))
        for position, body in enumerate((*bodies, *bodies))
    ]
    ledger = Ledger(str(tmp_path / "run.db"))
    met = await say(ledger, "a", Claim(0, 4), *words)
    assert sorted(answer.id for answer in met[1:4]) == [item for item, *_ in rows if item.startswith("d5e7")]
    assert [answer.recorded and answer.recorded.state for answer in met[1:]] == ["done"] * 3 + [None]
    await ledger.close()


async def test_a_ledger_that_fails_says_what_failed_and_one_that_has_gone_says_that(tmp_path):
    class TaskError(Exception):
        cause = ValueError("an id is missing")

    for error, words in ((TaskError("x"), "ValueError: an id is missing"), (OSError("x"), "cannot be reached")):

        async def fail(_, error=error):
            raise error

        stops = []
        remote = RemoteJournal(fail, stops.append, path=tmp_path, beat=60.0)
        await enter(remote, 0, None)
        with pytest.raises(JournalError, match=words):
            await remote.meet(0, "d1", None)
        assert len(stops) == 1
        await remote.aclose()
