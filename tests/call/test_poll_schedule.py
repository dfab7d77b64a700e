"""When accepted tasks are polled: together, not too often, and by one of them alone while the gateway is away."""

from __future__ import annotations

import asyncio
import time

import pytest

from videorouter.call.poll_schedule import PollSchedule

pytestmark = pytest.mark.anyio


async def test_a_gateway_that_is_away_is_told_at_the_second_poll_and_once():
    schedule = PollSchedule()
    told = [schedule.note_unreached("a", "refused", time.monotonic()) for _ in range(4)]
    assert told == [False, True, False, False]
    assert schedule.outage.notice.endswith("accepted tasks wait for it: refused")


async def test_a_gateway_that_takes_long_to_be_away_is_told_at_the_first():
    schedule = PollSchedule()
    assert schedule.note_unreached("a", "no answer", time.monotonic() - 10.0)
    assert not schedule.note_unreached("a", "no answer", time.monotonic())


async def test_one_that_gives_up_hands_on_and_one_that_finds_the_gateway_frees_all():
    schedule = PollSchedule()
    until = time.monotonic() + 60.0
    schedule.note_unreached("a", "refused", time.monotonic())
    await schedule.wait_for_gateway("a", until)
    others = {name: asyncio.ensure_future(schedule.wait_for_gateway(name, until)) for name in "bcd"}
    await asyncio.sleep(0)
    assert not any(each.done() for each in others.values())
    schedule.leave("a")
    done, waiting = await asyncio.wait(others.values(), return_when=asyncio.FIRST_COMPLETED)
    assert (len(done), len(waiting)) == (1, 2)
    schedule.note_reached()
    await asyncio.gather(*waiting)
    assert schedule.outage is None


async def test_nobody_waits_past_its_own_deadline():
    schedule = PollSchedule()
    schedule.note_unreached("a", "refused", time.monotonic())
    await schedule.wait_for_gateway("b", time.monotonic() + 0.01)
    assert schedule.outage.asker == "a"


async def test_what_begins_to_wait_in_an_outage_waits_no_longer_than_those_before():
    schedule = PollSchedule()
    now = time.monotonic()
    assert schedule.shorten(now + 900.0, 900.0) == now + 900.0
    schedule.note_unreached("a", "refused", now - 600.0)
    assert schedule.shorten(now + 900.0, 900.0) == pytest.approx(now + 300.0)
    schedule.leave("a")
    assert schedule.shorten(now + 900.0, 900.0) == pytest.approx(now + 300.0)
