"""Sends a call until it ends: an attempt, its outcome, and what the table of ``call.retry`` decides for it.

A ``Call`` is one request with what is particular to its kind: how it is prepared, how its answer is read, what is
raised. ``Caller.send`` drives each kind alike: paid POSTs, uploads, reads, polls and files. Everything that sends goes
through it, so that attempts, pauses and the retry budget are counted in one place.

Nothing here decides about retries, opens a socket, or follows a redirect.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from urllib.parse import quote

import msgspec

from videorouter.call.answers import MAX_ANSWER_BYTES, ErrorAnswer, Unusable, find_error, read_post, refuse_broken
from videorouter.call.failures import (
    FailedAttempt,
    build_error,
    classify_answer,
    classify_failure,
    classify_surprise,
    keep_evidence,
)
from videorouter.call.headers import HeaderBuilder
from videorouter.call.hooks import call_hooks
from videorouter.call.in_doubt import describe_undelivered
from videorouter.call.limiter import Slot
from videorouter.call.retry import TABLE, GiveUp, History, Outcome, RequestKind, RetryAfter, decide
from videorouter.call.spool import Spool
from videorouter.errors import DeadlineExceededError, Phase
from videorouter.events import OutcomeInDoubt
from videorouter.http import Attempt, Body, Request, Response, WireError, origin_of
from videorouter.lenient_json import BROKEN_JSON, decode_json
from videorouter.models import VideoResult
from videorouter.record import Record

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from videorouter.call.hooks import Hooks
    from videorouter.call.limiter import ClientLimit
    from videorouter.call.retry import Decision
    from videorouter.call.state import Shared
    from videorouter.config import ClientSettings
    from videorouter.errors import VideoRouterError
    from videorouter.events import Event, EventHook, InDoubtHook
    from videorouter.http import Origin, ResponseStream
    from videorouter.models import InDoubt, Task, Video

Answer = TypeVar("Answer")
Kept = TypeVar("Kept", bound=Record)

READ_LIMIT = 60.0
"""Seconds after which one attempt of a read is given up: the next one may be answered."""


class Call(msgspec.Struct, Generic[Answer], kw_only=True, eq=False):
    """One request that is sent until it is answered, as often as the retry table allows.

    ``until`` is when the prepared attempt is given up, set by ``prepare``. ``slot`` is released during a pause before a
    retry. ``failed`` is the last attempt if it failed; ``attempt`` is the running one, or one not yet classified.
    ``about`` is the kind of request that errors speak of, if it is not ``kind``.
    """

    caller: Caller
    kind: RequestKind
    deadline: float
    max_retries: int
    until: float = 0.0
    slot: Slot | None = None
    hosts: int = 1
    history: History = msgspec.field(default_factory=History)
    failed: FailedAttempt | None = None
    attempt: Attempt | None = None
    began: float = 0.0
    about: RequestKind | None = None

    def __repr__(self) -> str:
        # Prompts and headers must not appear in tracebacks.
        return f"<{type(self).__name__} {self.kind.name}>"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("kind", self.kind)]

    async def prepare(self, attempt: Attempt) -> Request:
        """Build the request when it may be sent; an exception from here ends the call with nothing sent."""
        raise NotImplementedError

    def read(self, response: Response) -> Answer | ErrorAnswer | Unusable | None:
        """Read an answer; ``None`` when there is no result yet."""
        raise NotImplementedError

    async def send_once(self) -> Answer | FailedAttempt:
        """Make one attempt and return its result or its failure."""
        caller = self.caller
        self.attempt = attempt = Attempt()
        request = await self.prepare(attempt)
        self.began = time.monotonic()
        self.history.attempts += 1
        settings = caller.settings
        ended: Answer | FailedAttempt
        try:
            response = await caller.shared.sender.send(request, attempt, deadline=self.until, max_body=MAX_ANSWER_BYTES)
            if attempt.spool is not None:
                response.body = await attempt.spool.finish()
            answer = self.read(response)
            if attempt.spool is not None:
                attempt.spool.attach(answer)
        except WireError as error:
            if attempt.spool is not None and attempt.response is not None:
                attempt.response.body = attempt.spool.head
            ended = classify_failure(error, attempt, self.kind, settings, wall=time.time())
        except Exception as error:  # noqa: BLE001  whatever a user's transport raises, it ends here
            ended = classify_surprise(error, attempt, self.kind, settings, wall=time.time())
        except BaseException:
            if attempt.spool is not None and attempt.phase is Phase.COMPLETE:
                attempt.spool.keep_cancelled()
            raise
        else:
            if answer is None:
                ended = FailedAttempt(outcome=Outcome.PENDING, attempt=attempt, response=response)
            elif type(answer) is ErrorAnswer or type(answer) is Unusable:
                ended = classify_answer(answer, response, attempt, self.kind, settings, wall=time.time())
            else:
                attempt.response = response
                ended = answer
        if attempt.earlier:
            ended = await self.judge_earlier(ended, attempt)
        if caller.on_event is not None:
            await self.tell_attempt(ended, time.monotonic() - self.began)
        return ended

    def find_last_start(self) -> float:
        """Return the latest time at which another attempt may start."""
        return self.deadline

    async def judge_earlier(self, ended: Answer | FailedAttempt, attempt: Attempt) -> Answer | FailedAttempt:
        """Classify an attempt in which the user's client sent more than once."""
        del attempt
        return ended

    def note(self, failed: FailedAttempt, decision: Decision) -> None:
        """Record how an attempt failed, and what was decided."""
        self.failed = failed
        self.attempt = None
        self.history.note(failed.outcome, self.kind, decision)

    def build_error(self, failed: FailedAttempt) -> VideoRouterError:
        """Build the error to raise after the last attempt."""
        ending = TABLE[failed.outcome][self.kind][1]
        error = build_error(ending, failed, self.caller.settings, kind=self.about or self.kind)
        error.add(attempts=self.history.attempts, elapsed=time.monotonic() - self.history.began)
        return error

    async def tell_attempt(self, ended: Answer | FailedAttempt, elapsed: float) -> None:
        """Report the end of an attempt to the event hook."""

    async def tell_retry(self, decision: RetryAfter) -> None:
        """Report a coming retry to the event hook."""

    async def rest(self, seconds: float) -> None:
        """Wait for the next attempt."""
        await self.caller.shared.rest(seconds)

    async def map_error(self, error: BaseException) -> BaseException:
        """Return the exception to raise for the one that ended the call."""
        return error


class FreeCall(Call[Answer], kw_only=True, eq=False):
    """A request to the gateway that buys nothing: a GET, or a POST of ``body``.

    ``parse`` reads the answer; ``limit`` is the timeout of one attempt in seconds.
    """

    url: str
    parse: Callable[[Response], Answer | ErrorAnswer | Unusable | None] | None = None
    limit: float = float("inf")
    body: Body | None = None
    content_type: bytes | None = None
    model: str | None = None

    def __post_init__(self) -> None:
        self.history.began = time.monotonic()

    async def prepare(self, attempt: Attempt) -> Request:
        """Refuse when the client is closed or the deadline of an upload has passed, and ask for the key."""
        del attempt
        self.caller.check_open()
        headers = await self.caller.headers.build(self.url, deadline=self.deadline, content_type=self.content_type)
        if not self.kind.read and time.monotonic() >= self.deadline:
            raise DeadlineExceededError("The deadline passed before the file could be uploaded. Nothing was sent.")
        self.until: float = min(self.deadline, time.monotonic() + self.limit)
        method = "GET" if self.kind.read else "POST"
        return Request(method=method, url=self.url, headers=headers, body=self.body)

    def read(self, response: Response) -> Answer | ErrorAnswer | Unusable | None:
        """Read the answer with ``parse``."""
        return self.parse(response) if self.parse is not None else None

    def build_error(self, failed: FailedAttempt) -> VideoRouterError:
        """Build the error as any call does, and add the model."""
        error = super().build_error(failed)
        error.add(model=self.model)
        return error


def read_json(response: Response) -> Response | ErrorAnswer | Unusable:
    """Return the error that an answer reports, or the answer itself when it is JSON without one."""
    try:
        root = decode_json(response.body)
    except BROKEN_JSON as error:
        return refuse_broken(response.status, response.body, error)
    return find_error(response.status, root, response.body) or response


class Caller:
    """Sends for one client or view of it, with its settings, hooks and limit of concurrent jobs."""

    def __init__(
        self,
        settings: ClientSettings,
        shared: Shared,
        *,
        on_event: EventHook | None = None,
        on_in_doubt: InDoubtHook | None = None,
        limit: ClientLimit | None = None,
    ) -> None:
        self.settings = settings
        self.shared = shared
        self.on_event = on_event
        self.on_in_doubt = on_in_doubt
        self.limit: ClientLimit = limit if limit is not None else shared.limit
        self.headers: HeaderBuilder = HeaderBuilder(settings)
        self.bases: tuple[str, ...] = (settings.base_url, *settings.failover_urls)
        self.post_kind = RequestKind.HONOURED if settings.idempotency == "honoured" else RequestKind.ONCE
        self.origins: tuple[Origin, ...] = tuple(origin_of(base) for base in self.bases)

    async def send(self, call: Call[Answer], failed: FailedAttempt | None = None) -> Answer:
        """Send a call until it is answered, or raise when no retry is allowed. The call still holds its slot on return.

        ``failed`` is an attempt that failed after ``send`` returned, such as a truncated file body.
        """
        try:
            while True:
                if failed is not None:
                    await call.rest(await self.decide_next(call, failed))
                ended = await call.send_once()
                if not isinstance(ended, FailedAttempt):
                    if call.slot is not None:
                        call.slot.note_success(time.monotonic() - call.began)
                    if call.kind is not RequestKind.FILE:  # its body is still to come
                        self.shared.retry_budget.repay(call.history.last_cost)
                    return ended
                failed = ended
        except BaseException as error:
            raised = await call.map_error(error)
            if raised is error:
                raise
            raise raised from error

    async def decide_next(self, call: Call[Any], failed: FailedAttempt) -> float:
        """Apply the retry table: return the pause before the next attempt, or raise."""
        decision = decide(
            failed.outcome,
            call.kind,
            call.history,
            now=time.monotonic(),
            deadline=call.find_last_start(),
            jitter=random.random(),  # noqa: S311  not a secret
            max_retries=call.max_retries,
            retry_after=failed.retry_after,
            hosts=call.hosts,
        )
        call.note(failed, decision)
        if isinstance(decision, GiveUp):
            raise call.build_error(failed)
        if not self.shared.retry_budget.charge(decision):
            if not decision.throttled:
                error = call.build_error(failed)
                error.add(budget_exhausted=True)
                raise error
            if call.slot is not None:
                call.slot.out_of_budget = True
        if self.on_event is not None:
            await call.tell_retry(decision)
        return decision.after

    async def open_stream(
        self, request: Request, attempt: Attempt, *, deadline: float, stall: float, addresses: tuple[str, ...]
    ) -> ResponseStream:
        """Send once and return when the head is in; see ``Sender.stream``."""
        return await self.shared.sender.stream(request, attempt, deadline=deadline, stall=stall, addresses=addresses)

    async def get(
        self,
        url: str,
        *,
        deadline: float,
        parse: Callable[[Response], Answer | ErrorAnswer | Unusable | None],
        about: RequestKind | None = None,
    ) -> Answer:
        """Read one JSON document of the gateway with ``parse``; errors speak of ``about``."""
        return await self.send(
            FreeCall(
                caller=self,
                kind=RequestKind.READ,
                about=about,
                url=url,
                parse=parse,
                deadline=deadline,
                max_retries=self.settings.max_retries,
                limit=READ_LIMIT,
            )
        )

    async def upload(self, url: str, body: Body, *, content_type: str, model: str, deadline: float) -> Response:
        """Send an input's bytes by a POST under the same retry table as a paid one."""

        def parse(response: Response) -> Response | ErrorAnswer:
            answer = read_post(response.status, response.body, model=model)
            return answer if isinstance(answer, ErrorAnswer) else response

        return await self.send(
            FreeCall(
                caller=self,
                kind=RequestKind.UPLOAD,
                url=url,
                parse=parse,
                body=body,
                content_type=content_type.encode(),
                model=model,
                deadline=deadline,
                max_retries=self.settings.max_retries,
            )
        )

    def open_slot(self, model: str, *, sends: bool = True) -> Slot:
        """Make a slot of the client's and the model's limit, not yet taken; ``sends=False`` for a job that polls."""
        shared = self.shared
        if shared.closed or shared.draining:
            shared.check_taking()
        return Slot(self.limit.find_queue(self.origins[0], model, adaptive=self.settings.adaptive, sends=sends))

    def task_url(self, task_id: str, poll_url: str | None = None, *, host: int = 0) -> str:
        """Return the URL of a task's state: the gateway's own on a known origin, else the documented path of a host."""
        if poll_url is not None and poll_url.startswith(("https://", "http://")):
            try:
                if origin_of(poll_url) in self.settings.origins:
                    return poll_url
            except ValueError:
                pass
        return f"{self.bases[host]}/videos/tasks/{quote(task_id, safe='')}"

    def scrub(self, record: Kept, response: Response) -> Kept:
        """Remove the API key, where the gateway echoed it, from an answer."""
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
            changes["unusable"] = tuple(settings.redact(url) for url in record.unusable)
        return record.replace(**changes).with_extras(raw_=raw)

    def _scrub_words(self, video: Video) -> Video:
        """Scrub all text but URLs and ids: without them a paid result could not be fetched."""
        if video.revised_prompt is None:
            return video
        words = self.settings.redact(video.revised_prompt)
        return video.replace(revised_prompt=words)

    def evidence(self, response: Response) -> dict[str, object]:
        """Collect the facts of an answer for an error, without secrets."""
        return keep_evidence(response, self.settings.redact)

    def make_spool(self) -> Spool:
        """Make the spool for an answer that is too large for memory."""
        return Spool(limit=self.settings.max_download_bytes, most=MAX_ANSWER_BYTES)

    def check_open(self) -> None:
        """Raise unless the client is open."""
        self.shared.check_open()

    async def emit(self, event: Event, *, deadline: float = float("inf"), also: EventHook | None = None) -> None:
        """Pass an event to the user's hook and to another one; wait for both, but not past the deadline."""
        if self.on_event is not None or also is not None:
            limit = self.settings.hook_timeout
            hooks = (self.on_event, event), (also, event)
            await call_hooks(hooks, limit=limit, wait=min(limit, deadline - time.monotonic()))

    async def record(self, event: Event, *, seconds: float = float("inf")) -> None:
        """Emit an event that must not be lost: the hook gets its time even when the call is cancelled."""
        limit = self.settings.hook_timeout
        await call_hooks(((self.on_event, event),), limit=limit, wait=min(limit, seconds), recording=True)

    async def record_in_doubt(self, record: InDoubt, ending: BaseException | None = None, *, also: Hooks = ()) -> None:
        """Record a doubt and call the hooks, unless ``ending`` forbids to await anything."""
        self.shared.in_doubt_log.add(record)
        if not isinstance(ending, GeneratorExit | KeyboardInterrupt | SystemExit):
            hooks = (*also, *self._find_hooks(record))
            await call_hooks(hooks, limit=self.settings.hook_timeout, recording=True)

    def record_undelivered(self, answer: VideoResult | Task, verb: str) -> Callable[[], Awaitable[None]]:
        """Record a result that could not be delivered. Thread-safe. Returns a function that calls the hooks on the loop."""
        record = describe_undelivered(answer, verb)
        self.shared.in_doubt_log.add(record)
        return partial(call_hooks, self._find_hooks(record), limit=self.settings.hook_timeout, recording=True)

    def _find_hooks(self, record: InDoubt) -> Hooks:
        event = OutcomeInDoubt(call_id=record.idempotency_key, record=record)
        return (self.on_event, event), (self.on_in_doubt, record)
