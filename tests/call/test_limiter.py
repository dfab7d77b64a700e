"""Slots, lanes and queues: fair, shared by threads and loops, lost by nobody."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time

import anyio
import pytest

from videorouter.call import limiter
from videorouter.call.limiter import ClientLimit, Slot
from videorouter.errors import Phase
from videorouter.http import Attempt

pytestmark = pytest.mark.anyio

ORIGIN = ("https", "gateway.example", 443)


@pytest.fixture(autouse=True)
def fresh_lanes():
    limiter.WORLD.lanes.clear()


def later(seconds: float = 20.0) -> float:
    return time.monotonic() + seconds


def open_slot(gate: ClientLimit, model: str = "veo", *, adaptive: bool = True, sends: bool = True) -> Slot:
    return Slot(gate.find_bay(ORIGIN, model, adaptive=adaptive), sends=sends)


def fill(gate: ClientLimit, times: int, **options) -> list[Slot]:
    slots = [open_slot(gate, **options) for _ in range(times)]
    assert all(slot.try_take() for slot in slots)
    return slots


async def test_the_client_limit_holds_and_is_passed_on_in_order():
    gate = ClientLimit(1)
    (first,) = fill(gate, 1)
    order = []

    async def wait(number):
        slot = open_slot(gate)
        assert await slot.take(later())
        order.append(number)
        slot.release()

    async with asyncio.TaskGroup() as group:
        for number in range(20):
            group.create_task(wait(number))
        await asyncio.sleep(0.01)
        assert (gate.used, gate.waiting, order) == (1, 20, [])
        first.release()
    assert order == list(range(20))
    assert (gate.used, gate.waiting) == (0, 0)


async def test_a_lane_is_shared_by_clients():
    one, two = ClientLimit(100), ClientLimit(100)
    slots = fill(one, 10) + fill(two, 6)
    assert not open_slot(two).try_take()
    assert not open_slot(one).try_take()
    assert open_slot(one, "another").try_take()
    slots[0].release()
    assert open_slot(two).try_take()


async def test_without_lanes_only_the_limit_counts():
    gate = ClientLimit(100)
    fill(gate, 100, adaptive=False)
    assert not open_slot(gate, adaptive=False).try_take()


async def test_a_full_client_does_not_block_another_in_the_same_lane():
    small, large = ClientLimit(1), ClientLimit(100)
    fill(small, 1)
    waiting = asyncio.create_task(open_slot(small).take(later()))
    await asyncio.sleep(0)
    assert await asyncio.wait_for(open_slot(large).take(later()), 5)
    waiting.cancel()


async def test_a_paused_lane_does_not_block_another_of_the_same_client():
    gate = ClientLimit(100)
    (slot,) = fill(gate, 1)
    slot.note_refusal(30.0)
    waiting = asyncio.create_task(open_slot(gate).take(later()))
    await asyncio.sleep(0)
    assert await asyncio.wait_for(open_slot(gate, "another").take(later()), 5)
    waiting.cancel()


async def test_a_cancelled_waiter_passes_its_grant_on():
    gate = ClientLimit(1)
    (held,) = fill(gate, 1)
    second = open_slot(gate)
    third = open_slot(gate)
    tasks = [asyncio.create_task(second.take(later())), asyncio.create_task(third.take(later()))]
    await asyncio.sleep(0)
    held.release()
    tasks[0].cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await tasks[0]
    assert await asyncio.wait_for(tasks[1], 5)
    assert (second.held, third.held, gate.used) == (False, True, 1)


async def test_random_cancellation_loses_no_slot():
    gate = ClientLimit(10)

    async def work(number):
        slot = open_slot(gate)
        try:
            if slot.try_take() or await slot.take(later()):
                await asyncio.sleep(0.001 * (number % 5))
                slot.note_success()
        finally:
            slot.release()

    for _ in range(10):
        tasks = [asyncio.create_task(work(number)) for number in range(60)]
        await asyncio.sleep(0.002)
        for task in tasks[::3]:
            task.cancel()
        await asyncio.wait(tasks)
    assert (gate.used, gate.waiting) == (0, 0)
    assert gate.bays[0].lane.used == 0
    assert len(fill(gate, 10)) == 10


async def test_a_deadline_in_the_queue_gives_no_slot_and_leaves_no_waiter():
    gate = ClientLimit(1)
    fill(gate, 1)
    assert not await open_slot(gate).take(time.monotonic() + 0.05)
    assert gate.waiting == 0


async def test_who_was_refused_stands_first_again():
    gate = ClientLimit(1)
    (held,) = fill(gate, 1)
    order = []

    async def wait(name, *, first):
        slot = open_slot(gate)
        await slot.take(later(), first=first)
        order.append(name)
        slot.release()

    tasks = [asyncio.create_task(wait("new", first=False)), asyncio.create_task(wait("refused", first=True))]
    await asyncio.sleep(0)
    held.release()
    await asyncio.gather(*tasks)
    assert order == ["refused", "new"]


async def test_a_request_held_for_a_quarter_of_a_second_lets_the_next_come():
    gate = ClientLimit(1000)
    for slot in fill(gate, 16):
        slot.attempt = Attempt()
        slot.attempt.phase = Phase.SENT
    began = time.monotonic()
    assert await open_slot(gate).take(later())
    assert 0.15 < time.monotonic() - began < 5


async def test_a_request_that_is_still_connecting_does_not():
    gate = ClientLimit(1000)
    for slot in fill(gate, 16):
        slot.attempt = Attempt()
        slot.attempt.phase = Phase.CONNECTING
    assert not await open_slot(gate).take(time.monotonic() + 0.6)


async def test_a_pause_holds_everybody_once():
    gate = ClientLimit(100)
    for slot in fill(gate, 5):
        slot.note_refusal(0.2)
        slot.release()
    began = time.monotonic()
    assert not open_slot(gate).try_take()
    assert await open_slot(gate).take(later())
    assert 0.15 < time.monotonic() - began < 5


async def test_looking_at_a_task_waits_for_no_pause():
    gate = ClientLimit(100)
    (slot,) = fill(gate, 1)
    slot.note_refusal(30.0)
    assert open_slot(gate, sends=False).try_take()


async def test_a_closed_client_sends_its_waiters_away():
    gate = ClientLimit(1)
    fill(gate, 1)
    waiting = asyncio.create_task(open_slot(gate).take(later()))
    await asyncio.sleep(0)
    gate.close()
    assert not await asyncio.wait_for(waiting, 5)
    assert gate.waiting == 0


def test_threads_with_loops_of_their_own_share_a_lane():
    gate = ClientLimit(3)
    running = most = done = 0
    lock = threading.Lock()

    async def work():
        nonlocal running, most, done
        for _ in range(50):
            slot = open_slot(gate)
            assert slot.try_take() or await slot.take(later())
            with lock:
                running += 1
                most = max(most, running)
            await asyncio.sleep(0)
            with lock:
                running -= 1
                done += 1
            slot.note_success()
            slot.release()

    async def main():
        await asyncio.gather(*(work() for _ in range(5)))

    threads = [threading.Thread(target=asyncio.run, args=(main(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert done == 1000
    assert most <= 3
    assert (gate.used, gate.waiting) == (0, 0)


def test_a_loop_that_was_dropped_with_its_waiters_takes_no_slot_along():
    gate = ClientLimit(1)
    (held,) = fill(gate, 1)
    loop = asyncio.new_event_loop()
    task = loop.create_task(open_slot(gate).take(later()))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    held.release()
    assert gate.used == 0
    assert open_slot(gate).try_take()
    task._log_destroy_pending = False
    task.get_coro().close()


def test_trio_waits_too():
    trio = pytest.importorskip("trio")
    gate = ClientLimit(1)

    async def work():
        slot = open_slot(gate)
        assert slot.try_take() or await slot.take(later())
        await anyio.sleep(0.01)
        slot.release()

    async def main():
        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(work)

    trio.run(main)
    assert (gate.used, gate.waiting) == (0, 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_starts_with_empty_lanes():
    gate = ClientLimit(1)
    fill(gate, 1)
    limiter.WORLD.lock.acquire()
    try:
        child = os.fork()
        if child == 0:
            os._exit(0 if open_slot(gate).try_take() else 1)
    finally:
        limiter.WORLD.lock.release()
    assert os.waitpid(child, 0)[1] == 0
    assert not open_slot(gate).try_take()


async def test_thousands_of_lanes_do_not_pile_up():
    gate = ClientLimit(10)
    for number in range(3000):
        slot = open_slot(gate, f"model-{number}")
        assert slot.try_take()
        slot.release()
    assert len(gate.bays) <= 1024
    assert len(limiter.WORLD.lanes) <= 1024
