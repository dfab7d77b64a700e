"""What a POST asks for, read out of its body once and checked as the gateway checks it.

Fields that it does not know are kept untouched. This file never performs I/O.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from videorouter.sandbox.answers import RefusalError
from videorouter.sandbox.catalogue import find_model, read_duration

_MOST_TAKES = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoRequest:
    """A generation or an edit that somebody asks for.

    Attributes:
        kind: ``generation`` or ``edit``.
        model: The model id.
        prompt: The prompt.
        video_id: The video to edit.
        seconds: The length asked for.
        takes: How many videos.
        body: The whole request.
    """

    kind: str
    model: str
    prompt: str
    video_id: str | None
    seconds: float | None
    takes: int
    body: dict[str, Any]


def read_request(raw: bytes, *, kind: str, strict: bool) -> VideoRequest:
    """Return what a POST asks for.

    Args:
        raw: Its body.
        kind: ``generation`` or ``edit``.
        strict: Whether an unknown model id is refused.

    Raises:
        RefusalError: It cannot be read, or a field is missing or wrong.
    """
    body = read_object(raw)
    model = _need_text(body, "model")
    prompt = _need_text(body, "prompt")
    video_id = _need_text(body, "video_id") if kind == "edit" else None
    wanted = body.get("output_format", "url")
    if wanted != "url":
        raise RefusalError(422, f"output_format must be 'url', got {wanted!r}.", param="output_format")
    known = find_model(model)
    if known is None and strict:
        raise RefusalError(404, f"The model {model!r} does not exist. GET /v1/models lists them.", param="model")
    if known is not None and known.category != "video":
        raise RefusalError(400, f"The model {model!r} makes no videos.", param="model")
    try:
        seconds = read_duration(body.get("duration"), model)
    except ValueError as error:
        raise RefusalError(422, f"{error}.", param="duration") from error
    takes = body.get("n", 1)
    if isinstance(takes, bool) or not isinstance(takes, int) or not 1 <= takes <= _MOST_TAKES:
        raise RefusalError(422, f"n must be a whole number from 1 to {_MOST_TAKES}, got {takes!r}.", param="n")
    return VideoRequest(
        kind=kind, model=model, prompt=prompt, video_id=video_id, seconds=seconds, takes=takes, body=body
    )


def read_object(raw: bytes) -> dict[str, Any]:
    """Return the JSON object that a body holds.

    Args:
        raw: The body.

    Raises:
        RefusalError: It holds none.
    """
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise RefusalError(400, f"The body is not JSON: {error}.") from error
    if not isinstance(body, dict):
        raise RefusalError(400, "The body must be a JSON object.")
    return body


def _need_text(body: dict[str, Any], name: str) -> str:
    value = body.get(name)
    if value is None or value == "":
        raise RefusalError(400, f"{name} is required.", param=name)
    if not isinstance(value, str):
        raise RefusalError(422, f"{name} must be text, got {type(value).__name__}.", param=name)
    if not value.strip():
        raise RefusalError(400, f"{name} is required.", param=name)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise RefusalError(400, f"{name} is not valid Unicode: {error}.", param=name) from error
    return value
