"""A hook changes nothing: not by what it raises, not by a cancellation of its own, not by never returning."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time

import anyio
import pytest
from calling import KEY, calling, fail
from servers import answer, lose, task_accepted, until

from videorouter import AsyncVideoRouter, OutcomeUnknownError
from videorouter.call.hooks import call_hooks
from videorouter.events import AttemptStarted, CallFinished, OutcomeInDoubt, TaskAccepted

pytestmark = pytest.mark.anyio


async def cancel_itself(event):
    raise asyncio.CancelledError


def cancel_plainly(event):
    raise asyncio.CancelledError


async def wait_for_a_cancelled_task(event):
    task = asyncio.ensure_future(asyncio.sleep(60))
    task.cancel()
    await task


async def fail_late(event):
    await asyncio.sleep(0)
    raise ValueError("broken")


def fail_plainly(event):
    raise ValueError("broken")


BROKEN = [cancel_itself, cancel_plainly, wait_for_a_cancelled_task, fail_late, fail_plainly]


@pytest.mark.parametrize("hook", BROKEN)
async def test_what_a_hook_raises_is_logged_and_changes_nothing(hook, caplog):
    async with calling(answer(), on_event=hook, on_in_doubt=hook) as (gateway, router):
        result = await router.generate("otter", model="veo", timeout=5, idempotency_key="key-of-mine")
        assert result.video_id == "video_1"
        assert len(gateway.posts) == 1
    told = [record.getMessage() for record in caplog.records if record.name == "videorouter"]
    assert len(told) == 4
    assert all("a hook" in line and line.endswith("key-of-mine") for line in told)


@pytest.mark.parametrize("hook", BROKEN)
async def test_an_unknown_outcome_stays_one_whatever_its_hooks_raise(hook):
    async with calling(lose(), on_event=hook, on_in_doubt=hook) as (gateway, router):
        assert isinstance(await fail(router), OutcomeUnknownError)
        assert len(router.in_doubt) == len(gateway.posts) == 1
        assert router.stats().in_flight == 0


async def never_return(event):
    await asyncio.Event().wait()


async def test_a_hook_that_never_returns_is_given_up_and_named(caplog):
    async with calling(answer(), on_event=never_return, hook_timeout=0.1) as (_, router):
        began = time.monotonic()
        await router.generate("otter", model="veo", timeout=20, idempotency_key="key-of-mine")
        assert 0.35 < time.monotonic() - began < 3
    told = [record.getMessage() for record in caplog.records if record.name == "videorouter"]
    kinds = ("CallStarted", "AttemptStarted", "AttemptFinished", "CallFinished")
    assert told == [f"a hook was given up after 0.1 s: {kind} key-of-mine" for kind in kinds]


async def test_a_hook_has_five_seconds():
    async with calling(answer()) as (_, router):
        assert router._settings.hook_timeout == 5.0


async def test_a_hook_that_refuses_to_be_cancelled_is_left_behind():
    release = asyncio.Event()
    refused = 0

    async def refuse(event):
        nonlocal refused
        while not release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await release.wait()
                break
            refused += 1

    async with calling(answer(), on_event=refuse, hook_timeout=0.1) as (_, router):
        began = time.monotonic()
        await router.generate("otter", model="veo", timeout=20)
        assert time.monotonic() - began < 3
        assert refused >= 3
        release.set()
        await asyncio.sleep(0.05)


async def test_an_event_hook_is_not_waited_for_past_the_deadline_and_still_told():
    told = []

    async def slow(event):
        await asyncio.sleep(0 if isinstance(event, AttemptStarted | OutcomeInDoubt) else 0.7)
        told.append(type(event))

    async with calling(answer(), lose("hold"), on_event=slow, hook_timeout=2) as (_, router):
        async with asyncio.timeout(20):
            await router.with_options(on_event=None).generate("otter", model="veo")
        began = time.monotonic()
        assert isinstance(await fail(router, timeout=1.8), OutcomeUnknownError)
        assert time.monotonic() - began < 2.4
        assert CallFinished not in told
        await until(lambda: CallFinished in told)


async def test_what_is_in_doubt_is_told_after_the_deadline_too():
    told = []

    async def slow(record):
        await asyncio.sleep(0.4)
        told.append(record.idempotency_key)

    async with calling(lose("hold"), on_in_doubt=slow) as (_, router):
        error = await fail(router, timeout=0.3)
        assert told == [error.idempotency_key]


async def test_a_recording_hook_that_is_given_up_is_logged_with_its_id(caplog):
    async with calling(lose(), on_in_doubt=never_return, hook_timeout=0.2) as (_, router):
        began = time.monotonic()
        error = await fail(router)
        assert time.monotonic() - began < 3
    assert f"a hook was given up after 0.2 s: InDoubt {error.idempotency_key}" in caplog.text


async def test_a_call_that_is_cancelled_twice_still_tells_what_is_in_doubt():
    told = []

    async def slow(record):
        await asyncio.sleep(0.3)
        told.append(record)

    async with calling(lose("hold"), on_in_doubt=slow, on_event=slow) as (gateway, router):
        call = asyncio.create_task(router.generate("otter", model="veo"))
        await until(lambda: gateway.posts)
        await asyncio.sleep(0.4)
        told.clear()
        call.cancel()
        for _ in range(14):
            await asyncio.sleep(0.1)
            call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        (record,) = router.in_doubt
        assert record in told
        assert OutcomeInDoubt in [type(one) for one in told]
        assert router.stats().in_flight == 0


async def test_an_accepted_task_is_told_whole_when_its_call_is_cancelled_meanwhile():
    told = []

    async def slow(event):
        if isinstance(event, TaskAccepted):
            begun.set()
            await asyncio.sleep(0.3)
            told.append(event.task_id)

    begun = asyncio.Event()
    async with calling(task_accepted(), on_event=slow) as (_, router):
        call = asyncio.create_task(router.submit("otter", model="veo"))
        await begun.wait()
        call.cancel()
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert told == [record.task_id for record in router.in_doubt]
        assert len(told) == 1


async def test_a_cancelled_call_does_not_wait_for_an_event_hook():
    cancelled = []

    async def slow(event):
        if isinstance(event, AttemptStarted):
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                cancelled.append(event)
                raise

    async with calling(answer(), on_event=slow) as (gateway, router):
        call = asyncio.create_task(router.generate("otter", model="veo"))
        await asyncio.sleep(0.1)
        began = time.monotonic()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert time.monotonic() - began < 0.5
        await asyncio.sleep(0)
        assert len(cancelled) == 1
        assert gateway.posts == []


async def test_a_scope_around_a_call_ends_it_in_its_hook():
    async with calling(answer(), on_event=never_return) as (gateway, router):
        with anyio.move_on_after(0.2) as scope:
            await router.generate("otter", model="veo")
        assert scope.cancelled_caught
        assert gateway.posts == []


async def test_a_task_of_yours_that_a_hook_hands_back_is_not_cancelled():
    work = asyncio.ensure_future(asyncio.sleep(0.5, "done"))
    async with calling(answer(), on_event=lambda event: work, hook_timeout=0.05) as (_, router):
        await router.generate("otter", model="veo", timeout=20)
    assert await work == "done"


class BrokenHandler(logging.Handler):
    def emit(self, record):
        raise asyncio.CancelledError if self.level == logging.NOTSET else ValueError("broken")


@pytest.mark.parametrize("level", [logging.NOTSET, logging.DEBUG])
async def test_a_log_handler_that_raises_changes_nothing(level):
    handler = BrokenHandler(level)
    logging.getLogger("videorouter").addHandler(handler)
    try:
        async with calling(answer(), on_event=fail_plainly) as (gateway, router):
            assert (await router.generate("otter", model="veo", timeout=5)).video_id == "video_1"
            assert len(gateway.posts) == 1
    finally:
        logging.getLogger("videorouter").removeHandler(handler)


async def test_an_on_progress_hook_that_cancels_itself_or_hangs_loses_no_file(sandbox, tmp_path):
    async with AsyncVideoRouter(KEY, base_url=sandbox.base_url, model="veo3-fast", hook_timeout=0.05) as router:
        result = await router.generate("otter")
        for name, hook in (("a.mp4", cancel_itself), ("b.mp4", never_return), ("c.mp4", cancel_plainly)):
            saved = await router.save(result, tmp_path / name, on_progress=hook)
            assert saved.path.stat().st_size == saved.size > 0


def test_hooks_under_trio_are_bounded_too(caplog):
    trio = pytest.importorskip("trio")
    told = []

    async def slow(argument):
        await trio.sleep(0.05)
        told.append(argument)

    async def hang(argument):
        await trio.sleep_forever()

    async def main():
        began = time.monotonic()
        await call_hooks(((slow, 1), (hang, 2), (fail_late_in_trio, 3), (slow, 4)), limit=0.2)
        assert time.monotonic() - began < 2
        with trio.move_on_after(0.01):
            await call_hooks(((slow, 5),), limit=0.5, recording=True)

    async def fail_late_in_trio(argument):
        await trio.sleep(0)
        raise ValueError("broken")

    trio.run(main)
    assert told == [1, 4, 5]
    assert "given up" in caplog.text
