"""A scripted server on a real socket: a test says, connection by connection, which bytes come when."""

import asyncio
import contextlib
import socket
import ssl
import struct
import time

import pytest
import trustme

from videorouter.http import Attempt, Request
from videorouter.transport.sender import open_sender

ANSWER = b'{"data":[{"url":"https://resource.example/v.mp4","video_id":"video_1"}]}'


def ok(body=ANSWER, *fields):
    head = b"".join(field + b"\r\n" for field in fields)
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n%bContent-Length: %d\r\n\r\n%b" % (
        head,
        len(body),
        body,
    )


class Peer:
    """The server's side of one connection."""

    def __init__(self, reader, writer, number):
        self.reader = reader
        self.writer = writer
        self.number = number

    async def request(self):
        """One whole request, head and body; ``None`` at the end of the connection."""
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        length = 0
        for line in head.split(b"\r\n"):
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        body = await self.reader.readexactly(length)
        return head, body

    async def say(self, data):
        self.writer.write(data)
        await self.writer.drain()

    def close(self):
        self.writer.close()

    def reset(self):
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def gone(self):
        """Wait until the client has closed."""
        with contextlib.suppress(ConnectionError):
            await self.reader.read()


class Server:
    """Counts connections and requests; ``script(peer)`` says what each connection does."""

    def __init__(self, script, tls=None, host="127.0.0.1"):
        self.script = script
        self.tls = tls
        self.host = host
        self.connections = 0
        self.requests = []
        self.peers = set()

    async def start(self):
        self._server = await asyncio.start_server(self._serve, self.host, 0, ssl=self.tls, backlog=4096)
        self.port = self._server.sockets[0].getsockname()[1]
        name = f"[{self.host}]" if ":" in self.host else self.host
        self.url = f"{'https' if self.tls else 'http'}://{name}:{self.port}"
        return self

    async def _serve(self, reader, writer):
        self.connections += 1
        peer = Peer(reader, writer, self.connections)
        task = asyncio.current_task()
        self.peers.add(task)
        try:
            await self.script(peer)
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError, asyncio.CancelledError):
            pass
        finally:
            self.peers.discard(task)
            writer.close()

    async def stop(self):
        self._server.close()
        for task in list(self.peers):
            task.cancel()
        await asyncio.gather(*list(self.peers), return_exceptions=True)


@pytest.fixture
async def serve():
    """Starts scripted servers and stops them at the end of the test."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(script, **options):
            server = await Server(script, **options).start()
            stack.push_async_callback(server.stop)
            return server

        yield start


@pytest.fixture
async def sender():
    sender = open_sender(trust_env=False)
    yield sender
    await sender.aclose()


@pytest.fixture(scope="session")
def authority():
    return trustme.CA()


@pytest.fixture(scope="session")
def server_tls(authority):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost", "127.0.0.1", "::1").configure_cert(context)
    return context


@pytest.fixture(scope="session")
def client_tls(authority):
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def post(url, body=b'{"prompt":"otter"}', *headers):
    return Request(
        method="POST",
        url=url + "/v1/videos/generations",
        headers=((b"Content-Type", b"application/json"), *headers),
        body=body,
    )


def get(url, path="/v1/models"):
    return Request(method="GET", url=url + path, headers=((b"Accept", b"*/*"),))


async def send(sender, request, *, timeout=10.0, max_body=4 << 20, attempt=None):
    return await sender.send(request, attempt or Attempt(), deadline=time.monotonic() + timeout, max_body=max_body)


async def answer_all(peer):
    """The plainest server: every request gets the same answer."""
    while await peer.request():
        await peer.say(ok())


@pytest.fixture
def free_port():
    """A port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


@pytest.fixture
def full_backlog():
    """A server that takes no more connections: its queue is full, and a connect hangs."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.socket())
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(server.getsockname())
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
