"""The books of one worker: those of any batch, with the cluster's ledger for a journal and its purse for money."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from videorouter.batch.run import BatchRun
from videorouter.journal.budget import Budget

if TYPE_CHECKING:
    from collections.abc import Callable

    from videorouter.batch.options import BatchOptions
    from videorouter.call.caller import Caller
    from videorouter.integrations.ray.proxy import RemoteJournal
    from videorouter.journal.journal import Journal
    from videorouter.journal.states import Recorded, Resumption


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
        self.purse: Budget = Budget()
        self._settled: set[str] = set()

    async def reserve(self, micros: int) -> None:
        """Hold nothing yet: the ledger holds the money together with the intent, for the whole cluster."""

    def name_at_once(self, digest: str, given: str | None, index: int) -> tuple[str, int, Recorded | None] | None:  # noqa: ARG002
        """As ``name``, in a block that nobody has ever met; ``None`` where the ledger must be asked.

        Raises:
            InvalidRequestError: Another row has the id.
        """
        if self.remote is None or not self.remote.is_new(index, given):
            return None
        return given or "", 1, None

    async def name(self, digest: str, given: str | None, index: int) -> tuple[str, int, Recorded | None]:
        """The id of a row, and what the ledger knows of it; a row that comes again gets the id that it had.

        Raises:
            InvalidRequestError: Another row has the id.
        """
        if self.remote is None:
            return await super().name(digest, given, index)
        answer = await self.remote.meet(index, digest, given)
        if answer.settled:
            self._settled.add(answer.id)
        return answer.id, 1, answer.recorded

    def decide(self, recorded: Recorded) -> Resumption:
        """What to do with a known item; what this very run has brought to an end is not tried once more."""
        if recorded.id in self._settled:
            self._settled.discard(recorded.id)
            return "keep"
        return super().decide(recorded)
