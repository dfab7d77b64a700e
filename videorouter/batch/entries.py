"""Reads the entries of a batch's input: prompts, dicts, pairs, structs, edits and chains.

Gateway fields pass through untouched; only the few fields of a batch itself are taken out. An unreadable entry is an
error of that entry alone. This file reads no files.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from videorouter.call.requests import Verb
from videorouter.errors import InvalidRequestError
from videorouter.models import BatchItem, Task, Video, VideoResult
from videorouter.plain import as_number, as_text

MAX_ID = 200
_OWN = frozenset({"id", "prompt", "edit_of", "video", "video_id", "then", "meta"})
_PLAIN = frozenset({"id", "prompt", "meta"})
_GATEWAY = (
    *("model", "image_url", "start_image_url", "end_image_url", "image_urls", "video_urls", "audio_urls"),
    *("duration", "aspect_ratio", "resolution", "generate_audio", "seed", "n", "output_format"),
    *("timeout", "max_retries", "extra_headers", "extra_body", "idempotency_key"),
)
FIELDS = _OWN.union(_GATEWAY)
"""The documented fields of an entry: columns of a table that are none of these are the user's own."""
WHOLE_NUMBERS = frozenset({"seed", "n"})
"""Fields that tables often hold as 42.0."""
_NAMELESS = re.compile(r"entry@\d+(/\d+)?")


class Entry(msgspec.Struct):
    """One entry of a batch's input.

    ``video`` is the video to edit; ``parent`` is the id of the item whose video is edited; ``then`` are edits of this
    entry's own video, one after the other; ``meta`` is the caller's own and is never sent; ``broken`` says why it could not be read.
    """

    prompt: object
    verb: Verb = "generate"
    options: dict[str, Any] | None = None
    id: str | None = None
    video: object = None
    parent: str | None = None
    then: tuple[Entry, ...] = ()
    meta: Any = None
    broken: InvalidRequestError | None = None


def read_entry(raw: object, verb: Verb = "generate") -> Entry:
    """Read one entry: a prompt, a mapping, a dataclass, a struct, or for edits a pair of video and prompt."""
    if isinstance(raw, str):
        if verb == "edit":
            raise InvalidRequestError(
                "An edit needs a video and a prompt: give pairs (video, prompt), or dicts with `video` and `prompt`."
            )
        return Entry(prompt=raw)
    if type(raw) is dict or isinstance(raw, Mapping):
        return _read_mapping(raw, verb)
    if isinstance(raw, tuple | list) and len(raw) == 2 and verb == "edit":
        return Entry(verb="edit", video=raw[0], prompt=raw[1])
    if isinstance(raw, msgspec.Struct) and not isinstance(raw, BatchItem | Task | Video | VideoResult):
        return _read_mapping(_drop_empty(msgspec.structs.asdict(raw)), verb)
    if dataclasses.is_dataclass(raw):
        return _read_mapping(
            _drop_empty({field.name: getattr(raw, field.name) for field in dataclasses.fields(raw)}), verb
        )
    expected = "a pair (video, prompt) or a dict" if verb == "edit" else "a prompt or a dict"
    raise InvalidRequestError(f"An entry of this batch must be {expected}, not {type(raw).__name__}.")


def name_refused(index: int, step: int = 0) -> str:
    """Name a refused entry that has no id of its own. The name cannot collide with a caller's."""
    return f"entry@{index}/{step}" if step else f"entry@{index}"


def find_id(raw: object) -> str | None:
    """Return the id of an unreadable entry, if that much is readable; it never raises."""
    try:
        return _check_id(raw.get("id"), "id") if isinstance(raw, Mapping) else None
    except Exception:  # noqa: BLE001  a mapping of the caller's may do anything
        return None


def _drop_empty(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None and value is not msgspec.UNSET}


def _read_mapping(raw: Mapping[Any, Any], verb: Verb) -> Entry:
    own: dict[str, Any] = {}
    options: dict[str, Any] = {}
    for name, value in raw.items():
        if name in _OWN:
            own[name] = value
        elif isinstance(name, str):
            options[name] = value
        else:
            raise InvalidRequestError(f"Field names must be text, not {name!r}.")
    meta = own.get("meta")
    if meta is not None:
        _check_meta(meta)
    if verb == "generate" and own.keys() <= _PLAIN:
        return Entry(prompt=own.get("prompt"), options=options or None, id=_check_id(own.get("id"), "id"), meta=meta)
    then = raw.get("then") or ()
    if isinstance(then, str | Mapping):
        then = (then,)
    if not isinstance(then, list | tuple):
        raise InvalidRequestError(f"`then` must be a list of edits, not {type(then).__name__}.")
    parent = raw.get("edit_of")
    video = raw.get("video")
    if video is None:
        video = raw.get("video_id")
    if parent is not None and video is not None:
        raise InvalidRequestError("An entry has either edit_of (an item of this batch) or video, not both.")
    builds_on = parent is not None or video is not None
    if verb == "edit" and not builds_on:
        raise InvalidRequestError(
            "An edit needs `video` (a result, a video or a video_id), or `edit_of` (an item's id)."
        )
    return Entry(
        prompt=raw.get("prompt"),
        verb="edit" if builds_on else "generate",
        options=options or None,
        id=_check_id(raw.get("id"), "id"),
        video=video,
        parent=_check_id(parent, "edit_of"),
        then=tuple(_read_step(step, raw.get("model"), meta) for step in then),
        meta=meta,
    )


def _read_step(raw: object, model: object, meta: object) -> Entry:
    """Read a step; without a model or a ``meta`` of its own it gets those of the video that it edits."""
    if isinstance(raw, str):
        raw = {"prompt": raw}
    if not isinstance(raw, Mapping):
        raise InvalidRequestError(f"A step of `then` must be a prompt or a dict, not {type(raw).__name__}.")
    if any(raw.get(name) is not None for name in ("edit_of", "video", "video_id", "then")):
        raise InvalidRequestError("A step of `then` edits the video before it: it takes no video, edit_of or then.")
    options = {str(name): value for name, value in raw.items() if name not in _OWN}
    if model is not None:
        options.setdefault("model", model)
    own = raw.get("meta")
    if own is not None:
        _check_meta(own)
    return Entry(
        verb="edit",
        prompt=raw.get("prompt"),
        options=options or None,
        id=_check_id(raw.get("id"), "id"),
        meta=meta if own is None else own,
    )


def _check_meta(value: object) -> None:
    try:
        msgspec.json.encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequestError(f"meta is your own and is kept as JSON: {error}.") from error


def _check_id(value: object, name: str) -> str | None:
    if value is None:
        return None
    text = value if type(value) is str else as_text(value)
    if text == "":
        return None
    if text is None and isinstance(number := as_number(value), int):
        text = str(number)
    if text is None or not text.strip() or len(text) > MAX_ID or not text.isprintable():
        raise InvalidRequestError(f"{name} must be 1 to {MAX_ID} printable characters, not {value!r}.")
    if _NAMELESS.fullmatch(text):
        raise InvalidRequestError(f"{name} {text!r} is what a refused entry without an id is called: choose another.")
    return text
