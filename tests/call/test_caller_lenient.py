"""What was paid for is read as leniently as curl and httpx read it: of a POST's answer and of a poll's."""

from __future__ import annotations

import base64
import gzip
import json
import random
import zlib

import httpx
import pytest
from calling import KEY, calling, fail
from servers import BODY, Gateway, answer, raw, task_accepted, write_answer

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


SAFE = base64.urlsafe_b64encode(bytes(range(256))).rstrip(b"=").decode()
SPELLINGS = {
    "a byte order mark": lambda body: b"\xef\xbb\xbf" + body,
    "UTF-16": lambda body: body.decode().encode("utf-16"),
    "UTF-16 without a mark": lambda body: body.decode().encode("utf-16-le"),
    "NaN": lambda body: b'{"cost":NaN,"more":[-Infinity,1e999],' + body[1:],
    "a lone surrogate": lambda body: b'{"message":"a\\ud800b",' + body[1:],
    "a control character": lambda body: b'{"message":"a\nb",' + body[1:],
    "no UTF-8": lambda body: b'{"message":"a\xffb",' + body[1:],
    "an upper-case scheme": lambda body: body.replace(b"https", b"HTTPS"),
    "white space around an address": lambda body: body.replace(b'"https', b'" https').replace(b'mp4"', b'mp4\\n"'),
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


@pytest.mark.parametrize("spell", SPELLINGS.values(), ids=SPELLINGS.keys())
async def test_json_that_httpx_reads_brings_its_video(spell):
    async with calling(answer(200, spell(BODY))) as (_, router):
        result = await router.generate("otter", model="veo", timeout=10)
    assert result.url == URL
    assert result.raw["created"] == 1
    assert json.loads(json.dumps(result.raw)) == result.raw


@pytest.mark.parametrize("spell", SPELLINGS.values(), ids=SPELLINGS.keys())
async def test_json_that_httpx_reads_collects_a_task(spell):
    async with calling(task_accepted(), answer(200, spell(DONE))) as (gateway, router):
        result = await router.generate("otter", model="veo", timeout=10)
    assert (result.url, result.task_id) == (URL, "t-1")
    assert len(gateway.gets) == 1


@pytest.mark.parametrize(
    "spell", [spell for name, spell in SPELLINGS.items() if "address" not in name and "scheme" not in name]
)
async def test_a_task_is_accepted_however_that_is_spelt(spell):
    accepted = spell(b'{"code":200,"data":{"task_id":"t-1","status":"created"}}')
    async with calling(answer(200, accepted), answer(200, DONE)) as (gateway, router):
        result = await router.generate("otter", model="veo", timeout=10)
    assert (result.url, result.task_id) == (URL, "t-1")
    assert [request.path for request in gateway.gets] == ["/v1/videos/tasks/t-1"]


@pytest.mark.parametrize("lines", [False, True])
async def test_base64_in_any_alphabet_and_wrapping_is_the_video(lines):
    text = "\n".join(SAFE[start : start + 76] for start in range(0, len(SAFE), 76)) if lines else SAFE
    async with calling(answer(200, {"data": text, "mime_type": "video/mp4"})) as (_, router):
        assert (await router.generate("otter", model="veo", timeout=10)).video.data == bytes(range(256))


@pytest.mark.parametrize("bad", ["ftp://x/y", "https://x y/z", "http://{host}/v1/vid\neos", "", 7])
async def test_a_poll_address_that_cannot_be_used_gives_way_to_the_usual_path(bad):
    async def accept(visit):
        request = await visit.read()
        query = bad.format(host=request.headers["host"]) if isinstance(bad, str) else bad
        await visit.say(write_answer(200, json.dumps({"data": {"task_id": "t-1", "urls": {"query": query}}}).encode()))

    async with calling(accept, answer(200, DONE)) as (gateway, router):
        assert (await router.generate("otter", model="veo", timeout=10)).url == URL
    assert [request.path for request in gateway.gets] == ["/v1/videos/tasks/t-1"]


async def test_a_poll_address_is_cleaned_before_it_is_asked():
    async def accept(visit):
        request = await visit.read()
        query = f" HTTP://{request.headers['host']}/v1/my tasks/t-1\n"
        await visit.say(write_answer(200, json.dumps({"data": {"task_id": "t-1", "urls": {"query": query}}}).encode()))

    async with calling(accept, answer(200, DONE)) as (gateway, router):
        assert (await router.generate("otter", model="veo", timeout=10)).url == URL
    assert [request.path for request in gateway.gets] == ["/v1/my%20tasks/t-1"]


async def test_each_address_that_cannot_be_used_is_named_on_the_result_or_the_error():
    listed = [{"url": URL}, {"url": f"ftp://x/{KEY}"}, {"url": "file:///y"}, {"video_id": "v"}]
    async with calling(answer(200, {"data": listed}), answer(200, {"data": listed[1:]})) as (_, router):
        result = await router.generate("otter", model="veo", timeout=10)
        error = await fail(router)
    assert result.unusable[1:] == ("file:///y", "")
    assert result.unusable[0].startswith("ftp://x/")
    assert "file:///y" in error.message
    assert "ftp://x/" in error.message
    assert KEY not in f"{result}{result.unusable}{result.raw}{error}{error.facts}"


async def test_an_echoed_key_is_taken_out_whatever_the_encoding():
    said = json.dumps({"data": [{"url": URL, "revised_prompt": f"the key is {KEY}"}]})
    async with calling(answer(200, said.encode("utf-16")), answer(500, said.encode("utf-16-le"))) as (_, router):
        result = await router.generate("otter", model="veo", timeout=10)
        error = await fail(router)
    for shown in (repr(result), str(result.raw), f"{error}{error.facts}"):
        assert KEY not in shown.replace("\0", "")


async def test_bytes_before_a_head_are_evidence_of_a_poll_too():
    async with calling(task_accepted(), raw(b"HTTP/1.1 2000 OK\r\n\r\n" + DONE)) as (_, router):
        error = await fail(router, timeout=1.0)
    assert error.task_id == "t-1"
    assert error.__cause__.body.startswith("HTTP/1.1 2000 OK")


async def test_reads_are_as_lenient():
    balance = b'\xef\xbb\xbf{"account_name":"otter\\ud800","credit_balance":9.99,"more":NaN}'
    async with Gateway(answer(200, balance)) as gateway:
        async with AsyncVideoRouter(KEY, base_url=gateway.url, models_base_url=gateway.url) as router:
            assert (await router.balance()).credit_balance == 9.99


@pytest.mark.parametrize("client", ["our transport", "our transport below httpx", "stock httpx"])
async def test_compressed_base64_of_an_acceptable_size_may_grow_beyond_it(client):
    video = random.Random(1).randbytes(3_500_000)
    body = gzip.compress(json.dumps({"data": base64.b64encode(video).decode()}).encode(), compresslevel=1)
    step = answer(200, body, "Content-Encoding: gzip")
    async with (
        httpx.AsyncClient() as stock,
        calling(step, http_client=stock if "stock" in client else None) as (_, router),
    ):
        if client == "our transport below httpx":
            router.http_client.event_hooks["response"].append(look_on)
        assert (await router.generate("otter", model="veo", timeout=20)).video.data == video
