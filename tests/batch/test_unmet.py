"""What the journal holds and a later input does not have comes to its end all the same, and nothing is sent for it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from batching import collect, prompts, read

from videorouter import AsyncVideoRouter
from videorouter.sandbox import Sandbox

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio


@pytest.fixture
def journal(tmp_path) -> Path:
    return tmp_path / "run.db"


@pytest.fixture
async def sandbox():
    """Tasks run until they are released; from then on all are."""
    async with Sandbox(mode="task", latency=float("inf")) as running:
        yield running


@pytest.fixture
async def router(sandbox):
    async with AsyncVideoRouter("key", base_url=sandbox.base_url, model="m") as client:
        yield client


async def leave_accepted(router, journal, count, **options):
    """Close a batch once all of its tasks are accepted."""
    async with router.generate_many(prompts(count), journal=journal, price=0.5, **options):
        while len(read(journal, "SELECT 1 FROM items WHERE state = 'accepted'")) < count:
            await asyncio.sleep(0.01)


async def finish(sandbox, batch):
    """Take all items of a batch whose tasks come to their end."""
    running = asyncio.ensure_future(collect(batch))
    while not running.done():
        await sandbox.release()
        await asyncio.wait([running], timeout=0.02)
    return running.result()


def shape(source, kind):
    """An input that can be read twice, once, or only by waiting."""

    async def stream():
        for entry in source:
            yield entry

    return {"list": lambda: source, "iterator": lambda: iter(source), "stream": stream}[kind]()


@pytest.mark.parametrize(("kind", "ordered"), [("list", True), ("list", False), ("iterator", False), ("stream", True)])
async def test_accepted_tasks_that_the_input_does_not_have_are_collected(
    sandbox, router, journal, tmp_path, kind, ordered
):
    await leave_accepted(router, journal, 6)
    batch = router.generate_many(
        shape(["heron", *prompts(2)], kind), journal=journal, price=0.5, ordered=ordered, save_to=tmp_path / "clips"
    )
    items = await finish(sandbox, batch)
    assert sorted(items) == list(range(7))
    assert [items[n].in_input for n in range(7)] == [True] * 3 + [False] * 4
    assert {items[n].prompt for n in range(3, 7)} == set(prompts(6)[2:])
    assert {item.state for item in items.values()} == {"done"}
    assert all(item.path.is_file() for item in items.values())
    assert (batch.summary.not_in_input, batch.summary.done, batch.summary.total) == (4, 3, 3)
    assert batch.summary.cost == pytest.approx(3 * 0.8)
    assert read(journal, "SELECT state, count(*), round(total(cost), 6) FROM items GROUP BY state") == [
        ("done", 7, 5.6)
    ]
    assert read(journal, "SELECT value FROM meta WHERE key = 'not_in_input'") == [("4",)]
    assert await sandbox.charges() == {**dict.fromkeys(prompts(6), 1), "heron": 1}


async def test_a_batch_that_was_stopped_leaves_them_to_the_next(sandbox, router, journal):
    await leave_accepted(router, journal, 3)
    batch = router.generate_many(["heron", "kite"], journal=journal, concurrency=1)
    async with batch:
        batch.stop()
        assert {item.state for item in (await collect(batch)).values()} <= {"not_sent"}
    assert batch.summary.not_in_input == 3
    assert read(journal, "SELECT DISTINCT state FROM items") == [("accepted",)]
    items = await finish(sandbox, router.generate_many([], journal=journal))
    assert [item.state for item in items.values()] == ["done"] * 3


async def test_a_batch_that_is_closed_while_it_collects_them_leaves_them_accepted(router, journal):
    await leave_accepted(router, journal, 3)
    async with router.generate_many([], journal=journal) as batch:
        waiting = asyncio.ensure_future(anext(aiter(batch)))
        while batch.in_flight < 3:
            await asyncio.sleep(0.01)
    with pytest.raises(StopAsyncIteration):
        await waiting
    assert (batch.summary.accepted, batch.summary.not_in_input) == (0, 3)
    assert read(journal, "SELECT DISTINCT state FROM items") == [("accepted",)]


async def test_a_step_of_a_chain_that_the_input_has_is_met_and_polled_once(sandbox, router, journal):
    entries = [{"prompt": "otter", "then": ["snow"]}]
    async with router.generate_many(entries, journal=journal) as batch:
        running = asyncio.ensure_future(collect(batch))
        while read(journal, "SELECT count(*) FROM items WHERE state = 'accepted' AND verb = 'edit'") != [(1,)]:
            await sandbox.release()
            await asyncio.sleep(0.01)
    await running
    batch = router.generate_many(entries, journal=journal)
    await finish(sandbox, batch)
    assert (batch.summary.done, batch.summary.not_in_input) == (2, 0)


async def test_files_that_were_never_saved_are_fetched_and_others_are_left_alone(tmp_path):
    journal, clips = tmp_path / "run.db", tmp_path / "clips"
    async with Sandbox() as sandbox, AsyncVideoRouter("key", base_url=sandbox.base_url, model="m") as router:
        (gone,) = (await collect(router.generate_many(["otter"], journal=journal, save_to=clips))).values()
        gone.path.unlink()
        await collect(router.generate_many(["otter", "heron"], journal=journal))
        assert len(await collect(router.generate_many(["kite"], journal=journal))) == 1
        items = await collect(router.generate_many(["kite"], journal=journal, save_to=clips))
        assert {item.prompt: (item.in_input, item.index, item.path.is_file()) for item in items.values()} == {
            "kite": (True, 0, True),
            "heron": (False, 1, True),
        }
        assert items[1].fetched
        assert len(await collect(router.generate_many(["kite"], journal=journal, save_to=clips))) == 1
        assert await sandbox.charges() == {"otter": 1, "heron": 1, "kite": 1}


async def test_what_is_in_doubt_is_told_and_not_sent_again_whatever_the_policy(tmp_path):
    journal = tmp_path / "run.db"
    async with Sandbox() as sandbox, AsyncVideoRouter("key", base_url=sandbox.base_url, model="m") as router:
        sandbox.faults.add("status=500", times=1)
        assert (await collect(router.generate_many(["otter"], journal=journal, price=0.5)))[0].state == "in_doubt"
        batch = router.generate_many(["heron"], journal=journal, price=0.5, on_outcome_unknown="resend")
        items = await collect(batch)
        assert [(item.state, item.in_input) for item in items.values()] == [("done", True), ("in_doubt", False)]
        assert (batch.summary.in_doubt, batch.summary.not_in_input, batch.summary.cost_in_doubt) == (0, 1, 0.0)
        assert "otter" not in await sandbox.charges()
