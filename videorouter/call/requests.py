"""One request as a value: arguments checked, fields merged, bytes frozen; and notes on fields that models ignore.

Only what every request needs is checked (a prompt, a model, a video id): everything else passes through untouched, and
no model id is compared with any list. This file makes no keys and reads no clock.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from msgspec import UNSET

from videorouter.call.answers import encode_request
from videorouter.config import check_headers, check_timeout
from videorouter.errors import ConfigurationError, InvalidRequestError
from videorouter.models import BatchItem, Task, Video, VideoResult
from videorouter.plain import as_number, as_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Verb = Literal["generate", "edit"]
UNDELAYED_SECONDS = 0.1
"""Seconds within which a call has not waited for anything."""
PATHS: dict[Verb, str] = {"generate": "/videos/generations", "edit": "/videos/edits"}
_KEY = re.compile(r"[!-~]{1,255}")
OPTIONS = (
    *("timeout", "max_retries", "extra_headers", "extra_body", "idempotency_key"),
    *("models", "fallback_on_failure"),
)
"""Options of a call that are not fields of the gateway."""
_LEAST_NAME = 3


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """A paid request, complete: every attempt sends ``body`` as it is.

    ``timeout`` is in seconds, from dispatch to the finished result; ``waited`` says that some of it was spent before, by
    an upload or on another model.
    """

    verb: Verb
    model: str
    prompt: str
    body: bytes
    idempotency_key: str
    timeout: float
    max_retries: int
    headers: tuple[tuple[str, str], ...] = ()
    waited: bool = False

    @property
    def path(self) -> str:
        """The path below the base URL."""
        return PATHS[self.verb]


def build_submission(
    verb: Verb,
    prompt: object,
    options: Mapping[str, Any],
    *,
    idempotency_key: str,
    model: str | None = None,
    timeout: float,
    max_retries: int,
    video: object = None,
) -> Submission:
    """Check the arguments of a call and encode its body; raises ``InvalidRequestError`` with nothing sent.

    ``options`` has the call's options and fields by name; where it leaves out the key, the model, the timeout or the
    retries, those of the arguments hold.
    """
    if type(prompt) is not str or not prompt.strip():
        prompt = check_prompt(prompt)
    fields = dict(options)
    chosen = check_model(fields.pop("model", None), model)
    given_timeout, given_retries = fields.pop("timeout", UNSET), fields.pop("max_retries", None)
    given_key = fields.pop("idempotency_key", None)
    extra_headers, extra_body = fields.pop("extra_headers", None), fields.pop("extra_body", None)
    if "models" in fields:
        msg = "Only generate takes models=[...], to try one after the other. Pass one model=."
        raise InvalidRequestError(msg)
    for name in fields:
        near = find_near_miss(name)
        if near is not None:
            raise InvalidRequestError(describe_near_miss(name, near))
    own: dict[str, Any] = {"model": chosen}
    if verb == "edit":
        own["video_id"] = find_video_id(video)
    own["prompt"] = prompt
    own["output_format"] = fields.pop("output_format", None) or "url"
    if extra_body is not None and not hasattr(extra_body, "items"):
        msg = "extra_body must be a mapping of field names to values."
        raise InvalidRequestError(msg)
    try:
        headers = check_headers(extra_headers, "extra_headers") if extra_headers else ()
        if given_timeout is not UNSET:
            timeout = check_timeout(given_timeout)
    except ConfigurationError as error:
        raise InvalidRequestError(error.message) from error
    if given_retries is not None:
        retries = as_number(given_retries)
        if not isinstance(retries, int) or retries < 0:
            msg = f"max_retries must be a whole number of at least 0, not {given_retries!r}."
            raise InvalidRequestError(msg)
        max_retries = retries
    return Submission(
        verb=verb,
        model=chosen,
        prompt=prompt,
        body=encode_request({**own, **fields}, extra_body),
        idempotency_key=check_idempotency_key(given_key) if given_key else idempotency_key,
        timeout=timeout,
        max_retries=max_retries,
        headers=headers,
    )


@functools.lru_cache(maxsize=1024)
def find_near_miss(name: str, options: tuple[str, ...] = OPTIONS) -> str | None:
    """Return the option that a name was probably meant to be: one edit away, and not a field of the gateway."""
    if name == "model":
        return None
    return next((option for option in options if _is_one_edit(name, option)), None)


def _is_one_edit(one: str, other: str) -> bool:
    """Whether one letter added, left out or changed, or two swapped, make the difference."""
    shorter = min(len(one), len(other))
    if shorter < _LEAST_NAME or one == other or abs(len(one) - len(other)) > 1:
        return False
    head = next((place for place in range(shorter) if one[place] != other[place]), shorter)
    tail = next((place for place in range(shorter - head) if one[-1 - place] != other[-1 - place]), shorter - head)
    left, right = one[head : len(one) - tail], other[head : len(other) - tail]
    return max(len(left), len(right)) == 1 or (len(left) == 2 and left == right[::-1])


def describe_near_miss(name: str, near: str) -> str:
    """Describe a name that was probably meant to be an option."""
    return (
        f"There is no option {name!r}. Did you mean {near}=? Nothing was sent. A field of that name for the gateway goes "
        "into extra_body=."
    )


def check_prompt(prompt: object) -> str:
    """Return a prompt as plain text, unchanged; raises ``InvalidRequestError`` when there is none."""
    text = as_text(prompt)
    if text is not None and text.strip():
        return text
    if prompt is None:
        raise InvalidRequestError("There is no prompt. Say what the video should show.")
    if text is None:
        raise InvalidRequestError(f"prompt must be text, not {type(prompt).__name__}.")
    raise InvalidRequestError("prompt is empty. Say what the video should show.")


def check_model(model: object, default: str | None = None) -> str:
    """Return the model id of a call, unchanged; raises ``InvalidRequestError`` when it has none."""
    given = model if model is not None else default
    chosen = given if type(given) is str else as_text(given)
    if chosen is None or not chosen.strip():
        msg = (
            'No model. Pass model="veo3-fast" (ids are on the vendor\'s model page, or in `await router.models()`), '
            "or give the client a default with AsyncVideoRouter(model=...)."
        )
        raise InvalidRequestError(msg)
    return chosen


def check_idempotency_key(key: object) -> str:
    """Return a key that a header can carry; raises ``InvalidRequestError``."""
    text = as_text(key)
    if text is None or not _KEY.fullmatch(text):
        msg = "idempotency_key must be 1 to 255 printable ASCII characters without spaces."
        raise InvalidRequestError(msg)
    return text


def find_video_id(video: object) -> str:
    """Return the id of a video to edit; raises ``InvalidRequestError`` when the source has none."""
    if isinstance(video, BatchItem | Task):
        video = video.result
    if isinstance(video, VideoResult):
        video = video.video
    if isinstance(video, Video):
        if video.video_id is None:
            msg = (
                "This video has no video_id: the gateway's answer held none, so it cannot be edited. Only videos that "
                "were generated by the same model family, and came back with an id, can be."
            )
            raise InvalidRequestError(msg)
        return video.video_id
    video = as_text(video)
    if video is None or not video.strip():
        msg = "video must be a VideoResult, a Video, or the text of a video_id from an earlier generation."
        raise InvalidRequestError(msg)
    if video.startswith(("http://", "https://")):
        msg = "edit takes the video_id of an earlier generation, not a URL: pass the result itself, or result.video_id."
        raise InvalidRequestError(msg)
    return video


def find_task_id(task: object) -> str:
    """Return the id of a task, from a task, status, batch item or text; raises ``InvalidRequestError`` without one."""
    if isinstance(task, Task):
        task = task.id
    elif hasattr(task, "task_id"):
        task = task.task_id
    task = as_text(task)
    if task is None or not task.strip():
        msg = "task must be a Task, or the text of a task id."
        raise InvalidRequestError(msg)
    try:
        task.encode()
    except UnicodeEncodeError as error:
        msg = "task holds half of a character (a lone surrogate), which no task id can have."
        raise InvalidRequestError(msg) from error
    return task


def keep_request(made: VideoResult | Task, body: bytes) -> None:
    """Attach the request to a task and its videos: a saved file is compared with it."""
    result: VideoResult | None
    if isinstance(made, VideoResult):
        result = made
    else:
        made.__dict__["request_"] = body
        result = made.result
    if result is not None:
        for video in result.videos:
            video.__dict__["request_"] = body


def find_request(made: Video | Task) -> bytes | None:
    """Return the body of the request behind a video or a task, if this process knows it."""
    body: bytes | None = made.__dict__.get("request_")
    return body


# Notes on what the fields of some models want. They make a warning before anything is paid and never block. Sources: the
# vendor's model pages and public clients that ran against the live gateway. A model that is not named, or a note that has
# gone stale, costs nothing: the request passes through untouched.

_SECONDS = re.compile(r"\d+s")


def _wants_seconds(value: object) -> bool:
    return isinstance(value, str) and _SECONDS.fullmatch(value) is not None


def _wants_seedance_text(value: object) -> bool:
    return isinstance(value, str) and (value == "auto" or (value.isdigit() and 4 <= int(value) <= 15))


NOTES: tuple[tuple[re.Pattern[str], str, Callable[[object], bool], str], ...] = (
    (
        re.compile(r"veo-?3\.?1", re.IGNORECASE),
        "duration",
        _wants_seconds,
        'Veo 3.1 takes duration as text such as "4s" or "8s"; other forms were seen to be silently ignored',
    ),
    (
        re.compile(r"seedance-?2", re.IGNORECASE),
        "duration",
        _wants_seedance_text,
        'Seedance 2 takes duration as text from "4" to "15", or "auto"',
    ),
)
NOTED = frozenset(name for _, name, _, _ in NOTES)
"""Fields that some note speaks of."""
_FAMILY = re.compile(r"veo|sora|seedance|kling|wan|hailuo|runway|luma|pixverse|vidu|hunyuan", re.IGNORECASE)


def find_notes(model: object, fields: Mapping[str, Any], made_by: str | None = None) -> tuple[str, ...]:
    """Return warnings about a request before it is paid; ``made_by`` is the model of the video to edit."""
    if not isinstance(model, str):
        return ()
    notes = tuple(
        f"{model}: {words}; got {name}={fields[name]!r}."
        for pattern, name, fits, words in NOTES
        if fields.get(name) is not None and pattern.search(model) and not fits(fields[name])
    )
    if made_by is not None and differ_in_family(made_by, model):
        notes += (f"{model}: the gateway edits videos of the same model family only, and {made_by} made this one.",)
    return notes


def find_family(model: str | None) -> str | None:
    """Return the family that a model id names, if known."""
    match = _FAMILY.search(model or "")
    return match.group(0).lower() if match else None


def differ_in_family(one: str | None, other: str | None) -> bool:
    """Whether two model ids are known to be of different families: the gateway edits within one family only."""
    first, second = find_family(one), find_family(other)
    return first is not None and second is not None and first != second
