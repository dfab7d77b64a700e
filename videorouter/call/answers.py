"""Encodes a request, and reads an answer as a result, a task or an error.

Ordered rules classify an answer:

1. a status that is not 2xx is an error;
2. a 2xx with an ``error`` object is an error;
3. a 2xx with a root ``code`` that reads as an int of 400 or more is an error;
4. ``data`` as a list with at least one item that has a URL or inline bytes is a finished result;
5. ``data`` (or the root) as an object with ``task_id``, else ``id``, is a task, finished at once when it is already
   final and carries outputs;
6. ``data`` null, missing or an empty list is an empty result;
7. anything else, or not JSON, is an unexpected response.

Fields that are unknown are ignored and stay reachable in ``raw``. This file never validates a model id or a field's
value, and never drops evidence: an unusable answer is returned as :class:`Unusable` with its bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set as AbstractSet
from decimal import Decimal
from enum import Enum
from typing import Any, Literal, final

import msgspec

from videorouter.call.videos import FoundVideos, clean_url, leave_out, read_id, read_inline, read_outputs, read_videos
from videorouter.errors import InvalidRequestError
from videorouter.lenient_json import BROKEN_JSON, decode_json, is_swollen
from videorouter.models import Task, TaskStatus, Video, VideoResult
from videorouter.plain import as_value

MAX_ANSWER_BYTES = 4 * 2**20
_MOST_DOLLARS = 1e6
"""The highest number that counts as a price: a larger one must not spend a batch's money."""
PENDING = frozenset(
    {
        "created",
        "accepted",
        "submitted",
        "scheduled",
        "not_start",
        "not_started",
        "queued",
        "in_queue",
        "pending",
        "waiting",
    }
)
PENDING |= {"starting", "started", "running", "in_progress", "processing", "preparing", "generating", "unknown"}
COMPLETED = frozenset({"completed", "complete", "succeeded", "succeed", "success", "finished", "done", "ready"})
FAILED = frozenset({"failed", "failure", "fail", "error", "cancelled", "canceled", "expired", "rejected", "moderated"})
FAILED |= {"timeout", "timed_out", "content_filter", "blocked", "aborted"}

Headers = tuple[tuple[bytes, bytes], ...]


@final
class ErrorAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """An answer that reports an error, in any shape that the gateway uses.

    ``status`` is the HTTP status; ``effective`` is the one that counts: the error's own code under a 2xx.
    """

    status: int
    effective: int
    message: str = ""
    code: int | str | None = None
    type: str | None = None
    param: str | None = None
    body: bytes = b""

    def __repr__(self) -> str:
        # A server may echo the key: what it sent shows in no traceback.
        return f"<ErrorAnswer {self.status}>"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("status", self.status)]


@final
class Unusable(msgspec.Struct, frozen=True, kw_only=True):
    """A 2xx without a usable result. ``urls`` are the URLs in it that could not be used, ``""`` where one was missing.

    ``completed`` is set when the answer reports a task that has ended.
    """

    status: int
    reason: str
    body: bytes = b""
    urls: tuple[str, ...] = ()
    completed: bool = False

    @property
    def url(self) -> str | None:
        """The first URL that could not be used."""
        return next((url for url in self.urls if url), None)

    def __repr__(self) -> str:
        # A server may echo the key: what it sent shows in no traceback.
        return f"<Unusable {self.status}>"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("status", self.status)]


Answer = VideoResult | Task | ErrorAnswer | Unusable


class _Item(msgspec.Struct):
    url: str
    revised_prompt: str | None = None
    video_id: str | None = None


class _Finished(msgspec.Struct):
    data: list[_Item]
    created: int | None = None
    code: Any = None
    error: Any = None
    cost: Any = None


_decode_finished = msgspec.json.Decoder(_Finished).decode
_TEXT = frozenset({str})


def encode_request(fields: Mapping[str, Any], extra: Mapping[str, Any] | None = None) -> bytes:
    """Encode a JSON body once: every attempt sends these very bytes.

    Fields that are ``None`` are left out; ``extra`` is the user's own, wins over them and keeps its ``None`` as null.
    """
    body = fields
    if extra or not _TEXT.issuperset(map(type, fields.values())):
        body = {name: value for name, value in fields.items() if value is not None} | dict(extra or {})
        for name, value in body.items():
            _check_value(name, value)
    try:
        return _encode(body)
    except InvalidRequestError:
        raise
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
        msg = f"The request cannot be written as JSON: {error}. Pass plain text, numbers, lists and objects."
        raise InvalidRequestError(msg) from error


def _encode_unusual(value: object) -> object:
    plain: object = as_value(value)
    _check_value(type(value).__name__, plain)
    return plain


_encode = msgspec.json.Encoder(enc_hook=_encode_unusual, decimal_format="number").encode


def _check_value(name: str, value: object, depth: int = 0) -> None:
    if value is None or isinstance(value, str | bool | int):
        return
    if isinstance(value, float):
        if not math.isfinite(value):
            msg = f"{name}={value!r} has no JSON form. Pass a finite number."
            raise InvalidRequestError(msg)
    elif isinstance(value, bytes | bytearray | memoryview):
        msg = f"{name} holds bytes, which have no JSON form here. Pass a URL, or base64 text if the model takes it."
        raise InvalidRequestError(msg)
    elif isinstance(value, Decimal):
        if not value.is_finite():
            msg = f"{name}={value!r} has no JSON form. Pass a finite number."
            raise InvalidRequestError(msg)
    elif isinstance(value, Enum):
        _check_value(name, value.value, depth)
    elif depth < 64 and isinstance(value, Mapping):
        for key, item in value.items():
            if isinstance(key, Decimal):
                msg = f"{name} has {key!r} for a key, which has no JSON form. Pass text."
                raise InvalidRequestError(msg)
            _check_value(f"{name}.{key}", item, depth + 1)
    elif depth < 64 and isinstance(value, Sequence | AbstractSet):
        for item in value:
            _check_value(name, item, depth + 1)


def read_post(
    status: int,
    body: bytes,
    *,
    model: str | None = None,
    request_id: str | None = None,
    idempotency_key: str | None = None,
    request: bytes | None = None,
) -> Answer:
    """Read the answer to a generation or an edit, by the ordered rules above."""
    named = request_id[:200] if request_id is not None else None
    if 200 <= status < 300 and not is_swollen(body):
        try:
            quick = _decode_finished(body)
        except BROKEN_JSON:
            quick = None
        if quick is not None and quick.code is None and quick.error is None and quick.data:
            found: list[Video] = []
            for item in quick.data:
                url = clean_url(item.url)
                if url is not None:
                    found.append(Video(url=url, video_id=item.video_id, revised_prompt=item.revised_prompt))
            videos = tuple(found)
            echoes = request is not None and request.find(b"://") >= 0 and leave_out(videos, request) != videos
            if len(videos) == len(quick.data) and not echoes:
                return _result(
                    videos,
                    model,
                    body,
                    created=quick.created,
                    cost=None if quick.cost is None else _cost(quick.cost),
                    request_id=named,
                    idempotency_key=idempotency_key,
                )
    return _name(_read_slowly(status, body, model, request), named, idempotency_key)


def _name(answer: Answer, request_id: str | None, idempotency_key: str | None) -> Answer:
    """Add the ids of its request to a result or a task."""
    if not isinstance(answer, VideoResult | Task):
        return answer
    named = answer.replace(request_id=request_id, idempotency_key=idempotency_key)
    if isinstance(named, Task) and named.result is not None:
        named = named.replace(result=_name(named.result, request_id, idempotency_key))
    return named


def _read_slowly(status: int, body: bytes, model: str | None, request: bytes | None) -> Answer:
    try:
        root: object = decode_json(body)
    except BROKEN_JSON as error:
        return refuse_broken(status, body, error)
    error_answer = find_error(status, root, body)
    if error_answer is not None:
        return error_answer
    if not isinstance(root, dict):
        return Unusable(status=status, reason="not an object", body=body)
    data = root.get("data")
    found: FoundVideos | None = None
    if isinstance(data, list) and data:
        found = read_videos(data, request)
        if not found.videos:
            return Unusable(status=status, reason="no usable URL", body=body, urls=found.unusable)
    elif (inline := read_inline(root)) is not None:
        found = FoundVideos((inline,))
    if found is not None:
        created, cost = _integer(root.get("created")), _cost(root.get("cost"))
        return _result(found.videos, model, body, unusable=found.unusable, created=created, cost=cost)
    for place in (data, root):
        if isinstance(place, dict):
            task = _read_task(place, root, body, model, request)
            if task is not None:
                return task
    if data is None or data == []:
        return Unusable(status=status, reason="empty", body=body)
    return Unusable(status=status, reason="unknown shape", body=body)


def _read_task(
    place: dict[str, Any], root: dict[str, Any], body: bytes, model: str | None, request: bytes | None
) -> Task | None:
    task_id = read_id(place.get("task_id")) or read_id(place.get("id"))
    if task_id is None:
        return None
    status = place.get("status")
    word = status if isinstance(status, str) else None
    result: VideoResult | None = None
    if classify_status(word) in {"completed", "unknown"}:
        found = read_outputs(place, root, request)
        if found.videos:
            cost = _cost(place.get("cost", root.get("cost")))
            result = _result(found.videos, model, body, unusable=found.unusable, cost=cost, task_id=task_id)
    urls = place.get("urls")
    query = urls.get("query") if isinstance(urls, dict) else None
    task = Task(id=task_id, model=model, result=result, status=word, poll_url=clean_url(query))
    return task.with_extras(raw_=body)


def read_task(
    status: int, body: bytes, *, task_id: str, model: str | None = None, request: bytes | None = None
) -> TaskStatus | ErrorAnswer | Unusable:
    """Read the answer to a poll. ``completed`` without a usable URL is :class:`Unusable`, not an endless poll.

    A URL beside an unknown state is the result. Beside a pending state it may be a placeholder: it is kept as
    ``candidate_``. A URL that only echoes ``request`` is neither.
    """
    try:
        root: object = decode_json(body)
    except BROKEN_JSON as error:
        return refuse_broken(status, body, error)
    place = _task_place(root)
    fields = root if isinstance(root, dict) else {}
    word = next((text for text in ((place or {}).get("status"), fields.get("status")) if isinstance(text, str)), None)
    state = classify_status(word)
    if not (200 <= status < 300 and state == "failed"):
        error_answer = find_error(status, root, body)
        if error_answer is not None:
            return error_answer
    if not isinstance(root, dict):
        return Unusable(status=status, reason="not an object", body=body)
    data = root.get("data")
    found = read_videos(data, request) if isinstance(data, list) else read_outputs(place or {}, root, request)
    cost = _cost((place or {}).get("cost", root.get("cost")))
    result: VideoResult | None = None
    if found.videos:
        created = _integer(root.get("created"))
        result = _result(
            found.videos, model, body, unusable=found.unusable, cost=cost, task_id=task_id, created=created
        )
    if result is not None and state in {"completed", "unknown"}:
        done = TaskStatus(task_id=task_id, state="completed", status=word, result=result, cost=cost)
        return done.with_extras(raw_=body)
    if state == "completed":
        reason = "completed without a usable URL"
        return Unusable(status=status, reason=reason, body=body, urls=found.unusable, completed=True)
    if state == "failed":
        failed = TaskStatus(
            task_id=task_id, state="failed", status=word, fail_reason=_reason(place or {}, root), cost=cost
        )
        return failed.with_extras(raw_=body)
    if place is None and data is None and word is None:
        return Unusable(status=status, reason="empty", body=body)
    pending = TaskStatus(task_id=task_id, state="pending", status=word, cost=cost)
    return pending.with_extras(raw_=body, candidate_=result)


def refuse_broken(status: int, body: bytes, error: Exception) -> ErrorAnswer | Unusable:
    """Classify an answer that is not JSON, by its status."""
    if 200 <= status < 300:
        return Unusable(status=status, reason=f"not JSON ({type(error).__name__})", body=body)
    return ErrorAnswer(status=status, effective=status, body=body)


def _task_place(root: object) -> dict[str, Any] | None:
    if not isinstance(root, dict):
        return None
    data = root.get("data")
    if isinstance(data, dict):
        return data
    return root if "status" in root or "video_url" in root else None


def classify_status(word: str | None) -> Literal["pending", "completed", "failed", "unknown"]:
    """Classify a task's state, ignoring case; a missing state is unknown, too."""
    known = (word or "").strip().lower().replace(" ", "_").replace("-", "_")
    if known in COMPLETED:
        return "completed"
    if known in FAILED:
        return "failed"
    return "pending" if known in PENDING else "unknown"


def find_error(status: int, root: object, body: bytes) -> ErrorAnswer | None:
    """Return the error in a decoded answer, by rules 1 to 3."""
    fields = root if isinstance(root, dict) else {}
    error = fields.get("error")
    code = fields.get("code")
    number = read_code(code)
    told = error if isinstance(error, dict) else {}
    if 200 <= status < 300:
        if not error and (number is None or number < 400):
            return None
        effective = read_code(told.get("code")) if told else number
        if effective is None or effective < 400:
            effective = number if number is not None and number >= 400 else 0
    else:
        effective = status
    message = next(
        (
            text
            for text in (told.get("message"), error, fields.get("message"), fields.get("detail"), fields.get("msg"))
            if isinstance(text, str) and text
        ),
        "",
    )
    kind = told.get("type", fields.get("type"))
    param = told.get("param")
    own = told.get("code", code)
    return ErrorAnswer(
        status=status,
        effective=effective,
        message=message,
        code=own if isinstance(own, int | str) and not isinstance(own, bool) else None,
        type=kind if isinstance(kind, str) and kind else None,
        param=param if isinstance(param, str) and param else None,
        body=body,
    )


def read_code(code: object) -> int | None:
    """Read an error code as an int, or ``None``."""
    if isinstance(code, bool):
        return None
    if isinstance(code, int):
        return code
    if isinstance(code, float) and code.is_integer():
        return int(code)
    if isinstance(code, str) and len(code) <= 8 and code.strip().isascii() and code.strip().isdigit():
        return int(code)
    return None


def _result(
    videos: tuple[Video, ...],
    model: str | None,
    body: bytes,
    *,
    unusable: tuple[str, ...] = (),
    created: int | None = None,
    cost: float | None = None,
    task_id: str | None = None,
    request_id: str | None = None,
    idempotency_key: str | None = None,
) -> VideoResult:
    if model is not None:
        for video in videos:
            video.__dict__["model_"] = model
    result = VideoResult(
        videos=videos,
        unusable=unusable,
        created=created,
        request_id=request_id,
        task_id=task_id,
        cost=cost,
        model=model,
        idempotency_key=idempotency_key,
    )
    result.__dict__["raw_"] = body
    return result


def _cost(value: object) -> float | None:
    if isinstance(value, dict):
        value = value.get("total_cost")
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        cost = float(value)
    except (ValueError, OverflowError):
        return None
    return cost if 0 <= cost <= _MOST_DOLLARS else None


def _integer(value: object) -> int | None:
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**53 else None


def _reason(place: dict[str, Any], root: dict[str, Any]) -> str | None:
    for value in (
        place.get("fail_reason"),
        place.get("error"),
        place.get("message"),
        root.get("error"),
        root.get("fail_reason"),
        root.get("message"),
    ):
        if isinstance(value, dict):
            value = value.get("message") or value.get("type")  # noqa: PLW2901  an error object names its reason
        if isinstance(value, str) and value:
            return value
    return None
