"""Prepares one request from a call's arguments: notes on its fields, uploads of its inputs, a key, encoded bytes.

Nothing paid is sent here. ``call.requests`` checks and encodes; this file adds what needs I/O.
"""

from __future__ import annotations

import itertools
import time
import uuid
import warnings
from typing import TYPE_CHECKING, Any

import msgspec

from videorouter.call.inputs import FIELDS, check_addresses
from videorouter.call.requests import NOTED, UNDELAYED_SECONDS, build_submission, find_notes
from videorouter.call.uploads import needs_upload, resolve_fields
from videorouter.errors import DeadlineExceededError, FieldWarning, InvalidRequestError
from videorouter.forks import after_fork

if TYPE_CHECKING:
    from collections.abc import Mapping

    from videorouter.call.caller import Caller
    from videorouter.call.requests import Submission, Verb
    from videorouter.call.uploads import Uploads

_COUNTER_BITS = 48


class RequestBuilder:
    """Builds the requests of one client. ``options`` are fields and options of a call by name."""

    __slots__ = ("_caller", "_uploads")

    def __init__(self, caller: Caller, uploads: Uploads) -> None:
        self._caller = caller
        self._uploads = uploads

    async def prepare(
        self, verb: Verb, prompt: object, options: Mapping[str, Any], *, video: object = None
    ) -> Submission:
        """Build the request; inputs that are not URLs are uploaded first, within the same deadline."""
        if video is not None or not NOTED.isdisjoint(options):
            model = options.get("model") or self._caller.settings.model
            for note in find_notes(model, options, getattr(video, "model", None)):
                warnings.warn(note, FieldWarning, stacklevel=3)
        if not FIELDS.keys().isdisjoint(options):
            check_addresses(options)
            if needs_upload(options):
                check = self.build(verb, prompt, {**options, **dict.fromkeys(FIELDS)}, video=video)
                deadline = time.monotonic() + check.timeout
                resolved = await resolve_fields(
                    self._caller, self._uploads, options, model=check.model, deadline=deadline
                )
                left = deadline - time.monotonic()
                if left <= 0:
                    raise DeadlineExceededError(
                        "The deadline passed while inputs were uploaded. No video was bought. Call again: what was uploaded is "
                        "remembered. Or allow a longer timeout.",
                        model=check.model,
                    )
                submission = self.build(verb, prompt, {**resolved, "timeout": left}, video=video)
                return msgspec.structs.replace(submission, waited=check.timeout - left > UNDELAYED_SECONDS)
        return self.build(verb, prompt, options, video=video)

    async def upload(self, fields: Mapping[str, Any], *, model: str, timeout: float) -> dict[str, Any]:
        """Bring the inputs of fields to the gateway, once per content; returns the fields with their addresses."""
        deadline = time.monotonic() + timeout
        return await resolve_fields(self._caller, self._uploads, fields, model=model, deadline=deadline)

    def build(self, verb: Verb, prompt: object, options: Mapping[str, Any], *, video: object = None) -> Submission:
        """Build a request whose inputs are URLs; raises ``InvalidRequestError`` with nothing sent."""
        settings = self._caller.settings
        try:
            return build_submission(
                verb,
                prompt,
                options,
                video=video,
                model=settings.model,
                timeout=settings.timeout,
                max_retries=settings.max_retries,
                idempotency_key=new_idempotency_key(),
            )
        except MemoryError as error:
            raise InvalidRequestError("There is no memory left for this request. Nothing was sent.") from error


def new_idempotency_key() -> str:
    """Make a UUID for one logical call, unique across processes, at the price of a counter."""
    return f"{_KEYS.prefix}{next(_KEYS.numbers) & 0xFFFFFFFFFFFF:012x}"


class _Keys:
    """The first 74 bits are random and new in every process, a forked child included; 48 count from a random start."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        seed = uuid.uuid4()
        self.prefix = str(seed)[:24]
        self.numbers = itertools.count(seed.int & ((1 << _COUNTER_BITS) - 1))


_KEYS = _Keys()
after_fork(_KEYS, _Keys.reset)
