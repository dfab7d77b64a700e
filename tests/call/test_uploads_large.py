"""A large upload holds up nobody and lies in memory once."""

import asyncio
import contextlib
import json
import socket
import ssl
import threading
import time
import tracemalloc

import httpx
import pytest
import trustme
from calling import KEY

from videorouter import AsyncVideoRouter

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

SIZE = 96 * 2**20
ACTIVE = json.dumps({"data": {"id": 7, "upstream_status": "Active", "gcs_url": "https://cdn.example/v.mp4"}}).encode()
LEAST_STALL = 0.020
"""Seconds of its own CPU time that the loop may be held up: the figure of the project."""


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    with path.open("wb") as file:
        file.write(b"\0\0\0\x18ftypisom\0\0\0\0isomiso2")
        for _ in range(SIZE // 2**20):
            file.write(bytes(range(256)) * 4096)
    return path


class Sink(threading.Thread):
    """A server in a thread of its own that swallows one upload and says that it may be used."""

    def __init__(self, tls=None):
        super().__init__(daemon=True)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.tls = tls
        self.received = 0
        self.length = None
        self.start()

    def run(self):
        with contextlib.suppress(OSError):
            while True:
                peer, _ = self.listener.accept()
                with peer if self.tls is None else self.tls.wrap_socket(peer, server_side=True) as sock:
                    self.serve(sock)

    def serve(self, sock):
        buffer = bytearray(2**20)
        got = b""
        while b"\r\n\r\n" not in got:
            got += sock.recv(65_536)
        head, _, rest = got.partition(b"\r\n\r\n")
        self.length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        self.received = len(rest)
        while self.received < self.length and (count := sock.recv_into(buffer)):
            self.received += count
        sock.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(ACTIVE), ACTIVE))


@contextlib.contextmanager
def watching():
    """Measure the longest stretch of the loop's own CPU time between two of its turns."""
    stretches = [0.0]
    over = False

    async def tick():
        last = time.thread_time()
        while not over:
            await asyncio.sleep(0)
            now = time.thread_time()
            stretches.append(now - last)
            last = now

    task = asyncio.ensure_future(tick())
    try:
        yield stretches
    finally:
        over = True
        task.cancel()


async def note(_):
    """A hook."""


@contextlib.asynccontextmanager
async def opening(kind):
    authority = trustme.CA()
    tls = None
    options = {}
    if kind == "TLS":
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("127.0.0.1").configure_cert(tls)
        options["ssl_context"] = ssl.create_default_context()
        authority.configure_trust(options["ssl_context"])
    sink = Sink(tls)
    base = f"{'http' if tls is None else 'https'}://127.0.0.1:{sink.port}/v1"
    async with contextlib.AsyncExitStack() as stack:
        if kind == "stock client":
            options["http_client"] = await stack.enter_async_context(httpx.AsyncClient(trust_env=False))
        router = await stack.enter_async_context(AsyncVideoRouter(KEY, base_url=base, **options))
        if kind == "hooks on ours":
            router.http_client.event_hooks["request"].append(note)
        stack.callback(sink.listener.close)
        yield sink, router


KINDS = ["plain", "TLS", "hooks on ours", "stock client"]


@pytest.mark.parametrize("kind", KINDS)
async def test_the_loop_is_held_up_by_no_upload(kind, film):
    async with opening(kind) as (sink, router):
        await asyncio.sleep(0.1)
        with watching() as stretches:
            asset = await router.upload(film, model="veo", timeout=100)
        assert asset.url == "https://cdn.example/v.mp4"
        assert sink.received == sink.length > SIZE
        assert max(stretches) < LEAST_STALL


@pytest.mark.parametrize("kind", KINDS)
async def test_an_upload_lies_in_memory_once(kind, film):
    async with opening(kind) as (sink, router):
        tracemalloc.start()
        try:
            await router.upload(film, model="veo", timeout=100)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert sink.received == sink.length
        assert peak < 1.25 * SIZE
