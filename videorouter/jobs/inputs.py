"""Files that jobs bring: kept beside the queue by their hash, and uploaded by its runner before the job is sent.

The file that a web request came with is gone when the runner comes to it. In a job's request stands ``input:`` and the name of
what was kept; nobody but this file may write that.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import uuid
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from videorouter.call.inputs import FIELDS
from videorouter.call.uploads import read_input
from videorouter.errors import InvalidRequestError, JournalError
from videorouter.models import Asset, Video, VideoResult
from videorouter.plain import as_input
from videorouter.threads import run_in_thread

if TYPE_CHECKING:
    from collections.abc import Mapping

    from videorouter.call.requests import Submission

MARK = "input:"
"""How a request names what was kept."""
_decode = msgspec.json.Decoder(dict[str, Any]).decode


def find_folder(queue: Path) -> Path:
    """The folder beside a queue where its inputs are kept."""
    return queue.with_name(f"{queue.name}.inputs")


async def keep_inputs(fields: Mapping[str, Any], queue: Path) -> tuple[dict[str, Any], list[str]]:
    """Keep what is no URL; returns the fields with what stands for it, and which of them have such."""
    kept, names = dict(fields), []
    for name in FIELDS:
        value = fields.get(name)
        many = isinstance(value, list | tuple)
        given = [as_input(one) for one in (value if many else [value])] if value is not None else []
        if any(isinstance(one, str) and one.startswith(MARK) for one in given):
            raise InvalidRequestError(f"{name} is not a URL. Nothing was put.")
        if all(isinstance(one, str) for one in given):
            continue
        names.append(name)
        stand_ins = [one if isinstance(one, str) else await _keep(one, name, find_folder(queue)) for one in given]
        kept[name] = stand_ins if many else stand_ins[0]
    return kept, names


async def _keep(source: object, field: str, folder: Path) -> str:
    if isinstance(source, VideoResult):
        source = source.video
    if isinstance(source, Video):
        if source.url is not None:
            return source.url
        source = source.data
    if isinstance(source, Asset):
        raise InvalidRequestError(f"{field}: pass the asset's url or uri, as the model takes it. Nothing was put.")
    blocks, _ = await read_input(source, field)  # a request is what its files hold, not what they were called
    try:
        return MARK + await run_in_thread(partial(_write, blocks, folder))
    except OSError as error:
        raise JournalError(
            f"{field} could not be kept in {folder}: {error}. Nothing was put.", path=str(folder)
        ) from error


def _write(blocks: tuple[bytes, ...], folder: Path) -> str:
    """Write a file whole, under the hash of its bytes."""
    digest = hashlib.sha256()
    for block in blocks:
        digest.update(block)
    name = digest.hexdigest()
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / name
    if path.exists():
        return name
    part = folder / f".{uuid.uuid4().hex}.part"
    try:
        with part.open("xb") as file:
            for block in blocks:
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
    return name


def find_inputs(submission: Submission, names: list[str], queue: Path) -> dict[str, Any]:
    """The files that were kept for a request, by field."""
    fields, folder = _decode(submission.body), find_folder(queue)

    def find(text: str) -> str | Path:
        return folder / Path(text.removeprefix(MARK)).name if text.startswith(MARK) else text

    return {
        name: [find(one) for one in fields[name]] if isinstance(fields[name], list) else find(fields[name])
        for name in names
    }


def fill_in(submission: Submission, addresses: Mapping[str, Any]) -> Submission:
    """The request with the addresses of what was uploaded."""
    body = msgspec.json.encode({**_decode(submission.body), **addresses})
    return msgspec.structs.replace(submission, body=body)
