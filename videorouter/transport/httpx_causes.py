"""Names the cause behind an exception of httpx. Like ``causes``, it says nothing about whether a request left."""

from __future__ import annotations

import httpx

from videorouter.http import WireFailure
from videorouter.transport.causes import name_connect_failure


def _name_proxy_failure(error: httpx.ProxyError) -> WireFailure:
    """``ProxyError`` says no more than ``"407 Proxy Authentication Required"``: its first word is the status."""
    status = str(error).partition(" ")[0]
    if status.isdigit() and 400 <= int(status) < 500:
        return WireFailure.PROXY_REFUSED
    return WireFailure.PROXY_UNAVAILABLE


def name_httpx_failure(error: Exception) -> WireFailure:
    """The failure behind an exception of httpx; of anything else, ``RESET``."""
    if isinstance(error, httpx.ProxyError):
        return _name_proxy_failure(error)
    if isinstance(error, httpx.ConnectTimeout):
        return WireFailure.CONNECT_TIMEOUT
    if isinstance(error, httpx.ConnectError):
        return name_connect_failure(error)
    if isinstance(error, httpx.PoolTimeout):
        return WireFailure.DEADLINE
    if isinstance(error, (httpx.WriteError, httpx.WriteTimeout)):
        return WireFailure.WRITE_FAILED
    if isinstance(error, httpx.ReadTimeout):
        return WireFailure.STALLED
    if isinstance(error, (httpx.UnsupportedProtocol, httpx.InvalidURL, httpx.LocalProtocolError)):
        return WireFailure.PROTOCOL
    if isinstance(error, httpx.RemoteProtocolError):
        text = str(error)
        if "disconnected" in text:
            return WireFailure.RESET
        return WireFailure.BODY_CUT if "closed connection" in text else WireFailure.PROTOCOL
    return WireFailure.RESET
