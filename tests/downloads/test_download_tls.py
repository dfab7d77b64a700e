"""The connection goes to the checked address, and TLS still speaks of the name."""

from __future__ import annotations

import asyncio
import ssl

import pytest
import trustme

from videorouter import AsyncVideoRouter, DownloadError, Video

pytestmark = pytest.mark.anyio


async def test_a_pinned_connection_keeps_the_name_in_sni_host_and_certificate(host, tmp_path, monkeypatch):
    authority = trustme.CA()
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("files.invalid").configure_cert(server_side)
    told: list[str | None] = []
    server_side.sni_callback = lambda _socket, name, _context: told.append(name)
    client_side = ssl.create_default_context()
    authority.configure_trust(client_side)
    server = await asyncio.start_server(host.serve, "127.0.0.1", 0, ssl=server_side)
    port = server.sockets[0].getsockname()[1]
    async with AsyncVideoRouter("k", base_url=host.url("/v1"), ssl_context=client_side) as router:

        async def resolve(url, *, deadline):
            return ("127.0.0.1",)

        monkeypatch.setattr(router._caller.shared.sender, "resolve", resolve)
        saved = await router.save(Video(url=f"https://files.invalid:{port}/a.mp4"), tmp_path / "a.mp4")
        assert saved.size == len(host.body)
        assert told == ["files.invalid"]
        assert host.requests[0][1]["host"] == f"files.invalid:{port}"
        with pytest.raises(DownloadError, match="certificate"):
            await router.save(Video(url=f"https://other.invalid:{port}/a.mp4"), tmp_path / "b.mp4")
    server.close()
    await server.wait_closed()


async def test_https_never_leads_to_http_even_on_loopback(host, tmp_path, plan):
    authority = trustme.CA()
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(server_side)
    client_side = ssl.create_default_context()
    authority.configure_trust(client_side)
    server = await asyncio.start_server(host.serve, "127.0.0.1", 0, ssl=server_side)
    port = server.sockets[0].getsockname()[1]
    host.plans = [plan(status=302, headers=(("Location", host.url("/b.mp4")),), body=b"")]
    async with AsyncVideoRouter("k", base_url=host.url("/v1"), ssl_context=client_side) as router:
        with pytest.raises(DownloadError, match="from https to http"):
            await router.save(Video(url=f"https://127.0.0.1:{port}/a.mp4"), tmp_path / "a.mp4")
    assert len(host.requests) == 1
    server.close()
    await server.wait_closed()
