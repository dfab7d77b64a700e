"""Load on real sockets: a gateway that takes thirty a second, and one that takes nothing."""

from __future__ import annotations

import asyncio
import collections
import gc
import sys
import threading
import time

import pytest
from calling import calling
from servers import BODY, Gateway, answer, write_answer

from videorouter import AsyncVideoRouter, VideoRouterError

pytestmark = pytest.mark.anyio


def take(rate: float, burst: float):
    """A gateway that takes so many a second and refuses the rest."""
    tokens = burst
    at = time.monotonic()

    async def step(visit):
        nonlocal tokens, at
        await visit.read()
        now = time.monotonic()
        tokens = min(burst, tokens + (now - at) * rate)
        at = now
        if tokens < 1:
            await visit.say(write_answer(429, b'{"error":{"message":"slow down"}}'))
            return
        tokens -= 1
        await asyncio.sleep(0.02)
        await visit.say(write_answer(200, BODY))

    return step


@pytest.mark.slow
async def test_a_thousand_workers_find_the_pace_of_a_gateway_that_takes_thirty_a_second():
    gateway = Gateway(take(30, 30))
    async with gateway, AsyncVideoRouter("sk-0123456789", base_url=gateway.url) as router:
        began = time.monotonic()
        await asyncio.gather(*(router.generate("otter", model="veo", timeout=120) for _ in range(1000)))
        assert len(gateway.posts) <= 1250
        assert time.monotonic() - began <= 1.5 * 1000 / 30


OUTAGES = {
    "429": (answer(429), {}),
    "429, not adaptive": (answer(429), {"adaptive": False}),
    "503 with Retry-After, not adaptive": (answer(503, None, "Retry-After: 1"), {"adaptive": False}),
    "500": (answer(500), {}),
    "500, keys honoured": (answer(500), {"idempotency": "honoured", "adaptive": False}),
}


@pytest.mark.parametrize(("step", "options"), OUTAGES.values(), ids=OUTAGES.keys())
async def test_an_outage_over_a_thousand_calls_is_no_storm(step, options):
    failures = collections.Counter()
    gateway = Gateway(step)
    async with gateway, AsyncVideoRouter("sk-0123456789", base_url=gateway.url, **options) as router:

        async def call():
            with pytest.raises(VideoRouterError) as caught:
                await router.generate("otter", model="veo", timeout=4)
            failures[type(caught.value).__name__] += 1

        await asyncio.gather(*(call() for _ in range(1000)))
        assert len(gateway.posts) <= 1100
        assert sum(failures.values()) == 1000
        assert router.stats().in_flight == router.stats().queued == 0


async def test_an_empty_budget_is_told_and_a_success_fills_it_again():
    gateway = Gateway(answer(500))
    async with gateway, AsyncVideoRouter("sk-0123456789", base_url=gateway.url, idempotency="honoured") as router:
        router._caller.shared.retry_budget.tokens = 10
        with pytest.raises(VideoRouterError) as caught:
            await router.generate("otter", model="veo", timeout=20)
        assert caught.value.budget_exhausted
        assert caught.value.attempts == len(gateway.posts) == 1
        gateway.steps = [answer()]
        await router.generate("otter", model="veo")
        assert router._caller.shared.retry_budget.tokens == 11


async def test_refused_calls_without_budget_wait_for_their_model_and_are_all_done():
    gateway = Gateway(*[answer(429)] * 22, answer())
    async with gateway, AsyncVideoRouter("sk-0123456789", base_url=gateway.url, adaptive=False) as router:
        router._caller.shared.retry_budget.tokens = 0
        calls = [router.generate("otter", model="veo", timeout=60) for _ in range(20)]
        assert len(await asyncio.gather(*calls)) == 20


async def test_the_limit_counts_jobs_from_dispatch_to_their_end():
    running = most = 0

    async def step(visit):
        nonlocal running, most
        request = await visit.read()
        if request.method == "POST":
            running += 1
            most = max(most, running)
            await visit.say(write_answer(200, b'{"data":{"task_id":"t"}}'))
        else:
            running -= 1
            await visit.say(write_answer(200, b'{"data":{"status":"completed","output":"https://x.example/v.mp4"}}'))

    gateway = Gateway(step)
    async with gateway, AsyncVideoRouter("sk-0123456789", base_url=gateway.url, max_concurrency=3) as router:
        await asyncio.gather(*(router.generate("otter", model="veo", timeout=30) for _ in range(12)))
        assert most == 3


async def test_sleeping_after_a_refusal_gives_the_slot_back():
    gateway = Gateway(answer(429, None, "Retry-After: 30"), answer())
    async with (
        gateway,
        AsyncVideoRouter("sk-0123456789", base_url=gateway.url, max_concurrency=1, adaptive=False) as router,
    ):
        refused = asyncio.create_task(router.generate("otter", model="veo", timeout=100))
        async with asyncio.timeout(10):
            while router.stats().attempts < 1 or router.stats().in_flight:
                await asyncio.sleep(0.005)
        assert (await router.generate("otter", model="veo", timeout=10)).video_id == "video_1"
        refused.cancel()
        await asyncio.wait([refused])


async def test_requests_that_are_held_let_the_limit_grow_without_an_answer():
    release = asyncio.Event()

    async def step(visit):
        await visit.read()
        await release.wait()
        await visit.say(write_answer(200, BODY))

    gateway = Gateway(step)
    async with gateway, AsyncVideoRouter("sk-0123456789", base_url=gateway.url) as router:
        calls = [asyncio.create_task(router.generate("otter", model="veo", timeout=60)) for _ in range(200)]
        async with asyncio.timeout(20):
            while len(gateway.posts) < 200:
                await asyncio.sleep(0.01)
        release.set()
        await asyncio.gather(*calls)


async def test_a_model_that_is_called_without_end_starves_no_other():
    async def step(visit):
        await visit.read()
        await asyncio.sleep(0.02)
        await visit.say(write_answer(200, BODY))

    gateway = Gateway(step)
    async with gateway, AsyncVideoRouter("sk-0123456789", base_url=gateway.url, max_concurrency=2) as router:
        done = collections.Counter()

        async def call(model):
            while True:
                await router.generate("otter", model=model, timeout=30)
                done[model] += 1

        calls = [asyncio.create_task(call(model)) for model in ["busy"] * 10 + ["quiet"] * 2 + ["rare"] * 2]
        async with asyncio.timeout(20):
            while done.total() < 90:
                await asyncio.sleep(0.005)
        for one in calls:
            one.cancel()
        await asyncio.wait(calls)
        assert min(done["busy"], done["quiet"], done["rare"]) >= 25


async def test_a_loop_that_is_blocked_during_a_pause_holds_up_no_other_thread():
    gateway = Gateway(answer(429, None, "Retry-After: 1"), answer())
    blocked, unblock = threading.Event(), threading.Event()

    async def call_and_block():
        async with AsyncVideoRouter("sk-0123456789", base_url=gateway.url) as router:
            call = asyncio.create_task(router.generate("otter", model="veo", timeout=60))
            async with asyncio.timeout(10):
                while router.stats().attempts < 1 or router.stats().in_flight:
                    await asyncio.sleep(0.005)
            waiting = asyncio.create_task(router.generate("heron", model="veo", timeout=60))
            await asyncio.sleep(0.05)
            blocked.set()
            unblock.wait(30)  # a handler that does not give the loop back
            await asyncio.gather(call, waiting)

    async with gateway, AsyncVideoRouter("sk-0123456789", base_url=gateway.url) as router:
        thread = threading.Thread(target=asyncio.run, args=(call_and_block(),), daemon=True)
        thread.start()
        try:
            await asyncio.to_thread(blocked.wait, 10)
            began = time.monotonic()
            await router.generate("seal", model="veo", timeout=10)
            assert time.monotonic() - began < 2.5
        finally:
            unblock.set()
            await asyncio.to_thread(thread.join, 20)
        assert len(gateway.posts) == 4


async def test_stats_can_be_read_from_another_thread_at_any_time():
    """A health page or a collector of metrics asks while models, jobs and loops come and go."""
    async with calling(answer(), adaptive=False) as (_, router):
        failures = []
        over = threading.Event()

        def read():
            while not over.is_set():
                try:
                    router.stats()
                except Exception as error:  # noqa: BLE001  whatever it is, it is the finding
                    failures.append(error)
                    return

        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        threads = [threading.Thread(target=read) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            for number in range(40):
                await asyncio.gather(
                    *(router.generate("otter", model=f"m-{number}-{n}", timeout=20) for n in range(10))
                )
                gc.collect(0)
        finally:
            over.set()
            sys.setswitchinterval(interval)
            for thread in threads:
                thread.join()
        assert failures == []
        assert router.stats().succeeded == 400
