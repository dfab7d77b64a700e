"""Senders that nobody closes, or that somebody closes from elsewhere: the user's own loop goes on unharmed."""

import asyncio
import gc
import os
import threading

import pytest

from videorouter.http import Attempt, WireError, WireFailure
from videorouter.transport.sender import open_sender

from .conftest import ANSWER, Server, answer_all, get, post, send

pytestmark = pytest.mark.anyio


def watched():
    """The descriptors that the running loop believes to watch."""
    return set(asyncio.get_running_loop()._selector.get_map())


def closed_but_watched():
    def is_open(number):
        try:
            os.fstat(number)
        except OSError:
            return False
        return True

    return {number for number in watched() if not is_open(number)}


async def use(url):
    sender = open_sender(trust_env=False)
    assert (await send(sender, post(url))).body == ANSWER


async def talk(url):
    """What a program does on its own, beside the sender."""
    sender = open_sender(trust_env=False)
    reader, writer = await asyncio.open_connection(*url.removeprefix("http://").split(":"))
    writer.write(b"GET / HTTP/1.1\r\n\r\n")
    assert (await asyncio.wait_for(reader.readline(), 5)).startswith(b"HTTP/1.1 200")
    writer.close()
    await sender.aclose()


async def test_a_forgotten_sender_harms_nobody_elses_sockets(serve):
    server = await serve(answer_all)
    for _ in range(30):
        await asyncio.gather(*(use(server.url) for _ in range(5)), *(talk(server.url) for _ in range(5)))
    gc.collect()
    await asyncio.sleep(0.01)
    assert closed_but_watched() == set()


async def test_a_forgotten_sender_closes_its_connections(serve):
    server = await serve(answer_all)
    before = watched()
    await use(server.url)
    gc.collect()
    await asyncio.wait_for(asyncio.gather(*server.peers), 5)
    assert watched() - before == set()


async def test_a_sender_that_is_collected_in_another_thread_is_closed_in_its_loop(serve):
    server = await serve(answer_all)
    senders = [open_sender(trust_env=False)]
    await send(senders[0], post(server.url))
    closers = []
    (origin,) = senders[0]._exchanger.pools.find()._origins.values()
    (connection,) = origin.idle
    connection.sock = Watched(connection.sock, closers)
    del connection, origin
    await asyncio.to_thread(lambda: (senders.clear(), gc.collect()))
    await asyncio.wait_for(asyncio.gather(*server.peers), 5)
    assert closers == [threading.current_thread()]
    assert closed_but_watched() == set()
    await talk(server.url)


class Watched:
    """A socket that notes which thread closes it."""

    def __init__(self, sock, closers):
        self.sock = sock
        self.closers = closers

    def close(self):
        self.closers.append(threading.current_thread())
        self.sock.close()


async def test_a_sender_that_is_closed_in_another_thread_is_closed_in_its_loop(serve):
    server = await serve(answer_all)
    sender = open_sender(trust_env=False)
    await send(sender, post(server.url))
    await asyncio.to_thread(lambda: asyncio.run(sender.aclose()))
    await asyncio.wait_for(asyncio.gather(*server.peers), 5)
    assert closed_but_watched() == set()
    await talk(server.url)


async def wait_for_request(peer):
    await peer.request()
    await peer.gone()


def test_a_sender_that_is_closed_while_its_loop_stands_still_ends_what_ran_there():
    loop = asyncio.new_event_loop()
    sender = open_sender(trust_env=False)
    attempt = Attempt()

    async def begin():
        idle, busy = await Server(answer_all).start(), await Server(wait_for_request).start()
        await send(sender, post(idle.url))
        call = asyncio.ensure_future(send(sender, post(busy.url), attempt=attempt))
        while not busy.peers:
            await asyncio.sleep(0.01)
        return call, idle, busy

    async def end(call, *servers):
        with pytest.raises(WireError) as caught:
            await asyncio.wait_for(call, 5)
        assert caught.value.failure is WireFailure.CLOSED
        assert closed_but_watched() == set()
        await talk(servers[0].url)
        for server in servers:
            await server.stop()

    try:
        begun = loop.run_until_complete(begin())
        asyncio.run(sender.aclose())
        loop.run_until_complete(end(*begun))
    finally:
        loop.close()


def test_a_sender_that_is_forgotten_while_its_loop_stands_still_leaves_the_loop_usable():
    loop = asyncio.new_event_loop()

    async def begin():
        server = await Server(answer_all).start()
        await use(server.url)
        return server

    async def end(server):
        assert closed_but_watched() == set()
        await talk(server.url)
        await server.stop()

    try:
        server = loop.run_until_complete(begin())
        gc.collect()
        loop.run_until_complete(end(server))
    finally:
        loop.close()


async def test_a_stream_that_is_closed_in_another_thread_is_closed_in_its_loop(serve, sender):
    async def script(peer):
        await peer.request()
        await peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nabc")
        await peer.gone()

    server = await serve(script)
    deadline = asyncio.get_running_loop().time() + 30
    stream = await sender.stream(get(server.url), Attempt(), deadline=deadline, stall=30)
    pieces = stream.chunks()
    assert await anext(pieces) == b"abc"
    waiting = asyncio.ensure_future(anext(pieces))
    await asyncio.sleep(0)
    await asyncio.to_thread(lambda: asyncio.run(stream.aclose()))
    with pytest.raises(WireError):
        await asyncio.wait_for(waiting, 5)
    assert closed_but_watched() == set()
