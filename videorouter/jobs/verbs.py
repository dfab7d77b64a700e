"""The verb of a client for queues, with the docs of its parameters; ``jobs.jobs`` does the work."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from videorouter.batch.verbs import BatchVerbs
from videorouter.signatures import LazyModule, runs

if TYPE_CHECKING:
    from videorouter.jobs import jobs as queues, options as settings
    from videorouter.journal import budget
else:  # only a queue needs a database
    queues = LazyModule("videorouter.jobs.jobs")
    settings = LazyModule("videorouter.jobs.options")
    budget = LazyModule("videorouter.journal.budget")


class QueueVerbs(BatchVerbs):
    """The verb that gives a queue."""

    def _jobs(self, /, path: str | os.PathLike[str], **options: Any) -> queues.Jobs:
        checked = settings.check_options(path, options)
        return queues.Jobs(self._caller, checked, builder=self._builder, save=self.save)

    @runs(_jobs)
    def jobs(
        self,
        /,
        path: str | os.PathLike[str],
        *,
        save_to: str | os.PathLike[str] | None = None,
        name: str | None = None,
        max_cost: float | None = None,
        max_cost_per_owner: float | None = None,
        period: settings.Period | None = None,
        price: budget.Price | None = None,
        max_queued: int = 100_000,
        per_owner: int | None = None,
        concurrency: int | None = None,
        stop_after: int = 20,
        drain: float = 60.0,
        notify: settings.Notify = None,
    ) -> queues.Jobs:
        """A durable queue of paid work in one file: any process may ask, and one of them pays.

        Args:
            path: The file, on a local disk. Every process of the host that names it asks the same queue.
            save_to: A folder where the runner saves each video as soon as it is done.
            name: A template of file names, as ``generate_many`` takes it; default: ``"{id}.mp4"``.
            max_cost: US dollars that are never exceeded within a ``period``. Needs a price.
            max_cost_per_owner: The same for each owner.
            period: ``"day"`` or ``"month"``, by UTC; left out, a cap is for all time.
            price: US dollars of one job, as ``generate_many`` takes it.
            max_queued: How many jobs may wait to be sent; more are refused with ``QueueFullError``.
            per_owner: Jobs of one owner that run at once.
            concurrency: Jobs that run at once; default and upper bound: the client's.
            stop_after: Equal refusals, or outcomes in doubt, in a row after which jobs of their owner and model pause.
            drain: Seconds for which requests on the wire may come to their end when the process stops.
            notify: Who is told of each job's end: a plain or coroutine function of the job and its event, or a URL.

        Returns:
            The queue. Its verbs ask; ``async with router.jobs(path) as jobs:`` may send as well.

        Raises:
            ConfigurationError: An option cannot be used.
        """
        raise NotImplementedError
