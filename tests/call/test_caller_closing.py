"""``aclose`` while calls run: those who wait are woken, what is on the wire is aborted, whoever sends."""

import asyncio
import time

import anyio
import httpx
import pytest
from calling import KEY, calling, fail
from clients import CLIENTS
from servers import Gateway, answer, lose, task_accepted, until

from videorouter import (
    AsyncVideoRouter,
    ClientClosedError,
    DownloadError,
    OutcomeUnknownError,
    Phase,
    TaskPollError,
    VideoRouter,
    VideoRouterError,
)

pytestmark = pytest.mark.anyio
SENDERS = ["ours", "stock", "wrapped send over ours", "patched transport under stock", "MockTransport", "proxy"]


async def close_while(router, call, happened) -> BaseException:
    """Close while a call runs: what the call ends with, within a second."""
    task = asyncio.ensure_future(call)
    await until(happened)
    await asyncio.sleep(0.05)
    began = time.monotonic()
    await router.aclose()
    with pytest.raises(VideoRouterError) as caught:
        await task
    assert time.monotonic() - began < 1.0
    return caught.value


@pytest.mark.parametrize("adaptive", [True, False])
async def test_calls_that_wait_for_a_retry_after_are_woken(adaptive):
    async with calling(answer(429, None, "Retry-After: 60"), adaptive=adaptive) as (gateway, router):
        call = router.generate("otter", model="veo", timeout=300)
        behind = []

        async def queue_behind():
            await until(lambda: gateway.posts)
            await asyncio.sleep(0.02)
            behind.append(asyncio.ensure_future(router.generate("snow", model="veo", timeout=300)))

        queueing = asyncio.ensure_future(queue_behind())
        error = await close_while(router, call, lambda: behind)
        assert type(error) is ClientClosedError
        assert not error.in_doubt
        with pytest.raises(ClientClosedError):
            await behind[0]
        await queueing
        assert len(gateway.posts) <= 2
        assert router.in_doubt == ()


async def test_an_upload_under_review_and_a_file_that_must_wait_are_woken(tmp_path):
    pending = answer(200, {"data": {"id": 7, "upstream_status": "Processing"}})
    slow = answer(503, None, "Retry-After: 60")
    async with calling(pending, slow) as (gateway, router):
        call = router.upload(b"\x89PNG\r\n\x1a\n" + b"\0" * 16, model="veo", timeout=300)
        assert type(await close_while(router, call, lambda: gateway.gets)) is ClientClosedError
    async with calling(slow) as (gateway, router):
        call = router.save(gateway.url + "/v.mp4", tmp_path / "v.mp4", timeout=300)
        error = await close_while(router, call, lambda: gateway.gets)
        assert isinstance(error, DownloadError | ClientClosedError)


async def test_a_wait_between_polls_is_woken_and_leaves_the_id():
    pending = answer(200, {"data": {"status": "running"}}, "Retry-After: 60")
    async with calling(task_accepted(), answer(503, None, "Retry-After: 60"), pending) as (gateway, router):
        call = router.generate("otter", model="veo", timeout=300)
        error = await close_while(router, call, lambda: gateway.gets)
        assert type(error) is TaskPollError
        assert error.task_id == "t-1"


@pytest.mark.parametrize("name", SENDERS)
async def test_a_held_request_is_aborted_and_in_doubt(request, name):
    async with CLIENTS[name](request) as options, Gateway(lose("hold")) as gateway:
        router = AsyncVideoRouter(KEY, base_url=gateway.url, **options)
        error = await close_while(router, router.generate("otter", model="veo", timeout=60), lambda: gateway.posts)
        assert type(error) is OutcomeUnknownError
        assert error.phase in {Phase.SENT, Phase.UNKNOWN}
        assert len(router.in_doubt) == 1
        assert type(await fail(router)) is ClientClosedError
        assert len(gateway.posts) == 1


@pytest.mark.parametrize("name", ["stock", "proxy"])
async def test_a_download_is_aborted(request, name, tmp_path):
    async def drip(visit):
        await visit.read()
        await visit.say(b"HTTP/1.1 200 OK\r\nContent-Type: video/mp4\r\nContent-Length: 1000\r\n\r\n" + b"\0" * 100)
        await asyncio.Event().wait()

    async with CLIENTS[name](request) as options, Gateway(drip) as gateway:
        router = AsyncVideoRouter(KEY, base_url=gateway.url, **options)
        call = router.save(gateway.url + "/v.mp4", tmp_path / "v.mp4", timeout=60)
        error = await close_while(router, call, lambda: gateway.gets)
        assert isinstance(error, DownloadError | ClientClosedError)


async def test_a_client_that_was_brought_and_what_others_send_by_it_go_on():
    async with Gateway(lose("hold"), answer(200, {})) as gateway, httpx.AsyncClient() as client:
        router = AsyncVideoRouter(KEY, base_url=gateway.url, http_client=client)
        error = await close_while(router, router.generate("otter", model="veo", timeout=60), lambda: gateway.posts)
        assert type(error) is OutcomeUnknownError
        assert (await client.get(gateway.url)).status_code == 200


async def test_a_client_that_was_closed_by_its_owner_says_so_and_nothing_is_in_doubt():
    async with Gateway(answer()) as gateway:
        client = httpx.AsyncClient()
        await client.aclose()
        router = AsyncVideoRouter(KEY, base_url=gateway.url, http_client=client)
        assert type(await fail(router)) is ClientClosedError
        assert router.in_doubt == ()


def test_trio_is_served_too():
    async def main():
        ended = []

        async def call(router):
            try:
                await router.generate("otter", model="veo", timeout=60)
            except VideoRouterError as error:
                ended.append(type(error))

        async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
            port = listener.extra(anyio.abc.SocketAttribute.local_port)
            arrived = anyio.Event()

            async def hold(stream):
                async with stream:
                    await stream.receive()
                    arrived.set()
                    await anyio.sleep_forever()

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(listener.serve, hold)
                router = AsyncVideoRouter(KEY, base_url=f"http://127.0.0.1:{port}/v1")
                async with anyio.create_task_group() as calls:
                    calls.start_soon(call, router)
                    await arrived.wait()
                    began = time.monotonic()
                    await router.aclose()
                assert time.monotonic() - began < 1.0
                tasks.cancel_scope.cancel()
        assert ended == [OutcomeUnknownError]

    anyio.run(main, backend="trio")


async def test_closing_from_another_thread_wakes_a_call_too():
    """The facade's calls run on its own thread; ``close`` comes from any."""
    async with Gateway(answer(429, None, "Retry-After: 60")) as gateway:
        router = VideoRouter(KEY, base_url=gateway.url, adaptive=False)
        call = asyncio.create_task(asyncio.to_thread(router.generate, "otter", model="veo", timeout=300))
        await until(lambda: gateway.posts)
        await asyncio.sleep(0.05)
        began = time.monotonic()
        await asyncio.to_thread(router.close)
        with pytest.raises(ClientClosedError):
            await call
        assert time.monotonic() - began < 1.5
