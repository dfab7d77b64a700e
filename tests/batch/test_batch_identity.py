"""A batch that comes back knows its requests, however they are spelt, in whatever order, and however often it was stopped."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from batching import collect, read

from videorouter import AsyncVideoRouter, JournalMismatchError
from videorouter.sandbox import Sandbox

pytestmark = pytest.mark.anyio


@pytest.fixture
async def router(sandbox):
    async with AsyncVideoRouter("key", base_url=sandbox.base_url, model="m") as client:
        yield client


def spell(fields: dict[str, object], dice: random.Random) -> object:
    """One of the ways to say a request."""
    fields = dict(fields)
    if fields.keys() == {"prompt"} and dice.random() < 0.5:
        return fields["prompt"]
    if "seed" in fields and dice.random() < 0.5:
        fields["seed"] = float(fields["seed"])
    if "then" in fields:
        fields["then"] = [spell(step, dice) if isinstance(step, dict) else step for step in fields["then"]]
    if dice.random() < 0.5:
        fields["resolution"] = None
    items = list(fields.items())
    dice.shuffle(items)
    return dict(items)


def list_prompts(entries: list[dict]) -> Counter[str]:
    asked: Counter[str] = Counter()
    for fields in entries:
        asked[fields["prompt"]] += 1
        asked.update(step if isinstance(step, str) else step["prompt"] for step in fields.get("then", ()))
    return asked


def draw_entries(dice: random.Random) -> list[dict]:
    entries: list[dict] = [{"prompt": f"otter {number}"} for number in range(dice.randrange(4))]
    entries += [{"prompt": "takes"} for _ in range(dice.randrange(4))]
    entries += [{"prompt": "heron", "seed": dice.randrange(3), "duration": "8s"} for _ in range(dice.randrange(4))]
    entries += [
        {
            "prompt": "seal",
            "then": dice.sample(["snow", "rain", {"prompt": "fog", "duration": "4s"}], dice.randrange(1, 3)),
        }
        for _ in range(dice.randrange(4))
    ]
    entries += [{"id": f"given-{number}", "prompt": "given", "seed": number} for number in range(dice.randrange(3))]
    return entries


@pytest.mark.parametrize("seed", range(12))
async def test_no_spelling_order_or_stop_buys_anything_twice(tmp_path, seed):
    dice = random.Random(seed)
    entries = draw_entries(dice)
    async with (
        Sandbox(mode="mixed", profile="instant") as sandbox,
        AsyncVideoRouter("key", base_url=sandbox.base_url, model="m") as router,
    ):
        for last in (False, False, False, True):
            dice.shuffle(entries)
            batch = router.generate_many(
                [spell(fields, dice) for fields in entries],
                journal=tmp_path / "run.db",
                concurrency=dice.randrange(1, 5),
            )
            stop_after = dice.randrange(len(entries) + 1)
            count = 0
            async for _ in batch:
                count += 1
                if count > stop_after and not last:
                    batch.stop()
        assert Counter(await sandbox.charges()) == list_prompts(entries)
        assert batch.summary.done == batch.summary.total == sum(list_prompts(entries).values())


async def test_options_of_all_entries_and_of_each_are_the_same_request(sandbox, router, tmp_path):
    entries = [{"prompt": "otter", "duration": "8s", "seed": 2**63 - 1}]
    await collect(router.generate_many(entries, journal=tmp_path / "run.db"))
    await collect(router.generate_many(["otter"], journal=tmp_path / "run.db", seed=2**63 - 1, duration="8s"))
    other = {"journal": tmp_path / "run.db", "seed": 2**63 - 2, "duration": "8s"}
    await collect(router.generate_many(["otter"], **other, new=True))
    assert await sandbox.charges() == {"otter": 2}


async def test_a_given_id_whose_request_is_spelt_in_another_way_is_no_mismatch(sandbox, router, tmp_path):
    for fields in (
        {"duration": "8s", "prompt": "otter", "seed": 7},
        {"prompt": "otter", "seed": 7.0, "duration": "8s"},
    ):
        items = await collect(router.generate_many([{"id": "a", **fields}], journal=tmp_path / "run.db"))
        assert items[0].ok
    assert await sandbox.charges() == {"otter": 1}
    with pytest.raises(JournalMismatchError):
        await collect(router.generate_many([{"id": "a", "prompt": "heron"}], journal=tmp_path / "run.db"))


async def test_takes_are_told_apart_by_the_chains_that_follow_from_them(sandbox, router, tmp_path):
    entries = [{"prompt": "otter", "then": ["snow"]}, {"prompt": "otter", "then": ["rain"]}, "otter"]
    first = await collect(router.generate_many(entries, journal=tmp_path / "run.db", concurrency=1))
    again = [item async for item in router.generate_many(reversed(entries), journal=tmp_path / "run.db", ordered=True)]
    assert {item.state for item in again} == {"done"}
    assert await sandbox.charges() == {"otter": 3, "snow": 1, "rain": 1}
    assert len({item.id for item in again}) == 5
    assert first


async def test_an_id_that_is_made_and_is_another_requests_refuses_that_entry_alone(sandbox, router, tmp_path):
    await collect(router.generate_many([{"id": "a/1", "prompt": "taken"}], journal=tmp_path / "run.db"))
    entries = [{"id": "a", "prompt": "otter", "then": ["snow", "rain"]}, "heron"]
    items = [item async for item in router.generate_many(entries, journal=tmp_path / "run.db", ordered=True)]
    assert [(item.id, item.state) for item in items[:3]] == [
        ("a", "done"),
        ("entry@0/1", "refused"),
        ("a/2", "not_sent"),
    ]
    assert "which is made for this entry" in str(items[1].error)
    assert items[3].ok
    assert await sandbox.charges() == {"taken": 1, "otter": 1, "heron": 1}


async def test_what_is_sent_once_more_is_what_was_sent(tmp_path):
    path = tmp_path / "run.db"
    async with Sandbox() as sandbox, AsyncVideoRouter("key", base_url=sandbox.base_url, model="m") as router:
        sandbox.faults.add("status=500", times=1)
        await collect(router.generate_many([{"prompt": "otter", "seed": 7, "duration": "8s"}], journal=path))
        stored = read(path, "SELECT request FROM items")
        spelt = [{"duration": "8s", "seed": 7.0, "prompt": "otter"}]
        await collect(router.generate_many(spelt, journal=path, on_outcome_unknown="resend"))
        assert read(path, "SELECT state, request FROM items") == [("done", *stored[0])]
        first, second = (request for request in sandbox.requests if request.method == "POST")
        assert first.body == second.body
