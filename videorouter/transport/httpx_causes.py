"""Names the cause behind an exception of httpx. Like ``causes``, it says nothing about whether a request left."""

from __future__ import annotations

import httpx

from videorouter.http import Trouble
from videorouter.transport.causes import name_connect_failure


def _name_proxy_failure(error: httpx.ProxyError) -> Trouble:
    """``ProxyError`` says no more than ``"407 Proxy Authentication Required"``: its first word is the status."""
    status = str(error).partition(" ")[0]
    if status.isdigit() and 400 <= int(status) < 500:
        return Trouble.PROXY_REFUSED
    return Trouble.PROXY_UNAVAILABLE


def name_httpx_failure(error: Exception) -> Trouble:
    """The trouble behind an exception of httpx; of anything else, ``RESET``."""
    if isinstance(error, httpx.ProxyError):
        return _name_proxy_failure(error)
    if isinstance(error, httpx.ConnectTimeout):
        return Trouble.CONNECT_TIMEOUT
    if isinstance(error, httpx.ConnectError):
        return name_connect_failure(error)
    if isinstance(error, httpx.PoolTimeout):
        return Trouble.DEADLINE
    if isinstance(error, (httpx.WriteError, httpx.WriteTimeout)):
        return Trouble.WRITE_FAILED
    if isinstance(error, httpx.ReadTimeout):
        return Trouble.STALLED
    if isinstance(error, (httpx.UnsupportedProtocol, httpx.InvalidURL, httpx.LocalProtocolError)):
        return Trouble.PROTOCOL
    if isinstance(error, httpx.RemoteProtocolError):
        text = str(error)
        if "disconnected" in text:
            return Trouble.RESET
        return Trouble.BODY_CUT if "closed connection" in text else Trouble.PROTOCOL
    return Trouble.RESET
