"""Nothing is sent too late: not after the deadline, and not with less time left than any answer has taken."""

from __future__ import annotations

import asyncio
import time

import pytest
from calling import KEY, calling, fail
from servers import BODY, Gateway, answer, write_answer

from videorouter import (
    APIConnectionError,
    AsyncVideoRouter,
    DeadlineExceededError,
    OutcomeUnknownError,
    RateLimitError,
    VideoResult,
)

pytestmark = pytest.mark.anyio

PICTURE = b"\x89PNG\r\n\x1a\n" + b"\0" * 64
ASSET = b'{"data":{"id":"a-1","url":"https://files.example/a.png","status":"active"}}'


def after(seconds: float, status: int = 200, body: bytes = BODY, *fields: str):
    """Read the request, think, answer."""

    async def step(visit):
        await visit.read()
        await asyncio.sleep(seconds)
        await visit.say(write_answer(status, body, *fields))

    return step


def bought(gateway):
    return [post for post in gateway.posts if post.path.startswith("/v1/videos/")]


async def test_calls_that_queue_until_no_answer_can_come_in_time_are_not_sent():
    async with calling(after(1.0), max_concurrency=2, adaptive=False) as (gateway, router):
        calls = [router.generate(f"otter {n}", model="veo", timeout=4.5) for n in range(20)]
        ended = await asyncio.gather(*calls, return_exceptions=True)
        assert sum(isinstance(one, VideoResult) for one in ended) == len(gateway.posts) == 8
        late = [one for one in ended if not isinstance(one, VideoResult)]
        assert {type(one) for one in late} == {DeadlineExceededError}
        assert all("Nothing was sent, so nothing was bought" in one.message for one in late)
        assert router.in_doubt == ()


async def test_a_queued_call_is_sent_where_answers_are_known_to_be_quick_enough():
    async with calling(after(0.15), max_concurrency=1, adaptive=False) as (gateway, router):
        calls = [router.generate(f"otter {n}", model="veo", timeout=0.6) for n in range(2)]
        assert len(await asyncio.gather(*calls)) == len(gateway.posts) == 2


async def test_a_queued_call_needs_a_second_where_nothing_is_known():
    steps = after(0.3, 400, b'{"error":{"message":"no"}}'), after(0.0)
    async with calling(*steps, max_concurrency=1, adaptive=False) as (gateway, router):
        first = asyncio.create_task(fail(router))
        await asyncio.sleep(0.1)
        error = await fail(router, timeout=0.9)
        assert type(error) is DeadlineExceededError
        await first
        assert len(gateway.posts) == 1


async def test_a_fresh_call_is_sent_however_short_its_timeout():
    async with calling(after(0.3), answer()) as (gateway, router):
        await router.generate("otter", model="veo")
        assert (await router.generate("otter", model="veo", timeout=0.25)).video_id == "video_1"
        assert len(gateway.posts) == 2


async def test_an_upload_that_takes_longer_than_the_call_buys_nothing():
    async with calling(after(1.5, 200, ASSET), answer()) as (gateway, router):
        error = await fail(router, timeout=1, image_url=PICTURE)
        await asyncio.sleep(1)
        assert bought(gateway) == []
        assert not isinstance(error, VideoResult)


async def test_a_file_that_takes_longer_to_read_than_the_call_may_take_buys_nothing():
    class Slow:
        name = "cat.png"

        def read(self):
            time.sleep(1.3)
            return PICTURE

    async with calling(after(0.0, 200, ASSET), answer()) as (gateway, router):
        await router.upload(b"\x89PNG\r\n\x1a\n" + b"warm", model="veo")
        assert type(await fail(router, timeout=1, image_url=Slow())) is DeadlineExceededError
        assert len(gateway.posts) == 1


async def test_an_upload_that_leaves_too_little_buys_nothing():
    async with calling(after(0.6, 200, ASSET), answer()) as (gateway, router):
        error = await fail(router, timeout=1, image_url=PICTURE)
        assert type(error) is DeadlineExceededError
        assert bought(gateway) == []
        # The upload is remembered: with time enough, or without having to wait for it, the same call is sent.
        assert (await router.generate("otter", model="veo", timeout=0.5, image_url=PICTURE)).video_id == "video_1"
        assert (len(bought(gateway)), len(gateway.posts)) == (1, 2)


async def test_the_deadline_holds_for_whoever_waits_for_the_upload_of_another_call():
    async with calling(after(1.5, 200, ASSET), answer()) as (gateway, router):
        first = asyncio.create_task(router.generate("otter", model="veo", timeout=20, image_url=PICTURE))
        async with asyncio.timeout(5):
            while not gateway.posts:
                await asyncio.sleep(0.01)
        began = time.monotonic()
        error = await fail(router, timeout=0.3, image_url=PICTURE)
        assert type(error) is DeadlineExceededError
        assert time.monotonic() - began < 1
        assert (await first).video_id == "video_1"
        assert len(bought(gateway)) == 1


async def test_the_next_model_is_not_tried_when_no_time_is_left_for_it():
    async with calling(after(0.5, 400, b'{"error":{"message":"no"}}'), answer()) as (gateway, router):
        with pytest.raises(DeadlineExceededError) as caught:
            await router.generate("otter", models=["veo", "sora"], timeout=0.9)
        assert caught.value.__notes__ == ["Models tried before, without a charge: veo: BadRequestError."]
        assert len(gateway.posts) == 1
        result = await router.generate("otter", models=["veo", "sora"], timeout=5)
        assert result.video_id == "video_1"


async def test_a_retry_that_could_not_be_answered_in_time_is_not_sent():
    async with calling(answer(429), answer()) as (gateway, router):
        began = time.monotonic()
        error = await fail(router, timeout=0.9)
        assert type(error) is RateLimitError
        assert time.monotonic() - began < 0.5  # it knows at once, and does not sleep first
        assert len(gateway.posts) == 1


async def test_no_other_host_is_tried_too_late():
    async with Gateway(answer()) as second:
        router = AsyncVideoRouter(KEY, base_url="http://127.0.0.1:9/v1", failover_urls=[second.url], max_retries=1)
        async with router:
            assert type(await fail(router, timeout=0.9)) is APIConnectionError
            assert second.posts == []
            await router.generate("otter", model="veo", timeout=5)


async def test_an_honoured_key_is_not_sent_again_too_late_and_the_doubt_stays():
    async with calling(answer(500), answer(), idempotency="honoured") as (gateway, router):
        error = await fail(router, timeout=0.9)
        assert isinstance(error, OutcomeUnknownError)
        assert len(gateway.posts) == 1


async def test_a_hook_that_takes_the_time_of_the_call_buys_nothing():
    async def slow(event):
        await asyncio.sleep(0.3)

    async with calling(answer(), on_event=slow) as (gateway, router):
        error = await fail(router, timeout=0.9)
        assert type(error) is DeadlineExceededError
        assert gateway.posts == []


async def test_a_key_that_takes_the_time_of_the_call_buys_nothing():
    async def slow():
        await asyncio.sleep(0.6)
        return KEY

    async with Gateway(answer()) as gateway, AsyncVideoRouter(slow, base_url=gateway.url) as router:
        assert type(await fail(router, timeout=0.9)) is DeadlineExceededError
        assert gateway.posts == []
        await router.generate("otter", model="veo", timeout=5)


async def test_the_time_of_a_batchs_item_begins_when_it_is_dispatched():
    async with calling(after(0.3), max_concurrency=1, adaptive=False) as (gateway, router):
        items = [item async for item in router.generate_many(["a", "b", "c"], model="veo", timeout=0.6)]
        assert [item.state for item in items] == ["done"] * 3
        assert len(gateway.posts) == 3


async def test_a_blocked_loop_sends_nothing_after_the_deadline():
    async with calling(after(0.2), max_concurrency=1, adaptive=False) as (gateway, router):
        first = asyncio.create_task(router.generate("otter", model="veo", timeout=30))
        second = asyncio.create_task(router.generate("heron", model="veo", timeout=0.5))
        async with asyncio.timeout(5):
            while not gateway.posts:
                await asyncio.sleep(0.01)
        time.sleep(0.8)  # noqa: ASYNC251  a handler that does not give the loop back
        with pytest.raises(DeadlineExceededError):
            await second
        await first
        assert len(gateway.posts) == 1
