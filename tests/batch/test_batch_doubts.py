"""What is in doubt: reported by the next run, sent again by name only, and in doubt until something was bought."""

from __future__ import annotations

import asyncio
import sqlite3

import pytest
from batching import collect, prompts, read

from videorouter import (
    APIConnectionError,
    AsyncVideoRouter,
    ContentPolicyError,
    InsufficientCreditsError,
    OutcomeUnknownError,
)
from videorouter.sandbox import Sandbox

pytestmark = pytest.mark.anyio


@pytest.fixture
async def router(sandbox):
    async with AsyncVideoRouter("key", base_url=sandbox.base_url, model="veo3-fast") as client:
        yield client


async def test_a_closed_batch_leaves_what_ran_in_doubt_and_the_next_run_reports_it(tmp_path):
    path = tmp_path / "run.db"
    async with Sandbox(latency=float("inf")) as sandbox:
        async with AsyncVideoRouter("test-key", base_url=sandbox.base_url, model="m", adaptive=False) as router:
            async with router.generate_many(prompts(6), journal=path, concurrency=4, price=0.5) as batch:
                await sandbox.wait_until(lambda running: running.held == 4)
            assert (batch.summary.in_doubt, batch.summary.cost_in_doubt) == (4, 2.0)
            again = router.generate_many(prompts(6), journal=path, price=0.5)
            held = asyncio.ensure_future(collect(again))
            await sandbox.wait_until(lambda running: running.held >= 2)
            await asyncio.sleep(0.05)
            await sandbox.release()
            items = await held
        assert sorted(item.state for item in items.values()) == ["done"] * 2 + ["in_doubt"] * 4
        assert all(isinstance(item.error, OutcomeUnknownError) for item in items.values() if not item.ok)
        assert max((await sandbox.charges()).values(), default=0) <= 1


@pytest.mark.parametrize(("policy", "charges"), [("report", 1), ("resend", 2), (lambda _: "resend", 2), (None, 1)])
async def test_what_is_in_doubt_is_sent_again_only_by_name(sandbox, router, tmp_path, policy, charges):
    async def ask(item):
        assert item.state == "in_doubt"
        return "report"

    sandbox.faults.add("status=500", times=1, charged=True)
    path = tmp_path / "run.db"
    batch = router.generate_many(["otter"], journal=path, on_outcome_unknown=policy or ask, price=0.4)
    item = (await collect(batch))[0]
    assert item.state == ("done" if charges == 2 else "in_doubt")
    assert await sandbox.charges() == {"otter": charges}
    assert batch.summary.cost_in_doubt == 0.4
    assert read(path, "SELECT state, unknown, sends FROM items") == [(item.state, 0.4, charges)]


@pytest.mark.parametrize("why", ["no money", "no gateway", "no price", "stopped"])
@pytest.mark.parametrize("journalled", [True, False], ids=["journal", "no journal"])
async def test_what_is_in_doubt_stays_so_when_it_cannot_be_sent_again(tmp_path, why, journalled):
    path = tmp_path / "run.db"
    prices = iter([0.4] if why == "no price" else [0.4, 0.4])
    async with Sandbox() as sandbox, AsyncVideoRouter("test-key", base_url=sandbox.base_url, model="m") as router:
        sandbox.faults.add("reset; at=body", times=1, charged=True)

        async def send_again(_):
            if why == "no gateway":
                await sandbox.stop()
            elif why == "stopped":
                batch.stop()
            return "resend"

        batch = router.generate_many(
            ["otter"],
            journal=path if journalled else None,
            price=lambda _: next(prices),
            max_cost=0.5 if why == "no money" else 5.0,
            max_retries=0,
            on_outcome_unknown=send_again,
        )
        item = (await collect(batch))[0]
        assert (item.state, type(item.error)) == ("in_doubt", OutcomeUnknownError)
        assert (batch.summary.in_doubt, batch.summary.total, batch.summary.cost_in_doubt) == (1, 1, 0.4)
        if journalled:
            row = read(path, "SELECT state, reserved, unknown, json_extract(failure, '$.type') FROM items")
            assert row == [("in_doubt", 0.0, 0.4, "OutcomeUnknownError")]


@pytest.mark.parametrize("price", [None, 0.4])
@pytest.mark.parametrize("kept", ["no journal", "one run", "a later run"])
async def test_what_is_in_doubt_stays_so_when_its_second_sending_is_refused(sandbox, router, tmp_path, kept, price):
    path = tmp_path / "run.db"
    journal = None if kept == "no journal" else path
    sandbox.faults.add("status=500", times=1, charged=True)
    sandbox.faults.add("moderation", times=1)
    first = ()
    if kept == "a later run":
        await collect(router.generate_many(["otter"], journal=journal, price=price))
        first = read(path, "SELECT idempotency_key, sent, request_id FROM items")
    batch = router.generate_many(["otter"], journal=journal, price=price, on_outcome_unknown="resend")
    item = (await collect(batch))[0]
    assert (item.state, type(item.error), item.error.status, item.resumed) == (
        "in_doubt",
        OutcomeUnknownError,
        500,
        False,
    )
    assert isinstance(item.error.__cause__, ContentPolicyError)
    assert str(item.error.__cause__) in item.failure.message
    summary = batch.summary
    assert (summary.in_doubt, summary.total, summary.cost_in_doubt) == (1, 1, price)
    assert await sandbox.charges() == {"otter": 1}
    if journal is not None:
        rows = read(path, "SELECT state, reserved, unknown, sends, json_extract(failure, '$.in_doubt') FROM items")
        assert rows == [("in_doubt", 0.0, price or 0.0, 2, 1)]
        assert read(path, "SELECT request_id FROM items") == [(item.error.request_id,)]
    if first:
        assert read(path, "SELECT idempotency_key, sent, request_id FROM items") == first


async def test_each_refusal_of_what_is_in_doubt_replaces_the_one_before(sandbox, router, tmp_path):
    sandbox.faults.add("status=500", times=1, charged=True)
    sandbox.faults.add("moderation")
    lengths = []
    for _ in range(3):
        batch = router.generate_many(["otter"], journal=tmp_path / "run.db", on_outcome_unknown="resend")
        lengths.append(len((await collect(batch))[0].failure.message))
    assert max(lengths) - min(lengths) < 10
    sandbox.faults.clear()
    assert (await collect(router.generate_many(["otter"], journal=tmp_path / "run.db", on_outcome_unknown="resend")))[
        0
    ].ok


async def test_a_wall_that_a_second_sending_meets_stops_the_batch(sandbox, router, tmp_path):
    sandbox.faults.add("status=500", times=1, charged=True)
    sandbox.faults.add("status=402")
    batch = router.generate_many(
        prompts(5), journal=tmp_path / "run.db", on_outcome_unknown="resend", concurrency=1, ordered=True
    )
    items = [item async for item in batch]
    assert [item.state for item in items] == ["in_doubt"]
    assert isinstance(batch.cause, InsufficientCreditsError)


def send_again(path):
    """As `batch settle --send-again` does."""
    database = sqlite3.connect(path)
    database.execute("UPDATE items SET state = 'not_sent' WHERE state = 'in_doubt'")
    database.commit()
    database.close()


@pytest.mark.parametrize("price", [None, 0.4])
async def test_what_somebody_has_said_to_send_again_is_in_doubt_once_that_is_refused(sandbox, router, tmp_path, price):
    path = tmp_path / "run.db"
    sandbox.faults.add("status=500", times=1, charged=True)
    sandbox.faults.add("moderation", times=1)
    await collect(router.generate_many(["otter"], journal=path, price=price))
    send_again(path)
    batch = router.generate_many(["otter"], journal=path, price=price)
    assert (await collect(batch))[0].state == "in_doubt"
    assert batch.summary.cost_in_doubt == (price)
    assert read(path, "SELECT state, unknown, sends FROM items") == [("in_doubt", price or 0.0, 2)]


async def test_what_somebody_has_said_to_send_again_is_sent_again_also_after_a_lost_connection(tmp_path):
    path = tmp_path / "run.db"
    async with Sandbox() as sandbox, AsyncVideoRouter("key", base_url=sandbox.base_url, model="m") as router:
        sandbox.faults.add("status=500", times=1, charged=True)
        await collect(router.generate_many(["otter"], journal=path))
        gone = sandbox.base_url
    send_again(path)
    async with AsyncVideoRouter("key", base_url=gone, model="m", max_retries=0) as router:
        item = (await collect(router.generate_many(["otter"], journal=path)))[0]
    assert (item.state, type(item.error)) == ("not_sent", APIConnectionError)
    assert read(path, "SELECT state, sends, json_extract(failure, '$.in_doubt') FROM items") == [("not_sent", 2, 1)]
    async with Sandbox() as sandbox, AsyncVideoRouter("key", base_url=sandbox.base_url, model="m") as router:
        sandbox.faults.add("moderation", times=1)
        assert (await collect(router.generate_many(["otter"], journal=path)))[0].state == "in_doubt"


async def test_a_later_run_may_decide_to_send_again(sandbox, router, tmp_path):
    path = tmp_path / "run.db"
    sandbox.faults.add("reset; at=body", times=1, charged=True)
    assert (await collect(router.generate_many(["otter"], journal=path)))[0].state == "in_doubt"
    assert (await collect(router.generate_many(["otter"], journal=path)))[0].state == "in_doubt"
    assert (await collect(router.generate_many(["otter"], journal=path, on_outcome_unknown="resend")))[0].ok
    assert await sandbox.charges() == {"otter": 2}


async def test_a_replay_on_a_gateway_that_honours_keys_pays_once(tmp_path):
    path = tmp_path / "run.db"
    async with Sandbox(honour_idempotency=True, latency=float("inf")) as sandbox:
        async with (
            AsyncVideoRouter("test-key", base_url=sandbox.base_url, model="m") as router,
            router.generate_many(["otter"], journal=path, price=0.4),
        ):
            await sandbox.wait_until(lambda running: running.held == 1)
        assert read(path, "SELECT state, unknown FROM items") == [("in_doubt", 0.4)]
        await sandbox.release()
        async with AsyncVideoRouter("test-key", base_url=sandbox.base_url, model="m", idempotency="honoured") as router:
            batch = router.generate_many(["otter"], journal=path, price=0.4, on_outcome_unknown="replay")
            assert (await collect(batch))[0].ok
        assert batch.summary.cost_in_doubt == 0.0
        assert await sandbox.charges() == {"otter": 1}
