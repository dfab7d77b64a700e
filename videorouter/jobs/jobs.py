"""``Jobs``: a queue as a client gives it. Asking needs nothing more; entered with ``async with`` it may become the runner."""

from __future__ import annotations

import asyncio
from typing import Self

import msgspec

from videorouter.call.caller import Caller
from videorouter.call.prepare import RequestBuilder
from videorouter.jobs.options import JobOptions, Save
from videorouter.jobs.queue import JobVerbs, QueueFile, check_name
from videorouter.jobs.runner import Runner
from videorouter.jobs.signals import STOP_SIGNALS
from videorouter.loops import start_task

_ONCE_MORE = 0.5
"""Seconds after which the signals are listened to once more: a server may set its own handlers after its start."""


class Jobs(JobVerbs):
    """A durable queue of paid work: any process may ask, and one of those that have entered it pays.

    A queue that is not entered only asks: it never buys. ``async with jobs:`` makes this process a candidate; half a
    second later it is the runner, unless another process is.
    """

    def __init__(self, caller: Caller, options: JobOptions, *, builder: RequestBuilder, save: Save) -> None:
        super().__init__(QueueFile(options, builder))
        self._caller = caller if options.concurrency is None else _limit(caller, options.concurrency)
        self._save = save
        self._runner: Runner | None = None
        self._closing: asyncio.Task[None] | None = None

    def of(self, owner: str) -> JobVerbs:
        """The same verbs for the jobs of one owner, who sees no others."""
        return JobVerbs(self._file, check_name(owner, "owner"))

    @property
    def stopping(self) -> bool:
        """Whether this process is about to stop: it sends nothing more, and its streams of events have ended."""
        return self._file.ending

    def stop(self) -> None:
        """Send nothing more, and let another process run the queue at once; streams of events end. From any thread.

        What is on the wire goes on; ``aclose`` waits for it. A signal that ends the process does this by itself.
        """
        self._file.end_streams()
        if self._runner is not None:
            self._runner.stop()

    async def __aenter__(self) -> Self:
        self._caller.check_open()
        if self._runner is None:
            await self._file.check_gateway(self._caller.settings.base_url)
            self._runner = runner = Runner(self._caller, self._file, self._save)
            self._caller.shared.closers.add(self.aclose)
            self._listen()
            asyncio.get_running_loop().call_later(_ONCE_MORE, self._listen)
            runner.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop, and wait for what is on the wire as long as ``drain`` allows. Idempotent.

        What was put stays, and a later verb opens the file again.
        """
        if self._closing is None:
            self._closing = start_task(self._close())
        closing, cancelled = self._closing, None
        while not closing.done():
            try:
                await asyncio.shield(closing)
            except asyncio.CancelledError as error:  # what is on the wire is paid: it is waited for all the same
                cancelled = error
        if self._closing is closing:
            self._closing = None
        if cancelled is not None:
            raise cancelled
        closing.result()

    async def _close(self) -> None:
        runner, self._runner = self._runner, None
        self._caller.shared.closers.discard(self.aclose)
        STOP_SIGNALS.remove(self.stop)
        if runner is not None:
            self._file.end_streams()
            await runner.aclose()
            self._file.ending = False
        await self._file.aclose()

    def _listen(self) -> None:
        if self._runner is not None:
            STOP_SIGNALS.add(self.stop)


def _limit(caller: Caller, most: int) -> Caller:
    """A caller whose models take turns within a limit of their own, and not only within the client's."""
    settings = msgspec.structs.replace(caller.settings, max_concurrency=min(most, caller.limit.limit))
    limit = caller.shared.open_limit(settings)
    return Caller(settings, caller.shared, on_event=caller.on_event, on_in_doubt=caller.on_in_doubt, limit=limit)
