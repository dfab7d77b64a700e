"""A stream of jobs in, a stream of items out: a fixed number of lanes over one iterator, never a task per prompt.

What waits is bounded by the number of lanes, whatever the length of the input. Stopping lets what runs come to its end;
closing cancels it, and what is then unknown is written down as in doubt. One item's failure never loses the others.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping, Sized
from typing import TYPE_CHECKING, Any, Self

from videorouter.batch.entries import Entry, find_id, read_entry
from videorouter.batch.item import BatchAbortedError, Item
from videorouter.batch.run import BatchRun
from videorouter.batch.saving import Saver
from videorouter.errors import ConfigurationError, InvalidRequestError
from videorouter.events import BatchProgressed, ItemFinished
from videorouter.journal.budget import to_dollars
from videorouter.journal.journal import Journal
from videorouter.loops import finish

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from videorouter.batch.run import BatchOptions
    from videorouter.batch.saving import Save
    from videorouter.call.caller import Caller
    from videorouter.call.prepare import RequestBuilder
    from videorouter.errors import VideoRouterError
    from videorouter.models import BatchItem, BatchSummary

_END = object()
_CANCELLED = (
    "The batch ended early: its input, or a function that it was given, let a CancelledError out, such as that of a task "
    "that it waits for. Nothing more was sent. Mend it and run the same batch with its journal again."
)


class Batch:
    """A batch that runs while it is iterated: ``async for item in batch``.

    Leaving the loop early closes it. Inside ``async with batch`` it lives until the block's end, and a loop may be left
    and entered again.

    Args:
        caller: The client's way to the wire.
        source: Prompts, dicts, pairs; any iterable or async iterable.
        options: Checked options.
        builder: Makes the requests.
        save: Saves one video.
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
        if isinstance(source, str | bytes) or not isinstance(source, Iterable | AsyncIterable):
            raise ConfigurationError(
                f"A batch takes an iterable or async iterable of entries, not {type(source).__name__}. For one prompt "
                "pass [prompt], or call generate()."
            )
        self._caller = caller
        self._options = options
        self._limit = min(options.limit, caller.limit.limit)
        self._source = source
        self._known = len(source) if isinstance(source, Sized) else None
        self._builder = builder
        self._run = BatchRun(caller, options, self._halt)
        self._saver = None if options.save_to is None else Saver(self._run, options.save_to, options.name, save)
        self._blocking: Iterator[Any] | None = None
        self._awaiting: AsyncIterator[Any] | None = None
        self._pull_lock = asyncio.Lock()
        self._puller: asyncio.Task[None] | None = None
        self._lanes: set[asyncio.Task[None]] = set()
        self._savers: set[asyncio.Task[None]] = set()
        self._caught_up = 0
        self._pulled = 0
        self._ready: deque[BatchItem] = deque()
        self._ordered: dict[int, list[BatchItem]] = {}
        self._open: dict[int, int] = {}
        self._next = 0
        self._consumer: asyncio.Future[None] | None = None
        self._room: asyncio.Event | None = None
        self._stopped: str | None = None
        self._exhausted = False
        self._error: BaseException | None = None
        self._notes: dict[str, str] = {}
        self._state = "new"
        self._opening = asyncio.Lock()
        self._closing = asyncio.Lock()
        self._kept_open = False
        self._began = 0.0
        self._elapsed = 0.0

    @property
    def summary(self) -> BatchSummary:
        """How the batch stands: one count per state of what this run has met, and what that cost."""
        counts = self._run.counts
        unmet = max(0, self._known - self._pulled) if self._state == "closed" and self._known is not None else 0
        elapsed = self._elapsed if self._state == "closed" else time.monotonic() - self._began if self._began else 0.0
        return counts.summarise(
            cost=to_dollars(counts.cost),
            cost_in_doubt=to_dollars(counts.unknown),
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
    def caught_up(self) -> int:
        """Items of earlier runs whose missing files this run has fetched."""
        return self._caught_up

    @property
    def cause(self) -> VideoRouterError | None:
        """The error that stopped dispatch early; ``None`` when it went on to its end, or was stopped by its caller."""
        return self._run.cause

    @property
    def unwritten(self) -> int:
        """Outcomes that were handed out and could not be written into the journal, after a last try at the close."""
        return self._run.unwritten

    def stop(self, reason: str = "stopped by the caller") -> None:
        """Send nothing more; what runs comes to its end, and the loop ends after the last of it."""
        self._halt(reason)

    def _halt(self, reason: str) -> None:
        if self._stopped is None:
            self._stopped = self._run.stopped = reason
            self._make_room()
            self._run.wake()
            if self._puller is not None:
                self._puller.cancel()

    async def __aenter__(self) -> Self:
        self._kept_open = True
        await self._start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    def __aiter__(self) -> AsyncIterator[BatchItem]:
        return self._iterate()

    async def _iterate(self) -> AsyncGenerator[BatchItem, None]:
        ready = self._ready
        try:
            while ready or await self._wait_for_item():
                yield self._take_ready()
        finally:
            if not self._kept_open:
                await self.aclose()

    async def __anext__(self) -> BatchItem:
        """The next item.

        Raises:
            StopAsyncIteration: There is none any more.
            JournalError: The journal cannot be used; nothing was sent.
            JournalMismatchError: The journal has an entry of the same id with another request.
        """
        if self._ready or await self._wait_for_item():
            return self._take_ready()
        raise StopAsyncIteration

    async def _wait_for_item(self) -> bool:
        """Until an item is ready; ``False`` when none will be any more."""
        await self._start()
        if self._consumer is not None:
            raise InvalidRequestError("This batch is already being iterated elsewhere: one loop at a time.")
        while not self._ready:
            if not self._lanes and not self._savers:
                await self._finish()
                if self._error is not None:
                    error, self._error = self._error, None
                    raise error
                return False
            self._consumer = asyncio.get_running_loop().create_future()
            try:
                await self._consumer
            finally:
                self._consumer = None
        return True

    def _take_ready(self) -> BatchItem:
        item = self._ready.popleft()
        if self._room is not None:
            self._make_room()
        return item

    def note(self, words: Mapping[str, str]) -> None:
        """Have words about the batch itself, such as the command that resumes it, in its journal before it starts."""
        self._notes.update(words)

    async def aclose(self) -> None:
        """Stop at once: cancel what runs, write down what is known of it, close the journal. Idempotent."""
        if self._state == "closed":
            return
        self._halt("closed before its end")
        async with self._opening:
            pass  # what is being opened must be open before it can be closed
        running = [*self._lanes, *self._savers]
        for task in running:
            task.cancel()
        if running:
            await asyncio.gather(*running, return_exceptions=True)
        await self._finish()
        self._wake()

    async def _start(self) -> None:
        if self._state != "new":
            return
        self._caller.check_open()
        self._state = "running"
        self._began = time.monotonic()
        async with self._opening:
            try:
                await self._open_up()
            except BaseException:
                await self._finish()
                raise
        self._grow()

    async def _open_up(self) -> None:
        """Make the folder, open the journal, take up the input."""
        if self._options.save_to is not None:
            _make_folder(self._options.save_to)
        if self._options.journal is not None:
            journal = await Journal.open(self._options.journal)
            self._run.journal = journal
            await journal.drop_unreadable()
            await self._run.open(journal)
            for key, value in self._notes.items():
                await journal.note(key, value)
        if isinstance(self._source, AsyncIterable):
            self._awaiting = self._source.__aiter__()
        else:
            self._blocking = iter(self._source)

    async def _finish(self) -> None:
        """Close the books; whoever comes second waits until that is done."""
        async with self._closing:
            if self._state == "closed":
                return
            self._elapsed = time.monotonic() - self._began if self._began else 0.0
            await self._run.close()
            self._state = "closed"

    def _grow(self) -> None:
        """Start one more lane, unless there are enough or nothing is left to do."""
        if len(self._lanes) < self._limit and self._stopped is None and not self._exhausted:
            lane = asyncio.ensure_future(self._run_lane())
            self._lanes.add(lane)
            lane.add_done_callback(self._end_lane)

    def _end_lane(self, lane: asyncio.Task[None]) -> None:
        self._lanes.discard(lane)
        if lane.cancelled():
            if self._stopped is None:
                self._break_off(InvalidRequestError(_CANCELLED))
        elif (error := lane.exception()) is not None:
            self._break_off(error.error if isinstance(error, BatchAbortedError) else error)
        self._wake()

    def _break_off(self, error: BaseException) -> None:
        if self._error is None:
            self._error = error
        self._halt(str(error))

    async def _run_lane(self) -> None:
        """Take entries to their ends, one after the other."""
        while self._stopped is None:
            if self._is_full():
                await self._wait_for_room()
            raw = await self._pull() if self._blocking is None else self._pull_at_once(self._blocking)
            if raw is _END:
                return
            index = self._pulled
            self._pulled += 1
            if len(self._lanes) < self._limit:
                self._grow()
            await self._walk(index, raw)

    async def _wait_for_room(self) -> None:
        """Back-pressure: a slow reader, a slow disk or, in order, one slow item holds up the input."""
        while self._stopped is None and self._is_full():
            if self._room is None:
                self._room = asyncio.Event()
            await self._room.wait()

    def _is_full(self) -> bool:
        limit = self._limit
        return (
            len(self._ready) >= limit
            or len(self._savers) >= 2 * limit
            or (self._options.ordered and self._pulled - self._next >= 4 * limit)
        )

    def _make_room(self) -> None:
        room, self._room = self._room, None
        if room is not None:
            room.set()

    def _pull_at_once(self, source: Iterator[Any]) -> Any:
        """The next entry of an input that needs no waiting, or the end."""
        if self._stopped is not None or self._exhausted:
            return _END
        try:
            raw = next(source, _END)
        except Exception as error:  # noqa: BLE001  the caller's own iterator: its error ends the batch, not what runs
            self._break_off(error)
            return _END
        if raw is _END:
            self._exhausted = True
        return raw

    async def _pull(self) -> Any:
        """The next entry of an input that is awaited, or the end."""
        async with self._pull_lock:
            return await self._pull_next()

    async def _pull_next(self) -> Any:
        if self._awaiting is None or self._stopped is not None or self._exhausted:
            return _END
        self._puller = task = asyncio.current_task()
        failure: Exception | None = None
        try:
            return await anext(self._awaiting)
        except StopAsyncIteration:
            self._exhausted = True
        except asyncio.CancelledError:
            # Stopping wakes a lane that waits for input that may never come; closing cancels for good.
            if not self._is_stopping() or task is None or task.uncancel() > 0:
                raise
        except Exception as error:  # noqa: BLE001  as above
            failure = error
        finally:
            self._puller = None
        if failure is not None:
            self._break_off(failure)
        return _END

    def _is_stopping(self) -> bool:
        return self._state == "running" and self._stopped is not None

    async def _walk(self, index: int, raw: Any) -> None:
        """Take one entry, and the edits that follow from it, to their ends."""
        if self._options.ordered:
            self._open[index] = 1
        try:
            try:
                entry = read_entry(raw, self._options.verb)
            except Exception as error:  # noqa: BLE001  an entry of any kind must not lose the others
                entry = Entry(prompt=None, id=find_id(raw), broken=_name_broken(error))
            item = await Item(self._run, self._builder, index, entry, given=entry.id).process()
            if self._saver is None and self._caller.on_event is None:
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
                self._close_index(index)

    async def _deliver(self, item: BatchItem, step: int) -> None:
        if self._saver is not None and self._saver.wants(item):
            if self._options.ordered:
                self._open[item.index] += 1
            task = asyncio.ensure_future(self._save(self._saver, item, step))
            self._savers.add(task)
            task.add_done_callback(self._end_saver)
            return
        if self._caller.on_event is not None:
            await self._tell(item)
        self._hand_out(item)

    async def _save(self, saver: Saver, item: BatchItem, step: int) -> None:
        try:
            saved = (await saver.save(item, step)).with_extras(fetched_=True)
            self._caught_up += saved.resumed
            if self._caller.on_event is not None:
                await self._tell(saved)
            self._hand_out(saved)
        finally:
            if self._options.ordered:
                self._close_index(item.index)

    def _end_saver(self, task: asyncio.Task[None]) -> None:
        self._savers.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._break_off(error)
        if self._room is not None:
            self._make_room()
        self._wake()

    async def _tell(self, item: BatchItem) -> None:
        await self._caller.emit(ItemFinished(call_id=item.id, item=item))
        await self._caller.emit(BatchProgressed(call_id="batch", summary=self.summary, in_flight=self._run.in_flight))

    def _hand_out(self, item: BatchItem) -> None:
        if self._options.ordered:
            self._ordered.setdefault(item.index, []).append(item)
        else:
            self._ready.append(item)
            self._wake()

    def _close_index(self, index: int) -> None:
        left = self._open[index] - 1
        if left:
            self._open[index] = left
            return
        del self._open[index]
        while self._next < self._pulled and self._next not in self._open:
            self._ready.extend(self._ordered.pop(self._next, ()))
            self._next += 1
        if self._room is not None:
            self._make_room()
        self._wake()

    def _wake(self) -> None:
        if self._consumer is not None:
            finish(self._consumer)


def _name_broken(error: Exception) -> InvalidRequestError:
    if isinstance(error, InvalidRequestError):
        return error
    named = InvalidRequestError(f"This entry could not be read: {type(error).__name__}: {error}")
    named.__cause__ = error
    return named


def _make_folder(folder: Any) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"save_to={str(folder)!r} cannot be made: {error}. Nothing was sent.") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigurationError(f"save_to={str(folder)!r} cannot be written. Nothing was sent.")
