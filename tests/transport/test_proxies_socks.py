"""Calls through a SOCKS proxy: a real one, which says what it was asked for."""

from __future__ import annotations

import asyncio
import contextlib
import ssl

import pytest
import trustme
from servers import Gateway, answer, find_dead_port, lose

from videorouter import APIConnectionError, AsyncVideoRouter, OutcomeUnknownError, Phase

pytestmark = pytest.mark.anyio
pytest.importorskip("socksio")

GRANTED, REFUSED, NO_HOST = 0, 2, 4


class SocksServer:
    """A SOCKS 5 server (RFC 1928, RFC 1929) that leads every name to one port of this machine."""

    def __init__(self, port, *, reply=GRANTED, password=None):
        self.port, self.reply, self.password = port, reply, password
        self.asked = []
        self.tasks = set()

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._visit, "127.0.0.1", 0)
        self.place = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *exc):
        self._server.close()
        for task in tuple(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        for _ in range(3):
            await asyncio.sleep(0)

    def _visit(self, reader, writer):
        task = asyncio.create_task(self._serve(reader, writer))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _serve(self, reader, writer):
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await self._negotiate(reader, writer)
        finally:
            writer.transport.abort()

    async def _negotiate(self, reader, writer):
        _, count = await reader.readexactly(2)
        methods = await reader.readexactly(count)
        chosen = 2 if self.password else 0
        writer.write(bytes([5, chosen if chosen in methods else 0xFF]))
        if chosen == 2 and chosen in methods:
            _, size = await reader.readexactly(2)
            user = await reader.readexactly(size)
            password = await reader.readexactly((await reader.readexactly(1))[0])
            right = (user, password) == (b"otter", self.password)
            writer.write(bytes([1, 0 if right else 1]))
            if not right:
                return
        _, _, _, kind = await reader.readexactly(4)
        size = {1: 4, 4: 16}.get(kind) or (await reader.readexactly(1))[0]
        host = await reader.readexactly(size)
        port = int.from_bytes(await reader.readexactly(2), "big")
        self.asked.append((host.decode() if kind == 3 else kind, port))
        writer.write(bytes([5, self.reply, 0, 1, 0, 0, 0, 0, 0, 0]))
        if self.reply == GRANTED:
            inner, outer = await asyncio.open_connection("127.0.0.1", self.port)
            try:
                await asyncio.gather(_copy(reader, outer), _copy(inner, writer))
            finally:
                outer.transport.abort()


async def _copy(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


def router(proxy, scheme="http", **options):
    options = {"model": "veo", "timeout": 10.0, "max_retries": 0, **options}
    return AsyncVideoRouter(
        "key", base_url=f"{scheme}://gateway.invalid/v1", allow_insecure=True, proxy=proxy, **options
    )


@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
async def test_a_call_goes_through_the_proxy_which_looks_the_name_up(scheme):
    async with (
        Gateway(answer()) as gateway,
        SocksServer(gateway.port) as proxy,
        router(f"{scheme}://{proxy.place}") as client,
    ):
        assert (await client.generate("otter")).video_id == "video_1"
        assert (await client.generate("heron")).video_id == "video_1"
        assert [len(gateway.posts), set(proxy.asked)] == [2, {("gateway.invalid", 80)}]


async def test_all_proxy_may_name_it(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    async with Gateway(answer()) as gateway, SocksServer(gateway.port) as proxy:
        monkeypatch.setenv("ALL_PROXY", f"socks5://{proxy.place}")
        async with router(None) as client:
            assert (await client.generate("otter")).videos
        assert proxy.asked


async def test_tls_goes_through_it_and_the_certificate_is_the_gateways():
    authority = trustme.CA()
    server, trusting = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert("gateway.invalid").configure_cert(server)
    authority.configure_trust(trusting)
    async with Gateway(answer(), ssl_context=server) as gateway, SocksServer(gateway.port) as proxy:
        async with router(f"socks5://{proxy.place}", "https", ssl_context=trusting) as client:
            assert (await client.generate("otter")).videos
        assert proxy.asked == [("gateway.invalid", 443)]


async def test_a_user_and_a_password_are_shown_to_it():
    async with Gateway(answer()) as gateway, SocksServer(gateway.port, password=b"fish") as proxy:
        async with router(f"socks5://otter:fish@{proxy.place}") as client:
            assert (await client.generate("otter")).videos
        async with router(f"socks5://otter:wrong@{proxy.place}") as client:
            with pytest.raises(APIConnectionError, match="Nothing was sent") as caught:
                await client.generate("otter")
        assert len(gateway.posts) == 1
        assert "wrong" not in str(caught.value)


async def test_an_answer_that_is_lost_behind_it_is_in_doubt():
    async with (
        Gateway(lose()) as gateway,
        SocksServer(gateway.port) as proxy,
        router(f"socks5://{proxy.place}") as client,
    ):
        with pytest.raises(OutcomeUnknownError) as caught:
            await client.generate("otter")
        assert (caught.value.phase, len(gateway.posts)) == (Phase.SENT, 1)


@pytest.mark.parametrize(("reply", "reason"), [(REFUSED, "not allowed by ruleset"), (NO_HOST, "Host unreachable")])
async def test_a_proxy_that_refuses_says_why_and_nothing_was_sent(reply, reason):
    async with Gateway(answer()) as gateway, SocksServer(gateway.port, reply=reply) as proxy:
        async with router(f"socks5://{proxy.place}") as client:
            with pytest.raises(APIConnectionError, match="Nothing was sent") as caught:
                await client.generate("otter")
        assert reason in str(caught.value)
        assert "the proxy could not reach the gateway" in str(caught.value)
        assert gateway.posts == []


async def test_a_dead_proxy_is_named():
    place = f"127.0.0.1:{find_dead_port()}"
    async with router(f"socks5://{place}") as client:
        with pytest.raises(APIConnectionError, match="Nothing was sent") as caught:
            await client.generate("otter")
    assert f"the proxy {place}" in str(caught.value)
