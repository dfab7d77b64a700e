"""Through other people's clients: the same answers, the same phases, and nothing of theirs is closed or lost."""

import asyncio
import random
import time

import httpx
import pytest

from videorouter.errors import Phase
from videorouter.http import Attempt, WireError, WireFailure
from videorouter.transport.httpx_transport import VideoTransport
from videorouter.transport.sender import open_sender

from .conftest import ANSWER, answer_all, get, ok, post, send

pytestmark = pytest.mark.anyio


class Header(httpx.Auth):
    def auth_flow(self, request):
        request.headers["X-Auth"] = "1"
        yield request


async def note(_):
    """A hook."""


CLIENTS = {
    "stock": lambda: httpx.AsyncClient(trust_env=False),
    "stock with hooks and auth": lambda: httpx.AsyncClient(
        trust_env=False, auth=Header(), event_hooks={"request": [note], "response": [note]}
    ),
    "ours": lambda: httpx.AsyncClient(transport=VideoTransport(), trust_env=False),
    "ours with hooks and auth": lambda: httpx.AsyncClient(
        transport=VideoTransport(), auth=Header(), event_hooks={"request": [note], "response": [note]}
    ),
}


@pytest.fixture(params=CLIENTS)
async def client(request):
    async with CLIENTS[request.param]() as client:
        yield client


@pytest.fixture
def sender(client):
    return open_sender(http_client=client)


async def fail(sender, request, **options):
    attempt = Attempt()
    with pytest.raises(WireError) as caught:
        await send(sender, request, attempt=attempt, **options)
    return caught.value, attempt


async def test_an_answer_comes_whole_and_the_client_stays_open(serve, sender, client):
    server = await serve(answer_all)
    attempt = Attempt()
    response = await send(sender, post(server.url), attempt=attempt)
    assert (response.status, response.body, attempt.phase) == (200, ANSWER, Phase.COMPLETE)
    await sender.aclose()
    assert not client.is_closed
    assert (await send(open_sender(http_client=client), post(server.url))).status == 200
    assert server.connections == 1


async def test_a_held_request_outlives_the_clients_own_timeouts(serve, sender, client):
    client.timeout = httpx.Timeout(0.05)

    async def script(peer):
        await peer.request()
        await asyncio.sleep(0.3)
        await peer.say(ok())

    server = await serve(script)
    assert (await send(sender, post(server.url))).body == ANSWER


async def test_a_redirect_is_not_followed(serve, sender, client):
    client.follow_redirects = True

    async def script(peer):
        while await peer.request():
            await peer.say(b"HTTP/1.1 302 Found\r\nLocation: http://\xff:1/\r\nContent-Length: 0\r\n\r\n")

    server = await serve(script)
    response = await send(sender, post(server.url))
    assert response.status == 302
    assert len(server.requests) <= 1


async def test_a_compressed_body_is_neither_asked_for_nor_unpacked(serve, sender):
    seen = []

    async def script(peer):
        seen.append((await peer.request())[0].lower())
        await peer.say(ok(b"\x1f\x8b raw", b"Content-Encoding: gzip"))

    server = await serve(script)
    assert (await send(sender, post(server.url))).body == b"\x1f\x8b raw"
    assert seen[0].count(b"accept-encoding: identity\r\n") == 1
    assert b"gzip" not in seen[0]


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_lost_after_the_request_is_in_doubt(serve, sender, how):
    async def script(peer):
        await peer.request()
        getattr(peer, how)()

    server = await serve(script)
    error, attempt = await fail(sender, post(server.url))
    assert (error.failure, attempt.phase) == (WireFailure.RESET, Phase.SENT)


async def test_a_cut_body_keeps_status_and_what_came(serve, sender):
    async def script(peer):
        await peer.request()
        await peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc")
        peer.close()

    server = await serve(script)
    error, attempt = await fail(sender, post(server.url))
    assert (error.failure, attempt.phase) == (WireFailure.BODY_CUT, Phase.ANSWERED)
    assert (attempt.response.status, attempt.response.body) == (200, b"abc")


async def test_a_body_over_the_bound_is_cut_off(serve, sender):
    async def script(peer):
        await peer.request()
        await peer.say(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            await peer.say(b"x" * 1000)

    server = await serve(script)
    error, attempt = await fail(sender, post(server.url), max_body=5000)
    assert (error.failure, attempt.phase) == (WireFailure.TOO_LARGE, Phase.ANSWERED)
    assert attempt.response.body == b"x" * 5000


async def test_the_deadline_ends_a_held_request(serve, sender):
    async def script(peer):
        await peer.request()
        await peer.gone()

    server = await serve(script)
    error, attempt = await fail(sender, post(server.url), timeout=0.2)
    assert (error.failure, attempt.phase) == (WireFailure.DEADLINE, Phase.SENT)


async def test_a_refused_connection_was_not_sent(sender, free_port):
    error, attempt = await fail(sender, post(f"http://127.0.0.1:{free_port}"))
    assert (error.failure, attempt.phase) == (WireFailure.CONNECTION_REFUSED, Phase.CONNECTING)
    assert f"127.0.0.1:{free_port}" in error.message


async def test_a_hanging_connect_was_not_sent(full_backlog, client):
    sender = open_sender(http_client=client, connect_timeout=0.2)
    if isinstance(client._transport, VideoTransport):
        client._transport.exchanger._connect_timeout = 0.2
    error, attempt = await fail(sender, post(full_backlog))
    assert (error.failure, attempt.phase) == (WireFailure.CONNECT_TIMEOUT, Phase.CONNECTING)


async def test_a_cancelled_post_catches_an_answer_that_is_on_its_way(serve, sender):
    arrived, release = asyncio.Event(), asyncio.Event()

    async def script(peer):
        await peer.request()
        arrived.set()
        await release.wait()
        await peer.say(ok())
        await peer.gone()

    server = await serve(script)
    attempt = Attempt()
    task = asyncio.ensure_future(send(sender, post(server.url), attempt=attempt))
    await arrived.wait()
    await asyncio.sleep(0.02)
    task.cancel()
    await asyncio.sleep(0.02)
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (attempt.phase, attempt.response.body) == (Phase.COMPLETE, ANSWER)


async def test_a_challenged_request_may_be_sent_again(serve):
    async def script(peer):
        request = await peer.request()
        assert b"digest" not in request[0].lower()
        await peer.say(
            b'HTTP/1.1 401 No\r\nWWW-Authenticate: Digest realm="r", nonce="n", qop="auth"\r\n'
            b"Connection: close\r\nContent-Length: 0\r\n\r\n"
        )
        peer.close()
        server._server.close()

    server = await serve(script)
    async with httpx.AsyncClient(trust_env=False, auth=httpx.DigestAuth("u", "p")) as client:
        error, attempt = await fail(open_sender(http_client=client), post(server.url))
    assert (error.failure, attempt.phase) == (WireFailure.CONNECTION_REFUSED, Phase.CONNECTING)


async def test_a_transport_that_sends_again_by_itself_leaves_the_facts_of_each_sending(serve):
    class Stubborn(httpx.AsyncHTTPTransport):
        async def handle_async_request(self, request):
            try:
                return await super().handle_async_request(request)
            except httpx.TransportError:
                await server.stop()
                return await super().handle_async_request(request)

    async def script(peer):
        await peer.request()
        peer.close()

    server = await serve(script)
    async with httpx.AsyncClient(transport=Stubborn(), trust_env=False) as client:
        _, attempt = await fail(open_sender(http_client=client), post(server.url))
    assert (attempt.phase, [past.phase for past in attempt.earlier]) == (Phase.CONNECTING, [Phase.SENT])


@pytest.mark.parametrize(
    ("error", "phase"),
    [
        (httpx.ConnectError, Phase.CONNECTING),
        (httpx.ConnectTimeout, Phase.CONNECTING),
        (httpx.ReadError, Phase.UNKNOWN),
        (httpx.ReadTimeout, Phase.UNKNOWN),
        (httpx.RemoteProtocolError, Phase.UNKNOWN),
    ],
)
async def test_a_mock_means_what_it_says_about_connecting(error, phase):
    def handle(request):
        raise error("mocked", request=request)

    async with httpx.AsyncClient(transport=httpx.MockTransport(handle)) as client:
        _, attempt = await fail(open_sender(http_client=client), post("https://gateway.example"))
    assert attempt.phase is phase


async def test_a_mocks_answer_comes_whole():
    def handle(request):
        return httpx.Response(200, content=request.content)

    async with httpx.AsyncClient(transport=httpx.MockTransport(handle)) as client:
        response = await send(open_sender(http_client=client), post("https://gateway.example"))
    assert (response.status, response.body) == (200, b'{"prompt":"otter"}')


async def test_a_transport_without_trace_events_leaves_the_phase_unknown():
    class Silent(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request):
            raise httpx.ConnectTimeout("or so it says", request=request)

    async with httpx.AsyncClient(transport=Silent()) as client:
        _, attempt = await fail(open_sender(http_client=client), post("https://gateway.example"))
    assert attempt.phase is Phase.UNKNOWN


async def test_a_download_takes_no_headers_cookies_or_auth_of_the_client(serve):
    seen = []

    async def script(peer):
        seen.append((await peer.request())[0].lower())
        await peer.say(ok(b"film"))

    server = await serve(script)
    async with httpx.AsyncClient(
        trust_env=False, auth=("user", "secret"), headers={"X-Key": "secret"}, cookies={"c": "secret"}
    ) as client:
        sender = open_sender(http_client=client)
        stream = await sender.stream(get(server.url), Attempt(), deadline=time.monotonic() + 5, stall=5)
        assert b"".join([piece async for piece in stream.chunks()]) == b"film"
        await stream.aclose()
    assert b"secret" not in seen[0]
    assert b"authorization" not in seen[0]


async def test_a_pinned_download_goes_to_the_checked_address(serve, client):
    seen = []

    async def script(peer):
        seen.append((await peer.request())[0])
        await peer.say(ok(b"film"))

    server = await serve(script)
    sender = open_sender(http_client=client)
    url = f"http://cdn.invalid:{server.port}"
    stream = await sender.stream(get(url), Attempt(), deadline=time.monotonic() + 5, stall=5, addresses=("127.0.0.1",))
    assert b"".join([piece async for piece in stream.chunks()]) == b"film"
    await stream.aclose()
    assert b"Host: cdn.invalid:%d\r\n" % server.port in seen[0]


async def test_cancelled_at_random_points_no_slot_of_the_clients_pool_is_lost(serve):
    """httpcore's own pool loses them; 30 workers on 10 slots, and all 10 work afterwards."""
    dice = random.Random(7)

    async def script(peer):
        while await peer.request():
            if dice.random() < 0.5:
                await asyncio.sleep(dice.random() * 0.004)
            await peer.say(ok())

    server = await serve(script)
    limits = httpx.Limits(max_connections=10, max_keepalive_connections=10)
    async with httpx.AsyncClient(trust_env=False, limits=limits) as client:
        sender = open_sender(http_client=client)

        async def work():
            for _ in range(25):
                task = asyncio.ensure_future(send(sender, get(server.url)))
                await asyncio.sleep(dice.random() * 0.004)
                if dice.random() < 0.7:
                    task.cancel()
                await asyncio.wait((task,))

        await asyncio.gather(*(work() for _ in range(30)))
        answers = await asyncio.wait_for(asyncio.gather(*(send(sender, get(server.url)) for _ in range(10))), 5)
        assert all(answer.body == ANSWER for answer in answers)
        assert not sender._abandoned


async def test_whoever_waits_too_long_for_a_connection_of_the_clients_pool_was_not_sent(serve):
    release = asyncio.Event()

    async def script(peer):
        while await peer.request():
            await release.wait()
            await peer.say(ok())

    server = await serve(script)
    async with httpx.AsyncClient(trust_env=False, limits=httpx.Limits(max_connections=1)) as client:
        sender = open_sender(http_client=client)
        first = asyncio.ensure_future(send(sender, post(server.url)))
        await asyncio.sleep(0.05)
        error, attempt = await fail(sender, post(server.url), timeout=0.1)
        assert (error.failure, attempt.phase) == (WireFailure.DEADLINE, Phase.QUEUED)
        assert f"127.0.0.1:{server.port}" in error.message
        release.set()
        assert (await first).body == ANSWER
        assert (await send(sender, post(server.url))).body == ANSWER
