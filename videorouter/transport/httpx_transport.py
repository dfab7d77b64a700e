"""Our transport for httpx clients: those with hooks, auth or mounts, and any user's ``httpx.AsyncClient``.

Proxies, trio and mocks below httpx need httpx's own transport: those requests are passed to it.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import httpx

from videorouter.errors import Phase
from videorouter.http import Attempt, Request, WireError, WireFailure
from videorouter.loops import running_loop
from videorouter.transport.exchange import Exchanger
from videorouter.transport.httpx_api import OWN, RequestBody
from videorouter.transport.httpx_stock import StockTransport
from videorouter.transport.proxies import Route, choose_proxy

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator

    from videorouter.transport.exchange import BodyStream

EXTENSION = "videorouter"
"""The request extension by which a sender of this package hands its attempt, deadline and addresses through httpx."""

_WINDOWS = sys.platform == "win32"
_DAY = 86_400.0
_ERRORS: dict[WireFailure, type[httpx.TransportError]] = {
    WireFailure.CONNECT_TIMEOUT: httpx.ConnectTimeout,
    WireFailure.DEADLINE: httpx.ReadTimeout,
    WireFailure.STALLED: httpx.ReadTimeout,
    WireFailure.WRITE_FAILED: httpx.WriteError,
    WireFailure.RESET: httpx.ReadError,
    WireFailure.BODY_CUT: httpx.RemoteProtocolError,
    WireFailure.PROTOCOL: httpx.RemoteProtocolError,
    WireFailure.TOO_LARGE: httpx.RemoteProtocolError,
    WireFailure.CLOSED: httpx.ReadError,
}


class VideoTransport(httpx.AsyncBaseTransport):
    """An ``httpx.AsyncBaseTransport`` for calls that are held for minutes, thousands at a time.

    HTTP/1.1 only. Connections are kept by event loop, so that one object works in several.

    Args:
        ssl_context: Decides about trust; ``None`` trusts the system's store, else certifi's.
        connect_timeout: Seconds for name, TCP and TLS together.
        routes: Which hosts are reached through which proxy.
    """

    def __init__(
        self,
        *,
        ssl_context: ssl.SSLContext | None = None,
        connect_timeout: float = 10.0,
        routes: tuple[Route, ...] = (),
    ) -> None:
        self.exchanger: Exchanger = Exchanger(ssl_context=ssl_context, connect_timeout=connect_timeout)
        self._ssl_context = ssl_context
        self._routes = routes
        self._stocks: dict[str | None, StockTransport] = {}

    def find_stock(self, url: str) -> StockTransport | None:
        """Return httpx's transport for a URL; ``None`` where our own connections are used."""
        proxy = choose_proxy(self._routes, url) if self._routes else None
        loop = running_loop()
        # trio and the proactor of Windows cannot watch sockets.
        watches = loop is not None and (not _WINDOWS or hasattr(loop, "_selector"))
        # A mock below httpx's own transport means us too.
        if proxy is None and watches and not OWN.is_transport_patched():
            return None
        stock = self._stocks.get(proxy)
        if stock is None:
            stock = self._stocks[proxy] = StockTransport(proxy=proxy, ssl_context=self._ssl_context)
        return stock

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send once; the body of the answer is read as the caller asks for it."""
        stock = self.find_stock(str(request.url))
        if stock is not None:
            return await stock.handle_async_request(request)
        extension: dict[str, Any] = request.extensions.get(EXTENSION) or {}
        timeouts: dict[str, float | None] = request.extensions.get("timeout") or {}
        attempt = extension.get("attempt") or Attempt()
        attempt.begin(Phase.QUEUED)
        read = timeouts.get("read")
        deadline = extension.get("deadline") or time.monotonic() + _DAY
        body = request.stream.body if isinstance(request.stream, RequestBody) else await request.aread()
        sent = Request(
            method=request.method,
            url=str(request.url),
            headers=tuple(request.headers.raw),
            body=body if body or "content-length" in request.headers else None,
        )
        stall = _DAY if read is None else read
        try:
            stream = await self.exchanger.open(
                sent,
                attempt,
                deadline=deadline,
                stall=stall,
                head_within=stall,
                addresses=extension.get("addresses", ()),
            )
        except WireError as error:
            raise _translate(error, request) from error
        return httpx.Response(
            stream.status,
            headers=list(stream.headers),
            stream=_Body(stream, request),
            extensions={"http_version": b"HTTP/1.1"},
        )

    async def aclose(self) -> None:
        """Abort what runs and close what is idle."""
        self.exchanger.pools.close()
        for stock in self._stocks.values():
            await stock.aclose()


class _Body(httpx.AsyncByteStream):
    def __init__(self, stream: BodyStream, request: httpx.Request) -> None:
        self._stream = stream
        self._request = request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for piece in self._stream.chunks():
                yield bytes(piece)
        except WireError as error:
            raise _translate(error, self._request) from error

    async def aclose(self) -> None:
        await self._stream.aclose()


def _translate(error: WireError, request: httpx.Request) -> httpx.TransportError:
    return _ERRORS.get(error.failure, httpx.ConnectError)(error.message, request=request)
