"""Hosts and addresses: what a URL's host is called, and which addresses its name has."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import anyio

from videorouter.http import WireFailure
from videorouter.transport.causes import explain, name_connect_failure
from videorouter.transport.live_guard import check_host

if TYPE_CHECKING:
    from collections.abc import Sequence


def find_host(url: str) -> str:
    """``host:port`` of a URL, for messages."""
    try:
        host, port = split_place(url)
    except ValueError:
        return url[:100]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def split_place(url: str) -> tuple[str, int]:
    """Host and port of a URL.

    Raises:
        ValueError: It has none that can be connected to.
    """
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


async def resolve_name(url: str, *, deadline: float) -> tuple[str, ...]:
    """All addresses of the URL's host, in the order of the system's preference.

    Args:
        url: An absolute http or https URL.
        deadline: ``time.monotonic()`` value at which to give up.

    Returns:
        IP literals, without scope ids.

    Raises:
        WireError: The name does not exist, or the name server did not answer in time.
    """
    check_host(find_host(url))
    found: Sequence[tuple[object, ...]] | None = None
    try:
        with anyio.move_on_after(deadline - time.monotonic()):
            host, port = split_place(url)
            found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise explain(name_connect_failure(error), find_host(url), error) from error
    except ValueError as error:
        raise explain(WireFailure.NAME_MISSING, find_host(url), error) from error
    if found is None:
        raise explain(WireFailure.NAME_TEMPORARY, find_host(url))
    return tuple(dict.fromkeys(str(entry[4][0]).partition("%")[0] for entry in found))  # type: ignore[index]
