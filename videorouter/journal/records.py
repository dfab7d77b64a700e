"""Converts rows of the journal to the values that users get, and results to JSON and back."""

from __future__ import annotations

import contextlib
import hashlib
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from videorouter import errors
from videorouter.call.inputs import FIELDS
from videorouter.call.uploads import find_file, read_file
from videorouter.journal.states import describe_failure, state_after_crash
from videorouter.models import Asset, BatchItem, Failure, Media, Mismatch, Video, VideoResult
from videorouter.places import ObjectURL
from videorouter.plain import as_input, find_file_name
from videorouter.threads import run_in_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from videorouter.journal.states import ItemRow

_LARGE = 2**20
"""Bytes from which on an input is digested in a thread."""
_ONCE_MORE = " It was sent again on request, and the gateway refused that: "

_encode: Callable[[object], bytes] = msgspec.json.Encoder().encode
_read_result = msgspec.json.Decoder(VideoResult).decode
_read_media = msgspec.json.Decoder(Media).decode
_read_mismatches = msgspec.json.Decoder(tuple[Mismatch, ...]).decode
_read_failure = msgspec.json.Decoder(Failure).decode
_read_prompt = msgspec.json.Decoder(dict[str, Any]).decode


def to_item(row: ItemRow) -> BatchItem:
    """Convert a row of the journal to the item of an earlier run."""
    failure = read_failure(row.failure)
    prompt = None
    if row.request:
        try:
            prompt = _read_prompt(row.request).get("prompt")
        except (msgspec.MsgspecError, ValueError):
            prompt = None
    item = BatchItem(
        index=row.position,
        id=row.id,
        state=state_after_crash(row.state),
        prompt=prompt if isinstance(prompt, str) else None,
        model=row.model,
        result=read_result(row.result),
        failure=failure,
        cost=row.cost,
        task_id=row.task_id,
        resumed=True,
        meta=read_meta(row.meta),
    )
    return item if failure is None else item.with_extras(error_=revive_error(failure, row))


def encode(value: object) -> str:
    """Encode a result or a failure for the journal."""
    return _encode(value).decode("utf-8", "replace")


def read_result(text: str | None) -> VideoResult | None:
    """Decode a result from the journal; ``None`` when it has none that can be read."""
    if not text:
        return None
    try:
        return _read_result(text)
    except (msgspec.MsgspecError, ValueError):
        return None


def read_media(text: str | None) -> Media | None:
    """What a saved file says of its video, from the journal."""
    try:
        return None if text is None else _read_media(text)
    except (msgspec.MsgspecError, ValueError):
        return None


def read_meta(text: str | None) -> Any:
    """The caller's own columns of an item, from the journal."""
    try:
        return None if text is None else msgspec.json.decode(text)
    except (msgspec.MsgspecError, ValueError):
        return None


def read_mismatches(text: str | None) -> tuple[Mismatch, ...]:
    """How a saved file differs from what was asked for, from the journal."""
    try:
        return () if text is None else _read_mismatches(text)
    except (msgspec.MsgspecError, ValueError):
        return ()


def name_kind(mismatch: Mismatch) -> str:
    """Name what is wrong with a video, in a word or two that can be counted."""
    if mismatch.field == "duration":
        return "shorter" if float(mismatch.delivered.split()[0]) < float(mismatch.asked.split()[0]) else "longer"
    if mismatch.field == "generate_audio":
        return "without sound" if mismatch.delivered == "no sound" else "with sound"
    return "of another resolution" if mismatch.field == "resolution" else "of another shape"


def read_failure(text: str | None) -> Failure | None:
    """Decode a failure from the journal."""
    if not text:
        return None
    try:
        return _read_failure(text)
    except (msgspec.MsgspecError, ValueError):
        return Failure(type="VideoRouterError", message=text[:2000])


def revive_error(failure: Failure, row: ItemRow) -> errors.VideoRouterError:
    """Rebuild the exception that an earlier run recorded."""
    cls = getattr(errors, failure.type, None)
    if not (isinstance(cls, type) and issubclass(cls, errors.VideoRouterError)):
        cls = errors.VideoRouterError
    error: errors.VideoRouterError = cls(failure.message)
    error.add(
        status=failure.status,
        code=failure.code,
        request_id=failure.request_id or row.request_id,
        task_id=row.task_id,
        model=row.model,
        idempotency_key=row.idempotency_key,
    )
    return error


def tell_refusal(doubt: BatchItem, refusal: Exception) -> BatchItem:
    """Describe an item in doubt that was sent again and refused, with the first sending's doubt and the refusal."""
    before, failure = doubt.error, doubt.failure
    words = failure.message.partition(_ONCE_MORE)[0] if failure is not None else "It may have been billed."
    error = errors.OutcomeUnknownError(f"{words}{_ONCE_MORE}{refusal}")
    if isinstance(before, errors.VideoRouterError):
        error.add(**before.facts)
    error.__cause__ = refusal
    return doubt.replace(failure=describe_failure(error), resumed=False).with_extras(error_=error)


def list_inline(result: VideoResult) -> tuple[tuple[int, str | None, bytes], ...]:
    """List the videos that arrived inside a result's answer."""
    return tuple(
        (number, video.mime_type, video.data) for number, video in enumerate(result.videos) if video.data is not None
    )


def restore_inline(result: VideoResult, data: Mapping[int, bytes]) -> VideoResult:
    """Restore a result's inline bytes from the journal."""
    for number, video in enumerate(result.videos):
        if number in data:
            video.with_extras(data_=data[number])
    return result


def show_path(path: Path | ObjectURL, folder: Path | ObjectURL | None) -> Path | ObjectURL:
    """Show a path of the journal below the folder as the caller spelt it, if it is below one."""
    if isinstance(path, ObjectURL) or isinstance(folder, ObjectURL):
        return path
    with contextlib.suppress(ValueError, OSError):
        return path if folder is None else folder / path.relative_to(folder.resolve())
    return path


async def digest_inputs(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Replace every file in the fields by a digest of its content, so that a request can be recognised."""
    spelled = dict(fields)
    for name in FIELDS:
        value = spelled.get(name)
        if isinstance(value, list | tuple):
            spelled[name] = [await _digest_input(one) for one in value]
        elif value is not None:
            spelled[name] = await _digest_input(value)
    return spelled


async def _digest_input(value: object) -> str:
    value = as_input(value)
    if isinstance(value, str):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        # Hundreds of megabytes would hold up the loop; a thread for each small picture would cost more than its digest.
        return _digest_bytes(value) if len(value) < _LARGE else await run_in_thread(partial(_digest_bytes, value))
    if isinstance(value, Path):
        return await run_in_thread(partial(_digest_file, value))
    if isinstance(value, Asset):
        return f"asset:{value.uri or value.id or value.url}"
    if isinstance(value, VideoResult | Video):
        return f"video:{value.video_id or value.url}"
    file = find_file(value)
    data = None if file is None else await run_in_thread(partial(read_file, file, once=False))
    if not isinstance(data, bytes):
        raise errors.InvalidRequestError(
            f"A batch knows its inputs by their bytes before it pays, and {find_file_name(value) or type(value).__name__!r} can "
            "be read only once, or holds no bytes. Pass its bytes or a pathlib.Path. Nothing was sent."
        )
    return await run_in_thread(partial(_digest_bytes, data))


def _digest_bytes(value: bytes | bytearray | memoryview) -> str:
    return f"content:{hashlib.blake2b(value, digest_size=16).hexdigest()}"


def _digest_file(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return f"content:{hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()}"
    except OSError as error:
        raise errors.InvalidRequestError(f"The input {path} cannot be read: {error}. Nothing was sent.") from error
