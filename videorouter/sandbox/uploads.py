"""Uploads, their review, and the pictures that a generation starts from.

Nothing is ever fetched from another host: a URL that the sandbox does not hold itself is kept as a name.
"""

from __future__ import annotations

import base64
import binascii
import email.parser
import time
from dataclasses import dataclass
from email.message import Message
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, unquote_to_bytes, urlsplit

from videorouter.sandbox.answers import RefusalError, write_asset
from videorouter.sandbox.requests import read_object

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aiohttp import web

    from videorouter.sandbox.delivery import Answer
    from videorouter.sandbox.faults import Fault
    from videorouter.sandbox.settings import Settings
    from videorouter.sandbox.store import Store, StoredAsset

REVIEWS = {"failed_review", "rejected_review"}
PICTURE_FIELDS = ("image_url", "start_image_url", "end_image_url", "image_urls")
_OTHER_FIELDS = ("video_urls", "audio_urls", "video_url", "audio_url")
_SECONDS = {"instant": 0.0, "quick": 0.3, "realistic": 8.0}


@dataclass(frozen=True, kw_only=True, slots=True)
class Upload:
    """A file that somebody sends, before it is accepted."""

    model: str
    name: str
    data: bytes | None
    source: str | None


async def read_upload(request: web.BaseRequest, body: bytes, store: Store, files_url: str) -> Upload:
    """Return what an upload carries, from a multipart form or from JSON with a URL.

    Args:
        request: The request, for its content type.
        body: Its body.
        store: Where the sandbox's own files are.
        files_url: Their origin.

    Raises:
        RefusalError: A field is missing or cannot be read.
    """
    if request.content_type == "multipart/form-data":
        return _read_form(request.headers["Content-Type"], body)
    given = read_object(body)
    model, url = given.get("model"), given.get("file")
    if not model or not isinstance(model, str):
        raise RefusalError(400, "model is required.", param="model")
    if not url or not isinstance(url, str):
        raise RefusalError(400, "file is required: a file of a form, or a URL.", param="file")
    if not url.startswith(("http://", "https://", "data:")):
        raise RefusalError(422, f"file must be an http(s) URL, got {url[:80]!r}.", param="file")
    data = read_data_url(url) if url.startswith("data:") else find_held(url, store, files_url)
    name = unquote(urlsplit(url).path.rsplit("/", 1)[-1]) if not url.startswith("data:") else "data"
    return Upload(model=model, name=name, data=data, source=None if url.startswith("data:") else url)


def _read_form(content_type: str, body: bytes) -> Upload:
    model, name, data = "", "", None
    for head, content in _split_form(content_type, body):
        field = head.get_param("name", header="content-disposition")
        if field == "model":
            model = content.decode("utf-8", "replace").strip()
        elif field == "file":
            name, data = head.get_filename() or "file", content
    if not model:
        raise RefusalError(400, "model is required.", param="model")
    if data is None:
        raise RefusalError(400, "file is required: a file of a form, or a URL.", param="file")
    if not data:
        raise RefusalError(400, "The file is empty.", param="file")
    return Upload(model=model, name=name, data=data, source=None)


def _split_form(content_type: str, body: bytes) -> Iterator[tuple[Message, bytes]]:
    whole = Message()
    whole["Content-Type"] = content_type
    boundary = whole.get_boundary()
    if not boundary:
        raise RefusalError(400, "The multipart body has no boundary.")
    # By hand, on bytes: the standard library's mail parser is made for lines of text, not for files.
    mark = b"\r\n--" + boundary.encode("latin-1", "replace")
    for piece in (b"\r\n" + body).split(mark)[1:]:
        if piece.startswith(b"--"):
            return
        head, _, content = piece.partition(b"\r\n\r\n")
        yield email.parser.BytesHeaderParser().parsebytes(head.lstrip(b"\r\n") + b"\r\n\r\n"), content


def accept_upload(upload: Upload, store: Store, settings: Settings, fault: Fault | None, files_url: str) -> Answer:
    """Keep an upload, begin its review and return the answer.

    Args:
        upload: What was sent.
        store: Where to keep it.
        settings: They say how long the review takes.
        fault: What the review will find.
        files_url: Origin of the public URL.
    """
    now = time.time()
    mime = guess_type(upload.data) if upload.data is not None else "application/octet-stream"
    verdict, reason = "Active", None
    if fault is not None and fault.kind in REVIEWS:
        verdict = "Failed" if fault.kind == "failed_review" else "Rejected"
        reason = fault.reason or ("The file could not be read." if verdict == "Failed" else "Refused by the review.")
    elif upload.data is not None and mime == "application/octet-stream":
        verdict, reason = "Failed", "The file is neither a picture nor a video nor a sound."
    wait = _SECONDS[settings.profile] / settings.speed if settings.review is None else settings.review
    asset = store.add_asset(
        name=upload.name,
        mime=mime,
        data=upload.data,
        source=upload.source,
        model=upload.model,
        created=now,
        ready=now + wait,
        verdict=verdict,
        reason=reason,
    )
    return write_asset(asset, state="Processing", url=_url_of(asset, files_url))


def show_review(number: str, store: Store, files_url: str) -> Answer:
    """Return the state of an upload's review.

    Args:
        number: Its id, as the path has it.
        store: Where it is kept.
        files_url: Origin of its public URL.

    Raises:
        RefusalError: There is no such upload.
    """
    asset = store.find_asset(number=int(number)) if number.isdecimal() and len(number) < 16 else None
    if asset is None:
        raise RefusalError(404, f"The resource {number!r} is not known.")
    return write_asset(asset, state=asset.state(time.time()), url=_url_of(asset, files_url))


def _url_of(asset: StoredAsset, files_url: str) -> str:
    return f"{files_url}/asset/{asset.file}"


def check_pictures(store: Store, body: dict[str, Any]) -> None:
    """Refuse a request that refers to an upload which is unknown or not usable.

    Args:
        store: Where uploads are kept.
        body: The request.

    Raises:
        RefusalError: It refers to one.
    """
    for name in (*PICTURE_FIELDS, *_OTHER_FIELDS):
        value = body.get(name)
        for url in value if isinstance(value, list) else [value]:
            if not isinstance(url, str) or not url.startswith("asset://"):
                continue
            asset = store.find_asset(uri=url)
            state = "unknown" if asset is None else asset.state(time.time())
            if state != "Active":
                raise RefusalError(422, f"{name}: the asset {url!r} is {state.lower()}, it must be active.", param=name)


def find_held(url: str, store: Store, files_url: str) -> bytes | None:
    """Return the bytes of a picture that the sandbox holds itself, else ``None``.

    Args:
        url: ``asset://``, ``data:``, or a URL of the sandbox's own files.
        store: Where uploads are kept.
        files_url: Origin of those files.
    """
    if url.startswith("data:"):
        try:
            return read_data_url(url)
        except RefusalError:
            return None
    if url.startswith("asset://"):
        asset = store.find_asset(uri=url)
    elif url.startswith(f"{files_url}/asset/"):
        asset = store.find_asset(file=urlsplit(url).path.rsplit("/", 1)[-1])
    else:
        return None
    return None if asset is None else asset.data


def read_data_url(url: str) -> bytes:
    """Return the bytes of a ``data:`` URL.

    Args:
        url: The URL.

    Raises:
        RefusalError: It cannot be read.
    """
    head, comma, data = url.partition(",")
    if not comma:
        raise RefusalError(422, "The data: URL has no comma.", param="file")
    try:
        if head.endswith(";base64"):
            return base64.b64decode(unquote_to_bytes(data), validate=True)
        return unquote_to_bytes(data)
    except (binascii.Error, ValueError) as error:
        raise RefusalError(422, f"The data: URL cannot be read: {error}.", param="file") from error


def guess_type(data: bytes) -> str:
    """Return the media type that the first bytes of a file show.

    Args:
        data: The file.
    """
    for start, mime in (
        (b"\x89PNG\r\n\x1a\n", "image/png"),
        (b"\xff\xd8\xff", "image/jpeg"),
        (b"GIF8", "image/gif"),
        (b"BM", "image/bmp"),
        (b"\x1a\x45\xdf\xa3", "video/webm"),
        (b"ID3", "audio/mpeg"),
        (b"\xff\xfb", "audio/mpeg"),
        (b"OggS", "audio/ogg"),
        (b"fLaC", "audio/flac"),
    ):
        if data.startswith(start):
            return mime
    if data[:4] == b"RIFF":
        return {b"WEBP": "image/webp", b"WAVE": "audio/wav", b"AVI ": "video/x-msvideo"}.get(
            data[8:12], "application/octet-stream"
        )
    if data[4:8] == b"ftyp":
        return "image/avif" if data[8:12] in {b"avif", b"heic", b"mif1"} else "video/mp4"
    return "application/octet-stream"
