"""A thread gives back what it works on, however and whenever whoever waits for it is cancelled."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import sqlite3
import threading

import anyio
import anyio.lowlevel
import pytest

from videorouter import threads
from videorouter.threads import ThreadedIterator, ThreadedResource, run_in_thread


class Gate:
    """A piece of slow work: it says that it has begun, and ends when it is let go."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.release = threading.Event()
        self.ended = False

    def work(self) -> str:
        self.begun.set()
        assert self.release.wait(20)
        self.ended = True
        return "done"

    async def has_begun(self) -> None:
        assert await asyncio.to_thread(self.begun.wait, 20)

    def release_soon(self) -> None:
        asyncio.get_running_loop().call_later(0.05, self.release.set)


@pytest.fixture
def gate():
    gate = Gate()
    yield gate
    gate.release.set()


class FaultError(Exception):
    pass


async def cancel_once(work, gate):
    task = asyncio.ensure_future(work())
    await gate.has_begun()
    task.cancel()
    gate.release_soon()
    with pytest.raises(asyncio.CancelledError):
        await task


async def cancel_twice(work, gate):
    task = asyncio.ensure_future(work())
    await gate.has_begun()
    for _ in range(2):
        task.cancel()
        for _ in range(3):
            await asyncio.sleep(0)
        assert not task.done()
    gate.release_soon()
    with pytest.raises(asyncio.CancelledError):
        await task


async def time_out(work, gate):
    asyncio.get_running_loop().call_later(0.2, gate.release.set)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await work()


async def fail_beside(work, gate):
    async def fail() -> None:
        await gate.has_begun()
        gate.release_soon()
        raise FaultError

    async def both() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(work())
            group.create_task(fail())

    with pytest.raises(ExceptionGroup) as caught:
        await both()
    assert caught.group_contains(FaultError)


async def move_on(work, gate):
    asyncio.get_running_loop().call_later(0.2, gate.release.set)
    with anyio.move_on_after(0.05) as scope:
        await work()
        await anyio.lowlevel.checkpoint()
    assert scope.cancelled_caught


CANCELLERS = [cancel_once, cancel_twice, time_out, fail_beside, move_on]


@pytest.mark.anyio
@pytest.mark.parametrize("cancel", CANCELLERS)
async def test_whoever_is_cancelled_goes_on_when_the_thread_is_done(gate, cancel):
    ended = []

    async def work() -> None:
        try:
            await run_in_thread(gate.work)
        finally:
            ended.append(gate.ended)

    await cancel(work, gate)
    assert ended == [True]


@pytest.mark.anyio
@pytest.mark.parametrize("cancel", CANCELLERS)
async def test_what_is_owned_is_closed_after_the_thread_and_before_the_caller_goes_on(gate, cancel):
    closed = []

    async def work() -> None:
        async with ThreadedResource(lambda: closed.append(gate.ended)) as owned:
            await owned.run(gate.work)
            await anyio.sleep(20)

    await cancel(work, gate)
    assert closed == [True]


@pytest.mark.anyio
async def test_results_and_errors_come_through():
    def fail() -> None:
        raise FaultError

    closed = []

    async def work() -> None:
        async with ThreadedResource(lambda: closed.append(1)) as owned:
            assert await owned.run(divmod, 7, 2) == (3, 1)
            await owned.run(fail)

    with pytest.raises(FaultError):
        await work()
    async with ThreadedResource(lambda: closed.append(2)):
        pass
    assert closed == [1]


@pytest.mark.anyio
async def test_work_that_has_not_begun_when_it_is_cancelled_never_begins_and_a_close_does(gate):
    limiter = anyio.CapacityLimiter(1)
    ran, closed = [], []

    async def wait() -> None:
        async with ThreadedResource(lambda: closed.append(1), limiter=limiter) as owned:
            await owned.run(lambda: ran.append(1))

    first = asyncio.ensure_future(run_in_thread(gate.work, limiter=limiter))
    await gate.has_begun()
    second = asyncio.ensure_future(wait())
    await asyncio.sleep(0.01)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    gate.release.set()
    assert await first == "done"
    assert (ran, closed) == ([], [1])


@pytest.mark.anyio
async def test_a_thread_that_hangs_is_left_behind_and_closes_what_it_works_on_at_its_end(gate, monkeypatch):
    monkeypatch.setattr(threads, "PATIENCE", 0.05)
    closed = threading.Event()
    ended = []

    def close() -> None:
        ended.append(gate.ended)
        closed.set()

    async def work() -> None:
        async with ThreadedResource(close) as owned:
            await owned.run(gate.work)

    task = asyncio.ensure_future(work())
    await gate.has_begun()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not closed.is_set()
    gate.release.set()
    assert await asyncio.to_thread(closed.wait, 20)
    assert ended == [True]


@pytest.mark.parametrize("at_work", [True, False], ids=["a thread works", "no thread works"])
def test_what_is_owned_is_closed_when_its_loop_was_closed_under_it(gate, at_work):
    closed = threading.Event()
    ended = []

    def close() -> None:
        ended.append(gate.ended)
        closed.set()

    async def work() -> None:
        async with ThreadedResource(close) as owned:
            await owned.run(gate.work)
            await asyncio.Future()

    async def has_begun() -> None:
        while not gate.begun.is_set() or gate.ended is at_work:
            await asyncio.sleep(0.001)
        for _ in range(10):
            await asyncio.sleep(0)

    if not at_work:
        gate.release.set()
    loop = asyncio.new_event_loop()
    task = loop.create_task(work())
    task._log_destroy_pending = False
    loop.run_until_complete(has_begun())
    loop.close()
    del task
    gc.collect()
    gate.release.set()
    assert closed.wait(20)
    assert ended == [True]


def test_trio_waits_for_its_threads_too(gate):
    closed = []

    async def main() -> None:
        with anyio.move_on_after(0.05) as scope:
            async with ThreadedResource(lambda: closed.append(gate.ended)) as owned:
                threading.Timer(0.2, gate.release.set).start()
                await owned.run(gate.work)
                await anyio.sleep(20)
        assert scope.cancelled_caught

    anyio.run(main, backend="trio")
    assert closed == [True]


class TestThreadedIterator:
    """What may block is read by a thread that nothing waits for."""

    pytestmark = pytest.mark.anyio

    @pytest.mark.parametrize("ahead", [0, 5])
    async def test_everybody_gets_entries_in_the_order_of_asking(self, ahead):
        entries = ThreadedIterator(iter(range(50)), ahead=ahead)
        taken = []

        async def take():
            while (entry := await anext(entries, None)) is not None:
                taken.append(entry)
                await asyncio.sleep(0)

        await asyncio.gather(*(take() for _ in range(7)))
        assert taken == list(range(50))

    async def test_nothing_is_read_before_it_is_wanted(self):
        read = []

        def source():
            for number in range(10):
                read.append(number)
                yield number

        entries = ThreadedIterator(source())
        assert [await anext(entries) for _ in range(3)] == read == [0, 1, 2]
        entries.close()

    async def test_a_waiter_that_was_cancelled_costs_no_entry(self, gate):
        def source():
            yield gate.work()

        entries = ThreadedIterator(source())
        task = asyncio.ensure_future(anext(entries))
        await gate.has_begun()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gate.release.set()
        assert await anext(entries) == "done"
        entries.close()

    async def test_an_error_comes_after_what_was_read_and_once(self):
        def source():
            yield 1
            raise FaultError

        entries = ThreadedIterator(source(), ahead=5)
        assert await anext(entries) == 1
        with pytest.raises(FaultError):
            await anext(entries)
        assert await anext(entries, None) is None

    async def test_an_object_that_cannot_be_iterated_is_told_to_its_reader(self):
        class Broken:
            def __iter__(self):
                raise FaultError

        with pytest.raises(FaultError):
            await anext(ThreadedIterator(Broken()))

    async def test_a_connection_that_the_iterator_opens_stays_in_its_thread(self):
        class Rows:
            def __iter__(self):
                connection = sqlite3.connect(":memory:")
                try:
                    yield from connection.execute("VALUES (1), (2), (3)")
                finally:
                    closed.append(connection.execute("SELECT 1") is not None)
                    connection.close()

        closed = []
        entries = ThreadedIterator(Rows())
        assert await anext(entries) == (1,)
        entries.close()
        with anyio.fail_after(20):
            while not closed:
                await asyncio.sleep(0)

    async def test_a_connection_of_another_thread_is_told_with_what_to_do(self):
        connection = sqlite3.connect(":memory:")
        with pytest.raises(sqlite3.ProgrammingError) as caught:
            await anext(ThreadedIterator(row for row in connection.execute("VALUES (1)")))
        assert "check_same_thread=False" in caught.value.__notes__[0]
        connection.close()

    async def test_closing_does_not_wait_for_a_thread_that_is_blocked(self, gate):
        def source():
            yield gate.work()

        entries = ThreadedIterator(source())
        task = asyncio.ensure_future(anext(entries, None))
        await gate.has_begun()
        entries.close()
        assert await task is None
        assert not gate.ended

    async def test_a_generator_may_have_several_readers(self):
        def source():
            for number in range(200):
                started.set()
                yield number

        started = threading.Event()
        shared = source()

        async def read(entries):
            return [entry async for entry in entries]

        parts = await asyncio.gather(*(read(ThreadedIterator(shared)) for _ in range(3)))
        assert sorted(entry for part in parts for entry in part) == list(range(200))

    async def test_the_callers_context_is_seen(self):
        variable = contextvars.ContextVar("variable", default="unset")
        variable.set("set")
        assert await anext(ThreadedIterator(variable.get() for _ in range(1))) == "set"

    def test_a_loop_that_was_closed_lets_the_thread_go(self, gate):
        def source():
            running.append(threading.current_thread())
            yield gate.work()

        async def leave():
            task = asyncio.ensure_future(anext(ThreadedIterator(source())))
            await gate.has_begun()
            task.cancel()

        running = []
        asyncio.run(leave())
        gate.release.set()
        running[0].join(20)
        assert not running[0].is_alive()
