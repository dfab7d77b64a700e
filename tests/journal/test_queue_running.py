"""Which job is next, and what a claim decides; nothing here is sent."""

from __future__ import annotations

import asyncio
import sqlite3

import pytest

from videorouter.errors import JournalError
from videorouter.journal.queue import NewJob, QueueJournal, cancel_job, find_jobs
from videorouter.journal.queue_running import Choice, Claim, RunnerJournal, bury, choose, list_models
from videorouter.locks import EpochLock, WriterLock

pytestmark = pytest.mark.anyio


def job(name, owner="", priority=0, model="m"):
    return NewJob(id=name, digest="d", verb="generate", model=model, request="{}", owner=owner, priority=priority)


@pytest.fixture
async def queue(tmp_path):
    journal = QueueJournal(tmp_path / "jobs.db")
    yield journal
    await journal.aclose()


@pytest.fixture
async def running(queue):
    lock = WriterLock(queue.path)
    journal = RunnerJournal(queue.path, queue.writer, lock)
    await queue.put_all([], most=None)
    await journal.begin(1, [])
    yield journal
    lock.release()


async def pick(queue, number, **options):
    options.setdefault("running", {})
    choice = Choice(model="m", number=number, **options)
    return await queue.writer.do("find", lambda database: choose(database, choice))


async def test_priority_then_the_owner_with_the_fewest_then_arrival(queue):
    jobs = [job(f"a{n}", "ann") for n in range(3)] + [job(f"b{n}", "bob") for n in range(3)]
    await queue.put_all(
        [*jobs, job("urgent", "ann", 9), job("low", "cid", -1), job("else", "bob", model="n")], most=None
    )
    assert await pick(queue, 1) == ["urgent"]
    assert (await pick(queue, 3, running={"bob": 5}))[:2] == ["urgent", "a0"]
    chosen = await pick(queue, 99)
    assert chosen[0] == "urgent"
    assert chosen[-1] == "low"
    assert [name[0] for name in chosen[1:7]] == ["b", "a", "b", "a", "b", "a"]  # ann runs one already
    assert sorted(chosen) == sorted(["urgent", "low", *(each.id for each in jobs)])


async def test_owners_take_turns_and_a_full_one_is_passed_over(queue):
    names = ["", "ann", "bob", "cid"]
    await queue.put_all([job(f"{name or 'none'}-{n}", name) for name in names for n in range(2)], most=None)
    turns = [(await pick(queue, 1, after=name))[0].partition("-")[0] for name in names]
    assert turns == ["ann", "bob", "cid", "none"]
    assert await pick(queue, 99, per_owner=1, running={"ann": 1, "bob": 1, "": 1}) == ["cid-0"]
    assert await pick(queue, 99, most={"ann": 0, "bob": 1, "": 0, "cid": 0}) == ["bob-0"]


async def test_a_claim_takes_what_waits_and_nothing_else(queue, running):
    await queue.put_all([job("one"), job("two")], most=None)
    await queue.writer.do("cancel", lambda database: cancel_job(database, "two", None))
    claims = [Claim("one", "k1", 0.5), Claim("two", "k2")]
    assert [row.id for row in await running.claim_jobs(claims)] == ["one"]
    assert await running.claim_jobs(claims) == []
    (row,) = await queue.writer.do("find", lambda database: find_jobs(database, ["one"]))
    assert (row.state, row.idempotency_key, row.reserved, row.epoch, row.sends) == ("sending", "k1", 0.5, 1, 1)


async def test_a_runner_of_an_earlier_epoch_claims_nothing(queue, running):
    await queue.put_all([job("one")], most=None)
    later = RunnerJournal(queue.path, queue.writer, running._lock)
    await later.begin(2, [])
    with pytest.raises(JournalError, match="Another process"):
        await running.claim_jobs([Claim("one", "k")])
    assert len(await later.claim_jobs([Claim("one", "k")])) == 1


async def test_what_a_living_runner_sends_is_not_buried(queue, running):
    await queue.put_all([job("one"), job("two")], most=None)
    await running.claim_jobs([Claim("one", "k1"), Claim("two", "k2")])
    await running.rest("two")

    async def states(living):
        await queue.writer.do("transact", lambda database: bury(database, living))
        rows = await queue.writer.do("find", lambda database: find_jobs(database, ["one", "two"]))
        return [(row.state, row.epoch) for row in sorted(rows, key=lambda row: row.id)]

    assert await states([1]) == [("sending", 1), ("not_sent", 1)]
    assert await states([]) == [("in_doubt", 1), ("not_sent", None)]


async def test_models_are_listed_while_something_of_them_waits(queue, running):
    await queue.put_all([job("one", model="b"), job("two", model="a"), job("three", model="a")], most=None)
    assert await running.list_models() == ["a", "b"]
    await running.claim_jobs([Claim("one", "k")])
    assert await queue.writer.do("find", list_models) == ["a"]


def test_an_epoch_lives_until_its_lock_is_given_up(tmp_path):
    path = tmp_path / "jobs.db"
    first, second = EpochLock(path, 1), EpochLock(path, 2)
    assert EpochLock.list_living(path, 3) == [1, 2]
    first.release()
    assert EpochLock.list_living(path, 3) == [2]
    second.release()
    assert list(tmp_path.iterdir()) == []


async def test_one_piece_of_work_that_fails_does_so_alone(queue):
    def fail(database):
        database.execute("INSERT INTO items (id) VALUES ('incomplete')")

    await queue.put_all([job("one")], most=None)
    ended = await asyncio.gather(
        queue.put(job("two"), most=None),
        queue.writer.do("settle", fail),
        queue.put(job("three"), most=None),
        return_exceptions=True,
    )
    assert [isinstance(each, JournalError) for each in ended] == [False, True, False]
    database = sqlite3.connect(queue.path)
    assert database.execute("SELECT count(*) FROM items").fetchone() == (3,)
    database.close()
