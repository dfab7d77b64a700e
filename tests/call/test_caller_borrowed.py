"""The same law on a user's own ``httpx.AsyncClient``, whose transport is httpx's."""

from __future__ import annotations

import time

import httpx
import pytest
from calling import KEY, fail
from servers import BODY, Gateway, answer, lose, raw, reset_midway, reset_unread

from videorouter import (
    APIConnectionError,
    AsyncVideoRouter,
    OutcomeUnknownError,
    RateLimitError,
    UnprocessableEntityError,
)

pytestmark = pytest.mark.anyio

LOST = {
    "reset before it was read": reset_unread(),
    "reset midway": reset_midway(),
    "reset after the whole POST": lose(),
    "closed after the whole POST": lose("close"),
    "a protocol error": raw(b"SSH-2.0-OpenSSH_9.6\r\n"),
    "status 500": answer(500),
    "status 302": answer(302, b"", "Location: /elsewhere"),
    "200, body cut": raw(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n" + BODY[:40], then="reset"),
    "200, not JSON": answer(200, b"<html>It works</html>"),
    "200, too large": raw(b"HTTP/1.1 200 OK\r\nContent-Length: 9000000\r\n\r\n" + b" " * 5_000_000, then="hold"),
}


@pytest.mark.parametrize("step", LOST.values(), ids=LOST.keys())
async def test_a_lost_answer_is_never_sent_twice(step):
    async with Gateway(step) as gateway, httpx.AsyncClient(follow_redirects=True) as client:
        router = AsyncVideoRouter(KEY, base_url=gateway.url, http_client=client)
        error = await fail(router)
        assert type(error) is OutcomeUnknownError
        assert len(gateway.posts) <= 1
        assert gateway.connections == 1
        assert KEY not in f"{error}{error.facts}"


async def test_the_clients_own_timeout_of_five_seconds_does_not_lose_an_answer():
    async with Gateway(lose("hold")) as gateway, httpx.AsyncClient(timeout=0.2) as client:
        router = AsyncVideoRouter(KEY, base_url=gateway.url, http_client=client)
        began = time.monotonic()
        error = await fail(router, timeout=0.8)
        assert type(error) is OutcomeUnknownError
        assert time.monotonic() - began >= 0.7


async def test_a_refusal_is_waited_out():
    async with Gateway(answer(429, None, "Retry-After: 0"), answer()) as gateway, httpx.AsyncClient() as client:
        router = AsyncVideoRouter(KEY, base_url=gateway.url, http_client=client)
        assert (await router.generate("otter", model="veo", timeout=20)).video_id == "video_1"
        assert len(gateway.posts) == 2


async def test_a_video_whose_answer_a_hook_has_read_is_kept():
    async def read(response):
        await response.aread()

    async with Gateway(answer()) as gateway, httpx.AsyncClient(event_hooks={"response": [read]}) as client:
        router = AsyncVideoRouter(KEY, base_url=gateway.url, http_client=client)
        assert (await router.generate("otter", model="veo", timeout=5)).video_id == "video_1"


async def test_an_answer_that_a_hook_has_used_up_is_in_doubt_at_once():
    async def use_up(response):
        async for _ in response.aiter_raw():
            pass

    async with Gateway(answer()) as gateway, httpx.AsyncClient(event_hooks={"response": [use_up]}) as client:
        router = AsyncVideoRouter(KEY, base_url=gateway.url, http_client=client)
        began = time.monotonic()
        error = await fail(router, timeout=20)
        assert type(error) is OutcomeUnknownError
        assert time.monotonic() - began < 10


async def test_a_refusal_that_a_hook_has_read_says_what_it_says():
    async def read(response):
        await response.aread()

    async with Gateway(answer(422)) as gateway, httpx.AsyncClient(event_hooks={"response": [read]}) as client:
        error = await fail(AsyncVideoRouter(KEY, base_url=gateway.url, http_client=client), timeout=20)
        assert type(error) is UnprocessableEntityError
        assert "says 422" in error.message


async def test_a_hook_that_raises_ends_in_an_error_of_ours():
    async def explode(response):
        raise KeyError("hook")

    async with Gateway(answer()) as gateway, httpx.AsyncClient(event_hooks={"response": [explode]}) as client:
        router = AsyncVideoRouter(KEY, base_url=gateway.url, http_client=client)
        assert type(await fail(router)) is OutcomeUnknownError
        assert len(gateway.posts) == 1


async def test_a_mock_that_refuses_connections_means_what_it_says():
    def refuse(request):
        raise httpx.ConnectError("refused")

    async with httpx.AsyncClient(transport=httpx.MockTransport(refuse)) as client:
        router = AsyncVideoRouter(KEY, base_url="https://gateway.example/v1", http_client=client, max_retries=1)
        error = await fail(router)
        assert type(error) is APIConnectionError
        assert error.attempts == 2


async def test_a_mock_that_answers_is_heard():
    def refuse(request):
        return httpx.Response(429, json={"error": {"message": "slow down"}})

    async with httpx.AsyncClient(transport=httpx.MockTransport(refuse)) as client:
        router = AsyncVideoRouter(KEY, base_url="https://gateway.example/v1", http_client=client, max_retries=0)
        assert type(await fail(router)) is RateLimitError
