"""The walk of a job from its POST to its result: submit, poll, collect.

The task id stands on every error from here, so that a paid job can be collected later, also by another process. A look
that fails never fails a paid job.
"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

import anyio

from videorouter.call.answers import ErrorAnswer, Unusable, read_task
from videorouter.call.failures import FailedAttempt
from videorouter.call.in_doubt import call_hooks_while_cancelled, describe_doubt
from videorouter.call.pace import LONGEST_HOLD
from videorouter.call.refusals import MAX_WORDS, is_moderation
from videorouter.call.retry import GiveUp, History, Outcome, RequestKind, decide
from videorouter.config import NO_DEADLINE
from videorouter.errors import (
    ClientClosedError,
    ConfigurationError,
    ContentPolicyError,
    Phase,
    TaskFailedError,
    TaskPollError,
    TaskTimeoutError,
    VideoRouterError,
)
from videorouter.events import CallFinished, CallStarted, TaskAccepted, TaskPolled
from videorouter.models import Task, TaskStatus, VideoResult

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from videorouter.call.caller import Caller
    from videorouter.call.requests import Submission
    from videorouter.http import Response

    Intent = Callable[[], Awaitable[None]]
    Accepted = Callable[[Task], Awaitable[None]]

_LAST_LOOK = 0.4
"""Seconds after the deadline in which the last look may begin, and that it may take."""
_OVERSLEPT = 5.0
_LOOK_AFTER_SLEEP = 10.0
_LOOK_LIMIT = 30.0


async def run_job(
    caller: Caller,
    submission: Submission,
    *,
    intent: Intent | None = None,
    accepted: Accepted | None = None,
    patient: bool = False,
) -> VideoResult:
    """Submit and, in task mode, poll to the end, within the submission's one deadline. One slot from start to end.

    Args:
        caller: The client's way to the wire.
        submission: What to send.
        intent: Awaited when the job has its slot, before the first byte of the first attempt. What it raises ends the
            job with nothing sent.
        accepted: Awaited with the accepted task before the first look at it; also when the call has been cancelled and
            the gateway's answer came all the same.
        patient: Whether the deadline starts when the job has its slot, as in a batch, and not before its queue.

    Returns:
        The finished result.

    Raises:
        VideoRouterError: See the error tree.
    """
    deadline = time.monotonic() + submission.timeout
    shared = caller.shared
    slot = caller.open_slot(submission.model)
    shared.calls += 1
    shared.running[slot] = None
    try:
        if patient and not slot.try_take():
            await caller.queue(slot, deadline=time.monotonic() + NO_DEADLINE)
            deadline = time.monotonic() + submission.timeout
        if caller.on_event is not None:
            await _tell_started(caller, submission)
        answer = await caller.post(submission, slot, deadline=deadline, intent=intent, accepted=accepted)
        if isinstance(answer, Task):
            shared.running[slot] = answer.id
            answer = await _follow(caller, submission, answer, accepted, deadline)
        shared.succeeded += 1
    except BaseException as error:
        shared.failed += 1
        if caller.on_event is not None:
            await _tell_finished(caller, submission, deadline, error=error)
        raise
    finally:
        slot.release()
        del shared.running[slot]
    if caller.on_event is not None:
        try:
            await _tell_finished(caller, submission, deadline, result=answer)
        except BaseException as error:
            await _keep(caller, submission, answer, error)
            raise
    return answer


async def _follow(
    caller: Caller, submission: Submission, task: Task, accepted: Accepted | None, deadline: float
) -> VideoResult:
    """From an accepted task to its result."""
    try:
        if accepted is not None:
            await accepted(task)
        await _tell_accepted(caller, submission, task)
        if task.result is not None:
            return task.result
        return await _watch(caller, task, deadline=deadline, fresh=True)
    except VideoRouterError as error:
        error.add(
            task_id=task.id,
            model=submission.model,
            request_id=task.request_id,
            idempotency_key=submission.idempotency_key,
            elapsed=time.monotonic() - (deadline - submission.timeout),
        )
        raise
    except BaseException as error:
        if accepted is None and not isinstance(error, Exception):
            reason = "the call was cancelled while its task was running; `router.wait(task_id)` collects it"
            record = describe_doubt(submission, reason, caught=task)
            await caller.record_loss(error, record)
        raise


async def resume_job(caller: Caller, task: Task, *, timeout: float) -> VideoResult:
    """Poll a task that an earlier run submitted, in a slot of its lane, to its end. It never pays.

    Args:
        caller: The client's way to the wire.
        task: The task; ``Task(id=..., model=...)`` is enough.
        timeout: Seconds from now, waiting for the slot included.

    Returns:
        The finished result.

    Raises:
        VideoRouterError: See the error tree.
    """
    deadline = time.monotonic() + timeout
    slot = caller.open_slot(task.model or "", sends=False)
    try:
        if not slot.try_take() and not await slot.take(deadline):
            caller.check_open()
            raise _describe_timeout(task, None)
        return await wait_for_task(caller, task, deadline=deadline)
    finally:
        slot.release()


async def submit_job(
    caller: Caller, submission: Submission, *, intent: Intent | None = None, accepted: Accepted | None = None
) -> Task:
    """Submit only; the slot is held for the POST. On a gateway that holds the request, the task comes back finished.

    Its ``id`` is ``None`` then. The arguments are those of ``run_job``.
    """
    deadline = time.monotonic() + submission.timeout
    shared = caller.shared
    slot = caller.open_slot(submission.model)
    shared.calls += 1
    shared.running[slot] = None
    try:
        if caller.on_event is not None:
            await _tell_started(caller, submission)
        answer = await caller.post(submission, slot, deadline=deadline, intent=intent, accepted=accepted)
        if isinstance(answer, Task):
            task = answer
            if accepted is not None:
                await accepted(task)
            await _tell_accepted(caller, submission, task)
        else:
            task = _wrap(answer, submission)
        shared.succeeded += 1
    except BaseException as error:
        shared.failed += 1
        if caller.on_event is not None:
            await _tell_finished(caller, submission, deadline, error=error)
        raise
    finally:
        slot.release()
        del shared.running[slot]
    if caller.on_event is not None:
        try:
            await _tell_finished(caller, submission, deadline, task_id=task.id, result=task.result)
        except BaseException as error:
            await _keep(caller, submission, task, error)
            raise
    return task


async def _keep(caller: Caller, submission: Submission, paid: VideoResult | Task, error: BaseException) -> None:
    """The call was cancelled while its hook was told that it is finished: what it brought stays reachable."""
    reason = "the call was cancelled when its answer had come; it is kept here"
    await caller.record_loss(error, describe_doubt(submission, reason, phase=Phase.COMPLETE, caught=paid))


def _wrap(result: VideoResult, submission: Submission) -> Task:
    return Task(
        id=result.task_id,
        model=submission.model,
        result=result,
        status="completed",
        request_id=result.request_id,
        idempotency_key=submission.idempotency_key,
    )


async def look_at_task(caller: Caller, task: Task, *, deadline: float) -> TaskStatus:
    """Read a task's state once; the read is repeated where it fails, as any read.

    Raises:
        VideoRouterError: It could not be looked at; the task id stands on the error.
    """
    task_id = task.id or ""
    if task.id is None and task.result is not None:  # the gateway held the request: there is nothing to ask it
        result = task.result
        return TaskStatus(task_id="", state="completed", status=task.status, result=result, cost=result.cost)
    try:
        response = await caller.get(
            caller.task_url(task_id, task.poll_url),
            deadline=deadline,
            check=lambda response: _find_trouble(_read(response, task)),
        )
    except VideoRouterError as error:
        error.add(task_id=task_id, model=task.model)
        raise
    state = _read(response, task)
    if isinstance(state, ErrorAnswer | Unusable):  # ``check`` has let it through: it cannot be
        raise TaskPollError(f"Task {task_id} cannot be looked at.", task_id=task_id)
    return caller.scrub(state, response)


def _read(response: Response, task: Task) -> TaskStatus | ErrorAnswer | Unusable:
    return read_task(response.status, response.body, task_id=task.id or "", model=task.model)


def _find_trouble(state: TaskStatus | ErrorAnswer | Unusable) -> ErrorAnswer | Unusable | None:
    return state if isinstance(state, ErrorAnswer | Unusable) else None


async def wait_for_task(caller: Caller, task: Task, *, deadline: float) -> VideoResult:
    """Poll until the task's end.

    Args:
        caller: The client's way to the wire.
        task: The task; its id is enough.
        deadline: ``time.monotonic()`` value.

    Returns:
        The finished result.

    Raises:
        TaskFailedError: The gateway says that it failed.
        TaskPollError: It cannot be looked at; it stays accepted.
        TaskTimeoutError: It is still running.
    """
    caller.check_open()
    running = caller.shared.running
    mark = object()
    running[mark] = task.id
    try:
        return await _watch(caller, task, deadline=deadline)
    finally:
        del running[mark]


async def _watch(caller: Caller, task: Task, *, deadline: float, fresh: bool = False) -> VideoResult:
    return await _Watch(caller, task, deadline).run(fresh=fresh)


class _Watch:
    """The looks at one task."""

    __slots__ = (
        "began",
        "caller",
        "deadline",
        "history",
        "pause",
        "schedule",
        "task",
        "trouble",
        "word",
    )

    def __init__(self, caller: Caller, task: Task, deadline: float) -> None:
        self.caller = caller
        self.task = task
        self.deadline = deadline
        self.schedule = caller.shared.poll_schedules.find()
        self.began = time.monotonic()
        self.history = History(began=self.began)
        self.pause = 0.0
        self.word: str | None = None
        self.trouble: VideoRouterError | None = None

    async def run(self, *, fresh: bool) -> VideoResult:
        """Look until the end. A ``fresh`` task, accepted this moment, is given a moment."""
        caller = self.caller
        url = caller.task_url(self.task.id or "", self.task.poll_url)
        if fresh:
            self._judge(Outcome.PENDING, None)
            await self._rest(self.pause)
        while True:
            if not await self.schedule.wait_for_look(max(self.deadline, time.monotonic()) + _LAST_LOOK):
                await self._rest(self.deadline - time.monotonic())
                raise _describe_timeout(self.task, self.trouble)
            started = time.monotonic()
            last = started >= self.deadline
            grace = _LOOK_AFTER_SLEEP if started - self.deadline > _OVERSLEPT else _LAST_LOOK
            result = await self._look(url, started + grace if last else self.deadline)
            if result is not None:
                return result
            if last or time.monotonic() >= self.deadline:
                if self.trouble is not None and self.trouble.status == 404:
                    raise _stop(self.task, self.trouble)
                raise _describe_timeout(self.task, self.trouble)
            if caller.on_event is not None:
                await self._tell()
            await self._rest(self.pause)

    async def _rest(self, seconds: float) -> None:
        await self.schedule.rest(min(seconds, max(0.0, self.deadline - time.monotonic())))

    async def _look(self, url: str, deadline: float) -> VideoResult | None:
        task = self.task
        try:
            got = await self.caller.look(
                url,
                deadline=deadline,
                check=lambda response: _find_trouble(_read(response, task)),
                limit=_LOOK_LIMIT,
            )
        except ClientClosedError as error:
            msg = f"The client was closed while task {task.id} was running. It is paid and goes on: {_collect(task)}."
            raise TaskPollError(msg, task_id=task.id, model=task.model) from error
        except ConfigurationError as error:
            self.history.polls += 1
            self.trouble = error
            self._judge(Outcome.UNREACHED, None)
            return None
        self.history.polls += 1
        if isinstance(got, FailedAttempt):
            if got.outcome is Outcome.CLOSED:
                msg = (
                    f"The client was closed while task {task.id} was running. It is paid and goes on: {_collect(task)}."
                )
                raise TaskPollError(msg, task_id=task.id, model=task.model)
            self.trouble = self.caller.describe(got)
            if not self._judge(got.outcome, got.retry_after):
                raise _stop(task, self.trouble)
            if got.retry_after is not None:
                self.schedule.hold(min(got.retry_after, LONGEST_HOLD))
            return None
        return self._note_state(_read(got, task), got)

    def _judge(self, outcome: Outcome, retry_after: float | None) -> bool:
        """Whether the task is polled again, and when."""
        now = time.monotonic()
        decision = decide(
            outcome,
            RequestKind.POLL,
            self.history,
            now=now,
            deadline=self.deadline,
            dice=random.random(),  # noqa: S311  jitter, no secret
            max_retries=self.caller.settings.max_retries,
            retry_after=retry_after,
        )
        self.history.note(outcome, RequestKind.POLL, decision)
        if isinstance(decision, GiveUp):
            return decision.too_late
        self.pause = decision.after
        return True

    def _note_state(self, status: TaskStatus | ErrorAnswer | Unusable, response: Response) -> VideoResult | None:
        self.trouble = None
        self._judge(Outcome.PENDING, None)
        if not isinstance(status, TaskStatus):
            return None
        status = self.caller.scrub(status, response)
        self.word = status.status
        if status.result is not None:
            return _name_result(status.result, self.task)
        if status.state == "failed":
            raise _name_failure(status, self.task)
        return None

    async def _tell(self) -> None:
        event = TaskPolled(
            call_id=self.task.idempotency_key or self.task.id or "",
            task_id=self.task.id or "",
            status=self.word,
            polls=self.history.polls,
            elapsed=time.monotonic() - self.began,
            next_in=self.pause,
            error=type(self.trouble).__name__ if self.trouble is not None else None,
        )
        await self.caller.emit(event)


def _collect(task: Task) -> str:
    return f"collect it with `await router.wait({task.id!r})`, or `videorouter wait {task.id}`"


def _describe_timeout(task: Task, trouble: VideoRouterError | None) -> TaskTimeoutError:
    why = f" The last look failed: {trouble.message}" if trouble is not None else ""
    msg = (
        f"Task {task.id} was still running when the deadline passed. It is paid and goes on: {_collect(task)}. "
        f"Nothing is paid twice.{why}"
    )
    error = TaskTimeoutError(msg, task_id=task.id, model=task.model)
    error.add(idempotency_key=task.idempotency_key, request_id=task.request_id)
    error.__cause__ = trouble
    return error


def _stop(task: Task, trouble: VideoRouterError) -> TaskPollError:
    msg = f"Task {task.id} cannot be looked at: {trouble.message} The job stays accepted: {_collect(task)}."
    error = TaskPollError(msg, task_id=task.id, model=task.model)
    error.add(
        **{name: value for name, value in trouble.facts.items() if name not in {"in_doubt", "attempts"}},
        idempotency_key=task.idempotency_key,
    )
    error.__cause__ = trouble
    return error


def _name_result(result: VideoResult, task: Task) -> VideoResult:
    return result.replace(request_id=task.request_id, idempotency_key=task.idempotency_key, model=task.model)


def _name_failure(status: TaskStatus, task: Task) -> VideoRouterError:
    reason = (status.fail_reason or "no reason given")[:MAX_WORDS]
    facts = {"task_id": task.id, "model": task.model, "idempotency_key": task.idempotency_key}
    facts = {name: value for name, value in facts.items() if value is not None}
    if is_moderation(None, None, reason):
        msg = f"Moderation refused task {task.id}: {reason} Change the prompt or the input."
        return ContentPolicyError(msg, **facts)
    msg = f"Task {task.id} failed: {reason}. Whether a failed task is billed, the vendor's usage page says."
    return TaskFailedError(msg, **facts)


async def _tell_started(caller: Caller, submission: Submission) -> None:
    await caller.emit(CallStarted(call_id=submission.idempotency_key, verb=submission.verb, model=submission.model))


async def _tell_accepted(caller: Caller, submission: Submission, task: Task) -> None:
    if caller.on_event is not None:
        event = TaskAccepted(call_id=submission.idempotency_key, task_id=task.id or "", model=submission.model)
        await caller.emit(event)


async def _tell_finished(
    caller: Caller,
    submission: Submission,
    deadline: float,
    *,
    error: BaseException | None = None,
    result: VideoResult | None = None,
    task_id: str | None = None,
) -> None:
    cancelled = isinstance(error, anyio.get_cancelled_exc_class())
    if error is not None and not cancelled and not isinstance(error, Exception):
        return  # the interpreter or the loop is ending: nothing may be awaited
    known = error if isinstance(error, VideoRouterError) else None
    event = CallFinished(
        call_id=submission.idempotency_key,
        verb=submission.verb,
        model=submission.model,
        elapsed=max(0.0, time.monotonic() - (deadline - submission.timeout)),
        attempts=known.attempts if known is not None else 0,
        error_type=type(error).__name__ if error is not None else None,
        status=known.status if known is not None else None,
        request_id=known.request_id if known is not None else (result.request_id if result is not None else None),
        task_id=known.task_id if known is not None else (result.task_id if result is not None else task_id),
        cost=result.cost if result is not None else None,
    )
    if cancelled:
        await call_hooks_while_cancelled(((caller.on_event, event),))
    else:
        await caller.emit(event)
