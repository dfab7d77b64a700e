"""Reads of the gateway, which may be repeated, and uploads, which cost nothing but follow the law of paid requests.

``call.retry`` decides about every repetition; this file drives it, and builds the headers that carry the key.
"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

import anyio
import msgspec

from videorouter.call.answers import MAX_ANSWER_BYTES, ErrorAnswer, Unusable, decode_json, find_error, read_post
from videorouter.call.failures import FailedAttempt, build_error, keep_evidence, name_answer, name_failure
from videorouter.call.headers import HeaderBuilder
from videorouter.call.in_doubt import call_hooks
from videorouter.call.retry import TABLE, GiveUp, History, RequestKind, decide
from videorouter.http import Attempt, Request, Response, WireError, WireFailure, origin_of
from videorouter.models import Record, VideoResult

if TYPE_CHECKING:
    from collections.abc import Callable

    from videorouter.call.retry import Decision
    from videorouter.call.state import Shared
    from videorouter.config import Settings
    from videorouter.errors import VideoRouterError
    from videorouter.events import Event, EventHook, InDoubtHook
    from videorouter.models import Video

    Check = Callable[[Response], ErrorAnswer | Unusable | None]

Kept = TypeVar("Kept", bound=Record)

READ_LIMIT = 60.0
"""Seconds after which one attempt of a read is given up: the next one may be answered."""


def check_json(response: Response) -> ErrorAnswer | Unusable | None:
    """What is wrong with an answer that should be JSON and no error."""
    try:
        root: object = decode_json(response.body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        if 200 <= response.status < 300:
            return Unusable(status=response.status, reason=f"not JSON ({type(error).__name__})", body=response.body)
        root = None
    return find_error(response.status, root, response.body)


class Reader:
    """One client's way to what costs nothing.

    Args:
        settings: The client's, or a view's.
        shared: What its views share.
        on_event: The user's hook for events.
        on_in_doubt: The user's hook for requests in doubt.
    """

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
        self.headers: HeaderBuilder = HeaderBuilder(settings)

    async def get(self, url: str, *, deadline: float, check: Check = check_json) -> Response:
        """Read one JSON document of the gateway; a read that fails is repeated, as the law has it.

        Args:
            url: Where it lies.
            deadline: ``time.monotonic()`` value.
            check: What is wrong with an answer; default: it is no JSON, or it brings an error.

        Returns:
            An answer that ``check`` has nothing against.

        Raises:
            VideoRouterError: No usable answer came.
        """
        history = History()
        began = time.monotonic()
        attempts = 0
        while True:
            attempts += 1
            got = await self.look(url, deadline=deadline, check=check)
            if isinstance(got, Response):
                self.shared.budget.repay(history.last_cost)
                return got
            decision = self._decide(got, RequestKind.READ, history, deadline)
            history.note(got.outcome, RequestKind.READ, decision)
            if isinstance(decision, GiveUp):
                error = self.describe(got)
            elif self.shared.budget.spend(decision.cost) or decision.throttled:
                await anyio.sleep(decision.after)
                continue
            else:
                error = self.describe(got)
                error.add(budget_exhausted=True)
            error.add(attempts=attempts, elapsed=time.monotonic() - began)
            raise error

    async def look(
        self, url: str, *, deadline: float, check: Check = check_json, limit: float = READ_LIMIT
    ) -> Response | FailedAttempt:
        """Read one JSON document once.

        Args:
            url: Where it lies.
            deadline: ``time.monotonic()`` value.
            check: What is wrong with an answer.
            limit: Seconds after which this one attempt is given up.

        Returns:
            An answer that ``check`` has nothing against, or what became of the attempt.

        Raises:
            ClientClosedError: The client is closed.
            ConfigurationError: There is no key.
        """
        self.check_open()
        refused = self.settings.refused_statuses
        headers = await self.headers.head(url, deadline=deadline)
        request = Request(method="GET", url=url, headers=headers)
        attempt = Attempt()
        until = min(deadline, time.monotonic() + limit)
        try:
            response = await self.shared.sender.send(request, attempt, deadline=until, max_body=MAX_ANSWER_BYTES)
            trouble = check(response)
        except WireError as error:
            return name_failure(error, attempt, kind=RequestKind.READ, refused=refused)
        except Exception as error:  # noqa: BLE001  whatever a user's transport raises, it ends here
            return self.name_surprise(error, attempt, RequestKind.READ)
        if trouble is None:
            return response
        return name_answer(trouble, response, attempt, kind=RequestKind.READ, refused=refused)

    def describe(self, outcome: FailedAttempt) -> VideoRouterError:
        """The error of a read that failed."""
        return build_error(TABLE[outcome.outcome][RequestKind.READ][1], outcome, self.settings, kind=RequestKind.READ)

    def scrub(self, record: Kept, response: Response) -> Kept:
        """What an answer brought, without what the gateway echoed of the key."""
        settings = self.settings
        named: str | None = getattr(record, "request_id", None)
        if not settings.quotes_key(response.body) and (named is None or not settings.quotes_key(named.encode())):
            return record
        raw = settings.redact(response.body.decode("utf-8", "replace")).encode()
        changes: dict[str, Any] = {}
        for name in ("request_id", "fail_reason"):
            text = getattr(record, name, None)
            if isinstance(text, str):
                changes[name] = settings.redact(text)
        result = getattr(record, "result", None)
        if isinstance(result, VideoResult):
            changes["result"] = self.scrub(result, response)
        if isinstance(record, VideoResult):
            changes["videos"] = tuple(self._scrub_words(video) for video in record.videos)
        return record.replace(**changes).with_extras(raw_=raw)

    def _scrub_words(self, video: Video) -> Video:
        """Addresses and ids stay as they are: without them what was paid for could not be had."""
        if video.revised_prompt is None:
            return video
        words = self.settings.redact(video.revised_prompt)
        return video.replace(revised_prompt=words)

    def _decide(self, outcome: FailedAttempt, column: RequestKind, history: History, deadline: float) -> Decision:
        return decide(
            outcome.outcome,
            column,
            history,
            now=time.monotonic(),
            deadline=deadline,
            dice=random.random(),  # noqa: S311  jitter, no secret
            max_retries=self.settings.max_retries,
            retry_after=outcome.retry_after,
        )

    async def upload(self, url: str, body: bytes, *, content_type: str, model: str, deadline: float) -> Response:
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
        history = History()
        column = RequestKind.ONCE
        while True:
            headers = await self.headers.head(url, deadline=deadline, content_type=content_type.encode())
            attempt = Attempt()
            request = Request(method="POST", url=url, headers=headers, body=body)
            try:
                response = await self.shared.sender.send(request, attempt, deadline=deadline, max_body=MAX_ANSWER_BYTES)
                answer = read_post(response.status, response.body, model=model)
            except WireError as error:
                outcome = name_failure(error, attempt, kind=column, refused=self.settings.refused_statuses)
            except Exception as error:  # noqa: BLE001  whatever a user's transport raises, it ends here
                outcome = self.name_surprise(error, attempt, column)
            else:
                if not isinstance(answer, ErrorAnswer):
                    return response
                outcome = name_answer(answer, response, attempt, kind=column, refused=self.settings.refused_statuses)
            decision = self._decide(outcome, column, history, deadline)
            history.note(outcome.outcome, column, decision)
            if isinstance(decision, GiveUp) or not self.shared.budget.spend(decision.cost):
                ending = TABLE[outcome.outcome][column][1]
                failure = build_error(ending, outcome, self.settings, kind=column, model=model)
                failure.add(attempts=history.retries + history.refusals + 1)
                raise failure
            await anyio.sleep(decision.after)
            self.check_open()

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
        self.shared.check_open()

    async def emit(self, event: Event) -> None:
        """Hand an event to the user's hook; what the hook raises is logged and changes nothing."""
        if self.on_event is not None:
            await call_hooks(((self.on_event, event),))

    def evidence(self, response: Response) -> dict[str, object]:
        """The facts that an answer leaves on an error, without secrets."""
        return keep_evidence(response, self.settings.redact)

    def name_surprise(self, error: Exception, attempt: Attempt, column: RequestKind) -> FailedAttempt:
        """The outcome of an attempt in which a transport of others raised what it should not have."""
        words = self.settings.redact(f"{type(error).__name__}: {error}")[:300]
        failure = WireError(WireFailure.RESET, f"the transport failed unexpectedly ({words})", host=attempt.host)
        failure.__cause__ = error
        return name_failure(failure, attempt, kind=column, refused=self.settings.refused_statuses)
