"""Faults before HTTP begins: at the connection, and at a byte of the request."""

import anyio
import pytest

from videorouter.sandbox import Sandbox

pytestmark = pytest.mark.anyio
REQUEST = (
    b"POST /v1/videos/generations HTTP/1.1\r\nHost: localhost\r\nAuthorization: k\r\nConnection: close\r\n"
    b"Content-Length: 30\r\n\r\n" + b'{"model":"m","prompt":"otter"}'
)


async def talk(sandbox, *pieces):
    got = b""
    async with await anyio.connect_tcp("127.0.0.1", int(sandbox.url.rsplit(":", 1)[1])) as stream:
        try:
            for piece in pieces:
                await stream.send(piece)
            while True:
                got += await stream.receive()
        except anyio.EndOfStream:
            return got, "end"
        except anyio.BrokenResourceError:
            return got, "reset"


@pytest.mark.parametrize(("kind", "end"), [("reset", "reset"), ("close", "end")])
async def test_a_connection_breaks_before_anything_is_read(kind, end):
    async with Sandbox() as sandbox:
        sandbox.faults.add(kind, at="connect", times=1)
        got, how = await talk(sandbox)
        assert (got, how) == (b"", end)
        assert sandbox.requests[0].fault == f"{kind}; at=connect"
        got, _ = await talk(sandbox, REQUEST)
        assert got.startswith(b"HTTP/1.1 200 OK")
        assert await sandbox.charges() == {"otter": 1}


@pytest.mark.parametrize("byte", [0, 1, 60, len(REQUEST) - 1, len(REQUEST)])
async def test_a_connection_is_reset_at_a_chosen_byte_of_the_request(byte):
    async with Sandbox() as sandbox:
        sandbox.faults.add("reset", at="request", byte=byte, path="*/generations")
        assert await talk(sandbox, REQUEST) == (b"", "reset")
        assert await sandbox.charges() == {}


async def test_a_request_on_another_path_is_let_through_byte_by_byte():
    async with Sandbox() as sandbox:
        sandbox.faults.add("reset", at="request", byte=5, path="*/edits")
        got, _ = await talk(sandbox, *(REQUEST[place : place + 1] for place in range(len(REQUEST))))
        assert got.startswith(b"HTTP/1.1 200 OK")


async def test_a_request_shorter_than_the_byte_waits_for_more():
    async with Sandbox() as sandbox:
        sandbox.faults.add("reset", at="request", byte=len(REQUEST) + 5)
        assert await talk(sandbox, REQUEST, b"\r\n\r\n\r\n") == (b"", "reset")


@pytest.mark.parametrize("place", ["connect", "request"])
async def test_a_silent_connection_wakes_up_and_answers(place):
    async with Sandbox() as sandbox:
        sandbox.faults.add("stall=0.05", at=place, times=1)
        got, _ = await talk(sandbox, REQUEST)
        assert got.startswith(b"HTTP/1.1 200 OK")


async def test_stopping_breaks_silent_connections():
    sandbox = Sandbox()
    await sandbox.start()
    sandbox.faults.add("stall", at="connect")
    ends = []

    async def wait():
        ends.append(await talk(sandbox, REQUEST))

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await sandbox.wait_until(lambda box: len(box.requests) == 1)
            await sandbox.stop()
    assert ends == [(b"", "reset")]
