"""Chooses who sends: our own transport, the user's client, or the stock transport behind a proxy.

It performs no I/O and makes no TLS context; that waits for the first request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl

    import httpx

    from videorouter.http import Sender


def open_sender(
    *,
    http_client: httpx.AsyncClient | None = None,
    proxy: str | None = None,
    trust_env: bool = True,
    ssl_context: ssl.SSLContext | None = None,
    connect_timeout: float = 10.0,
) -> Sender:
    """Give the sender for a client's settings.

    Args:
        http_client: The user's own client; it is never closed, and every other setting but the timeout is its own.
        proxy: A proxy's URL for every request.
        trust_env: Whether ``HTTP_PROXY``, ``HTTPS_PROXY``, ``ALL_PROXY`` and ``NO_PROXY`` count.
        ssl_context: The TLS context; ``None`` trusts the system's store, else certifi's, and honours ``SSL_CERT_FILE``.
        connect_timeout: Seconds for TCP and TLS together.

    Returns:
        A sender; ``aclose`` it when done.

    Raises:
        ConfigurationError: A proxy's URL, or ``http_client``, cannot be used.
    """
    # Only a client that is made needs httpx: importing this package's names must not cost that.
    if http_client is not None:
        from videorouter.transport.httpx_sender import HttpxSender  # noqa: PLC0415

        return HttpxSender(http_client, connect_timeout=connect_timeout)
    from videorouter.transport.proxies import read_routes  # noqa: PLC0415
    from videorouter.transport.sender import SocketSender  # noqa: PLC0415

    routes = read_routes(proxy, trust_env=trust_env)
    return SocketSender(ssl_context=ssl_context, connect_timeout=connect_timeout, routes=routes)
