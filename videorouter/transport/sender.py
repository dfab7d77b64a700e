"""Chooses who sends: the user's own client, or the default sender, which chooses a path for each request.

The default sender uses our own connections directly. Where the user has set something on its ``httpx.AsyncClient``
(hooks, auth, mounts, headers, cookies) or has patched httpx, it goes through that client, over the same connections.
Proxies, trio and mocks below httpx need that client, too.
"""

from __future__ import annotations

import concurrent.futures.thread  # noqa: F401  as anyio's below
import http.cookiejar
from typing import TYPE_CHECKING

import anyio._backends._asyncio  # noqa: F401  else loaded in the first call, where no file descriptor may be left
import httpx

from videorouter.errors import ConfigurationError
from videorouter.http import WireError
from videorouter.transport.dialing import resolve_name
from videorouter.transport.httpx_api import OWN
from videorouter.transport.httpx_sender import HttpxSender
from videorouter.transport.httpx_transport import VideoTransport
from videorouter.transport.proxies import Route, choose_proxy, read_routes

if TYPE_CHECKING:
    import ssl
    import urllib.request
    from collections.abc import Iterable

    from videorouter.http import Attempt, HTTPClient, Request, Response, ResponseStream


class SocketSender:
    """A ``Sender`` over connections of our own; ``connect_timeout`` is for name, TCP and TLS together."""

    def __init__(
        self,
        *,
        ssl_context: ssl.SSLContext | None = None,
        connect_timeout: float = 10.0,
        routes: tuple[Route, ...] = (),
    ) -> None:
        self._transport = VideoTransport(ssl_context=ssl_context, connect_timeout=connect_timeout, routes=routes)
        self._exchanger = self._transport.exchanger
        self._connect_timeout = connect_timeout
        self._client: httpx.AsyncClient | None = None
        self._client_sender: HttpxSender | None = None

    @property
    def client(self) -> httpx.AsyncClient:
        """The ``httpx.AsyncClient`` over our transport; changes to it take effect from then on."""
        if self._client is None:
            self._client = _open_client(self._transport)
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
        """Return the addresses that ``stream`` would connect to; none behind a proxy or a mock."""
        httpx_sender = self._find_httpx_sender(url)
        if httpx_sender is None:
            return await resolve_name(url, deadline=deadline)
        return await httpx_sender.resolve(url, deadline=deadline)

    def _find_httpx_sender(self, url: str) -> HttpxSender | None:
        """Return the path through httpx; ``None`` when neither the user nor a patch changed httpx."""
        client = self._client
        touched = client is not None and _is_touched(client, self._transport)
        if not touched and not OWN.is_client_patched() and self._transport.find_stock(url) is None:
            return None
        if self._client_sender is None:
            self._client_sender = HttpxSender(self.client, connect_timeout=self._connect_timeout)
        return self._client_sender

    async def aclose(self) -> None:
        """Abort what runs and close what is idle. Idempotent."""
        if self._client_sender is not None:
            await self._client_sender.aclose()
        await (self._transport if self._client is None else self._client).aclose()


class _ReadOnlyCookies(http.cookiejar.DefaultCookiePolicy):
    """Sends the cookies that the user has set and stores none of a server: the jar would grow."""

    def set_ok(self, cookie: http.cookiejar.Cookie, request: urllib.request.Request) -> bool:
        del cookie, request
        return False


def _open_client(transport: httpx.AsyncBaseTransport) -> httpx.AsyncClient:
    client = httpx.AsyncClient(transport=transport, trust_env=False)
    client.headers.clear()
    client.cookies.jar.set_policy(_ReadOnlyCookies())
    return client


def _is_touched(client: httpx.AsyncClient, transport: VideoTransport) -> bool:
    # Private names: the public ones copy what they give, or there are none.
    hooks = client._event_hooks  # noqa: SLF001 - see above
    return bool(
        hooks["request"]
        or hooks["response"]
        or client._auth is not None  # noqa: SLF001 - see above
        or client._mounts  # noqa: SLF001 - see above
        or client._transport is not transport  # noqa: SLF001 - see above
        or client.headers
        or client.params
        or len(client.cookies.jar)
        or "send" in vars(client)
    )


def open_sender(
    *,
    http_client: HTTPClient | None = None,
    proxy: str | None = None,
    trust_env: bool = True,
    ssl_context: ssl.SSLContext | None = None,
    connect_timeout: float = 10.0,
    urls: Iterable[str] = (),
) -> HttpxSender | SocketSender:
    """Make the sender for a client's settings; a user's own ``http_client`` keeps all its settings but the timeout.

    Raises ``ConfigurationError`` when the proxy of one of ``urls`` cannot be used.
    """
    if http_client is not None:
        return HttpxSender(http_client, connect_timeout=connect_timeout)
    routes = read_routes(proxy, trust_env=trust_env)
    try:
        for url in urls:
            choose_proxy(routes, url)
    except WireError as error:
        raise ConfigurationError(f"{error.message}. Nothing was sent.") from error
    return SocketSender(ssl_context=ssl_context, connect_timeout=connect_timeout, routes=routes)
