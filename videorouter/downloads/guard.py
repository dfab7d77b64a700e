"""Decides which addresses a file may be fetched from. It never looks up a name: addresses are its arguments.

Result links come from a third party, so each one, and each redirect of one, is judged: https only, no user name in the
URL, public addresses only. Loopback, over http too, is for a base URL that is loopback itself (the sandbox).
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from typing import TYPE_CHECKING, Literal, TypeAlias
from urllib.parse import quote, urljoin, urlsplit

import msgspec

from videorouter.config import is_loopback
from videorouter.errors import DownloadError
from videorouter.http import split_url

if TYPE_CHECKING:
    from collections.abc import Sequence

    from videorouter.config import ClientSettings

MAX_URL_CHARS = 4096
MAX_REDIRECTS = 5
REDIRECTS = frozenset({301, 302, 303, 307, 308})

Kind: TypeAlias = Literal["public", "loopback", "private", "unusable"]
_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

_NAME = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*\.?", re.IGNORECASE)
_NUMERIC = re.compile(r"(0x[0-9a-f]*|[0-9]+)(\.(0x[0-9a-f]*|[0-9]+)){0,3}\.?", re.IGNORECASE)
_UNICAST = ipaddress.IPv6Network("2000::/3")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_NOT_PUBLIC = tuple(
    map(
        ipaddress.ip_network,
        ("192.0.0.0/24", "192.88.99.0/24", "2001::/23", "2001:db8::/32", "3fff::/20", "2002::/16"),
    )
)
_LOCAL = tuple(
    map(
        ipaddress.ip_network,
        ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7", "fec0::/10"),
    )
)


class AddressPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """What a client permits.

    ``loopback``: the base URL is on this machine, so files may be. ``private``: private addresses, loopback included,
    and http for them. ``hosts``: only these names, ``*.example.com`` for subdomains; ``None`` for any.
    """

    loopback: bool = False
    private: bool = False
    hosts: frozenset[str] | None = None


class FileUrl(msgspec.Struct, frozen=True, kw_only=True):
    """A URL that may be fetched if its addresses are permitted.

    ``url`` is as it is sent, without a fragment; ``scheme`` is ``http`` only where the addresses decide; ``literal`` is
    a canonical IP; ``local`` whether the name means this machine whatever a name server says.
    """

    url: str
    scheme: str
    host: str
    literal: str | None = None
    local: bool = False


def build_policy(settings: ClientSettings) -> AddressPolicy:
    """Build the policy from a client's settings."""
    return AddressPolicy(loopback=settings.loopback, private=settings.allow_private_hosts, hosts=settings.allowed_hosts)


def check_file_url(url: object, policy: AddressPolicy) -> FileUrl:
    """Check a URL before its name is resolved."""
    if not isinstance(url, str) or not url:
        raise _refuse("there is no URL to fetch")
    shown = show_url(url)
    if len(url) > MAX_URL_CHARS:
        raise _refuse(f"the URL is longer than {MAX_URL_CHARS} characters", shown)
    parts = split_url(url)
    if parts is None or "\\" in url:
        raise _refuse(f"{shown!r} is not a usable URL", shown)
    scheme = parts.scheme.lower()
    if scheme not in ("https", "http") or not parts.hostname:
        raise _refuse(f"{shown!r} is not an https:// URL", shown)
    if "@" in parts.netloc:
        raise _refuse("the URL holds a user name or password", shown)
    host = unicodedata.normalize("NFKC", parts.hostname).lower()
    address = _read_literal(host, shown)
    if policy.hosts is not None and not _is_listed(host, policy.hosts):
        raise _refuse(f"{host} is not in allowed_hosts", shown, "Add it there if you trust it.")
    target = FileUrl(
        url=parts._replace(fragment="").geturl(),
        scheme=scheme,
        host=host,
        literal=None if address is None else str(address),
        local=address is None and is_loopback(host.rstrip(".")),
    )
    if address is not None:
        check_addresses(target, (str(address),), policy)
    elif target.local and not (policy.loopback or policy.private):
        raise _refuse_address(target, host, "loopback")
    elif scheme == "http" and not (policy.loopback or policy.private):
        raise _refuse_http(target)
    return target


def check_addresses(target: FileUrl, addresses: Sequence[str], policy: AddressPolicy) -> None:
    """Check every address that a host name resolves to; one forbidden address rejects the whole name.

    An empty list means that a proxy or a mock resolves the name: then only the URL itself was checked.
    """
    kinds = {classify_address(address) for address in addresses}
    for address in addresses:
        kind = classify_address(address)
        if kind == "unusable" or (kind == "private" and not policy.private):
            raise _refuse_address(target, address, kind)
        if kind == "loopback" and not (policy.loopback or policy.private):
            raise _refuse_address(target, address, kind)
    if target.scheme == "http":
        if "public" in kinds:
            raise _refuse_http(target)
        if not kinds and not target.local and not policy.private:
            raise _refuse_http(target)


def follow_redirect(target: FileUrl, location: str | None, policy: AddressPolicy) -> FileUrl:
    """Return the target of a redirect, checked like a first URL."""
    if not location:
        raise _refuse("the file host redirects without saying where to", show_url(target.url))
    quoted = quote(location.strip(), safe="%/:=&?~#+!$,;'@()*[]|^{}<>\"`\\")
    try:
        url = urljoin(target.url, quoted)
    except ValueError as error:
        raise _refuse("the file host redirects to something that is not a URL", show_url(target.url)) from error
    found = check_file_url(url, policy)
    if target.scheme == "https" and found.scheme == "http":
        raise _refuse(f"{target.host} redirects from https to http ({found.host})", show_url(url))
    return found


def classify_address(address: str) -> Kind:
    """Classify an IP literal; ``unusable`` is never permitted (link-local, multicast, unspecified, reserved)."""
    try:
        ip: _Address = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return "unusable"
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    if ip.is_loopback:
        return "loopback"
    if any(ip.version == net.version and ip in net for net in _LOCAL):
        return "private"
    if isinstance(ip, ipaddress.IPv6Address):
        if ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
            return "public" if classify_address(str(inner)) == "public" else "unusable"
        if ip not in _UNICAST:
            return "unusable"
    if ip.is_multicast or not ip.is_global or any(ip.version == net.version and ip in net for net in _NOT_PUBLIC):
        return "unusable"
    return "public"


def show_url(url: str) -> str:
    """Show a URL in messages: without a user name, and without a query, which may be a signature."""
    try:
        parts = urlsplit(url)
        netloc = parts.netloc.rpartition("@")[2]
        return parts._replace(netloc=netloc, query="", fragment="").geturl()[:300]
    except ValueError:
        return url.partition("?")[0][:300]


def _read_literal(host: str, shown: str) -> _Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        pass
    if "%" in host or ":" in host:
        raise _refuse(f"{host!r} is not a usable host", shown)
    if _NUMERIC.fullmatch(host):
        raise _refuse(f"{host!r} is an IP address in an unusual spelling", shown)
    if host.isascii() and not _NAME.fullmatch(host):
        raise _refuse(f"{host!r} is not a host name", shown)
    return None


def _is_listed(host: str, hosts: frozenset[str]) -> bool:
    name = host.rstrip(".")
    if name in hosts or f"[{name}]" in hosts:
        return True
    return any(entry.startswith("*.") and name.endswith(entry[1:]) for entry in hosts)


def _refuse(reason: str, shown: str | None = None, advice: str = "") -> DownloadError:
    text = f"This file is not fetched: {reason}. Nothing was sent. {advice}".rstrip()
    return DownloadError(text, result_url=shown)


def _refuse_address(target: FileUrl, address: str, kind: Kind) -> DownloadError:
    where = target.host if address in (target.host, target.literal) else f"{target.host}, which resolves to {address}"
    if kind == "unusable":
        return _refuse(f"{where} is not an address that a file can come from", show_url(target.url))
    return _refuse(
        f"{where}: a {kind} address",
        show_url(target.url),
        "A result link may not lead into your own network. If this host is really yours, pass "
        "allow_private_hosts=True, best with allowed_hosts=[...].",
    )


def _refuse_http(target: FileUrl) -> DownloadError:
    return _refuse(
        f"{target.host} is offered over http, and files are fetched over https only",
        show_url(target.url),
        "http is for loopback with a loopback base_url, and for private addresses with allow_private_hosts=True.",
    )
