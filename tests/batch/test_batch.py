"""A stream of prompts in, a stream of items out: bounded, ordered on request, and nothing lost."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from collections import deque
from collections.abc import Mapping

import pytest
from batching import gather, prompts

from videorouter import (
    AsyncVideoRouter,
    ConfigurationError,
    DownloadError,
    InsufficientCreditsError,
    InvalidRequestError,
    OutcomeUnknownError,
)
from videorouter.events import BatchProgressed, ItemFinished
from videorouter.sandbox import Sandbox

pytestmark = pytest.mark.anyio


@pytest.fixture
async def router(sandbox):
    async with AsyncVideoRouter("key", base_url=sandbox.base_url, model="veo3-fast") as client:
        yield client


@pytest.mark.parametrize("mode", ["held", "task"])
async def test_every_prompt_becomes_one_item_and_one_charge(mode):
    async with (
        Sandbox(mode=mode) as sandbox,
        AsyncVideoRouter("test-key", base_url=sandbox.base_url, model="m") as router,
    ):
        batch = router.generate_many(prompts(20), concurrency=7)
        items = [item async for item in batch]
        assert {item.prompt for item in items} == set(prompts(20))
        assert {item.state for item in items} == {"done"}
        assert all(item.result.url for item in items)
        assert batch.summary.done == batch.summary.total == 20
        assert batch.in_flight == 0
        assert await sandbox.charges() == dict.fromkeys(prompts(20), 1)


async def test_in_order_on_request_though_the_first_is_the_last_to_be_done(sandbox, router):
    sandbox.faults.add("stall; seconds=0.5; at=answer", prompt="otter 0", times=1)
    items = [item async for item in router.generate_many(prompts(12), concurrency=4, ordered=True)]
    assert [item.index for item in items] == list(range(12))


async def test_as_completed_otherwise(sandbox, router):
    sandbox.faults.add("stall; seconds=0.5; at=answer", prompt="otter 0", times=1)
    items = [item async for item in router.generate_many(prompts(12), concurrency=4)]
    assert items[-1].index == 0


async def test_async_iterables_and_generators_are_read_no_faster_than_they_are_sent():
    pulled = 0

    async def endless():
        nonlocal pulled
        while True:
            pulled += 1
            yield f"otter {pulled}"

    async with (
        Sandbox(latency=float("inf")) as sandbox,
        AsyncVideoRouter("test-key", base_url=sandbox.base_url, model="m", adaptive=False) as router,
    ):
        async with router.generate_many(endless(), concurrency=3) as batch:
            await sandbox.wait_until(lambda running: running.held == 3)
            assert pulled == 3
            assert batch.in_flight == 3
        assert batch.in_flight == 0


async def test_a_slow_reader_holds_up_the_input(router):
    pulled = 0

    def endless():
        nonlocal pulled
        while True:
            pulled += 1
            yield f"otter {pulled}"

    async with router.generate_many(endless(), concurrency=5) as batch:
        await anext(batch)
        for _ in range(200):
            await asyncio.sleep(0.001)
        assert pulled <= 16


async def test_one_failure_never_loses_the_others(sandbox, router):
    sandbox.faults.add("moderation", prompt="otter 1")
    sandbox.faults.add("status=500", prompt="otter 2", charged=True)
    entries = [*prompts(4), {"prompt": ""}, {"no": "prompt"}, 17, {"prompt": "x", "then": 3}]
    batch = router.generate_many(entries, concurrency=3)
    items = {item.index: item async for item in batch}
    assert [items[number].state for number in range(8)] == [
        "done",
        "refused",
        "in_doubt",
        "done",
        *["refused"] * 4,
    ]
    assert isinstance(items[2].error, OutcomeUnknownError)
    assert isinstance(items[6].error, InvalidRequestError)
    assert (batch.summary.done, batch.summary.refused, batch.summary.in_doubt) == (2, 5, 1)


async def test_entries_override_the_fields_of_all(sandbox, router):
    entries = ["plain", {"id": "mine", "prompt": "own", "duration": "8s", "model": "other"}]
    items = {item.prompt: item async for item in router.generate_many(entries, duration="4s", seed=7)}
    sent = {charge.prompt: charge.model for charge in await sandbox.charge_list()}
    assert sent == {"plain": "veo3-fast", "own": "other"}
    assert items["own"].id == "mine"
    assert items["own"].model == "other"


async def test_leaving_the_loop_early_stops_what_runs(anyio_backend):
    async with (
        Sandbox(mode="mixed", latency=(0.0, 0.2)) as sandbox,
        AsyncVideoRouter("test-key", base_url=sandbox.base_url, model="m") as router,
    ):
        batch = router.generate_many((f"otter {number}" for number in range(1000)), concurrency=8)
        async for _ in batch:
            break
        gc.collect()
        for _ in range(200):
            if batch.in_flight == 0 and batch.summary.stopped:
                break
            await asyncio.sleep(0.02)
        assert batch.in_flight == 0
        assert batch.summary.stopped == "closed before its end"
        left = len(await sandbox.charge_list())
        await asyncio.sleep(0.3)
        assert len(await sandbox.charge_list()) == left < 1000
    assert not [task for task in asyncio.all_tasks() if "videorouter/batch" in repr(task)]


async def test_closing_counts_what_was_cut_off():
    async with (
        Sandbox(latency=float("inf")) as sandbox,
        AsyncVideoRouter("test-key", base_url=sandbox.base_url, model="m", adaptive=False) as router,
    ):
        async with router.generate_many(prompts(10), concurrency=4) as batch:
            await sandbox.wait_until(lambda running: running.held == 4)
        summary = batch.summary
        assert (summary.in_doubt, summary.not_sent, summary.total) == (4, 6, 10)


async def test_inside_a_block_a_loop_may_be_left_and_entered_again(router):
    async with router.generate_many(prompts(10), concurrency=2) as batch:
        first = []
        async for item in batch:
            first.append(item.index)
            if len(first) == 3:
                break
        rest = [item.index async for item in batch]
    assert sorted(first + rest) == list(range(10))


async def test_stopping_lets_what_runs_come_to_its_end():
    async with (
        Sandbox(latency=0.2) as sandbox,
        AsyncVideoRouter("test-key", base_url=sandbox.base_url, model="m", adaptive=False) as router,
    ):
        batch = router.generate_many(prompts(100), concurrency=5)
        items = []
        async for item in batch:
            if not items:
                batch.stop("enough")
            items.append(item)
        assert 5 <= len([item for item in items if item.ok]) <= 10
        assert batch.summary.stopped == "enough"
        assert batch.summary.total == 100
        assert batch.summary.in_doubt == 0
        assert len(await sandbox.charge_list()) == batch.summary.done


async def test_stopping_wakes_a_batch_that_waits_for_input(router):
    never = asyncio.Event()

    async def slow():
        yield "otter"
        await never.wait()
        yield "heron"

    batch = router.generate_many(slow())
    async for _ in batch:
        batch.stop()
    assert (batch.summary.done, batch.summary.total) == (1, 1)


async def test_an_input_that_blocks_holds_up_neither_what_runs_nor_the_loop(sandbox, router):
    go_on = threading.Event()

    def slow():
        yield "otter"
        assert go_on.wait(30)
        yield "heron"

    items = []
    async for item in router.generate_many(slow()):  # the first comes while the generator is blocked
        items.append(item.prompt)
        go_on.set()
    assert items == ["otter", "heron"]
    assert len(await sandbox.charge_list()) == 2


async def test_an_input_that_blocks_for_ever_does_not_hold_up_the_end(router):
    never = threading.Event()

    def blocked():
        yield "otter"
        never.wait()

    batch = router.generate_many(blocked())
    async for _ in batch:
        break
    await batch.aclose()
    assert batch.summary.done == 1
    never.set()


async def test_what_was_read_when_a_batch_stops_still_comes_out(router):
    queue = deque(prompts(100))

    def feed():
        while queue:
            yield queue.popleft()

    batch = router.generate_many(feed(), concurrency=10)
    items = []
    async for item in batch:
        batch.stop()
        items.append(item)
    assert len(items) + len(queue) == batch.summary.total + len(queue) == 100
    assert {item.state for item in items} <= {"done", "not_sent"}


async def test_an_input_may_stop_its_own_batch(router):
    def feed():
        yield from prompts(3)
        batch.stop("enough")
        yield from prompts(3)

    batch = router.generate_many(feed(), concurrency=1)
    items = [item async for item in batch]
    assert batch.summary.stopped == "enough"
    assert items[0].ok
    assert len(items) == batch.summary.total < 6


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_an_input_that_breaks_is_raised_after_what_runs_has_ended(sandbox, router, kind):
    def broken():
        yield from prompts(3)
        raise OSError("the disk is gone")

    async def broken_later():
        for prompt in broken():
            yield prompt

    items = []
    batch = router.generate_many(broken() if kind == "sync" else broken_later(), concurrency=2)
    with pytest.raises(OSError, match="the disk is gone"):
        await gather(batch, items)
    assert len(items) == 3
    assert batch.summary.done == len(await sandbox.charge_list()) == 3


async def test_a_wall_stops_the_batch(sandbox, router):
    sandbox.faults.add("status=402")
    batch = router.generate_many(prompts(200), concurrency=4)
    items = [item async for item in batch]
    assert len(items) < 12
    assert {item.state for item in items} <= {"refused", "not_sent"}
    assert "402" in batch.summary.stopped
    assert batch.summary.total == 200


@pytest.mark.parametrize("status", [402, 403, 429])
@pytest.mark.parametrize("held", ["journal", "memory"])
async def test_an_account_without_credit_ends_a_batch_at_once(sandbox, router, tmp_path, status, held):
    sandbox.faults.add(f"no_credit={status}")
    journal = {"journal": tmp_path / "run.db"} if held == "journal" else {}
    batch = router.generate_many(prompts(1000), concurrency=50, **journal)
    began = time.monotonic()
    items = [item async for item in batch]
    assert time.monotonic() - began < 1.0
    assert {item.state for item in items} <= {"refused", "not_sent"}
    assert {type(item.error) for item in items if item.state == "refused"} == {InsufficientCreditsError}
    assert len([record for record in sandbox.requests if record.method == "POST"]) <= 50
    assert f"out of credit ({status})" in batch.summary.stopped
    assert batch.summary.done == 0
    assert await sandbox.charges() == {}


async def test_identical_refusals_in_a_row_stop_the_batch(sandbox, router):
    sandbox.faults.add("status=404")
    batch = router.generate_many(prompts(500), concurrency=1, stop_after=5)
    assert len([item async for item in batch]) == 5
    assert batch.summary.refused == 5
    assert batch.summary.not_sent == 495


async def test_moderation_does_not(sandbox, router):
    sandbox.faults.add("moderation; where=403")
    batch = router.generate_many(prompts(30), concurrency=4, stop_after=5)
    assert len([item async for item in batch]) == 30
    assert batch.summary.stopped is None


async def test_what_is_the_callers_own_comes_back_and_is_never_sent(sandbox, router, tmp_path):
    entries = [{"prompt": "otter", "meta": {"row": 7}, "then": ["rain"]}, {"prompt": "heron", "meta": None}]
    for _ in range(2):
        batch = router.generate_many(entries, journal=tmp_path / "run.db")
        kept = {item.prompt: item.meta async for item in batch}
        assert kept == {"otter": {"row": 7}, "rain": {"row": 7}, "heron": None}
    assert len(await sandbox.charge_list()) == 3
    assert not any("meta" in record.body for record in sandbox.requests)
    # Other notes are no other request, and those of now are told.
    batch = router.generate_many(
        [{"prompt": "otter", "meta": {"row": 8}, "then": ["rain"]}], journal=tmp_path / "run.db"
    )
    assert [item.meta async for item in batch] == [{"row": 8}, {"row": 8}]
    assert len(await sandbox.charge_list()) == 3
    with pytest.raises(ConfigurationError, match="meta"):
        router.generate_many(["otter"], meta={"row": 7})


async def test_an_edit_waits_for_the_entry_whose_video_it_edits(sandbox, router):
    entries = [
        {"id": "a", "prompt": "An otter", "model": "sora-2"},
        {"id": "b", "edit_of": "a", "prompt": "Snow", "model": "sora-2-video-to-video"},
        {"id": "c", "edit_of": "nobody", "prompt": "Rain"},
        {"id": "d", "edit_of": "c", "prompt": "Fog"},
    ]
    items = {item.id: item async for item in router.generate_many(entries)}
    assert [items[name].state for name in "abcd"] == ["done", "done", "refused", "not_sent"]
    assert [charge.prompt for charge in await sandbox.charge_list()] == ["An otter", "Snow"]


async def test_a_chain_edits_its_own_video_step_by_step(sandbox, router):
    entry = {"id": "a", "prompt": "An otter", "then": ["Snow", {"prompt": "Rain", "id": "wet"}]}
    items = [item async for item in router.generate_many([entry])]
    assert [(item.id, item.index, item.state) for item in items] == [
        ("a", 0, "done"),
        ("a/1", 0, "done"),
        ("wet", 0, "done"),
    ]
    assert [charge.kind for charge in await sandbox.charge_list()] == ["generation", "edit", "edit"]


async def test_a_broken_chain_sends_none_of_its_later_steps(sandbox, router):
    sandbox.faults.add("moderation", prompt="An otter")
    items = [item async for item in router.generate_many([{"prompt": "An otter", "then": ["Snow", "Rain"]}])]
    assert [item.state for item in items] == ["refused", "not_sent", "not_sent"]
    assert await sandbox.charges() == {}


class Unwilling(dict):
    def get(self, *_):
        raise RuntimeError("this row was deleted")


class Elusive(Mapping):
    def __len__(self):
        return 1

    def __iter__(self):
        return iter(["prompt", "then"])

    def __getitem__(self, name):
        raise RuntimeError(f"{name} is gone")


@pytest.mark.parametrize("entry", [Unwilling(id="a", prompt="two", then=["Snow"]), Elusive()], ids=["dict", "mapping"])
async def test_a_mapping_that_raises_is_one_refused_entry(sandbox, router, entry):
    items = [item async for item in router.generate_many(["one", entry, "three"], concurrency=1)]
    assert [item.state for item in items] == ["done", "refused", "done"]
    assert isinstance(items[1].error, InvalidRequestError)
    assert await sandbox.charges() == {"one": 1, "three": 1}


async def test_many_edits_of_known_videos(sandbox, router):
    video = await router.generate("An otter", model="sora-2")
    edits = [(video, "Snow"), (video.video, "Rain"), {"video_id": video.video_id, "prompt": "Fog"}, "wrong"]
    items = {item.index: item async for item in router.edit_many(edits, model="sora-2-video-to-video")}
    assert [items[number].state for number in range(4)] == ["done", "done", "done", "refused"]


async def test_an_id_that_comes_twice_is_refused_before_it_is_sent(sandbox, router):
    entries = [{"id": "a", "prompt": "one"}, {"id": "a", "prompt": "two"}]
    items = [item async for item in router.generate_many(entries, ordered=True)]
    assert [item.state for item in items] == ["done", "refused"]
    assert await sandbox.charges() == {"one": 1}


async def test_four_takes_are_four_items_unless_duplicates_are_not_wanted(sandbox, router):
    takes = [item async for item in router.generate_many(["otter"] * 4)]
    assert len({item.id for item in takes}) == 4
    assert await sandbox.charges() == {"otter": 4}
    once = [item async for item in router.generate_many(["heron"] * 4, deduplicate=True)]
    assert [item.state for item in once] == ["done"] * 4
    assert len({item.result.url for item in once}) == 1
    assert await sandbox.charges() == {"otter": 4, "heron": 1}


async def test_progress_is_told_as_events(sandbox):
    seen = []
    async with AsyncVideoRouter("test-key", base_url=sandbox.base_url, model="m", on_event=seen.append) as router:
        _ = [item async for item in router.generate_many(prompts(5))]
    assert len([event for event in seen if isinstance(event, ItemFinished)]) == 5
    assert [event.summary.done for event in seen if isinstance(event, BatchProgressed)] == [1, 2, 3, 4, 5]


async def test_videos_are_saved_while_the_batch_goes_on(tmp_path, router):
    folder = tmp_path / "clips"
    items = [item async for item in router.generate_many(prompts(5), save_to=folder, concurrency=2)]
    assert sorted(path.name for path in folder.iterdir()) == [f"{n:06d}-otter-{n}.mp4" for n in range(5)]
    assert all(item.path.read_bytes()[4:8] == b"ftyp" for item in items)


async def test_a_video_that_cannot_be_saved_is_still_done_and_its_error_is_told(sandbox, tmp_path, router):
    sandbox.faults.add("expired")
    batch = router.generate_many(prompts(3), save_to=tmp_path)
    items = [item async for item in batch]
    assert [item.state for item in items] == ["done"] * 3
    assert all(isinstance(item.error, DownloadError) and item.failure for item in items)
    assert all(item.path is None and item.result.url for item in items)
    assert batch.summary.done == 3


async def test_files_are_named_by_the_template(tmp_path, router):
    entries = [{"id": "first/one", "prompt": "An otter", "then": ["Snow"]}]
    batch = router.generate_many(entries, save_to=tmp_path, name="{model}/{id}.mp4")
    items = [item async for item in batch]
    assert all(item.path.is_relative_to(tmp_path / "veo3-fast") for item in items)
    assert len({item.path for item in items}) == 2


@pytest.mark.parametrize(
    "options",
    [
        {"max_cost": 1.0},
        {"concurrency": 0},
        {"name": "{slug}.mp4"},
        {"on_outcome_unknown": "again"},
        {"on_outcome_unknown": "replay"},
        {"retry": ("in_doubt",)},
        {"stop_after": 0},
        {"models": ["a", "b"]},
        {"journal": 7},
    ],
)
async def test_an_option_that_cannot_be_used_is_said_at_once(router, options):
    with pytest.raises(ConfigurationError):
        router.generate_many(["x"], **options)


@pytest.mark.parametrize("source", ["An otter", b"x", 7, None])
async def test_what_is_no_stream_is_refused(router, source):
    with pytest.raises(ConfigurationError, match="iterable"):
        router.generate_many(source)


async def test_nothing_in_nothing_out(router):
    batch = router.generate_many([])
    assert [item async for item in batch] == []
    assert batch.summary.total == 0


async def test_a_folder_that_cannot_be_written_is_said_before_anything_is_sent(sandbox, router, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ConfigurationError, match="cannot be written"):
        await gather(router.generate_many(["otter"], save_to=tmp_path), [])
    assert await sandbox.charges() == {}


@pytest.mark.parametrize("where", ["input", "price", "on_outcome_unknown"])
async def test_a_cancellation_that_nobody_asked_for_ends_the_batch_and_is_said(sandbox, router, where):
    def cancelled(_=None):
        raise asyncio.CancelledError

    async def feed():
        yield "otter 0"
        if where == "input":
            cancelled()
        yield "otter 1"

    sandbox.faults.add("reset; at=body", prompt="otter 0", times=1)
    options = {where: cancelled} if where != "input" else {}
    batch = router.generate_many(feed(), concurrency=1, **options)
    with pytest.raises(InvalidRequestError, match="CancelledError"):
        await gather(batch, [])
    assert batch.summary.in_doubt == (where != "price")
    assert batch.summary.stopped


@pytest.mark.parametrize("field", ["prompt", "id", "then", "edit_of", "video", "video_id", "models", "idempotency_key"])
async def test_what_belongs_to_one_entry_is_refused_for_all_of_them(sandbox, router, field):
    with pytest.raises(ConfigurationError, match=field):
        router.generate_many(prompts(2), **{field: "dusk"})
    assert await sandbox.charges() == {}
