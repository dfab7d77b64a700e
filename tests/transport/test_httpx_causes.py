"""What httpx's exceptions are called here."""

import socket

import httpx
import pytest

from videorouter.http import Trouble
from videorouter.transport.httpx_causes import name_httpx_failure


@pytest.mark.parametrize(
    ("error", "trouble"),
    [
        (httpx.ProxyError("502 Bad Gateway"), Trouble.PROXY_UNAVAILABLE),
        (httpx.ProxyError("407 Proxy Authentication Required"), Trouble.PROXY_REFUSED),
        (httpx.ProxyError("strange"), Trouble.PROXY_UNAVAILABLE),
        (httpx.ConnectTimeout("slow"), Trouble.CONNECT_TIMEOUT),
        (httpx.PoolTimeout("full"), Trouble.DEADLINE),
        (httpx.WriteError("broken"), Trouble.WRITE_FAILED),
        (httpx.ReadTimeout("slow"), Trouble.STALLED),
        (httpx.ReadError("reset"), Trouble.RESET),
        (httpx.RemoteProtocolError("Server disconnected without sending a response."), Trouble.RESET),
        (httpx.RemoteProtocolError("peer closed connection without sending complete message body"), Trouble.BODY_CUT),
        (httpx.RemoteProtocolError("illegal header line"), Trouble.PROTOCOL),
        (httpx.UnsupportedProtocol("ftp"), Trouble.PROTOCOL),
        (ValueError("of a hook"), Trouble.RESET),
    ],
)
def test_an_exception_is_named(error, trouble):
    assert name_httpx_failure(error) is trouble


def test_a_connect_error_is_named_by_what_lies_below():
    error = httpx.ConnectError("no")
    error.__cause__ = socket.gaierror(socket.EAI_NONAME, "none")
    assert name_httpx_failure(error) is Trouble.NAME_MISSING
