"""``Jobs``: a queue as a client gives it. Asking needs nothing more; entered with ``async with`` it may become the runner."""

from __future__ import annotations

from typing import Self

from videorouter.call.caller import Caller
from videorouter.call.prepare import RequestBuilder
from videorouter.jobs.options import JobOptions
from videorouter.jobs.queue import JobVerbs, QueueFile, check_name


class Jobs(JobVerbs):
    """A durable queue of paid work: any process may ask, and one of those that have entered it pays.

    A queue that is not entered only asks: it never buys. ``async with jobs:`` makes this process a candidate; half a
    second later it is the runner, unless another process is.
    """

    def __init__(self, caller: Caller, options: JobOptions, *, builder: RequestBuilder) -> None:
        super().__init__(QueueFile(options, builder))
        self._caller = caller

    def of(self, owner: str) -> JobVerbs:
        """The same verbs for the jobs of one owner, who sees no others."""
        return JobVerbs(self._file, check_name(owner, "owner"))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close what this process has open of the queue. What was put stays; a later verb opens the file again."""
        await self._file.aclose()
