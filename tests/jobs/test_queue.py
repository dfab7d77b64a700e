"""What any process may ask of a queue; nothing here is sent."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from videorouter import (
    AsyncVideoRouter,
    ClientClosedError,
    InvalidRequestError,
    JournalBusyError,
    JournalError,
    JournalMismatchError,
    QueueFullError,
    TaskTimeoutError,
    VideoRouter,
)
from videorouter.journal import queue

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio

PUT = """
import asyncio, json, sys
from videorouter import AsyncVideoRouter
path, keys = sys.argv[1], json.loads(sys.argv[2])
async def main():
    jobs = AsyncVideoRouter("key", base_url="http://127.0.0.1:9").jobs(path)
    made = await asyncio.gather(*(jobs.put("otter", model="m", key=key) for key in keys))
    print(json.dumps([job.id for job in made]))
    await jobs.aclose()
asyncio.run(main())
"""


@pytest.fixture
async def router():
    async with AsyncVideoRouter("key", base_url="http://127.0.0.1:9", model="m") as made:
        yield made


@pytest.fixture
async def jobs(router, tmp_path):
    made = router.jobs(tmp_path / "jobs.db", max_queued=10)
    yield made
    await made.aclose()


def read(path: Path, query: str) -> list[tuple]:
    database = sqlite3.connect(path)
    try:
        return database.execute(query).fetchall()
    finally:
        database.close()


async def test_what_is_put_is_on_the_disk_and_not_sent(jobs, tmp_path):
    job = await jobs.put("an otter", meta={"order": 7}, priority=3)
    assert (job.state, job.prompt, job.model, job.priority, job.meta, job.over) == (
        "not_sent",
        "an otter",
        "m",
        3,
        {"order": 7},
        False,
    )
    assert read(tmp_path / "jobs.db", "SELECT id, state FROM items") == [(job.id, "not_sent")]
    assert await jobs.get(job.id) == job


async def test_the_same_key_gives_the_job_as_it_stands(jobs):
    first = await jobs.put("an otter", key="a", seed=7)
    await jobs.cancel(first.id)
    again = await jobs.put("an otter", seed=7.0, key="a", priority=9)
    assert (again.id, again.state, again.priority) == (first.id, "cancelled", 0)


async def test_another_request_under_a_key_is_an_error_and_fails_alone(jobs):
    await jobs.put("an otter", key="a")
    ended = await asyncio.gather(jobs.put("a bear", key="a"), jobs.put("a fox", key="b"), return_exceptions=True)
    assert isinstance(ended[0], JournalMismatchError)
    assert ended[1].prompt == "a fox"


async def test_keys_are_an_owners_own(jobs):
    mine = await jobs.of("ann").put("an otter", key="a")
    other = await jobs.of("bob").put("a bear", key="a")
    none = await jobs.put("a fox", key="a")
    assert len({mine.id, other.id, none.id}) == 3


async def test_a_full_queue_refuses_and_keeps_what_it_has(jobs):
    await jobs.put_many([{"prompt": "an otter", "key": str(n)} for n in range(9)])
    with pytest.raises(QueueFullError):
        await jobs.put_many(["one", "two"])
    assert len(await jobs.list()) == 9
    ended = await asyncio.gather(*(jobs.put("an otter", key=f"x{n}") for n in range(5)), return_exceptions=True)
    assert sum(isinstance(each, QueueFullError) for each in ended) == 4
    assert (await jobs.put("an otter", key="0")).key == "0"  # what is there already needs no room


async def test_put_many_puts_all_or_none(jobs):
    await jobs.put("an otter", key="a")
    with pytest.raises(JournalMismatchError):
        await jobs.put_many(["a fox", {"prompt": "a bear", "key": "a"}])
    assert len(await jobs.list()) == 1
    made = await jobs.put_many([{"prompt": "a fox", "key": "f"}, {"prompt": "a fox", "key": "f"}])
    assert made[0].id == made[1].id


async def test_an_owner_sees_and_touches_nothing_of_anothers(jobs):
    mine = await jobs.of("ann").put("an otter")
    bob = jobs.of("bob")
    assert await bob.get(mine.id) is None
    assert await bob.list() == []
    for verb in (bob.cancel, bob.retry, bob.result):
        with pytest.raises(InvalidRequestError, match="There is no job"):
            await verb(mine.id)
    with pytest.raises(InvalidRequestError, match="There is no job"):
        await bob.settle(mine.id, "not_bought")
    with pytest.raises(InvalidRequestError, match="There is no job"):
        await anext(bob.events(mine.id))
    with pytest.raises(InvalidRequestError, match="owner"):
        await bob.put("an otter", owner="ann")
    assert (await bob.stats()).queued == 0
    assert (await jobs.stats()).owners["ann"].queued == 1
    assert (await jobs.get(mine.id)).state == "not_sent"


async def test_a_list_is_paged_from_the_newest(jobs):
    made = [job.id for job in await jobs.put_many([f"otter {n}" for n in range(7)])]
    first = await jobs.list(limit=3)
    rest = await jobs.list(before=first[-1].id)
    assert [job.id for job in (*first, *rest)] == made[::-1]
    await jobs.cancel(made[2])
    assert [job.id for job in await jobs.list(state="cancelled")] == [made[2]]


async def test_a_cancelled_job_is_put_back_by_retry_alone(jobs):
    job = await jobs.put("an otter")
    assert (await jobs.cancel(job.id)).over
    with pytest.raises(ClientClosedError, match="cancelled"):
        await jobs.result(job.id)
    assert (await jobs.retry(job.id)).state == "not_sent"
    with pytest.raises(InvalidRequestError, match="not sent"):
        await jobs.retry(job.id)
    with pytest.raises(InvalidRequestError, match="no doubt"):
        await jobs.settle(job.id, "not_bought")


async def test_events_are_numbered_and_a_reader_that_comes_back_misses_none(jobs):
    job, other = await jobs.put_many(["an otter", "a fox"])
    seen = []

    async def follow():
        seen.extend([(event.state, event.over) async for event in jobs.events(job.id)])

    following = asyncio.ensure_future(follow())
    await jobs.cancel(other.id)
    await jobs.cancel(job.id)
    await following
    assert seen == [("not_sent", False), ("cancelled", True)]
    everything = jobs.events()
    told = [await anext(everything) for _ in range(4)]
    assert [event.number for event in told] == sorted({event.number for event in told})
    rest = jobs.events(after=told[1].number)
    assert [await anext(rest), await anext(rest)] == told[2:]
    assert [event async for event in jobs.events(job.id, after=told[-1].number)] == []


async def test_a_result_that_is_not_there_in_time_leaves_the_job_alone(jobs):
    job = await jobs.put("an otter")
    with pytest.raises(TaskTimeoutError, match="goes on"):
        await jobs.result(job.id, timeout=0.05)
    assert (await jobs.get(job.id)).state == "not_sent"


async def test_pruned_jobs_leave_their_key_behind(jobs, tmp_path):
    kept, gone, waiting = await jobs.put_many([{"prompt": "an otter", "key": "a"}, "a fox", "a bear"])
    for job in (kept, gone):
        await jobs.cancel(job.id)
    await asyncio.sleep(0.01)
    assert await jobs.prune(0.001) == 2
    assert await jobs.prune(0.001) == 0
    assert [job.id for job in await jobs.list()] == [waiting.id, kept.id]
    assert (await jobs.put("an otter", key="a")).state == "cancelled"
    with pytest.raises(InvalidRequestError):
        await jobs.retry(kept.id)


@pytest.mark.parametrize(
    "given",
    [
        {"key": ""},
        {"owner": 7},
        {"priority": "high"},
        {"meta": object()},
        {"models": ["a"]},
        {"image_url": "a.png"},
        {"image_url": "input:" + 64 * "0"},
    ],
    ids=str,
)
async def test_what_cannot_be_used_is_refused_before_it_is_put(jobs, given):
    with pytest.raises(InvalidRequestError):
        await jobs.put("an otter", **given)


def test_one_key_put_by_four_processes_at_once_is_one_job(tmp_path):
    path, keys = tmp_path / "jobs.db", json.dumps(["same"] * 20 + ["other"])
    children = [
        subprocess.Popen([sys.executable, "-c", PUT, str(path), keys], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    told = [json.loads(child.communicate(timeout=60)[0]) for child in children]
    assert [child.returncode for child in children] == [0] * 4
    assert len({job for one in told for job in one}) == 2
    assert read(path, "SELECT count(*) FROM items") == [(2,)]
    assert read(path, "SELECT value FROM meta WHERE key = 'arrived'") == [("2",)]


async def test_a_queue_and_the_journal_of_a_batch_are_two_things(router, jobs, tmp_path):
    await jobs.put("an otter")
    await jobs.aclose()
    with pytest.raises(JournalError, match="queue of jobs"):
        async for _ in router.generate_many(["a fox"], journal=tmp_path / "jobs.db"):
            pass
    async for _ in router.generate_many(["a fox"], journal=tmp_path / "run.db", max_retries=0):
        pass
    with pytest.raises(JournalError, match="journal of a batch"):
        await router.jobs(tmp_path / "run.db").put("an otter")


async def test_a_queue_that_was_replaced_under_a_writer_takes_nothing(jobs, tmp_path):
    await jobs.put("an otter")
    (tmp_path / "jobs.db").rename(tmp_path / "moved.db")
    with pytest.raises(JournalError, match="moved"):
        await jobs.put("a fox")


def test_the_verbs_without_await(tmp_path):
    with VideoRouter("key", base_url="http://127.0.0.1:9", model="m") as router:
        jobs = router.jobs(tmp_path / "jobs.db")
        job = jobs.of("ann").put("an otter", key="a")
        assert jobs.put_many(["a fox"])[0].state == "not_sent"
        assert [each.prompt for each in jobs.list()] == ["a fox", "an otter"]
        assert jobs.cancel(job.id).over
        assert [event.state for event in jobs.events(job.id)] == ["not_sent", "cancelled"]
        assert jobs.stats().ended == 1
        jobs.close()


async def test_a_put_waits_for_the_disk_no_longer_than_its_patience(jobs, tmp_path, monkeypatch):
    await jobs.put("an otter")
    monkeypatch.setattr(queue, "PATIENCE", 0.2)
    foreign = sqlite3.connect(tmp_path / "jobs.db", isolation_level=None)
    foreign.execute("BEGIN IMMEDIATE")
    ended = await asyncio.gather(
        jobs.put("a fox", key="a"), jobs.put_many([{"prompt": "a bear", "key": "b"}]), return_exceptions=True
    )
    assert [type(each) for each in ended] == [JournalBusyError] * 2
    foreign.execute("ROLLBACK")
    foreign.close()
    monkeypatch.undo()
    await jobs.put("a fox", key="a")
    await jobs.put("a bear", key="b")
    assert len(await jobs.list()) == 3
