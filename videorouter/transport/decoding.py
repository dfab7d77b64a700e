"""Undoes the compression of an answer: some servers compress although ``identity`` was asked for.

The bytes on the wire are bounded already; here what they become is bounded, too. Files are not decoded: their ranges
count bytes as they lie on the wire.
"""

from __future__ import annotations

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
    """The body without gzip and deflate, of which at most ``most + 1`` bytes are made.

    What is not compressed, or in a way that is not known here, comes back as it is. One that was cut gives its beginning.
    """
    codings = [
        coding.strip().lower() for name, value in headers if name == b"content-encoding" for coding in value.split(b",")
    ]
    if not codings and body[: len(_GZIP)] == _GZIP:
        codings = [b"gzip"]
    for coding in reversed(codings[:_MOST_CODINGS]):
        if coding in (b"gzip", b"x-gzip", b"deflate"):
            body = _inflate(body, most + 1)
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
