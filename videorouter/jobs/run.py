"""What the jobs of a queue share while one process runs it: the money, the pauses, and how a job becomes a request.

One job's sending is that of a batch's item, in a slot that is held already; only what a batch stops for pauses a queue.
"""

from __future__ import annotations

import calendar
import time
from typing import TYPE_CHECKING, Any

import msgspec

from videorouter.batch.breaker import CircuitBreaker
from videorouter.batch.run import BatchOptions, BatchRun
from videorouter.batch.sending import ItemRecord
from videorouter.call.prepare import new_idempotency_key
from videorouter.call.requests import Submission
from videorouter.errors import BudgetExceededError, ClientClosedError, RateLimitError, VideoRouterError
from videorouter.jobs.pauses import ALL, WALLS, Pauses
from videorouter.journal.budget import Budget
from videorouter.journal.records import read_failure, read_meta, to_item

if TYPE_CHECKING:
    from videorouter.call.caller import Caller
    from videorouter.jobs.options import JobOptions, Period
    from videorouter.journal.queue import JobRow
    from videorouter.journal.queue_running import RunnerJournal
    from videorouter.journal.states import ItemRow
    from videorouter.models import BatchItem, ItemState, Task


_read_options = msgspec.json.Decoder(dict[str, Any]).decode
_read_request = msgspec.json.Decoder(dict[str, Any]).decode


class JobRecord(ItemRecord):
    """The record of one job in this run. ``accepted``: its task is known, so that another runner can follow it."""

    __slots__ = ("accepted", "key", "model", "owner", "reserved")

    def __init__(self, row: JobRow) -> None:
        super().__init__(row.position, row.id, to_item(row).prompt, row.parent, read_meta(row.meta))
        self.owner: str = row.owner or ""
        self.model: str = row.model or ""
        self.key: str | None = row.idempotency_key
        self.digest: str = row.digest
        self.spent: float = row.cost or 0.0
        self.unknown: float = row.unknown
        self.reserved: float = row.reserved
        self.accepted: bool = row.state in {"accepted", "lost"}
        failure = read_failure(row.failure)
        doubtful = row.state == "not_sent" and failure is not None and failure.in_doubt
        self.doubt: BatchItem | None = to_item(row).replace(state="in_doubt") if doubtful else None
        self.earlier: ItemRow | None = row if doubtful else None


class JobRun(BatchRun):
    """The state that the jobs of one runner share."""

    journal: RunnerJournal

    def __init__(self, caller: Caller, options: JobOptions, journal: RunnerJournal, *, limit: int) -> None:
        common = BatchOptions(
            verb="generate",
            common={},
            limit=limit,
            save_to=options.save_to,
            name=options.name,
            max_cost=options.max_cost,
            price=options.price,
            stop_after=options.stop_after,
        )
        super().__init__(caller, common, lambda _: None)
        self.journal = journal
        self.queue: JobOptions = options
        self.pauses: Pauses = Pauses(options.stop_after)
        self.breaker: CircuitBreaker = _Doubts(self.pauses)
        self.since: float = -1.0
        """The Unix time from which on the money counts."""

    def note_success(self, record: object) -> None:
        """Let go on what was paused of this owner and model."""
        if isinstance(record, JobRecord):
            self.pauses.note_success(record.owner, record.model)

    def note_error(self, error: BaseException, record: object = None) -> None:
        """Pause what every further job would meet."""
        if isinstance(record, JobRecord) and not isinstance(error, ClientClosedError):
            self.pauses.note_error(record.owner, record.model, error)

    def decide_state(self, state: ItemState, error: Exception) -> ItemState:
        """What says nothing of the job puts it back."""
        return "not_sent" if state == "refused" and isinstance(error, (*WALLS, RateLimitError)) else state

    def stop_for(self, error: BaseException, reason: str | None = None) -> None:
        """Pause all: the disk does not take what is bought."""
        self.pauses.pause(ALL, reason or str(error))

    def count(self, item: BatchItem, unknown: float = 0.0, *, doubted: bool = False) -> None:
        """Nothing is counted in memory: the file counts."""

    def check_running(self) -> None:
        """Raise once this process is about to stop: then nothing more is sent."""
        if self.stopped is not None:
            raise ClientClosedError(
                "This process ends; the job is left to the next runner of its queue. It was not sent."
            )

    async def rest(self, item: str) -> None:
        """Record that a job waits out a refusal: it is not on the wire, and may be cancelled."""
        await self.journal.rest(item)

    async def record_task(self, item: str, task: Task) -> None:
        """Record a task's id; a process that is about to stop leaves the rest to the next runner."""
        await super().record_task(item, task)
        if self.stopped is not None:
            raise ClientClosedError(
                "This process ends; the next runner of the queue collects this task.", task_id=task.id
            )

    async def retry_unwritten(self) -> None:
        """Write what could not be written when it was learned."""
        while self._unwritten:
            await self.journal.record_ending(self._unwritten[0])
            del self._unwritten[0]

    def reserve_now(self, micros: int) -> None:
        """Hold money for one job, or raise."""
        if not self.budget.reserve(micros):
            raise BudgetExceededError("max_cost is reached: jobs wait for money to come back, or for the next period.")

    async def take_up_money(self) -> None:
        """Count what the period has cost so far, once more when another begins."""
        since = begin_period(self.queue.period, time.time())
        if self.options.max_cost is None or since == self.since:
            return
        held, spent, unknown = await self.journal.read_spent(since)
        self.since = since
        cap = self.budget.cap
        self.budget: Budget = Budget(None if cap is None else self.options.max_cost)
        self.budget.carry_over(reserved=held, confirmed=spent, unknown=unknown)


class _Doubts(CircuitBreaker):
    """What a sending asks of a batch's circuit breaker, for each owner and model of a queue."""

    def __init__(self, pauses: Pauses) -> None:
        super().__init__(1, lambda *_: None)
        self._pauses_of_queue = pauses

    def note_accepted(self, item: object) -> None:
        if isinstance(item, JobRecord):
            item.accepted = True

    def note_doubt(self, item: object, error: BaseException) -> None:
        if isinstance(item, JobRecord):
            self._pauses_of_queue.note_doubt(item.owner, item.model, error)


def begin_period(period: Period | None, now: float) -> float:
    """The Unix time at which the running period began, by UTC."""
    if period is None:
        return 0.0
    at = time.gmtime(now)
    return float(calendar.timegm((at.tm_year, at.tm_mon, at.tm_mday if period == "day" else 1, 0, 0, 0)))


def make_submission(row: JobRow, run: JobRun) -> Submission:
    """The request of a job: the very bytes that were put."""
    settings = run.caller.settings
    options = _read_options(row.options) if row.options else {}
    headers = tuple((str(name), str(value)) for name, value in options.get("headers", ()))
    return Submission(
        verb="edit" if row.verb == "edit" else "generate",
        model=row.model or "",
        prompt=to_item(row).prompt or "",
        body=(row.request or "").encode("utf-8", "surrogatepass"),
        idempotency_key=row.idempotency_key or new_idempotency_key(),
        timeout=float(options.get("timeout", settings.timeout)),
        max_retries=int(options.get("max_retries", settings.max_retries)),
        headers=headers,
    )


def list_inputs(row: JobRow) -> list[str]:
    """The fields of a job whose files are still to be uploaded."""
    return list(_read_options(row.options).get("inputs", ())) if row.options else []


def fail_early(error: Exception) -> VideoRouterError:
    """An error of a function of the caller's, such as a price, as one of this package."""
    if isinstance(error, VideoRouterError):
        return error
    named = VideoRouterError(f"The job could not be prepared: {type(error).__name__}: {error}. Nothing was sent.")
    named.__cause__ = error
    return named
