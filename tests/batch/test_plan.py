"""What a batch will do is known before anything is sent, and what was paid for is not bought again under another spelling."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from batching import collect, prompts, read

from videorouter import AsyncVideoRouter, JournalMismatchError
from videorouter.journal.journal import Journal

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio


@pytest.fixture
async def router(sandbox):
    async with AsyncVideoRouter("key", base_url=sandbox.base_url, model="m") as client:
        yield client


@pytest.fixture
def journal(tmp_path) -> Path:
    return tmp_path / "run.db"


async def buy(router, entries, journal, **options):
    batch = router.generate_many(entries, journal=journal, price=0.5, **options)
    await collect(batch)
    return batch.plan


RESPELT = {
    "an option": lambda count: {"prompts": prompts(count), "resolution": "720p"},
    "a model": lambda count: {"prompts": prompts(count), "model": "other"},
    "ids": lambda count: {"prompts": [{"id": f"n{n}", "prompt": one} for n, one in enumerate(prompts(count))]},
    "a chain": lambda count: {"prompts": [{"prompt": one, "then": ["at night"]} for one in prompts(count)]},
}


@pytest.mark.parametrize("change", RESPELT)
async def test_what_was_bought_is_not_bought_again_under_another_spelling(sandbox, router, journal, change):
    await buy(router, prompts(5), journal)
    options = RESPELT[change](5)
    entries = options.pop("prompts")
    with pytest.raises(JournalMismatchError, match="5 of the 5 requests") as refused:
        await buy(router, entries, journal, **options)
    assert refused.value.path == str(journal)
    assert sum((await sandbox.charges()).values()) == 5
    for _ in range(2):
        await buy(router, entries, journal, **options, new=True)
    charges = await sandbox.charges()
    assert {charges[one] for one in prompts(5)} == {2}
    assert charges.get("at night", 0) == (5 if change == "a chain" else 0)


async def test_a_changed_step_whose_id_is_taken_is_refused_and_not_planned(sandbox, router, journal):
    entries = [{"id": f"n{n}", "prompt": one, "then": [{"prompt": "snow"}]} for n, one in enumerate(prompts(3))]
    await buy(router, entries, journal)
    longer = [{**entry, "then": [{"prompt": "snow"}, "fog"]} for entry in entries]
    plan = await buy(router, longer, journal)
    assert (plan.held, plan.met, plan.new, plan.again) == (6, 6, 3, 0)
    changed = [{**entry, "then": [{"prompt": "snow", "seed": 7}, "fog"]} for entry in entries]
    plan = await buy(router, changed, journal)
    assert (plan.met, plan.new, plan.sends) == (6, 0, 0)
    assert await sandbox.charges() == {**dict.fromkeys(prompts(3), 1), "snow": 3, "fog": 3}


async def test_a_tenth_needs_consent_and_less_does_not(sandbox, router, journal):
    entries = prompts(20)
    await buy(router, entries, journal)
    with pytest.raises(JournalMismatchError, match="2 of the 20"):
        await buy(router, [*entries[2:], *({"prompt": one, "seed": 1} for one in entries[:2])], journal)
    plan = await buy(router, [*entries[1:], {"prompt": entries[0], "seed": 1}], journal)
    assert plan.again == 1
    assert (await sandbox.charges())[entries[0]] == 2


async def test_another_take_another_model_and_another_prompt_of_what_is_met_are_simply_new(sandbox, router, journal):
    await buy(router, prompts(2), journal)
    entries = [*prompts(2), *prompts(2), {"prompt": "otter 0", "model": "other"}, "heron"]
    plan = await buy(router, entries, journal)
    assert (plan.held, plan.paid, plan.met, plan.new, plan.sends, plan.cost, plan.again) == (2, 2, 2, 4, 4, 2.0, 0)
    assert sum((await sandbox.charges()).values()) == 6


async def test_other_prompts_in_the_same_journal_are_no_respelling(sandbox, router, journal):
    await buy(router, prompts(3), journal)
    plan = await buy(router, ["heron", "kite"], journal)
    assert (plan.met, plan.new, plan.again) == (0, 2, 0)
    assert sum((await sandbox.charges()).values()) == 5


async def test_one_prompt_for_other_videos_is_no_respelling(sandbox, router, journal):
    videos = [await router.generate(one) for one in prompts(4)]
    for half in (videos[:2], videos[2:]):
        await collect(router.edit_many([(video, "snow") for video in half], journal=journal))
    assert (await sandbox.charges())["snow"] == 4


async def test_of_a_stream_only_what_the_journal_holds_is_known(router, journal):
    await buy(router, prompts(3), journal)
    batch = router.generate_many(iter(prompts(3)), journal=journal)
    async with batch:
        assert (batch.plan.held, batch.plan.paid, batch.plan.met, batch.plan.cost) == (3, 3, None, None)


def shape(source, kind):
    """An input that can be read only once, with or without waiting."""

    async def stream():
        for entry in source:
            yield entry

    return iter(source) if kind == "iterator" else stream()


@pytest.mark.parametrize("kind", ["iterator", "stream"])
@pytest.mark.parametrize("change", RESPELT)
async def test_a_stream_is_stopped_before_it_buys_again_what_was_bought(sandbox, router, journal, change, kind):
    await buy(router, prompts(5), journal)
    options = RESPELT[change](5)
    entries = options.pop("prompts")
    with pytest.raises(JournalMismatchError, match=r"that this stream wants so far") as refused:
        await buy(router, shape(entries, kind), journal, **options)
    assert refused.value.path == str(journal)
    assert sum((await sandbox.charges()).values()) == 5
    for _ in range(2):
        await buy(router, shape(entries, kind), journal, **options, new=True)
    charges = await sandbox.charges()
    assert {charges[one] for one in prompts(5)} == {2}


async def test_a_stream_may_buy_less_than_a_tenth_of_what_it_meets_again(sandbox, router, journal):
    entries = prompts(30)
    await buy(router, entries, journal)
    respelt = [{"prompt": one, "seed": 1} for one in entries]
    changed = [*entries[:15], respelt[15], *entries[16:25], *respelt[25:]]
    with pytest.raises(JournalMismatchError, match="3 of the 27 requests"):
        await buy(router, iter(changed), journal, concurrency=1)
    assert {one for one, count in (await sandbox.charges()).items() if count == 2} == {entries[15], entries[25]}


async def test_a_stream_that_goes_on_buys_takes_variants_and_new_prompts_of_what_it_has_met(sandbox, router, journal):
    entries = prompts(12)
    await buy(router, entries, journal)
    variants = [{"prompt": "otter 3", "seed": 1}, {"prompt": "otter 11", "seed": 1}]
    stream = iter([*entries[:11], *variants, "heron", entries[11], entries[0], "heron"])
    await buy(router, stream, journal, concurrency=1)
    charges = await sandbox.charges()
    assert [charges[one] for one in ("otter 0", "otter 3", "otter 11", "otter 5", "heron")] == [2, 2, 2, 1, 2]


async def test_a_stream_with_other_prompts_is_no_respelling(sandbox, router, journal):
    await buy(router, [{"prompt": one, "then": ["snow"]} for one in prompts(3)], journal)
    await buy(router, iter(["heron", {"prompt": "kite", "then": ["snow"]}]), journal)
    assert sum((await sandbox.charges()).values()) == 6 + 3


async def test_a_changed_step_of_a_chain_in_a_stream_is_bought_again_only_by_name(sandbox, router, journal):
    await buy(router, [{"id": "a", "prompt": "otter", "then": [{"id": "b", "prompt": "snow"}]}], journal)
    changed = [{"id": "a", "prompt": "otter", "then": [{"id": "c", "prompt": "snow", "seed": 1}]}]
    with pytest.raises(JournalMismatchError, match="1 of the 2 requests"):
        await buy(router, iter(changed), journal)
    assert await sandbox.charges() == {"otter": 1, "snow": 1}


async def test_forgotten_prompts_may_be_any_of_a_stream_and_none_that_it_has_met(sandbox, router, journal):
    await buy(router, prompts(3), journal)
    opened = await Journal.open(journal)
    await opened.erase_prompts()
    await opened.aclose()
    with pytest.raises(JournalMismatchError, match="1 of the 1 requests"):
        await buy(router, iter(["heron"]), journal)
    await buy(router, iter([*prompts(3), "heron"]), journal, concurrency=1)
    assert sum((await sandbox.charges()).values()) == 4


async def test_equal_entries_of_a_stream_that_are_sent_once_are_no_respelling(sandbox, router, journal):
    await buy(router, prompts(2), journal)
    await buy(router, iter([*prompts(2), *prompts(2), "heron", "heron"]), journal, deduplicate=True)
    assert sum((await sandbox.charges()).values()) == 3


async def test_a_plan_is_known_before_anything_is_sent_and_leaves_no_trace(sandbox, router, journal):
    await buy(router, prompts(3), journal)
    async with router.generate_many([*prompts(3), "heron", ""], journal=journal, price={"*": 0.25}) as batch:
        assert (batch.plan.met, batch.plan.new, batch.plan.cost) == (3, 1, 0.25)
        assert "heron" not in await sandbox.charges()
        states = [item.state async for item in batch]
    assert sorted(states) == ["done"] * 4 + ["refused"]
    assert router.generate_many(["x"]).plan is None


async def test_an_unknown_price_is_an_unknown_cost(router, journal):
    await buy(router, ["a"], journal)
    batch = router.generate_many(["a", "b"], journal=journal)
    await collect(batch)
    assert (batch.plan.sends, batch.plan.cost) == (1, None)


async def test_a_given_id_of_another_request_stops_the_batch_before_anything_is_sent(sandbox, router, journal):
    await buy(router, [{"id": "a", "prompt": "otter"}], journal)
    with pytest.raises(JournalMismatchError, match="'a'"):
        await buy(router, ["heron", {"id": "a", "prompt": "kite"}], journal, new=True)
    with pytest.raises(JournalMismatchError, match="'a'"):
        await buy(router, [{"prompt": "heron", "then": [{"id": "a", "prompt": "kite"}]}], journal)
    assert await sandbox.charges() == {"otter": 1}


async def test_forgotten_prompts_may_be_any(sandbox, router, journal):
    await buy(router, prompts(4), journal)
    opened = await Journal.open(journal)
    await opened.erase_prompts()
    await opened.aclose()
    assert (await buy(router, [*prompts(4), "heron"], journal)).new == 1
    with pytest.raises(JournalMismatchError, match="4 of the 5"):
        await buy(router, prompts(4), journal, resolution="720p")
    assert read(journal, "SELECT count(*) FROM items") == [(5,)]


async def test_equal_entries_that_are_sent_once_are_planned_once(sandbox, router, journal):
    await buy(router, ["a"], journal)
    plan = await buy(router, ["a", "a", "b", "b"], journal, deduplicate=True)
    assert (plan.met, plan.new, plan.sends) == (1, 1, 1)
    assert await sandbox.charges() == {"a": 1, "b": 1}


async def test_local_inputs_are_known_by_their_bytes(sandbox, router, journal):
    await buy(router, [{"prompt": "a", "image_urls": [b"\x89PNG\r\n\x1a\n one"]}], journal)
    plan = await buy(router, [{"prompt": "a", "image_urls": [b"\x89PNG\r\n\x1a\n one"]}], journal)
    assert (plan.met, plan.new) == (1, 0)
    with pytest.raises(JournalMismatchError):
        await buy(router, [{"prompt": "a", "image_urls": [b"\x89PNG\r\n\x1a\n two"]}], journal)
    assert await sandbox.charges() == {"a": 1}
