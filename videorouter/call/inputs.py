"""Inputs from disk or memory: which fields take them, what they are, and what an upload's answer means.

The kind of a file is read from its first bytes, never from its name. The size limits are this client's own: the gateway
documents none, and a file beyond them would fail after minutes of upload. This file reads no file and mints no boundary.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal

from videorouter.errors import InvalidRequestError
from videorouter.lenient_json import BROKEN_JSON, decode_json
from videorouter.models import Asset

if TYPE_CHECKING:
    from collections.abc import Mapping

Kind = Literal["image", "video", "audio"]
ReviewState = Literal["pending", "active", "refused"]

FIELDS: dict[str, Kind] = {
    "image_url": "image",
    "start_image_url": "image",
    "end_image_url": "image",
    "image_urls": "image",
    "video_urls": "video",
    "audio_urls": "audio",
}
REFERENCES = frozenset({"image_urls", "video_urls", "audio_urls"})
"""Fields that were seen to take ``asset://`` addresses; the others are given the public URL."""
LIMITS: dict[Kind, int] = {"image": 50 * 2**20, "video": 512 * 2**20, "audio": 100 * 2**20}
"""Bytes."""

_SCHEME = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.-]+:")
"""One letter is a drive of Windows."""


def check_addresses(fields: Mapping[str, Any]) -> None:
    """Refuse a file name where a URL belongs: the gateway would charge for a request without its input."""
    for name in FIELDS:
        value = fields.get(name)
        for text in value if isinstance(value, list | tuple) else (value,):
            if isinstance(text, str):
                check_address(text, name)


def check_address(text: str, name: str) -> None:
    """Refuse a text without a scheme."""
    if _SCHEME.match(text) is None:
        raise InvalidRequestError(
            f"{name}={text[:200]!r} is not a URL. Nothing was sent. For a file of this machine pass "
            f"pathlib.Path({text[:200]!r}), for an address put https:// before it; extra_body= sends it as it is."
        )


def recognise(head: bytes) -> str | None:
    """Return the media type of a file by its first bytes, or ``None``."""
    for magic, mime in (
        (b"\x89PNG\r\n\x1a\n", "image/png"),
        (b"\xff\xd8\xff", "image/jpeg"),
        (b"GIF8", "image/gif"),
        (b"BM", "image/bmp"),
        (b"II*\x00", "image/tiff"),
        (b"MM\x00*", "image/tiff"),
        (b"\x1aE\xdf\xa3", "video/webm"),
        (b"ID3", "audio/mpeg"),
        (b"OggS", "audio/ogg"),
        (b"fLaC", "audio/flac"),
    ):
        if head.startswith(magic):
            return mime
    if head[:4] == b"RIFF":
        return {b"WEBP": "image/webp", b"WAVE": "audio/wav", b"AVI ": "video/x-msvideo"}.get(head[8:12])
    if head[4:8] == b"ftyp":
        brand = head[8:12]
        if brand in {b"avif", b"heic", b"heix", b"mif1"}:
            return "image/avif" if brand == b"avif" else "image/heic"
        if brand.startswith(b"M4A"):
            return "audio/mp4"
        return "video/quicktime" if brand == b"qt  " else "video/mp4"
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0:
        return "audio/mpeg"
    return None


def check_input(head: bytes, size: int, *, name: str, field: str | None = None) -> str:
    """Return the media type of a file for a field; refuse an empty, too large or unknown one."""
    place = f"{field}: " if field else ""
    if size == 0:
        msg = f"{place}{name} is empty. Nothing was uploaded or paid."
        raise InvalidRequestError(msg)
    mime = recognise(head)
    if mime is None:
        msg = f"{place}{name} is not a known image, video or sound by its first bytes. Nothing was uploaded or paid."
        raise InvalidRequestError(msg)
    kind: Any = mime.partition("/")[0]
    wanted = FIELDS.get(field) if field else None
    if wanted is not None and wanted != kind:
        msg = f"{place}{name} is {mime}, and this field takes {wanted}s. Nothing was uploaded or paid."
        raise InvalidRequestError(msg)
    limit = LIMITS[kind]
    if size > limit:
        msg = f"{place}{name} has {size:,} bytes; at most {limit:,} are uploaded. Make it smaller, or pass a URL."
        raise InvalidRequestError(msg)
    return mime


def encode_upload(
    *, model: str, filename: str, mime: str, blocks: tuple[bytes, ...], boundary: str
) -> tuple[tuple[bytes, ...], str]:
    """Encode a multipart body in blocks that are never joined; return it with its content type."""
    clean = re.sub(r'[\x00-\x1f\x7f"\\/]+', "_", filename)[:200] or "file"
    edge = f"--{boundary}\r\n"
    head = (
        f'{edge}Content-Disposition: form-data; name="model"\r\n\r\n{model}\r\n'
        f'{edge}Content-Disposition: form-data; name="file"; filename="{clean}"\r\nContent-Type: {mime}\r\n\r\n'
    )
    body = (head.encode("utf-8", "replace"), *blocks, f"\r\n--{boundary}--\r\n".encode())
    return body, f"multipart/form-data; boundary={boundary}"


def read_asset(body: bytes, *, model: str | None = None, sha256: str | None = None) -> Asset | None:
    """Return the resource in the answer to an upload or to a poll of its review, or ``None``."""
    try:
        root: object = decode_json(body)
    except BROKEN_JSON:
        return None
    if not isinstance(root, dict):
        return None
    data = root.get("data")
    place = data if isinstance(data, dict) else root
    identifier = place.get("id")
    if isinstance(identifier, int) and not isinstance(identifier, bool):
        identifier = str(identifier)
    uri = _text(place, "upstream_asset_uri", "asset_uri", "uri")
    url = _text(place, "gcs_url", "public_url", "url")
    if not isinstance(identifier, str) and uri is None and url is None:
        return None
    return Asset(
        uri=uri,
        id=identifier if isinstance(identifier, str) else None,
        url=url,
        status=_text(place, "upstream_status", "status"),
        sha256=sha256,
        model=model,
    ).with_extras(reason_=_text(place, "fail_reason", "reason", "error", "message"))


def classify_review(word: str | None) -> ReviewState:
    """Classify the state of an uploaded resource; an unknown one is pending."""
    lowered = (word or "").lower()
    if lowered in {"active", "success", "succeeded", "completed", "ready"}:
        return "active"
    return "refused" if lowered in {"failed", "rejected", "error", "expired"} else "pending"


def choose_address(asset: Asset, field: str) -> str:
    """Choose an asset's URL for a field: its ``asset://`` URL for references, else its public one."""
    ordered = (asset.uri, asset.url) if field in REFERENCES else (asset.url, asset.uri)
    for address in ordered:
        if address:
            return address
    msg = f"{field}: this asset has no address; upload it with `await router.upload(...)` first."
    raise InvalidRequestError(msg)


def _text(place: dict[str, Any], *names: str) -> str | None:
    return next((place[name] for name in names if isinstance(place.get(name), str) and place[name]), None)
