"""However a batch is left, its journal is free for the next run, and what was on the wire stands in it."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import threading

import anyio
import pytest
from batching import collect, prompts

from videorouter import AsyncVideoRouter, VideoRouter
from videorouter.sandbox import Sandbox

ON_THE_WIRE = 3


@pytest.fixture
async def sandbox():
    async with Sandbox(latency=float("inf")) as running:
        yield running


@pytest.fixture
async def router(sandbox):
    async with AsyncVideoRouter("key", base_url=sandbox.base_url, model="m", adaptive=False) as client:
        yield client


def read_states(path) -> dict[str, int]:
    database = sqlite3.connect(path)
    try:
        return dict(database.execute("SELECT state, count(*) FROM items GROUP BY state").fetchall())
    finally:
        database.close()


async def cancel_once(loop):
    loop.cancel()


async def cancel_twice(loop):
    loop.cancel()
    await asyncio.sleep(0)
    loop.cancel()


async def cancel_again_and_again(loop):
    while not loop.done():
        loop.cancel()
        await asyncio.sleep(0)


@pytest.mark.anyio
@pytest.mark.parametrize("cancel", [cancel_once, cancel_twice, cancel_again_and_again])
@pytest.mark.parametrize("kept_open", [True, False], ids=["block", "loop"])
async def test_a_cancelled_batch_releases_its_journal(sandbox, router, tmp_path, cancel, kept_open):
    path = tmp_path / "run.db"
    batch = router.generate_many(prompts(9), concurrency=ON_THE_WIRE, journal=path)

    async def consume():
        if not kept_open:
            return [item async for item in batch]
        async with batch:
            return [item async for item in batch]

    loop = asyncio.ensure_future(consume())
    await sandbox.wait_until(lambda running: running.held == ON_THE_WIRE)
    await cancel(loop)
    with pytest.raises(asyncio.CancelledError):
        await loop
    await check_next_run(sandbox, router, path)


async def check_next_run(sandbox, router, path):
    """The next run can have the journal at once, and finds what was on the wire."""
    run = asyncio.ensure_future(collect(router.generate_many(prompts(9), journal=path)))
    while not run.done():
        if path.exists() and read_states(path).get("sending", 0) == 6:
            await sandbox.release()
        await asyncio.sleep(0.01)
    items = run.result()
    assert len(items) == 9
    assert [items[index].state for index in range(ON_THE_WIRE)] == ["in_doubt"] * ON_THE_WIRE
    assert read_states(path) == {"in_doubt": ON_THE_WIRE, "done": 6}
    assert max((await sandbox.charges()).values()) == 1


async def by_a_timeout(batch, sandbox):
    async def consume():
        async with asyncio.timeout(None) as limit:
            limits.append(limit)
            async for _ in batch:
                pass

    limits = []
    loop = asyncio.ensure_future(consume())
    await sandbox.wait_until(lambda running: running.held == ON_THE_WIRE)
    limits[0].reschedule(asyncio.get_running_loop().time())
    with pytest.raises(TimeoutError):
        await loop


async def by_a_scope(batch, sandbox):
    async with anyio.create_task_group() as group:

        async def consume():
            async for _ in batch:
                pass

        group.start_soon(consume)
        await sandbox.wait_until(lambda running: running.held == ON_THE_WIRE)
        group.cancel_scope.cancel()


async def by_a_scope_around_its_block(batch, sandbox):
    async with anyio.create_task_group() as group:

        async def consume():
            async with batch:
                async for _ in batch:
                    pass

        group.start_soon(consume)
        await sandbox.wait_until(lambda running: running.held == ON_THE_WIRE)
        group.cancel_scope.cancel()


async def by_a_browser_that_went_away(batch, sandbox):
    responses = pytest.importorskip("starlette.responses")

    async def body():
        yield "[\n"
        async for item in batch:
            yield item.prompt

    async def receive():
        await sandbox.wait_until(lambda running: running.held == ON_THE_WIRE)
        return {"type": "http.disconnect"}

    async def send(message):
        await asyncio.sleep(0)

    scope = {"type": "http", "asgi": {"spec_version": "2.3"}, "method": "GET", "path": "/", "headers": []}
    await responses.StreamingResponse(body())(scope, receive, send)


@pytest.mark.anyio
@pytest.mark.parametrize("leave", [by_a_timeout, by_a_scope, by_a_scope_around_its_block, by_a_browser_that_went_away])
async def test_a_batch_that_others_cancel_releases_its_journal(sandbox, router, tmp_path, leave):
    path = tmp_path / "run.db"
    batch = router.generate_many(prompts(9), concurrency=ON_THE_WIRE, journal=path)
    await leave(batch, sandbox)
    await check_next_run(sandbox, router, path)
    assert batch.summary.in_doubt == ON_THE_WIRE


@pytest.mark.anyio
async def test_a_loop_that_is_left_frees_the_journal_for_the_next_batch(tmp_path):
    async with Sandbox() as sandbox, AsyncVideoRouter("key", base_url=sandbox.base_url, model="m") as router:
        path = tmp_path / "run.db"
        async for _ in router.generate_many(prompts(5), concurrency=1, journal=path):
            break
        items = await collect(router.generate_many(prompts(5), journal=path))
        assert {item.state for item in items.values()} <= {"done", "in_doubt"}
        assert max((await sandbox.charges()).values()) == 1


async def wait_for(batch, loop):
    return await asyncio.wait_for(anext(loop), 0.01)


async def wait_for_a_new_loop(batch, loop):
    return await asyncio.wait_for(anext(aiter(batch)), 0.01)


async def timeout(batch, loop):
    async with asyncio.timeout(0.01):
        return await anext(loop)


async def timeout_around_a_new_loop(batch, loop):
    async with asyncio.timeout(0.01):
        return await anext(aiter(batch))


async def fail_after(batch, loop):
    with anyio.fail_after(0.01):
        return await anext(loop)


@pytest.mark.anyio
@pytest.mark.parametrize("take", [wait_for, wait_for_a_new_loop, timeout, timeout_around_a_new_loop, fail_after])
@pytest.mark.parametrize("journal", [True, False])
async def test_a_batch_goes_on_after_a_wait_that_timed_out(tmp_path, take, journal):
    async with (
        Sandbox(latency=0.05) as sandbox,
        AsyncVideoRouter("key", base_url=sandbox.base_url, model="m") as router,
    ):
        batch = router.generate_many(prompts(7), concurrency=2, journal=tmp_path / "run.db" if journal else None)
        loop = aiter(batch) if "new_loop" not in take.__name__ else None
        taken, timed_out = [], 0
        while True:
            try:
                taken.append((await take(batch, loop)).index)
            except TimeoutError:
                timed_out += 1
            except StopAsyncIteration:
                break
        assert sorted(taken) == list(range(7))
        assert timed_out
        assert set((await sandbox.charges()).values()) == {1}
        assert batch.summary.done == 7
        assert batch.summary.stopped is None


@pytest.mark.anyio
async def test_each_loop_that_is_left_has_turns_of_its_own_before_the_batch_closes(sandbox, router):
    batch = router.generate_many(prompts(2), concurrency=1)
    waiting = asyncio.ensure_future(anext(batch))
    await sandbox.wait_until(lambda running: running.held == 1)
    for _ in range(30):  # each is left while the turns of the one before still run
        aiter(batch)
        for _ in range(6):
            await asyncio.sleep(0)
    loop = aiter(batch)
    for _ in range(20):
        await asyncio.sleep(0)
    assert batch.summary.stopped is None
    await sandbox.release()
    assert (await waiting).state == "done"
    await loop.aclose()


@pytest.mark.parametrize("held", ["loop", "nothing"])
def test_the_end_of_the_event_loop_closes_what_is_open(tmp_path, held):
    path = tmp_path / "run.db"
    kept = []

    async def leave():
        async with (
            Sandbox(latency=float("inf")) as sandbox,
            AsyncVideoRouter("key", base_url=sandbox.base_url, model="m", adaptive=False) as router,
        ):
            loop = aiter(router.generate_many(prompts(2), journal=path))
            if held == "loop":
                kept.append(loop)
            waiting = asyncio.ensure_future(anext(loop))
            del loop
            await sandbox.wait_until(lambda running: running.held == 2)
            waiting.cancel()

    async def go_on():
        async with Sandbox() as sandbox, AsyncVideoRouter("key", base_url=sandbox.base_url, model="m") as router:
            return await collect(router.generate_many(prompts(2), journal=path))

    asyncio.run(leave())
    assert [item.state for item in asyncio.run(go_on()).values()] == ["in_doubt"] * 2


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="sends Ctrl-C to this thread alone")
def test_ctrl_c_in_a_sync_loop_releases_the_journal(tmp_path):
    path = tmp_path / "run.db"
    main = threading.main_thread().ident
    with Sandbox(latency=float("inf")).in_thread() as sandbox:
        with VideoRouter("key", base_url=sandbox.base_url, model="m", adaptive=False) as router:

            def interrupt():
                sandbox.wait_until(lambda running: running.held == ON_THE_WIRE)
                signal.pthread_kill(main, signal.SIGINT)

            thread = threading.Thread(target=interrupt)
            thread.start()
            with pytest.raises(KeyboardInterrupt):
                for _ in router.generate_many(prompts(9), concurrency=ON_THE_WIRE, journal=path):
                    pass
            thread.join()
            assert read_states(path) == {"in_doubt": ON_THE_WIRE}
            again = router.generate_many(prompts(ON_THE_WIRE), journal=path)
            assert [item.state for item in again] == ["in_doubt"] * ON_THE_WIRE


@pytest.mark.anyio
async def test_an_input_that_blocks_while_it_is_looked_through_does_not_hold_up_the_end(tmp_path):
    class Blocked:
        def __len__(self):
            return 2

        def __iter__(self):
            yield "otter 0"
            reached.set()
            go_on.wait(60)
            yield "otter 1"

    reached, go_on = threading.Event(), threading.Event()
    path = tmp_path / "run.db"
    async with Sandbox() as sandbox, AsyncVideoRouter("key", base_url=sandbox.base_url, model="m") as router:
        await collect(router.generate_many(prompts(1), journal=path))
        batch = router.generate_many(Blocked(), journal=path)
        waiting = asyncio.ensure_future(anext(batch, None))
        assert await asyncio.to_thread(reached.wait, 30)
        await batch.aclose()
        assert await waiting is None
        go_on.set()
        assert [item.state for item in (await collect(router.generate_many(prompts(1), journal=path))).values()] == [
            "done"
        ]
        assert await sandbox.charges() == {"otter 0": 1}
