"""One request as a value: arguments checked, fields merged, bytes frozen.

Only what SPEC requires is checked (a prompt, a model, a video id): everything else passes through untouched, and no
model id is compared with any list. This file never mints keys and reads no clock.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from videorouter.call.answers import encode_request, encode_text
from videorouter.config import check_headers, check_timeout
from videorouter.errors import ConfigurationError, InvalidRequestError
from videorouter.models import BatchItem, Task, Video, VideoResult

if TYPE_CHECKING:
    from collections.abc import Mapping

Verb = Literal["generate", "edit"]
PATHS: dict[Verb, str] = {"generate": "/videos/generations", "edit": "/videos/edits"}
_KEY = re.compile(r"[!-~]{1,255}")
OWN_FIELDS = frozenset({"model", "prompt", "video_id", "output_format"})


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """A paid request, complete: every attempt sends ``body`` as it is.

    ``timeout`` is in seconds, from dispatch to the finished result.
    """

    verb: Verb
    model: str
    prompt: str
    body: bytes
    idempotency_key: str
    timeout: float
    max_retries: int
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def path(self) -> str:
        """The path below the base URL."""
        return PATHS[self.verb]


class Stencil(msgspec.Struct, frozen=True, kw_only=True):
    """A request that was checked and encoded once and of which only the prompt is open, for the entries of a batch."""

    made: Submission
    head: bytes
    tail: bytes

    def fill(self, prompt: object, idempotency_key: str) -> Submission | None:
        """The same bytes that ``build_submission`` makes; ``None`` for a prompt that it has to look at."""
        if type(prompt) is not str or not prompt.strip():
            return None
        try:
            text = encode_text(prompt)
        except ValueError:
            return None
        made = self.made
        return Submission(
            verb=made.verb,
            model=made.model,
            prompt=prompt,
            body=self.head + text + self.tail,
            idempotency_key=idempotency_key,
            timeout=made.timeout,
            max_retries=made.max_retries,
            headers=made.headers,
        )


def cut_stencil(made: Submission) -> Stencil | None:
    """What is the same for every prompt of a finished request.

    Args:
        made: The request; its prompt must be text that stands nowhere else in it, such as a random one.

    Returns:
        ``None`` when the prompt is not in the body just once: ``extra_body`` may have replaced it.
    """
    head, found, tail = made.body.partition(encode_text(made.prompt))
    if not found or made.prompt.encode() in head + tail:
        return None
    return Stencil(made=made, head=head, tail=tail)


def build_submission(
    verb: Verb,
    *,
    prompt: object,
    model: object,
    fields: Mapping[str, Any],
    idempotency_key: str,
    timeout: float | None,
    max_retries: int,
    video: object = None,
    extra_body: Mapping[str, Any] | None = None,
    extra_headers: Mapping[str, str] | None = None,
    default_model: str | None = None,
    output_format: str = "url",
) -> Submission:
    """Check a call's arguments and freeze its bytes.

    Raises:
        InvalidRequestError: An argument cannot be used; nothing was sent.
    """
    if prompt is None:
        msg = "There is no prompt. Say what the video should show."
        raise InvalidRequestError(msg)
    if not isinstance(prompt, str):
        msg = f"prompt must be text, not {type(prompt).__name__}."
        raise InvalidRequestError(msg)
    if not prompt.strip():
        msg = "prompt is empty. Say what the video should show."
        raise InvalidRequestError(msg)
    chosen = check_model(model, default_model)
    own: dict[str, Any] = {"model": chosen}
    if verb == "edit":
        own["video_id"] = find_video_id(video)
    own["prompt"] = prompt
    own["output_format"] = output_format
    if extra_body is not None and not hasattr(extra_body, "items"):
        msg = "extra_body must be a mapping of field names to values."
        raise InvalidRequestError(msg)
    try:
        headers = check_headers(extra_headers, "extra_headers") if extra_headers else ()
        seconds = check_timeout(timeout)
    except ConfigurationError as error:
        raise InvalidRequestError(error.message) from error
    if type(max_retries) is not int or max_retries < 0:
        msg = f"max_retries must be a whole number of at least 0, not {max_retries!r}."
        raise InvalidRequestError(msg)
    return Submission(
        verb=verb,
        model=chosen,
        prompt=prompt,
        body=encode_request({**own, **fields}, extra_body),
        idempotency_key=check_idempotency_key(idempotency_key),
        timeout=seconds,
        max_retries=max_retries,
        headers=headers,
    )


def check_model(model: object, default: str | None = None) -> str:
    """The model id of a call, untouched.

    Raises:
        InvalidRequestError: There is none.
    """
    chosen = model if model is not None else default
    if not isinstance(chosen, str) or not chosen.strip():
        msg = (
            'No model. Pass model="veo3-fast" (ids are on the vendor\'s model page, or in `await router.models()`), '
            "or give the client a default with AsyncVideoRouter(model=...)."
        )
        raise InvalidRequestError(msg)
    return chosen


def check_idempotency_key(key: object) -> str:
    """A key that can stand in a header.

    Raises:
        InvalidRequestError: It cannot.
    """
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        msg = "idempotency_key must be 1 to 255 printable ASCII characters without spaces."
        raise InvalidRequestError(msg)
    return key


def find_video_id(video: object) -> str:
    """The id of a video that an edit builds on: from a result, a video, a task with its result, a batch item, or text.

    Raises:
        InvalidRequestError: There is none.
    """
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
    if not isinstance(video, str) or not video.strip():
        msg = "video must be a VideoResult, a Video, or the text of a video_id from an earlier generation."
        raise InvalidRequestError(msg)
    if video.startswith(("http://", "https://")):
        msg = "edit takes the video_id of an earlier generation, not a URL: pass the result itself, or result.video_id."
        raise InvalidRequestError(msg)
    return video


def find_task_id(task: object) -> str:
    """The id of a task, from a task, a status, a batch item, or text.

    Raises:
        InvalidRequestError: There is none.
    """
    if isinstance(task, Task):
        task = task.id
    elif hasattr(task, "task_id"):
        task = task.task_id
    if not isinstance(task, str) or not task.strip():
        msg = "task must be a Task, or the text of a task id."
        raise InvalidRequestError(msg)
    try:
        task.encode()
    except UnicodeEncodeError as error:
        msg = "task holds half of a character (a lone surrogate), which no task id can have."
        raise InvalidRequestError(msg) from error
    return task
