"""Sends what waits: a slot first, then the choice of the job, so that it can be cancelled and overtaken until that moment.

One dispatcher a model takes a slot, chooses by priority, owner and arrival, claims, and starts the job in the slot.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import TYPE_CHECKING

import msgspec

from videorouter.batch.sending import Sending
from videorouter.call.prepare import new_idempotency_key
from videorouter.config import NO_DEADLINE
from videorouter.errors import BudgetExceededError, JournalError, TaskTimeoutError
from videorouter.jobs.inputs import fill_in, find_inputs
from videorouter.jobs.pauses import ALL
from videorouter.jobs.run import JobRecord, fail_early, list_inputs, make_submission
from videorouter.journal.budget import MICROS, to_micros
from videorouter.journal.journal import Ending
from videorouter.journal.queue_running import Choice, Claim
from videorouter.journal.records import encode
from videorouter.journal.states import describe_failure, state_after_error
from videorouter.loops import start_task

if TYPE_CHECKING:
    from collections.abc import Callable

    from videorouter.call.limiter import Slot
    from videorouter.call.prepare import RequestBuilder
    from videorouter.call.requests import Submission
    from videorouter.jobs.run import JobRun
    from videorouter.journal.queue import JobRow
    from videorouter.models import BatchItem

TOGETHER = 64
"""Jobs that are claimed in one commit at most."""
_POLL_AGAIN = 60.0
"""Seconds before a task is asked for again whose state could not be read."""
LOOK = 1.0
"""Seconds after which a dispatcher looks again by itself."""


class Dispatcher:
    """Sends the jobs of a queue while this process runs it. ``ended`` is called with each item that has come to an end."""

    def __init__(self, run: JobRun, builder: RequestBuilder, ended: Callable[[BatchItem], None]) -> None:
        self._run = run
        self._builder = builder
        self._ended = ended
        self._models: dict[str, asyncio.Task[None]] = {}
        self._claims: set[asyncio.Task[int]] = set()
        self._turns: dict[str, str] = {}
        """The owner who was served last, by model."""
        self._changed = asyncio.Event()
        self.jobs: dict[asyncio.Task[None], JobRecord] = {}
        self.running: Counter[str] = Counter()
        """Jobs on the wire or accepted, by owner."""
        self.elders: Counter[str] = Counter()
        """What earlier runners have on the wire still, by owner: it counts among what an owner may have at once."""
        self.trouble: BaseException | None = None
        """What ended a dispatcher: then this process must stand again."""

    def wake(self) -> None:
        """Something may be sent that could not before."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def refresh(self) -> None:
        """Start a dispatcher for each model that has none, and wake the others."""
        for model in await self._run.journal.list_models():
            if model not in self._models:
                task = start_task(self._dispatch(model))
                self._models[model] = task
                task.add_done_callback(self._note_end)
        self.wake()

    def _note_end(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None and self.trouble is None:
            self.trouble = task.exception()

    async def stop(self) -> None:
        """Claim nothing more; what is claimed and not sent waits for the next runner."""
        for task in self._models.values():
            task.cancel()
        await asyncio.gather(*self._models.values(), return_exceptions=True)
        await asyncio.gather(*self._claims, return_exceptions=True)

    async def _dispatch(self, model: str) -> None:
        run = self._run
        while True:
            changed = self._changed
            slot = run.caller.open_slot(model)
            try:
                if not slot.try_take():
                    await slot.take(time.monotonic() + NO_DEADLINE)
                claiming = start_task(self._fill(model, slot))
            except BaseException:
                slot.release()
                raise
            self._claims.add(claiming)
            claiming.add_done_callback(self._claims.discard)
            if await asyncio.shield(claiming):
                continue
            if model not in await run.journal.list_models() and not changed.is_set():
                del self._models[model]  # the next job of it starts another one
                return
            left = run.pauses.left
            try:
                async with asyncio.timeout(min(LOOK, left + 0.001) if left else LOOK):
                    await changed.wait()
            except TimeoutError:
                continue

    async def _fill(self, model: str, slot: Slot) -> int:
        """Claim as many jobs as there are slots, and start them; returns how many."""
        slots = [slot]
        started = 0
        try:
            choice = self._choose(model)
            while len(slots) < choice.number:
                more = self._run.caller.open_slot(model)
                if not more.try_take():
                    break
                slots.append(more)
            rows = await self._claim(msgspec.structs.replace(choice, number=len(slots))) if choice.number else []
            if self._run.stopped is not None:
                if rows:
                    await self._run.journal.unclaim([row.id for row in rows])
                return 0
            for row in rows:
                self._start(row, slots.pop())
                started += 1
        except JournalError as error:
            self._run.stop_for(error)
        finally:
            for unused in slots:
                unused.release()
        return started

    def _choose(self, model: str) -> Choice:
        run = self._run
        room, of_owners = run.pauses.find_room(model)
        # What earlier runners drain does not count: the queue would stand still for as long as they have requests held.
        free = run.options.limit - self.running.total()
        if free > 1:
            free = max(1, free // len(self._models))  # the first model that wakes must not take all
        return Choice(
            model=model,
            number=max(0, min(TOGETHER, free, TOGETHER if room is None else room)),
            running=dict(self.running + self.elders),
            per_owner=run.queue.per_owner,
            most=of_owners,
            after=self._turns.get(model, ""),
        )

    async def _claim(self, choice: Choice) -> list[JobRow]:
        run = self._run
        if run.queue.price is None and run.queue.max_cost_per_owner is None:
            return await run.journal.claim_next(choice, [new_idempotency_key() for _ in range(choice.number)])
        await run.take_up_money()
        claims = []
        for row in await run.journal.choose(choice):
            claim = await self._price(row)
            if claim is not None:
                claims.append(claim)
        rows = await run.journal.claim_jobs(claims) if claims else []
        claimed = {row.id for row in rows}
        for claim in claims:
            if claim.id not in claimed:
                run.budget.release(to_micros(claim.reserved))
        return rows

    async def _price(self, row: JobRow) -> Claim | None:
        """Hold money for a job; ``None`` where there is none left for it, or no price."""
        run = self._run
        try:
            submission = make_submission(row, run)
            reserved = run.prices.correct(submission.model, run.prices.find(submission))
            await self._check_owner(row, reserved)
            run.reserve_now(reserved)
        except BudgetExceededError as error:
            run.pauses.pause(ALL if "owner" not in str(error) else (row.owner or "", row.model or ""), str(error))
            return None
        except Exception as error:  # noqa: BLE001  a function of the caller's must not end the queue
            await run.journal.refuse(row.id, encode(describe_failure(fail_early(error))))
            return None
        return Claim(row.id, new_idempotency_key(), reserved / MICROS)

    async def _check_owner(self, row: JobRow, reserved: int) -> None:
        cap = self._run.queue.max_cost_per_owner
        if cap is None:
            return
        spent = await self._run.journal.read_spent(max(0.0, self._run.since), row.owner or "")
        if to_micros(sum(spent)) + reserved > to_micros(cap):
            raise BudgetExceededError("max_cost_per_owner is reached: jobs of this owner wait for the next period.")

    def _start(self, row: JobRow, slot: Slot) -> None:
        record = JobRecord(row)
        self._turns[record.model] = record.owner
        self.running[record.owner] += 1
        self._run.pauses.begin(record.owner, record.model)
        self._track(start_task(self._send(row, record, slot)), record)

    def follow(self, row: JobRow) -> None:
        """Follow a task that an earlier runner has paid for."""
        record = JobRecord(row)
        self.running[record.owner] += 1
        self._track(start_task(self._poll(row, record)), record)

    def _track(self, task: asyncio.Task[None], record: JobRecord) -> None:
        self.jobs[task] = record
        task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[None]) -> None:
        record = self.jobs.pop(task)
        self.running[record.owner] -= 1
        self._run.pauses.end(record.owner, record.model)
        if not task.cancelled() and task.exception() is not None and self.trouble is None:
            self.trouble = task.exception()
        self.wake()

    async def _send(self, row: JobRow, record: JobRecord, slot: Slot) -> None:
        run = self._run
        held = to_micros(row.reserved)
        try:
            inputs = list_inputs(row)
            submission = make_submission(row, run)
            if inputs:
                filled = await self._upload(record, submission, inputs)
                if filled is None:
                    run.budget.release(held)
                    return
                submission = filled
            sending = Sending(run, record, submission, reserved=held, priced=held or None, claimed=True)
            item = await sending.send(slot, resting=bool(inputs))
        finally:
            slot.release()
        if item.state == "accepted" and run.stopped is None:  # its time was over, and its task is not
            for known in await run.journal.read_jobs([row.id]):
                await self._poll(known, record)
            return
        self._ended(item)

    async def _upload(self, record: JobRecord, submission: Submission, inputs: list[str]) -> Submission | None:
        """Upload what a job brings, while it counts as not sent; ``None`` where that failed, which is then written down."""
        run = self._run
        await run.rest(record.id)
        try:
            files = find_inputs(submission, inputs, run.journal.path)
            addresses = await self._builder.upload(files, model=submission.model, timeout=submission.timeout)
        except Exception as error:  # noqa: BLE001  one failure never loses the others
            named = fail_early(error)
            state = run.decide_state(state_after_error(named, sent=False), named)
            run.note_error(named, record)
            failure = encode(describe_failure(named))
            await run.record_ending(Ending(id=record.id, state=state, failure=failure))
            return None
        return fill_in(submission, addresses)

    async def _poll(self, row: JobRow, record: JobRecord) -> None:
        run = self._run
        submission = make_submission(row, run)
        while True:
            item = await Sending(run, record, submission).poll(row)
            if item.state != "accepted":
                self._ended(item)
                return
            await asyncio.sleep(LOOK if isinstance(item.error, TaskTimeoutError) else _POLL_AGAIN)
