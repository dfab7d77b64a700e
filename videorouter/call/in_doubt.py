"""The client's records of requests with an unknown outcome. Recording never waits and never fails."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

from videorouter.errors import Phase
from videorouter.models import InDoubt, Task, VideoResult

if TYPE_CHECKING:
    from videorouter.call.requests import Submission

MOST_KEPT = 10_000


class InDoubtLog:
    """The records of one client, the newest ten thousand of them."""

    def __init__(self) -> None:
        self._records: deque[InDoubt] = deque(maxlen=MOST_KEPT)
        self.count: int = 0

    def add(self, record: InDoubt) -> None:
        """Add a record."""
        self._records.append(record)
        self.count += 1

    @property
    def records(self) -> tuple[InDoubt, ...]:
        """Return the records, oldest first."""
        return tuple(self._records)


def describe_doubt(
    submission: Submission,
    reason: str,
    *,
    phase: Phase | None = None,
    caught: VideoResult | Task | None = None,
    request_id: str | None = None,
    task_id: str | None = None,
    poll_url: str | None = None,
) -> InDoubt:
    """Make the record of one request.

    ``reason`` is in words, ``phase`` how far the last attempt got. ``caught`` is an answer that arrived after the call
    had been given up: its result or task stays reachable.
    """
    if caught is not None:
        request_id = request_id or caught.request_id
        task_id = task_id or (caught.id if isinstance(caught, Task) else caught.task_id)
        poll_url = poll_url or (caught.poll_url if isinstance(caught, Task) else None)
    record = InDoubt(
        idempotency_key=submission.idempotency_key,
        model=submission.model,
        verb=submission.verb,
        phase=phase,
        request_id=request_id,
        task_id=task_id,
        at=time.time(),
        reason=reason,
        poll_url=poll_url,
    )
    return _with_result(record, caught)


def describe_undelivered(answer: VideoResult | Task, verb: str) -> InDoubt:
    """Make the record of a complete answer that could not be delivered, because Ctrl-C ended the call first."""
    record = InDoubt(
        idempotency_key=answer.idempotency_key or "",
        model=answer.model,
        verb=verb,
        phase=Phase.COMPLETE,
        request_id=answer.request_id,
        task_id=answer.id if isinstance(answer, Task) else answer.task_id,
        at=time.time(),
        reason="the call was interrupted when its answer had come; it is kept here",
        poll_url=answer.poll_url if isinstance(answer, Task) else None,
    )
    return _with_result(record, answer)


def _with_result(record: InDoubt, caught: VideoResult | Task | None) -> InDoubt:
    result = caught.result if isinstance(caught, Task) else caught
    return record if result is None else record.with_extras(result_=result)
