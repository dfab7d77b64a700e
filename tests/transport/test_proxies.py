"""Which requests go through which proxy, and what a proxy's refusal means."""

import asyncio
import sys

import pytest

from videorouter import AsyncVideoRouter
from videorouter.errors import ConfigurationError, Phase
from videorouter.http import Attempt, WireError, WireFailure
from videorouter.transport.proxies import Route, choose_proxy, read_routes
from videorouter.transport.sender import open_sender

from .conftest import ANSWER, answer_all, ok, post, send

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize(
    ("exception", "url", "straight"),
    [
        ("example.com", "https://example.com/", True),
        ("example.com", "https://api.example.com/", True),
        ("example.com", "https://notexample.com/", False),
        (".example.com", "https://api.example.com/", True),
        ("*.example.com", "https://api.example.com/", True),
        ("EXAMPLE.com", "https://example.COM/", True),
        ("example.com:8443", "https://example.com/", False),
        ("example.com:8443", "https://example.com:8443/", True),
        ("127.0.0.1", "http://127.0.0.1:80/", True),
        ("10.0.0.0/8", "http://10.1.2.3/", True),
        ("10.0.0.0/8", "http://11.1.2.3/", False),
        ("10.0.0.0/8", "http://ten.example/", False),
        ("::1", "http://[::1]:5/", True),
        ("[::1]:5", "http://[::1]:5/", True),
        ("https://example.com", "https://example.com/", True),
    ],
)
def test_exceptions(exception, url, straight):
    routes = (Route("all", "http://proxy:1", (exception.lower(),)),)
    assert (choose_proxy(routes, url) is None) is straight


def test_the_environment_is_read_by_scheme(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "secure.proxy:1")
    monkeypatch.setenv("ALL_PROXY", "http://other.proxy:2")
    monkeypatch.setenv("NO_PROXY", "localhost, .internal")
    routes = read_routes(None, trust_env=True)
    assert choose_proxy(routes, "https://a.example/") == "http://secure.proxy:1"
    assert choose_proxy(routes, "http://a.example/") == "http://other.proxy:2"
    assert choose_proxy(routes, "https://x.internal/") is None
    assert read_routes(None, trust_env=False) == ()


def test_a_star_excepts_everything(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:1")
    monkeypatch.setenv("NO_PROXY", "*")
    assert read_routes(None, trust_env=True) == ()


@pytest.mark.parametrize("proxy", ["", "http://", "ftp://proxy:1", "http://proxy:99999"])
def test_a_setting_that_is_no_proxy_url(proxy):
    with pytest.raises(ConfigurationError, match="not a proxy URL"):
        read_routes(proxy, trust_env=False)


def test_a_socks_proxy_without_its_package_is_said_clearly(monkeypatch):
    monkeypatch.setitem(sys.modules, "socksio", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'httpx\[socks\]'"):
        read_routes("socks5://proxy:1080", trust_env=False)


@pytest.mark.parametrize(
    "other", ["socks://127.0.0.1:1080/", "socks5://127.0.0.1:1080", "nonsense://", "ftp://proxy:1"]
)
async def test_an_entry_that_no_request_needs_stops_nothing(serve, monkeypatch, other):
    """GNOME sets ALL_PROXY=socks://... beside the entries that are used."""
    monkeypatch.setitem(sys.modules, "socksio", None)
    proxy = Proxy()
    server = await serve(proxy)
    monkeypatch.setenv("HTTP_PROXY", server.url)
    monkeypatch.setenv("ALL_PROXY", other)
    sender = open_sender(urls=["http://gateway.invalid"])
    assert (await send(sender, post("http://gateway.invalid"))).body == ANSWER
    attempt = Attempt()
    with pytest.raises(WireError, match="ALL_PROXY") as caught:
        await send(sender, post("https://gateway.invalid"), attempt=attempt)
    assert (caught.value.failure, attempt.phase) == (WireFailure.PROXY_REFUSED, Phase.QUEUED)
    await sender.aclose()
    with pytest.raises(ConfigurationError, match=r"ALL_PROXY .*Nothing was sent"):
        AsyncVideoRouter("key", base_url="https://gateway.invalid/v1")
    monkeypatch.setenv("NO_PROXY", "gateway.invalid")
    await AsyncVideoRouter("key", base_url="https://gateway.invalid/v1").aclose()


class Proxy:
    """Speaks the forward and the CONNECT dialect; answers CONNECT with ``status``."""

    def __init__(self, status=200):
        self.status = status
        self.lines = []

    async def __call__(self, peer):
        while True:
            head = await peer.reader.readuntil(b"\r\n\r\n")
            line = head.partition(b"\r\n")[0]
            self.lines.append(line)
            if line.startswith(b"CONNECT"):
                await self.tunnel(peer, line)
                return
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
            await peer.reader.readexactly(length)
            await peer.say(ok())

    async def tunnel(self, peer, line):
        if self.status != 200:
            await peer.say(b"HTTP/1.1 %d No\r\nContent-Length: 0\r\n\r\n" % self.status)
            return
        host, _, port = line.split()[1].decode().rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        await peer.say(b"HTTP/1.1 200 Connected\r\n\r\n")

        async def pump(source, sink):
            try:
                while data := await source.read(65_536):
                    sink.write(data)
                    await sink.drain()
            finally:
                sink.close()

        await asyncio.gather(pump(peer.reader, writer), pump(reader, peer.writer), return_exceptions=True)


async def test_plain_requests_are_forwarded(serve):
    proxy = Proxy()
    server = await serve(proxy)
    sender = open_sender(proxy=server.url)
    attempt = Attempt()
    for _ in range(3):
        response = await send(sender, post("http://gateway.invalid"), attempt=attempt)
    assert (response.body, attempt.phase) == (ANSWER, Phase.COMPLETE)
    assert proxy.lines == [b"POST http://gateway.invalid/v1/videos/generations HTTP/1.1"] * 3
    assert server.connections == 1
    await sender.aclose()


async def test_secure_requests_are_tunnelled(serve, server_tls, client_tls):
    proxy = Proxy()
    server = await serve(proxy)
    gateway = await serve(answer_all, tls=server_tls)
    sender = open_sender(proxy=server.url, ssl_context=client_tls)
    for _ in range(3):
        attempt = Attempt()
        assert (await send(sender, post(gateway.url), attempt=attempt)).body == ANSWER
    assert attempt.phase is Phase.COMPLETE
    assert proxy.lines == [b"CONNECT 127.0.0.1:%d HTTP/1.1" % gateway.port]
    await sender.aclose()


async def test_many_at_once_go_through_without_a_queue(serve, server_tls, client_tls):
    server = await serve(Proxy())
    gateway = await serve(answer_all, tls=server_tls)
    sender = open_sender(proxy=server.url, ssl_context=client_tls)
    answers = await asyncio.gather(*(send(sender, post(gateway.url)) for _ in range(50)))
    assert len(answers) == 50
    await sender.aclose()


async def test_the_environments_proxy_is_used_and_its_exceptions_are_not(serve, monkeypatch):
    proxy = Proxy()
    server = await serve(proxy)
    gateway = await serve(answer_all)
    monkeypatch.setenv("HTTP_PROXY", server.url)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    sender = open_sender()
    await send(sender, post(gateway.url))
    assert (gateway.connections, server.connections) == (1, 0)
    await send(sender, post("http://gateway.invalid"))
    assert server.connections == 1
    assert await sender.resolve("http://gateway.invalid", deadline=1e9) == (), "the proxy resolves names"
    await sender.aclose()


@pytest.mark.parametrize(
    ("status", "failure"),
    [
        (502, WireFailure.PROXY_UNAVAILABLE),
        (503, WireFailure.PROXY_UNAVAILABLE),
        (504, WireFailure.PROXY_UNAVAILABLE),
        (403, WireFailure.PROXY_REFUSED),
        (407, WireFailure.PROXY_REFUSED),
    ],
)
async def test_a_proxy_that_says_no_to_connect(serve, client_tls, status, failure):
    server = await serve(Proxy(status))
    sender = open_sender(proxy=server.url, ssl_context=client_tls)
    attempt = Attempt()
    with pytest.raises(WireError) as caught:
        await send(sender, post("https://gateway.invalid"), attempt=attempt)
    assert (caught.value.failure, attempt.phase) == (failure, Phase.CONNECTING)
    assert "gateway.invalid:443" in caught.value.message
    await sender.aclose()


async def test_a_proxy_that_is_not_there(client_tls, free_port):
    sender = open_sender(proxy=f"http://127.0.0.1:{free_port}", ssl_context=client_tls)
    attempt = Attempt()
    with pytest.raises(WireError) as caught:
        await send(sender, post("https://gateway.invalid"), attempt=attempt)
    assert (caught.value.failure, attempt.phase) == (WireFailure.CONNECTION_REFUSED, Phase.CONNECTING)
    await sender.aclose()


async def test_a_connection_lost_behind_the_proxy_is_in_doubt(serve, server_tls, client_tls):
    async def script(peer):
        await peer.request()
        peer.writer.transport.abort()

    server = await serve(Proxy())
    gateway = await serve(script, tls=server_tls)
    sender = open_sender(proxy=server.url, ssl_context=client_tls)
    attempt = Attempt()
    with pytest.raises(WireError):
        await send(sender, post(gateway.url), attempt=attempt)
    assert attempt.phase is Phase.SENT
    await sender.aclose()
