"""One paid request: waits for its slot, keeps its bytes and its idempotency key, and records what it may have bought.

A purchase that was not delivered is recorded before the error or the cancellation goes on.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from videorouter.call.answers import ErrorAnswer, Unusable, read_post
from videorouter.call.caller import Call
from videorouter.call.failures import FailedAttempt, build_error, classify_answer, find_doubt
from videorouter.call.in_doubt import describe_doubt
from videorouter.call.requests import UNDELAYED_SECONDS
from videorouter.call.retry import MAY_BE_ACCEPTED, TABLE, Outcome, Raise, RequestKind
from videorouter.errors import (
    DeadlineExceededError,
    OutcomeUnknownError,
    Phase,
    RateLimitError,
    VideoRouterError,
)
from videorouter.events import AttemptFinished, AttemptStarted, RetryScheduled
from videorouter.http import Attempt, Request, Response, WireFailure, find_header, name_host
from videorouter.models import Task, VideoResult

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from videorouter.call.limiter import Slot
    from videorouter.call.requests import Submission
    from videorouter.call.retry import Decision, RetryAfter

_CANCELLED = "the call was cancelled before its answer came"
_CAUGHT = "the call was cancelled; its answer came all the same and is kept here"


class PaidCall(Call[VideoResult | Task], kw_only=True, eq=False):
    """A POST that buys a video and returns the finished result or an accepted task.

    ``intent`` is awaited once, with the slot held, before the first byte; ``accepted`` with the task, only when the
    call is cancelled and its answer arrived; ``withdraw`` before a pause, while no attempt may have been accepted, and gives
    the next ``intent``. ``first`` is the first attempt that failed, ``doubt`` the first one that
    may have been accepted. The caller of ``Caller.open_slot`` releases ``slot``.
    """

    submission: Submission
    slot: Slot
    intent: Callable[[], Awaitable[None]] | None = None
    accepted: Callable[[Task], Awaitable[None]] | None = None
    withdraw: Callable[[], Awaitable[Callable[[], Awaitable[None]]]] | None = None
    waited: bool = False
    first: FailedAttempt | None = None
    doubt: FailedAttempt | None = None

    async def prepare(self, attempt: Attempt) -> Request:
        """Wait for the slot and the key; then have the intent recorded."""
        caller, submission, slot = self.caller, self.submission, self.slot
        shared = caller.shared
        if not slot.held and not slot.try_take():
            await self.queue()
        if shared.closed:
            shared.check_open()
        url = caller.bases[self.history.failovers] + submission.path
        headers = caller.headers.build_paid_post(submission.idempotency_key) if not submission.headers else None
        if headers is None:
            headers = await caller.headers.build(
                url,
                deadline=self.deadline,
                content_type=b"application/json",
                extra=submission.headers,
                idempotency_key=submission.idempotency_key,
            )
        if self.intent is not None:
            await self.intent()
            self.intent = None
        shared.attempts += 1
        shared.retries += self.failed is not None
        if caller.on_event is not None:
            await caller.emit(
                AttemptStarted(
                    call_id=submission.idempotency_key, attempt=self.history.attempts + 1, host=name_host(url)
                ),
                deadline=self.deadline,
            )
        left = self.deadline - time.monotonic()
        if left <= 0 or (left < slot.queue.model_limit.least_time and self._has_waited(left)):
            raise self._describe_lateness(left)
        slot.attempt = attempt
        attempt.make_spool = caller.make_spool  # the answer may bring a video inline
        self.until: float = self.deadline
        return Request(method="POST", url=url, headers=headers, body=submission.body)

    async def queue(self) -> None:
        """Wait for the slot, unless the deadline makes that pointless."""
        self.waited = True
        pace = self.slot.queue.model_limit.pace
        if pace is not None and pace.paused_until >= self.find_last_start():
            if self.failed is not None:
                raise self.build_error(self.failed)
            left = pace.paused_until - time.monotonic()
            msg = (
                f"The gateway has asked calls of this model to wait for {left:.0f} s more, past this call's deadline. "
                "Nothing was sent. Come back after retry_after seconds, or allow a longer timeout."
            )
            raise RateLimitError(msg, retry_after=left)
        if not await self.slot.take(self.deadline, first=self.failed is not None):
            self.caller.check_open()
            raise self._describe_lateness(0.0)

    def find_last_start(self) -> float:
        """Return the latest start of an attempt that could still be answered in time."""
        return self.deadline - self.slot.queue.model_limit.least_time

    def _has_waited(self, left: float) -> bool:
        """Whether the call has waited for anything; one that has not is sent, however short its timeout."""
        if self.failed is not None or self.waited or self.submission.waited:
            return True
        return self.submission.timeout - left > UNDELAYED_SECONDS  # for a hook, a key or a disk

    def _describe_lateness(self, left: float) -> VideoRouterError:
        if self.failed is not None:
            return self.build_error(self.failed)
        what = "The deadline passed while the call waited to be sent."
        if left > 0:
            least = self.slot.queue.model_limit.least_time
            what = f"{left:.2g} s were left, but even the fastest answer of this model took {least:.2g} s."
        return DeadlineExceededError(
            f"{what} Nothing was sent, so nothing was bought. Allow a longer timeout, a larger max_concurrency, or fewer "
            "calls at once."
        )

    def read(self, response: Response) -> VideoResult | Task | ErrorAnswer | Unusable:
        """Read the result or the task, without the key."""
        submission = self.submission
        answer = read_post(
            response.status,
            response.body,
            model=submission.model,
            request_id=find_header(response.headers, b"x-infron-request-id"),
            idempotency_key=submission.idempotency_key,
            request=submission.body,
        )
        return self.accept_result(answer, response) if isinstance(answer, (VideoResult, Task)) else answer

    def accept_result(self, answer: VideoResult | Task, response: Response) -> VideoResult | Task:
        """Return what was bought; a task keeps the host that accepted it."""
        if not isinstance(answer, VideoResult) and answer.id is not None:
            answer = answer.replace(poll_url=self._find_poll_url(answer.id, answer.poll_url))
        return self.caller.scrub(answer, response)

    def _find_poll_url(self, task_id: str, poll_url: str | None = None) -> str:
        return self.caller.task_url(task_id, poll_url, host=self.history.failovers)

    async def judge_earlier(
        self, ended: VideoResult | Task | FailedAttempt, attempt: Attempt
    ) -> VideoResult | Task | FailedAttempt:
        """Keep the doubt of any earlier sending: it ends the call, or is recorded beside a result."""
        doubt = self._find_doubt(attempt)
        if doubt is None or (isinstance(ended, FailedAttempt) and ended.outcome in MAY_BE_ACCEPTED):
            return ended
        if isinstance(ended, FailedAttempt):
            return doubt
        if self.kind is RequestKind.ONCE:
            settings = self.caller.settings
            await self._record_doubt(build_error(Raise.DOUBT, doubt, settings, kind=self.kind))
        return ended

    def _find_doubt(self, attempt: Attempt) -> FailedAttempt | None:
        return find_doubt(attempt, self.kind, self.caller.settings, wall=time.time())

    async def _record_doubt(self, error: VideoRouterError) -> None:
        record = describe_doubt(
            self.submission,
            error.message,
            phase=error.phase,
            request_id=error.request_id,
            task_id=error.task_id,
            poll_url=error.poll_url,
        )
        await self.caller.record_in_doubt(record)

    def note(self, failed: FailedAttempt, decision: Decision) -> None:
        """Record how an attempt failed, for the call and for the limiter."""
        super().note(failed, decision)
        if self.first is None:
            self.first = failed
        if self.history.doubtful and self.doubt is None:
            self.doubt = failed
        self.slot.counted = True
        if failed.outcome is Outcome.THROTTLED:
            self.slot.note_throttled(failed.retry_after)
        elif failed.status == 503 or (failed.error is not None and failed.error.failure is WireFailure.CONNECT_TIMEOUT):
            self.slot.note_overload()

    async def rest(self, seconds: float) -> None:
        """Release the slot, wait, and change to the next host if the table says so."""
        slot, caller = self.slot, self.caller
        slot.release()
        if self.withdraw is not None and self.doubt is None and self.intent is None:
            self.intent = await self.withdraw()
        await super().rest(seconds)
        if self.hosts > 1:
            origin = caller.origins[self.history.failovers]
            slot.move(caller.limit.find_queue(origin, self.submission.model, adaptive=caller.settings.adaptive))

    def build_error(self, failed: FailedAttempt) -> VideoRouterError:
        """Build the error of an attempt, by the table."""
        ending = TABLE[failed.outcome][self.kind][1]
        if ending is Raise.FIRST and self.first is not None:
            failed = self.first
            ending = TABLE[failed.outcome][self.kind][1]
            if ending is Raise.FIRST:
                # The very first answer speaks of the key: another request has used it.
                ending = TABLE[failed.outcome][RequestKind.ONCE][1] if failed.status == 409 else Raise.STATUS
        return build_error(ending, failed, self.caller.settings, kind=self.kind, model=self.submission.model)

    async def map_error(self, error: BaseException) -> BaseException:
        """Record a doubt; once an attempt may have been accepted, no later failure undoes that."""
        if not isinstance(error, VideoRouterError):
            await self.record_cancelled(error)
            return error
        submission = self.submission
        if self.doubt is not None and not error.in_doubt:
            error = build_error(Raise.DOUBT, self.doubt, self.caller.settings, kind=self.kind, model=submission.model)
        if error.task_id is not None:
            error.add(poll_url=self._find_poll_url(error.task_id))
        error.add(
            idempotency_key=submission.idempotency_key,
            model=submission.model,
            attempts=self.history.attempts,
            elapsed=max(0.0, time.monotonic() - (self.deadline - submission.timeout)),
        )
        if isinstance(error, OutcomeUnknownError):
            await self._record_doubt(error)
        return error

    async def record_cancelled(self, error: BaseException) -> None:
        """Record what a cancelled call may have bought; the sender has already waited for a late answer."""
        submission, attempt = self.submission, self.attempt
        if attempt is not None and self.doubt is None:
            self.doubt = self._find_doubt(attempt)
        if attempt is None or not attempt.has_left:
            if self.doubt is not None:
                await self.caller.record_in_doubt(describe_doubt(submission, _CANCELLED), error)
            return
        response = attempt.response
        caught: VideoResult | Task | None = None
        if response is not None and attempt.phase is Phase.COMPLETE:
            answer = self.read(response)
            if isinstance(answer, VideoResult | Task):
                caught = answer
            elif self.doubt is None:
                settings = self.caller.settings
                failed = classify_answer(answer, response, attempt, RequestKind.ONCE, settings, wall=time.time())
                if TABLE[failed.outcome][RequestKind.ONCE][1] is Raise.STATUS:
                    return
        reason = _CANCELLED if caught is None else _CAUGHT
        record = describe_doubt(submission, reason, phase=attempt.phase, caught=caught)
        also = ((self.accepted, caught),) if isinstance(caught, Task) else ()
        await self.caller.record_in_doubt(record, error, also=also)

    async def tell_attempt(self, ended: VideoResult | Task | FailedAttempt, elapsed: float) -> None:
        """Report the end of an attempt to the event hook."""
        attempt = self.attempt
        failed = ended if isinstance(ended, FailedAttempt) else None
        response = failed.response if failed is not None else attempt.response if attempt is not None else None
        await self.caller.emit(
            AttemptFinished(
                call_id=self.submission.idempotency_key,
                attempt=self.history.attempts,
                host=attempt.host or "" if attempt is not None else "",
                phase=attempt.phase if attempt is not None else Phase.QUEUED,
                status=response.status if response is not None else None,
                trouble=failed.outcome.value if failed is not None else None,
                elapsed=elapsed,
            ),
            deadline=self.deadline,
        )

    async def tell_retry(self, decision: RetryAfter) -> None:
        """Report a coming retry to the event hook."""
        await self.caller.emit(
            RetryScheduled(
                call_id=self.submission.idempotency_key,
                attempt=self.history.attempts + 1,
                wait=decision.after,
                reason=self.failed.outcome.value if self.failed is not None else "",
            ),
            deadline=self.deadline,
        )
