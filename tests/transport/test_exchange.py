"""One request over a connection of our own, against servers that do what servers do."""

import asyncio

import pytest

from videorouter.errors import Phase
from videorouter.http import Attempt, Request, WireError, WireFailure, find_header
from videorouter.transport.sender import open_sender

from .conftest import ANSWER, answer_all, get, ok, post, send

pytestmark = pytest.mark.anyio


async def fail(sender, request, **options):
    attempt = Attempt()
    with pytest.raises(WireError) as caught:
        await send(sender, request, attempt=attempt, **options)
    return caught.value, attempt


async def test_an_answer_comes_whole_with_lower_case_headers(serve, sender):
    server = await serve(answer_all)
    attempt = Attempt()
    response = await send(sender, post(server.url), attempt=attempt)
    assert (response.status, response.body) == (200, ANSWER)
    assert find_header(response.headers, b"content-type") == "application/json"
    assert attempt.phase is Phase.COMPLETE
    assert attempt.host == f"127.0.0.1:{server.port}"


async def test_head_and_body_arrive_as_they_were_given(serve, sender):
    seen = []

    async def keep(peer):
        seen.append(await peer.request())
        await peer.say(ok())

    server = await serve(keep)
    request = Request(
        method="POST",
        url=server.url + "/v1/a%2Fb?x=%20y",
        headers=((b"Authorization", b"k"), (b"accept-encoding", b"gzip")),
        body=b"{}",
    )
    await send(sender, request)
    lines = seen[0][0].split(b"\r\n")
    assert lines[0] == b"POST /v1/a%2Fb?x=%20y HTTP/1.1"
    assert b"Host: 127.0.0.1:%d" % server.port in lines
    assert b"Content-Length: 2" in lines
    assert [line for line in lines if line.lower().startswith(b"accept-encoding")] == [b"Accept-Encoding: identity"]
    assert seen[0][1] == b"{}"


async def test_a_header_with_a_line_break_is_refused_before_anything_is_sent(serve, sender):
    server = await serve(answer_all)
    error, attempt = await fail(sender, post(server.url, b"{}", (b"X", b"a\r\nEvil: 1")))
    assert error.failure is WireFailure.PROTOCOL
    assert attempt.phase is Phase.QUEUED
    assert server.connections == 0


async def test_one_connection_serves_calls_in_sequence(serve, sender):
    server = await serve(answer_all)
    for _ in range(20):
        await send(sender, post(server.url))
    assert server.connections == 1


async def test_interim_answers_are_passed_over(serve, sender):
    async def script(peer):
        await peer.request()
        await peer.say(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
        await peer.say(b"HTTP/1.1 102 Processing\r\n\r\n" + ok(ANSWER, b"X-Last: 1"))

    server = await serve(script)
    response = await send(sender, post(server.url))
    assert response.body == ANSWER
    assert [name for name, _ in response.headers] == [b"content-type", b"x-last", b"content-length"]


async def test_endless_interim_answers_are_cut_off(serve, sender):
    async def script(peer):
        await peer.request()
        while True:
            await peer.say(b"HTTP/1.1 102 Processing\r\n\r\n" * 100)

    server = await serve(script)
    error, attempt = await fail(sender, post(server.url))
    assert error.failure is WireFailure.TOO_LARGE
    assert attempt.phase is Phase.SENT


async def test_switching_protocols_is_no_answer(serve, sender):
    async def script(peer):
        await peer.request()
        await peer.say(b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n")
        await peer.gone()

    server = await serve(script)
    error, attempt = await fail(sender, post(server.url))
    assert (error.failure, attempt.phase) == (WireFailure.PROTOCOL, Phase.SENT)


async def test_a_chunked_answer_is_joined_and_its_trailers_dropped(serve, sender):
    async def script(peer):
        while await peer.request():
            await peer.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            for byte in (b"ab", b"c"):
                await peer.say(b"%x\r\n%b\r\n" % (len(byte), byte))
            await peer.say(b"0\r\nX-Trailer: 1\r\n\r\n")

    server = await serve(script)
    for _ in range(2):
        response = await send(sender, post(server.url))
        assert response.body == b"abc"
        assert find_header(response.headers, b"x-trailer") is None
    assert server.connections == 1


async def test_a_body_that_ends_with_the_connection_is_whole(serve, sender):
    async def script(peer):
        await peer.request()
        await peer.say(b"HTTP/1.1 200 OK\r\n\r\nabc")
        peer.close()

    server = await serve(script)
    assert (await send(sender, post(server.url))).body == b"abc"
    assert (await send(sender, post(server.url))).body == b"abc"
    assert server.connections == 2


@pytest.mark.parametrize("status", [204, 304])
async def test_an_answer_without_a_body_is_whole_at_its_head(serve, sender, status):
    async def script(peer):
        while await peer.request():
            await peer.say(
                b"HTTP/1.1 %d X\r\nContent-Length: 9\r\n\r\n" % status if status == 304 else b"HTTP/1.1 204 X\r\n\r\n"
            )

    server = await serve(script)
    for _ in range(2):
        assert (await send(sender, get(server.url))).status == status


async def test_a_head_request_has_no_body(serve, sender):
    async def script(peer):
        await peer.request()
        await peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n")
        await peer.gone()

    server = await serve(script)
    response = await send(sender, Request(method="HEAD", url=server.url + "/", headers=()))
    assert (response.status, response.body) == (200, b"")


async def test_a_head_without_end_is_cut_off(serve, sender):
    async def script(peer):
        await peer.request()
        await peer.say(b"HTTP/1.1 200 OK\r\n")
        while True:
            await peer.say(b"X-More: " + b"a" * 1000 + b"\r\n")

    server = await serve(script)
    error, _ = await fail(sender, post(server.url))
    assert error.failure is WireFailure.TOO_LARGE


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_over_the_bound_is_cut_off_and_its_beginning_kept(serve, sender, chunked):
    async def script(peer):
        await peer.request()
        if chunked:
            await peer.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            while True:
                await peer.say(b"400\r\n" + b"x" * 1024 + b"\r\n")
        await peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n")
        while True:
            await peer.say(b"x" * 1024)

    server = await serve(script)
    error, attempt = await fail(sender, post(server.url), max_body=10_000)
    assert error.failure is WireFailure.TOO_LARGE
    assert attempt.response.status == 200
    assert attempt.response.body == b"x" * 10_000


async def test_trailers_without_end_are_cut_off(serve, sender):
    async def script(peer):
        await peer.request()
        await peer.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n")
        while True:
            await peer.say(b"X-More: " + b"a" * 1000 + b"\r\n")

    server = await serve(script)
    error, attempt = await fail(sender, post(server.url))
    assert error.failure is WireFailure.TOO_LARGE
    assert attempt.phase is Phase.ANSWERED


@pytest.mark.parametrize(
    "garbage",
    [
        b"hello\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"\x16\x03\x01\x00\x00",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
    ],
)
async def test_what_is_not_http_is_in_doubt(serve, sender, garbage):
    async def script(peer):
        await peer.request()
        await peer.say(garbage)
        await peer.gone()

    server = await serve(script)
    error, attempt = await fail(sender, post(server.url))
    assert (error.failure, attempt.phase) == (WireFailure.PROTOCOL, Phase.SENT)


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_connection_lost_after_the_request_is_in_doubt(serve, sender, how):
    async def script(peer):
        await peer.request()
        getattr(peer, how)()

    server = await serve(script)
    error, attempt = await fail(sender, post(server.url))
    assert (error.failure, attempt.phase, attempt.half_written) == (WireFailure.RESET, Phase.SENT, False)
    assert f"127.0.0.1:{server.port}" in error.message


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_cut_body_keeps_status_and_what_came(serve, sender, how):
    async def script(peer):
        await peer.request()
        await peer.say(b"HTTP/1.1 200 OK\r\nx-infron-request-id: r1\r\nContent-Length: 100\r\n\r\nabc")
        await asyncio.sleep(0.05)
        getattr(peer, how)()

    server = await serve(script)
    error, attempt = await fail(sender, post(server.url))
    assert (error.failure, attempt.phase) == (WireFailure.BODY_CUT, Phase.ANSWERED)
    assert (attempt.response.status, attempt.response.body) == (200, b"abc")
    assert find_header(attempt.response.headers, b"x-infron-request-id") == "r1"


async def test_a_body_that_could_not_be_written_whole_was_not_accepted(serve, sender):
    async def script(peer):
        await peer.reader.readuntil(b"\r\n\r\n")
        peer.reset()

    server = await serve(script)
    error, attempt = await fail(sender, post(server.url, b"x" * 50_000_000))
    assert error.failure is WireFailure.WRITE_FAILED
    assert (attempt.phase, attempt.half_written) == (Phase.SENDING, True)


async def test_an_answer_before_the_body_was_written_counts(serve, sender):
    async def script(peer):
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.say(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        await peer.gone()

    server = await serve(script)
    response = await send(sender, post(server.url, b"x" * 50_000_000))
    assert response.status == 413


async def test_the_deadline_ends_a_held_request_and_closes_its_connection(serve, sender):
    gone = asyncio.Event()

    async def script(peer):
        await peer.request()
        await peer.gone()
        gone.set()

    server = await serve(script)
    error, attempt = await fail(sender, post(server.url), timeout=0.2)
    assert (error.failure, attempt.phase) == (WireFailure.DEADLINE, Phase.SENT)
    await asyncio.wait_for(gone.wait(), 5)


async def test_the_rest_of_an_answer_has_its_own_bound(serve, sender, monkeypatch):
    monkeypatch.setattr("videorouter.transport.connection.REST_TIMEOUT", 0.2)

    async def script(peer):
        await peer.request()
        await peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\na")
        await peer.gone()

    server = await serve(script)
    error, attempt = await fail(sender, post(server.url), timeout=60)
    assert (error.failure, attempt.phase) == (WireFailure.STALLED, Phase.ANSWERED)


async def test_a_refused_connection_names_host_port_and_cause(sender, free_port):
    error, attempt = await fail(sender, post(f"http://127.0.0.1:{free_port}"))
    assert (error.failure, attempt.phase) == (WireFailure.CONNECTION_REFUSED, Phase.CONNECTING)
    assert f"127.0.0.1:{free_port}" in error.message
    assert "Connection refused" in error.message


async def test_a_name_that_does_not_exist_is_said_to(sender, monkeypatch):
    import socket

    def look_up(*args, **options):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    error, attempt = await fail(sender, post("http://gateway.invalid"))
    assert (error.failure, attempt.phase) == (WireFailure.NAME_MISSING, Phase.CONNECTING)
    assert "gateway.invalid:80" in error.message


async def test_a_name_server_without_an_answer_is_temporary(sender, monkeypatch):
    import socket

    def look_up(*args, **options):
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    error, _ = await fail(sender, post("http://gateway.invalid"))
    assert error.failure is WireFailure.NAME_TEMPORARY


async def test_a_connect_that_hangs_ends_with_the_connect_timeout(full_backlog):
    sender = open_sender(trust_env=False, connect_timeout=0.2)
    error, attempt = await fail(sender, post(full_backlog), timeout=30)
    assert (error.failure, attempt.phase) == (WireFailure.CONNECT_TIMEOUT, Phase.CONNECTING)
    await sender.aclose()


async def test_a_half_open_peer_ends_with_the_deadline(full_backlog):
    sender = open_sender(trust_env=False)
    error, _ = await fail(sender, post(full_backlog), timeout=0.2)
    assert error.failure is WireFailure.DEADLINE
    await sender.aclose()


async def test_a_closed_sender_sends_nothing(serve):
    server = await serve(answer_all)
    sender = open_sender(trust_env=False)
    await sender.aclose()
    await sender.aclose()
    error, attempt = await fail(sender, post(server.url))
    assert (error.failure, attempt.phase) == (WireFailure.CLOSED, Phase.QUEUED)


async def test_closing_aborts_what_runs(serve):
    waiting = asyncio.Event()

    async def script(peer):
        await peer.request()
        waiting.set()
        await peer.gone()

    server = await serve(script)
    sender = open_sender(trust_env=False)
    attempt = Attempt()
    call = asyncio.ensure_future(send(sender, post(server.url), attempt=attempt))
    await waiting.wait()
    await sender.aclose()
    with pytest.raises(WireError) as caught:
        await call
    assert (caught.value.failure, attempt.phase) == (WireFailure.CLOSED, Phase.SENT)


@pytest.mark.parametrize("where", ["waiting for a place", "looking up a name", "connecting", "in the TLS handshake"])
async def test_closing_aborts_what_has_not_been_sent(serve, full_backlog, monkeypatch, where):
    import socket
    import threading

    release = threading.Event()
    url = full_backlog
    if where == "waiting for a place":
        monkeypatch.setattr("videorouter.transport.pool.CONNECTS_AT_ONCE", 0)
    elif where == "looking up a name":
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: release.wait(30) and [])
        url = "http://gateway.test"
    elif where == "in the TLS handshake":

        async def script(peer):
            await peer.gone()

        url = (await serve(script)).url.replace("http:", "https:")
    sender = open_sender(trust_env=False, connect_timeout=60)
    attempt = Attempt()
    call = asyncio.ensure_future(send(sender, post(url), attempt=attempt, timeout=60))
    await asyncio.sleep(0.2)
    await sender.aclose()
    with pytest.raises(WireError) as caught:
        await asyncio.wait_for(call, 5)
    release.set()
    assert caught.value.failure is WireFailure.CLOSED
    assert not attempt.has_left


@pytest.mark.parametrize("idle", [True, False])
async def test_nothing_is_sent_when_the_deadline_has_passed(serve, sender, idle):
    seen = []

    async def script(peer):
        while request := await peer.request():
            seen.append(request)
            await peer.say(ok())

    server = await serve(script)
    if idle:
        await send(sender, post(server.url))
    error, attempt = await fail(sender, post(server.url), timeout=-0.1)
    assert (error.failure, attempt.has_left) == (WireFailure.DEADLINE, False)
    assert (await send(sender, post(server.url))).body == ANSWER
    assert len(seen) == 1 + idle


async def test_nothing_is_sent_when_the_loop_stood_still_until_the_deadline(serve, sender, monkeypatch):
    import time

    from videorouter.transport import exchange

    async def connect_and_block(places):
        sock = await connect(places)
        time.sleep(0.3)  # noqa: ASYNC251 - the loop is meant to stand still
        return sock

    connect = exchange.connect
    monkeypatch.setattr(exchange, "connect", connect_and_block)
    server = await serve(answer_all)
    error, attempt = await fail(sender, post(server.url), timeout=0.2)
    assert (error.failure, attempt.phase) == (WireFailure.DEADLINE, Phase.CONNECTING)


async def test_ten_thousand_header_bytes_are_fine(serve, sender):
    async def script(peer):
        await peer.request()
        await peer.say(ok(ANSWER, b"X-Long: " + b"a" * 10_000))

    server = await serve(script)
    assert len(find_header((await send(sender, post(server.url))).headers, b"x-long")) == 10_000


async def test_an_answer_that_dribbles_is_put_together(serve, sender):
    async def script(peer):
        await peer.request()
        for byte in ok():
            await peer.say(bytes([byte]))
            await asyncio.sleep(0)

    server = await serve(script)
    assert (await send(sender, post(server.url))).body == ANSWER
