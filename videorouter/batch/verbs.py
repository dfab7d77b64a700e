"""The verbs of a client for batches, with the docs of their parameters; ``batch.batch`` does the work."""

from __future__ import annotations

import os
from collections.abc import AsyncIterable, Iterable
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from videorouter.call.prepare import RequestBuilder
from videorouter.call.requests import Verb
from videorouter.downloads.verbs import DownloadVerbs
from videorouter.plain import Number, Whole
from videorouter.record import AS_IS
from videorouter.signatures import LazyModule, runs

if TYPE_CHECKING:
    from videorouter.batch import batch, run
    from videorouter.journal import budget
else:  # only a batch needs a database
    batch = LazyModule("videorouter.batch.batch")
    run = LazyModule("videorouter.batch.run")
    budget = LazyModule("videorouter.journal.budget")

Entries: TypeAlias = Annotated[Iterable[Any] | AsyncIterable[Any], AS_IS]
"""A stream that is read no faster than it is sent: nobody may read ahead of it, or make it another object."""


class BatchVerbs(DownloadVerbs):
    """The verbs that take a stream of entries and give a stream of items."""

    _builder: RequestBuilder

    def _generate_many(self, /, prompts: Entries, **options: Any) -> batch.Batch:
        return self._batch("generate", prompts, options)

    @runs(_generate_many)
    def generate_many(
        self,
        /,
        prompts: Entries,
        *,
        model: str | None = None,
        concurrency: Whole | None = None,
        journal: str | os.PathLike[str] | None = None,
        save_to: str | os.PathLike[str] | None = None,
        name: str | None = None,
        ordered: bool = False,
        max_cost: Number | None = None,
        price: budget.Price | None = None,
        on_outcome_unknown: run.DoubtPolicy = "report",
        deduplicate: bool = False,
        new: bool = False,
        stop_after: Whole = 20,
        retry: Annotated[Iterable[str] | bool, AS_IS] = (),
        **fields: Any,
    ) -> batch.Batch:
        """Make many videos: a stream of prompts in, a stream of finished items out.

        Args:
            prompts: Any iterable or async iterable of prompts or dicts, or a table (pandas, Polars, Arrow, NumPy), whose
                rows are dicts and whose own columns become ``meta``. A dict takes ``prompt``, any field of
                ``generate``, an ``id``, ``edit_of`` (the id of an earlier entry, whose video it edits) and ``then``
                (edits of its own video). It is read as its entries are sent; what may block, such as a generator, in a
                thread of its own.
            model: The model of entries that name none; default: the client's.
            concurrency: Jobs at once; default and upper bound: the client's.
            journal: A file that remembers everything on disk, so that the same call again resumes after a crash.
            save_to: A folder, or a URL of an object store (``s3://bucket/clips``, ``gs://``, ``az://``, ``memory://``, with the
                extra ``data``), to save each video in as soon as it is done.
            name: A template of file names; default: ``"{index:06d}-{slug}.mp4"``. Knows ``index``, ``id``, ``slug``,
                ``model``, ``step``, ``video_id``, ``task_id``.
            ordered: Whether items come out in the order of their entries, and not as they are done.
            max_cost: US dollars that are never exceeded, earlier runs of the journal included. Needs a price.
            price: US dollars of one entry: a number, a table by model, or a function of the request's fields.
                0 is a price only in a table, under the model's own name.
            on_outcome_unknown: What to do about an entry that may have been billed: ``"report"`` it, ``"resend"`` it
                once (a second charge is accepted), ``"replay"`` its key (on a gateway that honours keys), or a
                function of the item that gives one of these.
            deduplicate: Whether equal entries without an id are sent once.
            new: Whether to buy what the journal lacks, though it has paid for the same prompts with other options, models
                or ids. Without it a batch that would buy a tenth of its journal again is refused.
            stop_after: Identical 400, 404 or 422 answers in a row after which nothing more is sent. After as many outcomes
                in doubt in a row (those of one second count once) it pauses, and stops when four probes, after 1, 2, 5
                and 10 minutes, end so, too.
            retry: States of the journal to send again: ``"refused"``, ``"failed"``.
            **fields: Fields and options of all entries, as ``generate`` takes them.

        Returns:
            The batch: iterate it with ``async for``; ``summary`` says how it stands.

        Raises:
            ConfigurationError: An option cannot be used; nothing was sent.
            JournalError: From the loop, before anything is sent: the journal cannot be used.
            JournalMismatchError: From the loop, before anything is sent: see ``new``.
        """
        raise NotImplementedError

    def edit_many(self, /, edits: Entries, *, model: str | None = None, **options: Any) -> batch.Batch:
        """Edit many videos: a stream of edits in, a stream of finished items out.

        Args:
            edits: Pairs of a video (a result, a video or a ``video_id``) and a prompt, or dicts with ``prompt`` and
                ``video`` or ``edit_of``.
            model: The model of entries that name none; default: the client's.
            **options: Options and fields as ``generate_many`` takes them.

        Returns:
            The batch.

        Raises:
            ConfigurationError: An option cannot be used; nothing was sent.
        """
        return self._batch("edit", edits, {"model": model, **options})

    def _batch(self, verb: Verb, source: Any, given: dict[str, Any]) -> batch.Batch:
        options = run.check_options(self._caller.settings, verb, given)
        return batch.Batch(self._caller, source, options, builder=self._builder, save=self.save)
