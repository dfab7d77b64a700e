"""Drives one request through a sender to its end, and says what its outcome means.

No POST is ever sent twice here, and after its first byte every failure is ``OutcomeUnknownError``. The key is added to
a request here, and only for an origin of the client's own set.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from typing import TYPE_CHECKING
from urllib.parse import quote

import msgspec

from videorouter.config import authorization, check_key, origin_of
from videorouter.errors import (
    APIConnectionError,
    ClientClosedError,
    ConfigurationError,
    DeadlineExceededError,
    OutcomeUnknownError,
    Phase,
    UnexpectedResponseError,
    VideoRouterError,
)
from videorouter.events import Event, OutcomeInDoubt
from videorouter.io.transport.seam import Incoming, Outgoing, Probe, Trouble, WireError
from videorouter.models import InDoubt, Task, VideoResult
from videorouter.rules.refusals import build_refusal, find_header, find_request_id, show_body, show_headers
from videorouter.rules.wire import MAX_ANSWER_BYTES, ErrorAnswer, Unusable, find_error, read_post

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from videorouter.config import Secret, Settings
    from videorouter.events import EventHook, InDoubtHook
    from videorouter.io.transport.seam import Sender
    from videorouter.rules.requests import Submission

log = logging.getLogger("videorouter")

_REFUSALS = frozenset({400, 401, 402, 403, 404, 405, 413, 415, 422, 425, 429})


class Shared:
    """What all views of one client share: the sender, its state, and the records of what is in doubt."""

    def __init__(self, sender: Sender) -> None:
        self.sender = sender
        self.closed = False
        self.in_doubt: list[InDoubt] = []


class Caller:
    """One client's way to the wire."""

    def __init__(
        self,
        settings: Settings,
        shared: Shared,
        *,
        on_event: EventHook | None = None,
        on_in_doubt: InDoubtHook | None = None,
    ) -> None:
        self.settings = settings
        self.shared = shared
        self.on_event = on_event
        self.on_in_doubt = on_in_doubt

    async def post(
        self, submission: Submission, *, deadline: float, intent: Callable[[], Awaitable[None]] | None = None
    ) -> VideoResult | Task:
        """Send a paid request once.

        Args:
            submission: What to send.
            deadline: ``time.monotonic()`` value.
            intent: Awaited before the first byte.

        Returns:
            The finished result, or the accepted task.

        Raises:
            VideoRouterError: See the error tree; ``OutcomeUnknownError`` for everything that may have been billed.
        """
        self.check_open()
        url = f"{self.settings.base_url}{submission.path}"
        request = Outgoing(
            method="POST",
            url=url,
            headers=await self._headers(url, submission),
            body=submission.body,
        )
        if intent is not None:
            await intent()
        probe = Probe()
        began = time.monotonic()
        facts = {"idempotency_key": submission.idempotency_key, "model": submission.model, "attempts": 1}
        try:
            incoming = await self.shared.sender.send(request, probe, deadline=deadline, max_body=MAX_ANSWER_BYTES)
        except WireError as error:
            failure = self._name_failure(error, probe)
            failure.add(**facts, elapsed=time.monotonic() - began)
            raise failure from error
        except asyncio.CancelledError:
            if probe.phase not in (Phase.QUEUED, Phase.CONNECTING):
                await self._note_doubt(submission, probe, "the call was cancelled before its answer came")
            raise
        try:
            return self._read(submission, incoming, probe)
        except VideoRouterError as error:
            error.add(**facts, elapsed=time.monotonic() - began)
            raise

    async def get(self, url: str, *, deadline: float) -> Incoming:
        """Read one JSON document of the gateway, once.

        Raises:
            VideoRouterError: No usable answer came.
        """
        self.check_open()
        request = Outgoing(method="GET", url=url, headers=await self._headers(url, None))
        probe = Probe()
        try:
            incoming = await self.shared.sender.send(request, probe, deadline=deadline, max_body=MAX_ANSWER_BYTES)
        except WireError as error:
            msg = f"{error.message} Nothing was bought by this read; it can be repeated."
            raise APIConnectionError(msg, phase=probe.phase, host=probe.host or error.host, attempts=1) from error
        try:
            root = msgspec.json.decode(incoming.body)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            if 200 <= incoming.status < 300:
                msg = "The answer is not JSON. Check base_url; a proxy may have answered in the gateway's place."
                raise UnexpectedResponseError(msg, **self.evidence(incoming)) from error
            root = None
        refusal = find_error(incoming.status, root, incoming.body)
        if refusal is not None:
            raise build_refusal(
                refusal, incoming.headers, redact=self.settings.redact, auth_scheme=self.settings.auth_scheme
            )
        return incoming

    async def upload(self, url: str, body: bytes, *, content_type: str, model: str, deadline: float) -> Incoming:
        """Send an input's bytes by a POST that follows the same law as a paid one.

        Args:
            url: Where uploads go.
            body: The whole body, frozen.
            content_type: Its media type, with a multipart boundary where it has one.
            model: The model it is for.
            deadline: ``time.monotonic()`` value.

        Returns:
            The 2xx answer that brings no error.

        Raises:
            VideoRouterError: See the error tree; ``OutcomeUnknownError`` when whether the file arrived is unknown.
        """
        self.check_open()
        headers = (*await self._headers(url, None), (b"content-type", content_type.encode()))
        probe = Probe()
        request = Outgoing(method="POST", url=url, headers=headers, body=body)
        try:
            incoming = await self.shared.sender.send(request, probe, deadline=deadline, max_body=MAX_ANSWER_BYTES)
        except WireError as error:
            failure = self._name_failure(error, probe)
            failure.add(model=model, attempts=1)
            raise failure from error
        answer = read_post(incoming.status, incoming.body, model=model)
        if isinstance(answer, ErrorAnswer):
            if answer.effective not in _REFUSALS:
                msg = f"The upload was answered with status {answer.effective}; whether the file arrived is unknown."
                raise OutcomeUnknownError(msg, phase=probe.phase, model=model, **self.evidence(incoming))
            raise build_refusal(
                answer,
                incoming.headers,
                redact=self.settings.redact,
                auth_scheme=self.settings.auth_scheme,
                model=model,
            )
        return incoming

    def task_url(self, task_id: str, poll_url: str | None = None) -> str:
        """Where a task's state is read: the gateway's own address on a known origin, else the documented path."""
        if poll_url is not None and poll_url.startswith(("https://", "http://")):
            try:
                if origin_of(poll_url) in self.settings.origins:
                    return poll_url
            except ValueError:
                pass
        return f"{self.settings.base_url}/videos/tasks/{quote(task_id, safe='')}"

    def check_open(self) -> None:
        """Raise unless the client is open."""
        if self.shared.closed:
            msg = "This client is closed. Make a new one, or keep it open with `async with` around its use."
            raise ClientClosedError(msg)

    async def emit(self, event: Event) -> None:
        """Hand an event to the user's hook; what the hook raises is logged and changes nothing."""
        if self.on_event is None:
            return
        try:
            outcome = self.on_event(event)
            if inspect.isawaitable(outcome):
                await outcome
        except Exception:
            log.exception("an on_event hook failed")

    def evidence(self, incoming: Incoming) -> dict[str, object]:
        """The facts that an answer leaves on an error, without secrets."""
        redact = self.settings.redact
        return {
            "status": incoming.status,
            "request_id": find_request_id(incoming.headers),
            "cf_ray": find_header(incoming.headers, b"cf-ray"),
            "body": show_body(incoming.body, redact),
            "headers": show_headers(incoming.headers, redact),
        }

    def _read(self, submission: Submission, incoming: Incoming, probe: Probe) -> VideoResult | Task:
        answer = read_post(incoming.status, incoming.body, model=submission.model)
        request_id = find_request_id(incoming.headers)
        key = submission.idempotency_key
        if isinstance(answer, VideoResult | Task):
            kept = msgspec.structs.replace(answer, request_id=request_id, idempotency_key=key)
            if isinstance(kept, Task) and kept.result is not None:
                result = msgspec.structs.replace(kept.result, request_id=request_id, idempotency_key=key)
                kept = msgspec.structs.replace(kept, result=result.beside(**kept.result.__dict__))
            return kept.beside(**answer.__dict__)
        if isinstance(answer, ErrorAnswer) and answer.effective in _REFUSALS:
            raise build_refusal(
                answer,
                incoming.headers,
                redact=self.settings.redact,
                auth_scheme=self.settings.auth_scheme,
                model=submission.model,
            )
        reason = answer.reason if isinstance(answer, Unusable) else f"status {answer.effective or answer.status}"
        msg = (
            f"The gateway's answer is not usable ({reason}): the request may have been accepted and billed. It is not "
            "sent again. Look for the video on the vendor's page, with request_id or the time of the call."
        )
        raise OutcomeUnknownError(msg, phase=probe.phase, host=probe.host, **self.evidence(incoming))

    def _name_failure(self, error: WireError, probe: Probe) -> VideoRouterError:
        facts = {"phase": probe.phase, "host": probe.host or error.host}
        if probe.phase in (Phase.QUEUED, Phase.CONNECTING):
            if error.trouble is Trouble.DEADLINE:
                return DeadlineExceededError(f"{error.message} Nothing was sent, so nothing was bought.", **facts)
            return APIConnectionError(f"{error.message} Nothing was sent, so nothing was bought.", **facts)
        incoming = probe.incoming
        evidence = self.evidence(incoming) if incoming is not None else {}
        msg = (
            f"{error.message} The request had left (phase {probe.phase}): it may have been accepted and billed. It is "
            "not sent again. Look for the video on the vendor's page before you decide to."
        )
        return OutcomeUnknownError(msg, **facts, **evidence)

    async def _note_doubt(self, submission: Submission, probe: Probe, reason: str) -> None:
        record = InDoubt(
            idempotency_key=submission.idempotency_key,
            model=submission.model,
            verb=submission.verb,
            phase=probe.phase,
            at=time.time(),
            reason=reason,
        )
        self.shared.in_doubt.append(record)
        await self.emit(OutcomeInDoubt(call_id=submission.idempotency_key, record=record))
        if self.on_in_doubt is not None:
            self.on_in_doubt(record)

    async def _headers(self, url: str, submission: Submission | None) -> tuple[tuple[bytes, bytes], ...]:
        settings = self.settings
        headers = [
            (b"user-agent", settings.user_agent.encode("latin-1")),
            (b"accept", b"application/json"),
            (b"accept-encoding", b"identity"),
        ]
        headers += [(name.encode(), value.encode("latin-1")) for name, value in settings.default_headers]
        if submission is not None:
            headers.append((b"content-type", b"application/json"))
            headers.append((b"idempotency-key", submission.idempotency_key.encode()))
            headers += [(name.encode(), value.encode("latin-1")) for name, value in submission.headers]
        if origin_of(url) in settings.origins:
            headers.append((b"authorization", authorization(await self._key(), settings.auth_scheme).encode()))
        return tuple(headers)

    async def _key(self) -> Secret:
        if self.settings.api_key is not None:
            return self.settings.api_key
        source = self.settings.api_key_source
        if source is None:
            msg = "No API key."
            raise ConfigurationError(msg)
        value = source()
        if inspect.isawaitable(value):
            value = await value
        return check_key(value)
