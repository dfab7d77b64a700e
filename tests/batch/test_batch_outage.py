"""While the gateway is away, accepted tasks wait for it together, and the reason is told once and soon."""

from __future__ import annotations

import asyncio
import logging
import socket

import pytest
from batching import collect, prompts, read

from videorouter import AsyncVideoRouter
from videorouter.events import GatewayUnreachable, TaskPolled
from videorouter.sandbox import Sandbox

pytestmark = pytest.mark.anyio

COUNT = 30


@pytest.fixture
def port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture
async def state(tmp_path, port):
    """What a gateway that is gone has accepted, and a journal that knows it."""
    state = tmp_path / "state"
    async with (
        Sandbox(mode="task", latency=float("inf"), state=state, port=port) as sandbox,
        AsyncVideoRouter("key", base_url=sandbox.base_url, model="m") as router,
        router.generate_many(prompts(COUNT), journal=tmp_path / "run.db"),
    ):
        while len(read(tmp_path / "run.db", "SELECT 1 FROM items WHERE state = 'accepted'")) < COUNT:
            await asyncio.sleep(0.01)
    return state


async def test_accepted_tasks_wait_together_for_a_gateway_that_is_away_and_are_collected_when_it_is_back(
    tmp_path, port, state, caplog
):
    seen = []
    url = f"http://127.0.0.1:{port}/v1"
    async with AsyncVideoRouter("key", base_url=url, model="m", on_event=seen.append) as router:
        batch = router.generate_many(prompts(COUNT), journal=tmp_path / "run.db")
        items = asyncio.ensure_future(collect(batch))
        while not batch.paused:
            await asyncio.sleep(0.01)
        assert "cannot be reached since" in batch.paused
        assert "refused" in batch.paused
        told = batch.paused
        while len([event for event in seen if isinstance(event, TaskPolled)]) < 4:
            await asyncio.sleep(0.01)
        assert batch.paused == told
        assert batch.in_flight == COUNT
        (event,) = [event for event in seen if isinstance(event, GatewayUnreachable)]
        assert event.host == "127.0.0.1"
        assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 1
        async with Sandbox(mode="task", state=state, port=port) as sandbox:
            await sandbox.release()
            assert {item.state for item in (await items).values()} == {"done"}
            assert await sandbox.charges() == dict.fromkeys(prompts(COUNT), 1)
        assert batch.paused == ""
        assert batch.summary.done == COUNT


async def test_one_time_out_is_for_all_of_them_however_few_wait_at_once(tmp_path, port, state):
    seen = []
    url = f"http://127.0.0.1:{port}/v1"
    async with AsyncVideoRouter("key", base_url=url, model="m", on_event=seen.append) as router:
        batch = router.generate_many(prompts(COUNT), journal=tmp_path / "run.db", concurrency=3, timeout=2.0)
        items = await collect(batch)
    assert {item.state for item in items.values()} == {"accepted"}
    assert all("refused" in item.failure.message for item in items.values())
    # Whoever begins when that time is over asks once, and waits no more.
    assert len({event.task_id for event in seen if isinstance(event, TaskPolled)}) < COUNT / 2
    assert len([event for event in seen if isinstance(event, GatewayUnreachable)]) == 1


async def test_another_task_asks_on_where_the_one_that_did_was_given_up(port, state):
    async with AsyncVideoRouter("key", base_url=f"http://127.0.0.1:{port}/v1", model="m") as router:
        (first, *ids) = [task for (task,) in read(state.with_name("run.db"), "SELECT task_id FROM items")]
        asking = asyncio.ensure_future(router.wait(first))
        while not router._caller.shared.outage:
            await asyncio.sleep(0.01)
        others = [asyncio.ensure_future(router.wait(task)) for task in ids]
        await asyncio.sleep(0)
        asking.cancel()
        async with Sandbox(mode="task", state=state, port=port) as sandbox:
            await sandbox.release()
            assert len(await asyncio.gather(*others)) == COUNT - 1


async def test_a_client_that_is_closed_ends_the_waiting(tmp_path, port, state):
    async with AsyncVideoRouter("key", base_url=f"http://127.0.0.1:{port}/v1", model="m") as router:
        batch = router.generate_many(prompts(COUNT), journal=tmp_path / "run.db")
        items = asyncio.ensure_future(collect(batch))
        while not batch.paused:
            await asyncio.sleep(0.01)
    assert {item.state for item in (await items).values()} == {"accepted"}
