"""``SyncJobs``: the verbs of a queue without ``await``. No logic lives here: what a verb does, the async one of its name does."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar

from videorouter.jobs.jobs import Jobs
from videorouter.jobs.models import Job, JobEvent, JobStats
from videorouter.jobs.queue import JobVerbs
from videorouter.models import VideoResult
from videorouter.portal import Closable, Portal
from videorouter.signatures import dress_without_await

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C", bound=Closable)


def _asks(
    verb: Callable[Concatenate[JobVerbs, P], Coroutine[Any, Any, R]],
) -> Callable[[Callable[[Any], R]], Callable[Concatenate[Any, P], R]]:
    """Make a stub call ``verb`` on the portal's loop, with its parameters."""

    def lend(stub: Callable[[Any], R]) -> Callable[Concatenate[Any, P], R]:
        def call(self: SyncJobVerbs[Any], /, *args: P.args, **kwargs: P.kwargs) -> R:
            return self._portal.call(lambda client: verb(self._find(client), *args, **kwargs))

        return dress_without_await(call, stub, verb)

    return lend


class SyncJobVerbs(Generic[C]):
    """The verbs of a queue, of all owners or of one, for code without ``await``."""

    def __init__(self, portal: Portal[C], make: Callable[[C], JobVerbs]) -> None:
        self._portal = portal
        self._make = make
        self._made: tuple[C, JobVerbs] | None = None

    def _find(self, client: C) -> JobVerbs:
        """The queue of this process: a forked child has a client of its own."""
        if self._made is None or self._made[0] is not client:
            self._made = (client, self._make(client))
        return self._made[1]

    @_asks(JobVerbs.put)
    def put(self) -> Job:
        """As ``Jobs.put``."""
        raise NotImplementedError

    @_asks(JobVerbs.put_many)
    def put_many(self) -> builtins.list[Job]:
        """As ``Jobs.put_many``."""
        raise NotImplementedError

    @_asks(JobVerbs.get)
    def get(self) -> Job | None:
        """As ``Jobs.get``."""
        raise NotImplementedError

    @_asks(JobVerbs.list)
    def list(self) -> builtins.list[Job]:
        """As ``Jobs.list``."""
        raise NotImplementedError

    @_asks(JobVerbs.result)
    def result(self) -> VideoResult:
        """As ``Jobs.result``."""
        raise NotImplementedError

    @_asks(JobVerbs.cancel)
    def cancel(self) -> Job:
        """As ``Jobs.cancel``."""
        raise NotImplementedError

    @_asks(JobVerbs.retry)
    def retry(self) -> Job:
        """As ``Jobs.retry``."""
        raise NotImplementedError

    @_asks(JobVerbs.settle)
    def settle(self) -> Job:
        """As ``Jobs.settle``."""
        raise NotImplementedError

    @_asks(JobVerbs.stats)
    def stats(self) -> JobStats:
        """As ``Jobs.stats``."""
        raise NotImplementedError

    @_asks(JobVerbs.prune)
    def prune(self) -> int:
        """As ``Jobs.prune``."""
        raise NotImplementedError

    def events(self, job: str | None = None, *, after: int = 0) -> Iterator[JobEvent]:
        """As ``Jobs.events``."""
        task = self._portal.open_task()
        events = self._find(self._portal.client).events(job, after=after)
        try:
            while True:
                try:
                    yield task.call(events.__anext__)
                except StopAsyncIteration:
                    return
        finally:
            task.close(events.aclose)


class SyncJobs(SyncJobVerbs[C]):
    """A durable queue of paid work, for code without ``await``: as ``Jobs``. Entered with ``with``, it may run the queue."""

    def of(self, owner: str) -> SyncJobVerbs[C]:
        """The same verbs for the jobs of one owner, who sees no others."""
        return SyncJobVerbs(self._portal, lambda client: self._find_jobs(client).of(owner))

    def _find_jobs(self, client: C) -> Jobs:
        jobs = self._find(client)
        assert isinstance(jobs, Jobs)  # noqa: S101  the client made it
        return jobs

    def close(self) -> None:
        """As ``Jobs.aclose``: what is on the wire is given the queue's ``drain``. Idempotent."""
        self._portal.clean_up(lambda client: self._find_jobs(client).aclose())

    def __enter__(self) -> Self:
        self._portal.call(lambda client: self._find_jobs(client).__aenter__())
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
