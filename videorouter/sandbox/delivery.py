"""How an answer reaches the wire: as it should, or mangled by a fault, byte by byte if need be.

This file knows sockets and aiohttp; it never decides what an answer says.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from videorouter.sandbox.faults import Fault

_MANGLED = {"stall", "reset", "close", "cut", "length", "slow"}


class StoppedError(Exception):
    """The sandbox is being stopped, or the connection was broken on purpose: nothing is left to answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What is to be answered, before any fault.

    Attributes:
        status: HTTP status.
        body: The bytes.
        content_type: Their type.
        headers: Further headers.
    """

    status: int = 200
    body: bytes = b""
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


class Holds:
    """Every wait of the sandbox, so that all of them end at once when it stops.

    Args:
        on_wait: Called when one more begins.
    """

    def __init__(self, on_wait: Callable[[], object] | None = None) -> None:
        self._on_wait = on_wait
        self._futures: set[asyncio.Future[bool]] = set()
        self.stopping: bool = False

    def __len__(self) -> int:
        return len(self._futures)

    async def wait(self, seconds: float | None) -> None:
        """Wait, or for ever when ``seconds`` is ``None``.

        Args:
            seconds: How long.

        Raises:
            StoppedError: The sandbox stopped meanwhile.
        """
        if self.stopping:
            raise StoppedError
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bool] = loop.create_future()
        self._futures.add(future)
        if self._on_wait is not None:
            self._on_wait()
        timer = None
        if seconds is not None and seconds < 1e8:
            timer = loop.call_later(max(0.0, seconds), _finish, future, True)
        try:
            if not await future:
                raise StoppedError
        finally:
            self._futures.discard(future)
            if timer is not None:
                timer.cancel()

    def release(self) -> None:
        """End every wait at once, as if its time had come."""
        for future in list(self._futures):
            _finish(future, True)

    def interrupt(self) -> None:
        """End every wait with ``StoppedError``: the connections are broken."""
        for future in list(self._futures):
            _finish(future, False)

    def stop(self) -> None:
        """End every wait, now and from now on, with ``StoppedError``."""
        self.stopping = True
        self.interrupt()


def _finish(future: asyncio.Future[bool], result: bool) -> None:
    if not future.done():
        future.set_result(result)


def drop(transport: asyncio.BaseTransport | None, *, reset: bool) -> None:
    """Break a connection.

    Args:
        transport: Its transport.
        reset: With a reset instead of an orderly end.
    """
    if transport is None:
        return
    if not reset:
        transport.close()
        return
    peer: socket.socket | None = transport.get_extra_info("socket")
    if peer is not None:
        with contextlib.suppress(OSError):
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if isinstance(transport, asyncio.Transport):
        transport.abort()


async def deliver(request: web.BaseRequest, answer: Answer, fault: Fault | None, holds: Holds) -> web.StreamResponse:
    """Return the response that carries an answer, or send it mangled and raise.

    Args:
        request: The request.
        answer: What to say.
        fault: What goes wrong on the way.
        holds: Where to wait.

    Raises:
        StoppedError: Everything that will be sent has been sent.
    """
    if fault is not None and fault.kind in _MANGLED:
        await _mangle(request, answer, fault, holds)
    return web.Response(
        status=answer.status,
        body=answer.body,
        headers={"Content-Type": answer.content_type, **answer.headers},
    )


async def _mangle(request: web.BaseRequest, answer: Answer, fault: Fault, holds: Holds) -> None:
    transport = request.transport
    if transport is None:
        raise StoppedError
    body = b"" if request.method == "HEAD" else answer.body
    length = len(answer.body)
    cut = length // 2 if fault.byte is None else max(0, fault.byte)
    if fault.kind == "length":
        length = max(0, length + fault.by)
    head = _write_head(answer, length)
    if fault.kind == "slow":
        await _drip(transport, head + body, fault.interval, holds)
        drop(transport, reset=False)
        raise StoppedError
    if fault.kind == "cut":
        sent = head + body[:cut]
    elif fault.kind == "length":
        sent = head + body
    else:
        sent = (head + body)[: (len(head) + cut if fault.byte is None else cut) if fault.at == "answer" else 0]
    if sent:
        transport.write(sent)
        await _flush(transport, holds)
    if fault.kind == "stall":
        await holds.wait(fault.seconds)
        transport.write((head + body)[len(sent) :])
        drop(transport, reset=False)
    else:
        drop(transport, reset=fault.kind == "reset")
    raise StoppedError


def _write_head(answer: Answer, length: int) -> bytes:
    headers = {
        "Content-Type": answer.content_type,
        **answer.headers,
        "Content-Length": str(length),
        "Connection": "close",
    }
    try:
        words = HTTPStatus(answer.status).phrase
    except ValueError:
        words = "Unknown"
    lines = [f"HTTP/1.1 {answer.status} {words}", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


async def _drip(transport: asyncio.Transport, data: bytes, interval: float, holds: Holds) -> None:
    for place in range(len(data)):
        if transport.is_closing():
            raise StoppedError
        transport.write(data[place : place + 1])
        await holds.wait(interval)


async def _flush(transport: asyncio.Transport, holds: Holds) -> None:
    for _ in range(500):
        if transport.is_closing() or not transport.get_write_buffer_size():
            break
        await holds.wait(0.01)
    # What was sent should be read before a reset overtakes it.
    await holds.wait(0.02)
