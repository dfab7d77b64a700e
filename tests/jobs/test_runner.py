"""The one process that pays: what it sends, in which order, and what another finds when it is gone."""

from __future__ import annotations

import asyncio
import json
import math
import signal
import sqlite3
import subprocess
import sys

import pytest

from videorouter import AsyncVideoRouter, ConfigurationError, JournalError, OutcomeUnknownError, VideoRouter
from videorouter.jobs import runner
from videorouter.journal.queue_running import RunnerJournal
from videorouter.sandbox import Sandbox

pytestmark = pytest.mark.anyio

RUN = """
import asyncio, json, sys
from videorouter import AsyncVideoRouter
path, base, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
async def main():
    async with AsyncVideoRouter("key", base_url=base, model="m", adaptive=False) as router:
        async with router.jobs(path, **options) as jobs:
            print("ready", flush=True)
            await asyncio.sleep(100)
asyncio.run(main())
"""


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    monkeypatch.setattr(runner, "PATIENCE", 0.05)


def client(sandbox, **options):
    return AsyncVideoRouter("key", base_url=sandbox.base_url, model="m", adaptive=False, **options)


def read(path, query):
    database = sqlite3.connect(path)
    try:
        return database.execute(query).fetchall()
    finally:
        database.close()


async def until(condition):
    async with asyncio.timeout(30):
        while not await condition():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("mode", ["held", "task"])
async def test_every_job_is_bought_once_and_its_file_saved(tmp_path, mode):
    async with Sandbox(mode=mode) as sandbox, client(sandbox) as router:
        async with router.jobs(tmp_path / "jobs.db", save_to=tmp_path / "clips", concurrency=8) as jobs:
            made = await jobs.put_many([{"prompt": "an otter", "key": str(n)} for n in range(20)])
            results = await asyncio.gather(*(jobs.result(job.id, timeout=60) for job in made))
            assert len({result.videos[0].video_id for result in results}) == 20
            shown = await jobs.get(made[0].id)
            assert shown.files == (str(tmp_path / "clips" / f"{made[0].id}.mp4"),)
            assert (await jobs.stats()).done == 20
        charges = await sandbox.charge_list()
        keys = {row[0] for row in read(tmp_path / "jobs.db", "SELECT idempotency_key FROM items")}
        assert len(charges) == 20
        assert {charge.idempotency_key for charge in charges} == keys
        assert len(list((tmp_path / "clips").iterdir())) == 20


async def test_a_queue_that_is_not_entered_buys_nothing(tmp_path):
    async with Sandbox() as sandbox, client(sandbox) as router:
        jobs = router.jobs(tmp_path / "jobs.db")
        await jobs.put("an otter")
        await asyncio.sleep(0.3)
        assert await sandbox.charges() == {}
        await jobs.aclose()


async def test_a_start_that_fails_buys_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "PATIENCE", 0.5)
    async with Sandbox() as sandbox, client(sandbox) as router:
        await router.jobs(tmp_path / "jobs.db").put_many(["an otter"] * 50)
        for _ in range(5):
            with pytest.raises(RuntimeError):
                async with router.jobs(tmp_path / "jobs.db"):
                    raise RuntimeError("the database of the app is down")
        assert await sandbox.charges() == {}


async def fail_inside(jobs, sandbox):
    async with jobs:
        await jobs.put("an otter")
        await sandbox.wait_until(lambda running: running.held == 1)
        raise RuntimeError("mine")


async def test_a_failed_block_comes_out_as_it_was_and_what_is_held_comes_to_its_end(tmp_path):
    async with Sandbox(latency=0.5) as sandbox, client(sandbox) as router:
        jobs = router.jobs(tmp_path / "jobs.db")
        async with client(sandbox) as other:
            with pytest.raises(RuntimeError, match="mine"):
                await fail_inside(jobs, sandbox)
            job = (await other.jobs(tmp_path / "jobs.db").list())[0]
        assert (await jobs.get(job.id)).state == "done"
        await jobs.aclose()


async def test_closing_the_client_first_drains_its_queues(tmp_path):
    async with Sandbox(latency=0.5) as sandbox:
        router = client(sandbox)
        jobs = router.jobs(tmp_path / "jobs.db")
        await jobs.__aenter__()
        job = await jobs.put("an otter")
        await sandbox.wait_until(lambda running: running.held == 1)
        await router.aclose()
        await jobs.aclose()
        assert (await jobs.get(job.id)).state == "done"
        await jobs.aclose()


async def test_a_close_that_is_cancelled_again_and_again_drains_all_the_same(tmp_path):
    async with Sandbox(latency=0.5) as sandbox, client(sandbox) as router:
        jobs = router.jobs(tmp_path / "jobs.db")
        await jobs.__aenter__()
        job = await jobs.put("an otter")
        await sandbox.wait_until(lambda running: running.held == 1)
        closing = asyncio.ensure_future(jobs.aclose())
        for _ in range(3):
            await asyncio.sleep(0.02)
            closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert (await jobs.get(job.id)).state == "done"
        await jobs.aclose()


async def test_what_outlives_the_drain_is_in_doubt_and_settled_by_name(tmp_path):
    async with Sandbox(latency=math.inf) as sandbox, client(sandbox) as router:
        async with router.jobs(tmp_path / "jobs.db", drain=0.1) as jobs:
            job = await jobs.put("an otter")
            await sandbox.wait_until(lambda running: running.held == 1)
        with pytest.raises(OutcomeUnknownError):
            await jobs.result(job.id)
        await sandbox.release()
        assert (await jobs.settle(job.id, "not_bought")).state == "not_sent"
        await jobs.aclose()


async def test_the_next_runner_sends_while_the_old_one_drains(tmp_path):
    async with Sandbox(mode="mixed", latency=math.inf) as sandbox, client(sandbox) as router, client(sandbox) as other:
        old, new = router.jobs(tmp_path / "jobs.db"), other.jobs(tmp_path / "jobs.db")
        await old.__aenter__()
        held, task = await old.put_many([{"prompt": "an otter", "model": "m"}, {"prompt": "a fox", "model": "a/task"}])
        await sandbox.wait_until(lambda running: running.held == 1)

        async def accepted():
            return (await new.get(task.id)).state == "accepted"

        await until(accepted)
        await new.__aenter__()
        old.stop()
        later = await new.put("a bear")
        await sandbox.wait_until(lambda running: running.held == 2)
        assert (await new.get(held.id)).state == "sending"
        await sandbox.release()
        for job in (held, task, later):
            await new.result(job.id, timeout=30)
        await old.aclose()
        await new.aclose()
        assert len(await sandbox.charge_list()) == 3
        assert list(tmp_path.glob("*.run*")) == []


async def test_a_killed_runner_is_followed_and_nothing_is_bought_twice(tmp_path):
    path = tmp_path / "jobs.db"
    async with Sandbox(mode="mixed", latency=math.inf) as sandbox, client(sandbox) as router:
        jobs = router.jobs(path)
        entries = [{"prompt": f"otter {n}", "model": ("m", "a/task")[n % 2], "key": str(n)} for n in range(20)]
        await jobs.put_many(entries)
        child = subprocess.Popen(  # noqa: ASYNC220  it is killed, not waited for
            [sys.executable, "-c", RUN, str(path), sandbox.base_url, json.dumps({"concurrency": 8})],
            stdout=subprocess.PIPE,
        )
        try:
            await sandbox.wait_until(lambda running: running.held == 4)

            async def accepted():
                return len(await jobs.list(state="accepted")) == 4

            await until(accepted)
        finally:
            child.send_signal(signal.SIGKILL)
            child.communicate()
        assert len(await jobs.list(state="sending")) == 4
        async with router.jobs(path, concurrency=8):
            await sandbox.release()

            async def over():
                await sandbox.release()
                return all(job.over for job in await jobs.list())

            await until(over)
        assert len(await jobs.list(state="in_doubt")) == 4
        assert len(await jobs.list(state="done")) == 16
        charges = await sandbox.charge_list()
        assert len(charges) == len({charge.idempotency_key for charge in charges}) == 20
        await jobs.aclose()


async def test_a_job_can_be_cancelled_until_it_has_a_slot(tmp_path):
    async with Sandbox(latency=math.inf) as sandbox, client(sandbox) as router:
        async with router.jobs(tmp_path / "jobs.db", concurrency=1, drain=0) as jobs:
            sent, waiting = await jobs.put_many(["an otter", "a fox"])
            await sandbox.wait_until(lambda running: running.held == 1)
            assert (await jobs.cancel(waiting.id)).state == "cancelled"
            assert (await jobs.cancel(sent.id)).state == "sending"


async def order(sandbox, path, entries, **options):
    """The prompts in the order in which one job after the other is sent."""
    async with client(sandbox) as router:
        queue = router.jobs(path)
        await queue.put_many(entries)
        async with router.jobs(path, concurrency=1, **options) as jobs:
            for job in await queue.list():
                await jobs.result(job.id, timeout=30)
    rows = read(path, "SELECT json_extract(request, '$.prompt') FROM items ORDER BY sent")
    return [row[0] for row in rows]


async def test_priority_first_then_owners_in_turn_then_arrival(tmp_path):
    async with Sandbox() as sandbox:
        entries = [{"prompt": f"ann {n}", "owner": "ann"} for n in range(3)]
        entries += [{"prompt": f"bob {n}", "owner": "bob"} for n in range(2)]
        entries += [{"prompt": "urgent", "owner": "bob", "priority": 5}, {"prompt": "nobody"}]
        sent = await order(sandbox, tmp_path / "jobs.db", entries)
    assert sent[0] == "urgent"
    for name in ("ann", "bob"):
        own = [prompt for prompt in sent if prompt.startswith(name)]
        assert own == sorted(own)
    assert sent.index("nobody") <= 3
    assert sent.index("bob 1") < sent.index("ann 2")


async def test_one_owners_many_jobs_delay_anothers_first_by_no_more_than_one_slot(tmp_path):
    async with Sandbox() as sandbox:
        entries = [{"prompt": f"bulk {n}", "owner": "ann"} for n in range(100)] + [{"prompt": "mine", "owner": "bob"}]
        sent = await order(sandbox, tmp_path / "jobs.db", entries)
    assert sent.index("mine") <= 1


async def test_an_owner_has_no_more_jobs_at_once_than_may_be(tmp_path):
    async with Sandbox(latency=math.inf) as sandbox, client(sandbox) as router:
        async with router.jobs(tmp_path / "jobs.db", per_owner=2, drain=0) as jobs:
            await jobs.put_many([{"prompt": "an otter", "owner": name} for name in ("ann", "bob") for _ in range(5)])
            await sandbox.wait_until(lambda running: running.held == 4)
            await asyncio.sleep(0.1)
            assert sandbox.held == 4
            assert {name: one.running for name, one in (await jobs.stats()).owners.items()} == {"ann": 2, "bob": 2}


async def test_a_refused_account_pauses_all_and_refuses_no_job(tmp_path):
    async with Sandbox() as sandbox, client(sandbox) as router:
        wall = sandbox.faults.add("status=401", path="*/generations")
        async with router.jobs(tmp_path / "jobs.db", concurrency=4) as jobs:
            made = await jobs.put_many([f"otter {n}" for n in range(20)])

            async def told():
                return "" in (await jobs.stats()).paused

            await until(told)
            assert len(await sandbox.charge_list()) == 0
            sandbox.faults.remove(wall)
            for job in made:
                await jobs.result(job.id, timeout=30)
        assert len(await sandbox.charge_list()) == 20
        assert await jobs.list(state="refused") == []
        await jobs.aclose()


async def test_equal_refusals_pause_their_owner_and_model_alone(tmp_path):
    async with Sandbox() as sandbox, client(sandbox) as router:
        sandbox.faults.add("status=422", prompt="wrong")
        async with router.jobs(tmp_path / "jobs.db", concurrency=2, stop_after=5) as jobs:
            await jobs.put_many([{"prompt": "wrong", "owner": "ann"} for _ in range(50)])
            fine = await jobs.put_many([{"prompt": "right", "owner": "bob"} for _ in range(20)])
            for job in fine:
                await jobs.result(job.id, timeout=30)
            paused = (await jobs.of("ann").stats()).owners["ann"]
            assert paused.ended < 20
            assert paused.queued > 30
        await jobs.aclose()


async def test_a_model_that_has_nothing_to_do_costs_nothing_and_is_served_again(tmp_path):
    async with Sandbox() as sandbox, client(sandbox) as router:
        async with router.jobs(tmp_path / "jobs.db") as jobs:
            for turn in range(3):
                made = await jobs.put_many([{"prompt": f"otter {turn}", "model": f"model {n}"} for n in range(20)])
                for job in made:
                    await jobs.result(job.id, timeout=30)
            reign = jobs._runner.reign

            async def idle():
                return not reign._dispatcher._models

            await until(idle)
        assert len(await sandbox.charge_list()) == 60


async def test_a_throttled_job_waits_as_not_sent(tmp_path):
    async with Sandbox() as sandbox, client(sandbox) as router:
        sandbox.faults.add("rate_limit", retry_after=1, times=3)
        async with router.jobs(tmp_path / "jobs.db") as jobs:
            job = await jobs.put("an otter")
            await sandbox.wait_until(lambda running: len(running.requests) >= 1)

            async def resting():
                return (await jobs.get(job.id)).state == "not_sent"

            await until(resting)
            assert (await jobs.cancel(job.id)).state == "cancelled"
            await asyncio.sleep(1.5)
        assert await sandbox.charge_list() == []
        assert [event.state async for event in jobs.events(job.id)] == ["not_sent", "sending", "cancelled"]
        await jobs.aclose()


async def test_a_throttled_job_is_sent_again_and_is_one_sending(tmp_path):
    async with Sandbox() as sandbox, client(sandbox) as router:
        sandbox.faults.add("rate_limit", retry_after=0.1, times=2)
        async with router.jobs(tmp_path / "jobs.db") as jobs:
            job = await jobs.put("an otter")
            await jobs.result(job.id, timeout=30)
        assert read(tmp_path / "jobs.db", "SELECT state, sends, number FROM items") == [("done", 1, 1)]
        await jobs.aclose()


async def test_a_cap_is_kept_and_the_rest_waits(tmp_path):
    async with Sandbox(mode="held") as sandbox, client(sandbox) as router:
        options = {"max_cost": 2.0, "price": 0.5, "concurrency": 3}
        async with router.jobs(tmp_path / "jobs.db", **options) as jobs:
            await jobs.put_many(["an otter"] * 10)

            async def paused():
                return "max_cost" in (await jobs.stats()).paused.get("", "")

            await until(paused)
            await asyncio.sleep(0.2)
            assert len(await sandbox.charge_list()) <= 4
            stats = await jobs.stats()
            assert stats.spent + stats.reserved <= 2.0
            assert stats.queued >= 6
        await jobs.aclose()


async def test_a_retried_job_is_bought_anew_under_another_key(tmp_path):
    async with Sandbox() as sandbox, client(sandbox) as router:
        sandbox.faults.add("status=422", prompt="otter", times=1)
        async with router.jobs(tmp_path / "jobs.db") as jobs:
            job = await jobs.put("an otter", key="a")

            async def refused():
                return (await jobs.get(job.id)).state == "refused"

            await until(refused)
            assert (await jobs.put("an otter", key="a")).state == "refused"
            await jobs.retry(job.id)
            await jobs.result(job.id, timeout=30)
        rows = read(tmp_path / "jobs.db", "SELECT sends FROM items")
        assert rows == [(2,)]
        assert read(tmp_path / "jobs.db", "SELECT state FROM sendings") == [("refused",)]
        await jobs.aclose()


def test_a_queue_runs_without_await(tmp_path):
    with (
        Sandbox().in_thread() as sandbox,
        VideoRouter("key", base_url=sandbox.base_url, model="m") as router,
        router.jobs(tmp_path / "jobs.db") as jobs,
    ):
        job = jobs.put("an otter")
        assert jobs.result(job.id, timeout=30).videos[0].url
        assert [event.state for event in jobs.events(job.id)] == ["not_sent", "sending", "done"]


def test_closing_the_client_without_await_drains_its_queues(tmp_path):
    with Sandbox(latency=3.0).in_thread() as sandbox:
        router = VideoRouter("key", base_url=sandbox.base_url, model="m")
        jobs = router.jobs(tmp_path / "jobs.db")
        jobs.__enter__()
        jobs.put("an otter")
        sandbox.wait_until(lambda running: running.held == 1)
        router.close()
        assert read(tmp_path / "jobs.db", "SELECT state FROM items") == [("done",)]


async def test_a_queue_of_another_gateway_is_not_run(tmp_path):
    async with Sandbox() as sandbox, client(sandbox) as router:
        async with router.jobs(tmp_path / "jobs.db") as jobs:
            await jobs.result((await jobs.put("an otter")).id, timeout=30)
        async with Sandbox() as elsewhere, client(elsewhere) as other:
            with pytest.raises(ConfigurationError, match="sent to"):
                await other.jobs(tmp_path / "jobs.db").__aenter__()
            assert (await other.jobs(tmp_path / "jobs.db").put("a fox")).state == "not_sent"  # asking is free


async def test_a_runner_whose_lock_was_deleted_stands_again(tmp_path):
    async with Sandbox() as sandbox, client(sandbox) as router:
        async with router.jobs(tmp_path / "jobs.db") as jobs:
            await jobs.result((await jobs.put("an otter")).id, timeout=30)
            (tmp_path / "jobs.db.lock").unlink()
            await jobs.result((await jobs.put("a fox")).id, timeout=30)
        assert len(await sandbox.charge_list()) == 2


async def test_a_signal_stops_what_is_sent_and_ends_streams_before_the_block_ends(tmp_path):
    heard = []
    before = signal.signal(signal.SIGTERM, lambda *_: heard.append("the server's own"))
    try:
        async with Sandbox(latency=math.inf) as sandbox, client(sandbox) as router:
            async with router.jobs(tmp_path / "jobs.db") as jobs:
                held = await jobs.put("an otter")
                stream = asyncio.ensure_future(read_all(jobs.events()))
                await sandbox.wait_until(lambda running: running.held == 1)
                signal.raise_signal(signal.SIGTERM)
                await stream  # a server waits for its streams before it ends its lifespan
                later = await jobs.put("a fox")
                await asyncio.sleep(0.2)
                assert sandbox.held == 1
                await sandbox.release()
            assert heard == ["the server's own"]
            states = [(await jobs.get(job.id)).state for job in (held, later)]
            assert states == ["done", "not_sent"]
            assert len(await sandbox.charge_list()) == 1
            await jobs.aclose()
    finally:
        signal.signal(signal.SIGTERM, before)


async def read_all(stream):
    return [event async for event in stream]


async def test_a_job_that_two_runners_could_claim_is_claimed_once(tmp_path):
    async with Sandbox(latency=math.inf) as sandbox, client(sandbox) as router, client(sandbox) as other:
        first, second = router.jobs(tmp_path / "jobs.db", drain=0), other.jobs(tmp_path / "jobs.db", drain=0)
        async with first:
            await first.put_many(["an otter"] * 5)
            await sandbox.wait_until(lambda running: running.held == 5)
            for path in tmp_path.glob("jobs.db.*lock"):
                path.unlink()
            async with second:
                await second.put_many(["a fox"] * 5)
                await sandbox.wait_until(lambda running: running.held == 10)
                await asyncio.sleep(0.3)
                assert sandbox.held == 10
                await sandbox.release()
                for job in await second.list():
                    await second.result(job.id, timeout=30)
        charges = await sandbox.charge_list()
        assert len(charges) == len({charge.idempotency_key for charge in charges}) == 10
        await first.aclose()
        await second.aclose()


async def test_a_task_that_outlives_its_time_is_followed_on(tmp_path):
    async with Sandbox(mode="task", latency=math.inf) as sandbox, client(sandbox) as router:
        async with router.jobs(tmp_path / "jobs.db") as jobs:
            job = await jobs.put("an otter", timeout=0.5)
            async with asyncio.timeout(30):
                while (await jobs.get(job.id)).failure is None:
                    await asyncio.sleep(0.05)
            await sandbox.release()
            await jobs.result(job.id, timeout=30)
        assert len(await sandbox.charge_list()) == 1


async def test_what_a_full_disk_does_not_take_is_written_when_there_is_room(tmp_path, monkeypatch):
    real, full = RunnerJournal.record_ending, True

    async def record(self, ending):
        if full:
            raise JournalError("Could not write: database or disk is full.")
        await real(self, ending)

    monkeypatch.setattr(RunnerJournal, "record_ending", record)
    async with Sandbox() as sandbox, client(sandbox) as router:
        async with router.jobs(tmp_path / "jobs.db", concurrency=2) as jobs:
            await jobs.put_many(["an otter"] * 10)

            async def paused():
                return "full" in (await jobs.stats()).paused.get("", "")

            await until(paused)
            assert len(await sandbox.charge_list()) <= 3
            full = False
            for job in await jobs.list():
                await jobs.result(job.id, timeout=60)
        assert len(await sandbox.charge_list()) == 10
