"""Chooses the proxy of a request: from a setting, or from the environment with its ``NO_PROXY``.

An entry of the environment that cannot be used stops only the requests that would go through it: desktops set entries
that nobody needs, such as ``ALL_PROXY=socks://...`` beside a usable ``HTTPS_PROXY``.
"""

from __future__ import annotations

import importlib.util
import ipaddress
from typing import NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies

from videorouter.errors import ConfigurationError
from videorouter.http import WireError, WireFailure, name_host, origin_of


class Route(NamedTuple):
    """Requests of one scheme to hosts that are not excepted go through ``proxy``; ``problem`` says why they cannot."""

    scheme: str
    proxy: str
    exceptions: tuple[str, ...]
    problem: str = ""


def read_routes(proxy: str | None, *, trust_env: bool) -> tuple[Route, ...]:
    """Read the routes of a client, in the order to try them; with ``proxy`` the environment is ignored."""
    if proxy is not None:
        route = _read_route("all", proxy, "proxy=", ())
        if route.problem:
            raise ConfigurationError(route.problem)
        return (route,)
    if not trust_env:
        return ()
    found = getproxies()
    exceptions = tuple(name.strip().lower() for name in found.get("no", "").split(",") if name.strip())
    if "*" in exceptions:
        return ()
    return tuple(
        _read_route(scheme, found[scheme], f"the environment's {scheme.upper()}_PROXY", exceptions)
        for scheme in ("http", "https", "all")
        if found.get(scheme)
    )


def _read_route(scheme: str, proxy: str, source: str, exceptions: tuple[str, ...]) -> Route:
    url = proxy if "://" in proxy else f"http://{proxy}"
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https", "socks5", "socks5h") and parts.hostname and (parts.port or 1)
    except ValueError:
        usable = None
    problem = ""
    if not usable:
        problem = f"{source} is not a proxy URL: it must look like http://host:port or socks5://host:port"
    elif parts.scheme.startswith("socks") and importlib.util.find_spec("socksio") is None:
        problem = f"{source} names a SOCKS proxy, which needs the package socksio: pip install 'httpx[socks]'"
    return Route(scheme, url, exceptions, problem)


def choose_proxy(routes: tuple[Route, ...], url: str) -> str | None:
    """Return the proxy for a URL; ``None`` for a direct connection. Raises ``WireError`` for one that cannot be used."""
    scheme, host, port = origin_of(url)
    for route in routes:
        if route.scheme in ("all", scheme):
            excepted = any(_matches(exception, host, port) for exception in route.exceptions)
            if not excepted and route.problem:
                raise WireError(WireFailure.PROXY_REFUSED, f"{route.problem}, or set NO_PROXY", host=name_host(url))
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
