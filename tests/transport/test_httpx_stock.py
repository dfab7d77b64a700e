"""The stock transport where ours does not go."""

import asyncio
import random
import time

import httpx
import pytest
import trio

from videorouter.errors import Phase
from videorouter.http import Attempt, WireError, WireFailure
from videorouter.transport.httpx_stock import StockTransport
from videorouter.transport.sender import open_sender

from .conftest import ANSWER, answer_all, get, ok, post, send


async def serve_in_trio(nursery, answers):
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")

    async def handle(stream):
        data = b""
        while True:
            more = await stream.receive_some(65_536)
            if not more:
                return
            data += more
            if b"\r\n\r\n" in data and data.endswith((b"}", b"\r\n\r\n")):
                data = b""
                for answer in answers:
                    await stream.send_all(answer)
                if not answers:
                    return

    nursery.start_soon(trio.serve_listeners, handle, listeners)
    return f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"


def test_a_call_works_in_trio():
    async def main():
        async with trio.open_nursery() as nursery:
            url = await serve_in_trio(nursery, [ok()])
            sender = open_sender(trust_env=False)
            attempt = Attempt()
            for _ in range(3):
                response = await sender.send(post(url), attempt, deadline=time.monotonic() + 5, max_body=1000)
            assert (response.body, attempt.phase) == (ANSWER, Phase.COMPLETE)
            stream = await sender.stream(get(url), Attempt(), deadline=time.monotonic() + 5, stall=5)
            assert b"".join([piece async for piece in stream.chunks()]) == ANSWER
            await stream.aclose()
            await sender.aclose()
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_a_lost_answer_in_trio_is_in_doubt():
    async def main():
        async with trio.open_nursery() as nursery:
            url = await serve_in_trio(nursery, [])
            sender = open_sender(trust_env=False)
            attempt = Attempt()
            with pytest.raises(WireError) as caught:
                await sender.send(post(url), attempt, deadline=time.monotonic() + 5, max_body=1000)
            assert (caught.value.failure, attempt.phase) == (WireFailure.RESET, Phase.SENT)
            await sender.aclose()
            nursery.cancel_scope.cancel()

    trio.run(main)


@pytest.mark.anyio
async def test_transports_are_kept_between_calls_and_thrown_away_after_failures(serve):
    async def script(peer):
        while await peer.request():
            if peer.number == 1:
                await peer.say(ok())
            else:
                peer.reset()
                return

    server = await serve(script)
    transport = StockTransport()
    async with httpx.AsyncClient(transport=transport) as client:
        sender = open_sender(http_client=client)
        await send(sender, get(server.url))
        await send(sender, get(server.url))
        assert server.connections == 1
        assert len(transport._find_free()) == 1
        _, held = transport._find_free().pop()
        with pytest.raises(WireError):
            await send(sender, get(server.url))
        assert not transport._find_free()
        await held.aclose()


@pytest.mark.anyio
async def test_cancelled_at_random_points_nothing_is_left(serve):
    dice = random.Random(3)
    server = await serve(answer_all)
    transport = StockTransport()
    async with httpx.AsyncClient(transport=transport) as client:
        sender = open_sender(http_client=client)

        async def work():
            for _ in range(15):
                task = asyncio.ensure_future(send(sender, get(server.url)))
                await asyncio.sleep(dice.random() * 0.01)
                task.cancel()
                await asyncio.wait((task,))

        await asyncio.gather(*(work() for _ in range(20)))
        answers = await asyncio.wait_for(asyncio.gather(*(send(sender, get(server.url)) for _ in range(20))), 10)
        assert all(answer.body == ANSWER for answer in answers)
    for _ in range(200):
        if not server.peers:
            break
        await asyncio.sleep(0.01)
    assert not server.peers


@pytest.mark.anyio
async def test_connections_of_a_burst_are_not_kept_while_one_goes_on(serve, monkeypatch):
    monkeypatch.setattr("videorouter.transport.httpx_stock.IDLE_SECONDS", 0.05)
    server = await serve(answer_all)
    async with httpx.AsyncClient(transport=StockTransport()) as client:
        sender = open_sender(http_client=client)
        await asyncio.gather(*(send(sender, get(server.url)) for _ in range(20)))
        assert len(server.peers) > 1
        async with asyncio.timeout(10):
            while len(server.peers) > 1:
                await send(sender, get(server.url))
                await asyncio.sleep(0.01)
