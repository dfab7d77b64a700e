"""Hostile answers: whatever a server sends, a call ends in time, in bounded memory, in an error of this package."""

from __future__ import annotations

import asyncio
import gc
import gzip
import json
import time
import tracemalloc

import httpx
import pytest
from calling import fail
from servers import Gateway, answer, raw, task_accepted

from videorouter import AsyncVideoRouter, OutcomeUnknownError, TaskPollError, TaskTimeoutError, VideoRouterError

pytestmark = pytest.mark.anyio

KEY = "sk-test-0123456789abcdef"
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
BOMB = gzip.compress(b'{"data":"' + b"A" * 50_000_000 + b'"}')


def endless(head: bytes, piece: bytes, every: float = 0.0):
    async def step(visit):
        await visit.read()
        await visit.say(head)
        while True:
            await visit.say(piece)
            await asyncio.sleep(every)

    return step


def packed(body: bytes, *codings: bytes):
    for _ in codings:
        body = gzip.compress(body)
    return raw(OK + b"Content-Encoding: %b\r\nContent-Length: %d\r\n\r\n" % (b", ".join(codings), len(body)) + body)


HOSTILE = {
    "gzip bomb": raw(OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(BOMB) + BOMB),
    "endless chunks": endless(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + b" " * 65536 + b"\r\n"),
    "endless small chunks": endless(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n" * 1000),
    "a byte every 0.3 s": endless(OK + b"Content-Length: 100000\r\n\r\n", b" ", 0.3),
    "a head byte every 0.3 s": endless(b"HTTP/1.1 200 OK\r\nX: ", b"x", 0.3),
    "endless head": endless(b"HTTP/1.1 200 OK\r\n", b"X-Y: " + b"z" * 1000 + b"\r\n"),
    "endless informational": endless(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
    "HTML": answer(200, b"<!doctype html><html><body>Sign in</body></html>"),
    "deep nesting": answer(200, b"[" * 200_000 + b"]" * 200_000),
    "deep objects": answer(200, b'{"data":' * 100_000 + b"1" + b"}" * 100_000),
    "lone surrogates": answer(200, b'{"data":[{"url":"https://x.example/\\ud800"}],"error":{"message":"\\udfff"}}'),
    "a task id of surrogates": answer(200, b'{"data":{"task_id":"\\ud800"}}'),
    "not UTF-8": answer(200, b'{"data":[{"url":"https://x.example/\xff"}]}'),
    "huge numbers": answer(200, b'{"code":1' + b"0" * 5000 + b',"data":[]}'),
    "huge float": answer(500, b'{"error":{"code":1e999,"message":"x"}}'),
    "nothing but backslashes": answer(500, b"\\" * 4_000_000),
    "an endless type": answer(500, {"error": {"type": "\\" * 1_900_000, "param": "x" * 300_000}}),
    "null bytes": answer(200, b"\0" * 1000),
    "a negative length": raw(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n{}"),
    "two lengths": raw(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}"),
    "status 999": raw(b"HTTP/1.1 999 X\r\nContent-Length: 0\r\n\r\n"),
    "status 99": raw(b"HTTP/1.1 99 X\r\nContent-Length: 0\r\n\r\n"),
    "an upgrade": raw(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nhello", then="hold"
    ),
    "latin-1 header": raw(OK + b"x-infron-request-id: \xff\xfe\r\nContent-Length: 2\r\n\r\n{}"),
    "gzip bombs in a gzip bomb": packed(BOMB * 20, b"gzip", b"gzip", b"gzip"),
    "fifty codings": packed(b" " * 10**7, *[b"gzip"] * 50),
    "endless padded chunks": endless(
        OK + b"Transfer-Encoding: chunked\r\n\r\n", b"10000  \r\n" + b" " * 65536 + b"\r\n"
    ),
    "endless small padded chunks": endless(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1  \r\n \r\n" * 1000),
    "chunks, padded at the end": endless(
        OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n" * 9999 + b"1 \r\n \r\n"
    ),
    "an endless chunk size": endless(OK + b"Transfer-Encoding: chunked\r\n\r\n1", b" " * 1000),
    "an endless folded field": endless(b"HTTP/1.1 200 OK\r\nX: y", b"\r\n " + b"z" * 1000),
    "an endless head of bare LF": endless(b"HTTP/1.1 200 OK\n", b"X-Y: z\n" * 100),
    "endless empty lines": endless(b"HTTP/1.2 200 OK\r\n", b"\n "),
    "endless odd interim answers": endless(b"", b"HTTP/1.1 103 Early Hints\r\nX Y: z\r\n\r\n" * 100),
    "a huge length, said twice": endless(OK + b"Content-Length: 999999999999\r\n" * 2 + b"\r\n", b" " * 65536),
    "an endless body behind an odd head": endless(OK + b"X Y: z\r\n\r\n", b" " * 65536),
    "wide text with a mark": answer(200, b'\xef\xbb\xbf{"m":"\xf0\x9f\x98\x80' + b"a" * 4_190_000 + b'\\ud800"}'),
    "UTF-16 of a large text": answer(200, ('{"m":"' + "a" * 2_000_000 + '"}').encode("utf-16")),
    "NaN a hundred thousand times": answer(200, b'{"data":[' + b"NaN," * 99_000 + b"NaN]}"),
    "deep nesting behind a mark": answer(200, b"\xef\xbb\xbf" + b"[" * 90_000),
    "odd addresses": answer(200, {"data": [{"url": " HTTPS://" + "x " * 2_000}] * 500}),
    "a million URLs": answer(200, b'{"data":[' + b",".join([b'{"url":"x"}'] * 200_000) + b"]}"),
}


@pytest.mark.parametrize("step", HOSTILE.values(), ids=HOSTILE.keys())
async def test_a_hostile_answer_to_a_post_ends_in_time_and_memory(step):
    async with Gateway(step) as gateway, AsyncVideoRouter(KEY, base_url=gateway.url) as router:
        tracemalloc.start()
        began = time.monotonic()
        try:
            with pytest.raises(VideoRouterError) as caught:
                await router.generate("otter", model="veo", timeout=1.5)
            assert time.monotonic() - began < 10  # without the deadline it would take for ever
            assert tracemalloc.get_traced_memory()[1] < 64 * 2**20
        finally:
            tracemalloc.stop()
        assert len(gateway.posts) == 1
        assert isinstance(caught.value, OutcomeUnknownError | TaskPollError | TaskTimeoutError)
        json.dumps(str(caught.value)).encode()
        str(caught.value).encode("utf-8", "surrogatepass")


@pytest.mark.parametrize("step", HOSTILE.values(), ids=HOSTILE.keys())
async def test_a_hostile_answer_to_a_look_ends_in_time(step):
    async with Gateway(task_accepted(), step) as gateway, AsyncVideoRouter(KEY, base_url=gateway.url) as router:
        began = time.monotonic()
        with pytest.raises(VideoRouterError) as caught:
            await router.generate("otter", model="veo", timeout=1.5)
        assert time.monotonic() - began < 10  # without the deadline it would take for ever
        assert caught.value.task_id == "t-1"
        assert isinstance(caught.value, TaskPollError | TaskTimeoutError)


async def test_a_large_answer_within_the_bound_is_read():
    body = json.dumps({"data": [{"url": "https://x.example/v.mp4", "revised_prompt": "p" * 4_000_000}]}).encode()
    async with Gateway(answer(200, body)) as gateway, AsyncVideoRouter(KEY, base_url=gateway.url) as router:
        assert (await router.generate("otter", model="veo", timeout=10)).url == "https://x.example/v.mp4"


@pytest.mark.parametrize("stock", [False, True], ids=["our transport", "stock httpx"])
async def test_of_an_answer_that_is_too_large_an_error_keeps_a_piece(stock):
    step = endless(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + b" " * 65536 + b"\r\n")
    async with Gateway(step) as gateway, httpx.AsyncClient() as client:
        router = AsyncVideoRouter(KEY, base_url=gateway.url, http_client=client if stock else None)
        tracemalloc.start()
        try:
            errors = [await fail(router, timeout=20) for _ in range(8)]
            gc.collect()
            assert tracemalloc.get_traced_memory()[0] < len(errors) * 2**20
        finally:
            tracemalloc.stop()
        await router.aclose()
