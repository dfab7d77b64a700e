"""A scripted gateway on a real socket, with a ledger: what arrived whole, and what was therefore charged.

A script says, request by request, what happens. The last step goes on for ever. Each step is a coroutine function of
one ``Visit``; the functions below make the usual ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import ssl

VIDEO = {"data": [{"url": "https://resource.example/v.mp4", "video_id": "video_1"}], "created": 1}
BODY = json.dumps(VIDEO).encode()


class Request:
    """A request that arrived whole."""

    def __init__(self, head: bytes, body: bytes) -> None:
        self.head = head
        self.body = body
        line, _, rest = head.partition(b"\r\n")
        self.method, self.path, _ = line.decode().split(" ", 2)
        self.headers = {}
        for field in rest.split(b"\r\n"):
            name, _, value = field.partition(b":")
            if name:
                self.headers[name.decode().lower()] = value.strip().decode("latin-1")


class Visit:
    """One connection, while a script acts on it."""

    def __init__(self, server, reader, writer) -> None:
        self.server = server
        self.reader = reader
        self.writer = writer
        self.first = b""

    async def wait(self) -> bool:
        """Wait for the first byte of a request: an idle connection takes no step of the script."""
        self.first = await self.reader.read(1)
        return bool(self.first)

    async def read_head(self) -> bytes:
        return self.first + await self.reader.readuntil(b"\r\n\r\n")

    async def read(self) -> Request:
        """The whole request; it goes into the ledger."""
        head = await self.read_head()
        length = 0
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        request = Request(head[:-4], await self.reader.readexactly(length))
        self.server.requests.append(request)
        return request

    async def say(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def reset(self) -> None:
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    def close(self) -> None:
        self.writer.close()


class Gateway:
    """The server. ``posts`` is what arrived whole; ``charged`` the bodies that a real gateway would have billed."""

    def __init__(self, *steps, port: int = 0, ssl_context: ssl.SSLContext | None = None) -> None:
        self.steps = list(steps)
        self.port = port
        self.ssl_context = ssl_context
        self.requests: list[Request] = []
        self.connections = 0
        self.tasks: set[asyncio.Task[None]] = set()
        self.transports: set[asyncio.BaseTransport] = set()

    @property
    def posts(self) -> list[Request]:
        return [request for request in self.requests if request.method == "POST"]

    @property
    def gets(self) -> list[Request]:
        return [request for request in self.requests if request.method == "GET"]

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(
            self._visit, "127.0.0.1", self.port, limit=2**20, ssl=self.ssl_context
        )
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"{'https' if self.ssl_context else 'http'}://127.0.0.1:{self.port}/v1"
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        for task in tuple(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        for transport in self.transports:
            transport.abort()
        # An aborted transport closes its socket in the loop's next turns.
        for _ in range(3):
            await asyncio.sleep(0)

    def _visit(self, reader, writer) -> None:
        self.connections += 1
        self.transports.add(writer.transport)
        task = asyncio.create_task(self._serve(Visit(self, reader, writer)))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _serve(self, visit: Visit) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while not visit.writer.is_closing() and await visit.wait():
                step = self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]
                await step(visit)
        visit.writer.transport.abort()


def write_answer(status: int, body: bytes, *fields: str) -> bytes:
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", "Content-Type: application/json", *fields]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def answer(status: int = 200, body: object = None, *fields: str):
    """Read the request, answer it."""
    if body is None:
        body = BODY if status == 200 else {"error": {"message": f"says {status}"}}
    data = body if isinstance(body, bytes) else json.dumps(body).encode()

    async def step(visit: Visit) -> None:
        await visit.read()
        await visit.say(write_answer(status, data, "x-infron-request-id: req-1", *fields))

    return step


def raw(*pieces: bytes, every: float = 0.0, then: str = "close"):
    """Read the request, then write bytes as they are; ``then``: close, reset or hold."""

    async def step(visit: Visit) -> None:
        await visit.read()
        for piece in pieces:
            await visit.say(piece)
            await asyncio.sleep(every)
        await end(visit, then)

    return step


async def end(visit: Visit, then: str) -> None:
    if then == "hold":
        await asyncio.Event().wait()
    elif then == "reset":
        visit.reset()
    else:
        visit.close()


def reset_unread():
    """Reset without reading a byte; the client may have written everything."""

    async def step(visit: Visit) -> None:
        visit.reset()

    return step


def reset_midway():
    """Read the head, then reset."""

    async def step(visit: Visit) -> None:
        await visit.read_head()
        visit.reset()

    return step


def lose(then: str = "reset"):
    """Read the whole request, answer nothing."""

    async def step(visit: Visit) -> None:
        await visit.read()
        await end(visit, then)

    return step


def stop_reading():
    """Never read the body: a large one cannot be written whole. Reset after a moment."""

    async def step(visit: Visit) -> None:
        visit.writer.transport.pause_reading()
        await asyncio.sleep(0.1)
        visit.reset()

    return step


def task_accepted(task_id: str = "t-1", **more: object):
    return answer(200, {"code": 200, "data": {"task_id": task_id, "status": "created", **more}})


async def until(condition) -> None:
    """Let the loop run until something has happened."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


def find_dead_port() -> int:
    """A port of loopback where nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]
