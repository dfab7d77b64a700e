"""How a batch's items reach their one reader."""

from __future__ import annotations

import asyncio

import pytest

from videorouter.batch.output import ItemQueue
from videorouter.models import BatchItem

pytestmark = pytest.mark.anyio


def item(index: int, name: str = "") -> BatchItem:
    return BatchItem(index=index, id=name or str(index), state="done")


async def test_in_order_an_item_waits_for_all_entries_before_its_own():
    items = ItemQueue()
    for index in range(3):
        items.begin(index)
    items.put_in_order(item(2))
    items.end(2)
    items.put_in_order(item(0))
    items.end(0)
    assert [done.index for done in items.ready] == [0]
    items.put_in_order(item(1))
    items.end(1)
    assert [items.take().index for _ in range(3)] == [0, 1, 2]
    assert items.lag == 0


async def test_in_order_an_entry_ends_with_the_last_of_what_is_expected_of_it():
    items = ItemQueue()
    items.begin(0)
    items.expect(0)
    items.end(0)
    assert items.lag == 1
    items.put_in_order(item(0, "saved"))
    items.end(0)
    assert items.take().id == "saved"


async def test_a_reader_that_waits_is_woken_by_the_first_item():
    items = ItemQueue()
    reader = asyncio.create_task(items.wait())
    await asyncio.sleep(0)
    assert items.has_reader
    items.put(item(0))
    await reader
    assert not items.has_reader
    assert items.take().index == 0


async def test_taking_an_item_makes_room_for_every_worker_that_waits():
    items = ItemQueue()
    items.put(item(0))
    workers = [asyncio.create_task(items.wait_for_room()) for _ in range(2)]
    await asyncio.sleep(0)
    items.take()
    await asyncio.gather(*workers)
