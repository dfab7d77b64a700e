"""From what a caller gave to one request, complete: notes on its fields, uploads of its inputs, frozen bytes.

What was asked for before, but for its prompt, is not checked and encoded again. Nothing paid is sent here.
"""

from __future__ import annotations

import time
import warnings
from typing import TYPE_CHECKING, Any

from msgspec import UNSET

from videorouter.call.inputs import FIELDS
from videorouter.call.minting import new_idempotency_key
from videorouter.call.notes import find_notes
from videorouter.call.requests import Stencil, build_submission, cut_stencil
from videorouter.call.uploads import needs_upload, resolve_fields
from videorouter.errors import FieldWarning, InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from videorouter.call.caller import Caller
    from videorouter.call.requests import Submission, Verb
    from videorouter.call.uploads import Uploads

_SHAPING = frozenset({"model", "duration", "aspect_ratio", "resolution", "output_format"})
_MOST_SHAPES = 256


class RequestBuilder:
    """Makes the requests of one client.

    Args:
        caller: The client's way to the wire.
        uploads: What the client has uploaded.
    """

    __slots__ = ("_caller", "_shapes", "_uploads")

    def __init__(self, caller: Caller, uploads: Uploads) -> None:
        self._caller = caller
        self._uploads = uploads
        self._shapes: dict[tuple[tuple[str, str], ...], Stencil | None] = {}

    def fill(self, prompt: object, given: Mapping[str, Any]) -> Submission | None:
        """The very request that ``prepare`` makes of a plain generation, for a fraction of its cost.

        Args:
            prompt: The prompt.
            given: Fields and options by name.

        Returns:
            ``None`` where it has to be prepared.
        """
        if not given.keys() <= _SHAPING:
            return None
        for value in given.values():
            if type(value) is not str:
                return None
        shape = tuple(given.items())
        try:
            stencil = self._shapes[shape]
        except KeyError:
            stencil = self._cut(shape, given)
        return None if stencil is None else stencil.fill(prompt, new_idempotency_key())

    def _cut(self, shape: tuple[tuple[str, str], ...], given: Mapping[str, Any]) -> Stencil | None:
        if len(self._shapes) >= _MOST_SHAPES:
            self._shapes.clear()
        stencil = None
        model = given.get("model") or self._caller.settings.model
        if model is not None and not find_notes(model, given):
            try:
                stencil = cut_stencil(self.build("generate", new_idempotency_key(), given, {}))
            except InvalidRequestError:
                stencil = None  # whoever prepares it is told why
        self._shapes[shape] = stencil
        return stencil

    async def prepare(
        self, verb: Verb, prompt: object, given: Mapping[str, Any], fields: Mapping[str, Any], *, video: object = None
    ) -> Submission:
        """Build the request; inputs that are no URL are uploaded first, within the same deadline.

        Args:
            verb: What is asked for.
            prompt: The prompt.
            given: Fields and options by name.
            fields: Further fields of the gateway.
            video: What an edit builds on.

        Raises:
            InvalidRequestError: Something cannot be used; nothing was sent.
            VideoRouterError: An upload failed; no video was bought.
        """
        model = given.get("model") or self._caller.settings.model
        if isinstance(model, str):
            for note in find_notes(model, given, getattr(video, "model", None)):
                warnings.warn(note, FieldWarning, stacklevel=3)
        if needs_upload(given):
            check = self.build(verb, prompt, {**given, **dict.fromkeys(FIELDS)}, fields, video=video)
            deadline = time.monotonic() + check.timeout
            resolved = await resolve_fields(self._caller, self._uploads, given, model=check.model, deadline=deadline)
            given = {**resolved, "timeout": max(0.001, deadline - time.monotonic())}
        return self.build(verb, prompt, given, fields, video=video)

    def build(
        self, verb: Verb, prompt: object, given: Mapping[str, Any], fields: Mapping[str, Any], *, video: object = None
    ) -> Submission:
        """Build a request whose inputs are URLs. The arguments are those of ``prepare``.

        Raises:
            InvalidRequestError: Something cannot be used; nothing was sent.
        """
        settings = self._caller.settings
        options = dict(given)
        timeout = options.pop("timeout", UNSET)
        retries = options.pop("max_retries", None)
        return build_submission(
            verb,
            prompt=prompt,
            video=video,
            model=options.pop("model", None),
            default_model=settings.model,
            timeout=settings.timeout if timeout is UNSET else timeout,
            max_retries=settings.max_retries if retries is None else retries,
            extra_headers=options.pop("extra_headers", None),
            extra_body=options.pop("extra_body", None),
            idempotency_key=options.pop("idempotency_key", None) or new_idempotency_key(),
            output_format=options.pop("output_format", "url"),
            fields={**options, **fields} if fields else options,
        )
