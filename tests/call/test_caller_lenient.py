"""What was paid for is read as leniently as curl and httpx read it: of a POST's answer and of a poll's."""

from __future__ import annotations

import gzip
import zlib

import httpx
import pytest
from calling import KEY, calling, fail
from servers import BODY, Gateway, answer, raw, task_accepted

from videorouter import AsyncVideoRouter, OutcomeUnknownError

pytestmark = pytest.mark.anyio

URL = "https://resource.example/v.mp4"
DONE = b'{"data":{"status":"completed","outputs":["https://resource.example/v.mp4"]}}'
OK = b"HTTP/1.1 200 OK\r\n"


def with_length(body: bytes, *fields: bytes) -> bytes:
    return OK + b"".join(field + b"\r\n" for field in fields) + b"Content-Length: %d\r\n\r\n" % len(body) + body


def in_chunks(body: bytes, head: bytes = b"", size: bytes = b"%x", end: bytes = b"\r\n") -> bytes:
    head = OK + head + b"Transfer-Encoding: chunked\r\n\r\n"
    return head + size % len(body) + end + body + end + size % 0 + end + end


def deflate_bare(body: bytes) -> bytes:
    coder = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return coder.compress(body) + coder.flush()


FRAMES = {
    "bare LF": lambda body: with_length(body).replace(b"\r\n", b"\n"),
    "folded headers": lambda body: with_length(body, b"X-A: one\r\n two"),
    "equal lengths": lambda body: with_length(body, b"Content-Length: %d" % len(body)),
    "equal lengths in a list": lambda body: OK + b"Content-Length: %d, %d\r\n\r\n" % (len(body), len(body)) + body,
    "a length beside chunks": lambda body: in_chunks(body, b"Content-Length: 7\r\n"),
    "padded chunk sizes": lambda body: in_chunks(body, size=b"%x   "),
    "chunks with bare LF": lambda body: in_chunks(body, end=b"\n"),
    "odd bytes in a value": lambda body: with_length(body, b"X-A: a\x01\x7f\xff"),
    "odd bytes in a name": lambda body: with_length(body, b"X \xe9[a] : b"),
    "no colon": lambda body: with_length(body, b"nonsense"),
    "a version of tomorrow": lambda body: with_length(body).replace(b"1.1", b"1.2", 1),
}
CODINGS = {
    "gzip": lambda body: with_length(gzip.compress(body), b"Content-Encoding: gzip"),
    "deflate": lambda body: with_length(zlib.compress(body), b"Content-Encoding: deflate"),
    "bare deflate": lambda body: with_length(deflate_bare(body), b"Content-Encoding: deflate"),
    "gzip in chunks": lambda body: in_chunks(gzip.compress(body), b"Content-Encoding: gzip\r\n"),
    "gzip that nobody announced": lambda body: with_length(gzip.compress(body)),
    "gzip that is none": lambda body: with_length(body, b"Content-Encoding: gzip"),
}


async def look_on(response: httpx.Response) -> None:
    """A hook: requests go through the httpx client then."""
    assert response.status_code == 200


@pytest.fixture(params=["our transport", "our transport below httpx"])
def hooked(request):
    return request.param != "our transport"


@pytest.mark.parametrize("write", [*FRAMES.values(), *CODINGS.values()], ids=[*FRAMES, *CODINGS])
async def test_an_answer_that_curl_reads_brings_its_video(write, hooked):
    async with calling(raw(write(BODY), then="hold")) as (gateway, router):
        if hooked:
            router.http_client.event_hooks["response"].append(look_on)
        result = await router.generate("otter", model="veo", timeout=10)
    assert (result.url, result.video_id) == (URL, "video_1")
    assert result.raw["created"] == 1
    assert len(gateway.posts) == 1


@pytest.mark.parametrize("write", [*FRAMES.values(), *CODINGS.values()], ids=[*FRAMES, *CODINGS])
async def test_a_poll_that_curl_reads_collects_its_video(write):
    async with calling(task_accepted(), raw(write(DONE), then="hold")) as (gateway, router):
        result = await router.generate("otter", model="veo", timeout=10)
    assert (result.url, result.task_id) == (URL, "t-1")
    assert len(gateway.requests) == 2


@pytest.mark.parametrize("write", CODINGS.values(), ids=CODINGS.keys())
async def test_a_stock_client_of_httpx_gets_what_a_server_compressed(write):
    async with Gateway(raw(write(BODY))) as gateway, httpx.AsyncClient() as client:
        async with AsyncVideoRouter(KEY, base_url=gateway.url, http_client=client) as router:
            assert (await router.generate("otter", model="veo", timeout=10)).url == URL


@pytest.mark.parametrize("write", FRAMES.values(), ids=FRAMES.keys())
async def test_a_connection_whose_answer_was_read_leniently_is_not_used_again(write):
    """Bytes behind such an answer, which two readers could take for two things, are nobody's answer."""
    smuggled = with_length(b'{"data":[{"url":"https://evil.example/v.mp4"}]}')
    async with calling(raw(write(BODY) + smuggled, then="hold")) as (gateway, router):
        for _ in range(2):
            assert (await router.generate("otter", model="veo", timeout=10)).url == URL
    assert gateway.connections == 2


async def test_a_compressed_answer_leaves_its_connection_open():
    async with calling(answer(200, gzip.compress(BODY), "Content-Encoding: gzip")) as (gateway, router):
        for _ in range(2):
            assert (await router.generate("otter", model="veo", timeout=10)).url == URL
    assert gateway.connections == 1


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 2000 OK\r\n\r\n" + BODY,
        with_length(BODY, b"Content-Length: 7"),
        b"HTTP/1.1 200 OK\r\nX-Note: the task of " + KEY.encode() + b' is {"task_id": "t-9"}',
    ],
)
async def test_bytes_before_a_head_that_can_be_read_are_evidence(said):
    async with calling(raw(said)) as (_, router):
        error = await fail(router)
    assert isinstance(error, OutcomeUnknownError)
    assert error.body.startswith("HTTP/1.1 200")
    assert KEY not in f"{error.body}{error}{error.facts}"
    assert error.task_id == ("t-9" if b"t-9" in said else None)


async def test_a_compressed_error_is_read():
    body = gzip.compress(b'{"error":{"message":"no such model","code":"model_not_found"}}')
    async with calling(answer(404, body, "Content-Encoding: gzip")) as (_, router):
        error = await fail(router)
    assert (error.status, error.code) == (404, "model_not_found")
    assert "no such model" in error.body


async def test_of_a_compressed_answer_that_was_cut_the_beginning_is_evidence():
    body = gzip.compress(b'{"data":{"task_id":"t-9","note":"' + bytes(range(97, 123)) * 40 + b'"}}', compresslevel=0)
    said = with_length(body, b"Content-Encoding: gzip")[:-200]
    async with calling(raw(said)) as (_, router):
        error = await fail(router)
    assert error.task_id == "t-9"
