"""Whatever answer httpx reads, a paid call reads: the same bytes before both."""

from __future__ import annotations

import gzip
import zlib

import httpx
import pytest
from calling import calling, fail
from servers import BODY, Gateway, raw

pytestmark = pytest.mark.anyio

N = len(BODY)
OK = b"HTTP/1.1 200 OK\r\n"
LENGTH = b"Content-Length: %d\r\n" % N
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n"
CHUNKS = b"%x\r\n" % N + BODY + b"\r\n0\r\n\r\n"


def frame(body: bytes = BODY, *fields: bytes) -> bytes:
    return OK + b"".join(field + b"\r\n" for field in fields) + b"Content-Length: %d\r\n\r\n" % len(body) + body


def line(status_line: bytes) -> bytes:
    return status_line + b"\r\n" + LENGTH + b"\r\n" + BODY


ANSWERS = {
    "plain": frame(),
    "gzip": frame(gzip.compress(BODY), b"Content-Encoding: gzip"),
    "GZIP": frame(gzip.compress(BODY), b"Content-Encoding: GZIP"),
    "deflate": frame(zlib.compress(BODY), b"Content-Encoding: deflate"),
    "deflate in gzip": frame(
        gzip.compress(zlib.compress(BODY)), b"Content-Encoding: deflate", b"Content-Encoding: gzip"
    ),
    "gzip twice": frame(gzip.compress(gzip.compress(BODY)), b"Content-Encoding: gzip, gzip"),
    "gzip without its end": frame(gzip.compress(BODY)[:-4], b"Content-Encoding: gzip"),
    "gzip with something behind it": frame(gzip.compress(BODY) + b"\0\0", b"Content-Encoding: gzip"),
    "an unknown coding": frame(BODY, b"Content-Encoding: utf-8"),
    "bare LF": frame(BODY, b"A: b").replace(b"\r\n", b"\n"),
    "some bare LF": OK.replace(b"\r\n", b"\n") + b"A: b\r\n" + LENGTH[:-2] + b"\n\r\n" + BODY,
    "folded": frame(BODY, b"A: one\r\n two"),
    "folded by a tab": frame(BODY, b"A: one\r\n\ttwo"),
    "equal lengths": OK + LENGTH * 2 + b"\r\n" + BODY,
    "equal lengths in a list": OK + b"Content-Length: %d, %d\r\n\r\n" % (N, N) + BODY,
    "zeros before a length": OK + b"Content-Length: 000%d\r\n\r\n" % N + BODY,
    "spaces around a length": OK + b"Content-Length:   %d  \r\n\r\n" % N + BODY,
    "no length": OK + b"\r\n" + BODY,
    "no length, kept alive": OK + b"Connection: keep-alive\r\n\r\n" + BODY,
    "a length beside chunks": CHUNKED + b"Content-Length: 7\r\n\r\n" + CHUNKS,
    "chunks beside a length": OK + b"Content-Length: 7\r\nTransfer-Encoding: Chunked\r\n\r\n" + CHUNKS,
    "padded chunk sizes": CHUNKED + b"\r\n%x   \r\n" % N + BODY + b"\r\n0  \r\n\r\n",
    "zeros before a chunk size": CHUNKED + b"\r\n0000%x\r\n" % N + BODY + b"\r\n000\r\n\r\n",
    "an extension of a chunk": CHUNKED + b"\r\n%x;a=b\r\n" % N + BODY + b"\r\n0\r\n\r\n",
    "trailers": CHUNKED + b"\r\n" + CHUNKS[:-2] + b"A: b\r\n\r\n",
    "no HTTP/1.1": line(b"HTTP/1.0 200 OK"),
    "HTTP/1.2": line(b"HTTP/1.2 200 OK"),
    "HTTP/2.0": line(b"HTTP/2.0 200 OK"),
    "no reason": line(b"HTTP/1.1 200"),
    "an empty reason": line(b"HTTP/1.1 200 "),
    "odd bytes in the reason": line(b"HTTP/1.1 200 \xff\t\x01"),
    "an interim answer": b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + frame(),
    "interim answers": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n" + frame(),
    "odd bytes in a value": frame(BODY, b"A: a\x01\x7f\xffb"),
    "an odd connection": frame(BODY, b"Connection: \x01,,"),
    "an offer of another protocol": frame(BODY, b"Connection: Upgrade", b"Upgrade: h2c"),
    "a hundred fields": frame(BODY, *(b"X-%d: y" % number for number in range(100))),
    "a long field": frame(BODY, b"X-A: " + b"y" * 30_000),
    "a byte order mark": frame(b"\xef\xbb\xbf" + BODY),
    "UTF-16": frame(BODY.decode().encode("utf-16")),
    "UTF-16-BE": frame(BODY.decode().encode("utf-16-be")),
    "UTF-32": frame(BODY.decode().encode("utf-32")),
    "NaN": frame(b'{"cost":NaN,' + BODY[1:]),
    "an infinity": frame(b'{"cost":-Infinity,' + BODY[1:]),
    "a huge number": frame(b'{"created":1e999,"cost":1e999,' + BODY[1:]),
    "a long integer": frame(b'{"seed":' + b"9" * 4000 + b"," + BODY[1:]),
    "a lone surrogate": frame(b'{"message":"\\ud800",' + BODY[1:]),
    "a lone surrogate in bytes": frame(b'{"message":"\xed\xa0\x80",' + BODY[1:]),
    "a lone surrogate in a prompt": frame(BODY.replace(b'"video_id"', b'"revised_prompt": "\\udfff", "video_id"')),
    "white space": frame(b" \r\n\t" + BODY + b"\n\n"),
    "a name that stands twice": frame(b'{"data":null,' + BODY[1:]),
    "a space in an address": frame(BODY.replace(b"/v.mp4", b"/a v.mp4")),
    "an upper-case scheme": frame(BODY.replace(b"https", b"HTTPS")),
    "white space around an address": frame(BODY.replace(b'"https', b'" https')),
    "an error that is compressed": frame(gzip.compress(b'{"data":[]}'), b"Content-Encoding: gzip"),
    "lengths that differ": OK + b"Content-Length: 7\r\n" + LENGTH + b"\r\n" + BODY,
    "no status line": b"SSH-2.0-OpenSSH_9.6\r\n",
    "a cut body": frame()[:-5],
    "HTML": frame(b"<!doctype html>"),
}


async def read_with_httpx(answer: bytes) -> str | None:
    """The address that a plain httpx client finds in it."""
    async with Gateway(raw(answer)) as gateway, httpx.AsyncClient(trust_env=False) as client:
        try:
            document = (await client.post(gateway.url, json={})).json()
            return document["data"][0]["url"]
        except (httpx.HTTPError, ValueError, LookupError):
            return None


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS.keys())
async def test_what_httpx_reads_is_read(answer):
    found = await read_with_httpx(answer)
    async with calling(raw(answer)) as (gateway, router):
        if found is None:
            error = await fail(router)
            assert error.in_doubt
            assert error.body
        else:
            result = await router.generate("otter", model="veo", timeout=10)
            assert result.url == found.strip().replace(" ", "%20").replace("HTTPS", "https")
    assert len(gateway.posts) == 1
