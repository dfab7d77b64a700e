"""The values of a queue: a job, an event, and how the queue stands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from videorouter.errors import VideoRouterError
from videorouter.journal.queue import JobRow
from videorouter.journal.records import read_failure, read_meta, read_result, revive_error, to_item
from videorouter.models import Failure, ItemState, VideoResult
from videorouter.record import Record


class Job(Record, frozen=True, kw_only=True):
    """A job as it stands.

    Attributes:
        id: Made by the queue.
        state: One of ``ItemState``: ``not_sent`` while it waits.
        prompt: As it was put.
        model: The model id.
        owner: Whose it is; empty where none was named.
        key: What makes putting it twice one job, together with the owner.
        priority: The higher one is sent first.
        result: What was made.
        failure: What went wrong, as data; ``error`` is the exception.
        cost: US dollars: the gateway's own figure, else the price.
        task_id: The task, in task mode.
        files: Where its videos were saved.
        over: Whether nothing more happens to it by itself, the saving of its files included.
        event: The number of its last event.
        created: When it was put. This and the two below are Unix times in seconds.
        sent: When it was sent.
        finished: When it ended.
        meta: The caller's own, as it was put.
    """

    id: str
    state: ItemState
    prompt: str | None = None
    model: str | None = None
    owner: str = ""
    key: str | None = None
    priority: int = 0
    result: VideoResult | None = None
    failure: Failure | None = None
    cost: float | None = None
    task_id: str | None = None
    files: tuple[str, ...] = ()
    over: bool = False
    event: int = 0
    created: float | None = None
    sent: float | None = None
    finished: float | None = None
    meta: Any = None

    @property
    def error(self) -> VideoRouterError | None:
        """The exception, when there was one."""
        error: VideoRouterError | None = self.__dict__.get("error_")
        return error


class JobEvent(Record, frozen=True, kw_only=True):
    """One change of one job.

    Attributes:
        number: Grows from event to event of one queue, over all jobs and owners.
        job: The job's id.
        owner: Whose job it is.
        state: The state that it came to, or ``saved``, or ``unsaved`` where its files could not be fetched.
        at: A Unix time in seconds.
        note: What went wrong, in words.
        over: Whether nothing more happens to the job by itself.
    """

    number: int
    job: str
    owner: str = ""
    state: str
    at: float
    note: str | None = None
    over: bool = False


class OwnerStats(Record, frozen=True, kw_only=True):
    """The jobs and the money of one owner, in US dollars; ``oldest`` is how many seconds the first in line has waited."""

    queued: int = 0
    running: int = 0
    in_doubt: int = 0
    done: int = 0
    ended: int = 0
    oldest: float = 0.0
    spent: float = 0.0
    spent_in_doubt: float = 0.0
    reserved: float = 0.0


class JobStats(Record, frozen=True, kw_only=True):
    """How a queue stands.

    Attributes:
        queued: Jobs that wait to be sent.
        running: Jobs that are sent and not over.
        in_doubt: Jobs that may have been billed.
        done: Jobs that are done.
        ended: Jobs that were refused, have failed or were cancelled.
        oldest: Seconds for which the first in line has waited.
        spent: US dollars known to be spent.
        spent_in_doubt: US dollars that may have been spent.
        reserved: US dollars held for what runs.
        owners: The same by owner.
        paused: Why nothing is sent, in words, by what is paused: ``""`` for all, else a model or an owner and a model.
        runner: The process that sends; ``None`` where none does.
        runner_age: Seconds since it was last seen alive; a stopped or blocked runner stays the runner.
        event: The number of the last event.
    """

    queued: int = 0
    running: int = 0
    in_doubt: int = 0
    done: int = 0
    ended: int = 0
    oldest: float = 0.0
    spent: float = 0.0
    spent_in_doubt: float = 0.0
    reserved: float = 0.0
    owners: Mapping[str, OwnerStats] = msgspec.field(default_factory=dict)
    paused: Mapping[str, str] = msgspec.field(default_factory=dict)
    runner: int | None = None
    runner_age: float | None = None
    event: int = 0


_read_paths = msgspec.json.Decoder(tuple[str, ...]).decode


def to_job(row: JobRow, folder: str) -> Job:
    """Convert a row to the value that users get; paths below the queue's ``folder`` are made whole."""
    item = to_item(row)
    failure = read_failure(row.failure)
    job = Job(
        id=row.id,
        state=row.state,
        prompt=item.prompt,
        model=row.model,
        owner=row.owner or "",
        key=row.key,
        priority=row.priority,
        result=read_result(row.result),
        failure=failure,
        cost=row.cost,
        task_id=row.task_id,
        files=tuple(path if path.startswith("/") else f"{folder}/{path}" for path in _read_paths(row.files or "[]")),
        over=bool(row.over),
        event=row.event or 0,
        created=row.created,
        sent=row.sent,
        finished=row.finished,
        meta=read_meta(row.meta),
    )
    return job if failure is None else job.with_extras(error_=revive_error(failure, row))
