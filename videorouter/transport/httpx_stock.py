"""httpx's stock transport where ours does not go: proxies, trio, and tests that patch httpcore.

Its pool scans every connection twice a request and loses slots for good when a caller is cancelled at its limit. So
each transport here has one connection and one request at a time, and waits in a free list between them: there is
nothing to scan and nothing to queue, and what was cancelled is thrown away whole.

It also notices mocks. respx, pytest-httpx, recorders and tracers patch httpx or httpcore. A test suite that mocks HTTP
must not reach the network, and somebody's money, because this package sends by another way. So whenever a method of
httpx is not the one that its own file defines, requests take the way that leads through that method. Nothing is
patched here.
"""

from __future__ import annotations

import operator
import sys
from collections import deque
from typing import TYPE_CHECKING, Any, TypeAlias

import anyio
import anyio.to_thread
import httpx
from anyio.lowlevel import RunVar

from videorouter.transport.tls import wait_for_context

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Callable

_MOST_IDLE = 128
IDLE_SECONDS = 2.0
FreeList: TypeAlias = "deque[tuple[float, httpx.AsyncHTTPTransport]]"
"""Idle transports, each with the time since when."""
_CORE = "httpcore._async.connection_pool"


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
        try:
            response = await transport.handle_async_request(request)
        except BaseException:
            await _discard(transport)
            raise
        response.stream = _PooledBody(response.stream, transport, free)  # type: ignore[arg-type]  # an async transport's
        return response

    async def _make(self) -> httpx.AsyncHTTPTransport:
        context = self._ssl_context
        if context is None:
            context = await anyio.to_thread.run_sync(wait_for_context)
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


async def _discard(*open_ones: httpx.AsyncByteStream | httpx.AsyncHTTPTransport) -> None:
    with anyio.CancelScope(shield=True, deadline=anyio.current_time() + 1.0):
        for one in open_ones:
            await one.aclose()


class _Patches:
    """Methods of one class that a mock may replace, and whether they are still the original ones."""

    __slots__ = ("_genuine", "_names", "_owner", "_read")

    def __init__(self, owner: Any, *names: str) -> None:
        self._owner = owner
        self._names = names
        self._read: Callable[[object], object] = operator.attrgetter(*names)
        self._genuine: object = None

    def is_patched(self) -> bool:
        """Whether one is replaced. This runs for each request, so that methods found genuine are only compared."""
        methods = self._read(self._owner)
        if methods == self._genuine:
            return False
        if any(map(self._differs, self._names)):
            return True
        self._genuine = methods
        return False

    def _differs(self, name: str) -> bool:
        method = getattr(self._owner, name)
        code = getattr(method, "__code__", None)
        if code is None or hasattr(method, "__wrapped__"):
            return True
        # The module may have been loaded while a mock was already in place: only the file can tell.
        return bool(code.co_filename != self._owner.__aenter__.__code__.co_filename)


is_client_patched: Callable[[], bool] = _Patches(httpx.AsyncClient, "send", "_transport_for_url").is_patched
"""Whether a method of ``httpx.AsyncClient`` is replaced: send through a client, over our own transport."""
_transport = _Patches(httpx.AsyncHTTPTransport, "handle_async_request")
_core: list[_Patches] = []


def is_transport_patched() -> bool:
    """Whether the stock transport, or httpcore below it, is replaced: send through the stock transport."""
    if _transport.is_patched():
        return True
    if not _core:
        module = sys.modules.get(_CORE)
        if module is None:
            return False
        _core.append(_Patches(module.AsyncConnectionPool, "handle_async_request"))
    return _core[0].is_patched()


def is_mocked() -> bool:
    """Whether respx intercepts requests right now: then connect errors mean what they say."""
    mocks = sys.modules.get("respx.mocks")
    if mocks is None:
        return False
    return any(mocker._patches for mocker in mocks.Mocker.registry.values())  # noqa: SLF001 - respx has no public way
