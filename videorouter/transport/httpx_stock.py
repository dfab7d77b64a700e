"""httpx's stock transport where ours does not go: proxies, trio, and tests that patch httpcore.

Its pool scans every connection twice a request and loses slots for good when a caller is cancelled at its limit. So
each transport here has one connection and one request at a time, and waits in a free list between them: there is
nothing to scan and nothing to queue, and what was cancelled is thrown away whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
import httpx
from anyio.lowlevel import RunVar

from videorouter.transport.trust import wait_for_context

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator

_MOST_IDLE = 128
_IDLE = 2.0


class StockTransport(httpx.AsyncBaseTransport):
    """A free list of stock transports with one connection each.

    Args:
        proxy: The proxy to go through; ``None`` connects straight.
        ssl_context: Decides about trust; ``None`` is the process's shared one.
    """

    fires_trace = True

    def __init__(self, *, proxy: str | None = None, ssl_context: ssl.SSLContext | None = None) -> None:
        self.proxy = proxy
        self._ssl_context = ssl_context
        self._free: RunVar[list[httpx.AsyncHTTPTransport]] = RunVar(f"videorouter-stock-{id(self)}")

    def _list_free(self) -> list[httpx.AsyncHTTPTransport]:
        free = self._free.get(None)
        if free is None:
            free = []
            self._free.set(free)
        return free

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send on a free transport, or on a new one."""
        free = self._list_free()
        transport = free.pop() if free else await self._make()
        try:
            response = await transport.handle_async_request(request)
        except BaseException:
            await _throw_away(transport)
            raise
        response.stream = _Lent(response.stream, transport, free)  # type: ignore[arg-type]  # an async transport's
        return response

    async def _make(self) -> httpx.AsyncHTTPTransport:
        if self._ssl_context is None:
            self._ssl_context = await anyio.to_thread.run_sync(wait_for_context)
        limits = httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=_IDLE)
        return httpx.AsyncHTTPTransport(verify=self._ssl_context, trust_env=False, limits=limits, proxy=self.proxy)

    async def aclose(self) -> None:
        """Close what is idle."""
        free = self._list_free()
        while free:
            await _throw_away(free.pop())


class _Lent(httpx.AsyncByteStream):
    """A body whose transport goes back to the free list when it was read whole, else is thrown away."""

    def __init__(
        self, stream: httpx.AsyncByteStream, transport: httpx.AsyncHTTPTransport, free: list[httpx.AsyncHTTPTransport]
    ) -> None:
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
            await _throw_away(transport)
            return
        await self._stream.aclose()
        self._free.append(transport)


async def _throw_away(transport: httpx.AsyncHTTPTransport) -> None:
    with anyio.CancelScope(shield=True, deadline=anyio.current_time() + 1.0):
        await transport.aclose()
