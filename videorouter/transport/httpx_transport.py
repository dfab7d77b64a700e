"""Our transport as httpx sees it: for a client with hooks, auth or mounts, and for anybody's ``httpx.AsyncClient``."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import httpx

from videorouter.errors import Phase
from videorouter.http import Attempt, Request, WireError, WireFailure
from videorouter.transport.exchange import Exchanger
from videorouter.transport.httpx_stock import StockTransport, is_transport_patched

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator

    from videorouter.transport.exchange import BodyStream

EXTENSION = "videorouter"
"""The request extension by which a sender of this package hands its attempt, deadline and addresses through httpx."""

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

    HTTP/1.1 only, asyncio only. Connections are kept by event loop, so that one object works in several.

    Args:
        ssl_context: Decides about trust; ``None`` trusts the system's store, else certifi's.
        connect_timeout: Seconds for name, TCP and TLS together.
        exchanger: Shares the connections of another transport; the other arguments are then its own.
    """

    def __init__(
        self,
        *,
        ssl_context: ssl.SSLContext | None = None,
        connect_timeout: float = 10.0,
        exchanger: Exchanger | None = None,
    ) -> None:
        self.exchanger: Exchanger = exchanger or Exchanger(ssl_context=ssl_context, connect_timeout=connect_timeout)
        self._stock: StockTransport | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send once; the body of the answer is read as the caller asks for it."""
        if is_transport_patched():
            # A mock below httpx's own transport means us too.
            self._stock = self._stock or StockTransport()
            return await self._stock.handle_async_request(request)
        extension: dict[str, Any] = request.extensions.get(EXTENSION) or {}
        timeouts: dict[str, float | None] = request.extensions.get("timeout") or {}
        attempt = extension.get("attempt") or Attempt()
        attempt.begin(Phase.QUEUED)
        read = timeouts.get("read")
        deadline = extension.get("deadline") or time.monotonic() + _DAY
        body = await request.aread()
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
        if self._stock is not None:
            await self._stock.aclose()


class _Body(httpx.AsyncByteStream):
    def __init__(self, stream: BodyStream, request: httpx.Request) -> None:
        self._stream = stream
        self._request = request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for piece in self._stream.chunks():
                yield piece
        except WireError as error:
            raise _translate(error, self._request) from error

    async def aclose(self) -> None:
        await self._stream.aclose()


def _translate(error: WireError, request: httpx.Request) -> httpx.TransportError:
    return _ERRORS.get(error.failure, httpx.ConnectError)(error.message, request=request)
