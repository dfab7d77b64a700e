"""The retry law on real sockets: each cell of the table, checked against what the server read and would have charged."""

from __future__ import annotations

import asyncio
import pickle
import time

import pytest
from calling import KEY, LEFT, calling, fail
from servers import (
    BODY,
    Gateway,
    answer,
    find_dead_port,
    lose,
    raw,
    reset_midway,
    reset_unread,
    stop_reading,
    task_accepted,
    until,
)

from videorouter import (
    APIConnectionError,
    APIStatusError,
    AsyncVideoRouter,
    AuthenticationError,
    BadRequestError,
    ClientClosedError,
    ConfigurationError,
    ContentPolicyError,
    DeadlineExceededError,
    InsufficientCreditsError,
    InternalServerError,
    NotFoundError,
    OutcomeUnknownError,
    PermissionDeniedError,
    Phase,
    RateLimitError,
    UnexpectedResponseError,
    UnprocessableEntityError,
    VideoRouterError,
)

pytestmark = pytest.mark.anyio

# The request leaves, no usable answer comes: never twice.

LOST = {
    "reset before it was read": reset_unread(),
    "reset midway": reset_midway(),
    "reset after the whole POST": lose(),
    "closed after the whole POST": lose("close"),
    "a protocol error": raw(b"SSH-2.0-OpenSSH_9.6\r\n"),
    "half a head": raw(b"HTTP/1.1 200 OK\r\nContent-"),
    "status 500": answer(500),
    "status 502": answer(502),
    "status 503 without Retry-After": answer(503),
    "status 504": answer(504),
    "status 507": answer(507),
    "status 520": answer(520),
    "status 524": answer(524),
    "status 526": answer(526),
    "status 408": answer(408),
    "status 409": answer(409),
    "status 301": answer(301, b"", "Location: http://127.0.0.1:1/v1/videos/generations"),
    "status 302": answer(302, b"", "Location: /elsewhere"),
    "status 303": answer(303, b"", "Location: /elsewhere"),
    "status 451": answer(451),
    "200, error without a code": answer(200, {"error": {"message": "no"}}),
    "200, code 500": answer(200, {"code": 500, "message": "broken"}),
    "200, body cut": raw(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n" + BODY[:40], then="reset"),
    "200, too large": raw(b"HTTP/1.1 200 OK\r\nContent-Length: 9000000\r\n\r\n" + b" " * 5_000_000, then="hold"),
    "200, not JSON": answer(200, b"<html>It works</html>"),
    "200, empty data": answer(200, {"data": []}),
    "200, null data": answer(200, {"data": None}),
    "200, wrong shape": answer(200, {"data": 7}),
    "200, unusable URL": answer(200, {"data": [{"url": "file:///etc/passwd"}]}),
    "200, no body": answer(200, b""),
    "204": answer(204, b""),
}


@pytest.mark.parametrize("step", LOST.values(), ids=LOST.keys())
async def test_a_lost_answer_is_never_sent_twice(step):
    async with calling(step) as (gateway, router):
        error = await fail(router)
        assert type(error) is OutcomeUnknownError
        assert len(gateway.posts) <= 1
        assert gateway.connections == 1
        assert error.in_doubt
        assert error.attempts == 1
        assert "billed" in error.message
        assert "try again" not in error.message.lower()
        assert error.host == f"127.0.0.1:{gateway.port}"
        assert error.idempotency_key
        assert error.elapsed is not None
        assert error.phase in LEFT
        assert not isinstance(error, TimeoutError | ConnectionError | OSError)
        assert [record.idempotency_key for record in router.in_doubt] == [error.idempotency_key]
        assert pickle.loads(pickle.dumps(error)) == error


async def test_a_silent_gateway_ends_at_the_deadline_with_one_charge():
    async with calling(lose("hold")) as (gateway, router):
        began = time.monotonic()
        error = await fail(router, timeout=0.4)
        assert type(error) is OutcomeUnknownError
        assert time.monotonic() - began < 1.4
        assert error.phase == Phase.SENT
        assert len(gateway.posts) == 1


async def test_an_answer_in_doubt_keeps_its_evidence():
    body = b"<html>maintenance</html>" + b"x" * 9000
    async with calling(answer(524, body, "cf-ray: ray-7")) as (_, router):
        error = await fail(router)
        assert (error.status, error.request_id, error.cf_ray) == (524, "req-1", "ray-7")
        assert error.body.startswith("<html>maintenance")
        assert len(error.body) == 4096
        assert ("content-type", "application/json") in error.headers


async def test_a_cut_answer_that_names_its_task_can_still_be_collected():
    piece = b'{"code":200,"data":{"task_id":"cgt-77","object":"vid'
    steps = (
        raw(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n" + piece, then="reset"),
        answer(200, {"data": {"status": "completed", "urls": {"video": "https://cdn.example/v.mp4"}}}),
    )
    async with calling(*steps) as (_, router):
        error = await fail(router)
        assert error.task_id == "cgt-77"
        assert (await router.wait(error.task_id)).url == "https://cdn.example/v.mp4"


# Nothing was accepted: again.


async def test_a_refused_connection_is_retried_and_nothing_was_sent():
    async with AsyncVideoRouter(KEY, base_url=f"http://127.0.0.1:{find_dead_port()}/v1", max_retries=2) as router:
        error = await fail(router)
        assert type(error) is APIConnectionError
        assert error.attempts == 3
        assert error.phase == Phase.CONNECTING
        assert "127.0.0.1" in error.message
        assert not error.in_doubt
        assert router.in_doubt == ()


async def test_a_gateway_that_comes_up_between_attempts_is_reached():
    port = find_dead_port()
    async with AsyncVideoRouter(KEY, base_url=f"http://127.0.0.1:{port}/v1", max_retries=30) as router:
        call = asyncio.create_task(router.generate("otter", model="veo", timeout=20))
        await until(lambda: router.stats().attempts >= 2)
        gateway = Gateway(answer())
        server = await asyncio.start_server(gateway._visit, "127.0.0.1", port)
        assert (await call).url == "https://resource.example/v.mp4"
        assert len(gateway.posts) == 1
        server.close()


async def test_a_write_that_fails_before_the_body_is_complete_is_retried():
    async with calling(stop_reading(), answer()) as (gateway, router):
        result = await router.generate("otter " * 2_000_000, model="veo", timeout=20)
        assert result.video_id == "video_1"
        assert len(gateway.posts) == 1
        assert gateway.connections == 2


async def test_a_name_that_does_not_exist_is_raised_at_once():
    async with AsyncVideoRouter(KEY, base_url="https://gateway.invalid/v1") as router:
        error = await fail(router)
        assert type(error) is APIConnectionError
        assert error.attempts == 1
        assert "gateway.invalid" in error.message


REFUSED = {
    "429": (answer(429), {}),
    "429 with Retry-After": (answer(429, None, "Retry-After: 0.1"), {}),
    "425": (answer(425), {}),
    "503 with Retry-After": (answer(503, None, "Retry-After: 0"), {}),
    "429 in HTTP 200": (answer(200, {"code": 429, "message": "slow down"}), {}),
    "429 with its body cut": (raw(b"HTTP/1.1 429 X\r\nContent-Length: 50\r\n\r\n{", then="reset"), {}),
    "a declared status": (answer(502), {"refused_statuses": (502,)}),
}


@pytest.mark.parametrize(("step", "options"), REFUSED.values(), ids=REFUSED.keys())
async def test_a_refusal_is_waited_out(step, options):
    async with calling(step, step, answer(), **options) as (gateway, router):
        result = await router.generate("otter", model="veo", timeout=20)
        assert result.video_id == "video_1"
        assert len(gateway.posts) == 3
        assert len({post.headers["idempotency-key"] for post in gateway.posts}) == 1
        assert len({post.body for post in gateway.posts}) == 1
        assert result.idempotency_key == gateway.posts[0].headers["idempotency-key"]
        assert router.in_doubt == ()


@pytest.mark.parametrize("retry_after", ["30", "Sun, 06 Nov 2044 08:49:37 GMT"])
async def test_a_retry_after_past_the_deadline_is_raised_at_once(retry_after):
    async with calling(answer(429, None, f"Retry-After: {retry_after}")) as (gateway, router):
        began = time.monotonic()
        error = await fail(router, timeout=8)
        assert time.monotonic() - began < 4
        assert type(error) is RateLimitError
        assert error.retry_after >= 30
        assert len(gateway.posts) == 1


async def test_a_refusal_at_the_deadline_is_raised_as_itself():
    async with calling(answer(429, None, "Retry-After: 0.2")) as (gateway, router):
        error = await fail(router, timeout=2)
        assert type(error) is RateLimitError
        assert not error.in_doubt
        assert error.attempts == len(gateway.posts) >= 2


async def test_a_malformed_retry_after_makes_a_503_no_refusal():
    async with calling(answer(503, None, "Retry-After: -5")) as (gateway, router):
        assert type(await fail(router)) is OutcomeUnknownError
        assert len(gateway.posts) == 1


@pytest.mark.parametrize("step", [answer(429), answer(503, None, "Retry-After: 0")], ids=["429", "503"])
async def test_no_retries_means_none_at_all(step):
    async with calling(step) as (gateway, router):
        error = await fail(router, max_retries=0)
        assert type(error) is RateLimitError
        assert len(gateway.posts) == 1


# The gateway says no.

REJECTED = {
    400: BadRequestError,
    401: AuthenticationError,
    402: InsufficientCreditsError,
    403: PermissionDeniedError,
    404: NotFoundError,
    405: APIStatusError,
    413: APIStatusError,
    415: APIStatusError,
    422: UnprocessableEntityError,
    307: APIStatusError,
    308: APIStatusError,
}


@pytest.mark.parametrize("honoured", ["unknown", "honoured"])
@pytest.mark.parametrize("status", REJECTED)
async def test_a_rejection_is_raised_as_its_class(status, honoured):
    step = answer(status, None, "Location: http://127.0.0.1:1/")
    async with calling(step, idempotency=honoured) as (gateway, router):
        error = await fail(router)
        assert type(error) is REJECTED[status]
        assert error.status == status
        assert error.request_id == "req-1"
        assert not error.in_doubt
        assert len(gateway.posts) == 1
        assert gateway.connections == 1


@pytest.mark.parametrize("status", [400, 402, 404])
async def test_a_rejection_under_http_200_is_raised_as_its_class(status):
    async with calling(answer(200, {"code": status, "message": "no", "data": None})) as (gateway, router):
        error = await fail(router)
        assert type(error) is REJECTED[status]
        assert len(gateway.posts) == 1


@pytest.mark.parametrize("status", [403, 422])
async def test_moderation_has_one_class(status):
    body = {"error": {"message": "no", "type": "content_policy_violation"}}
    async with calling(answer(status, body)) as (_, router):
        assert type(await fail(router)) is ContentPolicyError


NO_CREDIT = {
    "403": answer(403, {"error": {"message": "Your current credits have been used up and we are unable to go on."}}),
    "403, by code": answer(403, {"error": {"message": "no", "code": "insufficient_user_quota"}}),
    "429": answer(429, {"error": {"message": "Free model requires Team balance greater than $4.999999.", "code": 429}}),
    "429, by code": answer(429, {"error": {"message": "no", "code": "insufficient_quota"}}, "Retry-After: 1"),
    "402": answer(402),
}


@pytest.mark.parametrize("honoured", ["unknown", "honoured"])
@pytest.mark.parametrize("step", NO_CREDIT.values(), ids=NO_CREDIT.keys())
async def test_an_account_without_credit_ends_the_call_at_the_first_answer(step, honoured):
    async with calling(step, idempotency=honoured) as (gateway, router):
        error = await fail(router)
        assert type(error) is InsufficientCreditsError
        assert not error.in_doubt
        assert len(gateway.posts) == 1
        with pytest.raises(InsufficientCreditsError):
            await router.balance()
        assert len(gateway.gets) == 1
        assert router.stats().paused_until == 0


async def test_the_wait_in_the_words_of_a_429_is_kept():
    wait = answer(429, {"error": {"message": "Rate limit exceeded. Please try again after 0.4 seconds."}})
    async with calling(wait, answer()) as (gateway, router):
        began = time.monotonic()
        assert (await router.generate("otter", model="veo", timeout=20)).video_id == "video_1"
        assert time.monotonic() - began >= 0.4
        gateway.steps = [answer(429, {"error": {"message": "Please try again after 6 minutes."}})]
        error = await fail(router)
        assert type(error) is RateLimitError
        assert error.retry_after == 360.0


# The caller declares that keys are honoured.

AGAIN = {
    "reset before it was read": reset_unread(),
    "reset after the whole POST": lose(),
    "a protocol error": raw(b"SSH-2.0-OpenSSH_9.6\r\n"),
    "500": answer(500),
    "502": answer(502),
    "503": answer(503),
    "504": answer(504),
    "520": answer(520),
    "408": answer(408),
    "409": answer(409),
    "body cut": raw(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{", then="reset"),
}


@pytest.mark.parametrize("step", AGAIN.values(), ids=AGAIN.keys())
async def test_an_honoured_key_is_sent_again_with_the_same_bytes(step):
    async with calling(step, answer(), idempotency="honoured") as (gateway, router):
        result = await router.generate("otter", model="veo", timeout=20, idempotency_key="my-key")
        assert result.idempotency_key == "my-key"
        assert {post.headers["idempotency-key"] for post in gateway.posts} == {"my-key"}
        assert len({post.body for post in gateway.posts}) == 1
        assert router.in_doubt == ()


async def test_a_body_that_was_cut_is_said_once():
    cut = raw(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{", then="reset")
    async with calling(cut) as (_, router):
        error = await fail(router)
    assert f"(body cut at {error.host}" in str(error)


async def test_honoured_retries_are_counted():
    async with calling(lose(), idempotency="honoured", max_retries=2) as (gateway, router):
        error = await fail(router, timeout=20)
        assert type(error) is OutcomeUnknownError
        assert error.attempts == len(gateway.posts) == 3


@pytest.mark.parametrize("status", [409, 422])
async def test_a_complaint_about_the_key_raises_the_first_failure(status):
    complaint = answer(status, {"error": {"message": "Idempotency-Key is in use"}})
    async with calling(answer(524), complaint, idempotency="honoured") as (gateway, router):
        error = await fail(router, timeout=20)
        assert type(error) is OutcomeUnknownError
        assert error.status == 524
        assert len(gateway.posts) == 2


@pytest.mark.parametrize("later", [400, 401, 404])
async def test_a_later_rejection_does_not_undo_an_attempt_in_doubt(later):
    async with calling(lose(), answer(later), idempotency="honoured") as (gateway, router):
        error = await fail(router, timeout=20)
        assert type(error) is OutcomeUnknownError
        assert len(gateway.posts) == 2
        assert error.attempts == 2


async def test_a_dead_gateway_does_not_undo_an_attempt_in_doubt():
    async with calling(lose(), idempotency="honoured", max_retries=2) as (gateway, router):
        call = asyncio.create_task(fail(router, timeout=20))
        await until(lambda: gateway.posts)
        gateway._server.close()
        assert type(await call) is OutcomeUnknownError


# Before anything is sent.


async def test_a_closed_client_sends_nothing():
    async with calling(answer()) as (gateway, router):
        await router.aclose()
        assert type(await fail(router)) is ClientClosedError
        assert gateway.connections == 0


async def test_a_draining_client_takes_nothing_new_and_names_what_runs():
    async with calling(task_accepted("t-9"), answer(200, {"data": {"status": "running"}})) as (gateway, router):
        call = asyncio.create_task(router.generate("otter", model="veo"))
        await until(lambda: gateway.gets)
        report = await router.drain(timeout=0.05)
        assert (report.finished, report.unfinished, report.in_flight) == (False, ("t-9",), 1)
        assert type(await fail(router)) is ClientClosedError
        call.cancel()
        await asyncio.wait([call])
        assert (await router.drain(timeout=5)).finished


async def test_a_deadline_in_the_queue_sends_nothing():
    async with calling(lose("hold"), max_concurrency=1) as (gateway, router):
        first = asyncio.create_task(router.generate("otter", model="veo"))
        await until(lambda: gateway.posts)
        error = await fail(router, timeout=0.2)
        assert type(error) is DeadlineExceededError
        assert len(gateway.posts) == 1
        assert router.stats().queued == 0
        first.cancel()
        await asyncio.wait([first])


@pytest.mark.parametrize("bad", [lambda: 1 / 0, lambda: "sk-bad\nkey-0123456789", lambda: None, lambda: ""])
async def test_a_key_callable_that_fails_sends_nothing_and_is_not_quoted(bad):
    async with Gateway(answer()) as gateway, AsyncVideoRouter(bad, base_url=gateway.url) as router:
        error = await fail(router)
        assert type(error) is ConfigurationError
        assert "0123456789" not in str(error)
        assert gateway.connections == 0


async def cancel_itself():
    raise asyncio.CancelledError


def cancel_plainly():
    raise asyncio.CancelledError


async def ask_a_cancelled_task():
    task = asyncio.ensure_future(asyncio.sleep(60))
    task.cancel()
    await task


@pytest.mark.parametrize("bad", [cancel_itself, cancel_plainly, ask_a_cancelled_task])
async def test_a_key_callable_that_cancels_itself_does_not_cancel_the_call(bad):
    async with Gateway(answer()) as gateway, AsyncVideoRouter(bad, base_url=gateway.url) as router:
        error = await fail(router)
        assert type(error) is ConfigurationError
        assert "CancelledError" in error.message
        assert gateway.connections == 0


async def test_a_call_that_is_cancelled_while_it_waits_for_its_key_is_cancelled():
    async with (
        Gateway(answer()) as gateway,
        AsyncVideoRouter(lambda: asyncio.sleep(60), base_url=gateway.url) as router,
    ):
        call = asyncio.create_task(router.generate("otter", model="veo"))
        await asyncio.sleep(0.05)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert gateway.connections == 0


async def test_a_key_may_come_from_a_coroutine_function_each_time_anew():
    keys = iter(["sk-one-0123456789", "sk-two-0123456789"])

    async def ask() -> str:
        await asyncio.sleep(0)
        return next(keys)

    async with Gateway(answer()) as gateway, AsyncVideoRouter(ask, base_url=gateway.url) as router:
        await router.generate("otter", model="veo")
        await router.generate("otter", model="veo")
        assert [post.headers["authorization"] for post in gateway.posts] == ["sk-one-0123456789", "sk-two-0123456789"]


# Fail-over.


async def test_another_host_is_tried_where_nothing_was_sent():
    async with Gateway(answer()) as gateway:
        dead = f"http://127.0.0.1:{find_dead_port()}/v1"
        async with AsyncVideoRouter(KEY, base_url=dead, failover_urls=[gateway.url]) as router:
            assert (await router.generate("otter", model="veo")).video_id == "video_1"
        assert len(gateway.posts) == 1
        assert gateway.posts[0].headers["authorization"] == KEY


async def test_another_host_is_never_tried_after_the_first_byte():
    async with Gateway(answer()) as spare, calling(lose(), failover_urls=[spare.url]) as (_, router):
        assert type(await fail(router)) is OutcomeUnknownError
        assert spare.connections == 0


async def test_a_task_is_polled_where_it_was_accepted():
    done = answer(200, {"data": {"status": "completed", "outputs": ["https://cdn.example/v.mp4"]}})
    async with Gateway(task_accepted(), done) as gateway:
        dead = f"http://127.0.0.1:{find_dead_port()}/v1"
        async with AsyncVideoRouter(KEY, base_url=dead, failover_urls=[gateway.url]) as router:
            assert (await router.generate("otter", model="veo", timeout=10)).task_id == "t-1"
        assert len(gateway.gets) == 1


# Reads.

READ_AGAIN = {
    "reset": lose(),
    "closed": lose("close"),
    "500": answer(500),
    "503": answer(503),
    "429": answer(429, None, "Retry-After: 0"),
    "not JSON": answer(200, b"<html>"),
    "body cut": raw(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{", then="reset"),
}


@pytest.mark.parametrize("step", READ_AGAIN.values(), ids=READ_AGAIN.keys())
async def test_a_read_is_repeated(step):
    async with calling(step, answer(200, {"account_name": "me", "credit_balance": 9.5})) as (gateway, router):
        assert (await router.balance()).credit_balance == 9.5
        assert len(gateway.gets) == 2


READ_ENDS = {
    "500": (answer(500), InternalServerError, 2),
    "408": (answer(408), InternalServerError, 2),
    "409": (answer(409), APIStatusError, 1),
    "401": (answer(401), AuthenticationError, 1),
    "404": (answer(404), NotFoundError, 1),
    "302": (answer(302, b"", "Location: http://127.0.0.1:1/"), APIStatusError, 1),
    "not JSON": (answer(200, b"<html>"), UnexpectedResponseError, 2),
    "lost": (lose(), APIConnectionError, 2),
}


@pytest.mark.parametrize(("step", "cls", "reads"), READ_ENDS.values(), ids=READ_ENDS.keys())
async def test_a_read_that_goes_on_failing_raises_its_class(step, cls, reads):
    async with calling(step, max_retries=1) as (gateway, router):
        with pytest.raises(VideoRouterError) as caught:
            await router.balance()
        assert type(caught.value) is cls
        assert len(gateway.gets) == reads
        assert not caught.value.in_doubt


# Views.


async def test_views_share_everything_and_cost_nothing():
    async with calling(lose(), answer()) as (gateway, router):
        view = router.with_options(model="other", max_retries=0, timeout=3)
        error = await fail(view, model=None)
        assert error.model == "other"
        assert router.in_doubt == view.in_doubt != ()
        await view.aclose()
        assert (await router.generate("otter", model="veo")).video_id == "video_1"
        with pytest.raises(ConfigurationError):
            router.with_options(proxy="http://127.0.0.1:1")
        with pytest.raises(ConfigurationError):
            router.with_options(timeout=-1)
        assert len(gateway.posts) == 2


async def test_the_key_goes_to_the_clients_own_origins_only():
    async with Gateway(answer(200, {"data": {"status": "running"}})) as stranger:
        accepted = task_accepted(urls={"query": f"{stranger.url}/videos/tasks/t-1"})
        done = answer(200, {"data": {"status": "completed", "output": "https://cdn.example/v.mp4"}})
        async with calling(accepted, done) as (gateway, router):
            await router.generate("otter", model="veo", timeout=10)
            assert stranger.connections == 0
            assert [get.path for get in gateway.gets] == ["/v1/videos/tasks/t-1"]


async def test_the_counters_say_what_a_client_does():
    async with calling(answer(429, None, "Retry-After: 0"), answer(), answer(400)) as (_, router):
        await router.generate("otter", model="veo", timeout=20)
        await fail(router)
        stats = router.stats()
        assert (stats.calls, stats.attempts, stats.retries) == (2, 3, 1)
        assert (stats.succeeded, stats.failed, stats.in_doubt) == (1, 1, 0)
        assert (stats.in_flight, stats.queued, stats.connections) == (0, 0, 1)
