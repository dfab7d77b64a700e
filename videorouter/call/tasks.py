"""A job from its POST to its result: submit, poll, collect.

Every error from here has the task id, so that a paid job can be collected later, also by another process. A poll
that fails never fails a paid job.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, overload

import anyio
import msgspec

from videorouter.call.answers import ErrorAnswer, Unusable, classify_status, read_task
from videorouter.call.caller import FreeCall
from videorouter.call.failures import MAX_WORDS, FailedAttempt, build_error, is_moderation, show_body, show_words
from videorouter.call.in_doubt import describe_doubt
from videorouter.call.pace import LONGEST_HOLD
from videorouter.call.paid import PaidCall
from videorouter.call.requests import find_request, keep_request
from videorouter.call.retry import TABLE, Outcome, Raise, RequestKind, is_new
from videorouter.config import NO_DEADLINE
from videorouter.errors import (
    APIConnectionError,
    ClientClosedError,
    ConfigurationError,
    ContentPolicyError,
    NotFoundError,
    Phase,
    TaskFailedError,
    TaskPollError,
    TaskTimeoutError,
    VideoRouterError,
)
from videorouter.events import CallFinished, CallStarted, GatewayUnreachable, TaskAccepted, TaskPolled
from videorouter.http import Attempt, Request, Response, origin_of
from videorouter.logs import report
from videorouter.models import Task, TaskStatus, VideoResult

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from videorouter.call.caller import Caller
    from videorouter.call.limiter import Slot
    from videorouter.call.poll_schedule import PollSchedule
    from videorouter.call.requests import Submission
    from videorouter.call.retry import Decision, RetryAfter

    Intent = Callable[[], Awaitable[None]]
    Accepted = Callable[[Task], Awaitable[None]]
    Withdraw = Callable[[], Awaitable[Intent]]

_NO_GATEWAY = frozenset({Outcome.UNREACHED, Outcome.NAME_MISSING, Outcome.HOPELESS})
_ELSEWHERE = frozenset({Outcome.UNREACHED, Outcome.NAME_MISSING, Outcome.MISSING})
_GRACE = 1.0
"""Seconds that a call which is being cancelled waits for its event hook."""
_LAST_POLL = 0.4
"""Seconds after the deadline in which the last poll may begin, and that it may take."""
_OVERSLEPT = 5.0
"""Seconds past the deadline that only a suspended machine explains: then the last poll may take longer."""
_POLL_AFTER_SLEEP = 10.0
_POLL_LIMIT = 30.0
_LONGEST_WORD = 100


@overload
async def run_job(
    caller: Caller,
    submission: Submission,
    *,
    intent: Intent | None = None,
    accepted: Accepted | None = None,
    patient: bool = False,
    slot: Slot | None = None,
    withdraw: Withdraw | None = None,
    wait: Literal[True] = True,
) -> VideoResult: ...
@overload
async def run_job(
    caller: Caller,
    submission: Submission,
    *,
    intent: Intent | None = None,
    accepted: Accepted | None = None,
    patient: bool = False,
    wait: Literal[False],
) -> Task: ...
async def run_job(
    caller: Caller,
    submission: Submission,
    *,
    intent: Intent | None = None,
    accepted: Accepted | None = None,
    patient: bool = False,
    slot: Slot | None = None,
    withdraw: Withdraw | None = None,
    wait: bool = True,
) -> VideoResult | Task:
    """Submit and, in task mode, poll to the end, within the submission's one deadline. One slot from start to end.

    ``intent`` is awaited when the job has its slot, before the first byte; what it raises ends the job with nothing sent.
    ``accepted`` is awaited with the task before the first poll, and also when the call was cancelled and the answer came
    all the same. ``withdraw`` is awaited before each pause after a proven refusal, and what it gives is the intent of the
    next attempt. ``slot`` is one that is held already. With ``patient`` the deadline starts when the job has its slot, as in a batch, and not before its queue.
    ``wait=False`` submits only: on a gateway that holds the request, the task comes back finished, without an id.
    """
    shared = caller.shared
    if slot is None:
        slot = caller.open_slot(submission.model)
    call = PaidCall(
        caller=caller,
        kind=caller.post_kind,
        submission=submission,
        slot=slot,
        deadline=time.monotonic() + submission.timeout,
        max_retries=submission.max_retries,
        hosts=len(caller.bases),
        intent=intent,
        accepted=accepted,
        withdraw=withdraw,
    )
    shared.calls += 1
    shared.running[slot] = None
    try:
        if patient and not slot.held and not slot.try_take():
            call.deadline = time.monotonic() + NO_DEADLINE
            await call.queue()
            call.deadline = time.monotonic() + submission.timeout
            call.waited = False  # its time begins now
        if caller.on_event is not None:
            await caller.emit(
                CallStarted(call_id=submission.idempotency_key, verb=submission.verb, model=submission.model),
                deadline=call.deadline,
            )
        answer = await caller.send(call)
        keep_request(answer, submission.body)
        if not isinstance(answer, VideoResult):
            shared.running[slot] = answer.id
            answer = await _follow(call, answer, wait=wait)
        elif not wait:
            answer = _wrap_result(answer, submission)
        shared.succeeded += 1
    except BaseException as error:
        shared.failed += 1
        if caller.on_event is not None:
            await _tell_failed(call, error)
        raise
    finally:
        slot.release()
        del shared.running[slot]
    if caller.on_event is not None:
        await _tell_finished(call, answer)
    return answer


async def _follow(call: PaidCall, task: Task, *, wait: bool) -> VideoResult | Task:
    """Follow an accepted task to its result."""
    caller, submission = call.caller, call.submission
    try:
        if call.accepted is not None:
            await call.accepted(task)
        if caller.on_event is not None:
            await caller.record(
                TaskAccepted(call_id=submission.idempotency_key, task_id=task.id or "", model=submission.model)
            )
        if not wait:
            return task
        return task.result or await _poll(caller, task, deadline=call.deadline, accepted_now=True)
    except VideoRouterError as error:
        error.add(
            task_id=task.id,
            poll_url=task.poll_url,
            model=submission.model,
            request_id=task.request_id,
            idempotency_key=submission.idempotency_key,
            elapsed=time.monotonic() - (call.deadline - submission.timeout),
        )
        raise
    except BaseException as error:
        if call.accepted is None and not isinstance(error, Exception):
            reason = "the call was cancelled while its task was running; `router.wait(record)` collects it"
            await caller.record_in_doubt(describe_doubt(submission, reason, caught=task), error)
        raise


def _wrap_result(result: VideoResult, submission: Submission) -> Task:
    return Task(
        id=result.task_id,
        model=submission.model,
        result=result,
        status="completed",
        request_id=result.request_id,
        idempotency_key=submission.idempotency_key,
    )


async def _tell_failed(call: PaidCall, error: BaseException) -> None:
    cancelled = isinstance(error, anyio.get_cancelled_exc_class())
    if not cancelled and not isinstance(error, Exception):
        return  # the interpreter or the loop is ending: nothing may be awaited
    known = error if isinstance(error, VideoRouterError) else VideoRouterError("")
    event = _build_finished(
        call,
        attempts=known.attempts,
        error_type=type(error).__name__,
        status=known.status,
        request_id=known.request_id,
        task_id=known.task_id,
    )
    if cancelled:
        await call.caller.record(event, seconds=_GRACE)
    else:
        await call.caller.emit(event, deadline=call.deadline)


async def _tell_finished(call: PaidCall, answer: VideoResult | Task) -> None:
    """Report the result to the event hook; if the call is cancelled meanwhile, the result stays reachable."""
    result = answer.result if isinstance(answer, Task) else answer
    event = _build_finished(
        call,
        request_id=result.request_id if result is not None else None,
        task_id=answer.id if isinstance(answer, Task) else answer.task_id,
        cost=result.cost if result is not None else None,
    )
    try:
        await call.caller.emit(event, deadline=call.deadline)
    except BaseException as error:
        reason = "the call was cancelled when its answer had come; it is kept here"
        record = describe_doubt(call.submission, reason, phase=Phase.COMPLETE, caught=answer)
        await call.caller.record_in_doubt(record, error)
        raise


def _build_finished(call: PaidCall, **facts: Any) -> CallFinished:
    submission = call.submission
    return CallFinished(
        call_id=submission.idempotency_key,
        verb=submission.verb,
        model=submission.model,
        elapsed=max(0.0, time.monotonic() - (call.deadline - submission.timeout)),
        **facts,
    )


async def resume_job(caller: Caller, task: Task, *, timeout: float, age: float | None = None) -> VideoResult:
    """Poll a task that an earlier run submitted, in a slot of its model, to its end. It never pays.

    ``Task(id=..., model=...)`` is enough; the seconds count from now, waiting for the slot included, or from the begin of an
    outage of the gateway. ``age`` is seconds since the task was accepted.
    """
    deadline = _find_schedule(caller, task).shorten(time.monotonic() + timeout, timeout)
    slot = caller.open_slot(task.model or "", sends=False)
    try:
        if not slot.try_take() and not await slot.take(deadline):
            caller.check_open()
            raise _describe_timeout(caller, task, None)
        return await wait_for_task(caller, task, deadline=deadline, age=age)
    finally:
        slot.release()


async def wait_for_task(caller: Caller, task: Task, *, deadline: float, age: float | None = None) -> VideoResult:
    """Poll until the task's end or a ``time.monotonic()`` deadline."""
    caller.check_open()
    running = caller.shared.running
    mark = object()
    running[mark] = task.id
    try:
        return await _poll(caller, task, deadline=deadline, age=age)
    finally:
        del running[mark]


async def look_at_task(caller: Caller, task: Task, *, deadline: float) -> TaskStatus:
    """Read a task's state once; the read is repeated where it fails, as any read."""
    if task.id is None and task.result is not None:  # the gateway held the request: there is nothing to ask it
        result = task.result
        return TaskStatus(task_id="", state="completed", status=task.status, result=result, cost=result.cost)

    def parse(response: Response) -> TaskStatus | ErrorAnswer | Unusable:
        return _read_status(caller, task, response)

    try:
        return await _look(caller, task, deadline=deadline, parse=parse)
    except VideoRouterError as error:
        error.add(task_id=task.id or "", poll_url=task.poll_url, model=task.model)
        raise


async def _look(
    caller: Caller,
    task: Task,
    *,
    deadline: float,
    parse: Callable[[Response], TaskStatus | ErrorAnswer | Unusable],
) -> TaskStatus:
    """Ask the host that has the task; where only the id is known, each of the caller's hosts in turn."""
    last = _count_hosts(caller, task) - 1
    for host in range(last):
        with suppress(NotFoundError, APIConnectionError):
            return await caller.get(
                caller.task_url(task.id or "", host=host), deadline=deadline, parse=parse, about=RequestKind.POLL
            )
    url = caller.task_url(task.id or "", task.poll_url, host=last)
    return await caller.get(url, deadline=deadline, parse=parse, about=RequestKind.POLL)


def _count_hosts(caller: Caller, task: Task) -> int:
    return 1 if task.poll_url is not None else len(caller.bases)


def _read_status(caller: Caller, task: Task, response: Response) -> TaskStatus | ErrorAnswer | Unusable:
    request = find_request(task)
    status = read_task(response.status, response.body, task_id=task.id or "", model=task.model, request=request)
    if not isinstance(status, TaskStatus):
        return status
    candidate: VideoResult | None = status.__dict__.pop("candidate_", None)
    for result in (status.result, candidate):
        if result is not None and request is not None:
            keep_request(result, request)
    status = caller.scrub(status, response)
    return status if candidate is None else status.with_extras(candidate_=caller.scrub(candidate, response))


def _find_schedule(caller: Caller, task: Task) -> PollSchedule:
    return caller.shared.poll_schedules.find()[origin_of(caller.task_url(task.id or "", task.poll_url))]


async def _poll(
    caller: Caller, task: Task, *, deadline: float, accepted_now: bool = False, age: float | None = None
) -> VideoResult:
    """Poll until the task's end; one that was accepted just now is given a moment."""
    url = caller.task_url(task.id or "", task.poll_url)
    poll = Poll(
        caller=caller,
        kind=RequestKind.POLL,
        task=task,
        schedule=_find_schedule(caller, task),
        url=url,
        deadline=deadline,
        max_retries=caller.settings.max_retries,
        limit=_POLL_LIMIT,
        is_dated=accepted_now or age is not None,
    )
    poll.history.began -= age or 0.0
    not_yet = FailedAttempt(outcome=Outcome.PENDING, attempt=Attempt())
    result: VideoResult | None
    try:
        status = await caller.send(poll, not_yet if accepted_now else None)
        result = status.result
    except TaskTimeoutError:
        # It may be a placeholder, and it may be what was paid for: only a download can tell.
        result = poll.candidate
        if result is None:
            raise
    finally:
        poll.schedule.leave(poll)
    if result is None:
        raise _describe_failure(status, task)
    return result.replace(request_id=task.request_id, idempotency_key=task.idempotency_key, model=task.model)


class Poll(FreeCall[TaskStatus], kw_only=True, eq=False):
    """Reads the state of a paid task until it has ended.

    ``last`` is the last state that was read, ``candidate`` a result beside a pending state. Where only the task's id is
    known, ``host`` is which of the caller's hosts is asked, and ``missing`` are those that do not know it. ``tells``: it is this
    one's turn to tell that the gateway cannot be reached. ``is_dated``: ``history`` begins with the task's acceptance.
    """

    task: Task
    schedule: PollSchedule
    last: TaskStatus | None = None
    candidate: VideoResult | None = None
    host: int = 0
    missing: set[int] = msgspec.field(default_factory=set)
    tells: bool = False
    is_dated: bool = False

    async def send_once(self) -> TaskStatus | FailedAttempt:
        """Poll once, when the schedule allows it; once more at the deadline."""
        if self.schedule.outage is not None:
            await self.schedule.wait_for_gateway(self, self.deadline)
        if not await self.schedule.wait_for_poll(max(self.deadline, time.monotonic()) + _LAST_POLL):
            await self.rest(self.deadline - time.monotonic())
            raise self._describe_timeout()
        try:
            ended = await super().send_once()
            if not isinstance(ended, FailedAttempt) or ended.outcome not in _NO_GATEWAY:
                self.schedule.note_reached()
            return self._turn_elsewhere(ended)
        except ConfigurationError as error:  # no key can be had: a paid task is not given up for that
            self.history.attempts += 1
            return FailedAttempt(outcome=Outcome.UNREACHED, attempt=Attempt(), raised=error)

    def _turn_elsewhere(self, ended: TaskStatus | FailedAttempt) -> TaskStatus | FailedAttempt:
        """Ask the next host when this one cannot be reached or does not know the id: another may have accepted it."""
        hosts = _count_hosts(self.caller, self.task)
        if hosts == 1 or not isinstance(ended, FailedAttempt) or ended.outcome not in _ELSEWHERE:
            return ended
        if ended.outcome is Outcome.MISSING:
            self.missing.add(self.host)
            if len(self.missing) < hosts:
                ended.outcome = Outcome.UNREACHED
        self.host = (self.host + 1) % hosts
        self.url: str = self.caller.task_url(self.task.id or "", host=self.host)
        return ended

    async def prepare(self, attempt: Attempt) -> Request:
        """Prepare as any read; the last one has a moment after the deadline."""
        request = await super().prepare(attempt)
        attempt.make_spool = self.caller.make_spool  # the answer may bring a video inline
        late = time.monotonic() - self.deadline
        if late >= 0:
            self.until: float = self.until + late + (_POLL_AFTER_SLEEP if late > _OVERSLEPT else _LAST_POLL)
        return request

    def read(self, response: Response) -> TaskStatus | ErrorAnswer | Unusable | None:
        """Return the state of a task once it has ended."""
        status = _read_status(self.caller, self.task, response)
        if isinstance(status, TaskStatus):
            self.last = status
            self.candidate = status.__dict__.get("candidate_") or self.candidate
            return None if status.state == "pending" else status
        return status

    def note(self, failed: FailedAttempt, decision: Decision) -> None:
        """Record how a poll failed; a ``Retry-After`` delays all polls."""
        super().note(failed, decision)
        if failed.retry_after is not None:
            self.schedule.hold(min(failed.retry_after, LONGEST_HOLD))
        if failed.outcome in _NO_GATEWAY and failed.raised is None and _count_hosts(self.caller, self.task) == 1:
            failure = self._describe_last_failure()
            self.tells = self.schedule.note_unreached(self, failure.message if failure is not None else "", self.began)

    async def rest(self, seconds: float) -> None:
        """Wait, or until the machine wakes from a suspension."""
        await self.schedule.rest(seconds)

    def _describe_last_failure(self) -> VideoRouterError | None:
        """Build the error of the last poll, or return ``None``."""
        failed = self.failed
        if failed is None or failed.outcome is Outcome.PENDING:
            return None
        if failed.raised is not None:
            return failed.raised
        return build_error(TABLE[failed.outcome][RequestKind.READ][1], failed, self.caller.settings, kind=self.kind)

    def _describe_timeout(self) -> TaskTimeoutError:
        last, redact = self.last, self.caller.settings.redact
        if last is None or classify_status(last.status) != "unknown":
            return _describe_timeout(self.caller, self.task, self._describe_last_failure())
        word = show_words(last.status or "", redact, _LONGEST_WORD)
        error = _describe_timeout(self.caller, self.task, self._describe_last_failure(), word=word)
        error.add(body=show_body(last.__dict__.get("raw_") or b"", redact))
        return error

    def build_error(self, failed: FailedAttempt) -> VideoRouterError:
        """Build the error to raise after the last poll: the task stays accepted."""
        failure = self._describe_last_failure()
        if failed.outcome is Outcome.CLOSED:
            return _describe_closing(self.caller, self.task)
        ending = TABLE[failed.outcome][self.kind][1]
        is_young = self.is_dated and failed.outcome is Outcome.MISSING and is_new(self.history, time.monotonic())
        if failure is None or ending is Raise.TIMEOUT or is_young:
            return self._describe_timeout()
        return _describe_stop(self.caller, self.task, failure)

    async def map_error(self, error: BaseException) -> BaseException:
        """Name the task in the error when the client was closed: another wait can collect it."""
        return _describe_closing(self.caller, self.task) if isinstance(error, ClientClosedError) else error

    async def tell_retry(self, decision: RetryAfter) -> None:
        """Report the state that was read to the event hook, and a gateway that cannot be reached."""
        if not self.history.attempts:
            return
        failure = self._describe_last_failure()
        call_id = self.task.idempotency_key or self.task.id or ""
        if self.tells and failure is not None:
            self.tells = False
            report(logging.WARNING, "accepted tasks wait for the gateway: %s", failure.message)
            host = origin_of(self.url)[1]
            event = GatewayUnreachable(call_id=call_id, host=host, reason=failure.message)
            await self.caller.emit(event, deadline=self.deadline)
        await self.caller.emit(
            TaskPolled(
                call_id=call_id,
                task_id=self.task.id or "",
                status=self.last.status if self.last is not None else None,
                polls=self.history.attempts,
                elapsed=time.monotonic() - self.history.began,
                next_in=decision.after,
                error=type(failure).__name__ if failure is not None else None,
            ),
            deadline=self.deadline,
        )


def _collect(caller: Caller, task: Task) -> str:
    url = caller.task_url(task.id or "", task.poll_url)
    if task.id is None or origin_of(url) == caller.origins[0]:
        return f"collect it with `await router.wait({task.id!r})`, or `videorouter wait {task.id}`"
    base = url.partition("/videos/tasks/")[0]
    return (
        f"collect it with `await router.wait(error)`, or `videorouter wait {task.id} --base-url {base}`: "
        "another host than the first has accepted it"
    )


def _describe_closing(caller: Caller, task: Task) -> TaskPollError:
    msg = f"The client was closed while task {task.id} was running. It is paid and goes on: {_collect(caller, task)}."
    return TaskPollError(msg, task_id=task.id, model=task.model, poll_url=task.poll_url)


def _describe_timeout(
    caller: Caller, task: Task, failure: VideoRouterError | None, *, word: str | None = None
) -> TaskTimeoutError:
    why = f" The last poll failed: {failure.message}" if failure is not None else ""
    if word is not None:
        why += f" The gateway reports the unknown state {word!r}; the error's body has its last answer."
    msg = (
        f"Task {task.id} was still running when the deadline passed. It is paid and goes on: {_collect(caller, task)}. "
        f"Nothing is paid twice.{why}"
    )
    error = TaskTimeoutError(msg, task_id=task.id, model=task.model, poll_url=task.poll_url)
    error.add(idempotency_key=task.idempotency_key, request_id=task.request_id)
    error.__cause__ = failure
    return error


def _describe_stop(caller: Caller, task: Task, failure: VideoRouterError) -> TaskPollError:
    msg = f"The state of task {task.id} cannot be read: {failure.message} The job stays accepted: {_collect(caller, task)}."
    error = TaskPollError(msg, task_id=task.id, model=task.model, poll_url=task.poll_url)
    error.add(
        **{name: value for name, value in failure.facts.items() if name not in {"in_doubt", "attempts"}},
        idempotency_key=task.idempotency_key,
    )
    error.__cause__ = failure
    return error


def _describe_failure(status: TaskStatus, task: Task) -> VideoRouterError:
    reason = (status.fail_reason or "no reason given")[:MAX_WORDS]
    facts = {"task_id": task.id, "model": task.model, "idempotency_key": task.idempotency_key}
    facts = {name: value for name, value in facts.items() if value is not None}
    if is_moderation(None, status.status, reason):
        msg = f"Moderation refused task {task.id}: {reason} Change the prompt or the input."
        return ContentPolicyError(msg, **facts)
    msg = f"Task {task.id} failed: {reason}. Check the vendor's usage page to see whether it was billed."
    return TaskFailedError(msg, **facts)
