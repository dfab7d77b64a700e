"""A gateway that leaves every outcome in doubt gets few requests: dispatch pauses, probes, and stops."""

from __future__ import annotations

import asyncio

import pytest
from batching import collect, prompts

from videorouter import AsyncVideoRouter, ContentPolicyError, OutcomeUnknownError
from videorouter.batch import breaker as module
from videorouter.batch.breaker import CircuitBreaker
from videorouter.batch.sending import ItemRecord

pytestmark = pytest.mark.anyio

LONG = 3600.0


@pytest.fixture
async def router(sandbox):
    async with AsyncVideoRouter("key", base_url=sandbox.base_url, model="veo3-fast") as client:
        yield client


@pytest.fixture
def pace(monkeypatch):
    """Sets the seconds of the pauses, and those in which outcomes count once."""

    def set_pace(pauses: float, together: float = 0.0) -> None:
        monkeypatch.setattr(module, "PAUSES", (pauses,) * 4)
        monkeypatch.setattr(module, "TOGETHER", together)

    return set_pace


def make_record() -> ItemRecord:
    return ItemRecord(0, "a", "otter", None)


async def test_a_gateway_that_answers_everything_with_500_is_probed_four_times_and_left_alone(sandbox, router, pace):
    pace(0.01)
    sandbox.faults.add("status=500")
    batch = router.generate_many(prompts(300), concurrency=8, stop_after=5)
    items = await collect(batch)
    sent = [record for record in sandbox.requests if record.method == "POST"]
    assert len(sent) == batch.summary.in_doubt <= 5 + 7 + 4
    assert batch.summary.not_sent == 300 - len(sent)
    assert {item.state for item in items.values()} <= {"in_doubt", "not_sent"}
    assert batch.summary.stopped.startswith("4 probes in a row brought no answer either. ")
    assert f"Outcomes in doubt in a row: {len(sent)}. " in batch.summary.stopped
    assert isinstance(batch.cause, OutcomeUnknownError)
    assert batch.paused == ""


async def test_a_probe_that_is_accepted_lets_the_batch_go_on(sandbox, router, pace):
    pace(0.01)
    sandbox.faults.add("status=500", times=7)
    batch = router.generate_many(prompts(40), concurrency=1, stop_after=5)
    await collect(batch)
    assert (batch.summary.in_doubt, batch.summary.done) == (7, 33)
    assert batch.summary.stopped is None


async def test_a_paused_batch_says_so_and_can_be_stopped(sandbox, router, pace):
    pace(LONG)
    sandbox.faults.add("status=500")
    batch = router.generate_many(prompts(9), concurrency=1, stop_after=2)
    async with batch:
        for _ in range(2):
            assert (await anext(batch)).state == "in_doubt"
        assert batch.paused.startswith("Paused, probe 1 of 4: one request probes the gateway at ")
        assert "Outcomes in doubt in a row: 2. The last one: " in batch.paused
        batch.stop()
        assert {item.state async for item in batch} <= {"not_sent"}
    assert batch.summary.not_sent == 7


async def test_the_edit_of_a_video_that_is_held_back_does_not_hold_it_up(sandbox, router, pace):
    pace(0.01)
    sandbox.faults.add("status=500", times=2)
    edits = [{"id": "a", "prompt": "A heron"}, {"id": "b", "prompt": "Snow", "edit_of": "a"}]
    batch = router.generate_many([*prompts(2), *edits], concurrency=2, stop_after=2)
    await collect(batch)
    assert (batch.summary.in_doubt, batch.summary.done) == (2, 2)


async def test_outcomes_of_one_second_count_once_and_one_request_a_second_leaves_after_them(pace):
    pace(LONG, LONG)
    breaker = CircuitBreaker(3, pytest.fail)
    for _ in range(2):
        breaker.note_doubt(make_record(), OutcomeUnknownError("lost"))
    assert not breaker.holds
    for _ in range(8):
        breaker.note_doubt(make_record(), OutcomeUnknownError("lost"))
    assert breaker.notice == ""
    first, second = make_record(), make_record()
    await breaker.admit(first)
    waiting = asyncio.ensure_future(breaker.admit(second))
    await asyncio.sleep(0)
    assert not waiting.done()
    breaker.note_accepted(first)
    await waiting
    assert not breaker.holds


async def test_moderation_never_counts(pace):
    pace(LONG)
    breaker = CircuitBreaker(3, pytest.fail)
    for _ in range(50):
        breaker.note_doubt(make_record(), ContentPolicyError("no", status=500))
    assert not breaker.holds


async def test_only_the_probe_ends_a_pause_and_one_that_learned_nothing_is_handed_on(pace):
    pace(0.0)
    breaker = CircuitBreaker(1, pytest.fail)
    early, first, second = make_record(), make_record(), make_record()
    breaker.note_doubt(early, OutcomeUnknownError("lost"))
    breaker.note_accepted(early)
    assert breaker.holds
    await breaker.admit(first)
    assert "one request probes the gateway now" in breaker.notice
    waiting = asyncio.ensure_future(breaker.admit(second))
    await asyncio.sleep(0)
    assert not waiting.done()
    breaker.release(first)
    await waiting
    assert breaker.holds
    breaker.note_accepted(second)
    assert not breaker.holds
