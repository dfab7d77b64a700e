"""Our transport under anybody's ``httpx.AsyncClient``."""

import httpx
import pytest

from videorouter.transport.httpx_transport import VideoTransport

from .conftest import ANSWER, answer_all, ok

pytestmark = pytest.mark.anyio


@pytest.fixture
async def client():
    async with httpx.AsyncClient(transport=VideoTransport()) as client:
        yield client


async def test_the_usual_verbs(serve, client):
    seen = []

    async def script(peer):
        while request := await peer.request():
            seen.append(request)
            await peer.say(ok())

    server = await serve(script)
    assert (await client.get(server.url)).content == ANSWER
    assert (await client.post(server.url, json={"a": 1})).json()["data"]
    assert seen[1][1] == b'{"a":1}'
    assert (await client.put(server.url, content=b"")).status_code == 200
    assert b"Content-Length: 0" in seen[2][0]
    assert server.connections == 1


async def test_a_body_from_a_generator_is_sent_with_its_length(serve, client):
    seen = []

    async def script(peer):
        seen.append(await peer.request())
        await peer.say(ok())

    async def pieces():
        yield b"ab"
        yield b"c"

    server = await serve(script)
    await client.post(server.url, content=pieces())
    assert seen[0][1] == b"abc"
    assert b"chunked" not in seen[0][0].lower()


async def test_redirects_are_followed_when_httpx_is_told_to(serve, client):
    async def script(peer):
        while request := await peer.request():
            if b"GET /first" in request[0]:
                await peer.say(b"HTTP/1.1 302 Found\r\nLocation: /second\r\nContent-Length: 0\r\n\r\n")
            else:
                await peer.say(ok())

    server = await serve(script)
    response = await client.get(server.url + "/first", follow_redirects=True)
    assert (response.status_code, response.url.path) == (200, "/second")


async def test_a_streamed_body(serve, client):
    async def script(peer):
        await peer.request()
        await peer.say(ok(b"x" * 1_000_000))

    server = await serve(script)
    async with client.stream("GET", server.url) as response:
        assert sum([len(piece) async for piece in response.aiter_raw()]) == 1_000_000


@pytest.mark.parametrize(
    ("what", "error"),
    [("silence", httpx.ReadTimeout), ("close", httpx.ReadError), ("garbage", httpx.RemoteProtocolError)],
)
async def test_failures_are_httpxs_own(serve, client, what, error):
    async def script(peer):
        await peer.request()
        if what == "garbage":
            await peer.say(b"garbage\r\n\r\n")
        if what != "close":
            await peer.gone()

    server = await serve(script)
    with pytest.raises(error):
        await client.get(server.url, timeout=0.3)


async def test_a_refused_connection_is_httpxs_own(client, free_port):
    with pytest.raises(httpx.ConnectError, match="Connection refused"):
        await client.get(f"http://127.0.0.1:{free_port}")


async def test_a_read_timeout_bounds_silence_and_not_the_whole_body(serve, client):
    import asyncio

    async def script(peer):
        await peer.request()
        await peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n")
        for _ in range(6):
            await asyncio.sleep(0.1)
            await peer.say(b"x")

    server = await serve(script)
    assert (await client.get(server.url, timeout=0.4)).content == b"xxxxxx"
    assert (await client.get(server.url, timeout=None)).content == b"xxxxxx"


async def test_answers_may_be_compressed_when_the_server_insists(serve, client):
    import gzip

    async def script(peer):
        await peer.request()
        await peer.say(ok(gzip.compress(b"hello"), b"Content-Encoding: gzip"))

    server = await serve(script)
    assert (await client.get(server.url)).text == "hello"


async def test_the_usual_answer(serve, client):
    server = await serve(answer_all)
    response = await client.get(server.url)
    assert response.http_version == "HTTP/1.1"
    assert response.reason_phrase == "OK"
