"""Says what a batch will do before anything is sent: what its journal holds, what the input meets, what is new and its cost.

An input that can be read twice is looked up whole in a journal that holds something; of a stream only the journal is known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from videorouter.batch.consent import name_again, needs_consent
from videorouter.batch.entries import read_entry
from videorouter.batch.item import Item
from videorouter.batch.run import name_mismatch
from videorouter.journal.budget import to_dollars
from videorouter.journal.survey import IdTakenError, JournalSurvey, Wanted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from videorouter.batch.run import BatchRun
    from videorouter.call.prepare import RequestBuilder
    from videorouter.call.requests import Submission
    from videorouter.errors import JournalMismatchError
    from videorouter.journal.journal import Journal

_AT_ONCE = 64
"""Entries that are looked up at once: the loop is held up for as long as it takes to describe them."""


class BatchPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What a batch will do, in requests: an entry is one, and so is each edit that follows from it.

    ``held`` are the journal's, ``paid`` those of them that were paid for, or may have been. Of a stream the rest is unknown and
    ``None``: ``met`` are those of the input that the journal holds, ``unmet`` those of the journal that the input does not have,
    ``new`` those that the journal lacks, ``cost`` what all that is to
    be sent may cost, in US dollars (``None``, too, where a price is unknown), and ``again`` what was paid for and would be
    bought again under another spelling.
    """

    held: int = 0
    paid: int = 0
    met: int | None = None
    unmet: int | None = None
    new: int | None = None
    sends: int | None = None
    cost: float | None = None
    again: int = 0

    @property
    def needs_consent(self) -> bool:
        """Whether so much would be bought again that somebody must have asked for it."""
        return needs_consent(self.again, self.paid)


async def make_plan(
    run: BatchRun, journal: Journal, builder: RequestBuilder, entries: AsyncIterator[Any] | None
) -> BatchPlan:
    """Look an input up in a journal; ``None`` is one that can be read only once.

    Raises:
        JournalMismatchError: The id of an entry is another request's in the journal. Nothing was sent.
    """
    again = not run.options.deduplicate
    survey = JournalSurvey(journal, again=again, sends=lambda row: run.decide(row) == "send")
    if await survey.is_empty():
        return BatchPlan()
    if entries is None:
        found = await survey.conclude()
        return BatchPlan(held=found.held, paid=found.paid)
    costs = _Costs(run)
    wanted: list[tuple[Wanted, Submission]] = []

    async def look_up() -> None:
        try:
            answers = await survey.look_up([each for each, _ in wanted])
        except IdTakenError as error:
            raise name_mismatch(error.row, error.index, journal) from None
        for (each, known), answer in zip(wanted, answers, strict=True):
            costs.add(each, known, answer)
        wanted.clear()

    index = 0
    while True:
        try:
            raw = await anext(entries)
        except Exception:  # noqa: BLE001  its end, or an error of the caller's input, which the run itself meets again
            break
        try:
            entry = read_entry(raw, run.options.verb)
            known, fingerprint = await Item(run, builder, index, entry, given=entry.id).describe()
            wanted.append((Wanted(index, fingerprint, entry.id), known))
        except Exception:  # noqa: BLE001, S110  it is refused when its turn comes
            pass
        index += 1
        if len(wanted) == _AT_ONCE:
            await look_up()
    await look_up()
    found = await survey.conclude()
    return BatchPlan(
        held=found.held,
        paid=found.paid,
        met=found.met,
        unmet=found.unmet,
        new=found.new,
        sends=costs.count,
        cost=costs.dollars,
        again=found.again,
    )


class _Costs:
    """What the requests that will be sent may cost, as far as their prices are known."""

    def __init__(self, run: BatchRun) -> None:
        self.count = 0
        self._run = run
        self._micros = 0
        self._known = run.options.price is not None

    @property
    def dollars(self) -> float | None:
        return to_dollars(self._micros) if self._known else None

    def add(self, entry: Wanted, known: Submission, sent: list[bool]) -> None:
        bodies = (known.body, *(body for _, body in entry.fingerprint.steps))
        for body, is_sent in zip(bodies, sent, strict=True):
            if is_sent:
                self.count += 1
                self._add_price(known, body)

    def _add_price(self, known: Submission, body: bytes) -> None:
        if not self._known:
            return
        try:
            model = known.model if body is known.body else str(_read_model(body).model)
            prices = self._run.prices
            price = prices.find(msgspec.structs.replace(known, body=body, model=model))
            self._micros += prices.correct(model, price)
            self._known = price is not None
        except Exception:  # noqa: BLE001  a function of the caller's, or a model without a price, which is refused when its turn comes
            self._known = False


class _Model(msgspec.Struct):
    model: object = None


_read_model = msgspec.json.Decoder(_Model).decode


def refuse_plan(plan: BatchPlan, journal: Journal) -> JournalMismatchError:
    """The error of a batch that would buy again what was paid for, and that nobody has consented to."""
    bought = f"{plan.again:,} of the {plan.paid:,} requests that {journal.path} has paid for"
    return name_again(bought, "Nothing was sent", journal)
