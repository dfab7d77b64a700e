"""Bodies in pieces: whole, bounded in time, and never read faster than they are asked for."""

import asyncio
import time

import pytest

from videorouter.errors import Phase
from videorouter.http import Attempt, WireError, WireFailure
from videorouter.transport.sender import open_sender

from .conftest import answer_all, get, ok

pytestmark = pytest.mark.anyio

FILM = bytes(range(256)) * 20_000


@pytest.fixture(params=["plain", "tls"])
async def place(request, server_tls, client_tls):
    sender = open_sender(trust_env=False, ssl_context=client_tls)
    yield sender, {"tls": server_tls if request.param == "tls" else None}
    await sender.aclose()


async def open_stream(sender, url, *, timeout=10.0, stall=5.0, addresses=(), attempt=None):
    return await sender.stream(
        get(url, "/v.mp4"), attempt or Attempt(), deadline=time.monotonic() + timeout, stall=stall, addresses=addresses
    )


async def read(stream, size=None):
    """Read a body, into one memory of this size again and again, if given."""
    memory = memoryview(bytearray(size)) if size else None
    try:
        pieces = stream.chunks(None if memory is None else lambda: memory)
        return b"".join([bytes(piece) async for piece in pieces])
    finally:
        await stream.aclose()


async def test_a_body_of_known_length(serve, place):
    sender, options = place

    async def script(peer):
        while await peer.request():
            await peer.say(ok(FILM, b"ETag: x"))

    server = await serve(script, **options)
    attempt = Attempt()
    stream = await open_stream(sender, server.url, attempt=attempt)
    assert stream.status == 200
    assert (b"etag", b"x") in stream.headers
    assert await read(stream) == FILM
    assert attempt.phase is Phase.COMPLETE


@pytest.mark.parametrize("size", [1, 1_000, 300_000, 2**20])
async def test_a_body_is_read_into_one_memory_again_and_again(serve, place, size):
    sender, options = place
    film = FILM[: 200_000 if size == 1 else None]

    async def script(peer):
        while await peer.request():
            await peer.say(ok(film))

    server = await serve(script, **options)
    stream = await open_stream(sender, server.url)
    memory = memoryview(bytearray(size))
    whole, views = b"", 0
    async for piece in stream.chunks(lambda: memory):
        whole += piece
        views += isinstance(piece, memoryview)
    assert whole == film
    assert views


async def test_a_body_that_is_cut_in_its_memory(serve, place):
    sender, options = place

    async def script(peer):
        await peer.request()
        await peer.say(ok(FILM)[:1_000_000])
        peer.close()

    server = await serve(script, **options)
    with pytest.raises(WireError) as caught:
        await read(await open_stream(sender, server.url), size=300_000)
    assert caught.value.failure is WireFailure.BODY_CUT


async def test_a_stall_in_its_memory(serve, place):
    sender, options = place

    async def script(peer):
        await peer.request()
        await peer.say(ok(FILM)[:100_000])
        await peer.gone()

    server = await serve(script, **options)
    with pytest.raises(WireError) as caught:
        await read(await open_stream(sender, server.url, stall=0.2), size=300_000)
    assert caught.value.failure is WireFailure.STALLED


@pytest.mark.parametrize("size", [None, 300_000])
async def test_a_chunked_body(serve, place, size):
    sender, options = place

    async def script(peer):
        while await peer.request():
            await peer.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            for start in range(0, len(FILM), 70_000):
                piece = FILM[start : start + 70_000]
                await peer.say(b"%x\r\n%b\r\n" % (len(piece), piece))
            await peer.say(b"0\r\n\r\n")

    server = await serve(script, **options)
    for _ in range(2):
        assert await read(await open_stream(sender, server.url), size=size) == FILM
    assert server.connections == 1


async def test_a_body_that_ends_with_the_connection(serve, place):
    sender, options = place

    async def script(peer):
        await peer.request()
        await peer.say(b"HTTP/1.1 200 OK\r\n\r\n" + FILM)
        peer.close()

    server = await serve(script, **options)
    assert await read(await open_stream(sender, server.url)) == FILM


async def test_small_bodies_share_a_connection(serve, place):
    sender, options = place
    server = await serve(answer_all, **options)
    for _ in range(5):
        await read(await open_stream(sender, server.url))
    assert server.connections == 1


@pytest.mark.parametrize("how", ["close", "abort"])
async def test_a_cut_body(serve, place, how):
    sender, options = place

    async def script(peer):
        await peer.request()
        await peer.say(ok(FILM)[:1_000_000])
        await asyncio.sleep(0.05)
        getattr(peer.writer.transport, how)()

    server = await serve(script, **options)
    with pytest.raises(WireError) as caught:
        await read(await open_stream(sender, server.url))
    assert caught.value.failure is WireFailure.BODY_CUT


async def test_a_stall(serve, place):
    sender, options = place

    async def script(peer):
        await peer.request()
        await peer.say(ok(FILM)[:100_000])
        await peer.gone()

    server = await serve(script, **options)
    with pytest.raises(WireError) as caught:
        await read(await open_stream(sender, server.url, stall=0.2))
    assert caught.value.failure is WireFailure.STALLED


async def test_a_dribble_ends_with_the_deadline(serve, place):
    sender, options = place

    async def script(peer):
        await peer.request()
        await peer.say(ok(FILM)[:1000])
        while True:
            await peer.say(b"x")
            await asyncio.sleep(0.02)

    server = await serve(script, **options)
    with pytest.raises(WireError) as caught:
        await read(await open_stream(sender, server.url, timeout=0.3, stall=0.2))
    assert caught.value.failure is WireFailure.DEADLINE


async def test_a_server_is_held_back_by_a_slow_reader(serve, place):
    sender, options = place
    said = 0

    async def script(peer):
        nonlocal said
        await peer.request()
        await peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        while True:
            await peer.say(b"x" * 100_000)
            said += 1

    server = await serve(script, **options)
    stream = await open_stream(sender, server.url)
    pieces = stream.chunks()
    await anext(pieces)
    before = -1
    while before != said:
        before = said
        await asyncio.sleep(0.1)
    assert said < 200, "the server said no more than the buffers of two sockets hold"
    await pieces.aclose()
    await stream.aclose()


async def test_a_body_that_nobody_finishes_closes_its_connection(serve, place):
    sender, options = place
    gone = asyncio.Event()

    async def script(peer):
        await peer.request()
        try:
            await peer.say(ok(FILM * 10))
            await peer.gone()
        finally:
            gone.set()

    server = await serve(script, **options)
    stream = await open_stream(sender, server.url)
    async for _ in stream.chunks():
        break
    await stream.aclose()
    await stream.aclose()
    await asyncio.wait_for(gone.wait(), 5)


async def test_a_cancelled_read_closes_its_connection(serve, place):
    sender, options = place
    gone = asyncio.Event()

    async def script(peer):
        await peer.request()
        await peer.say(ok(FILM)[:1000])
        await peer.gone()
        gone.set()

    server = await serve(script, **options)
    stream = await open_stream(sender, server.url)
    task = asyncio.ensure_future(read(stream))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(gone.wait(), 5)


async def test_closing_the_sender_ends_a_stream(serve, place):
    sender, options = place

    async def script(peer):
        await peer.request()
        await peer.say(ok(FILM)[:1000])
        await peer.gone()

    server = await serve(script, **options)
    stream = await open_stream(sender, server.url)
    task = asyncio.ensure_future(read(stream))
    await asyncio.sleep(0.05)
    await sender.aclose()
    with pytest.raises(WireError) as caught:
        await task
    assert caught.value.failure is WireFailure.CLOSED


async def test_a_checked_address_is_connected_to_with_the_names_host_and_sni(serve, place):
    sender, options = place
    seen = []

    async def script(peer):
        while request := await peer.request():
            seen.append(request[0])
            await peer.say(ok(b"film"))

    server = await serve(script, **options)
    url = f"https://localhost:{server.port}" if options["tls"] else f"http://cdn.invalid:{server.port}"
    assert await read(await open_stream(sender, url, addresses=("127.0.0.1",))) == b"film"
    assert b"Host: " + url.partition("//")[2].encode() in seen[0]


async def test_a_kept_connection_to_another_address_is_not_used(serve, place):
    sender, options = place
    server = await serve(answer_all, **options)
    url = server.url.replace("127.0.0.1", "localhost")
    await read(await open_stream(sender, url, addresses=("127.0.0.1",)))
    with pytest.raises(WireError):
        await open_stream(sender, url, addresses=("127.0.0.2",), timeout=2)
    assert server.connections == 1


async def test_a_head_that_does_not_come_ends_with_the_deadline(serve, place):
    sender, options = place

    async def script(peer):
        await peer.request()
        await peer.gone()

    server = await serve(script, **options)
    with pytest.raises(WireError) as caught:
        await open_stream(sender, server.url, timeout=0.2)
    assert caught.value.failure is WireFailure.DEADLINE
