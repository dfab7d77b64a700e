"""The checks of ``doctor`` that speak to the gateway: name, connection, TLS, clock, and whether the key is accepted.

They run for an address on this machine, or when ``--online`` was given. They read; nothing is made and nothing is paid.
The key goes only where the client itself sends it.
"""

from __future__ import annotations

import asyncio
import email.utils
import socket
import ssl
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from videorouter.cli.checks import Check, find_proxy
from videorouter.cli.console import clean, say_time
from videorouter.config import default_user_agent
from videorouter.errors import (
    AuthenticationError,
    ConfigurationError,
    NotFoundError,
    PermissionDeniedError,
    VideoRouterError,
)
from videorouter.transport.causes import advise_on_certificate
from videorouter.transport.tls import make_context

if TYPE_CHECKING:
    from videorouter.client import AsyncVideoRouter

_PATIENCE = 10.0
_MUCH = 60.0
"""Seconds by which a clock may be wrong before it matters."""


async def probe(router: AsyncVideoRouter, url: str, *, trust_env: bool) -> list[Check]:
    """Try each step towards the gateway until one fails."""
    found: list[Check] = []
    if trust_env and find_proxy(url) is not None:
        words = "the proxy looks the name up and connects"
        found.append(Check(group="gateway", name="connection", state="info", found=words))
    else:
        found += await _connect(url)
        if any(check.state == "fail" for check in found):
            return found
    return [*found, await _ask(router)]


async def _connect(url: str) -> list[Check]:
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    began = time.monotonic()
    try:
        context = make_context() if parts.scheme == "https" else None
        async with asyncio.timeout(_PATIENCE):
            reader, writer = await asyncio.open_connection(host, port, ssl=context)
            try:
                elapsed = time.monotonic() - began
                secured = writer.get_extra_info("ssl_object")
                path = parts.path.rstrip("/") or ""
                writer.write(
                    f"GET {path}/models HTTP/1.1\r\nHost: {parts.netloc}\r\nUser-Agent: {default_user_agent()}\r\n"
                    "Accept: application/json\r\nConnection: close\r\n\r\n".encode("latin-1")
                )
                head = await _read_head(reader)
            finally:
                writer.transport.abort()
    except (OSError, TimeoutError, UnicodeError, EOFError) as error:
        return [_blame(error, host, port)]
    words = f"{host}:{port} in {elapsed * 1000:.0f} ms"
    if secured is not None:
        words += f", {secured.version()}"
    return [Check(group="gateway", name="connection", state="ok", found=words), _check_date(head, time.time())]


async def _read_head(reader: asyncio.StreamReader) -> bytes:
    head = b""
    while b"\r\n\r\n" not in head and len(head) < 65536:
        block = await reader.read(4096)
        if not block:
            break
        head += block
    return head.partition(b"\r\n\r\n")[0]


def _blame(error: BaseException, host: str, port: int) -> Check:
    place = f"{host}:{port}"
    if isinstance(error, socket.gaierror):
        found, mend = f"the name {host} does not resolve", "look at the spelling, the network and /etc/resolv.conf"
    elif isinstance(error, ssl.SSLCertVerificationError):
        found = f"the certificate of {place} is not trusted: {getattr(error, 'verify_message', error)}"
        mend = advise_on_certificate(error)
    elif isinstance(error, ssl.SSLError):
        found, mend = f"TLS with {place} fails: {error.reason}", "something between here and there cuts TLS short"
    elif isinstance(error, ConnectionRefusedError):
        found, mend = f"{place} refuses connections", "is the gateway (or the sandbox) running there? Look at the port"
    elif isinstance(error, TimeoutError):
        found, mend = f"{place} does not answer within {_PATIENCE:.0f} s", "a firewall drops it, or a proxy is needed"
    else:
        found, mend = f"{place}: {error}", "look at the network, the VPN and the firewall"
    return Check(group="gateway", name="connection", state="fail", found=clean(found), mend=mend)


def _check_date(head: bytes, now: float) -> Check:
    text = next(
        (line[5:].strip() for line in head.decode("latin-1").split("\r\n") if line.lower().startswith("date:")), ""
    )
    try:
        there = email.utils.parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError):
        return Check(group="gateway", name="clock", state="info", found="the gateway does not tell its time")
    off = now - there
    if abs(off) > _MUCH:
        words = f"this machine is {say_time(abs(off))} {'ahead of' if off > 0 else 'behind'} the gateway"
        return Check(group="gateway", name="clock", state="warn", found=words, mend="timedatectl set-ntp true")
    return Check(group="gateway", name="clock", state="ok", found="agrees with the gateway's")


async def _ask(router: AsyncVideoRouter) -> Check:
    group, name = "gateway", "key accepted"
    try:
        balance = await router.balance()
    except AuthenticationError as error:
        mend = "make a new key on the vendor's API page, or try the other form with --bearer (or without it)"
        return Check(group=group, name=name, state="fail", found=clean(error.message), mend=mend)
    except PermissionDeniedError as error:
        mend = "where Cloudflare refuses the agent string: --user-agent; where it is the account: the vendor's support"
        return Check(group=group, name=name, state="fail", found=clean(error.message), mend=mend)
    except NotFoundError:
        words = "this gateway tells no balance, so the key could not be tried"
        return Check(group=group, name=name, state="info", found=words)
    except ConfigurationError as error:
        return Check(group=group, name=name, state="fail", found=clean(error.message), mend="see above")
    except VideoRouterError as error:
        mend = "try again in a minute; if it stays, the vendor's status page"
        return Check(group=group, name=name, state="fail", found=clean(error.message), mend=mend)
    words = f"yes, ${balance.credit_balance:.2f} left"
    if balance.credit_balance <= 0:
        return Check(group=group, name=name, state="warn", found=words, mend="top up on the vendor's page")
    return Check(group=group, name=name, state="ok", found=words)
