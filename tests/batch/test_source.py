"""How a batch takes its entries, one at a time, from whatever it was given."""

from __future__ import annotations

import asyncio
import threading

import pytest

from videorouter.batch.source import END, WAIT, EntrySource
from videorouter.errors import ConfigurationError

pytestmark = pytest.mark.anyio


def opened(source, fail=None) -> EntrySource:
    entries = EntrySource(source, fail or pytest.fail)
    entries.open()
    return entries


@pytest.mark.parametrize("source", ["otter", b"otter", 7])
def test_text_and_what_is_no_iterable_is_refused(source):
    with pytest.raises(ConfigurationError, match="takes an iterable"):
        EntrySource(source, pytest.fail)


def test_a_dict_is_no_list_of_its_names():
    with pytest.raises(ConfigurationError, match="a dict gives only its names"):
        EntrySource({"prompt": "otter", "model": "m"}, pytest.fail)


async def test_an_iterable_is_taken_without_waiting_and_counted():
    entries = opened(["a", "b"])
    assert entries.known == 2
    assert [entries.take_ready() for _ in range(2)] == ["a", "b"]
    assert not entries.ended
    assert entries.take_ready() is END
    assert entries.ended
    assert entries.taken == 2


async def test_an_async_iterable_is_taken_by_one_worker_at_a_time():
    running = 0

    async def source():
        nonlocal running
        for name in "abcd":
            running += 1
            await asyncio.sleep(0)
            assert running == 1
            running -= 1
            yield name

    entries = opened(source())
    assert entries.take_ready() is WAIT
    assert await asyncio.gather(*(entries.take() for _ in range(4))) == list("abcd")
    assert await entries.take() is END


async def test_stopping_wakes_a_worker_that_waits_for_input_that_may_never_come():
    async def source():
        await asyncio.Event().wait()
        yield "never"

    entries = opened(source())
    worker = asyncio.create_task(entries.take())
    await asyncio.sleep(0)
    entries.stop()
    assert await worker is END
    assert worker.cancelling() == 0


async def test_cancelling_a_worker_that_waits_for_input_cancels_it():
    async def source():
        await asyncio.Event().wait()
        yield "never"

    entries = opened(source())
    worker = asyncio.create_task(entries.take())
    await asyncio.sleep(0)
    entries.stop()
    worker.cancel()
    with pytest.raises(asyncio.CancelledError):
        await worker


@pytest.mark.parametrize("source", [["a"], ("a",), {"a": 1}.values(), range(1), iter(["a"])])
async def test_what_lies_in_memory_needs_no_thread(source):
    assert opened(source).take_ready() is not WAIT


async def test_a_list_that_is_changed_while_it_is_read_is_told():
    told: list[BaseException] = []
    source = {"a"}
    entries = opened(source, told.append)
    source.add("b")
    assert entries.take_ready() is END
    assert "changed size" in str(told[0])


async def test_any_other_iterable_is_read_in_a_thread_and_looked_through_before():
    class Lines:
        def __iter__(self):
            yield from "ab"
            threads.append(threading.current_thread())

    threads: list[threading.Thread] = []
    entries = opened(Lines())
    assert entries.take_ready() is WAIT
    assert [entry async for entry in entries.read_ahead()] == ["a", "b"]
    assert await asyncio.gather(*(entries.take() for _ in range(3))) == ["a", "b", END]
    assert entries.taken == 2
    assert threading.main_thread() not in threads


@pytest.mark.parametrize("awaited", [True, False])
async def test_an_input_that_breaks_is_told_once_and_ends(awaited):
    def plain():
        yield "a"
        raise OSError("disk")

    async def waiting():
        for name in plain():
            yield name

    told: list[BaseException] = []

    def fail(error: BaseException) -> None:
        told.append(error)
        entries.stop()

    entries = opened(waiting() if awaited else plain(), fail)
    taken = [await entries.take() for _ in range(3)]
    assert taken == ["a", END, END]
    assert [str(error) for error in told] == ["disk"]
