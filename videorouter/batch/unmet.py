"""What the journal holds and this run's input does not: what was paid for comes to its end, and nothing is sent for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from videorouter.batch.sending import ItemRecord, Sending
from videorouter.call.requests import Submission
from videorouter.config import check_timeout
from videorouter.journal.records import to_item
from videorouter.journal.survey import count_unmet, list_unfinished

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from videorouter.batch.plan import BatchPlan
    from videorouter.batch.run import BatchRun
    from videorouter.journal.states import ItemRow
    from videorouter.models import BatchItem


async def list_unmet(run: BatchRun, plan: BatchPlan) -> AsyncIterator[ItemRow]:
    """Count the rows that the input does not have, and give those that are not at their end."""
    if run.journal is None:
        return
    if plan.unmet is None:  # of a stream they are known at its end
        run.counts.not_in_input = count = await count_unmet(run.journal)
        await run.journal.note("not_in_input", str(count))
    async for row in list_unfinished(run.journal, saves=run.options.save_to is not None):
        yield row


async def take_up(run: BatchRun, row: ItemRow, index: int) -> BatchItem:
    """Poll a row's task to its end, or give the row as it is: done without its files, or in doubt.

    ``index`` comes after those of the input: no item of it is taken for this one.
    """
    known = to_item(row).replace(index=index, in_input=False)
    action = run.decide(row)
    if action == "collect" and run.journal is not None:
        return await run.collect(run.journal, known)
    if action != "poll":
        return known
    record = ItemRecord(index, row.id, known.prompt, row.parent, known.meta)
    record.unknown, record.spent = row.unknown, row.cost or 0.0
    item = await Sending(run, record, _recall_submission(run, row, known)).poll(row)
    return item.replace(in_input=False)


def _recall_submission(run: BatchRun, row: ItemRow, known: BatchItem) -> Submission:
    """The request of a row as it was sent, as far as the journal still has it; the seconds are this run's."""
    settings, common = run.caller.settings, run.options.common
    return Submission(
        verb="edit" if row.verb == "edit" else "generate",
        model=row.model or "",
        prompt=known.prompt or "",
        body=(row.request or "").encode("utf-8", "surrogatepass"),
        idempotency_key=row.idempotency_key or "",
        timeout=check_timeout(common["timeout"]) if "timeout" in common else settings.timeout,
        max_retries=settings.max_retries,
    )
