"""Reads the videos that an answer lists: as URLs, or as base64.

A URL is read as curl reads it, with a space, an upper-case scheme or white space around it, and returned in a form that
any client can use. Unusable ones are named, never dropped. This file knows nothing of states and errors.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from videorouter.http import split_url
from videorouter.models import Video

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_URL_CHARS = 4096
MAX_ID_CHARS = 4096
"""Longer values are not accepted as ids, which go into URLs, messages and journals."""
_PLAIN_URL = re.compile(r"https?://[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[0-9]{1,4})?(?:[/?#][!-~]*)?")
_LOOSE_URL = re.compile(r"(https?)://([^/?#\s]+)((?:[/?#][^\x00-\x1f\x7f]*)?)", re.IGNORECASE)
_MOST_NAMED = 20
"""Addresses that cannot be used and are named."""
_STANDARD_ALPHABET = bytes.maketrans(b"-_", b"+/")
_SHORTEST_LOOSE = 64
"""Characters of base64 in any alphabet and wrapping: a short word would read as base64, too, and no video is so short."""


def clean_url(url: object) -> str | None:
    """Normalise a URL in an answer: http(s) with a host, at most 4,096 characters; else ``None``."""
    if not isinstance(url, str):
        return None
    if len(url) <= MAX_URL_CHARS and _PLAIN_URL.fullmatch(url):
        return url
    url = url.strip()
    found = _LOOSE_URL.fullmatch(url) if len(url) <= MAX_URL_CHARS else None
    if found is None:
        return None
    scheme, host, path = found.groups()
    url = f"{scheme.lower()}://{host}{path.replace(' ', '%20')}"
    parts = split_url(url)
    unread = "\ufffd" in url or any("\ud800" <= char <= "\udfff" for char in url)
    return url if parts and parts.hostname and not unread and len(url) <= MAX_URL_CHARS else None


def read_id(value: object) -> str | None:
    """Read an opaque id: any text, or an integer."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        value = str(value)
    if not isinstance(value, str) or not value.strip() or "\ufffd" in value:
        return None
    return value if len(value) <= MAX_ID_CHARS else None


class FoundVideos(NamedTuple):
    """The videos that an answer lists, and its unusable URLs: ``""`` where one is missing."""

    videos: tuple[Video, ...]
    unusable: tuple[str, ...] = ()


def read_videos(items: Iterable[object], request: bytes | None) -> FoundVideos:
    """Read a list of URLs, or of objects with ``url`` or ``b64_json``."""
    videos: list[Video] = []
    unusable: list[str] = []
    for item in items:
        fields = item if isinstance(item, dict) else {"url": item}
        found = _video(fields)
        if found is not None:
            videos.append(found)
        elif len(unusable) < _MOST_NAMED:
            url = fields.get("url")
            unusable.append(url[:200] if isinstance(url, str) else "")
    return FoundVideos(leave_out(tuple(videos), request), tuple(unusable))


def _video(item: dict[str, Any]) -> Video | None:
    video_id = read_id(item.get("video_id"))
    revised = item.get("revised_prompt")
    revised = revised if isinstance(revised, str) else None
    url = clean_url(item.get("url"))
    if url is not None:
        return Video(url=url, video_id=video_id, revised_prompt=revised)
    data = _base64(item.get("b64_json"))
    if data is None:
        return None
    mime = item.get("mime_type")
    video = Video(video_id=video_id, revised_prompt=revised, mime_type=mime if isinstance(mime, str) else "video/mp4")
    return video.with_extras(data_=data)


def read_inline(root: dict[str, Any]) -> Video | None:
    """Read an answer that is one base64 video: ``{"data": "<base64>", "mime_type": ...}`` or ``b64_json``."""
    for text in (root.get("data"), root.get("b64_json")):
        if isinstance(text, str):
            return _video({**root, "url": None, "b64_json": text})
    return None


def _base64(text: object) -> bytes | None:
    if not isinstance(text, str) or not text:
        return None
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        coded = text.encode("ascii")
        if len(coded) >= _SHORTEST_LOOSE:
            coded = coded.translate(_STANDARD_ALPHABET, b" \t\r\n").rstrip(b"=")
            coded += b"=" * (-len(coded) % 4)
        return base64.b64decode(coded, validate=True) or None
    except (binascii.Error, ValueError):
        return None


def read_outputs(place: dict[str, Any], root: dict[str, Any], request: bytes | None) -> FoundVideos:
    """Return the videos of a task, from the first place that has any."""
    urls = place.get("urls")
    outputs = place.get("outputs")
    candidates: tuple[list[object], ...] = (
        _listed(urls.get("video") if isinstance(urls, dict) else None),
        _listed(place.get("video_url")),
        _listed(root.get("video_url")),
        _listed(outputs),
        _listed(place.get("output")),
    )
    unusable: tuple[str, ...] = ()
    for candidate in candidates:
        found = read_videos(candidate, request)
        if len(found.videos) == 1:
            return found._replace(videos=(_named(found.videos[0], place),))
        if found.videos:
            return found
        unusable += found.unusable
    inline = _video({**place, "url": None})
    return FoundVideos((inline,)) if inline else FoundVideos((), unusable)


def _named(video: Video, place: dict[str, Any]) -> Video:
    video_id = read_id(place.get("video_id"))
    revised = place.get("revised_prompt")
    if video.video_id is not None or (video_id is None and revised is None):
        return video
    revised = revised if isinstance(revised, str) else video.revised_prompt
    return video.replace(video_id=video_id, revised_prompt=revised)


def _listed(value: object) -> list[object]:
    if isinstance(value, list):
        return value
    return [] if value is None else [value]


def leave_out(videos: tuple[Video, ...], request: bytes | None) -> tuple[Video, ...]:
    """Drop URLs that only echo the request's inputs."""
    if not videos or request is None or b"://" not in request:
        return videos
    sent: set[str] = set()
    places: list[object] = [msgspec.json.decode(request)]
    while places:
        place = places.pop()
        if isinstance(place, str):
            sent.add(clean_url(place) or place)
        elif isinstance(place, dict):
            places.extend(place.values())
        elif isinstance(place, list):
            places.extend(place)
    return tuple(video for video in videos if video.url not in sent)
