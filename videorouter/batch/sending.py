"""One sending of an item: its intent, its task, its money, and the record of its end.

The order of the writes is the promise: intent before the first byte, task id before the first poll, result before the
caller sees it. ``journal/states.py`` decides what a state means, ``journal/budget.py`` what may be spent.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from videorouter.call.requests import keep_request
from videorouter.call.tasks import resume_job, run_job
from videorouter.errors import OutcomeUnknownError, Phase, VideoRouterError
from videorouter.journal.budget import MICROS, to_micros
from videorouter.journal.journal import Ending, Intent
from videorouter.journal.records import encode, list_inline, tell_refusal
from videorouter.journal.states import describe_failure, keep_doubt, state_after_error
from videorouter.models import BatchItem, Task, VideoResult
from videorouter.plain import as_text

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from videorouter.batch.run import BatchRun
    from videorouter.call.limiter import Slot
    from videorouter.call.requests import Submission
    from videorouter.journal.states import ItemRow
    from videorouter.models import ItemState


class ItemRecord:
    """The record of one item in this run.

    ``doubt`` is the item as it was returned after an earlier sending with an unknown outcome, and ``earlier`` its row,
    if an earlier run left one. ``spent`` and ``unknown`` are US dollars of earlier sendings: spent, and perhaps spent.
    """

    __slots__ = ("digest", "doubt", "earlier", "id", "index", "meta", "parent", "prompt", "spent", "unknown")

    def __init__(self, index: int, item_id: str, prompt: object, parent: str | None, meta: object = None) -> None:
        self.index: int = index
        self.id: str = item_id
        self.prompt: str | None = prompt if type(prompt) is str else as_text(prompt)
        self.parent: str | None = parent
        self.meta: object = meta
        self.digest: str = ""
        self.doubt: BatchItem | None = None
        self.earlier: ItemRow | None = None
        self.spent: float = 0.0
        self.unknown: float = 0.0

    @property
    def decided(self) -> bool:
        """Whether the user has settled this very item, which was in doubt, with "send it again"."""
        return self.earlier is not None and self.earlier.state == "not_sent"

    def show(
        self,
        state: ItemState,
        submission: Submission | None,
        *,
        result: VideoResult | None = None,
        error: Exception | None = None,
        cost: float | None = None,
        task_id: str | None = None,
    ) -> BatchItem:
        """Return the item for its caller; ``cost`` is of this sending, in US dollars."""
        if self.spent:
            cost = self.spent + (cost or 0.0)
        item = BatchItem(
            index=self.index,
            id=self.id or f"{self.digest}-at{self.index}",
            state=state,
            prompt=self.prompt,
            model=submission.model if submission is not None else None,
            result=result,
            failure=None if error is None else describe_failure(error),
            cost=cost,
            task_id=task_id,
            meta=self.meta,
        )
        return item if error is None else item.with_extras(error_=error)


class Sending:
    """One sending of an item; its money is in millionths of a dollar."""

    __slots__ = ("_intended", "_priced", "_record", "_replayed", "_reserved", "_run", "_submission", "_task")

    def __init__(
        self,
        run: BatchRun,
        record: ItemRecord,
        submission: Submission,
        *,
        reserved: int = 0,
        priced: int | None = None,
        replayed: bool = False,
        claimed: bool = False,
    ) -> None:
        self._run = run
        self._record = record
        self._submission = submission
        self._reserved = reserved
        self._priced = priced
        self._replayed = replayed
        self._intended = claimed
        self._task: Task | None = None

    async def send(self, slot: Slot | None = None, *, resting: bool = False) -> BatchItem:
        """Send the request and follow it to its end. A cancelled one is recorded and counted, and raises.

        ``slot``: it is held already, and the item is claimed; ``resting``: it must be claimed again, since it was put aside.
        """
        run = self._run
        run.in_flight += 1
        try:
            result = await run_job(
                run.caller,
                self._submission,
                intent=None if self._intended and not resting else self._record_intent,
                accepted=self._record_task,
                withdraw=self._withdraw if self._intended else None,
                patient=True,
                slot=slot,
            )
            return await self._finish(result)
        except asyncio.CancelledError:
            await self._record_cancelled()
            raise
        except Exception as error:  # noqa: BLE001  one failure never loses the others
            return await self._fail(error)
        finally:
            run.end_request()

    async def poll(self, row: ItemRow) -> BatchItem:
        """Collect a task that an earlier run has paid for. A cancelled one stays accepted."""
        run = self._run
        self._reserved = held = to_micros(row.reserved)
        if row.state == "lost" and row.sends == 1:
            held, self._replayed = to_micros(row.unknown), True  # what was unknown is this very sending's
        self._priced = held or None
        if row.state != "lost" or self._replayed:
            quoted = run.prices.quote(row.model, row.request)
            self._priced = self._priced if quoted is None else quoted
        self._intended = True
        self._task = task = Task(
            id=row.task_id,
            model=row.model,
            request_id=row.request_id,
            idempotency_key=row.idempotency_key,
            poll_url=row.poll_url,
        )
        if self._submission.body:  # it may be forgotten
            keep_request(task, self._submission.body)
        run.in_flight += 1
        try:
            age = None if row.accepted is None else max(0.0, time.time() - row.accepted)
            result = await resume_job(run.caller, task, timeout=self._submission.timeout, age=age)
            return await self._finish(result)
        except Exception as error:  # noqa: BLE001  one failure never loses the others
            return await self._fail(error)
        finally:
            run.end_request()

    async def _record_intent(self) -> None:
        """Record that the request is about to be sent. An exception from here keeps it from being sent."""
        submission, record, journal = self._submission, self._record, self._run.journal
        self._run.check_running()
        if journal is None:
            self._intended = True
            return
        record.id = await journal.record_intent(
            Intent(
                id=record.id,
                position=record.index,
                digest=record.digest,
                verb=submission.verb,
                model=submission.model,
                request=submission.body.decode("utf-8", "replace"),
                idempotency_key=submission.idempotency_key,
                reserved=self._reserved / MICROS,
                parent=record.parent,
                meta=None if record.meta is None else encode(record.meta),
            )
        )
        self._intended = True
        self._run.check_running()
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            await asyncio.sleep(0)  # cancelled while it was written down: it ends here, before the first byte

    async def _withdraw(self) -> Callable[[], Awaitable[None]]:
        """Record that the claimed item was refused for now; returns what claims it again."""
        await self._run.rest(self._record.id)
        return self._record_intent

    async def _record_task(self, task: Task) -> None:
        """Record the id of the accepted task, before its first poll."""
        self._task = task
        self._note_accepted()
        await self._run.record_task(self._record.id, task)

    def _note_accepted(self) -> None:
        self._run.note_success(self._record)
        self._run.breaker.note_accepted(self._record)

    async def _finish(self, result: VideoResult) -> BatchItem:
        run, record = self._run, self._record
        run.prices.learn(self._submission.model, self._priced, result.cost)
        cost = run.budget.confirm(self._reserved, self._priced, result.cost)
        if self._task is None:
            self._note_accepted()
        cleared = record.unknown if self._replayed else 0.0
        if cleared:
            run.budget.clear_unknown(cleared)
            record.unknown = 0.0
        if self._replayed:
            record.doubt = None
        task_id = result.task_id or (self._task.id if self._task is not None else None)
        if run.journal is not None:
            await run.record_ending(
                Ending(
                    id=record.id,
                    state="done",
                    cost=cost,
                    unknown=-cleared,
                    result=encode(result),
                    task_id=task_id,
                    request_id=result.request_id,
                    inline=list_inline(result),
                )
            )
        return record.show("done", self._submission, result=result, cost=cost, task_id=task_id)

    async def _fail(self, error: Exception) -> BatchItem:
        run, record = self._run, self._record
        task_id = self._task.id if self._task is not None else None
        state = run.decide_state(state_after_error(error, sent=self._intended, task_id=task_id), error)
        if isinstance(error, VideoRouterError):
            task_id = task_id or error.task_id
        if record.doubt is not None and state in {"not_sent", "refused"}:
            run.note_error(error, self._record)
            return await self._keep_doubt(record.doubt, state, error)
        await self._record_failure(state, error, task_id)
        if state == "in_doubt":
            run.breaker.note_doubt(record, error)
        run.note_error(error, self._record)
        return record.show(state, self._submission, error=error, task_id=task_id)

    async def _record_cancelled(self) -> None:
        """Record and count what is known of a cancelled call."""
        run, record, submission = self._run, self._record, self._submission
        key = submission.idempotency_key
        lost = next((one for one in reversed(run.caller.shared.in_doubt) if one.idempotency_key == key), None)
        caught = lost.__dict__.get("result_") if lost is not None else None
        if isinstance(caught, VideoResult):
            self._replayed = False
            run.count(await self._finish(caught), record.unknown)
            return
        task_id = self._task.id if self._task is not None else lost.task_id if lost is not None else None
        state: ItemState = "accepted" if task_id else "in_doubt" if lost is not None else "not_sent"
        if state == "not_sent" and record.doubt is not None:
            run.count(await self._keep_doubt(record.doubt), record.unknown)
            return
        if state == "accepted" and self._task is None:
            await run.record_task(record.id, Task(id=task_id, poll_url=lost.poll_url if lost is not None else None))
        reason = None
        if lost is not None and state == "in_doubt":
            reason = OutcomeUnknownError(
                "The batch was closed while this request ran: it may have been accepted and billed. It is not sent again "
                "unless you say so: on_outcome_unknown='resend', or `videorouter batch settle`.",
                idempotency_key=key,
                model=submission.model,
                phase=Phase(lost.phase) if lost.phase else None,
            )
        await self._record_failure(state, reason, task_id)
        run.count(record.show(state, submission, error=reason, task_id=task_id), record.unknown)

    async def _keep_doubt(
        self, doubt: BatchItem, state: ItemState = "not_sent", error: Exception | None = None
    ) -> BatchItem:
        """Keep the earlier doubt: sending it again bought nothing."""
        record, run = self._record, self._run
        run.budget.release(self._reserved)
        if state == "refused" and error is not None:
            doubt = tell_refusal(doubt, error)
        kept = keep_doubt(state, decided=record.decided)
        if self._intended:
            await run.record_ending(
                Ending(
                    id=record.id,
                    state=state,
                    failure=None if error is None else encode(describe_failure(error)),
                    request_id=getattr(error, "request_id", None),
                    phase=_find_phase(error),
                    status=getattr(error, "status", None),
                    kept=kept,
                    kept_failure=None if doubt.failure is None else encode(doubt.failure),
                )
            )
        return doubt if kept == "in_doubt" else record.show(kept, self._submission, error=error)

    async def _record_failure(self, state: ItemState, error: Exception | None, task_id: str | None) -> None:
        """Move the money of a failed sending, and record its end."""
        run, record = self._run, self._record
        added = 0.0
        if state in {"in_doubt", "failed", "lost"}:
            added = run.budget.doubt(self._reserved)
            record.unknown += added
        elif state != "accepted":
            run.budget.release(self._reserved)
        if not self._intended:
            return
        await run.record_ending(
            Ending(
                id=record.id,
                state=state,
                reserved=self._reserved / MICROS if state == "accepted" else 0.0,
                unknown=added,
                failure=None if error is None else encode(describe_failure(error)),
                task_id=task_id,
                request_id=getattr(error, "request_id", None),
                phase=_find_phase(error),
                status=getattr(error, "status", None),
            )
        )


def _find_phase(error: Exception | None) -> str | None:
    phase = getattr(error, "phase", None)
    return None if phase is None else str(phase)
