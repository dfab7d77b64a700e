"""Runs a queue while this process has the right to: it alone sends, polls and saves, and keeps pace, caps and priorities.

The right is a lock beside the file that ends with its process. There is no lease: a blocked or stopped runner stays the
runner. A second lock lives until the last request of this runner's epoch has ended, so that the right can be given away at
the beginning of a stop, and the next runner sends while this one drains.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from videorouter.batch.saving import Saver
from videorouter.errors import JournalBusyError, JournalError
from videorouter.jobs.dispatch import LOOK, Dispatcher
from videorouter.jobs.queue import ORIGIN, PAUSED
from videorouter.jobs.run import JobRun
from videorouter.journal.queue import SAVES
from videorouter.journal.queue_running import RunnerJournal
from videorouter.journal.records import encode, to_item
from videorouter.locks import EpochLock, WriterLock
from videorouter.logs import report
from videorouter.loops import start_task
from videorouter.threads import run_in_thread

if TYPE_CHECKING:
    from videorouter.call.caller import Caller
    from videorouter.jobs.options import Save
    from videorouter.jobs.queue import QueueFile
    from videorouter.journal.queue_reading import EventRow
    from videorouter.models import BatchItem

PATIENCE = 0.5
"""Seconds before a process that has entered a queue may run it: a start that fails within them buys nothing."""
TRY_AGAIN = 0.1
"""Seconds between two tries to become the runner."""
_MOST_AT_ONCE = 1000


class Runner:
    """One process's candidacy for one queue, from its beginning to the end of its last request."""

    def __init__(self, caller: Caller, file: QueueFile, save: Save) -> None:
        self._caller = caller
        self._file = file
        self._save = save
        self._stopping = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None
        self._drains: set[asyncio.Task[None]] = set()
        self.reign: _Reign | None = None
        """The last time in which it ran the queue."""

    @property
    def stopping(self) -> bool:
        """Whether it sends nothing more."""
        return self._stopping.is_set()

    def start(self) -> None:
        """Stand for the right to run the queue."""
        self._task = start_task(self._stand())

    def stop(self) -> None:
        """Send nothing more, and give the right away at once; what is on the wire goes on. From any thread."""
        try:
            self._loop.call_soon_threadsafe(self._stopping.set)
        except RuntimeError:
            return  # the loop is gone

    async def aclose(self) -> None:
        """Stop, and wait for what is on the wire as long as the queue's ``drain`` allows."""
        self._stopping.set()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)
        await asyncio.gather(*self._drains, return_exceptions=True)

    async def _stand(self) -> None:
        """Try to become the runner, and again when the right was lost."""
        await self._rest(PATIENCE)
        while not self.stopping:
            try:
                await self._file.make()
                lock = await run_in_thread(lambda: WriterLock(self._file.journal.path))
            except JournalBusyError:
                await self._rest(TRY_AGAIN)
                continue
            except JournalError as error:
                report(logging.WARNING, "a queue cannot be run: %s", error)
                await self._rest(LOOK)
                continue
            self.reign = reign = _Reign(self._caller, self._file, self._save, lock)
            try:
                await reign.run(self._stopping)
            except Exception as error:  # noqa: BLE001  whatever ended it, this process stands again
                report(logging.WARNING, "a queue's runner stands again: %s", error, error=error)
                await self._rest(PATIENCE)
            finally:
                try:
                    await reign.give_away()
                except Exception as error:  # noqa: BLE001  as above
                    report(logging.WARNING, "a queue's runner could not end in order: %s", error, error=error)
                drain = start_task(reign.drain())
                self._drains.add(drain)
                drain.add_done_callback(self._drains.discard)

    async def _rest(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return


class _Reign:
    """The time in which this process runs a queue: one epoch."""

    def __init__(self, caller: Caller, file: QueueFile, save: Save, lock: WriterLock) -> None:
        options = file.options
        self._file = file
        self._lock = lock
        self._loop = asyncio.get_running_loop()
        self._session: EpochLock | None = None
        self._journal = RunnerJournal(file.journal.path, file.journal.writer, lock)
        limit = min(caller.limit.limit, options.concurrency or _MOST_AT_ONCE)
        self._run = JobRun(caller, options, self._journal, limit=limit)
        self._dispatcher = Dispatcher(self._run, file.builder, self._note_ended)
        self._saver = None if options.save_to is None else Saver(self._run, options.save_to, options.name, save)
        self._saving: dict[asyncio.Task[None], str] = {}
        self._came = asyncio.Event()
        self._told = ""
        self._elders_live = True

    async def run(self, stopping: asyncio.Event) -> None:
        """Take over, and go on until the process stops or the right is lost."""
        path, writer = self._journal.path, self._journal.writer
        writer.hold(self._lock)
        # Before the first look: what is put after that look is noticed.
        self._file.watcher.add(self._notice)
        epoch = await self._journal.read_epoch() + 1
        self._session = EpochLock(path, epoch)
        living = EpochLock.list_living(path, epoch)
        await self._journal.begin(epoch, living)
        await self._run.prices.take_up(self._journal)
        await self._run.take_up_money()
        await self._journal.note(ORIGIN, self._run.caller.settings.base_url)
        await self._journal.note(SAVES, "1" if self._saver is not None else "0")
        await self._take_up(living)
        stop = start_task(stopping.wait())
        beat = 0.0
        try:
            while not stop.done():
                came = start_task(self._came.wait())
                try:
                    await asyncio.wait({stop, came}, timeout=LOOK, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    came.cancel()
                if self._came.is_set():
                    self._came.clear()
                    await self._dispatcher.refresh()
                if self._loop.time() - beat >= LOOK:
                    beat = self._loop.time()
                    await self._beat(epoch)
                if self._dispatcher.trouble is not None:
                    raise self._dispatcher.trouble
        finally:
            stop.cancel()

    def _notice(self, events: list[EventRow]) -> None:
        """Something was put, or put back. In the watcher's thread."""
        if not events or any(event.state == "not_sent" for event in events):
            try:
                self._loop.call_soon_threadsafe(self._came.set)
            except RuntimeError:
                return  # the loop is gone

    async def _take_up(self, living: list[int]) -> None:
        """Take up what earlier runners have left."""
        self._dispatcher.elders.clear()
        if living:
            self._dispatcher.elders.update(await self._journal.count_elders())
        for row in await self._journal.adopt():
            self._dispatcher.follow(row)
        if self._saver is None:
            return
        last = ""
        while rows := await self._journal.list_unsaved(last):
            last = rows[-1].id
            for row in rows:
                if row.id not in self._saving.values():
                    item = await self._run.collect(self._journal, to_item(row))
                    self._begin_save(item)

    async def _beat(self, epoch: int) -> None:
        """Show that this process lives, and look after what earlier runners still do."""
        self._lock.check()
        self._lock.beat()
        try:
            if self._elders_live:
                living = EpochLock.list_living(self._journal.path, epoch)
                await self._journal.bury(living)
                self._elders_live = bool(living)
                await self._take_up(living)
            reasons = encode(self._run.pauses.reasons)
            if reasons != self._told:
                await self._journal.note(PAUSED, reasons)
                self._told = reasons
            await self._run.retry_unwritten()
        except JournalError as error:  # a full disk, say: what was learned is kept until there is room
            report(logging.WARNING, "a queue's file could not be written: %s", error)

    def _note_ended(self, item: BatchItem) -> None:
        if self._saver is not None and self._saver.wants(item):
            self._begin_save(item)

    def _begin_save(self, item: BatchItem) -> None:
        task = start_task(self._save_files(item))
        self._saving[task] = item.id
        task.add_done_callback(lambda ended: self._saving.pop(ended, None))

    async def _save_files(self, item: BatchItem) -> None:
        assert self._saver is not None  # noqa: S101  it was asked for
        saved = await self._saver.save(item, 0)
        if saved.failure is not None:
            await self._journal.tell(item.id, "unsaved", saved.failure.message)

    async def give_away(self) -> None:
        """Claim nothing more, leave accepted tasks and files to the next runner, and give the right to send away."""
        self._run.stopped = "this process ends"
        self._file.watcher.remove(self._notice)
        try:
            await self._dispatcher.stop()
            left = [task for task, record in self._dispatcher.jobs.items() if record.accepted]
            for task in (*left, *self._saving):
                task.cancel()
            await asyncio.gather(*left, *self._saving, return_exceptions=True)
        finally:
            self._journal.writer.hold(None)
            self._lock.release()

    async def drain(self) -> None:
        """Wait for what is on the wire; what is still there at the end is in doubt."""
        try:
            running = set(self._dispatcher.jobs)
            if running:
                await asyncio.wait(running, timeout=self._file.options.drain)
            for task in self._dispatcher.jobs:
                task.cancel()
            await asyncio.gather(*self._dispatcher.jobs, return_exceptions=True)
            await self._run.retry_unwritten()
        finally:
            if self._session is not None:
                self._session.release()
