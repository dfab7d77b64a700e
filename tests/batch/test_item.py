"""A batch with a journal: resumed by the same call, never paid twice, never over its budget."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
from contextlib import closing
from types import SimpleNamespace

import httpx
import pytest
from batching import collect, gather, prompts, read
from media_files import block, cluster, movie, webm

from videorouter import (
    AsyncVideoRouter,
    BudgetExceededError,
    DownloadError,
    JournalBusyError,
    JournalError,
    JournalMismatchError,
    VideoRouter,
)
from videorouter.events import CallFinished
from videorouter.journal import journal as journal_module
from videorouter.sandbox import Sandbox

pytestmark = pytest.mark.anyio


@pytest.fixture
async def router(sandbox):
    async with AsyncVideoRouter("key", base_url=sandbox.base_url, model="veo3-fast") as client:
        yield client


async def test_the_same_call_again_sends_nothing_and_gives_the_same_items(sandbox, router, tmp_path):
    path = tmp_path / "run.db"
    first = await collect(router.generate_many(prompts(10), journal=path))
    batch = router.generate_many(prompts(10), journal=path)
    second = await collect(batch)
    assert await sandbox.charges() == dict.fromkeys(prompts(10), 1)
    assert [item.result.url for item in second.values()] == [first[index].result.url for index in second]
    assert all(item.resumed for item in second.values())
    assert batch.summary.done == 10


async def test_a_plain_prompt_and_the_same_request_as_a_dict_are_two_takes_of_one_request(router, tmp_path):
    entries = ["otter", {"prompt": "otter", "duration": "8s"}]
    batch = router.generate_many(entries, journal=tmp_path / "run.db", duration="8s", concurrency=1)
    ids = [item.id for item in (await collect(batch)).values()]
    digest = ids[0].removesuffix("-1")
    assert ids == [f"{digest}-1", f"{digest}-2"]
    keys = read(tmp_path / "run.db", "SELECT DISTINCT idempotency_key FROM items")
    assert len(keys) == 2


@pytest.mark.parametrize("concurrency", [1, 4])
async def test_an_id_that_comes_twice_is_refused_and_leaves_the_first_ones_row(sandbox, router, tmp_path, concurrency):
    entries = [{"id": "a", "prompt": "one"}, {"id": "a", "prompt": "two"}, {"id": "b", "prompt": "three"}]
    for _ in range(2):
        batch = router.generate_many(entries, journal=tmp_path / "run.db", concurrency=concurrency, ordered=True)
        items = [item async for item in batch]
        assert [item.state for item in items] == ["done", "refused", "done"]
        assert "came twice" in str(items[1].error)
    assert await sandbox.charges() == {"one": 1, "three": 1}
    assert read(tmp_path / "run.db", "SELECT id, state, position FROM items ORDER BY id") == [
        ("a", "done", 0),
        ("b", "done", 2),
        ("entry@1", "refused", 1),
    ]


async def test_the_first_of_two_entries_has_the_id_also_when_it_is_sent_later(sandbox, router, tmp_path):
    entries = [
        {"id": "parent", "prompt": "one"},
        {"id": "a", "prompt": "snow", "edit_of": "parent"},
        {"id": "a", "prompt": "two"},
    ]
    for _ in range(2):
        batch = router.generate_many(entries, journal=tmp_path / "run.db", ordered=True)
        assert [item.state async for item in batch] == ["done", "done", "refused"]
    assert await sandbox.charges() == {"one": 1, "snow": 1}


@pytest.mark.parametrize("first", [{"prompt": ""}, {"prompt": "edit of nothing", "edit_of": "nobody"}])
async def test_an_id_whose_first_entry_was_not_sent_is_refused_all_the_same(sandbox, router, tmp_path, first):
    entries = [{"id": "a", **first}, {"id": "a", "prompt": "two"}]
    for _ in range(2):
        batch = router.generate_many(entries, journal=tmp_path / "run.db", concurrency=1, ordered=True)
        items = [item async for item in batch]
        assert "came twice" in str(items[1].error)
    assert await sandbox.charges() == {}


async def test_the_intent_is_on_disk_before_the_first_byte_and_the_result_before_it_is_seen(sandbox, router, tmp_path):
    path = tmp_path / "run.db"
    async with (
        Sandbox(latency=float("inf")) as holding,
        AsyncVideoRouter("test-key", base_url=holding.base_url, model="m") as client,
        client.generate_many(["otter"], journal=path) as batch,
    ):
        await holding.wait_until(lambda running: running.held == 1)
        assert read(path, "SELECT state, sends FROM items") == [("sending", 1)]
        await holding.release()
        item = await anext(batch)
        assert item.ok
        assert read(path, "SELECT state FROM items") == [("done",)]


async def test_the_task_is_on_disk_before_it_is_looked_at(tmp_path):
    path = tmp_path / "run.db"
    async with Sandbox(mode="task", latency=float("inf")) as sandbox:
        async with AsyncVideoRouter("test-key", base_url=sandbox.base_url, model="m") as router:
            async with router.generate_many(["otter"], journal=path):
                await sandbox.wait_until(lambda running: any("/tasks/" in record.path for record in running.requests))
                ((state, task),) = read(path, "SELECT state, task_id FROM items")
                assert state == "accepted"
                assert task
            assert read(path, "SELECT state FROM items") == [("accepted",)]
            await sandbox.release()
            items = await collect(router.generate_many(["otter"], journal=path))
        assert items[0].ok
        assert items[0].task_id == task
        assert await sandbox.charges() == {"otter": 1}


async def test_an_answer_that_comes_while_the_batch_is_closed_is_kept(tmp_path):
    path = tmp_path / "run.db"
    async with (
        Sandbox(latency=0.3) as sandbox,
        AsyncVideoRouter("test-key", base_url=sandbox.base_url, model="m") as router,
    ):
        async with router.generate_many(["otter"], journal=path) as batch:
            await sandbox.wait_until(lambda running: running.held == 1)
        assert batch.summary.done == 1
        item = (await collect(router.generate_many(["otter"], journal=path)))[0]
        assert item.ok
        assert item.result.url
        assert await sandbox.charges() == {"otter": 1}


@pytest.mark.parametrize("mode", ["held", "task"])
async def test_a_video_whose_hook_is_being_told_while_the_batch_is_closed_is_kept(mode, tmp_path):
    path, told = tmp_path / "run.db", asyncio.Event()

    async def hook(event):
        if isinstance(event, CallFinished) and not told.is_set():
            told.set()
            await asyncio.Event().wait()

    async with (
        Sandbox(mode=mode, profile="instant") as sandbox,
        AsyncVideoRouter("test-key", base_url=sandbox.base_url, model="m", on_event=hook) as router,
    ):
        async with router.generate_many(["otter"], journal=path) as batch:
            await told.wait()
        assert batch.summary.done == 1
        assert (await collect(router.generate_many(["otter"], journal=path)))[0].resumed
        assert await sandbox.charges() == {"otter": 1}


async def test_refused_items_stay_until_retry_is_asked_for(sandbox, router, tmp_path):
    path = tmp_path / "run.db"
    sandbox.faults.add("moderation", times=1)
    assert (await collect(router.generate_many(["otter"], journal=path)))[0].state == "refused"
    kept = (await collect(router.generate_many(["otter"], journal=path)))[0]
    assert (kept.state, kept.resumed, type(kept.error).__name__) == ("refused", True, "ContentPolicyError")
    assert (await collect(router.generate_many(["otter"], journal=path, retry=["refused"])))[0].ok
    assert await sandbox.charges() == {"otter": 1}


async def test_a_failed_task_stays_until_retry_is_asked_for(tmp_path):
    path = tmp_path / "run.db"
    async with Sandbox(mode="task") as sandbox:
        sandbox.faults.add("failed_task", times=1)
        async with AsyncVideoRouter("test-key", base_url=sandbox.base_url, model="m") as router:
            batch = router.generate_many(["otter"], journal=path, price=0.4)
            assert (await collect(batch))[0].state == "failed"
            assert batch.summary.cost_in_doubt == 0.4
            assert (await collect(router.generate_many(["otter"], journal=path)))[0].state == "failed"
            assert (await collect(router.generate_many(["otter"], journal=path, retry=["failed"])))[0].ok


async def test_what_was_never_sent_runs_again(tmp_path):
    path = tmp_path / "run.db"
    async with AsyncVideoRouter("test-key", base_url="http://127.0.0.1:9/v1", model="m", max_retries=0) as router:
        batch = router.generate_many(["otter"], journal=path, price=0.4, max_cost=0.4)
        assert (await collect(batch))[0].state == "not_sent"
        assert batch.summary.not_sent == 1
    async with Sandbox() as sandbox, AsyncVideoRouter("test-key", base_url=sandbox.base_url, model="m") as router:
        assert (await collect(router.generate_many(["otter"], journal=path, price=0.4, max_cost=0.4)))[0].ok
        assert await sandbox.charges() == {"otter": 1}


async def test_another_body_under_the_same_id_is_a_mismatch_and_what_runs_is_kept(sandbox, router, tmp_path):
    path = tmp_path / "run.db"
    await collect(router.generate_many([{"id": "a", "prompt": "one"}], journal=path))
    items = []
    batch = router.generate_many(["new", {"id": "a", "prompt": "two"}, "last"], journal=path)
    with pytest.raises(JournalMismatchError, match="'a'"):
        await gather(batch, items)
    charges = await sandbox.charges()
    assert "two" not in charges
    assert {item.prompt for item in items if item.ok} == charges.keys() - {"one"}


async def test_a_second_batch_on_the_same_journal_is_refused_and_sends_nothing(sandbox, router, tmp_path):
    path = tmp_path / "run.db"
    async with router.generate_many(["otter"], journal=path):
        with pytest.raises(JournalBusyError):
            await collect(router.generate_many(["heron"], journal=path))
    assert "heron" not in await sandbox.charges()


async def test_a_journal_that_cannot_be_written_is_said_before_anything_is_sent(sandbox, router, tmp_path):
    with pytest.raises(JournalError):
        await collect(router.generate_many(["otter"], journal=tmp_path / "missing" / "run.db"))
    assert await sandbox.charges() == {}


async def test_every_entry_of_the_input_has_its_row_and_a_mended_one_leaves_none_behind(sandbox, router, tmp_path):
    path = tmp_path / "run.db"
    entries = [{"id": "a", "prompt": "one"}, {"id": "a", "prompt": "two"}, {"prompt": 3}, {"id": "d"}]
    items = [item async for item in router.generate_many(entries, journal=path, ordered=True)]
    rows = "SELECT id, state FROM items ORDER BY position"
    assert read(path, rows) == [("a", "done"), ("entry@1", "refused"), ("entry@2", "refused"), ("d", "refused")]
    assert [item.id for item in items] == ["a", "entry@1", "entry@2", "d"]
    again = [item async for item in router.generate_many(entries, journal=path, ordered=True)]
    assert [item.state for item in again] == [item.state for item in items]
    assert len(read(path, rows)) == 4
    mended = [
        {"id": "a", "prompt": "one"},
        {"id": "b", "prompt": "two"},
        {"prompt": "three"},
        {"id": "d", "prompt": "4"},
    ]
    assert {item.state async for item in router.generate_many(mended, journal=path)} == {"done"}
    assert [state for _, state in read(path, rows)] == ["done"] * 4
    assert await sandbox.charges() == {"one": 1, "two": 1, "three": 1, "4": 1}


@pytest.mark.parametrize("journalled", [True, False])
async def test_an_edit_means_the_first_of_two_entries_with_one_id(sandbox, router, tmp_path, journalled):
    entries = [{"id": "a", "prompt": "one"}, {"id": "a", "prompt": "two"}, {"edit_of": "a", "prompt": "Snow"}]
    journal = tmp_path / "run.db" if journalled else None
    items = await collect(router.generate_many(entries, journal=journal, concurrency=1))
    assert [items[index].state for index in range(3)] == ["done", "refused", "done"]
    assert await sandbox.charges() == {"one": 1, "Snow": 1}


@pytest.mark.parametrize("how", ["moved", "replaced", "deleted", "emptied", "lock deleted", "lock replaced"])
async def test_nothing_is_bought_once_the_journal_is_not_where_it_was(sandbox, router, tmp_path, how):
    path, elsewhere = tmp_path / "run.db", tmp_path / "elsewhere"
    elsewhere.mkdir()
    batch = router.generate_many(prompts(9), journal=path, concurrency=1)
    states = []
    async for item in batch:
        states.append(item.state)
        if len(states) == 1:
            bought = await sandbox.charges()
            for file in tmp_path.glob("run.db.lock" if "lock" in how else "run.db*"):
                if how == "emptied":
                    os.truncate(path, 0)
                else:
                    file.rename(elsewhere / file.name) if how != "deleted" else file.unlink()
            if "replaced" in how:
                (tmp_path / "run.db.lock" if "lock" in how else path).touch()
    assert "while the batch ran" in batch.summary.stopped
    assert len(await sandbox.charges()) <= len(bought) + 1  # the one that was on its way
    assert states.count("done") == len(await sandbox.charges())
    if how == "moved":
        for file in elsewhere.iterdir():
            file.rename(tmp_path / file.name)
        assert len(await collect(router.generate_many(prompts(9), journal=path))) == 9
        assert await sandbox.charges() == dict.fromkeys(prompts(9), 1)


@pytest.mark.parametrize("shape", ["entry-{}", "entry{}", "{}", "#{}", "entry @{}"])
@pytest.mark.parametrize(
    "broken",
    [{"id": "first", "prompt": "twice"}, {"prompt": 5}, {"id": "first", "prompt": 5}],
    ids=["twice", "unreadable", "both"],
)
async def test_a_refused_entry_never_has_the_id_of_another_one(sandbox, router, tmp_path, broken, shape):
    named = [{"id": shape.format(number), "prompt": f"otter {number}"} for number in range(4)]
    entries = [{"id": "first", "prompt": "first"}, *named[:2], broken, *named[2:]]
    for _ in range(2):
        batch = router.generate_many(entries, journal=tmp_path / "run.db", concurrency=1, ordered=True)
        items = [item async for item in batch]
        assert [item.state for item in items] == ["done", "done", "done", "refused", "done", "done"]
        rows = read(tmp_path / "run.db", "SELECT id, position, state FROM items ORDER BY position")
        assert rows == [(item.id, item.index, item.state) for item in items]
        assert len({item.id for item in items}) == 6
    assert await sandbox.charges() == {"first": 1} | dict.fromkeys(prompts(4), 1)


@pytest.mark.parametrize("given", ["entry@1", "entry@0/2"])
async def test_no_entry_may_have_the_name_of_a_refused_one(sandbox, router, tmp_path, given):
    entries = [{"id": given, "prompt": "otter"}, {"prompt": 5}, {"edit_of": given, "prompt": "Snow"}]
    items = await collect(router.generate_many(entries, journal=tmp_path / "run.db"))
    assert [items[index].id for index in range(3)] == ["entry@0", "entry@1", "entry@2"]
    assert "choose another" in str(items[0].error)
    assert await sandbox.charges() == {}


async def test_each_refused_step_of_a_chain_has_a_row_of_its_own(sandbox, router, tmp_path):
    steps = [{"id": "a", "prompt": "Snow"}, {"id": "a", "prompt": "Rain"}]
    batch = router.generate_many([{"id": "a", "prompt": "otter", "then": steps}], journal=tmp_path / "run.db")
    assert [(item.id, item.state) async for item in batch] == [
        ("a", "done"),
        ("entry@0/1", "refused"),
        ("entry@0/2", "refused"),
    ]
    assert len(read(tmp_path / "run.db", "SELECT id FROM items")) == 3
    assert await sandbox.charges() == {"otter": 1}


@pytest.mark.parametrize("kept", ["no journal", "fresh", "resumed"])
async def test_an_edit_means_the_entry_that_was_sent_and_not_an_unreadable_one_of_its_id(
    sandbox, router, tmp_path, kept
):
    entries = [{"id": "a", "prompt": "one"}, {"id": "a", "prompt": 5}, {"edit_of": "a", "prompt": "Snow"}]
    journal = tmp_path / "run.db" if kept != "no journal" else None
    if kept == "resumed":
        await collect(router.generate_many(entries[:1], journal=journal))
    items = await collect(router.generate_many(entries, journal=journal, concurrency=1))
    assert [items[index].state for index in range(3)] == ["done", "refused", "done"]
    assert await sandbox.charges() == {"one": 1, "Snow": 1}


@pytest.mark.parametrize("earlier", [False, True], ids=["at first", "when resumed"])
@pytest.mark.parametrize("ring", ["a", "ab", "abc"])
async def test_entries_that_edit_each_other_in_a_ring_are_not_waited_for(sandbox, router, tmp_path, ring, earlier):
    entries = [{"prompt": "otter"}]
    if earlier:
        await collect(router.generate_many(entries, journal=tmp_path / "run.db"))
    entries += [{"id": id_, "edit_of": of, "prompt": id_} for id_, of in zip(ring, ring[1:] + ring[:1], strict=True)]
    async with asyncio.timeout(20):
        items = await collect(router.generate_many(entries, journal=tmp_path / "run.db"))
    assert [item.state for item in items.values()].count("done") == 1
    assert "refused" in {item.state for item in items.values()}
    assert await sandbox.charges() == {"otter": 1}


async def test_the_cap_is_never_exceeded(sandbox, router, tmp_path):
    path = tmp_path / "run.db"
    batch = router.generate_many(prompts(50), journal=path, max_cost=2.0, price=0.4, concurrency=8)
    items = await collect(batch)
    assert len(await sandbox.charge_list()) == 5
    assert batch.summary.cost == 2.0
    assert "max_cost" in batch.summary.stopped
    assert any(isinstance(item.error, BudgetExceededError) for item in items.values())
    assert {item.state for item in items.values()} == {"done", "not_sent"}
    again = router.generate_many(prompts(50), journal=path, max_cost=3.0, price=0.4, concurrency=8)
    await collect(again)
    assert len(await sandbox.charge_list()) == 7


async def test_the_gateways_own_cost_makes_room_for_more(tmp_path):
    async with Sandbox(mode="task", seconds=1.0) as sandbox:
        async with AsyncVideoRouter("test-key", base_url=sandbox.base_url, model="veo3-fast") as router:
            batch = router.generate_many(prompts(40), max_cost=10.0, price=5.0, concurrency=4)
            items = await collect(batch)
        spent = sum(charge.amount for charge in await sandbox.charge_list())
        done = [item for item in items.values() if item.ok]
        assert len(done) > 2
        assert spent <= 10.0
        assert batch.summary.cost == pytest.approx(spent)


async def test_a_price_that_is_too_low_does_not_lead_beyond_the_cap(tmp_path):
    async with Sandbox(mode="task") as sandbox, AsyncVideoRouter("key", base_url=sandbox.base_url, model="m") as router:
        one = (await router.generate("the first")).cost
        batch = router.generate_many(
            prompts(9), journal=tmp_path / "r.db", concurrency=1, price=one / 4, max_cost=4.5 * one
        )
        states = [item.state for item in (await collect(batch)).values()]
    assert states.count("done") == 4
    assert batch.summary.cost == pytest.approx(4 * one)
    assert "max_cost is reached" in batch.summary.stopped


async def test_refused_requests_give_their_money_back(sandbox, router):
    sandbox.faults.add("moderation", times=3)
    batch = router.generate_many(prompts(10), max_cost=0.4, price=0.4, concurrency=5)
    items = await collect(batch)
    assert sum(item.ok for item in items.values()) == 1
    assert batch.summary.refused == 3


async def test_missing_files_are_fetched_by_the_next_run(sandbox, router, tmp_path):
    path, clips = tmp_path / "run.db", tmp_path / "clips"
    sandbox.faults.add("status=403", path="/video/*", times=2)
    first = await collect(router.generate_many(prompts(4), journal=path, save_to=clips))
    assert len(list(clips.glob("*.mp4"))) < 4
    assert all(item.state == "done" for item in first.values())
    second = await collect(router.generate_many(prompts(4), journal=path, save_to=clips))
    assert all(item.path.is_file() for item in second.values())
    (clips / "000001-otter-1.mp4").unlink()
    batch = router.generate_many(prompts(4), journal=path, save_to=clips)
    third = await collect(batch)
    assert third[1].path.is_file()
    assert batch.caught_up == 1
    assert len(list(clips.glob("*.mp4"))) == 4
    assert len(await sandbox.charge_list()) == 4


async def test_what_was_emptied_or_cut_is_fetched_again_and_another_whole_file_is_left_and_logged(
    sandbox, router, tmp_path, caplog
):
    path, clips = tmp_path / "run.db", tmp_path / "clips"
    first = await collect(router.generate_many(prompts(4), journal=path, save_to=clips))
    whole = {index: item.path.read_bytes() for index, item in first.items()}
    shorter = movie()
    first[0].path.write_bytes(b"")
    first[1].path.write_bytes(whole[1][:-9])
    first[2].path.write_bytes(shorter)
    first[3].path.write_bytes(whole[3] + b"a note of my own")
    batch = router.generate_many(prompts(4), journal=path, save_to=clips)
    again = await collect(batch)
    assert batch.caught_up == 2
    assert [again[index].path.read_bytes() for index in range(4)] == [
        whole[0], whole[1], shorter, whole[3] + b"a note of my own"
    ]  # fmt: skip
    assert [item.error for item in again.values()] == [None] * 4
    told = [record.getMessage() for record in caplog.records]
    assert [str(first[index].path) in " ".join(told) for index in range(4)] == [False, False, True, True]
    assert len(await sandbox.charge_list()) == 4


async def test_a_video_that_is_no_mp4_has_its_own_ending_and_is_fetched_once(tmp_path):
    fetched = []

    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            return httpx.Response(200, json={"created": 1, "data": [{"url": "https://cdn.example/otter.mp4"}]})
        fetched.append(request.url)
        return httpx.Response(200, content=webm(cluster(0, block(0))))

    async with (
        httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client,
        AsyncVideoRouter("k", base_url="https://gateway.example/v1", model="m", http_client=client) as router,
    ):
        for _ in range(2):
            batch = router.generate_many(["otter"], journal=tmp_path / "run.db", save_to=tmp_path / "clips")
            items = await collect(batch)
            assert items[0].path == tmp_path / "clips" / "000000-otter.webm"
            assert items[0].path.is_file()
    assert len(fetched) == 1


async def test_equal_entries_that_are_one_item_have_one_file(sandbox, router, tmp_path):
    clips = tmp_path / "clips"
    batch = router.generate_many(["otter"] * 5, journal=tmp_path / "run.db", save_to=clips, deduplicate=True)
    items = [item async for item in batch]
    assert [item.error for item in items] == [None] * 5
    assert len({item.path for item in items}) == 1
    assert [path.name for path in clips.iterdir()] == [items[0].path.name]
    assert len([request for request in sandbox.requests if "/video/" in request.path]) == 1


async def test_a_full_disk_for_videos_stops_buying_more_of_them(sandbox, router, tmp_path, monkeypatch):
    path, clips = tmp_path / "run.db", tmp_path / "clips"
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
        batch = router.generate_many(prompts(200), journal=path, save_to=clips, concurrency=2)
        items = await collect(batch)
    assert isinstance(batch.cause, DownloadError)
    assert "are free" in batch.summary.stopped
    bought = len(await sandbox.charge_list())
    assert 0 < bought < 50
    assert all(item.state == "done" and isinstance(item.error, DownloadError) for item in items.values() if item.result)
    again = await collect(router.generate_many(prompts(bought), journal=path, save_to=clips))
    assert all(item.path.is_file() for item in again.values())
    assert len(await sandbox.charge_list()) == bought


async def test_a_link_that_has_expired_is_asked_for_again_where_there_is_a_task(tmp_path):
    path, clips = tmp_path / "run.db", tmp_path / "clips"
    async with Sandbox(mode="task") as sandbox:
        async with AsyncVideoRouter("test-key", base_url=sandbox.base_url, model="m") as router:
            await collect(router.generate_many(["otter"], journal=path))
            database = sqlite3.connect(path)
            database.execute("UPDATE items SET result = replace(result, '/video/', '/gone/')")
            database.commit()
            database.close()
            items = await collect(router.generate_many(["otter"], journal=path, save_to=clips))
        assert items[0].path.is_file()
        assert await sandbox.charges() == {"otter": 1}


async def test_chains_resume_where_they_were_broken_off(sandbox, router, tmp_path):
    path = tmp_path / "run.db"
    entries = [
        {"id": "a", "prompt": "An otter", "model": "sora-2"},
        {"id": "b", "edit_of": "a", "prompt": "Snow", "model": "sora-2"},
        {"prompt": "A heron", "model": "sora-2", "then": ["Rain", "Fog"]},
    ]
    sandbox.faults.add("moderation", prompt="Snow", times=1)
    sandbox.faults.add("status=500", prompt="Rain", times=1, charged=False)
    first = [item async for item in router.generate_many(entries, journal=path)]
    assert {item.prompt: item.state for item in first} == {
        "An otter": "done",
        "Snow": "refused",
        "A heron": "done",
        "Rain": "in_doubt",
        "Fog": "not_sent",
    }
    options = {"retry": True, "on_outcome_unknown": "resend"}
    second = [item async for item in router.generate_many(entries, journal=path, **options)]
    assert {item.state for item in second} == {"done"}
    assert max((await sandbox.charges()).values()) == 1


def fail_at(monkeypatch, step: str, number: int = 1):
    """Make the journal fail once, at one step, as a full disk would."""
    seen = [0]
    real = journal_module.Journal.__init__

    def fault(at: str) -> None:
        if at == step:
            seen[0] += 1
            if seen[0] == number:
                raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(journal_module.Journal, "__init__", lambda self, path, **_: real(self, path, fault=fault))


async def test_a_disk_that_is_full_at_an_intent_sends_nothing(sandbox, router, tmp_path, monkeypatch):
    fail_at(monkeypatch, "intent")
    batch = router.generate_many(prompts(20), journal=tmp_path / "run.db", concurrency=1)
    items = await collect(batch)
    assert items[0].state == "not_sent"
    assert isinstance(items[0].error, JournalError)
    assert "full" in batch.summary.stopped
    assert batch.summary.not_sent == 20
    assert await sandbox.charges() == {}


@pytest.mark.parametrize("step", ["ending", "task"])
async def test_a_disk_that_is_full_at_a_result_still_returns_it_and_stops(tmp_path, monkeypatch, step):
    path = tmp_path / "run.db"
    async with (
        Sandbox(mode="task") as sandbox,
        AsyncVideoRouter("test-key", base_url=sandbox.base_url, model="m") as router,
    ):
        with monkeypatch.context() as patch:
            fail_at(patch, step)
            batch = router.generate_many(prompts(20), journal=path, concurrency=1)
            items = await collect(batch)
        assert [item.state for item in items.values()] == ["done"]
        assert "full" in batch.summary.stopped
        assert (batch.summary.done, batch.summary.not_sent) == (1, 19)
        again = await collect(router.generate_many(prompts(20), journal=path))
        assert {item.state for item in again.values()} == {"done"}
        assert await sandbox.charges() == dict.fromkeys(prompts(20), 1)


def test_the_sync_client_runs_batches_too(tmp_path):
    with Sandbox().in_thread() as sandbox, VideoRouter("test-key", base_url=sandbox.base_url, model="m") as router:
        batch = router.generate_many(prompts(6), journal=tmp_path / "run.db")
        assert {item.state for item in batch} == {"done"}
        assert batch.summary.done == 6
        for _ in router.generate_many(prompts(6), journal=tmp_path / "run.db"):
            break
        with router.generate_many(prompts(6), journal=tmp_path / "run.db") as again:
            assert next(iter(again)).ok
        assert batch.in_flight == 0
        assert sandbox.charges() == dict.fromkeys(prompts(6), 1)


async def test_an_accepted_task_that_the_gateway_has_lost_is_told_and_asked_for_again(tmp_path):
    path = tmp_path / "run.db"
    async with Sandbox(mode="task", latency=float("inf"), state=tmp_path / "state") as sandbox:
        async with (
            AsyncVideoRouter("key", base_url=sandbox.base_url, model="m") as router,
            router.generate_many(["otter"], journal=path, price=0.4),
        ):
            await sandbox.wait_until(lambda running: any("/tasks/" in record.path for record in running.requests))
    async with Sandbox(mode="task") as other, AsyncVideoRouter("key", base_url=other.base_url, model="m") as router:
        young = router.generate_many(["otter"], journal=path, price=0.4, timeout=0.5)
        assert (await collect(young))[0].state == "accepted"  # it may not be visible yet
        with closing(sqlite3.connect(path, isolation_level=None)) as database:
            database.execute("UPDATE items SET accepted = accepted - 60")
        batch = router.generate_many(["otter"], journal=path, price=0.4)
        item = (await collect(batch))[0]
        assert (item.state, batch.summary.lost, batch.summary.cost_in_doubt) == ("lost", 1, 0.4)
        assert read(path, "SELECT state, reserved, unknown, status FROM items") == [("lost", 0.0, 0.4, 404)]
        assert await other.charges() == {}
    async with Sandbox(mode="task", state=tmp_path / "state") as again:
        await again.release()
        async with AsyncVideoRouter("key", base_url=again.base_url, model="m") as router:
            batch = router.generate_many(["otter"], journal=path, price=0.4)
            assert (await collect(batch))[0].ok
        assert await again.charges() == {"otter": 1}
    assert read(path, "SELECT state, unknown, cost > 0 FROM items") == [("done", 0.0, 1)]
