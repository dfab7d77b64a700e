"""Decodes an answer's JSON as leniently as httpx does, in bounded memory: no spelling of it may lose a paid video.

msgspec reads what is well spelt. What it refuses is read once more: a byte order mark, NaN and infinities
(as null), control characters and lone surrogates in text (as U+FFFD). This file knows no field of an answer.
"""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable

BROKEN_JSON = (msgspec.MsgspecError, ValueError, RecursionError)

_BIG = 256 * 1024
_MOST_PARTS = 100_000
_SURROGATE = re.compile("[\ud800-\udfff]")
_MARK = b"\xef\xbb\xbf"
_AROUND = b" \t\r\n\0"
_NOTHING = object()
_NULLS: dict[str, None] = {}
"""What NaN and infinities are: ``get`` gives null for each, without a frame of Python for each of a hundred thousand."""
_decode = msgspec.json.Decoder().decode


def decode_json(body: bytes) -> object:
    """Decode any JSON document, or raise one of ``BROKEN_JSON``; one with too many parts for the memory is refused."""
    if is_swollen(body):
        msg = "more parts than any answer has"
        raise ValueError(msg)
    try:
        return _decode(body)
    except (msgspec.MsgspecError, ValueError) as error:
        problem = error
    document = _decode_leniently(body)
    if document is _NOTHING:
        raise problem
    return document


def decode_raw(raw: object) -> Any:
    """Decode an answer that was kept as bytes, if possible, else return its text."""
    if not isinstance(raw, bytes):
        return raw
    try:
        return decode_json(raw)
    except BROKEN_JSON:
        return raw.decode("utf-8", "replace")


def is_swollen(body: bytes) -> bool:
    """Whether a document would take many times its own size when decoded: hundreds of thousands of tiny parts."""
    return len(body) > _BIG and body.count(b",") + body.count(b"[") + body.count(b"{") > _MOST_PARTS


def _decode_leniently(body: bytes) -> object:
    text = body.strip(_AROUND).removeprefix(_MARK).decode("utf-8", "replace")
    try:
        document = json.loads(text, strict=False, parse_float=_read_float, parse_constant=_NULLS.get)
    except (ValueError, RecursionError):  # its errors hold the whole text
        return _NOTHING
    escapes = "\\u" in text  # nothing else brings a surrogate
    del text
    if isinstance(document, str):
        return _clean(document)
    if escapes:
        _clean_texts(document)
    return document


def _read_float(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


def _clean(text: str) -> str:
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def _clean_texts(document: object) -> None:
    """Replace what no encoder would take, in place: nesting may be deeper than a function can go."""
    places = [document] if isinstance(document, (dict, list)) else []
    while places:
        place = places.pop()
        items: Iterable[tuple[object, object]] = tuple(place.items() if isinstance(place, dict) else enumerate(place))
        for key, value in items:
            if isinstance(value, str):
                place[key] = _clean(value)  # type: ignore[call-overload]  # the key is of its own kind
            elif isinstance(value, (dict, list)):
                places.append(value)
