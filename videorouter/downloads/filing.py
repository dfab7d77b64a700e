"""The file name of a batch item: a template of the caller's, filled with words that can do no harm.

A name always stays inside the folder it is meant for, and a template must tell items apart. This file touches no disk.
"""

from __future__ import annotations

import hashlib
import re
import string
import unicodedata
from typing import TYPE_CHECKING

from videorouter.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

DEFAULT_NAME = "{index:06d}-{slug}.mp4"
FIELDS = ("index", "id", "slug", "model", "step", "video_id", "task_id")
MAX_SLUG = 48
_MAX_NAME = 200
_UNSAFE = re.compile(r"[^\w.-]+", re.ASCII)


def slugify(text: str, limit: int = MAX_SLUG) -> str:
    """A prompt as a few words that any file system takes."""
    plain = unicodedata.normalize("NFKD", text[:400]).encode("ascii", "ignore").decode().lower()
    words = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")
    if len(words) > limit:
        words = words[:limit].rsplit("-", 1)[0] or words[:limit]
    return words.strip("-") or "video"


def clean_word(text: str, limit: int = 80) -> str:
    """An id or a model as one word of a file name; when that loses something, a short digest keeps it apart."""
    word = _UNSAFE.sub("_", text).strip("._")[:limit]
    if word == text:
        return word
    return f"{word or 'x'}-{hashlib.blake2b(text.encode('utf-8', 'surrogatepass'), digest_size=4).hexdigest()}"


def check_template(template: str) -> str:
    """A template that can name every item of a batch.

    Raises:
        ConfigurationError: It is malformed, names an unknown field, leaves the folder, or cannot tell items apart.
    """
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
    """The relative path of one item's file."""
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
    return f"{folder}{slash}{stem[:_MAX_NAME]}.{ending}"
