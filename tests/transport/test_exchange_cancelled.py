"""A request that is cancelled, or runs out of time, while it is half written never becomes whole."""

import asyncio
import contextlib
import socket

import httpx
import pytest

from videorouter.errors import Phase
from videorouter.http import Attempt, WireError, WireFailure
from videorouter.transport.httpx_stock import StockTransport
from videorouter.transport.httpx_transport import VideoTransport
from videorouter.transport.sender import open_sender

from .conftest import ok, post, send

pytestmark = pytest.mark.anyio

# More than the buffers of both sockets hold on any machine: 4 MiB to send and 32 to receive are usual limits.
SIZE = 64 << 20


async def note(_):
    """A hook."""


def open_touched():
    sender = open_sender(trust_env=False)
    sender.client.event_hooks["request"].append(note)
    return sender


SENDERS = {
    "ours": lambda: open_sender(trust_env=False),
    "ours with hooks": open_touched,
    "a client over ours": lambda: open_sender(http_client=httpx.AsyncClient(transport=VideoTransport())),
    "a stock client": lambda: open_sender(http_client=httpx.AsyncClient(trust_env=False)),
    "a stock client with auth": lambda: open_sender(http_client=httpx.AsyncClient(trust_env=False, auth=("a", "b"))),
    "stock transports": lambda: open_sender(http_client=httpx.AsyncClient(transport=StockTransport())),
}


@pytest.fixture(params=SENDERS)
async def any_sender(request):
    sender = SENDERS[request.param]()
    yield sender
    await sender.aclose()
    with contextlib.suppress(AttributeError):
        await sender._client.aclose()


class Slow:
    """A server that has read the head and stopped; ``go_on`` reads all that ever comes and counts it."""

    def __init__(self):
        self.begun = asyncio.Event()
        self.resume = asyncio.Event()
        self.ended = asyncio.Event()
        self.read = 0
        self.whole = False

    async def __call__(self, peer):
        peer.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        await peer.reader.readuntil(b"\r\n\r\n")
        peer.writer.transport.pause_reading()
        self.begun.set()
        await self.resume.wait()
        peer.writer.transport.resume_reading()
        try:
            while piece := await peer.reader.read(1 << 20):
                self.read += len(piece)
            self.whole = self.read >= SIZE
        except ConnectionError:
            pass
        finally:
            self.ended.set()


async def start(serve, sender, *, tls=None, **options):
    slow = Slow()
    server = await serve(slow, tls=tls)
    attempt = Attempt()
    call = asyncio.ensure_future(send(sender, post(server.url, b"x" * SIZE), attempt=attempt, **options))
    await asyncio.wait_for(slow.begun.wait(), 5)
    while attempt.phase is not Phase.SENDING:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)
    return slow, call, attempt


async def test_a_cancelled_post_over_tls_is_aborted_at_once(serve, server_tls, client_tls, monkeypatch):
    monkeypatch.setattr("videorouter.transport.exchange.CANCEL_GRACE", 60.0)
    sender = open_sender(trust_env=False, ssl_context=client_tls)
    slow, call, attempt = await start(serve, sender, tls=server_tls)
    call.cancel()
    slow.resume.set()
    await asyncio.wait((call,), timeout=5)
    assert call.cancelled()
    await asyncio.wait_for(slow.ended.wait(), 5)
    assert not slow.whole
    assert (attempt.phase, attempt.has_left) == (Phase.SENDING, False)
    await sender.aclose()


@pytest.mark.parametrize("order", ["cancelled first", "resumed first"])
async def test_a_cancelled_post_is_aborted_at_once(serve, any_sender, monkeypatch, order):
    monkeypatch.setattr("videorouter.transport.exchange.CANCEL_GRACE", 60.0)
    monkeypatch.setattr("videorouter.transport.httpx_sender.CANCEL_GRACE", 60.0)
    slow, call, attempt = await start(serve, any_sender)
    if order == "cancelled first":
        call.cancel()
        slow.resume.set()
    else:
        slow.resume.set()
        call.cancel()
    await asyncio.wait((call,), timeout=5)
    assert call.cancelled()
    await asyncio.wait_for(slow.ended.wait(), 5)
    assert not slow.whole
    assert (attempt.phase, attempt.has_left) == (Phase.SENDING, False)


async def test_a_post_that_runs_out_of_time_is_aborted(serve, any_sender):
    slow, call, attempt = await start(serve, any_sender, timeout=2.0)
    with pytest.raises(WireError) as caught:
        await call
    slow.resume.set()
    await asyncio.wait_for(slow.ended.wait(), 5)
    assert not slow.whole
    assert caught.value.failure is WireFailure.DEADLINE
    assert (attempt.phase, attempt.has_left) == (Phase.SENDING, False)


async def test_a_large_body_arrives_whole_and_in_order(serve, any_sender):
    body = bytes(range(256)) * 5000
    seen = []

    async def script(peer):
        while request := await peer.request():
            seen.append(request[1])
            await peer.say(ok())

    server = await serve(script)
    for size in (0, 1, 65_536, 65_537, len(body)):
        attempt = Attempt()
        await send(any_sender, post(server.url, body[:size]), attempt=attempt)
        assert (attempt.phase, attempt.half_written) == (Phase.COMPLETE, False)
    assert seen == [body[:size] for size in (0, 1, 65_536, 65_537, len(body))]


async def test_a_body_of_our_own_that_is_cut_off_is_reset(serve, sender):
    """What lies in the kernel's buffer of a request that never becomes whole is not delivered either."""
    ends = []

    async def script(peer):
        await peer.reader.readuntil(b"\r\n\r\n")
        begun.set()
        try:
            while await peer.reader.read(1 << 20):
                await asyncio.sleep(0.05)
            ends.append("closed")
        except ConnectionResetError:
            ends.append("reset")
        ended.set()

    begun, ended = asyncio.Event(), asyncio.Event()
    server = await serve(script)
    call = asyncio.ensure_future(send(sender, post(server.url, b"x" * (64 << 20))))
    await begun.wait()
    call.cancel()
    await asyncio.wait((call,))
    await asyncio.wait_for(ended.wait(), 10)
    assert ends == ["reset"]
