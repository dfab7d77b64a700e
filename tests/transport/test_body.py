"""Compressed answers, decoded within a bound."""

import gzip
import zlib

import pytest

from videorouter.transport.body import decode_body

TEXT = b'{"data":[{"url":"https://resource.example/v.mp4"}]}'
MOST = 4 * 2**20


def deflate_bare(data):
    coder = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return coder.compress(data) + coder.flush()


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        (b"gzip", gzip.compress(TEXT)),
        (b"GZIP", gzip.compress(TEXT)),
        (b"x-gzip", gzip.compress(TEXT)),
        (b"deflate", zlib.compress(TEXT)),
        (b"deflate", deflate_bare(TEXT)),
        (b"deflate, gzip", gzip.compress(zlib.compress(TEXT))),
        (b"gzip", gzip.compress(TEXT)[:-4]),
        (b"gzip", TEXT),
        (b"br", TEXT),
        (b"identity", TEXT),
    ],
)
def test_a_body_is_decoded_as_its_head_says_or_left_as_it_is(coding, body):
    assert decode_body(body, ((b"content-encoding", coding),), MOST) == TEXT


def test_gzip_that_nobody_announced_is_decoded():
    assert decode_body(gzip.compress(TEXT), (), MOST) == TEXT


def test_two_fields_count_as_one():
    headers = ((b"content-encoding", b"deflate"), (b"content-encoding", b"gzip"))
    assert decode_body(gzip.compress(zlib.compress(TEXT)), headers, MOST) == TEXT


@pytest.mark.parametrize("times", [1, 2, 3, 50])
def test_a_bomb_makes_no_more_than_the_bound_and_a_byte(times):
    body = b"a" * (20 * 2**20)
    for _ in range(times):
        body = gzip.compress(body)
    headers = tuple((b"content-encoding", b"gzip") for _ in range(times))
    assert len(decode_body(body, headers, MOST)) <= MOST + 1


def test_of_a_broken_one_the_beginning_is_read():
    body = bytearray(gzip.compress(bytes(range(256)) * 4000, compresslevel=0))
    body[len(body) // 2 :] = b"\xff" * (len(body) // 2)
    decoded = decode_body(bytes(body), ((b"content-encoding", b"gzip"),), MOST)
    assert decoded.startswith(bytes(range(256)))


def test_what_is_not_compressed_at_all_stays_as_it_is():
    assert decode_body(b"<html>", ((b"content-encoding", b"deflate"),), MOST) == b"<html>"
    assert decode_body(b"", ((b"content-encoding", b"gzip"),), MOST) == b""


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le"])
def test_text_of_another_encoding_becomes_utf_8(encoding):
    """A key that a server echoes is looked for in UTF-8."""
    assert decode_body(TEXT.decode().encode(encoding), (), MOST) == TEXT
    assert decode_body(TEXT.decode().encode(encoding)[:-3], (), MOST).startswith(TEXT[:40])
