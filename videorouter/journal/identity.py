"""When two requests are the same: by what they say, not by how they are spelt.

The order of fields is nothing, ``7`` and ``7.0`` are one number, and a field that is null is as good as absent. Numbers are
compared by their exact value and never as floats, so that 64-bit seeds differ; ``true`` is not 1.
"""

from __future__ import annotations

import functools
import hashlib
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

_MOST_ZEROS = 400
"""Zeros of a number that is written out: no float has more."""


def digest_request(verb: str, body: bytes) -> str:
    """What makes two requests the same, as 32 hex digits."""
    fields = _decode(body)  # in one frame: this runs for each entry of a batch
    if None in fields.values():
        fields = {name: value for name, value in fields.items() if value is not None}
    hasher = _hasher(verb).copy()
    hasher.update(_encode(fields))
    return hasher.hexdigest()


def digest_stored(verb: str, body: bytes, parent: str | None) -> str:
    """The digest of a request as it was sent: what it says of the video of its parent, it says of its parent."""
    return digest_request(verb, body if parent is None else _replace_video(body, name_parent(parent)))


def digest_spelling(verb: str, body: bytes) -> str:
    """The same by the rule of schema 1, under which a request was how it was spelt."""
    hasher = _hasher(verb).copy()
    hasher.update(body)
    return hasher.hexdigest()


def digest_step(body: bytes) -> str:
    """What makes two steps of a chain the same, whatever video they edit."""
    return digest_request("step", _replace_video(body, None))


def digest_chain(digest: str, steps: Sequence[bytes]) -> str:
    """What makes two requests with the chains that follow from them the same; without a chain the request's own digest."""
    return digest_spelling("chain", "".join((digest, *map(digest_step, steps))).encode()) if steps else digest


def fill_step(body: bytes, parent: str) -> bytes:
    """A step's body as the journal has it, where it was built for ``UNNAMED`` in place of the item that it edits."""
    return body.replace(_UNNAMED_FIELD, b'"video_id":' + msgspec.json.encode(name_parent(parent)), 1)


def name_parent(item: str) -> str:
    """What stands for the video of an item in the description of a request that edits it."""
    return f"item:{item}"


def name_item(digest: str, occurrence: int) -> str:
    """The id of an item that was given none. Four takes of one prompt are four items."""
    return f"{digest}-{occurrence}"


UNNAMED = name_parent("")
_UNNAMED_FIELD = b'"video_id":' + msgspec.json.encode(UNNAMED)


def _replace_video(body: bytes, video: str | None) -> bytes:
    return _encode({**_decode(body), "video_id": video})


def _read_number(text: str) -> int | Decimal:
    """A number with a point or an exponent, by its value: whole ones are integers."""
    sign, digits, exponent = Decimal(text).as_tuple()
    if not isinstance(exponent, int):  # JSON has no such number
        return 0
    kept = len(digits)
    while kept > 1 and digits[kept - 1] == 0:
        kept -= 1
    exponent += len(digits) - kept
    if digits[:kept] == (0,):
        return 0
    number = Decimal((sign, digits[:kept], exponent))
    return int(number) if 0 <= exponent <= _MOST_ZEROS else number


_decode = msgspec.json.Decoder(dict[str, Any], float_hook=_read_number).decode
_encode = msgspec.json.Encoder(order="sorted", decimal_format="number").encode


@functools.cache
def _hasher(kind: str) -> hashlib.blake2b:
    return hashlib.blake2b(digest_size=16, person=kind.encode()[:16])
