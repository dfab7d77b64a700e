"""Chooses who sends: the user's own client, or ``SocketSender``, which chooses the way of each request.

The short way skips httpx and goes straight to our own connections. Where an ``httpx.AsyncClient`` over them was touched
(hooks, auth, mounts, cookies) or its methods are replaced, requests go through that client. Proxies, trio and mocks below
httpx get httpx's own transport.
"""

from __future__ import annotations

import http.cookiejar
import sys
from typing import TYPE_CHECKING

import httpx

from videorouter.loops import running_loop
from videorouter.transport.dialing import resolve_name
from videorouter.transport.exchange import Exchanger
from videorouter.transport.httpx_sender import HttpxSender
from videorouter.transport.httpx_stock import StockTransport, is_client_patched, is_transport_patched
from videorouter.transport.httpx_transport import VideoTransport
from videorouter.transport.proxies import Route, choose_proxy, read_routes

if TYPE_CHECKING:
    import ssl

    from videorouter.http import Attempt, Request, Response, ResponseStream, Sender


class SocketSender:
    """A ``Sender`` over connections of our own.

    Args:
        ssl_context: Decides about trust; ``None`` is the process's shared one.
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
        self._exchanger = Exchanger(ssl_context=ssl_context, connect_timeout=connect_timeout)
        self._ssl_context = ssl_context
        self._connect_timeout = connect_timeout
        self._routes = routes
        self._client: httpx.AsyncClient | None = None
        self._client_sender: HttpxSender | None = None
        self._stock_senders: dict[str | None, HttpxSender] = {}

    @property
    def client(self) -> httpx.AsyncClient:
        """The ``httpx.AsyncClient`` over our transport; what is set on it (hooks, auth, mounts) counts from then on."""
        if self._client is None:
            self._client = _open_client(VideoTransport(exchanger=self._exchanger))
        return self._client

    @property
    def connections(self) -> int:
        """Connections of our own that are open, idle ones included."""
        return self._exchanger.pools.count()

    async def send(self, request: Request, attempt: Attempt, *, deadline: float, max_body: int) -> Response:
        """Send once and read the whole response; see ``Sender.send``."""
        httpx_sender = self._find_httpx_sender(request.url)
        if httpx_sender is None:
            return await self._exchanger.exchange(request, attempt, deadline=deadline, max_body=max_body)
        return await httpx_sender.send(request, attempt, deadline=deadline, max_body=max_body)

    async def stream(
        self, request: Request, attempt: Attempt, *, deadline: float, stall: float, addresses: tuple[str, ...] = ()
    ) -> ResponseStream:
        """Send once and return as soon as the head is in; see ``Sender.stream``."""
        httpx_sender = self._find_httpx_sender(request.url)
        sender = self._exchanger.open if httpx_sender is None else httpx_sender.stream
        return await sender(request, attempt, deadline=deadline, stall=stall, addresses=addresses)

    async def resolve(self, url: str, *, deadline: float) -> tuple[str, ...]:
        """The addresses that ``stream`` would connect to; none where a proxy or a mock stands in between."""
        httpx_sender = self._find_httpx_sender(url)
        if httpx_sender is None:
            return await resolve_name(url, deadline=deadline)
        return await httpx_sender.resolve(url, deadline=deadline)

    def _find_httpx_sender(self, url: str) -> HttpxSender | None:
        """The way through httpx; ``None`` when nobody has a hand in it and the short way will do."""
        if is_client_patched() or (self._client is not None and _is_touched(self._client)):
            if self._client_sender is None:
                self._client_sender = HttpxSender(self.client, connect_timeout=self._connect_timeout)
            return self._client_sender
        proxy = choose_proxy(self._routes, url) if self._routes else None
        if proxy is not None or is_transport_patched() or not _can_watch_sockets():
            return self._find_stock_sender(proxy)
        return None

    def _find_stock_sender(self, proxy: str | None) -> HttpxSender:
        sender = self._stock_senders.get(proxy)
        if sender is None:
            client = _open_client(StockTransport(proxy=proxy, ssl_context=self._ssl_context))
            sender = self._stock_senders[proxy] = HttpxSender(client, connect_timeout=self._connect_timeout)
        return sender

    async def aclose(self) -> None:
        """Abort what runs and close what is idle. Idempotent."""
        self._exchanger.pools.close()
        for sender in self._stock_senders.values():
            await sender.close_client()


def _open_client(transport: httpx.AsyncBaseTransport) -> httpx.AsyncClient:
    client = httpx.AsyncClient(transport=transport, trust_env=False)
    client.headers.clear()
    # A gateway's cookies are nobody's business here, and a jar would grow.
    client.cookies.jar.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=()))
    return client


def _is_touched(client: httpx.AsyncClient) -> bool:
    hooks = client._event_hooks  # noqa: SLF001 - the public property copies them for every look
    return bool(
        hooks["request"]
        or hooks["response"]
        or client._auth is not None  # noqa: SLF001 - as above
        or client._mounts  # noqa: SLF001 - there is no public way
        or client.headers
        or len(client.cookies.jar)
    )


def _can_watch_sockets() -> bool:
    """Whether an asyncio loop runs that can watch sockets: trio and the proactor of Windows cannot."""
    loop = running_loop()
    return loop is not None and (sys.platform != "win32" or hasattr(loop, "_selector"))


def open_sender(
    *,
    http_client: httpx.AsyncClient | None = None,
    proxy: str | None = None,
    trust_env: bool = True,
    ssl_context: ssl.SSLContext | None = None,
    connect_timeout: float = 10.0,
) -> Sender:
    """The sender for a client's settings; of a user's own ``http_client`` all others but the timeout are its own.

    Raises:
        ConfigurationError: A proxy's URL, or ``http_client``, cannot be used.
    """
    if http_client is not None:
        return HttpxSender(http_client, connect_timeout=connect_timeout)
    routes = read_routes(proxy, trust_env=trust_env)
    return SocketSender(ssl_context=ssl_context, connect_timeout=connect_timeout, routes=routes)
