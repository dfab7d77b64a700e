"""Drives one paid request to its end: the driver of the retry law.

A request waits for its slot, is sent, and what became of it is put before ``call.retry``, which alone decides whether
the same bytes go again. A wait between attempts gives the slot back. Whatever may have been bought and is not in hand
is recorded before the error or the cancellation goes on.

Nothing here decides about retries, opens a socket, or follows a redirect.
"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING
from urllib.parse import quote

import anyio

from videorouter.call.answers import MAX_ANSWER_BYTES, ErrorAnswer, Unusable, read_post
from videorouter.call.failures import FailedAttempt, build_error, has_left, name_answer, name_failure
from videorouter.call.in_doubt import call_hooks, call_hooks_while_cancelled, describe_doubt
from videorouter.call.limiter import ClientLimit, Slot
from videorouter.call.reading import Reader
from videorouter.call.retry import (
    KEPT_FOR_PROBES,
    LEAST_SLEEP,
    TABLE,
    Decision,
    GiveUp,
    History,
    Outcome,
    Raise,
    RequestKind,
    RetryAfter,
    decide,
)
from videorouter.errors import (
    DeadlineExceededError,
    OutcomeUnknownError,
    Phase,
    RateLimitError,
    VideoRouterError,
)
from videorouter.events import AttemptFinished, AttemptStarted, OutcomeInDoubt, RetryScheduled
from videorouter.http import Attempt, Request, Response, WireError, WireFailure, find_header, name_host, origin_of
from videorouter.models import InDoubt, Task, VideoResult

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from videorouter.call.requests import Submission
    from videorouter.call.state import Shared
    from videorouter.config import Settings
    from videorouter.events import EventHook, InDoubtHook


class _Trail:
    """What a call that met trouble has been through. A call that meets none never makes one."""

    __slots__ = ("attempts", "base", "doubt", "failovers", "first", "history", "last_error")

    def __init__(self, first: FailedAttempt) -> None:
        self.history = History()
        self.first = first
        self.doubt: FailedAttempt | None = None
        self.last_error: VideoRouterError | None = None
        self.attempts = 0
        self.failovers = 0
        self.base = 0

    def note(self, outcome: FailedAttempt, column: RequestKind, decision: Decision) -> None:
        """Write down an attempt and what was decided about it."""
        self.attempts += 1
        self.history.note(outcome.outcome, column, decision)
        if self.history.doubtful and self.doubt is None:
            self.doubt = outcome


class Caller(Reader):
    """One client's way to the wire.

    Args:
        settings: The client's, or a view's.
        shared: What its views share.
        on_event: The user's hook for events.
        on_in_doubt: The user's hook for requests in doubt.
        limit: A view's own limit of jobs at once; default: the client's.
    """

    def __init__(
        self,
        settings: Settings,
        shared: Shared,
        *,
        on_event: EventHook | None = None,
        on_in_doubt: InDoubtHook | None = None,
        limit: ClientLimit | None = None,
    ) -> None:
        super().__init__(settings, shared, on_event=on_event, on_in_doubt=on_in_doubt)
        self.limit: ClientLimit = limit if limit is not None else shared.limit
        self._bases = (settings.base_url, *settings.failover_urls)
        self._origins = tuple(origin_of(base) for base in self._bases)
        self._column = RequestKind.HONOURED if settings.idempotency == "honoured" else RequestKind.ONCE

    def open_slot(self, model: str, *, sends: bool = True) -> Slot:
        """A slot of the client's limit and of the model's, not yet taken.

        Args:
            model: Which model is asked.
            sends: ``False`` for a job that was submitted before and is only looked at.

        Raises:
            ClientClosedError: The client is closed or draining.
        """
        shared = self.shared
        if shared.closed or shared.draining:
            shared.check_taking()
        return Slot(self.limit.find_queue(self._origins[0], model, adaptive=self.settings.adaptive), sends=sends)

    async def post(
        self,
        submission: Submission,
        slot: Slot,
        *,
        deadline: float,
        intent: Callable[[], Awaitable[None]] | None = None,
        accepted: Callable[[Task], Awaitable[None]] | None = None,
    ) -> VideoResult | Task:
        """Send a paid request, as the retry law has it. The slot is held when it returns.

        Args:
            submission: What to send.
            slot: From ``open_slot``; whoever opened it releases it.
            deadline: ``time.monotonic()`` value.
            intent: Awaited once, when the slot is held, before the first byte.
            accepted: Awaited only when the call is cancelled and its answer came all the same, with its task.

        Returns:
            The finished result, or the accepted task.

        Raises:
            VideoRouterError: See the error tree; ``OutcomeUnknownError`` for everything that may have been billed.
        """
        shared = self.shared
        trail: _Trail | None = None
        attempt: Attempt | None = None
        base = 0
        try:
            while True:
                if not slot.held and not slot.try_take():
                    await self._queue(slot, deadline, trail)
                shared.check_open()
                url = self._bases[base] + submission.path
                headers = self.headers.head_post(submission.idempotency_key) if not submission.headers else None
                if headers is None:
                    headers = await self.headers.head(
                        url,
                        deadline=deadline,
                        content_type=b"application/json",
                        extra=submission.headers,
                        idempotency_key=submission.idempotency_key,
                    )
                if intent is not None:
                    await intent()
                    intent = None
                shared.attempts += 1
                shared.retries += trail is not None
                if self.on_event is not None:
                    await self._tell_start(submission, trail, url)
                began = time.monotonic()
                if began >= deadline:
                    raise _describe_lateness(trail)  # noqa: TRY301  the handler below adds what every error carries
                slot.attempt = attempt = Attempt()
                got = await self._attempt(
                    Request(method="POST", url=url, headers=headers, body=submission.body),
                    attempt,
                    submission,
                    deadline,
                )
                if self.on_event is not None:
                    await self._tell_end(submission, trail, attempt, began, got)
                if not isinstance(got, FailedAttempt):
                    slot.note_success()
                    shared.budget.repay(trail.history.last_cost if trail is not None else 1)
                    return self._keep_paid(got, attempt, base)
                attempt = None
                if trail is None:
                    trail = _Trail(got)
                pause = await self._face(got, submission, slot, trail, deadline)
                slot.release()
                await anyio.sleep(pause)
                if base != trail.base:
                    base = trail.base
                    queue = self.limit.find_queue(
                        self._origins[base], submission.model, adaptive=self.settings.adaptive
                    )
                    slot.move(queue)
        except VideoRouterError as error:
            raised = await self._finish_failed(error, submission, trail, deadline)
            if raised is error:
                raise
            raise raised from error
        except BaseException as error:
            await self._note_cancelled(error, submission, trail, attempt, base=base, accepted=accepted)
            raise

    async def _attempt(
        self, request: Request, attempt: Attempt, submission: Submission, deadline: float
    ) -> VideoResult | Task | FailedAttempt:
        """Send once, and say what came of it."""
        refused = self.settings.refused_statuses
        try:
            response = await self.shared.sender.send(request, attempt, deadline=deadline, max_body=MAX_ANSWER_BYTES)
            answer = _read(response, submission)
        except WireError as error:
            return name_failure(error, attempt, kind=self._column, refused=refused)
        except Exception as error:  # noqa: BLE001  whatever a user's transport raises, it ends here
            return self.name_surprise(error, attempt, self._column)
        if isinstance(answer, ErrorAnswer | Unusable):
            return name_answer(answer, response, attempt, kind=self._column, refused=refused)
        attempt.response = response
        return answer

    async def queue(self, slot: Slot, *, deadline: float) -> None:
        """Wait for a slot before anything is sent.

        Raises:
            VideoRouterError: The client was closed, or the deadline passed.
        """
        await self._queue(slot, deadline, None)

    async def _queue(self, slot: Slot, deadline: float, trail: _Trail | None) -> None:
        """Wait for the slot, where waiting can help."""
        pace = slot.queue.model_limit.pace
        if pace is not None and pace.paused_until >= deadline:
            if trail is not None:
                raise _describe_lateness(trail)
            left = pace.paused_until - time.monotonic()
            msg = (
                f"The gateway has asked calls of this model to wait for {left:.0f} s more, past this call's deadline. "
                "Nothing was sent. Come back after retry_after seconds, or allow a longer timeout."
            )
            raise RateLimitError(msg, retry_after=left)
        if await slot.take(deadline, first=trail is not None):
            return
        self.shared.check_open()
        raise _describe_lateness(trail)

    async def _face(
        self, outcome: FailedAttempt, submission: Submission, slot: Slot, trail: _Trail, deadline: float
    ) -> float:
        """Put a failure before the law: the seconds until the next attempt, or the error that ends the call."""
        _set_pace(outcome, slot)
        now = time.monotonic()
        decision = decide(
            outcome.outcome,
            self._column,
            trail.history,
            now=now,
            deadline=deadline,
            dice=random.random(),  # noqa: S311  jitter, no secret
            max_retries=submission.max_retries,
            retry_after=outcome.retry_after,
        )
        if self._may_fail_over(outcome, submission, trail) and now + LEAST_SLEEP < deadline:
            trail.failovers += 1
            trail.base = (trail.base + 1) % len(self._bases)
            decision = RetryAfter(after=LEAST_SLEEP, cost=0)
        trail.note(outcome, self._column, decision)
        error = self._build(outcome, submission, trail)
        if isinstance(decision, GiveUp):
            raise error
        trail.last_error = error
        if not self._pay(decision, slot):
            error.add(budget_exhausted=True)
            raise error
        if self.on_event is not None:
            event = RetryScheduled(
                call_id=submission.idempotency_key,
                attempt=trail.attempts + 1,
                wait=decision.after,
                reason=outcome.outcome.value,
            )
            await self.emit(event)
        return decision.after

    def _build(self, outcome: FailedAttempt, submission: Submission, trail: _Trail) -> VideoRouterError:
        """The error of an attempt, by the table."""
        ending = TABLE[outcome.outcome][self._column][1]
        if ending is Raise.FIRST:
            outcome = trail.first
            ending = TABLE[outcome.outcome][self._column][1]
            if ending is Raise.FIRST:
                # The very first answer speaks of the key: another request has used it.
                ending = TABLE[outcome.outcome][RequestKind.ONCE][1] if outcome.status == 409 else Raise.STATUS
        return build_error(ending, outcome, self.settings, kind=self._column, model=submission.model)

    def _pay(self, decision: RetryAfter, slot: Slot) -> bool:
        """Take a retry out of the budget; a refused call without budget waits for its model to recover."""
        budget = self.shared.budget
        if not decision.throttled:
            return budget.spend(decision.cost)
        if not budget.spend(decision.cost, keep=KEPT_FOR_PROBES):
            slot.out_of_budget = True
            budget.drain(decision.cost)
        return True

    def _may_fail_over(self, outcome: FailedAttempt, submission: Submission, trail: _Trail) -> bool:
        """Whether another of the caller's hosts comes first: nothing was sent, and it has not had its turn."""
        if submission.max_retries == 0 or trail.failovers >= len(self._bases) - 1:
            return False
        return outcome.outcome in {Outcome.UNREACHED, Outcome.NAME_MISSING}

    def _keep_paid(self, answer: VideoResult | Task, attempt: Attempt, base: int) -> VideoResult | Task:
        """What was bought, without what the gateway echoed of the key."""
        if isinstance(answer, Task) and base and answer.poll_url is None:
            url = f"{self._bases[base]}/videos/tasks/{quote(answer.id or '', safe='')}"
            answer = answer.replace(poll_url=url)
        return answer if attempt.response is None else self.scrub(answer, attempt.response)

    async def _finish_failed(
        self, error: VideoRouterError, submission: Submission, trail: _Trail | None, deadline: float
    ) -> VideoRouterError:
        """The error to raise: once an attempt may have been accepted, no later failure undoes that."""
        if trail is not None and trail.doubt is not None and not error.in_doubt:
            doubt = trail.doubt
            error = build_error(Raise.DOUBT, doubt, self.settings, kind=self._column, model=submission.model)
        error.add(
            idempotency_key=submission.idempotency_key,
            model=submission.model,
            attempts=trail.attempts if trail is not None else 0,
            elapsed=max(0.0, time.monotonic() - (deadline - submission.timeout)),
        )
        if isinstance(error, OutcomeUnknownError):
            record = describe_doubt(
                submission, error.message, phase=error.phase, request_id=error.request_id, task_id=error.task_id
            )
            self.shared.in_doubt_log.add(record)
            await call_hooks(self._find_hooks(record))
        return error

    async def _note_cancelled(
        self,
        error: BaseException,
        submission: Submission,
        trail: _Trail | None,
        attempt: Attempt | None,
        *,
        base: int,
        accepted: Callable[[Task], Awaitable[None]] | None,
    ) -> None:
        """Record what a cancelled call leaves behind. The sender has listened for an answer on its way already."""
        doubtful = trail is not None and trail.doubt is not None
        if attempt is None or not has_left(attempt):
            if doubtful:
                await self.record_loss(error, describe_doubt(submission, _CANCELLED))
            return
        response = attempt.response
        caught: VideoResult | Task | None = None
        if response is not None and attempt.phase is Phase.COMPLETE:
            answer = _read(response, submission)
            if isinstance(answer, VideoResult | Task):
                caught = self._keep_paid(answer, attempt, base)
            elif not doubtful:
                refused = self.settings.refused_statuses
                outcome = name_answer(answer, response, attempt, kind=RequestKind.ONCE, refused=refused)
                if TABLE[outcome.outcome][RequestKind.ONCE][1] is Raise.STATUS:
                    return
        reason = _CANCELLED if caught is None else _CAUGHT
        if accepted is not None and isinstance(caught, Task) and not isinstance(error, GeneratorExit):
            await call_hooks_while_cancelled(((accepted, caught),))
        await self.record_loss(error, describe_doubt(submission, reason, phase=attempt.phase, caught=caught))

    async def record_loss(self, error: BaseException, record: InDoubt) -> None:
        """Keep a record while ``error`` ends the call, and call_hooks the hooks, unless nothing may be awaited any more."""
        self.shared.in_doubt_log.add(record)
        if not isinstance(error, GeneratorExit | KeyboardInterrupt | SystemExit):
            await call_hooks_while_cancelled(self._find_hooks(record))

    def _find_hooks(self, record: InDoubt) -> tuple[tuple[Callable[..., object] | None, object], ...]:
        event = OutcomeInDoubt(call_id=record.idempotency_key, record=record)
        return (self.on_event, event), (self.on_in_doubt, record)

    async def _tell_start(self, submission: Submission, trail: _Trail | None, url: str) -> None:
        attempt = trail.attempts + 1 if trail is not None else 1
        await self.emit(AttemptStarted(call_id=submission.idempotency_key, attempt=attempt, host=name_host(url)))

    async def _tell_end(
        self,
        submission: Submission,
        trail: _Trail | None,
        attempt: Attempt,
        began: float,
        got: VideoResult | Task | FailedAttempt,
    ) -> None:
        trouble = None
        status = attempt.response.status if attempt.response is not None else None
        if isinstance(got, FailedAttempt):
            trouble = got.outcome.value
            status = got.response.status if got.response is not None else None
        event = AttemptFinished(
            call_id=submission.idempotency_key,
            attempt=trail.attempts + 1 if trail is not None else 1,
            host=attempt.host or "",
            phase=attempt.phase,
            status=status,
            trouble=trouble,
            elapsed=time.monotonic() - began,
        )
        await self.emit(event)


_CANCELLED = "the call was cancelled before its answer came"
_CAUGHT = "the call was cancelled; its answer came all the same and is kept here"


def _read(response: Response, submission: Submission) -> VideoResult | Task | ErrorAnswer | Unusable:
    return read_post(
        response.status,
        response.body,
        model=submission.model,
        request_id=find_header(response.headers, b"x-infron-request-id"),
        idempotency_key=submission.idempotency_key,
    )


def _describe_lateness(trail: _Trail | None) -> VideoRouterError:
    if trail is not None and trail.last_error is not None:
        return trail.last_error
    msg = (
        "The deadline passed while the call waited for its turn. Nothing was sent, so nothing was bought. Allow a "
        "longer timeout, a larger max_concurrency, or fewer calls at once."
    )
    return DeadlineExceededError(msg)


def _set_pace(outcome: FailedAttempt, slot: Slot) -> None:
    """Let the pace of the model follow from a failure."""
    slot.counted = True
    if outcome.outcome is Outcome.REFUSED:
        slot.note_refusal(outcome.retry_after)
    elif outcome.status == 503 or (outcome.error is not None and outcome.error.failure is WireFailure.CONNECT_TIMEOUT):
        slot.note_overload()
