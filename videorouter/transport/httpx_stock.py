"""httpx's stock transport where ours does not go: proxies, trio, and tests that patch httpcore.

Its pool scans every connection twice a request and loses slots for good when a caller is cancelled at its limit. So
each transport here has one connection and one request at a time, and waits in a free list between them: there is
nothing to scan and nothing to queue, and what was cancelled is thrown away whole.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, TypeAlias

import anyio
import anyio.to_thread
import httpx
from anyio.lowlevel import RunVar

from videorouter.threads import run_in_thread
from videorouter.transport.tls import wait_for_context

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator

_MOST_IDLE = 128
IDLE_SECONDS = 2.0
FreeList: TypeAlias = "deque[tuple[float, httpx.AsyncHTTPTransport]]"
"""Idle transports, each with the time since when."""


class StockTransport(httpx.AsyncBaseTransport):
    """A free list of stock transports with one connection each."""

    def __init__(self, *, proxy: str | None = None, ssl_context: ssl.SSLContext | None = None) -> None:
        self.proxy = proxy
        self._ssl_context = ssl_context
        self._free: RunVar[FreeList] = RunVar(f"videorouter-stock-{id(self)}")

    def _find_free(self) -> FreeList:
        free = self._free.get(None)
        if free is None:
            free = deque()
            self._free.set(free)
        return free

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send on a free transport, or on a new one."""
        free = self._find_free()
        transport = free.pop()[1] if free else await self._make()
        opened = _note_opened(request)
        try:
            response = await transport.handle_async_request(request)
        except BaseException:
            await _discard(transport, *opened)
            raise
        response.stream = _PooledBody(response.stream, transport, free)  # type: ignore[arg-type]  # an async transport's
        return response

    async def _make(self) -> httpx.AsyncHTTPTransport:
        context = self._ssl_context
        if context is None:
            context = await run_in_thread(wait_for_context)
        limits = httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=IDLE_SECONDS)
        return httpx.AsyncHTTPTransport(verify=context, trust_env=False, limits=limits, proxy=self.proxy)

    async def aclose(self) -> None:
        """Close what is idle."""
        free = self._find_free()
        while free:
            await _discard(free.pop()[1])


class _PooledBody(httpx.AsyncByteStream):
    """A body whose transport returns to the free list after a complete read, else is discarded."""

    def __init__(self, stream: httpx.AsyncByteStream, transport: httpx.AsyncHTTPTransport, free: FreeList) -> None:
        self._stream = stream
        self._transport: httpx.AsyncHTTPTransport | None = transport
        self._free = free
        self._whole = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._stream:
            yield piece
        self._whole = True

    async def aclose(self) -> None:
        transport, self._transport = self._transport, None
        if transport is None:
            return
        if not self._whole or len(self._free) >= _MOST_IDLE:
            await _discard(self._stream, transport)
            return
        await self._stream.aclose()
        now = anyio.current_time()
        self._free.append((now, transport))
        # Nobody takes those any more: the one that was used last is taken first.
        while now - self._free[0][0] > IDLE_SECONDS:
            await _discard(self._free.popleft()[1])


def _note_opened(request: httpx.Request) -> list[Any]:
    """Return where the connection that a request opens will stand: httpcore forgets one that a SOCKS proxy turns down."""
    opened: list[Any] = []
    tell = request.extensions.get("trace")

    async def trace(event: str, info: dict[str, Any]) -> None:
        if event.endswith("connect_tcp.complete"):
            opened.append(info["return_value"])
        if tell is not None:
            await tell(event, info)

    request.extensions = {**request.extensions, "trace": trace}
    return opened


async def _discard(*open_ones: Any) -> None:
    with anyio.CancelScope(shield=True, deadline=anyio.current_time() + 1.0):
        for one in open_ones:
            await one.aclose()
