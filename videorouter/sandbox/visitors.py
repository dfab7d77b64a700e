"""Who may ask: whoever calls this machine by a name that no stranger owns, and no page of another origin.

A web page in a browser on this machine can send requests to loopback: to the address itself, and then its browser names
the page's origin; or to a name of its own that leads there (DNS rebinding), and then that name stands in ``Host``. Nobody
owns an address or a name without a dot: those pass. This file decides; it never answers.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Collection


def find_stranger(host: str | None, origin: str | None, allowed: Collection[str]) -> str | None:
    """Return why a request is not answered, in words; ``None`` when it is.

    Args:
        host: Its ``Host`` header. Without one it does not come from a browser.
        origin: Its ``Origin`` header.
        allowed: Further names, in small letters.
    """
    name = _read_name(f"//{host or ''}")
    if "." in name and not _is_address(name) and not _is_known(name, allowed):
        return f"was asked as {host!r}{_advise(name)}"
    if origin is not None and not _is_known(name := _read_name(origin), allowed):
        return f"was asked by a page of {origin!r}{_advise(name)}"
    return None


def _advise(name: str) -> str:
    return f". If that is meant to be, start it with --allow-host {name} (allowed_hosts=[{name!r}])" if name else ""


def _read_name(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").removesuffix(".")
    except ValueError:
        return ""


def _is_known(name: str, allowed: Collection[str]) -> bool:
    if name == "localhost" or name.endswith(".localhost") or name in allowed:
        return True
    return _is_address(name) and ipaddress.ip_address(name).is_loopback


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
