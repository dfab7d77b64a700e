"""Turns a stream of entries into a stream of items: a fixed number of workers over one iterator, no task per prompt.

Memory is bounded by the number of workers, whatever the length of the input. Stopping lets running requests finish;
closing cancels them, and records unknown outcomes as in doubt. One item's failure never loses the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Self
from weakref import WeakValueDictionary

from videorouter.batch.consent import StreamGuard
from videorouter.batch.entries import Entry, find_id, read_entry
from videorouter.batch.item import BatchAbortedError, Item
from videorouter.batch.output import ItemQueue
from videorouter.batch.plan import BatchPlan, make_plan, refuse_plan
from videorouter.batch.run import BatchRun
from videorouter.batch.saving import Saver
from videorouter.batch.source import END, WAIT, EntrySource
from videorouter.batch.unmet import list_unmet, take_up
from videorouter.downloads.store import check_store
from videorouter.errors import ConfigurationError, InvalidRequestError
from videorouter.events import BatchProgressed, ItemFinished
from videorouter.journal.budget import to_dollars
from videorouter.journal.journal import Journal
from videorouter.loops import UncancellableTask, outlast, running_loop, start_task
from videorouter.places import ObjectURL
from videorouter.threads import run_in_thread

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Mapping
    from pathlib import Path

    from videorouter.batch.run import BatchOptions
    from videorouter.batch.saving import Save
    from videorouter.call.caller import Caller
    from videorouter.call.prepare import RequestBuilder
    from videorouter.errors import JournalError, VideoRouterError
    from videorouter.models import BatchItem, BatchSummary

_CANCELLED = (
    "The batch ended early: its input, or a function that it was given, raised CancelledError, for example from a cancelled "
    "task that it awaited. Nothing more was sent. Fix it and run the same batch with its journal again."
)


_TURNS = 10
"""Turns of the event loop in which a caller that has waited with a time-out comes back, before the batch counts as left."""


class Batch:
    """A batch that runs while it is iterated: ``async for item in batch``.

    Leaving the loop early closes it. Inside ``async with batch`` it lives until the block's end, and a loop may be left
    and entered again.
    """

    def __init__(
        self,
        caller: Caller,
        source: Iterable[Any] | AsyncIterable[Any],
        options: BatchOptions,
        *,
        builder: RequestBuilder,
        save: Save,
    ) -> None:
        self._caller = caller
        self._options = options
        self._limit = min(options.limit, caller.limit.limit)
        self._source = EntrySource(source, self._fail, limit=self._limit)
        self._unmet: EntrySource | None = None
        """Rows of the journal that the input does not have: what is taken after the last of its entries is at its end."""
        self._items = ItemQueue()
        self._hand_out = self._items.put_in_order if options.ordered else self._items.put
        self._builder = builder
        self._run = BatchRun(caller, options, self.stop)
        self._saver = None if options.save_to is None else Saver(self._run, options.save_to, options.name, save)
        self._workers: set[asyncio.Task[None]] = set()
        self._savers: set[asyncio.Task[None]] = set()
        self.caught_up: int = 0
        """Items of earlier runs whose missing files this run has fetched."""
        self._stopped: str | None = None
        self._error: BaseException | None = None
        self._notes: dict[str, str] = {}
        self.plan: BatchPlan | None = None
        """What it will do, known before anything is sent: inside ``async with batch``; ``None`` without a journal."""
        self.rereadable: bool = self._source.known is not None
        """Whether iterating over the input again gives the same entries, as it does for a list."""
        self._state = "new"
        self._opening: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._finishing: asyncio.Task[None] | None = None
        self._anchor: AsyncGenerator[None, None] | None = None
        self._loops = 0
        self._left: object | None = None
        """A mark of the last loop that was left, until another begins."""
        """Whether the last loop over it was left, and no other one has begun since."""
        self.kept_open: bool = False
        """Whether it lives on after a loop over it was left: inside ``async with``."""
        self._began = 0.0
        self._elapsed = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def summary(self) -> BatchSummary:
        """The counts of what this run has met, one per state, and what that cost."""
        counts = self._run.counts
        known, taken = self._source.known, self._source.taken
        unmet = max(0, known - taken) if self._state == "closed" and known is not None else 0
        elapsed = self._elapsed if self._state == "closed" else time.monotonic() - self._began if self._began else 0.0
        return counts.summarise(
            cost=None if counts.unpriced and not counts.cost else to_dollars(counts.cost),
            cost_in_doubt=None if counts.unpriced_doubts and not counts.unknown else to_dollars(counts.unknown),
            unmet=unmet,
            stopped=self._stopped,
            elapsed=elapsed,
        )

    @property
    def in_flight(self) -> int:
        """Requests that run now."""
        return self._run.in_flight

    @property
    def saving(self) -> int:
        """Items whose videos are being saved, or wait for it."""
        return len(self._savers)

    @property
    def paused(self) -> str:
        """Why the batch waits, in words: many outcomes in doubt in a row, or no gateway. Empty while it goes on."""
        return self._run.breaker.notice or self._caller.shared.outage

    @property
    def cause(self) -> VideoRouterError | None:
        """The error that stopped dispatch early; ``None`` when it went on to its end, or was stopped by its caller."""
        return self._run.cause

    @property
    def displaced(self) -> JournalError | None:
        """Why the next run would not find the journal, and would pay again: it was moved, replaced, emptied or deleted."""
        journal = self._run.journal
        return None if journal is None else journal.writer.find_displacement()

    @property
    def unwritten(self) -> int:
        """Outcomes that were returned but could not be written into the journal, after a last try at the close."""
        return self._run.unwritten

    def stop(self, reason: str = "stopped by the caller") -> None:
        """Send nothing more; running requests finish, and the loop ends after the last of them. From any thread."""
        if self._loop is not None and self._loop.is_running() and running_loop() is not self._loop:
            self._loop.call_soon_threadsafe(self.stop, reason)
        elif self._stopped is None:
            self._stopped = self._run.stopped = reason
            self._items.make_room()
            self._run.wake()
            self._source.stop()
            if self._unmet is not None:
                self._unmet.stop()

    async def __aenter__(self) -> Self:
        self.kept_open = True
        await self._start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    def __aiter__(self) -> AsyncIterator[BatchItem]:
        return BatchLoop(self)

    async def __anext__(self) -> BatchItem:
        """Return the next item; an error that ended the batch early is raised after the last of them.

        A wait that is cancelled, by a time-out for example, loses nothing: the next one goes on.
        """
        if self._items.ready or await self._wait_for_item():
            return self._items.take()
        raise StopAsyncIteration

    async def _wait_for_item(self) -> bool:
        """Wait until an item is ready; ``False`` when none will be any more."""
        if self._opening is None or not self._opening.done() or not self._workers:
            await self._start()
        if self._items.has_reader:
            raise InvalidRequestError("This batch is already being iterated elsewhere: one loop at a time.")
        while not self._items.ready:
            if not self._workers and not self._savers:
                await self._finish()
                if self._error is not None:
                    error, self._error = self._error, None
                    raise error
                return False
            await self._items.wait()
        return True

    def note(self, words: Mapping[str, str]) -> None:
        """Add a note about the batch itself, such as the command that resumes it, to its journal before it starts."""
        self._notes.update(words)

    async def aclose(self) -> None:
        """Stop at once: cancel running requests, record what is known of them, close the journal. Idempotent.

        Whoever waits for it waits to its end, also when cancelled.
        """
        if self._state == "closed":
            return
        if self._closing is None:
            self.stop("closed before its end")
            self._closing = UncancellableTask(self._close(), loop=asyncio.get_running_loop())
        if asyncio.current_task() not in self._workers | self._savers:  # which would wait for itself
            await outlast(self._closing)

    async def _close(self) -> None:
        running = [*self._workers, *self._savers]
        if self._opening is not None:
            running.append(self._opening)
        for task in running:
            if not task.cancelling():
                task.cancel()
        await outlast(*running)
        await self._finish()
        self._items.wake()

    async def _start(self) -> None:
        """Open it, or wait until it is open. A waiter that is cancelled leaves the opening to the next one."""
        if self._opening is None:
            if self._state != "new":
                return
            self._caller.check_open()
            self._state = "running"
            self._loop = running_loop()
            self._began = time.monotonic()
            self._opening = start_task(self._open())
        if not self._opening.done():
            await asyncio.wait([self._opening])
        if not self._opening.cancelled():
            self._opening.result()
        elif self._stopped is None:
            self._fail(InvalidRequestError(_CANCELLED))

    async def _open(self) -> None:
        """Make the folder, open the journal, open the input."""
        try:
            self._anchor = _end_with_loop(self)
            await anext(self._anchor)
            if self._options.save_to is not None:
                await run_in_thread(partial(_open_folder, self._options.save_to))
            if self._options.journal is not None:
                await _follow_one_that_was_left(self, self._options.journal)
                journal = await Journal.open(self._options.journal)
                self._run.journal = journal
                await journal.drop_unreadable()
                await self._run.open(journal)
                entries = self._source.read_ahead() if self.rereadable else None
                self.plan = plan = await make_plan(self._run, journal, self._builder, entries)
                if plan.needs_consent and not self._options.new:
                    raise refuse_plan(plan, journal)  # noqa: TRY301  what was opened is closed below
                if plan.held and plan.met is None and not self._options.new:
                    self._run.guard = StreamGuard(journal)
                self._run.counts.not_in_input = plan.unmet or 0
                notes = {**self._notes, "not_in_input": str(plan.unmet or 0)} if plan.held else self._notes
                for key, value in notes.items():
                    await journal.note(key, value)
            self._source.open()
        except BaseException:
            await self._finish()
            raise
        self._add_worker()

    async def _finish(self) -> None:
        """Close the run, once."""

        async def close() -> None:
            self._elapsed = time.monotonic() - self._began if self._began else 0.0
            try:
                await self._run.close()
            finally:
                self._state = "closed"
                if self._anchor is not None:
                    with contextlib.suppress(RuntimeError):  # it runs: the loop ends, and this with it
                        await self._anchor.aclose()

        if self._finishing is None:
            self._finishing = UncancellableTask(close(), loop=asyncio.get_running_loop())
        await outlast(self._finishing)
        self._finishing.result()

    def _add_worker(self) -> None:
        """Start one more worker, unless there are enough or the input has ended."""
        if len(self._workers) < self._limit and not (self._unmet or self._source).ended:
            worker = start_task(self._work())
            self._workers.add(worker)
            worker.add_done_callback(self._end_worker)

    def _end_worker(self, worker: asyncio.Task[None]) -> None:
        self._workers.discard(worker)
        if worker.cancelled():
            if self._stopped is None:
                self._fail(InvalidRequestError(_CANCELLED))
        elif (error := worker.exception()) is not None:
            self._fail(error.error if isinstance(error, BatchAbortedError) else error)
        if (
            not self._workers
            and self._stopped is None
            and self._unmet is None
            and self.plan is not None
            and self.plan.held
        ):
            self._unmet = EntrySource(list_unmet(self._run, self.plan), self._fail)
            self._unmet.open()
            self._add_worker()
        self._items.wake()

    def _fail(self, error: BaseException) -> None:
        """Stop, and raise this error to the batch's reader, unless an earlier one is."""
        if self._error is None:
            self._error = error
        self.stop(str(error))

    async def _work(self) -> None:
        """Process entries one after the other."""
        source, first = self._source, 0
        if self._unmet is not None:
            source, first = self._unmet, source.taken
        while True:
            while self._is_full() and not source.ended:
                await self._items.wait_for_room()
            raw = source.take_ready()
            if raw is WAIT:
                raw = await source.take()
            if raw is END:
                return
            index = first + source.taken - 1
            if len(self._workers) < self._limit:
                self._add_worker()
            await self._process(index, raw)

    def _is_full(self) -> bool:
        """Whether the input must wait: for a slow reader, a slow disk or, in order, one slow item."""
        limit = self._limit
        return (
            len(self._items.ready) >= limit
            or len(self._savers) >= 2 * limit
            or (self._options.ordered and self._items.lag >= 4 * limit)
        )

    async def _process(self, index: int, raw: Any) -> None:
        """Process one entry, and the edits that follow from it."""
        if self._options.ordered:
            self._items.begin(index)
        try:
            if self._unmet is not None:
                await self._deliver(await take_up(self._run, raw, index), 0)
                return
            try:
                entry = read_entry(raw, self._options.verb)
            except Exception as error:  # noqa: BLE001  an entry of any kind must not lose the others
                entry = Entry(prompt=None, id=find_id(raw), broken=_name_broken(error))
            item = await Item(self._run, self._builder, index, entry, given=entry.id).process()
            if self._saver is None and self._caller.on_event is None:
                if item.mismatches:
                    self._run.count_mismatches(item)
                self._hand_out(item)
            else:
                await self._deliver(item, 0)
            root = item.id
            for step, following in enumerate(entry.then, 1):
                given = following.id or f"{root}/{step}"
                edit = Item(self._run, self._builder, index, following, given=given, before=item, step=step)
                item = await edit.process()
                await self._deliver(item, step)
        finally:
            if self._options.ordered:
                self._items.end(index)

    async def _deliver(self, item: BatchItem, step: int) -> None:
        if self._saver is not None and self._saver.wants(item):
            if self._options.ordered:
                self._items.expect(item.index)
            task = start_task(self._save(self._saver, item, step))
            self._savers.add(task)
            task.add_done_callback(self._end_saver)
            return
        self._run.count_mismatches(item)
        if self._caller.on_event is not None:
            await self._tell(item)
        self._hand_out(item)

    async def _save(self, saver: Saver, item: BatchItem, step: int) -> None:
        try:
            saved = (await saver.save(item, step)).with_extras(fetched_=True)
            self.caught_up += saved.resumed
            self._run.count_mismatches(saved)
            if self._caller.on_event is not None:
                await self._tell(saved)
            self._hand_out(saved)
        finally:
            if self._options.ordered:
                self._items.end(item.index)

    def _end_saver(self, task: asyncio.Task[None]) -> None:
        self._savers.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)
        self._items.make_room()
        self._items.wake()

    async def _tell(self, item: BatchItem) -> None:
        await self._caller.emit(ItemFinished(call_id=item.id, item=item))
        await self._caller.emit(BatchProgressed(call_id="batch", summary=self.summary, in_flight=self._run.in_flight))


class BatchLoop:
    """One loop over a batch. It is left when it is forgotten: by ``break``, by an error, by the end of the task that ran it."""

    __slots__ = ("_batch",)

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        batch._loops += 1
        batch._left = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> BatchItem:
        """As ``Batch``'s own."""
        try:
            return await self._batch.__anext__()
        finally:
            del self  # the traceback of a cancelled wait must not keep it

    async def aclose(self) -> None:
        """Close the batch, unless it is kept open."""
        if not self._batch.kept_open:
            await self._batch.aclose()

    def __del__(self) -> None:
        _leave(self._batch)


# What follows belongs to the batch, and not to what its users call.
# ruff: noqa: SLF001


def _leave(batch: Batch) -> None:
    """End one loop over a batch: after the last one it closes, unless it is kept open."""
    batch._loops -= 1
    loop = batch._loop
    if batch._loops or batch.kept_open or batch._state != "running" or loop is None or loop.is_closed():
        return
    batch._left = mark = object()
    if running_loop() is loop:
        UncancellableTask(_close_if_left(batch, mark), loop=loop)
    else:  # garbage is collected in any thread
        loop.call_soon_threadsafe(lambda: UncancellableTask(_close_if_left(batch, mark), loop=loop))


async def _close_if_left(batch: Batch, mark: object) -> None:
    """Close a batch that nothing has looped over since it was left; one that was left once more has its own turns."""
    for _ in range(_TURNS):
        await asyncio.sleep(0)
    if batch._left is mark:
        await batch.aclose()


async def _end_with_loop(batch: Batch) -> AsyncGenerator[None, None]:
    """What the event loop closes at its own end, and with it a batch that was left open."""
    try:
        yield
    finally:
        await batch.aclose()


_by_journal: WeakValueDictionary[str, Batch] = WeakValueDictionary()
"""The batch that was the last to use each journal."""


async def _follow_one_that_was_left(batch: Batch, journal: Path) -> None:
    """Wait until the last batch of this event loop that used a journal has closed it, if its own loop was left."""
    place = os.path.realpath(journal)  # noqa: ASYNC240  as Journal.open does
    other = _by_journal.get(place)
    if other is not None and other._loop is batch._loop and (other._left or other._closing is not None):
        await other.aclose()
    _by_journal[place] = batch


def _name_broken(error: Exception) -> InvalidRequestError:
    if isinstance(error, InvalidRequestError):
        return error
    named = InvalidRequestError(f"This entry could not be read: {type(error).__name__}: {error}")
    named.__cause__ = error
    return named


def _open_folder(folder: Path | ObjectURL) -> None:
    """Make the folder that videos are saved in, or find its store: what cannot be saved is not bought."""
    if isinstance(folder, ObjectURL):
        try:
            check_store(folder)
        except ConfigurationError as error:
            raise ConfigurationError(f"save_to: {error} Nothing was sent.") from error
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"save_to={str(folder)!r} cannot be made: {error}. Nothing was sent.") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigurationError(f"save_to={str(folder)!r} cannot be written. Nothing was sent.")
