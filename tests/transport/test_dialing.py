"""Names, addresses, families: the first that answers wins, and losers leave no socket."""

import asyncio
import socket
import threading
import time

import pytest

from videorouter.http import WireError, WireFailure
from videorouter.transport.dialing import Resolver, connect, interleave, parse_literal, resolve_name

from .conftest import ANSWER, answer_all, post, send

pytestmark = pytest.mark.anyio

V4, V6 = socket.AF_INET, socket.AF_INET6


def test_literals_are_told_from_names():
    assert parse_literal("127.0.0.1", 80) == (V4, ("127.0.0.1", 80))
    assert parse_literal("::1", 80) == (V6, ("::1", 80, 0, 0))
    assert parse_literal("127.1", 80) is None
    assert parse_literal("localhost", 80) is None
    assert parse_literal("a:b", 80) is None


def test_families_interleave_beginning_with_the_preferred_one():
    six = [(V6, (f"2001:db8::{n}", 1, 0, 0)) for n in (1, 2, 3)]
    four = [(V4, (f"192.0.2.{n}", 1)) for n in (1,)]
    assert interleave([*six, *four]) == (six[0], four[0], six[1], six[2])
    assert interleave([]) == ()


async def test_ipv6(serve, sender):
    try:
        server = await serve(answer_all, host="::1")
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    assert (await send(sender, post(server.url))).body == ANSWER


async def test_a_family_that_refuses_gives_way_to_the_other(serve, sender, monkeypatch):
    server = await serve(answer_all)

    def look_up(host, port, **options):
        return [
            (V6, socket.SOCK_STREAM, 6, "", ("::1", port, 0, 0)),
            (V4, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)),
        ]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    assert (await send(sender, post(f"http://gateway.test:{server.port}"))).body == ANSWER


async def test_an_address_that_hangs_gives_way_after_a_moment(serve, full_backlog):
    server = await serve(answer_all)
    before = asyncio.all_tasks()
    hanging = int(full_backlog.rpartition(":")[2])
    sock = await asyncio.wait_for(connect([(V4, ("127.0.0.1", hanging)), (V4, ("127.0.0.1", server.port))]), 5)
    assert sock.getpeername()[1] == server.port
    sock.close()
    await asyncio.sleep(0)
    assert asyncio.all_tasks() - before - server.peers == set()


async def test_when_every_address_refuses_the_first_error_is_told(free_port):
    places = [(V4, ("127.0.0.1", free_port)), (V4, ("127.0.0.2", free_port))]
    with pytest.raises(ConnectionRefusedError, match=rf"127\.0\.0\.1:{free_port}"):
        await connect(places)


async def test_cancelling_a_race_leaves_no_socket(full_backlog):
    before = asyncio.all_tasks()
    port = int(full_backlog.rpartition(":")[2])
    task = asyncio.ensure_future(connect([(V4, ("127.0.0.1", port))] * 3))
    await asyncio.sleep(0.3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0.01)
    assert asyncio.all_tasks() == before


async def test_keep_alive_probes_are_on(serve):
    server = await serve(answer_all)
    sock = await connect([(V4, ("127.0.0.1", server.port))])
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 30
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == 10
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) == 3
    sock.close()


async def test_a_name_is_looked_up_once_for_many(monkeypatch):
    asked = []

    def look_up(host, port, **options):
        asked.append(host)
        return [(V4, socket.SOCK_STREAM, 6, "", ("192.0.2.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    resolver = Resolver()
    found = await asyncio.gather(*(resolver.resolve("gateway.test", 443) for _ in range(50)))
    assert set(found) == {((V4, ("192.0.2.1", 443)),)}
    assert asked == ["gateway.test"]
    resolver.invalidate("gateway.test", 443)
    await resolver.resolve("gateway.test", 443)
    assert len(asked) == 2


async def test_one_waiters_cancellation_is_not_everybodys(monkeypatch):
    def look_up(host, port, **options):
        return [(V4, socket.SOCK_STREAM, 6, "", ("192.0.2.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    resolver = Resolver()
    first, second = (asyncio.ensure_future(resolver.resolve("gateway.test", 443)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == ((V4, ("192.0.2.1", 443)),)


async def test_a_failed_look_up_is_not_remembered(monkeypatch):
    answers = [socket.gaierror(socket.EAI_AGAIN, "later"), [(V4, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 443))]]

    def look_up(host, port, **options):
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    resolver = Resolver()
    with pytest.raises(socket.gaierror):
        await resolver.resolve("gateway.test", 443)
    assert await resolver.resolve("gateway.test", 443)


async def test_literals_and_names_lead_to_addresses():
    assert await resolve_name("http://127.0.0.1:5/", deadline=time.monotonic() + 5) == ("127.0.0.1",)
    assert "127.0.0.1" in await resolve_name("http://localhost:5/", deadline=time.monotonic() + 5)


async def test_a_url_without_a_place_has_no_addresses():
    with pytest.raises(WireError) as caught:
        await resolve_name("http://a:99999/", deadline=time.monotonic() + 5)
    assert caught.value.failure is WireFailure.NAME_MISSING


async def test_a_name_server_that_says_nothing_ends_with_the_deadline(monkeypatch):
    release = threading.Event()

    def look_up(*args, **options):
        release.wait(5)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    with pytest.raises(WireError) as caught:
        await resolve_name("http://gateway.test/", deadline=time.monotonic() + 0.1)
    release.set()
    assert caught.value.failure is WireFailure.NAME_TEMPORARY
