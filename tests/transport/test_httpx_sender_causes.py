"""What httpx's exceptions are called here."""

import socket

import httpx
import pytest

from videorouter.http import WireFailure
from videorouter.transport.httpx_sender import name_httpx_failure


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (httpx.ProxyError("502 Bad Gateway"), WireFailure.PROXY_UNAVAILABLE),
        (httpx.ProxyError("407 Proxy Authentication Required"), WireFailure.PROXY_REFUSED),
        (httpx.ProxyError("strange"), WireFailure.PROXY_UNAVAILABLE),
        (httpx.ConnectTimeout("slow"), WireFailure.CONNECT_TIMEOUT),
        (httpx.PoolTimeout("full"), WireFailure.DEADLINE),
        (httpx.WriteError("broken"), WireFailure.WRITE_FAILED),
        (httpx.ReadTimeout("slow"), WireFailure.STALLED),
        (httpx.ReadError("reset"), WireFailure.RESET),
        (httpx.RemoteProtocolError("Server disconnected without sending a response."), WireFailure.RESET),
        (
            httpx.RemoteProtocolError("peer closed connection without sending complete message body"),
            WireFailure.BODY_CUT,
        ),
        (httpx.RemoteProtocolError("illegal header line"), WireFailure.PROTOCOL),
        (httpx.UnsupportedProtocol("ftp"), WireFailure.PROTOCOL),
        (ValueError("of a hook"), WireFailure.RESET),
    ],
)
def test_an_exception_is_named(error, failure):
    assert name_httpx_failure(error) is failure


def test_a_connect_error_is_named_by_what_lies_below():
    error = httpx.ConnectError("no")
    error.__cause__ = socket.gaierror(socket.EAI_NONAME, "none")
    assert name_httpx_failure(error) is WireFailure.NAME_MISSING
