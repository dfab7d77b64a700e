"""The same exchanges under TLS, and what is said when TLS fails."""

import asyncio
import os
import ssl
import time

import httpx
import pytest
import trustme

from videorouter.errors import Phase
from videorouter.http import Attempt, WireError, WireFailure
from videorouter.transport.sender import open_sender

from .conftest import ANSWER, answer_all, get, ok, post, send

pytestmark = pytest.mark.anyio


@pytest.fixture
async def sender(client_tls):
    sender = open_sender(trust_env=False, ssl_context=client_tls)
    yield sender
    await sender.aclose()


async def fail(sender, url):
    attempt = Attempt()
    with pytest.raises(WireError) as caught:
        await send(sender, post(url), attempt=attempt)
    return caught.value, attempt


async def test_calls_share_one_connection(serve, sender, server_tls):
    server = await serve(answer_all, tls=server_tls)
    for _ in range(10):
        assert (await send(sender, post(server.url))).body == ANSWER
    assert server.connections == 1


async def test_a_name_is_checked_and_sent_in_sni(serve, sender, server_tls):
    server = await serve(answer_all, tls=server_tls)
    assert (await send(sender, post(server.url.replace("127.0.0.1", "localhost")))).status == 200


async def test_many_at_once(serve, sender, server_tls):
    server = await serve(answer_all, tls=server_tls)
    answers = await asyncio.gather(*(send(sender, post(server.url)) for _ in range(200)))
    assert all(answer.body == ANSWER for answer in answers)


async def test_a_large_answer_and_a_large_request(serve, sender, server_tls):
    size = 3_000_000

    async def script(peer):
        while request := await peer.request():
            await peer.say(ok(request[1]))

    server = await serve(script, tls=server_tls)
    body = b"x" * size
    assert (await send(sender, post(server.url, body))).body == body
    assert (await send(sender, post(server.url, body))).body == body


async def test_a_body_that_ends_with_the_connection_is_whole(serve, sender, server_tls):
    async def script(peer):
        await peer.request()
        await peer.say(b"HTTP/1.1 200 OK\r\n\r\nabc")
        peer.close()

    server = await serve(script, tls=server_tls)
    assert (await send(sender, post(server.url))).body == b"abc"


async def test_a_cut_after_the_request_is_in_doubt(serve, sender, server_tls):
    async def script(peer):
        await peer.request()
        peer.writer.transport.abort()

    server = await serve(script, tls=server_tls)
    error, attempt = await fail(sender, server.url)
    assert (error.failure, attempt.phase) == (WireFailure.RESET, Phase.SENT)


async def test_an_authority_that_is_not_trusted(serve, server_tls):
    server = await serve(answer_all, tls=server_tls)
    sender = open_sender(trust_env=False)
    error, attempt = await fail(sender, server.url)
    assert (error.failure, attempt.phase) == (WireFailure.CERTIFICATE, Phase.CONNECTING)
    assert f"127.0.0.1:{server.port}" in error.message
    assert "certificate verify failed" in error.message
    assert "SSL_CERT_FILE" in error.message
    await sender.aclose()


async def test_a_certificate_for_another_name(serve, sender, authority):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("elsewhere.example").configure_cert(context)
    server = await serve(answer_all, tls=context)
    error, _ = await fail(sender, server.url)
    assert error.failure is WireFailure.CERTIFICATE
    assert "IP address mismatch" in error.message


async def test_a_port_that_speaks_no_tls(serve, sender):
    async def script(peer):
        await peer.reader.read(10)
        await peer.say(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    server = await serve(script)
    error, attempt = await fail(sender, server.url.replace("http:", "https:"))
    assert (error.failure, attempt.phase) == (WireFailure.TLS_CUT, Phase.CONNECTING)


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_handshake_that_is_cut_short(serve, sender, how):
    async def script(peer):
        await peer.reader.read(10)
        getattr(peer, how)()

    server = await serve(script)
    error, attempt = await fail(sender, server.url.replace("http:", "https:"))
    assert (error.failure, attempt.phase) == (WireFailure.TLS_CUT, Phase.CONNECTING)
    assert f"127.0.0.1:{server.port}" in error.message


async def test_a_handshake_without_an_answer_ends_with_the_connect_timeout(serve, client_tls):
    async def script(peer):
        await peer.gone()

    server = await serve(script)
    sender = open_sender(trust_env=False, ssl_context=client_tls, connect_timeout=0.2)
    error, attempt = await fail(sender, server.url.replace("http:", "https:"))
    assert (error.failure, attempt.phase) == (WireFailure.CONNECT_TIMEOUT, Phase.CONNECTING)
    await sender.aclose()


async def test_a_session_ticket_on_an_idle_connection_does_not_end_it(serve, sender, server_tls):
    """TLS 1.3 servers send tickets when they like: that is no answer to anything."""
    context = server_tls
    context.num_tickets = 4
    server = await serve(answer_all, tls=context)
    await send(sender, get(server.url))
    await asyncio.sleep(0.02)
    await send(sender, get(server.url))
    assert server.connections == 1


async def test_the_environment_names_the_trusted_authority(serve, server_tls, authority, tmp_path, monkeypatch):
    from videorouter.transport import tls

    with authority.cert_pem.tempfile(dir=str(tmp_path)) as pem:
        monkeypatch.setenv("SSL_CERT_FILE", pem)
        monkeypatch.setattr(tls._shared, "_making", None)
        server = await serve(answer_all, tls=server_tls)
        sender = open_sender()
        assert (await send(sender, post(server.url))).status == 200
        await sender.aclose()
    monkeypatch.setattr(tls._shared, "_making", None)


async def test_tls_1_2(serve, client_tls, authority):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    authority.issue_cert("127.0.0.1").configure_cert(context)
    server = await serve(answer_all, tls=context)
    sender = open_sender(trust_env=False, ssl_context=client_tls)
    for _ in range(3):
        assert (await send(sender, post(server.url))).status == 200
    await sender.aclose()


async def test_a_server_that_wants_a_certificate_of_ours_says_no(serve, sender, authority):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    trustme.CA().configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    server = await serve(answer_all, tls=context)
    error, _ = await fail(sender, server.url)
    assert error.failure in (WireFailure.RESET, WireFailure.TLS_CUT)


def offer(authority, *protocols, of=ssl.SSLContext):
    context = of(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    context.set_alpn_protocols(list(protocols))
    return context


@pytest.fixture
async def both(serve, authority):
    """A server that would rather speak HTTP/2, and what was agreed on with each connection."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    context.set_alpn_protocols(["h2", "http/1.1"])
    agreed = []

    async def script(peer):
        agreed.append(peer.writer.get_extra_info("ssl_object").selected_alpn_protocol())
        await answer_all(peer)

    return await serve(script, tls=context), agreed


async def test_a_shared_context_that_offers_http_2_is_asked_for_http_1(authority, both):
    server, agreed = both
    context = offer(authority, "h2", "http/1.1")
    sender = open_sender(trust_env=False, ssl_context=context)
    assert (await send(sender, post(server.url))).body == ANSWER
    context.set_alpn_protocols(["h2"])  # whoever shares it asks for its own, as httpx does before each connection
    answers = await asyncio.gather(*(send(sender, post(server.url)) for _ in range(5)))
    assert all(answer.body == ANSWER for answer in answers)
    assert set(agreed) == {"http/1.1"}
    assert len(agreed) == 5
    await sender.aclose()


async def test_a_context_may_be_shared_with_a_client_of_httpx(authority, both):
    """Each asks for what it speaks, before each connection of its own."""
    server, agreed = both
    context = offer(authority, "h2", "http/1.1")
    sender = open_sender(trust_env=False, ssl_context=context)
    transport = httpx.AsyncHTTPTransport(verify=context, trust_env=False)
    async with httpx.AsyncClient(transport=transport) as client:
        transport._pool._ssl_context.set_alpn_protocols(["h2"])
        assert (await client.get(server.url)).status_code == 200
        assert (await send(sender, post(server.url))).status == 200
    assert agreed == ["http/1.1"] * 2
    await sender.aclose()


class Stubborn(ssl.SSLContext):
    """Offers HTTP/2 whatever it is asked."""

    def set_alpn_protocols(self, alpn_protocols):
        super().set_alpn_protocols(["h2"])


async def test_where_http_2_was_agreed_on_nothing_is_sent(authority, both):
    server, _ = both
    sender = open_sender(trust_env=False, ssl_context=offer(authority, of=Stubborn))
    error, attempt = await fail(sender, server.url)
    assert (error.failure, attempt.phase) == (WireFailure.TLS_CUT, Phase.CONNECTING)
    assert "h2 was agreed on" in error.message
    await sender.aclose()


def break_tls(peer, data=b""):
    """Write bytes under TLS, and at once behind them a record that is none."""
    peer.writer.write(data)
    sock = peer.writer.get_extra_info("socket")
    os.write(sock.fileno(), b"\x17\x03\x03\x00\x20" + b"\xff" * 32)


async def test_an_answer_that_came_before_tls_broke_is_the_answer(serve, sender, server_tls):
    async def script(peer):
        while await peer.request():
            break_tls(peer, ok())
            await peer.gone()

    server = await serve(script, tls=server_tls)
    for _ in range(2):
        assert (await send(sender, post(server.url))).body == ANSWER
    assert server.connections == 2


async def test_a_piece_that_came_before_tls_broke_is_evidence(serve, sender, server_tls):
    async def script(peer):
        await peer.request()
        break_tls(peer, ok()[:-5])

    server = await serve(script, tls=server_tls)
    error, attempt = await fail(sender, server.url)
    assert error.failure is WireFailure.BODY_CUT
    assert attempt.response.body == ANSWER[:-5]


async def test_a_body_without_a_length_does_not_end_where_tls_broke(serve, sender, server_tls):
    async def script(peer):
        await peer.request()
        break_tls(peer, b"HTTP/1.1 200 OK\r\n\r\n" + ANSWER)

    server = await serve(script, tls=server_tls)
    error, attempt = await fail(sender, server.url)
    assert error.failure is WireFailure.BODY_CUT
    assert attempt.response.body == ANSWER


async def test_a_stream_gives_what_came_before_tls_broke(serve, sender, server_tls):
    async def script(peer):
        await peer.request()
        break_tls(peer, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")

    server = await serve(script, tls=server_tls)
    stream = await sender.stream(get(server.url), Attempt(), deadline=time.monotonic() + 5, stall=5)
    pieces = stream.chunks()
    assert await anext(pieces) == b"abc"
    with pytest.raises(WireError) as caught:
        await anext(pieces)
    assert caught.value.failure is WireFailure.BODY_CUT


@pytest.mark.parametrize("broken", [False, True])
async def test_a_whole_stream_before_the_end_of_tls_is_whole_and_the_last(serve, sender, server_tls, broken):
    async def script(peer):
        while await peer.request():
            if broken:
                break_tls(peer, ok())
            else:
                peer.writer.write(ok())
                peer.close()
            await peer.gone()

    server = await serve(script, tls=server_tls)
    for _ in range(2):
        stream = await sender.stream(get(server.url), Attempt(), deadline=time.monotonic() + 5, stall=5)
        assert b"".join([piece async for piece in stream.chunks()]) == ANSWER
    assert server.connections == 2


async def test_tls_that_broke_before_an_answer_is_a_lost_one(serve, sender, server_tls):
    async def script(peer):
        await peer.request()
        break_tls(peer)

    server = await serve(script, tls=server_tls)
    error, attempt = await fail(sender, server.url)
    assert (error.failure, attempt.phase) == (WireFailure.RESET, Phase.SENT)
