"""State that each event loop has of its own."""

import asyncio
import gc

from videorouter.loops import PerLoop, resolve_future, running_loop


def test_each_loop_has_a_value_of_its_own_and_so_has_the_place_without_one():
    values = PerLoop(list)

    async def find():
        assert running_loop() is asyncio.get_running_loop()
        assert values.find() is values.find()
        return values.find()

    one, two = asyncio.run(find()), asyncio.run(find())
    elsewhere = values.find()
    assert running_loop() is None
    assert elsewhere is values.find()
    assert len({id(one), id(two), id(elsewhere)}) == 3


def test_a_value_goes_with_its_loop():
    values = PerLoop(list)

    async def find():
        values.find()

    asyncio.run(find())
    gc.collect()
    assert len(values._by_loop) == 0


async def _finish_twice():
    future = asyncio.get_running_loop().create_future()
    resolve_future(future)
    resolve_future(future)
    assert await future is None
    future = asyncio.get_running_loop().create_future()
    future.cancel()
    resolve_future(future)
    assert future.cancelled()


def test_a_future_that_is_done_stays_as_it_is():
    asyncio.run(_finish_twice())
