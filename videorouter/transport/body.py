"""Decodes a response's body: compression that was not asked for, and UTF-16 or UTF-32.

The bytes on the wire are bounded already; their decoded size is bounded here. All later code reads UTF-8. Files are not
decoded: their ranges count bytes on the wire.
"""

from __future__ import annotations

import json
import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from videorouter.http import Header

_GZIP = b"\x1f\x8b"
_GZIP_OR_ZLIB = zlib.MAX_WBITS | 32
_MOST_CODINGS = 4
_PIECE = 16_384
"""Decoded at a time: what came before a broken piece is read, too."""


def decode_body(body: bytes, headers: tuple[Header, ...], most: int) -> bytes:
    """The body in UTF-8 and without gzip and deflate, of which at most ``most + 1`` bytes are made.

    What is not compressed, or in a way that is not known here, comes back as it is. One that was cut gives its beginning.
    """
    if body[:2] == b'{"':
        return body
    codings = [
        coding.strip().lower() for name, value in headers if name == b"content-encoding" for coding in value.split(b",")
    ]
    if not codings and body[: len(_GZIP)] == _GZIP:
        codings = [b"gzip"]
    for coding in reversed(codings[:_MOST_CODINGS]):
        if coding in (b"gzip", b"x-gzip", b"deflate"):
            body = _inflate(body, most + 1)
    encoding = json.detect_encoding(body)
    if encoding.startswith("utf-8"):
        return body
    try:
        return body[: len(body) - len(body) % 2].decode(encoding).encode("utf-8")
    except UnicodeError:
        return body


def _inflate(body: bytes, most: int) -> bytes:
    made = bytearray()
    # Deflate without its frame comes second. What is neither was never compressed.
    for bits in (_GZIP_OR_ZLIB, -zlib.MAX_WBITS):
        decoder = zlib.decompressobj(bits)
        try:
            for start in range(0, len(body), _PIECE):
                made += decoder.decompress(body[start : start + _PIECE], most - len(made))
                if len(made) >= most:
                    break
        except zlib.error:
            pass
        if made:
            break
    return bytes(made) or body
