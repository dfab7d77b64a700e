"""Names of files: what a URL suggests, made harmless; numbers; the hidden names that a transfer uses beside it.

It decides names only and never looks at a disk.
"""

from __future__ import annotations

import re
import unicodedata
from hashlib import sha256
from urllib.parse import unquote, urlsplit

MAX_NAME_BYTES = 150
"""Leaves room for a number, ``.rejected`` and the hidden names within the 255 bytes of common file systems."""

_SEPARATORS = re.compile("[/\\\\\u2215\u2044\uff0f\uff3c]")
_RESERVED = re.compile(r'[<>:"|?*]')
_DEVICE = re.compile(r"(con|prn|aux|nul|clock\$|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])", re.IGNORECASE)
_PART = re.compile(r"\.[0-9a-f]{32}\.part")


def name_video(url: str | None, fallback: str | None = None) -> str:
    """A file name for what lies at a URL.

    Args:
        url: Its last path segment is decoded once, and what stands behind its last separator is used.
        fallback: What to call it when the URL has no name, such as a video id.

    Returns:
        A name without separators, control characters, leading dots and device names, ending in ``.mp4``.
    """
    path = ""
    if url is not None:
        try:
            path = urlsplit(url).path
        except ValueError:
            path = ""
    segment = path.rstrip("/").rpartition("/")[2]
    for text in (unquote(segment, errors="replace"), fallback or "", "video"):
        name = clean_name(text)
        if name:
            return name
    return "video.mp4"


def clean_name(text: str) -> str:
    """A harmless file name ending in ``.mp4``; empty when nothing is left of it."""
    text = unicodedata.normalize("NFC", text)
    text = _SEPARATORS.split(text.rstrip("/\\"))[-1]
    text = "".join(char for char in text if unicodedata.category(char)[0] != "C" and char != "\ufffd")
    text = _RESERVED.sub("_", text)
    text = " ".join(text.split()).rstrip(". ")
    stem = text[:-4] if text.lower().endswith(".mp4") else text
    stem = stem.lstrip(". -~").rstrip(". ")
    if not stem:
        return ""
    if _DEVICE.fullmatch(stem.partition(".")[0].rstrip(" ")):
        stem = f"_{stem}"
    stem = stem.encode()[:MAX_NAME_BYTES].decode(errors="ignore").rstrip(". ")
    return f"{stem}.mp4"


def number_name(name: str, number: int) -> str:
    """``otter.mp4`` -> ``otter-2.mp4``: one of several videos of one result."""
    stem, dot, suffix = name.rpartition(".")
    return f"{stem}-{number}.{suffix}" if stem and dot else f"{name}-{number}"


def free_name(name: str, attempt: int) -> str:
    """``otter.mp4`` -> ``otter.2.mp4``: another file has the name already."""
    stem, dot, suffix = name.rpartition(".")
    return f"{stem}.{attempt}.{suffix}" if stem and dot else f"{name}.{attempt}"


def rejected_name(name: str) -> str:
    """Where bytes stand that failed the check."""
    return f"{_short(name, 240)}.rejected"


def sidecar_name(name: str) -> str:
    """The hidden file that locks a destination and remembers how far a transfer got."""
    return f".{_short(name, 200)}.resume"


def part_name(name: str, token: str) -> str:
    """The temporary file: ``token`` is 32 hex digits that nobody can guess."""
    return f".{_short(name, 200)}.{token}.part"


def is_part_of(name: str, part: object) -> bool:
    """Whether a sidecar's word for the temporary file can be believed."""
    stem = f".{_short(name, 200)}"
    return isinstance(part, str) and part.startswith(stem) and bool(_PART.fullmatch(part[len(stem) :]))


def _short(name: str, most: int) -> str:
    raw = name.encode(errors="surrogateescape")
    return name if len(raw) <= most else sha256(raw).hexdigest()[:40]
