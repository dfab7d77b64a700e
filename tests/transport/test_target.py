"""URLs and heads, byte for byte."""

import pytest

from videorouter.http import WireError, WireFailure
from videorouter.transport.target import Payload, RequestTarget, find_target


@pytest.mark.parametrize(
    ("url", "line", "host"),
    [
        ("https://a.example/v1/x", b" /v1/x HTTP/1.1", b"a.example"),
        ("https://a.example", b" / HTTP/1.1", b"a.example"),
        ("https://a.example:443/", b" / HTTP/1.1", b"a.example"),
        ("http://a.example:8080/?q=1#f", b" /?q=1 HTTP/1.1", b"a.example:8080"),
        ("https://a.example/video/generated%2Fone.mp4", b" /video/generated%2Fone.mp4 HTTP/1.1", b"a.example"),
        ("http://[::1]:80/", b" / HTTP/1.1", b"[::1]"),
        ("https://b\u00fccher.example/\u00e4", b" /%C3%A4 HTTP/1.1", b"xn--bcher-kva.example"),
        ("https://user:secret@a.example/", b" / HTTP/1.1", b"a.example"),
    ],
)
def test_a_url_becomes_a_request_line_and_a_host(url, line, host):
    head = Payload("GET", RequestTarget(url), (), None).data
    assert head == b"GET" + line + b"\r\nHost: " + host + b"\r\nAccept-Encoding: identity\r\n\r\n"


@pytest.mark.parametrize("url", ["ftp://a/", "/v1", "https://", "http://a:99999/", "http://a\x00b/"])
def test_what_cannot_be_sent_to_is_refused(url):
    with pytest.raises(WireError) as caught:
        RequestTarget(url)
    assert caught.value.failure is WireFailure.PROTOCOL


def test_framing_belongs_to_the_writer():
    headers = (
        (b"content-length", b"7"),
        (b"Transfer-Encoding", b"chunked"),
        (b"connection", b"close"),
        (b"ACCEPT-ENCODING", b"gzip"),
        (b"X", b"1"),
    )
    assert Payload("POST", RequestTarget("http://a/"), headers, b"abc").data == (
        b"POST / HTTP/1.1\r\nHost: a\r\nX: 1\r\nAccept-Encoding: identity\r\nContent-Length: 3\r\n\r\nabc"
    )


def test_a_host_of_the_callers_own_is_kept():
    assert b"Host: other\r\n" in Payload("GET", RequestTarget("http://127.0.0.1/"), ((b"Host", b"other"),), None).data


@pytest.mark.parametrize("field", [(b"X", b"a\r\nB: c"), (b"X\n", b"a"), (b"X", b"a\rb"), (b"X", b"\0")])
def test_a_field_cannot_break_out_of_its_line(field):
    with pytest.raises(WireError):
        Payload("GET", RequestTarget("http://a/"), (field,), None)


def test_targets_are_remembered_and_the_memory_is_bounded():
    assert find_target("http://a/1") is find_target("http://a/1")
    for number in range(2000):
        find_target(f"http://a/{number}")
    from videorouter.transport import target

    assert len(target._remembered) <= 512
