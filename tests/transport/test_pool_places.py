"""Places for connects and for requests: so many at once, first come first served, and none is lost."""

import asyncio
import gc
import random
import weakref

import pytest

from videorouter.http import WireError, WireFailure
from videorouter.transport.pool import LoopPool, wait_for_place

pytestmark = pytest.mark.anyio


def open_places(count, monkeypatch):
    monkeypatch.setattr("videorouter.transport.pool.CONNECTS_AT_ONCE", count)
    return LoopPool().connects


async def enter(places, seconds=30.0):
    await wait_for_place(places, seconds, "gateway.test:443")


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


async def test_whoever_waits_too_long_was_not_sent_and_takes_no_place(monkeypatch):
    places = open_places(1, monkeypatch)
    await enter(places)
    with pytest.raises(WireError) as caught:
        await enter(places, 0.01)
    assert caught.value.failure is WireFailure.DEADLINE
    assert "gateway.test:443" in caught.value.message
    places.release()
    await enter(places, 0.01)


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
