"""The way of each request: straight, through a client, or through the stock transport."""

import httpx
import pytest

from videorouter.transport.httpx_stock import StockTransport
from videorouter.transport.sender import open_sender

from .conftest import answer_all, post, send

pytestmark = pytest.mark.anyio


async def test_an_untouched_client_is_passed_by(serve, sender, monkeypatch):
    server = await serve(answer_all)
    assert sender.client.event_hooks == {"request": [], "response": []}
    assert sender._find_httpx_sender(server.url) is None
    assert (await send(sender, post(server.url))).status == 200


@pytest.mark.parametrize(
    "touch",
    [
        lambda client: client.event_hooks["response"].append(print),
        lambda client: setattr(client, "auth", ("user", "password")),
        lambda client: client.headers.update({"X": "1"}),
        lambda client: client._mounts.update({httpx._utils.URLPattern("all://"): None}),
    ],
    ids=["hooks", "auth", "headers", "mounts"],
)
async def test_a_touched_client_is_gone_through(sender, touch):
    touch(sender.client)
    assert sender._find_httpx_sender("http://127.0.0.1/")._client is sender.client


async def test_a_proxied_host_goes_the_stock_way_and_others_do_not(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "straight.example")
    sender = open_sender()
    detour = sender._find_httpx_sender("https://gateway.example/")
    assert isinstance(detour._find_transport(httpx.URL("https://gateway.example/")), StockTransport)
    assert sender._find_httpx_sender("https://straight.example/") is None
    assert await sender.resolve("https://gateway.example/", deadline=1e9) == ()
    await sender.aclose()


async def test_cookies_are_not_kept(serve, sender):
    from .conftest import ok

    async def script(peer):
        while await peer.request():
            await peer.say(ok(b"{}", b"Set-Cookie: a=b"))

    server = await serve(script)
    sender.client.event_hooks["request"].append(_note)
    await send(sender, post(server.url))
    assert not list(sender.client.cookies.jar)


async def _note(_):
    """A hook."""
