"""The books of one worker: those of any batch, with the cluster's ledger for a journal and its purse for money."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from videorouter.batch.run import BatchRun
from videorouter.journal.budget import Budget
from videorouter.journal.journal import Identity

if TYPE_CHECKING:
    from collections.abc import Callable

    from videorouter.batch.run import BatchOptions
    from videorouter.call.caller import Caller
    from videorouter.integrations.ray.proxy import RemoteJournal
    from videorouter.journal.journal import Fingerprint, Journal
    from videorouter.journal.states import ItemRow, Resumption


class WorkerBooks(BatchRun):
    """The books of one worker.

    Args:
        caller: The client's way to the wire.
        options: The batch's options.
        stop: Called with the reason when dispatch must stop.
        remote: The ledger; ``None`` to keep no journal at all.
    """

    def __init__(
        self, caller: Caller, options: BatchOptions, stop: Callable[[str], None], remote: RemoteJournal | None
    ) -> None:
        super().__init__(caller, options, stop)
        self.remote = remote
        self.journal: Journal | None = cast("Journal | None", remote)
        self.budget: Budget = Budget()
        self._settled: set[str] = set()
        self._refused: set[str] = set()

    async def reserve(self, micros: int) -> None:
        """Hold nothing yet: the ledger holds the money together with the intent, for the whole cluster."""

    async def identify(self, entry: Fingerprint, given: str | None, index: int, *, taken: bool = False) -> Identity:  # noqa: ARG002
        """Who a row is, and what the ledger knows of it; a row that comes again gets the id that it had.

        Raises:
            InvalidRequestError: Another row has the id.
        """
        if self.remote is None:
            return Identity(id=given or f"{entry.digest}-at{index}")
        if self.remote.is_new(index, given):
            return Identity(id=given or "")
        answer = await self.remote.meet(index, entry.digest, given, entry.spelling)
        if answer.settled:
            self._settled.add(answer.id)
        return Identity(id=answer.id, row=answer.recorded)

    async def claim(self, given: str) -> bool:
        """Whether no other row with this id was refused here: the ledger tells what it knows of ids when they are met."""
        first = given not in self._refused
        self._refused.add(given)
        return first

    def decide(self, row: ItemRow) -> Resumption:
        """What to do with a known item; what this very run has brought to an end is not tried once more."""
        if row.id in self._settled:
            self._settled.discard(row.id)
            return "keep"
        return super().decide(row)
