"""Chooses who sends: our own transport, the user's client, or the stock transport behind a proxy.

It performs no I/O and makes no TLS context; that waits for the first request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx

from videorouter.io.transport.borrowed import ClientSender

if TYPE_CHECKING:
    import ssl

    from videorouter.io.transport.seam import Sender


def open_sender(
    *,
    http_client: httpx.AsyncClient | None = None,
    proxy: str | None = None,
    trust_env: bool = True,
    ssl_context: ssl.SSLContext | None = None,
    max_connections: int | None = None,
    connect_timeout: float = 10.0,
) -> Sender:
    """Give the sender for a client's settings.

    Args:
        http_client: The user's own client; it is never closed, and every other setting but the timeout is its own.
        proxy: A proxy's URL for every request.
        trust_env: Whether ``HTTP_PROXY``, ``HTTPS_PROXY``, ``ALL_PROXY`` and ``NO_PROXY`` count.
        ssl_context: The TLS context; ``None`` trusts the system's store, else certifi's, and honours ``SSL_CERT_FILE``.
        max_connections: The most connections that are open at once; ``None`` leaves it to the caller's own limit.
        connect_timeout: Seconds for TCP and TLS together.

    Returns:
        A sender; ``aclose`` it when done.
    """
    if http_client is not None:
        return ClientSender(http_client, connect_timeout=connect_timeout)
    limits = httpx.Limits(max_connections=max_connections)
    client = httpx.AsyncClient(verify=ssl_context or True, proxy=proxy, trust_env=trust_env, limits=limits)
    return ClientSender(client, connect_timeout=connect_timeout)
