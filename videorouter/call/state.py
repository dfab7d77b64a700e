"""The state that all views of one client share: the sender, the limits, the counters, and the records in doubt.

A drain lets a client finish before its process ends. Nothing paid is aborted: it goes on, here or at the gateway, and
the report names it.
"""

from __future__ import annotations

import time
from collections import defaultdict
from typing import TYPE_CHECKING
from weakref import WeakSet

import anyio

from videorouter.call.in_doubt import InDoubtLog
from videorouter.call.limiter import ClientLimit, default_concurrency
from videorouter.call.poll_schedule import PollSchedule
from videorouter.call.retry import RetryBudget
from videorouter.errors import ClientClosedError
from videorouter.loops import PerLoop, Sleepers
from videorouter.models import DrainReport, Stats

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from videorouter.config import ClientSettings
    from videorouter.http import Origin, Sender
    from videorouter.models import InDoubt

_LOOK = 0.02


def _end_all(schedules: dict[Origin, PollSchedule]) -> None:
    for schedule in schedules.values():
        schedule.end()


class Shared:
    """The state behind a client and its views. ``running`` has every job and wait, with the id of its task if known."""

    def __init__(self, sender: Sender, settings: ClientSettings) -> None:
        self.sender = sender
        self.limits: WeakSet[ClientLimit] = WeakSet()
        self.limit: ClientLimit = self.open_limit(settings)
        self.retry_budget: RetryBudget = RetryBudget()
        self.in_doubt_log: InDoubtLog = InDoubtLog()
        self.poll_schedules: PerLoop[defaultdict[Origin, PollSchedule]] = PerLoop(lambda: defaultdict(PollSchedule))
        self.sleepers: PerLoop[Sleepers] = PerLoop(Sleepers)
        self.running: dict[object, str | None] = {}
        self.closers: set[Callable[[], Awaitable[None]]] = set()
        """Closes what uses this client and must end before it."""
        self.closed: bool = False
        self.draining: bool = False
        self.calls: int = 0
        self.attempts: int = 0
        self.retries: int = 0
        self.succeeded: int = 0
        self.failed: int = 0

    def open_limit(self, settings: ClientSettings) -> ClientLimit:
        """Make a limit of concurrent jobs, for the client or for a view with a limit of its own."""
        limit = ClientLimit(settings.max_concurrency or default_concurrency())
        self.limits.add(limit)
        return limit

    @property
    def in_doubt(self) -> tuple[InDoubt, ...]:
        """Return the requests that may have been billed without a known result."""
        return self.in_doubt_log.records

    @property
    def outage(self) -> str:
        """That the gateway cannot be reached and accepted tasks wait for it, in words; else empty. Thread-safe."""
        schedules = [schedule for _, each in self.poll_schedules.pairs() for schedule in tuple(each.values())]
        return next((outage.notice for schedule in schedules if (outage := schedule.outage) and outage.notice), "")

    def check_open(self) -> None:
        """Raise unless the client is open."""
        if self.closed:
            msg = "This client is closed. Make a new one, or keep it open with `async with` around its use."
            raise ClientClosedError(msg)

    def check_taking(self) -> None:
        """Raise unless the client takes new jobs."""
        self.check_open()
        if self.draining:
            msg = "This client is draining: it finishes what runs and takes nothing new. Nothing was sent."
            raise ClientClosedError(msg)

    def count(self, limit: ClientLimit) -> Stats:
        """Return the counters at this moment, for the view that has this limit."""
        now = time.monotonic()
        models = {queue.model_limit for queue in limit.queues}
        paused = [model.pace.paused_until for model in models if model.pace is not None]
        most = sum(model.limit for model in models) if models else float("inf")
        return Stats(
            in_flight=limit.used,
            queued=limit.waiting,
            paused_until=max((until for until in paused if until > now), default=0.0),
            limit=int(min(limit.limit, most)),
            calls=self.calls,
            attempts=self.attempts,
            retries=self.retries,
            succeeded=self.succeeded,
            failed=self.failed,
            in_doubt=self.in_doubt_log.count,
            tasks_watched=sum(task_id is not None for task_id in tuple(self.running.values())),
            connections=getattr(self.sender, "connections", 0),
        )

    async def drain(self, *, seconds: float) -> DrainReport:
        """Take no new job, wait at most so long for the running ones, and return what was left."""
        self.draining = True
        deadline = time.monotonic() + seconds
        while self.running and (left := deadline - time.monotonic()) > 0:  # noqa: ASYNC110  jobs may end in other threads
            await anyio.sleep(min(_LOOK, left))
        left_over = tuple(self.running.values())
        return DrainReport(
            finished=not left_over,
            unfinished=tuple(dict.fromkeys(task_id for task_id in left_over if task_id is not None)),
            in_doubt=self.in_doubt,
            in_flight=len(left_over),
        )

    async def rest(self, seconds: float) -> None:
        """Wait, or until the client is closed."""
        await self.sleepers.find().rest(seconds)

    async def close_queues(self) -> None:
        """Let what uses this client come to its end."""
        for close in tuple(self.closers):
            await close()

    async def aclose(self) -> None:
        """End all waits, abort what runs, close idle connections. Idempotent."""
        await self.close_queues()
        self.closed = True
        self.sleepers.tell(Sleepers.wake)
        self.poll_schedules.tell(_end_all)
        for limit in tuple(self.limits):
            limit.close()
        await self.sender.aclose()
