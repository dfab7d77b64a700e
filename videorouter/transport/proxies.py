"""Chooses the proxy of a request: from a setting, or from the environment with its ``NO_PROXY``."""

from __future__ import annotations

import ipaddress
from typing import NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies

from videorouter.errors import ConfigurationError
from videorouter.http import origin_of


class Route(NamedTuple):
    """Requests of one scheme to hosts that are not excepted go through ``proxy``."""

    scheme: str
    proxy: str
    exceptions: tuple[str, ...]


def read_routes(proxy: str | None, *, trust_env: bool) -> tuple[Route, ...]:
    """Read the routes of a client, in the order to try them; with ``proxy`` the environment is ignored."""
    if proxy is not None:
        return (Route("all", _check(proxy, "proxy="), ()),)
    if not trust_env:
        return ()
    found = getproxies()
    exceptions = tuple(name.strip().lower() for name in found.get("no", "").split(",") if name.strip())
    if "*" in exceptions:
        return ()
    return tuple(
        Route(scheme, _check(found[scheme], f"the environment's {scheme.upper()}_PROXY"), exceptions)
        for scheme in ("http", "https", "all")
        if found.get(scheme)
    )


def _check(proxy: str, source: str) -> str:
    url = proxy if "://" in proxy else f"http://{proxy}"
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https", "socks5", "socks5h") and parts.hostname and (parts.port or 1)
    except ValueError:
        usable = None
    if not usable:
        msg = f"{source} is not a proxy URL: it must look like http://host:port"
        raise ConfigurationError(msg)
    if parts.scheme.startswith("socks"):
        try:
            import socksio  # type: ignore[import-not-found]  # noqa: F401, PLC0415 - httpx needs it for SOCKS only
        except ImportError as error:
            msg = f"{source} names a SOCKS proxy, which needs the package socksio: pip install 'httpx[socks]'"
            raise ConfigurationError(msg) from error
    return url


def choose_proxy(routes: tuple[Route, ...], url: str) -> str | None:
    """Return the proxy for a URL; ``None`` for a direct connection."""
    scheme, host, port = origin_of(url)
    for route in routes:
        if route.scheme in ("all", scheme):
            excepted = any(_matches(exception, host, port) for exception in route.exceptions)
            return None if excepted else route.proxy
    return None


def _matches(exception: str, host: str, port: int) -> bool:
    """Match ``NO_PROXY`` as curl does: a name with its subdomains, an address, a network, each perhaps with a port."""
    name = exception.partition("://")[2] or exception
    if name.startswith("["):
        name, _, tail = name[1:].partition("]")
        wanted = tail.lstrip(":")
    elif name.count(":") == 1:
        name, _, wanted = name.partition(":")
    else:
        wanted = ""
    if wanted and wanted != str(port):
        return False
    if "/" in name:
        return _is_within(host, name)
    name = name.removeprefix("*").removeprefix(".")
    return host == name or host.endswith(f".{name}")


def _is_within(host: str, network: str) -> bool:
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False
