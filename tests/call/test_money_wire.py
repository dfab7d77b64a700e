"""The same words over real sockets: what was interrupted, who is to blame, and what it means for the money."""

import asyncio
import contextlib
import gc
import socket
import warnings

import httpx
import pytest
from calling import KEY, calling, fail
from servers import Gateway, answer, find_dead_port, lose, raw, task_accepted

from videorouter import (
    APIConnectionError,
    AsyncVideoRouter,
    DeadlineExceededError,
    InternalServerError,
    OutcomeUnknownError,
    PermissionDeniedError,
    TaskPollError,
    UnexpectedResponseError,
    VideoRouterError,
)

pytestmark = pytest.mark.anyio
PICTURE = b"\x89PNG\r\n\x1a\n" + b"\0" * 16


@pytest.mark.parametrize("status", [403, 404])
async def test_a_poll_that_is_refused_says_that_the_task_is_paid(status, monkeypatch):
    monkeypatch.setattr("videorouter.call.retry.NEW_TASK", 0.0)
    async with calling(task_accepted(), answer(status)) as (_, router):
        error = await fail(router)
        assert type(error) is TaskPollError
        assert "nothing was bought" not in error.message.lower()
        assert "An accepted task stays paid" in error.message


async def test_a_look_at_a_task_that_is_refused_says_so_too():
    async with calling(answer(403)) as (_, router):
        with pytest.raises(PermissionDeniedError) as caught:
            await router.task("t-1")
        assert "nothing was bought" not in caught.value.message.lower()
        assert "An accepted task stays paid" in caught.value.message


LOST_UPLOADS = {
    "lost": (lose(), APIConnectionError),
    "500": (answer(500), InternalServerError),
    "not JSON": (answer(200, b"<html>"), UnexpectedResponseError),
    "cut": (raw(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{", then="reset"), UnexpectedResponseError),
    "no resource": (answer(200, {"data": {}}), UnexpectedResponseError),
}


@pytest.mark.parametrize(("step", "cls"), LOST_UPLOADS.values(), ids=LOST_UPLOADS)
@pytest.mark.parametrize("verb", ["upload", "generate"])
async def test_an_upload_that_fails_has_bought_nothing_and_is_sent_once(step, cls, verb):
    async with calling(step) as (gateway, router):
        if verb == "upload":
            call = router.upload(PICTURE, model="veo", timeout=5)
        else:
            call = router.generate("otter", model="veo", image_url=PICTURE, timeout=5)
        with pytest.raises(VideoRouterError) as caught:
            await call
        error = caught.value
        assert type(error) is cls
        assert not error.in_doubt
        assert "billed" not in error.message
        assert "No video was bought" in error.message
        assert router.in_doubt == ()
        assert len(gateway.posts) == 1


async def test_a_batch_whose_upload_fails_has_nothing_in_doubt():
    async with calling(lose()) as (_, router):
        batch = router.generate_many([{"prompt": "otter", "image_url": PICTURE}], model="veo", timeout=5)
        items = [item async for item in batch]
        assert items[0].state != "in_doubt"
        assert batch.summary.in_doubt == 0


# What a deadline has interrupted.


@contextlib.contextmanager
def listening(backlog=16):
    with socket.create_server(("127.0.0.1", 0), backlog=backlog) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize("kind", ["ours", "stock"])
async def test_a_deadline_in_the_tls_handshake_says_so(kind):
    with listening() as port:
        async with contextlib.AsyncExitStack() as stack:
            options = {}
            if kind == "stock":
                options["http_client"] = await stack.enter_async_context(httpx.AsyncClient(trust_env=False))
            router = AsyncVideoRouter(KEY, base_url=f"https://127.0.0.1:{port}/v1", max_retries=0, **options)
            error = await fail(router, timeout=0.5)
            assert type(error) is DeadlineExceededError
            assert f"The deadline passed during the TLS handshake with 127.0.0.1:{port}." in error.message
            assert "Nothing was sent" in error.message
            await router.aclose()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # httpcore leaves a socket open that is cancelled in its handshake
        gc.collect()


async def test_a_deadline_while_connecting_says_so():
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.socket())
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(server.getsockname())
        place = f"127.0.0.1:{server.getsockname()[1]}"
        async with AsyncVideoRouter(KEY, base_url=f"http://{place}/v1") as router:
            error = await fail(router, timeout=0.4)
        assert type(error) is DeadlineExceededError
        assert f"The deadline passed while it connected to {place}." in error.message


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (lose("hold"), "while it waited for the answer of"),
        (raw(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{", then="hold"), "while the answer of"),
    ],
)
async def test_a_deadline_after_the_request_says_what_it_waited_for(step, words):
    async with calling(step) as (gateway, router):
        error = await fail(router, timeout=0.4)
        assert type(error) is OutcomeUnknownError
        assert f"The deadline passed {words} 127.0.0.1:{gateway.port}" in error.message
        assert "It may have been accepted and billed" in error.message


# A proxy that is to blame.


@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("kind", ["proxy=", "http_client"])
async def test_a_dead_proxy_is_blamed_and_not_the_gateway(kind, secure):
    proxy = f"127.0.0.1:{find_dead_port()}"
    base = "https://gateway.invalid/v1" if secure else f"http://127.0.0.1:{find_dead_port()}/v1"
    async with contextlib.AsyncExitStack() as stack:
        options = {"proxy": f"http://{proxy}"}
        if kind == "http_client":
            client = httpx.AsyncClient(proxy=f"http://{proxy}", trust_env=False)
            options = {"http_client": await stack.enter_async_context(client)}
        router = AsyncVideoRouter(KEY, base_url=base, max_retries=0, **options)
        error = await fail(router)
        assert type(error) is APIConnectionError
        assert f"at the proxy {proxy}, on the way to" in error.message
        assert "the gateway was not asked" in error.message
        assert "Nothing was sent" in error.message
        await router.aclose()


async def test_a_gateway_that_is_dead_behind_a_living_proxy_is_blamed_itself():
    dead = find_dead_port()

    async def refuse(visit):
        await visit.read_head()
        await visit.say(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
        visit.close()

    async with Gateway(refuse) as proxy:
        router = AsyncVideoRouter(
            KEY, base_url=f"https://127.0.0.1:{dead}/v1", max_retries=0, proxy=f"http://127.0.0.1:{proxy.port}"
        )
        error = await fail(router)
        assert type(error) is APIConnectionError
        assert f"127.0.0.1:{dead}" in error.message
        assert "at the proxy" not in error.message
        await router.aclose()
        await asyncio.sleep(0)
