"""Slots, limits and queues: fair, shared by threads and loops, lost by nobody."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
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


def later(seconds: float = 20.0) -> float:
    return time.monotonic() + seconds


def open_slot(limit: ClientLimit, model: str = "veo", *, adaptive: bool = True, sends: bool = True) -> Slot:
    return Slot(limit.find_queue(ORIGIN, model, adaptive=adaptive, sends=sends))


def fill(limit: ClientLimit, times: int, **options) -> list[Slot]:
    slots = [open_slot(limit, **options) for _ in range(times)]
    assert all(slot.try_take() for slot in slots)
    return slots


async def test_the_client_limit_holds_and_is_passed_on_in_order():
    limit = ClientLimit(1)
    (first,) = fill(limit, 1)
    order = []

    async def wait(number):
        slot = open_slot(limit)
        assert await slot.take(later())
        order.append(number)
        slot.release()

    async with asyncio.TaskGroup() as group:
        for number in range(20):
            group.create_task(wait(number))
        await asyncio.sleep(0.01)
        assert (limit.used, limit.waiting, order) == (1, 20, [])
        first.release()
    assert order == list(range(20))
    assert (limit.used, limit.waiting) == (0, 0)


async def test_a_models_limit_is_shared_by_clients():
    one, two = ClientLimit(100), ClientLimit(100)
    slots = fill(one, 10) + fill(two, 6)
    assert not open_slot(two).try_take()
    assert not open_slot(one).try_take()
    assert open_slot(one, "another").try_take()
    slots[0].release()
    assert open_slot(two).try_take()


async def test_without_adaptive_limits_only_the_clients_counts():
    limit = ClientLimit(100)
    fill(limit, 100, adaptive=False)
    assert not open_slot(limit, adaptive=False).try_take()


async def test_a_full_client_does_not_block_another_of_the_same_model():
    small, large = ClientLimit(1), ClientLimit(100)
    fill(small, 1)
    waiting = asyncio.create_task(open_slot(small).take(later()))
    await asyncio.sleep(0)
    assert await asyncio.wait_for(open_slot(large).take(later()), 5)
    waiting.cancel()


async def test_a_paused_model_does_not_block_another_of_the_same_client():
    limit = ClientLimit(100)
    (slot,) = fill(limit, 1)
    slot.note_throttled(30.0)
    waiting = asyncio.create_task(open_slot(limit).take(later()))
    await asyncio.sleep(0)
    assert await asyncio.wait_for(open_slot(limit, "another").take(later()), 5)
    waiting.cancel()


async def test_a_cancelled_waiter_passes_its_grant_on():
    limit = ClientLimit(1)
    (held,) = fill(limit, 1)
    second = open_slot(limit)
    third = open_slot(limit)
    tasks = [asyncio.create_task(second.take(later())), asyncio.create_task(third.take(later()))]
    await asyncio.sleep(0)
    held.release()
    tasks[0].cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await tasks[0]
    assert await asyncio.wait_for(tasks[1], 5)
    assert (second.held, third.held, limit.used) == (False, True, 1)


async def test_random_cancellation_loses_no_slot():
    limit = ClientLimit(10)

    async def work(number):
        slot = open_slot(limit)
        try:
            if slot.try_take() or await slot.take(later()):
                await asyncio.sleep(0.001 * (number % 5))
                slot.note_success(0.1)
        finally:
            slot.release()

    for _ in range(10):
        tasks = [asyncio.create_task(work(number)) for number in range(60)]
        await asyncio.sleep(0.002)
        for task in tasks[::3]:
            task.cancel()
        await asyncio.wait(tasks)
    assert (limit.used, limit.waiting) == (0, 0)
    assert limit.queues[0].model_limit.used == 0
    assert len(fill(limit, 10)) == 10


async def test_a_deadline_in_the_queue_gives_no_slot_and_leaves_no_waiter():
    limit = ClientLimit(1)
    fill(limit, 1)
    assert not await open_slot(limit).take(time.monotonic() + 0.05)
    assert limit.waiting == 0


async def test_who_was_refused_stands_first_again():
    limit = ClientLimit(1)
    (held,) = fill(limit, 1)
    order = []

    async def wait(name, *, first):
        slot = open_slot(limit)
        await slot.take(later(), first=first)
        order.append(name)
        slot.release()

    tasks = [asyncio.create_task(wait("new", first=False)), asyncio.create_task(wait("refused", first=True))]
    await asyncio.sleep(0)
    held.release()
    await asyncio.gather(*tasks)
    assert order == ["refused", "new"]


async def test_a_request_held_for_a_quarter_of_a_second_lets_the_next_come():
    limit = ClientLimit(1000)
    for slot in fill(limit, 16):
        slot.attempt = Attempt()
        slot.attempt.phase = Phase.SENT
    began = time.monotonic()
    assert await open_slot(limit).take(later())
    assert 0.15 < time.monotonic() - began < 5


async def test_a_request_that_is_still_connecting_does_not():
    limit = ClientLimit(1000)
    for slot in fill(limit, 16):
        slot.attempt = Attempt()
        slot.attempt.phase = Phase.CONNECTING
    assert not await open_slot(limit).take(time.monotonic() + 0.6)


async def test_a_pause_holds_everybody_once():
    limit = ClientLimit(100)
    for slot in fill(limit, 5):
        slot.note_throttled(0.2)
        slot.release()
    began = time.monotonic()
    assert not open_slot(limit).try_take()
    assert await open_slot(limit).take(later())
    assert 0.15 < time.monotonic() - began < 5


async def test_looking_at_a_task_waits_for_no_pause():
    limit = ClientLimit(100)
    (slot,) = fill(limit, 1)
    slot.note_throttled(30.0)
    assert open_slot(limit, sends=False).try_take()


async def test_a_closed_client_sends_its_waiters_away():
    limit = ClientLimit(1)
    fill(limit, 1)
    waiting = asyncio.create_task(open_slot(limit).take(later()))
    await asyncio.sleep(0)
    limit.close()
    assert not await asyncio.wait_for(waiting, 5)
    assert limit.waiting == 0


def test_threads_with_loops_of_their_own_share_a_limit():
    limit = ClientLimit(3)
    running = most = done = 0
    lock = threading.Lock()

    async def work():
        nonlocal running, most, done
        for _ in range(50):
            slot = open_slot(limit)
            assert slot.try_take() or await slot.take(later())
            with lock:
                running += 1
                most = max(most, running)
            await asyncio.sleep(0)
            with lock:
                running -= 1
                done += 1
            slot.note_success(0.1)
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
    assert (limit.used, limit.waiting) == (0, 0)


def test_a_loop_that_was_dropped_with_its_waiters_takes_no_slot_along():
    limit = ClientLimit(1)
    (held,) = fill(limit, 1)
    loop = asyncio.new_event_loop()
    task = loop.create_task(open_slot(limit).take(later()))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    held.release()
    assert limit.used == 0
    assert open_slot(limit).try_take()
    task._log_destroy_pending = False
    task.get_coro().close()


def test_trio_waits_too():
    trio = pytest.importorskip("trio")
    limit = ClientLimit(1)

    async def work():
        slot = open_slot(limit)
        assert slot.try_take() or await slot.take(later())
        await anyio.sleep(0.01)
        slot.release()

    async def main():
        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(work)

    trio.run(main)
    assert (limit.used, limit.waiting) == (0, 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_starts_with_empty_limits():
    limit = ClientLimit(1)
    fill(limit, 1)
    limiter.PROCESS_LIMITS.lock.acquire()
    try:
        child = os.fork()
        if child == 0:
            os._exit(0 if open_slot(limit).try_take() else 1)
    finally:
        limiter.PROCESS_LIMITS.lock.release()
    assert os.waitpid(child, 0)[1] == 0
    assert not open_slot(limit).try_take()


async def test_thousands_of_models_do_not_pile_up():
    limit = ClientLimit(10)
    for number in range(3000):
        slot = open_slot(limit, f"model-{number}")
        assert slot.try_take()
        slot.release()
    assert len(limit.queues) <= 1024
    assert len(limiter.PROCESS_LIMITS.model_limits) <= 1024


# Nobody starves, and no loop holds up another


async def test_the_models_of_a_client_take_turns():
    limit = ClientLimit(1)
    (held,) = fill(limit, 1, model="busy")
    order = []

    async def work(model, times):
        for _ in range(times):
            slot = open_slot(limit, model)
            assert slot.try_take() or await slot.take(later())
            order.append(model)
            await asyncio.sleep(0)
            slot.release()

    async with asyncio.TaskGroup() as group:
        for _ in range(5):
            group.create_task(work("busy", 20))
        await asyncio.sleep(0)
        for model in ("quiet", "rare", "quiet", "rare"):
            group.create_task(work(model, 5))
        await asyncio.sleep(0)
        held.release()
    assert [order[:30].count(model) for model in ("busy", "quiet", "rare")] == [10, 10, 10]
    assert (limit.used, limit.waiting) == (0, 0)


async def test_a_client_without_budget_does_not_hold_up_another():
    poor, rich = ClientLimit(10), ClientLimit(10)
    (slot,) = fill(poor, 1)
    slot.note_throttled(None)
    slot.release()
    slot.queue.model_limit.probe.next_at = later()
    starved = open_slot(poor)
    starved.out_of_budget = True
    waiting = asyncio.create_task(starved.take(later()))
    await asyncio.sleep(0.01)
    other = open_slot(rich)
    assert other.try_take() or await asyncio.wait_for(other.take(later()), 2)
    waiting.cancel()


async def test_looking_at_a_task_passes_those_who_wait_for_a_pause():
    limit = ClientLimit(10)
    (slot,) = fill(limit, 1)
    slot.note_throttled(30.0)
    waiting = asyncio.create_task(open_slot(limit).take(later(60)))
    await asyncio.sleep(0.01)
    look = open_slot(limit, sends=False)
    assert look.try_take() or await asyncio.wait_for(look.take(later()), 2)
    waiting.cancel()


def run_in_thread(work) -> threading.Thread:
    thread = threading.Thread(target=asyncio.run, args=(work,), daemon=True)
    thread.start()
    return thread


def test_a_blocked_loop_that_waits_for_a_pause_holds_up_no_other():
    limit = ClientLimit(10)
    (slot,) = fill(limit, 1)
    slot.note_throttled(0.5)
    began = time.monotonic()
    waits, unblock = threading.Event(), threading.Event()

    async def wait_and_block():
        waiting = asyncio.create_task(open_slot(limit).take(later()))
        await asyncio.sleep(0.05)
        waits.set()
        unblock.wait(20)  # a handler that does not give the loop back
        assert await waiting

    async def wait():
        return await open_slot(limit).take(later())

    thread = run_in_thread(wait_and_block())
    assert waits.wait(5)
    try:
        assert asyncio.run(wait())
        assert 0.4 < time.monotonic() - began < 2
    finally:
        unblock.set()
        thread.join(20)
    assert not thread.is_alive()


def test_a_stopped_loop_is_passed_over_until_it_runs_again():
    limit = ClientLimit(1)
    (held,) = fill(limit, 1)
    stopped = asyncio.new_event_loop()
    slot = open_slot(limit)
    waiting = stopped.create_task(slot.take(later()))
    stopped.run_until_complete(asyncio.sleep(0.01))

    async def work():
        slot = open_slot(limit)
        taken = slot.take(later())
        await asyncio.sleep(0)
        waiter = asyncio.create_task(taken)
        await asyncio.sleep(0.01)
        held.release()
        assert await asyncio.wait_for(waiter, 2)
        slot.release()

    asyncio.run(work())
    assert not slot.held
    assert stopped.run_until_complete(asyncio.wait_for(waiting, 5))
    assert slot.held
    stopped.close()


def test_a_slot_that_the_garbage_collector_gives_back_under_the_lock_stops_nobody():
    limit = ClientLimit(1)
    done = threading.Event()

    async def hold():
        (slot,) = fill(limit, 1)
        try:
            await asyncio.sleep(60)
        finally:
            slot.release()

    def drop():
        loop = asyncio.new_event_loop()
        task = loop.create_task(hold())
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        task._log_destroy_pending = False
        del task, loop
        with limiter.PROCESS_LIMITS.lock:
            gc.collect()
        done.set()

    threading.Thread(target=drop, daemon=True).start()
    assert done.wait(10)
    assert limit.used == 0


# How many jobs fit the file-descriptor limit


@pytest.mark.parametrize(("most", "jobs"), [(64, 32), (256, 224), (1024, 896), (20_000, 1000), (None, 1000), (10, 1)])
def test_the_default_stays_below_the_file_limit(monkeypatch, most, jobs):
    monkeypatch.setattr(limiter, "read_file_limit", lambda: most)
    assert limiter.default_concurrency() == jobs


def test_the_soft_limit_counts():
    assert limiter.read_file_limit() in (resource.getrlimit(resource.RLIMIT_NOFILE)[0], None)
