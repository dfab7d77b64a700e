"""Places for connects: so many at once, first come first served, and none is lost."""

import asyncio
import gc
import random
import weakref

import pytest

from videorouter.errors import Phase
from videorouter.http import Attempt, WireError, WireFailure
from videorouter.transport.pool import LoopPool
from videorouter.transport.sender import open_sender

from .conftest import ANSWER, answer_all, post, send

pytestmark = pytest.mark.anyio


def open_places(count, monkeypatch):
    monkeypatch.setattr("videorouter.transport.pool.CONNECTS_AT_ONCE", count)
    return LoopPool().connects


async def enter(places):
    await places.acquire()


async def test_those_who_came_first_go_first(monkeypatch):
    places = open_places(1, monkeypatch)
    await enter(places)
    order = []

    async def pass_through(number):
        await enter(places)
        order.append(number)
        places.release()

    tasks = [asyncio.ensure_future(pass_through(number)) for number in range(5)]
    await asyncio.sleep(0)
    assert places.statistics().tasks_waiting == 5
    places.release()
    await asyncio.gather(*tasks)
    assert order == [0, 1, 2, 3, 4]
    assert (places.value, places.statistics().tasks_waiting) == (1, 0)


async def test_nobody_slips_past_those_who_wait(monkeypatch):
    places = open_places(1, monkeypatch)
    await enter(places)
    first = asyncio.ensure_future(enter(places))
    await asyncio.sleep(0)
    places.release()
    second = asyncio.ensure_future(enter(places))
    await first
    assert not second.done()
    places.release()
    await second


async def test_a_cancelled_waiter_passes_its_place_on(monkeypatch):
    places = open_places(1, monkeypatch)
    await enter(places)
    first, second = (asyncio.ensure_future(enter(places)) for _ in range(2))
    await asyncio.sleep(0)
    places.release()
    first.cancel()
    await asyncio.wait_for(second, 1)
    assert first.cancelled()


async def test_after_thousands_of_random_cancellations_all_places_are_free(monkeypatch):
    places = open_places(10, monkeypatch)
    dice = random.Random(1)
    inside = most = 0

    async def pass_through():
        nonlocal inside, most
        await enter(places)
        inside += 1
        most = max(most, inside)
        try:
            for _ in range(dice.randrange(4)):
                await asyncio.sleep(0)
        finally:
            inside -= 1
            places.release()

    for _ in range(200):
        tasks = [asyncio.ensure_future(pass_through()) for _ in range(30)]
        for _ in range(dice.randrange(5)):
            await asyncio.sleep(0)
        for task in tasks:
            if dice.random() < 0.5:
                task.cancel()
        await asyncio.wait(tasks)
    assert most == 10
    assert (places.value, places.statistics().tasks_waiting, inside) == (10, 0, 0)


def test_a_pool_that_many_waited_for_goes_with_its_loop(monkeypatch):
    """asyncio's own semaphore would hold the loop."""
    gone = weakref.WeakSet()

    async def wait():
        places = open_places(1, monkeypatch)
        gone.add(places)
        gone.add(asyncio.get_running_loop())
        await enter(places)
        waiter = asyncio.ensure_future(enter(places))
        await asyncio.sleep(0)
        places.release()
        await waiter

    asyncio.run(wait())
    gc.collect()
    assert len(gone) == 0


async def fail(sender, url, **options):
    attempt = Attempt()
    with pytest.raises(WireError) as caught:
        await send(sender, post(url), attempt=attempt, **options)
    return caught.value.failure, attempt.phase


async def test_the_connect_timeout_starts_when_the_connect_does(full_backlog, monkeypatch):
    monkeypatch.setattr("videorouter.transport.pool.CONNECTS_AT_ONCE", 1)
    sender = open_sender(trust_env=False, connect_timeout=0.2)
    began = asyncio.get_running_loop().time()
    failures = await asyncio.gather(*(fail(sender, full_backlog) for _ in range(3)))
    assert failures == [(WireFailure.CONNECT_TIMEOUT, Phase.CONNECTING)] * 3
    assert asyncio.get_running_loop().time() - began >= 0.6
    await sender.aclose()


async def test_whoever_waits_too_long_for_a_place_was_not_sent(serve, full_backlog, monkeypatch):
    monkeypatch.setattr("videorouter.transport.pool.CONNECTS_AT_ONCE", 1)
    sender = open_sender(trust_env=False, connect_timeout=0.4)
    server = await serve(answer_all)
    first = asyncio.ensure_future(fail(sender, full_backlog))
    await asyncio.sleep(0)
    assert await fail(sender, server.url, timeout=0.1) == (WireFailure.DEADLINE, Phase.QUEUED)
    assert await first == (WireFailure.CONNECT_TIMEOUT, Phase.CONNECTING)
    assert (await send(sender, post(server.url))).body == ANSWER
    await sender.aclose()
