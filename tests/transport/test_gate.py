"""So many at once, first come first served, and no place is lost."""

import asyncio
import random

import pytest

from videorouter.transport.gate import Gate

pytestmark = pytest.mark.anyio


async def test_those_who_came_first_go_first():
    gate = Gate(1)
    await gate.enter()
    order = []

    async def pass_through(number):
        await gate.enter()
        order.append(number)
        gate.leave()

    tasks = [asyncio.ensure_future(pass_through(number)) for number in range(5)]
    await asyncio.sleep(0)
    assert gate.waiting == 5
    gate.leave()
    await asyncio.gather(*tasks)
    assert order == [0, 1, 2, 3, 4]
    assert (gate.free, gate.waiting) == (1, 0)


async def test_nobody_slips_past_those_who_wait():
    gate = Gate(1)
    await gate.enter()
    first = asyncio.ensure_future(gate.enter())
    await asyncio.sleep(0)
    gate.leave()
    second = asyncio.ensure_future(gate.enter())
    await first
    assert not second.done()
    gate.leave()
    await second


async def test_a_cancelled_waiter_passes_its_place_on():
    gate = Gate(1)
    await gate.enter()
    first, second = (asyncio.ensure_future(gate.enter()) for _ in range(2))
    await asyncio.sleep(0)
    gate.leave()
    first.cancel()
    await asyncio.wait_for(second, 1)
    assert first.cancelled()


async def test_after_thousands_of_random_cancellations_all_places_are_free():
    gate = Gate(10)
    dice = random.Random(1)
    inside = most = 0

    async def pass_through():
        nonlocal inside, most
        await gate.enter()
        inside += 1
        most = max(most, inside)
        try:
            for _ in range(dice.randrange(4)):
                await asyncio.sleep(0)
        finally:
            inside -= 1
            gate.leave()

    for _ in range(200):
        tasks = [asyncio.ensure_future(pass_through()) for _ in range(30)]
        for _ in range(dice.randrange(5)):
            await asyncio.sleep(0)
        for task in tasks:
            if dice.random() < 0.5:
                task.cancel()
        await asyncio.wait(tasks)
    assert most == 10
    assert (gate.free, gate.waiting, inside) == (10, 0, 0)
