"""Brings inputs from disk or memory to the gateway: read, check, upload once, wait for the review, remember.

Wherever a URL field is taken, a ``Path``, bytes, a file object or an ``Asset`` works too. The same content for the
same model is uploaded once per client. Text passes through untouched: it is a URL, and this file never guesses.
"""

from __future__ import annotations

import hashlib
import inspect
import threading
import time
import uuid
import weakref
from collections import OrderedDict
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import anyio
import msgspec

from videorouter.call.caller import READ_LIMIT, FreeCall, read_json
from videorouter.call.failures import FailedAttempt
from videorouter.call.inputs import (
    FIELDS,
    LIMITS,
    check_address,
    check_input,
    choose_address,
    classify_review,
    encode_upload,
    read_asset,
)
from videorouter.call.money import describe_money
from videorouter.call.retry import TABLE, Outcome, Raise, RequestKind
from videorouter.errors import (
    DeadlineExceededError,
    InvalidRequestError,
    TaskPollError,
    TaskTimeoutError,
    UnexpectedResponseError,
    UnprocessableEntityError,
    VideoRouterError,
)
from videorouter.http import Attempt, Response
from videorouter.models import Asset, Video, VideoResult
from videorouter.plain import as_input, find_file_name
from videorouter.threads import run_in_thread

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager

    from videorouter.call.answers import ErrorAnswer, Unusable
    from videorouter.call.caller import Caller
    from videorouter.http import Body

REMEMBERED = 4096
"""Uploads that one client remembers; the oldest is forgotten first."""
_MOST = max(LIMITS.values()) + 1
_BLOCK = 2**20
"""Bytes that are read or copied at a time: a large copy holds up every thread."""


class Uploads:
    """The uploads of one client: each content once per model, however many calls ask for it at a time."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, str], Asset] = OrderedDict()
        self._under_way: dict[tuple[int, str, str], anyio.Event] = {}

    async def bring(
        self, caller: Caller, source: object, *, model: str, deadline: float, field: str | None = None
    ) -> Asset:
        """Return the usable asset of a file, uploading it unless that was done before.

        ``field`` is the request field that it is for, for checks and messages. ``UnprocessableEntityError`` means that
        its review failed; whatever is raised, no video was bought.
        """
        source = as_input(source)
        if isinstance(source, str):
            check_address(source, field or "file")
            return await self._once(caller, source, ("", source, ""), source, model=model, deadline=deadline)
        try:
            blocks, name = await read_input(source, field)
        except MemoryError as error:
            raise InvalidRequestError(
                "There is no memory left to read an input. Nothing was uploaded or paid."
            ) from error
        mime = check_input(blocks[0][:64], sum(map(len, blocks)), name=name, field=field)
        digest = await run_in_thread(partial(_digest, blocks))
        return await self._once(caller, blocks, (mime, name, digest), digest, model=model, deadline=deadline)

    async def _once(
        self,
        caller: Caller,
        content: tuple[bytes, ...] | str,
        words: tuple[str, str, str],
        digest: str,
        *,
        model: str,
        deadline: float,
    ) -> Asset:
        key = (model, digest)
        mine = (threading.get_ident(), *key)
        while (known := self._known.get(key)) is None:
            event = self._under_way.get(mine)
            if event is not None:
                with anyio.move_on_after(deadline - time.monotonic()):
                    await event.wait()
                    continue
                raise DeadlineExceededError(
                    "The deadline passed while another call uploaded the same file. Nothing was sent. Allow a longer timeout.",
                    model=model,
                )
            self._under_way[mine] = anyio.Event()
            try:
                asset = await _upload(caller, content, words, model=model, deadline=deadline)
                asset = await _await_review(caller, asset, deadline=deadline)
                self._known[key] = asset
                while len(self._known) > REMEMBERED:
                    self._known.popitem(last=False)
            finally:
                self._under_way.pop(mine).set()
        return known


def needs_upload(fields: Mapping[str, Any]) -> bool:
    """Whether any URL field holds something other than text."""
    return not fields.keys().isdisjoint(FIELDS) and any(
        name in FIELDS and value is not None and not isinstance(value, str) and not _all_text(value)
        for name, value in fields.items()
    )


def _all_text(value: object) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)


async def resolve_fields(
    caller: Caller, uploads: Uploads, fields: Mapping[str, Any], *, model: str, deadline: float
) -> dict[str, Any]:
    """Replace every input in the fields by a URL."""
    resolved = dict(fields)
    for name in FIELDS:
        value = resolved.get(name)
        if value is None or isinstance(value, str):
            continue
        if isinstance(value, list | tuple):
            resolved[name] = [
                await _address(caller, uploads, item, name, model=model, deadline=deadline) for item in value
            ]
        else:
            resolved[name] = await _address(caller, uploads, value, name, model=model, deadline=deadline)
    return resolved


async def _address(caller: Caller, uploads: Uploads, value: object, field: str, *, model: str, deadline: float) -> str:
    value = as_input(value)
    if isinstance(value, str):
        return value
    if isinstance(value, VideoResult):
        value = value.video
    if isinstance(value, Video):
        if value.url is not None:
            return value.url
        value = value.data
    if isinstance(value, Asset):
        return choose_address(value, field)
    asset = await uploads.bring(caller, value, model=model, deadline=deadline, field=field)
    return choose_address(asset, field)


async def read_input(source: object, field: str | None) -> tuple[tuple[bytes, ...], str]:
    """Read an input once, in blocks that are never joined; return it with its name."""
    place = f"{field}: " if field else ""
    if isinstance(source, bytes):
        return (source,), "file"
    if isinstance(source, bytearray | memoryview):
        return await run_in_thread(partial(_copy, source)), "file"
    if isinstance(source, Path):
        try:
            return await run_in_thread(partial(_read_path, source)), source.name
        except OSError as error:
            msg = f"{place}{source} cannot be read: {error.strerror or error}. Nothing was uploaded or paid."
            raise InvalidRequestError(msg) from error
    file = find_file(source)
    if file is None:
        msg = f"{place}pass a URL, a pathlib.Path, bytes, a file opened in binary mode, or an Asset, not {source!r}."
        raise InvalidRequestError(msg)
    data = await run_in_thread(partial(read_file, file))
    if hasattr(data, "__await__"):
        data = await data
    if not isinstance(data, bytes):
        msg = f"{place}the file object gives {type(data).__name__}, not bytes. Open it in binary mode ('rb')."
        raise InvalidRequestError(msg)
    return (data,), Path(find_file_name(source) or "").name or "file"


def find_file(source: object) -> Any:
    """The file object of an input, or inside it; ``None`` without one."""
    # Uploads of web frameworks have `filename`, beside `read`, that may be a coroutine, or a file inside
    for file in (getattr(source, "file", None), source):
        if hasattr(file, "read"):
            return file
    return None


def _find_place(file: Any) -> int | None:
    """Where a file stands; ``None`` of one that cannot be put back there."""
    try:
        if inspect.iscoroutinefunction(file.read):
            return None
        place = file.tell()
        file.seek(place)
    except (AttributeError, OSError, ValueError):
        return None
    return place if isinstance(place, int) else None


def read_file(file: Any, *, once: bool = True) -> Any:
    """Read a file from where it stands, and put it back there if it can be: the same file may stand in several requests.

    One that cannot be put back is read where ``once`` allows that; else this returns ``None``.
    """
    with _find_lock(file):
        place = _find_place(file)
        if place is None:
            return file.read() if once else None
        data = file.read()
        file.seek(place)
        return data


_locks: weakref.WeakKeyDictionary[Any, threading.Lock] = weakref.WeakKeyDictionary()


def _find_lock(file: Any) -> AbstractContextManager[object]:
    """What lets one reader at a time into a file."""
    try:
        return _locks.setdefault(file, threading.Lock())
    except TypeError:  # it cannot be a key
        return nullcontext()


def _read_path(path: Path) -> tuple[bytes, ...]:
    with path.open("rb", buffering=0) as file:
        blocks: list[bytes] = []
        left = _MOST
        while left > 0 and (block := file.read(min(_BLOCK, left))):
            blocks.append(block)
            left -= len(block)
        return tuple(blocks) or (b"",)


def _copy(source: bytearray | memoryview) -> tuple[bytes, ...]:
    view = memoryview(source).cast("B")
    return tuple(bytes(view[start : start + _BLOCK]) for start in range(0, len(view), _BLOCK)) or (b"",)


def _digest(blocks: tuple[bytes, ...]) -> str:
    digest = hashlib.sha256()
    for block in blocks:
        digest.update(block)
    return digest.hexdigest()


async def _upload(
    caller: Caller, content: tuple[bytes, ...] | str, words: tuple[str, str, str], *, model: str, deadline: float
) -> Asset:
    mime, name, digest = words
    url = f"{caller.settings.media_base_url}/upload/resources"
    body: Body
    if isinstance(content, str):
        body, content_type = msgspec.json.encode({"model": model, "file": content}), "application/json"
    else:
        body, content_type = encode_upload(
            model=model, filename=name, mime=mime, blocks=content, boundary=f"videorouter-{uuid.uuid4().hex}"
        )
    response = await caller.upload(url, body, content_type=content_type, model=model, deadline=deadline)
    asset = read_asset(response.body, model=model, sha256=digest or None)
    if asset is None:
        money = describe_money(RequestKind.UPLOAD, Outcome.UNUSABLE)
        msg = f"{url} answered without a resource. {money}"
        raise UnexpectedResponseError(msg, model=model, **caller.evidence(response))
    return asset


async def _await_review(caller: Caller, asset: Asset, *, deadline: float) -> Asset:
    """Return the asset once it is usable; one without an id has no review to wait for."""
    if asset.id is not None and _is_pending(asset):
        review = ReviewPoll(
            caller=caller,
            kind=RequestKind.REVIEW,
            asset=asset,
            url=f"{caller.settings.media_base_url}/status/resources/{quote(asset.id, safe='')}",
            deadline=deadline,
            max_retries=caller.settings.max_retries,
            limit=READ_LIMIT,
            model=asset.model,
        )
        seen = await caller.send(review, FailedAttempt(outcome=Outcome.PENDING, attempt=Attempt()))
        if isinstance(seen, Response):
            msg = f"The state of the upload {asset.id} makes no sense. No video was bought; upload it again later."
            raise TaskPollError(msg, model=asset.model, **caller.evidence(seen))
        asset = seen
    if classify_review(asset.status) == "refused":
        reason = asset.__dict__.get("reason_") or "no reason given"
        msg = f"The gateway refused the upload ({asset.status}: {reason}). No video was bought. Use another file."
        raise UnprocessableEntityError(msg, model=asset.model, code=asset.status)
    return asset


def _is_pending(asset: Asset) -> bool:
    return classify_review(asset.status) == "pending" and not (asset.status is None and (asset.uri or asset.url))


class ReviewPoll(FreeCall[Asset | Response], kw_only=True, eq=False):
    """Reads the state of an upload until its review has ended; an answer without a state is returned unchanged."""

    asset: Asset

    def read(self, response: Response) -> Asset | Response | ErrorAnswer | Unusable | None:
        """Merge this answer into the asset; ``None`` while its review is pending."""
        answer = read_json(response)
        if not isinstance(answer, Response):
            return answer
        asset = self.asset
        seen = read_asset(response.body, model=asset.model, sha256=asset.sha256)
        if seen is None:
            return response
        merged = asset.replace(uri=seen.uri or asset.uri, url=seen.url or asset.url, status=seen.status or asset.status)
        self.asset = merged.with_extras(**seen.__dict__)
        return None if _is_pending(self.asset) else self.asset

    def build_error(self, failed: FailedAttempt) -> VideoRouterError:
        """Build the error; at the deadline the review is still running."""
        if TABLE[failed.outcome][self.kind][1] is not Raise.TIMEOUT:
            return super().build_error(failed)
        msg = f"The upload {self.asset.id} was still under review when the deadline passed. No video was bought."
        return TaskTimeoutError(msg, model=self.asset.model)
