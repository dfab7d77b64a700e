"""Money lives in the journal: a later run keeps its cap by what earlier ones have learned, spent and left without a price."""

from __future__ import annotations

import sqlite3

import pytest
from batching import collect, prompts, read

from videorouter import AsyncVideoRouter, ConfigurationError
from videorouter.journal.journal import Journal
from videorouter.journal.status import read_status
from videorouter.sandbox import Sandbox

pytestmark = pytest.mark.anyio

SPELLINGS = pytest.mark.parametrize(
    "spell",
    [lambda usd: usd, lambda usd: {"m": usd}, lambda usd: lambda request: usd if request["prompt"] else None],
    ids=["number", "table", "function"],
)


@pytest.fixture
async def router(sandbox):
    async with AsyncVideoRouter("key", base_url=sandbox.base_url, model="m") as client:
        yield client


@pytest.fixture
async def dear():
    """A gateway that says what a call has cost, a client of it, and that cost."""
    async with Sandbox(mode="task") as sandbox, AsyncVideoRouter("key", base_url=sandbox.base_url, model="m") as router:
        yield sandbox, router, (await router.generate("the first")).cost


@SPELLINGS
async def test_what_was_learned_of_a_price_is_known_to_the_next_run(dear, tmp_path, spell):
    sandbox, router, one = dear
    options = {"journal": tmp_path / "run.db", "price": spell(one / 4)}
    await collect(router.generate_many(prompts(1), **options))
    batch = router.generate_many(prompts(9), max_cost=4.5 * one, concurrency=9, **options)
    states = [item.state for item in (await collect(batch)).values()]
    assert states.count("done") == 4
    assert len(await sandbox.charge_list()) == 1 + 4


@SPELLINGS
async def test_a_price_that_was_put_right_is_not_raised_once_more(dear, tmp_path, spell):
    _, router, one = dear
    await collect(router.generate_many(prompts(1), journal=tmp_path / "run.db", price=one / 4))
    batch = router.generate_many(prompts(9), journal=tmp_path / "run.db", price=spell(one), max_cost=4 * one)
    assert [item.state for item in (await collect(batch)).values()].count("done") == 4


async def test_what_a_forgotten_request_has_cost_is_the_least_that_is_held_for_its_model(dear, tmp_path):
    _, router, one = dear
    options = {"journal": tmp_path / "run.db", "price": lambda _: one / 4}
    await collect(router.generate_many(prompts(1), **options))
    journal = await Journal.open(tmp_path / "run.db")
    await journal.erase_prompts()
    await journal.aclose()
    batch = router.generate_many(prompts(9), max_cost=4.5 * one, concurrency=9, **options)
    assert [item.state for item in (await collect(batch)).values()].count("done") == 4


async def test_a_model_that_was_said_to_be_free_and_costs_does_not_lead_beyond_the_cap(dear):
    _, router, one = dear
    batch = router.generate_many(prompts(9), price={"m": 0}, max_cost=2.5 * one, concurrency=1)
    assert [item.state for item in (await collect(batch)).values()].count("done") == 2
    assert batch.summary.cost == pytest.approx(2 * one)


@SPELLINGS
async def test_what_was_bought_without_a_price_is_priced_once_there_is_one(sandbox, router, tmp_path, spell):
    path = tmp_path / "run.db"
    sandbox.faults.add("status=500", prompt="otter 2", charged=True, times=1)
    batch = router.generate_many(prompts(3), journal=path)
    await collect(batch)
    assert (batch.summary.cost, batch.summary.cost_in_doubt, batch.summary.unpriced) == (None, None, 3)
    status = read_status(path)
    assert (status.cost, status.unknown, status.unpriced, status.at_most) == (None, None, 3, None)
    again = router.generate_many(prompts(9), journal=path, price=spell(0.4), max_cost=2.1)
    states = [item.state for item in (await collect(again)).values()]
    assert sorted(states) == ["done"] * 4 + ["in_doubt"] + ["not_sent"] * 4
    assert sum((await sandbox.charges()).values()) == 5
    status = read_status(path)
    assert (status.cost, status.unknown, status.unpriced) == (pytest.approx(1.6), 0.4, 0)


async def test_an_accepted_task_without_a_price_is_held_until_its_cost_is_known(tmp_path):
    path = tmp_path / "run.db"
    async with Sandbox(mode="task") as sandbox, AsyncVideoRouter("key", base_url=sandbox.base_url, model="m") as router:
        sandbox.faults.add("status=401", path="*/tasks/*", times=1)
        assert (await collect(router.generate_many(["otter"], journal=path)))[0].state == "accepted"
        assert (read_status(path).reserved, read_status(path).unpriced) == (None, 1)
        item = (await collect(router.generate_many(["otter"], journal=path, price=9.0, max_cost=9.0)))[0]
        assert (item.state, await sandbox.charges()) == ("done", {"otter": 1})
    assert read(path, "SELECT reserved, unknown, cost FROM items") == [(0.0, 0.0, item.cost)]
    assert 0 < item.cost < 9.0


async def test_an_earlier_sending_without_a_price_is_priced_with_its_item(sandbox, router, tmp_path):
    path = tmp_path / "run.db"
    sandbox.faults.add("status=500", charged=True, times=1)
    batch = router.generate_many(["otter"], journal=path, on_outcome_unknown="resend")
    assert (await collect(batch))[0].state == "done"
    assert (batch.summary.cost_in_doubt, batch.summary.unpriced) == (None, 2)
    assert read_status(path).unpriced == 2
    await collect(router.generate_many(["otter"], journal=path, price=0.4, max_cost=1.0))
    assert read(path, "SELECT cost, unknown FROM items") == [(0.4, 0.4)]
    assert read(path, "SELECT cost, unknown FROM sendings") == [(None, 0.4)]


@pytest.mark.parametrize("why", ["another model", "a function that fails", "forgotten"])
async def test_a_cap_over_what_has_no_price_is_refused_with_the_count(sandbox, router, tmp_path, why):
    path = tmp_path / "run.db"
    await collect(router.generate_many(prompts(3), journal=path))
    if why == "forgotten":
        journal = await Journal.open(path)
        await journal.erase_prompts()
        await journal.aclose()
    price = {"another model": {"n": 1.0}, "a function that fails": lambda request: request["no"]}.get(
        why, lambda _: 1.0
    )
    with pytest.raises(ConfigurationError, match="3 earlier requests"):
        await collect(router.generate_many([{"prompt": "new", "model": "n"}], journal=path, price=price, max_cost=9.0))
    assert len(await sandbox.charges()) == 3
    assert read(path, "SELECT count(*), total(cost), count(cost) FROM items") == [(3, 0.0, 0)]


async def test_a_model_that_is_free_by_name_costs_0_and_is_not_unknown(sandbox, router, tmp_path):
    path = tmp_path / "run.db"
    sandbox.faults.add("status=500", prompt="otter 2", charged=True, times=1)
    batch = router.generate_many(prompts(3), journal=path, price={"m": 0}, max_cost=0.0)
    await collect(batch)
    assert (batch.summary.done, batch.summary.in_doubt) == (2, 1)
    assert (batch.summary.cost, batch.summary.cost_in_doubt, batch.summary.unpriced) == (0.0, 0.0, 0)
    status = read_status(path)
    assert (status.cost, status.unknown, status.unpriced, status.at_most) == (0.0, 0.0, 0, 0.0)


@pytest.mark.parametrize(("cost", "known"), [(None, (None, 1)), (0.3, (0.3, 0))])
async def test_what_was_settled_as_bought_costs_what_was_said_and_else_nobody_knows(
    sandbox, router, tmp_path, cost, known
):
    path = tmp_path / "run.db"
    sandbox.faults.add("status=500", charged=True, times=1)
    item = (await collect(router.generate_many(["otter"], journal=path)))[0]
    journal = await Journal.open(path)
    assert await journal.settle(item.id, "bought", cost=cost, url="https://x.example/v.mp4")
    await journal.aclose()
    status = read_status(path)
    assert (status.cost, status.unpriced) == known


async def test_many_earlier_requests_are_priced_page_by_page(sandbox, router, tmp_path):
    path = tmp_path / "run.db"
    await collect(router.generate_many(prompts(1), journal=path))
    database = sqlite3.connect(path)
    database.execute(
        "INSERT INTO items (id, position, state, digest, verb, model, request, sends, number) "
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2500) "
        "SELECT 'x' || i, i, 'done', 'd', 'generate', 'm', '{}', 1, 1 FROM n"
    )
    database.commit()
    database.close()
    await collect(router.generate_many(prompts(1), journal=path, price=0.5))
    assert read(path, "SELECT count(*), total(cost) FROM items") == [(2501, 1250.5)]
    assert len(await sandbox.charges()) == 1
