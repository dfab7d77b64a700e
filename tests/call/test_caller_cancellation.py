"""A cancelled call frees everything, and what it may have bought is written down."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time

import pytest
from calling import calling
from servers import (
    BODY,
    answer,
    lose,
    task_accepted,
    until,
    write_answer,
)

from videorouter import Phase

pytestmark = pytest.mark.anyio


async def test_a_call_cancelled_before_it_was_sent_leaves_nothing():
    async with calling(lose("hold"), max_concurrency=1) as (gateway, router):
        first = asyncio.create_task(router.generate("otter", model="veo"))
        await until(lambda: gateway.posts)
        second = asyncio.create_task(router.generate("otter", model="veo"))
        await until(lambda: router.stats().queued)
        second.cancel()
        await asyncio.wait([second])
        assert (router.stats().queued, router.in_doubt) == (0, ())
        first.cancel()
        await asyncio.wait([first])
        assert len(router.in_doubt) == 1
        assert router.stats().in_flight == 0


async def test_a_cancelled_call_is_in_doubt_and_told_to_the_hook():
    told = []

    async def hook(record):
        await asyncio.sleep(0)
        told.append(record)

    async with calling(lose("hold"), on_in_doubt=hook) as (gateway, router):
        call = asyncio.create_task(router.generate("otter", model="veo", idempotency_key="k-1"))
        await until(lambda: gateway.posts)
        began = time.monotonic()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert time.monotonic() - began < 1.5
        assert [record.idempotency_key for record in told] == ["k-1"]
        assert router.in_doubt == tuple(told)
        assert told[0].phase == Phase.SENT
        assert told[0].task_id is None


async def test_an_answer_on_its_way_is_caught_while_the_call_is_cancelled():
    async def slow(visit):
        await visit.read()
        await asyncio.sleep(0.2)
        await visit.say(write_answer(200, json.dumps({"data": {"task_id": "t-5"}}).encode()))

    async with calling(slow) as (gateway, router):
        call = asyncio.create_task(router.generate("otter", model="veo"))
        await until(lambda: gateway.posts)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert [record.task_id for record in router.in_doubt] == ["t-5"]


async def test_a_result_on_its_way_is_kept_while_the_call_is_cancelled():
    async def slow(visit):
        await visit.read()
        await asyncio.sleep(0.2)
        await visit.say(write_answer(200, BODY))

    async with calling(slow) as (gateway, router):
        call = asyncio.create_task(router.generate("otter", model="veo"))
        await until(lambda: gateway.posts)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert router.in_doubt[0].result.video_id == "video_1"


async def test_a_refusal_on_its_way_leaves_no_doubt():
    async def slow(visit):
        await visit.read()
        await asyncio.sleep(0.2)
        await visit.say(write_answer(429, b"{}"))

    async with calling(slow) as (gateway, router):
        call = asyncio.create_task(router.generate("otter", model="veo"))
        await until(lambda: gateway.posts)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert router.in_doubt == ()


async def test_a_job_cancelled_while_it_is_polled_leaves_its_task_id():
    async with calling(task_accepted("t-3"), answer(200, {"data": {"status": "running"}})) as (gateway, router):
        call = asyncio.create_task(router.generate("otter", model="veo"))
        await until(lambda: gateway.gets)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert [record.task_id for record in router.in_doubt] == ["t-3"]
        assert router.stats().in_flight == 0


async def test_cancelling_at_any_moment_loses_no_slot_and_no_accepted_task():
    done = {"data": {"status": "completed", "urls": {"video": "https://cdn.example/v.mp4"}}}
    numbers = iter(range(10_000))

    async def serve(visit):
        request = await visit.read()
        await asyncio.sleep(0.003)
        if request.method == "POST":
            body = {"data": {"task_id": f"t-{next(numbers)}"}}
            await visit.say(write_answer(200, json.dumps(body).encode()))
        else:
            await visit.say(write_answer(200, json.dumps(done).encode()))

    accepted, finished = set(), set()

    def note(event):
        if type(event).__name__ == "TaskAccepted":
            accepted.add(event.task_id)

    async with calling(serve, max_concurrency=8, on_event=note) as (_, router):

        async def run(delay):
            call = asyncio.create_task(router.generate("otter", model="veo", timeout=10))
            await asyncio.sleep(delay)
            call.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                finished.add((await call).task_id)

        await asyncio.gather(*(run(n * 0.002) for n in range(200)))
        recorded = {record.task_id for record in router.in_doubt}
        issued = next(numbers)
        known = recorded | finished
        assert {f"t-{n}" for n in range(issued)} <= known
        assert router.stats().in_flight == 0
        assert router.stats().queued == 0
        assert (await router.generate("otter", model="veo", timeout=10)).url


@pytest.mark.parametrize("verb", ["generate", "submit"])
async def test_what_a_call_has_brought_is_kept_when_it_is_cancelled_while_its_hook_is_told(verb):
    told = asyncio.Event()

    async def hook(event):
        if type(event).__name__ == "CallFinished":
            told.set()
            await asyncio.Event().wait()

    async with calling(answer(200, BODY), on_event=hook) as (_, router):
        call = asyncio.create_task(getattr(router, verb)("otter", model="veo"))
        await told.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        (record,) = router.in_doubt
        assert record.result.url
        assert record.phase == Phase.COMPLETE


@pytest.mark.parametrize("moment", ["TaskAccepted", "AttemptFinished", "CallFinished"])
@pytest.mark.parametrize("verb", ["generate", "submit", "submit_edit"])
async def test_an_accepted_task_is_kept_wherever_its_call_is_cancelled(verb, moment):
    told = asyncio.Event()

    async def hook(event):
        if type(event).__name__ == moment:
            told.set()
            await asyncio.Event().wait()

    done = answer(200, {"data": {"status": "completed", "outputs": ["https://cdn.example/v.mp4"]}})
    async with calling(task_accepted("t-9"), done, on_event=hook) as (gateway, router):
        args = ("video_1", "snow") if "edit" in verb else ("otter",)
        call = asyncio.create_task(getattr(router, verb)(*args, model="veo", timeout=20))
        await told.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        (record,) = router.in_doubt
        assert record.task_id == "t-9"
        assert record.verb == ("edit" if "edit" in verb else "generate")
        gateway.steps = [done]
        assert (await router.with_options(on_event=None).wait(record)).url == "https://cdn.example/v.mp4"
