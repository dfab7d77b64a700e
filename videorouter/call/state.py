"""What all views of one client share: the sender, its limits, its counters, and the records of what is in doubt."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakSet

from videorouter.call.in_doubt import InDoubtLog
from videorouter.call.limiter import ClientLimit
from videorouter.call.limits import default_concurrency
from videorouter.call.polls import PollSchedules
from videorouter.call.retry import RetryBudget
from videorouter.errors import ClientClosedError

if TYPE_CHECKING:
    from videorouter.config import Settings
    from videorouter.http import Sender
    from videorouter.models import InDoubt


class Shared:
    """The state behind a client and its views.

    Args:
        sender: Puts requests on the wire.
        settings: The client's.

    Attributes:
        running: Every job and every wait that runs, with the id of its task once it has one.
        draining: Whether new jobs are refused.
    """

    def __init__(self, sender: Sender, settings: Settings) -> None:
        self.sender = sender
        self.gates: WeakSet[ClientLimit] = WeakSet()
        self.gate: ClientLimit = self.open_gate(settings)
        self.budget: RetryBudget = RetryBudget()
        self.doubts: InDoubtLog = InDoubtLog()
        self.schedules: PollSchedules = PollSchedules()
        self.running: dict[object, str | None] = {}
        self.closed: bool = False
        self.draining = False
        self.calls = 0
        self.attempts = 0
        self.retries = 0
        self.succeeded = 0
        self.failed = 0

    def open_gate(self, settings: Settings) -> ClientLimit:
        """A limit of jobs at once, for the client or for a view with a limit of its own."""
        gate = ClientLimit(settings.max_concurrency or default_concurrency())
        self.gates.add(gate)
        return gate

    @property
    def in_doubt(self) -> tuple[InDoubt, ...]:
        """Requests that may have been billed and whose answer nobody has."""
        return self.doubts.records

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

    async def aclose(self) -> None:
        """Send away whoever waits, abort what runs, close what is idle. Idempotent."""
        self.closed = True
        for gate in tuple(self.gates):
            gate.close()
        await self.sender.aclose()
