"""Names of files: from a URL, from a batch's template, with numbers, and the hidden ones that a transfer uses beside it.

A name always stays inside the folder it is meant for. It decides names only and never looks at a disk.
"""

from __future__ import annotations

import re
import string
import unicodedata
from hashlib import blake2b, sha256
from itertools import count
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from videorouter.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DEFAULT_NAME = "{index:06d}-{slug}.mp4"
FIELDS = ("index", "id", "slug", "model", "step", "video_id", "task_id")
MAX_SLUG = 48

MAX_NAME_BYTES = 150
"""Leaves room for a number, ``.rejected`` and the hidden names within the 255 bytes of common file systems."""

_SEPARATORS = re.compile("[/\\\\\u2215\u2044\uff0f\uff3c]")
_RESERVED = re.compile(r'[<>:"|?*]')
_DEVICE = re.compile(r"(con|prn|aux|nul|clock\$|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])", re.IGNORECASE)
_NO_WORD = re.compile(r"[^\w.-]+")
_UNSAFE = re.compile(r"[^\w.-]+", re.ASCII)
_MAX_FILLED = 200
_ENDINGS = {"mp4": ".mp4", "mov": ".mov", "webm": ".webm", "mkv": ".mkv", "gif": ".gif"}
_PART = re.compile(r"\.[0-9a-f]{32}\.part")


def name_video(url: str | None, fallback: str | None = None) -> str:
    """Make a file name from a URL, or from ``fallback``: safe on every file system, ending in ``.mp4``."""
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
    """Make a harmless file name ending in ``.mp4``; empty when nothing is left of it."""
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


def join_words(text: str) -> str:
    """Make one file name without spaces from a prompt, an id or a URL's last part; never hidden, never empty."""
    words = _NO_WORD.sub("-", unicodedata.normalize("NFC", text).removesuffix(".mp4")).strip("-._")
    return f"{words[:60].strip('-._') or 'video'}.mp4"


def number_name(name: str, number: int, mark: str = "-") -> str:
    """``otter.mp4`` -> ``otter-2.mp4``."""
    stem, dot, suffix = name.rpartition(".")
    return f"{stem}{mark}{number}.{suffix}" if stem and dot else f"{name}{mark}{number}"


def number_paths(path: Path, mark: str = "-") -> Iterator[Path]:
    """Yield the path, then ``otter-2.mp4``, ``otter-3.mp4`` and so on, to search for a free one."""
    return (path.with_name(name) for name in number_names(path.name, mark))


def number_names(name: str, mark: str = "-") -> Iterator[str]:
    """Yield the name, then ``otter-2.mp4``, ``otter-3.mp4`` and so on."""
    yield name
    for number in count(2):
        yield number_name(name, number, mark)


def name_content(name: str, container: str) -> str:
    """Change ``otter.mp4`` to ``otter.webm`` for a file that is not an MP4."""
    stem, dot, suffix = name.rpartition(".")
    ending = _ENDINGS.get(container, ".mp4")
    if container == "mp4" or not stem or f"{dot}{suffix.lower()}" not in {*_ENDINGS.values(), ".m4v"} - {ending}:
        return name
    return f"{stem.removesuffix(ending)}{ending}"


def rejected_name(name: str) -> str:
    """Name the file for bytes that failed the check."""
    return f"{_short(name, 240)}.rejected"


def resume_file_name(name: str) -> str:
    """Name the hidden file that locks a destination and records how far a transfer got."""
    return f".{_short(name, 200)}.resume"


def part_name(name: str, token: str) -> str:
    """Name the temporary file; ``token`` is 32 random hex digits."""
    return f".{_short(name, 200)}.{token}.part"


def is_part_of(name: str, part: object) -> bool:
    """Whether a resume file may name this temporary file."""
    stem = f".{_short(name, 200)}"
    return isinstance(part, str) and part.startswith(stem) and bool(_PART.fullmatch(part[len(stem) :]))


def slugify(text: str, limit: int = MAX_SLUG) -> str:
    """Make a few words that any file system accepts from a prompt."""
    plain = unicodedata.normalize("NFKD", text[:400]).encode("ascii", "ignore").decode().lower()
    words = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")
    if len(words) > limit:
        words = words[:limit].rsplit("-", 1)[0] or words[:limit]
    return words.strip("-") or "video"


def clean_word(text: str, limit: int = 80) -> str:
    """Make one word of a file name from an id or a model; a short digest keeps shortened ones apart."""
    word = _UNSAFE.sub("_", text).strip("._")[:limit]
    if word == text:
        return word
    return f"{word or 'x'}-{blake2b(text.encode('utf-8', 'surrogatepass'), digest_size=4).hexdigest()}"


def check_template(template: str) -> str:
    """Check that a template can name every item of a batch."""
    used = {name for name in _fields_of(template) if name is not None}
    unknown = used - set(FIELDS)
    if unknown:
        raise ConfigurationError(f"name= knows {', '.join(FIELDS)}, not {', '.join(sorted(unknown))}.")
    if not used & {"index", "id"}:
        raise ConfigurationError("name= must hold {index} or {id}, or one item would overwrite another's video.")
    try:
        fill_template(template, index=0, item_id="x", prompt="x", model="x", step=0)
    except (ValueError, KeyError, IndexError, AttributeError, TypeError) as error:
        raise ConfigurationError(f"name={template!r} is not a usable template: {error}.") from error
    return template


def _fields_of(template: str) -> Iterator[str | None]:
    try:
        parts = list(string.Formatter().parse(template))
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"name={template!r} is not a usable template: {error}.") from error
    if template.startswith(("/", "\\", "~")) or any(part in {"..", ""} for part in re.split(r"[/\\]", template)):
        raise ConfigurationError(f"name={template!r} must be a relative name that stays inside save_to.")
    for _, name, form, _ in parts:
        if form and "{" in form:
            raise ConfigurationError(f"name={template!r}: a format must not hold fields.")
        yield name


def fill_template(
    template: str,
    *,
    index: int,
    item_id: str,
    prompt: str | None,
    model: str | None,
    step: int = 0,
    video_id: str | None = None,
    task_id: str | None = None,
) -> str:
    """Return the relative path of one item's file."""
    filled = template.format(
        index=index,
        id=clean_word(item_id),
        slug=slugify(prompt or ""),
        model=clean_word(model or "model"),
        step=step,
        video_id=clean_word(video_id or "none"),
        task_id=clean_word(task_id or "none"),
    )
    folder, slash, name = filled.rpartition("/")
    stem, dot, ending = name.rpartition(".")
    if not dot or not 1 <= len(ending) <= 5:
        stem, ending = name, "mp4"
    if step and "{step" not in template and "{id" not in template:
        stem = f"{stem}-then{step}"
    return f"{folder}{slash}{stem[:_MAX_FILLED]}.{ending}"


def _short(name: str, most: int) -> str:
    raw = name.encode(errors="surrogateescape")
    return name if len(raw) <= most else sha256(raw).hexdigest()[:40]
