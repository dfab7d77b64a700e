"""Whoever mocks httpx mocks us: no extra step, and a miss never reaches the network."""

import subprocess
import sys
import textwrap

import httpx
import pytest
import respx

from videorouter.errors import Phase
from videorouter.http import Attempt, WireError, WireFailure
from videorouter.transport.httpx_api import OWN
from videorouter.transport.httpx_transport import VideoTransport
from videorouter.transport.sender import open_sender

from .conftest import ANSWER, answer_all, get, post, send

pytestmark = pytest.mark.anyio

URL = "https://video.onerouter.pro"
PATH = URL + "/v1/videos/generations"


@pytest.mark.parametrize("using", ["httpcore", "httpx"])
async def test_respx_answers_for_the_network(sender, using):
    with respx.mock(using=using) as mock:
        route = mock.post(PATH).respond(200, json={"ok": True})
        response = await send(sender, post(URL))
        assert response.body.replace(b" ", b"") == b'{"ok":true}'
        assert route.calls.last.request.content == b'{"prompt":"otter"}'


@pytest.mark.parametrize("using", ["httpcore", "httpx"])
async def test_a_miss_never_reaches_the_network(serve, sender, using):
    server = await serve(answer_all)
    with respx.mock(using=using, assert_all_called=False) as mock:
        mock.post("https://elsewhere.example/").respond(200)
        with pytest.raises(AssertionError, match="not mocked"):
            await send(sender, post(server.url))
    assert server.connections == 0
    assert (await send(sender, post(server.url))).body == ANSWER


@pytest.mark.parametrize("using", ["httpcore", "httpx"])
@pytest.mark.parametrize(
    ("error", "phase"),
    [
        (httpx.ConnectError, Phase.CONNECTING),
        (httpx.ConnectTimeout, Phase.CONNECTING),
        (httpx.ReadError, Phase.UNKNOWN),
    ],
)
async def test_connect_errors_of_respx_mean_what_they_say(sender, using, error, phase):
    with respx.mock(using=using) as mock:
        mock.post(PATH).mock(side_effect=error)
        attempt = Attempt()
        with pytest.raises(WireError):
            await send(sender, post(URL), attempt=attempt)
    assert attempt.phase is phase


async def test_a_route_that_passes_through_reaches_its_server(serve, sender):
    server = await serve(answer_all)
    with respx.mock as mock:
        mock.post(server.url + "/v1/videos/generations").pass_through()
        assert (await send(sender, post(server.url))).body == ANSWER


@pytest.mark.parametrize("using", ["httpcore", "httpx"])
async def test_no_name_is_looked_up_above_a_mock(sender, using, monkeypatch):
    def look_up(*args, **options):
        raise AssertionError("a name was looked up")

    monkeypatch.setattr("socket.getaddrinfo", look_up)
    with respx.mock(using=using) as mock:
        mock.get(URL + "/v1/models").respond(200)
        assert await sender.resolve(URL, deadline=1e9) == ()
        assert (await send(sender, get(URL))).status == 200


async def test_a_users_own_client_over_our_transport_is_caught_too():
    async with httpx.AsyncClient(transport=VideoTransport()) as client:
        with respx.mock as mock:
            mock.get(URL).respond(204)
            assert (await client.get(URL)).status_code == 204


async def test_a_patched_stock_transport_catches_us(sender, monkeypatch):
    """As pytest-httpx does it."""

    async def handle(self, request):
        return httpx.Response(200, content=b"caught")

    monkeypatch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", handle)
    assert OWN.is_transport_patched()
    assert (await send(sender, post(URL))).body == b"caught"


async def test_a_patched_send_catches_us(sender, monkeypatch):
    """As tracers do it."""

    async def handle(self, request, **options):
        return httpx.Response(200, content=b"caught", request=request)

    monkeypatch.setattr(httpx.AsyncClient, "send", handle)
    assert OWN.is_client_patched()
    assert (await send(sender, post(URL))).body == b"caught"


async def test_nothing_catches_when_nothing_is_patched():
    assert not OWN.is_client_patched()
    assert not OWN.is_transport_patched()


async def test_hooks_on_our_own_client_see_every_request(serve, sender):
    server = await serve(answer_all)
    seen = []

    async def note(request):
        seen.append(request.url.path)

    sender.client.event_hooks["request"].append(note)
    attempt = Attempt()
    assert (await send(sender, post(server.url), attempt=attempt)).body == ANSWER
    assert seen == ["/v1/videos/generations"]
    assert attempt.phase is Phase.COMPLETE


def test_a_package_that_is_first_imported_inside_a_mock_is_caught():
    script = """
        import asyncio, time
        import respx
        async def main():
            with respx.mock as mock:
                mock.post("https://video.onerouter.pro/x").respond(201)
                from videorouter.transport.sender import open_sender
                from videorouter.http import Request, Attempt
                request = Request(method="POST", url="https://video.onerouter.pro/x", headers=(), body=b"")
                response = await open_sender().send(request, Attempt(), deadline=time.monotonic() + 5, max_body=9)
                print(response.status)
        asyncio.run(main())
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.strip() == "201", done.stderr


async def test_a_refused_connection_is_still_told_apart_when_our_client_has_hooks(sender, free_port):
    sender.client.auth = ("user", "password")
    attempt = Attempt()
    with pytest.raises(WireError) as caught:
        await send(sender, post(f"http://127.0.0.1:{free_port}"), attempt=attempt)
    assert (caught.value.failure, attempt.phase) == (WireFailure.CONNECTION_REFUSED, Phase.CONNECTING)


def test_open_sender_does_nothing_yet():
    assert open_sender(trust_env=False) is not None
