"""What a client is doing, and how it comes to rest before a process ends.

Nothing is aborted here: what is paid goes on, here or at the gateway, and the report names it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import anyio

from videorouter.models import DrainReport, Stats

if TYPE_CHECKING:
    from videorouter.call.limiter import ClientLimit
    from videorouter.call.state import Shared

_LOOK = 0.02


def count(shared: Shared, gate: ClientLimit) -> Stats:
    """The counters of a client at this moment.

    Args:
        shared: What the client's views share.
        gate: The limit of jobs at once of this view.
    """
    now = time.monotonic()
    lanes = [bay.lane for bay in gate.bays]
    paused = [lane.pace.paused_until for lane in lanes if lane.pace is not None and lane.pace.paused_until > now]
    lane_limit = sum(lane.limit for lane in lanes) if lanes else float("inf")
    return Stats(
        in_flight=gate.used,
        queued=gate.waiting,
        paused_until=max(paused, default=0.0),
        limit=int(min(gate.limit, lane_limit)),
        calls=shared.calls,
        attempts=shared.attempts,
        retries=shared.retries,
        succeeded=shared.succeeded,
        failed=shared.failed,
        in_doubt=shared.doubts.count,
        tasks_watched=sum(task_id is not None for task_id in tuple(shared.running.values())),
        connections=getattr(shared.sender, "connections", 0),
    )


async def drain(shared: Shared, *, seconds: float) -> DrainReport:
    """Take no new job, and wait for those that run.

    Args:
        shared: What the client's views share.
        seconds: How long to wait at most.

    Returns:
        What was left.
    """
    shared.draining = True
    deadline = time.monotonic() + seconds
    while shared.running and (left := deadline - time.monotonic()) > 0:  # noqa: ASYNC110  jobs may end in other threads
        await anyio.sleep(min(_LOOK, left))
    left_over = tuple(shared.running.values())
    return DrainReport(
        finished=not left_over,
        unfinished=tuple(dict.fromkeys(task_id for task_id in left_over if task_id is not None)),
        in_doubt=shared.in_doubt,
        in_flight=len(left_over),
    )
