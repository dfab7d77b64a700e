"""The walk of a task, against real sockets: what is accepted is never paid again and never given up for a bad look."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import pickle
import random
import time

import anyio
import pytest
from servers import Gateway, answer, find_dead_port, lose, raw, task_accepted, until, write_answer

from videorouter import (
    AsyncVideoRouter,
    ContentPolicyError,
    InDoubt,
    InvalidRequestError,
    NotFoundError,
    OutcomeUnknownError,
    Task,
    TaskFailedError,
    TaskPollError,
    TaskTimeoutError,
    VideoRouterError,
)
from videorouter.call import limiter, poll_schedule, retry, tasks
from videorouter.events import TaskAccepted

pytestmark = pytest.mark.anyio

KEY = "sk-test-0123456789abcdef"
RUNNING = answer(200, {"data": {"status": "running"}})
DONE = answer(200, {"data": {"status": "completed", "urls": {"video": "https://cdn.example/v.mp4"}, "cost": 0.5}})


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    limiter.PROCESS_LIMITS.model_limits.clear()
    monkeypatch.setattr(retry, "POLLING", retry.BackOff(first=0.01, cap=1.0))
    monkeypatch.setattr(retry, "FAILED_POLL", retry.BackOff(first=0.01, cap=1.0))


@contextlib.asynccontextmanager
async def calling(*steps, **options):
    async with Gateway(*steps) as gateway, AsyncVideoRouter(KEY, base_url=gateway.url, **options) as router:
        yield gateway, router


async def test_generate_hides_the_task():
    async with calling(task_accepted("t-1"), RUNNING, DONE) as (gateway, router):
        result = await router.generate("otter", model="veo")
        assert (result.url, result.task_id, result.cost) == ("https://cdn.example/v.mp4", "t-1", 0.5)
        assert result.idempotency_key == gateway.posts[0].headers["idempotency-key"]
        assert result.request_id == "req-1"
        assert len(gateway.posts) == 1


async def test_a_task_that_is_final_at_once_is_not_polled():
    step = task_accepted(status="completed", outputs=["https://cdn.example/v.mp4"])
    async with calling(step) as (gateway, router):
        assert (await router.generate("otter", model="veo")).url == "https://cdn.example/v.mp4"
        assert gateway.gets == []


async def test_another_process_waits_by_the_id():
    async with calling(RUNNING, DONE) as (gateway, router):
        assert (await router.wait("cgt/1 2")).task_id == "cgt/1 2"
        assert gateway.gets[0].path == "/v1/videos/tasks/cgt%2F1%202"
        assert gateway.posts == []


BAD_LOOKS = {
    "reset": lose(),
    "closed": lose("close"),
    "500": answer(500),
    "503": answer(503),
    "404": answer(404),
    "400": answer(400),
    "429": answer(429),
    "429 with Retry-After": answer(429, None, "Retry-After: 0"),
    "HTML": answer(200, b"<html>"),
    "empty": answer(200, b""),
    "cut": raw(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{", then="reset"),
    "redirect": answer(302, b"", "Location: http://127.0.0.1:1/"),
    "200, code 500": answer(200, {"code": 500, "message": "x"}),
}


@pytest.mark.parametrize("bad", BAD_LOOKS.values(), ids=BAD_LOOKS.keys())
async def test_a_bad_look_never_fails_a_paid_job(bad):
    async with calling(task_accepted(), bad, bad, RUNNING, bad, DONE, max_retries=0) as (gateway, router):
        assert (await router.generate("otter", model="veo", timeout=20)).task_id == "t-1"
        assert len(gateway.posts) == 1
        assert router.in_doubt == ()


@pytest.mark.parametrize("status", [401, 403])
async def test_a_key_that_is_not_let_in_stops_the_looking(status):
    async with calling(task_accepted(), answer(status), DONE) as (gateway, router):
        with pytest.raises(TaskPollError) as caught:
            await router.generate("otter", model="veo", timeout=20)
        assert (caught.value.task_id, caught.value.status) == ("t-1", status)
        assert "router.wait('t-1')" in caught.value.message
        assert len(gateway.gets) == 1
        assert (await router.wait(caught.value.task_id)).url


async def test_a_404_counts_only_a_minute_after_acceptance(monkeypatch):
    monkeypatch.setattr(retry, "NEW_TASK", 0.1)
    async with calling(task_accepted(), answer(404)) as (gateway, router):
        with pytest.raises(TaskPollError) as caught:
            await router.generate("otter", model="veo", timeout=20)
        assert (caught.value.task_id, caught.value.status) == ("t-1", 404)
        assert len(gateway.gets) > 1


async def test_completed_without_an_address_is_an_error_and_not_an_endless_poll():
    async with calling(task_accepted(), answer(200, {"data": {"status": "completed"}})) as (gateway, router):
        with pytest.raises(TaskPollError) as caught:
            await router.generate("otter", model="veo", timeout=20)
        assert caught.value.task_id == "t-1"
        assert "completed" in caught.value.body
        assert len(gateway.gets) == 2


async def test_a_failed_task_raises_the_gateways_reason():
    failed = answer(200, {"code": 500, "data": {"status": "FAILED", "fail_reason": "upstream error"}})
    async with calling(task_accepted(), failed) as (_, router):
        with pytest.raises(TaskFailedError, match="upstream error") as caught:
            await router.generate("otter", model="veo", timeout=20)
        assert caught.value.task_id == "t-1"


async def test_moderation_of_a_task_is_moderation():
    failed = answer(200, {"data": {"status": "failed", "fail_reason": "content policy violation"}})
    async with calling(task_accepted(), failed) as (_, router):
        with pytest.raises(ContentPolicyError) as caught:
            await router.generate("otter", model="veo", timeout=20)
        assert caught.value.task_id == "t-1"


@pytest.mark.parametrize("word", ["SUCCESS", "succeed", "finished", "Moon"])
async def test_a_task_in_other_words_is_collected(word):
    done = answer(200, {"code": "success", "data": {"status": word, "outputs": ["https://cdn.example/v.mp4"]}})
    async with calling(task_accepted(), RUNNING, done) as (gateway, router):
        assert (await router.generate("otter", model="veo", timeout=20)).url == "https://cdn.example/v.mp4"
        assert len(gateway.gets) == 2


@pytest.mark.parametrize("word", ["FAILURE", "rejected", "timed_out"])
async def test_a_task_that_failed_in_other_words_is_polled_no_more(word):
    failed = answer(200, {"code": "success", "data": {"status": word, "fail_reason": "upstream error"}})
    async with calling(task_accepted(), failed) as (gateway, router):
        with pytest.raises(TaskFailedError, match="upstream error"):
            await router.generate("otter", model="veo", timeout=20)
        assert len(gateway.gets) == 1


@pytest.mark.parametrize("word", ["moderated", "content_filter"])
async def test_a_state_that_says_moderation_is_moderation(word):
    async with calling(task_accepted(), answer(200, {"data": {"status": word}})) as (_, router):
        with pytest.raises(ContentPolicyError) as caught:
            await router.generate("otter", model="veo", timeout=20)
        assert caught.value.task_id == "t-1"


async def test_a_url_of_a_task_that_runs_is_taken_at_the_deadline_only():
    early = answer(200, {"data": {"status": "running", "outputs": ["https://cdn.example/early.mp4"]}})
    async with calling(task_accepted(), early, RUNNING) as (gateway, router):
        began = time.monotonic()
        result = await router.generate("otter", model="veo", timeout=0.5)
        assert time.monotonic() - began > 0.4
        assert (result.url, result.task_id) == ("https://cdn.example/early.mp4", "t-1")
        assert len(gateway.gets) > 2
        gateway.steps = [early, DONE]
        assert (await router.wait("t-1", timeout=20)).url == "https://cdn.example/v.mp4"


async def test_an_address_that_was_sent_is_no_result():
    sent = "https://x.example/in.mp4"
    echo = answer(200, {"data": {"status": "Moon", "video_url": sent}})
    async with calling(task_accepted(video_url=sent), echo, DONE) as (gateway, router):
        result = await router.generate("otter", model="veo", timeout=20, video_urls=[sent])
        assert result.url == "https://cdn.example/v.mp4"
        assert len(gateway.gets) == 2


async def test_a_word_that_nobody_knows_is_named_at_the_deadline():
    async with calling(task_accepted(), answer(200, {"data": {"status": "Moon", "key": KEY}})) as (_, router):
        with pytest.raises(TaskTimeoutError, match="'Moon'") as caught:
            await router.generate("otter", model="veo", timeout=0.4)
        assert '"status": "Moon"' in caught.value.body
        assert KEY not in caught.value.body
    async with calling(task_accepted(), RUNNING) as (_, router):
        with pytest.raises(TaskTimeoutError) as caught:
            await router.generate("otter", model="veo", timeout=0.4)
        assert caught.value.body is None


async def test_out_of_credit_says_nothing_of_a_task_that_is_paid():
    broke = answer(403, {"error": {"message": "no", "code": "insufficient_user_quota"}})
    async with calling(task_accepted(), broke, answer(402), DONE) as (_, router):
        assert (await router.generate("otter", model="veo", timeout=20)).task_id == "t-1"


async def test_the_deadline_leaves_the_job_to_be_collected():
    async with calling(task_accepted(), RUNNING) as (gateway, router):
        began = time.monotonic()
        with pytest.raises(TaskTimeoutError) as caught:
            await router.generate("otter", model="veo", timeout=0.5)
        assert 0.4 < time.monotonic() - began < 1.5
        assert caught.value.task_id == "t-1"
        assert not caught.value.in_doubt
        gateway.steps = [DONE]
        assert (await router.wait(caught.value.task_id)).url
        assert len(gateway.posts) == 1


async def test_a_hanging_look_is_given_up_at_the_deadline():
    async with calling(task_accepted(), lose("hold")) as (_, router):
        began = time.monotonic()
        with pytest.raises(TaskTimeoutError) as caught:
            await router.generate("otter", model="veo", timeout=0.5)
        assert time.monotonic() - began < 1.5
        assert caught.value.task_id == "t-1"


async def test_a_client_closed_meanwhile_leaves_the_id():
    async with calling(task_accepted(), RUNNING) as (gateway, router):
        call = asyncio.create_task(router.generate("otter", model="veo", timeout=20))
        await until(lambda: gateway.gets)
        await router.aclose()
        with pytest.raises(TaskPollError) as caught:
            await call
        assert caught.value.task_id == "t-1"


async def test_one_look_raises_what_it_met_with_the_id():
    async with calling(answer(404)) as (_, router):
        with pytest.raises(NotFoundError) as caught:
            await router.task("t-8")
        assert caught.value.task_id == "t-8"


async def test_half_of_all_looks_failing_costs_nothing():
    dice = random.Random(7)
    numbers = iter(range(10_000))
    looks = collections.Counter()

    async def serve(visit):
        request = await visit.read()
        if request.method == "POST":
            await visit.say(write_answer(200, json.dumps({"data": {"task_id": f"t-{next(numbers)}"}}).encode()))
            return
        looks[request.path] += 1
        if dice.random() < 0.5:
            kind = dice.choice(["reset", "500", "429", "html"])
            if kind == "reset":
                visit.reset()
            else:
                await visit.say(write_answer(200 if kind == "html" else int(kind), b"<html>"))
        elif looks[request.path] < 3:
            await visit.say(write_answer(200, b'{"data":{"status":"running"}}'))
        else:
            await visit.say(
                write_answer(200, b'{"data":{"status":"done?","status":"success","output":"https://x.example/v.mp4"}}')
            )

    async with calling(serve) as (gateway, router):
        results = await asyncio.gather(*(router.generate("otter", model="veo", timeout=60) for _ in range(200)))
        assert len({result.task_id for result in results}) == 200
        assert len(gateway.posts) == 200
        assert router.stats().tasks_watched == 0


async def test_thousands_of_tasks_are_no_herd(monkeypatch):
    monkeypatch.setattr(poll_schedule, "POLLS_PER_SECOND", 50.0)
    async with calling(RUNNING) as (gateway, router):
        calls = [asyncio.create_task(router.wait(f"t-{n}", timeout=0.9)) for n in range(1000)]
        await asyncio.wait(calls)
        assert len(gateway.gets) <= 50 * 2
        assert all(type(call.exception()) is TaskTimeoutError for call in calls)


async def test_who_rests_is_woken_after_a_suspension(monkeypatch):
    suspended = 0.0
    monkeypatch.setattr(poll_schedule, "read_suspension", lambda: suspended)
    monkeypatch.setattr(poll_schedule, "_TICK", 0.01)
    schedule = poll_schedule.PollSchedule()
    began = time.monotonic()
    sleeper = asyncio.create_task(schedule.rest(30))
    await asyncio.sleep(0.05)
    assert not sleeper.done()
    suspended = 3600.0
    await asyncio.wait_for(sleeper, 5)
    assert time.monotonic() - began < 5


async def test_intent_comes_before_the_first_byte_and_acceptance_before_the_first_look():
    order = []

    async def intent():
        order.append(("intent", len(gateway.requests)))
        await asyncio.sleep(0.02)

    async def accepted(task):
        await asyncio.sleep(0.05)
        order.append(("accepted", task.id, len(gateway.gets)))

    async with calling(answer(429), task_accepted("t-4"), DONE) as (gateway, router):
        submission = router._builder.build("generate", "otter", {"model": "veo"})
        await tasks.run_job(router._caller, submission, intent=intent, accepted=accepted)
        assert order == [("intent", 0), ("accepted", "t-4", 0)]


async def test_an_intent_that_fails_sends_nothing():
    async def intent():
        raise VideoRouterError("disk full")

    async with calling(DONE) as (gateway, router):
        submission = router._builder.build("generate", "otter", {"model": "veo"})
        with pytest.raises(VideoRouterError, match="disk full"):
            await tasks.run_job(router._caller, submission, intent=intent)
        assert gateway.connections == 0
        assert router.stats().in_flight == 0


async def test_a_cancelled_job_still_hands_over_its_task():
    handed = []

    async def accepted(task):
        await asyncio.sleep(0)
        handed.append(task.id)

    async def slow(visit):
        await visit.read()
        await asyncio.sleep(0.1)
        await visit.say(write_answer(200, b'{"data":{"task_id":"t-6"}}'))

    async with calling(slow) as (gateway, router):
        submission = router._builder.build("generate", "otter", {"model": "veo"})
        call = asyncio.create_task(tasks.run_job(router._caller, submission, accepted=accepted))
        await until(lambda: gateway.posts)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert handed == ["t-6"]


async def test_a_submission_cancelled_while_its_acceptance_is_told_keeps_its_id():
    told = asyncio.Event()

    async def hear(event):
        if isinstance(event, TaskAccepted):
            told.set()
            await asyncio.sleep(60)

    async with calling(task_accepted("t-8"), on_event=hear) as (gateway, router):
        call = asyncio.create_task(router.submit("otter", model="veo"))
        await told.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert [record.task_id for record in router.in_doubt] == ["t-8"]
        assert len(gateway.posts) == 1


async def test_an_anyio_scope_cancels_as_a_task_does():
    async def slow(visit):
        await visit.read()
        await asyncio.sleep(0.2)
        await visit.say(write_answer(200, b'{"data":{"task_id":"t-7"}}'))

    async with calling(slow) as (_, router):
        with anyio.move_on_after(0.1):
            await router.generate("otter", model="veo")
        assert [record.task_id for record in router.in_doubt] == ["t-7"]


async def test_a_resumed_job_holds_a_slot_of_its_model_and_pays_nothing():
    async with calling(RUNNING, DONE, max_concurrency=1) as (gateway, router):
        jobs = [tasks.resume_job(router._caller, Task(id=f"t-{n}", model="veo"), timeout=20) for n in range(3)]
        results = await asyncio.gather(*jobs)
        assert {result.task_id for result in results} == {"t-0", "t-1", "t-2"}
        assert gateway.posts == []
        assert router.stats().in_flight == 0


def test_a_call_runs_under_trio(tmp_path):
    trio = pytest.importorskip("trio")
    import threading

    ready = threading.Event()
    place = {}

    def serve():
        async def main():
            async with Gateway(answer(429), task_accepted(), RUNNING, DONE) as gateway:
                place["url"] = gateway.url
                ready.set()
                await until(lambda: len(gateway.gets) == 2)
                place["posts"] = len(gateway.posts)

        asyncio.run(main())

    thread = threading.Thread(target=serve)
    thread.start()
    assert ready.wait(10)

    async def main():
        async with AsyncVideoRouter(KEY, base_url=place["url"], max_concurrency=1) as router:
            return await router.generate("otter", model="veo", timeout=20)

    assert trio.run(main).task_id == "t-1"
    thread.join(10)
    assert place["posts"] == 2


# Another host than the first has accepted the task.


@contextlib.asynccontextmanager
async def failing_over(*steps, alive=False, **options):
    """A client whose first host is dead, or knows no task, and whose second one is a scripted gateway."""
    async with Gateway(answer(404)) as first, Gateway(*steps) as second:
        base = first.url if alive else f"http://127.0.0.1:{find_dead_port()}/v1"
        async with AsyncVideoRouter(KEY, base_url=base, failover_urls=[second.url], **options) as router:
            yield router, second


async def test_an_error_leads_to_the_host_that_has_the_task():
    async with failing_over(task_accepted(), RUNNING) as (router, second):
        with pytest.raises(TaskTimeoutError) as caught:
            await router.generate("otter", model="veo", timeout=2)
        error = caught.value
        assert error.poll_url == f"{second.url}/videos/tasks/t-1"
        assert "router.wait(error)" in error.message
        assert f"--base-url {second.url}" in error.message
        second.steps = [DONE]
        assert (await router.wait(error)).url
        assert Task.of(pickle.loads(pickle.dumps(error))) == Task.of(error)


async def test_a_submitted_task_is_waited_for_in_another_process_by_what_it_stores():
    async with failing_over(task_accepted(), DONE) as (router, second):
        stored = json.dumps((await router.submit("otter", model="veo")).to_dict())
        another = router.with_options(failover_urls=(), base_url=second.url)
        assert (await another.wait(Task.from_dict(json.loads(stored)))).url
        assert (await router.wait(Task.from_dict(json.loads(stored)))).url


async def test_a_cut_answer_that_names_its_task_leads_there_too():
    piece = b'HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"code":200,"data":{"task_id":"cgt-77","object":"vid'
    async with failing_over(raw(piece, then="reset"), DONE) as (router, second):
        with pytest.raises(OutcomeUnknownError) as caught:
            await router.generate("otter", model="veo", timeout=5)
        assert caught.value.poll_url == f"{second.url}/videos/tasks/cgt-77"
        (record,) = router.in_doubt
        assert (await router.wait(record)).url
        assert (await router.wait(caught.value)).url


async def test_an_address_that_cannot_be_followed_is_built_on_the_host_that_accepted():
    accepted = task_accepted(urls={"query": "https://stranger.example/videos/tasks/t-1"})
    async with failing_over(accepted, DONE) as (router, second):
        assert (await router.generate("otter", model="veo", timeout=10)).url
        assert [get.path for get in second.gets] == ["/v1/videos/tasks/t-1"]


@pytest.mark.parametrize("alive", [True, False], ids=["that knows it not", "that is dead"])
async def test_an_id_alone_is_looked_for_on_each_host_after_one(alive):
    async with failing_over(DONE, alive=alive) as (router, _):
        assert (await router.wait("t-1", timeout=20)).url
        assert (await router.task("t-1")).done


async def test_an_id_that_no_host_knows_is_given_up_as_ever(monkeypatch):
    monkeypatch.setattr(retry, "NEW_TASK", 0.2)
    async with failing_over(answer(404), alive=True) as (router, _):
        with pytest.raises(TaskPollError) as caught:
            await router.wait("t-1", timeout=20)
        assert caught.value.status == 404


async def test_a_host_that_is_down_for_a_while_keeps_its_task(monkeypatch):
    """The other host's 404 says nothing of a task that may be on the one that cannot be asked."""
    monkeypatch.setattr(retry, "NEW_TASK", 0.0)
    async with failing_over(answer(404)) as (router, _):
        with pytest.raises(TaskTimeoutError):
            await router.wait("t-1", timeout=1)


@pytest.mark.parametrize("nothing", [VideoRouterError("no task"), InDoubt(idempotency_key="k")])
async def test_what_names_no_task_cannot_be_waited_for(nothing):
    async with calling(DONE) as (_, router):
        with pytest.raises(InvalidRequestError, match="names no accepted task"):
            await router.wait(nothing)
