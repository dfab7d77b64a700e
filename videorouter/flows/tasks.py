"""The walk of a job from its POST to its result: submit, poll, collect.

The task id stands on every error from here, so that a paid job can be collected later, also by another process.
"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

import anyio
import msgspec

from videorouter.errors import (
    APIConnectionError,
    APIStatusError,
    ContentPolicyError,
    TaskFailedError,
    TaskPollError,
    TaskTimeoutError,
    VideoRouterError,
)
from videorouter.events import TaskAccepted, TaskPolled
from videorouter.models import Task, TaskStatus, VideoResult
from videorouter.rules.polling import next_interval
from videorouter.rules.refusals import is_moderation
from videorouter.rules.wire import ErrorAnswer, Unusable, read_task

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from videorouter.io.call import Caller
    from videorouter.rules.requests import Submission

    Intent = Callable[[], Awaitable[None]]
    Accepted = Callable[[Task], Awaitable[None]]


async def run_job(
    caller: Caller, submission: Submission, *, intent: Intent | None = None, accepted: Accepted | None = None
) -> VideoResult:
    """Submit and, in task mode, poll to the end, within the submission's one deadline. One slot from start to end.

    Args:
        caller: The client's way to the wire.
        submission: What to send.
        intent: Awaited when the job has its slot, before the first byte of the first attempt. What it raises ends the
            job with nothing sent.
        accepted: Awaited with the accepted task before the first look at it.

    Returns:
        The finished result.

    Raises:
        VideoRouterError: See the error tree.
    """
    deadline = time.monotonic() + submission.timeout
    answer = await caller.post(submission, deadline=deadline, intent=intent)
    if isinstance(answer, VideoResult):
        return answer
    if accepted is not None:
        await accepted(answer)
    await caller.emit(TaskAccepted(call_id=submission.idempotency_key, task_id=answer.id or "", model=submission.model))
    if answer.result is not None:
        return answer.result
    return await wait_for_task(caller, answer, deadline=deadline)


async def resume_job(caller: Caller, task: Task, *, timeout: float) -> VideoResult:
    """Poll a task that an earlier run submitted, in a slot of its lane, to its end. It never pays.

    Args:
        caller: The client's way to the wire.
        task: The task; ``Task(id=..., model=...)`` is enough.
        timeout: Seconds from now, waiting for the slot included.

    Raises:
        VideoRouterError: See the error tree.
    """
    return await wait_for_task(caller, task, deadline=time.monotonic() + timeout)


async def submit_job(
    caller: Caller, submission: Submission, *, intent: Intent | None = None, accepted: Accepted | None = None
) -> Task:
    """Submit only; the slot is held for the POST. On a gateway that holds the request, the task comes back finished.

    Its ``id`` is ``None`` then. The arguments are those of ``run_job``.
    """
    answer = await caller.post(submission, deadline=time.monotonic() + submission.timeout, intent=intent)
    if isinstance(answer, Task):
        if accepted is not None:
            await accepted(answer)
        await caller.emit(
            TaskAccepted(call_id=submission.idempotency_key, task_id=answer.id or "", model=submission.model)
        )
        return answer
    return Task(
        id=answer.task_id,
        model=submission.model,
        result=answer,
        status="completed",
        request_id=answer.request_id,
        idempotency_key=submission.idempotency_key,
    )


async def look_at_task(caller: Caller, task: Task, *, deadline: float) -> TaskStatus:
    """Read a task's state once."""
    task_id = task.id or ""
    try:
        incoming = await caller.get(caller.task_url(task_id, task.poll_url), deadline=deadline)
    except VideoRouterError as error:
        error.add(task_id=task_id, model=task.model)
        raise
    state = read_task(incoming.status, incoming.body, task_id=task_id, model=task.model)
    if isinstance(state, ErrorAnswer | Unusable):
        reason = state.reason if isinstance(state, Unusable) else state.message
        msg = f"The state of task {task_id} makes no sense ({reason}). The job stays accepted: wait for it again."
        raise TaskPollError(msg, task_id=task_id, model=task.model, **caller.evidence(incoming))
    return state


async def wait_for_task(caller: Caller, task: Task, *, deadline: float) -> VideoResult:
    """Poll until the task's end."""
    began = time.monotonic()
    polls = 0
    while True:
        try:
            status: TaskStatus | None = await look_at_task(caller, task, deadline=deadline)
        except (APIConnectionError, APIStatusError) as error:
            if error.status in {401, 403, 404}:
                msg = f"Task {task.id} cannot be looked at: {error.message} The job stays accepted."
                raise TaskPollError(msg, task_id=task.id, status=error.status) from error
            status = None
        polls += 1
        if status is not None and status.result is not None:
            return _name_result(status.result, task)
        if status is not None and status.state == "failed":
            raise _name_failure(status, task)
        pause = next_interval(polls, time.monotonic() - began, random.random())  # noqa: S311  jitter, no secret
        await caller.emit(
            TaskPolled(
                call_id=task.idempotency_key or task.id or "",
                task_id=task.id or "",
                status=status.status if status else None,
                polls=polls,
                elapsed=time.monotonic() - began,
                next_in=pause,
            )
        )
        if time.monotonic() + pause >= deadline:
            msg = (
                f"Task {task.id} was still running when the deadline passed. It is paid and goes on: collect it with "
                f"`await router.wait({task.id!r})`, or `videorouter wait {task.id}`."
            )
            raise TaskTimeoutError(msg, task_id=task.id, model=task.model, idempotency_key=task.idempotency_key)
        await anyio.sleep(pause)


def _name_result(result: VideoResult, task: Task) -> VideoResult:
    kept = msgspec.structs.replace(
        result, request_id=task.request_id, idempotency_key=task.idempotency_key, model=task.model
    )
    return kept.beside(**result.__dict__)


def _name_failure(status: TaskStatus, task: Task) -> VideoRouterError:
    reason = status.fail_reason or "no reason given"
    facts = {"task_id": task.id, "model": task.model, "idempotency_key": task.idempotency_key}
    if is_moderation(None, None, reason):
        msg = f"Moderation refused task {task.id}: {reason} Change the prompt or the input."
        return ContentPolicyError(msg, **facts)
    msg = f"Task {task.id} failed: {reason}. Whether a failed task is billed, the vendor's usage page says."
    return TaskFailedError(msg, **facts)
