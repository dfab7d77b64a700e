"""A file host on a real socket that misbehaves to order."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import struct
from contextlib import asynccontextmanager

import pytest

from videorouter import AsyncVideoRouter, Video


def make_box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), kind) + content


def make_mp4(size: int, *, open_ended: bool = False) -> bytes:
    """Random bytes of exactly ``size`` in the boxes of an MP4 file."""
    head = make_box(b"ftyp", b"isom\0\0\0\0isommp42") + make_box(b"moov", os.urandom(512))
    rest = size - len(head) - 8
    return head + struct.pack(">I4s", 0 if open_ended else rest + 8, b"mdat") + os.urandom(rest)


@dataclasses.dataclass
class Plan:
    """How one request is answered. What is not set is as a good host does it."""

    status: int | None = None
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None
    etag: str | None = '"v1"'
    ranges: bool = True
    if_range: bool = True
    content_range: str | None = None
    length: str | None = "right"
    cut: int | None = None
    stall: int | None = None
    pace: float = 0.0
    endless: bool = False


class FileHost:
    """Answers each request by the next plan, and the rest by ``usual``."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.usual = Plan()
        self.plans: list[Plan] = []
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.sent = 0
        self.grown = asyncio.Event()
        self.release = asyncio.Event()
        self.port = 0

    def url(self, path: str = "/video/otter.mp4", host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    def video(self, path: str = "/video/otter.mp4") -> Video:
        return Video(url=self.url(path), video_id="video_1")

    async def wait_for(self, size: int) -> None:
        """Return when that many bytes of files have left."""
        while self.sent < size:
            self.grown.clear()
            await self.grown.wait()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._answer(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        except RuntimeError:  # so uvloop says that the other side is gone
            if not writer.is_closing():
                raise
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)}
        self.requests.append((lines[0].split(" ")[1], fields))
        plan = self.plans.pop(0) if self.plans else self.usual
        body = self.body if plan.body is None else plan.body
        status, start, headers = plan.status or 200, 0, list(plan.headers)
        asked = fields.get("range")
        fresh = not plan.if_range or fields.get("if-range") == plan.etag
        if asked and plan.status is None and plan.ranges and fresh:
            start = int(asked.removeprefix("bytes=").split("-")[0])
            if start >= len(body):
                status, body = 416, b""
            else:
                status = 206
                headers.append(("Content-Range", plan.content_range or f"bytes {start}-{len(body) - 1}/{len(body)}"))
        payload = body[start:]
        if plan.etag is not None:
            headers.append(("ETag", plan.etag))
        if plan.length == "right":
            headers.append(("Content-Length", str(len(payload))))
        elif plan.length == "chunked":
            headers.append(("Transfer-Encoding", "chunked"))
        elif plan.length is not None:
            headers.append(("Content-Length", plan.length))
        head = f"HTTP/1.1 {status} X\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers) + "\r\n"
        writer.write(head.encode("latin-1"))
        return await self._send(writer, payload, plan)

    async def _send(self, writer: asyncio.StreamWriter, payload: bytes, plan: Plan) -> bool:
        end = len(payload) if plan.cut is None else min(plan.cut, len(payload))
        for at in range(0, end, 65536):
            piece = payload[at : min(at + 65536, end)]
            if plan.stall is not None and at + len(piece) > plan.stall:
                await writer.drain()
                await self.release.wait()
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece) if plan.length == "chunked" else piece)
            await writer.drain()
            self.sent += len(piece)
            self.grown.set()
            if plan.pace:
                await asyncio.sleep(plan.pace)
        while plan.endless:
            writer.write(payload[:65536])
            await writer.drain()
            self.sent += 65536
        if end < len(payload):
            await asyncio.sleep(0.01)
            writer.transport.abort()
            return False
        if plan.length == "chunked":
            writer.write(b"0\r\n\r\n")
        await writer.drain()
        return plan.length in ("right", "chunked")


@asynccontextmanager
async def open_host(body: bytes):
    host = FileHost(body)
    server = await asyncio.start_server(host.serve, "127.0.0.1", 0)
    host.port = server.sockets[0].getsockname()[1]
    try:
        yield host
    finally:
        host.release.set()
        server.close()
        await server.wait_closed()


@pytest.fixture
def opened_host():
    """Opens a file host, for a test with a loop of its own."""
    return open_host


@pytest.fixture
async def host():
    """A file host with two MiB of video."""
    async with open_host(make_mp4(2 * 2**20 + 12345)) as opened:
        yield opened


@pytest.fixture
async def router(host):
    """A client of a gateway on this machine, so that files may lie on this machine, too."""
    async with AsyncVideoRouter("test-key", base_url=host.url("/v1")) as client:
        yield client


@pytest.fixture
def plan():
    """How to answer a request."""
    return Plan


@pytest.fixture
def mp4():
    """Makes MP4 bytes of a size."""
    return make_mp4
