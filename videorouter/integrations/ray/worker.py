"""A worker: one client, one event loop of its own, and the walk of a batch item for every row that Ray hands it.

Ray Data calls it with whole blocks, several at once. Rows wait here until the lanes let them go, so that their deadline
starts when they do. A block is answered when its last row is done, in the order of its rows: Ray needs that to replace
one run of a block by another. The loop is not Ray's: Ray's may be held up by back-pressure, and a paid call must not.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import platform
import tempfile
import threading
import uuid
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from videorouter.batch.entries import Entry, find_id, read_entry
from videorouter.batch.item import BatchAbortedError, Item
from videorouter.batch.run import check_options
from videorouter.batch.saving import Saver
from videorouter.client import AsyncVideoRouter
from videorouter.errors import ConfigurationError, InvalidRequestError, JournalError, VideoRouterError
from videorouter.integrations.ray.books import WorkerBooks
from videorouter.integrations.ray.pacing import Link
from videorouter.integrations.ray.proxy import Block, RemoteJournal, explain_silence
from videorouter.integrations.ray.rows import make_table, read_rows
from videorouter.integrations.ray.saving import StoreSaver
from videorouter.integrations.ray.words import cut
from videorouter.journal.states import describe_failure
from videorouter.models import BatchItem

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine

    import pyarrow as pa

_CLOSING = 5.0
_GARBAGE = 50_000
"""Objects made since the last search for garbage: a thousand rows on their way are none."""
_AHEAD = 16
"""Rows beyond a worker's share that are on their way to their slot, so that a share that grows is used at once."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What every worker is told.

    Attributes:
        ledger: The ledger's actor; ``None`` to keep no journal.
        pacemaker: The pace actor; ``None`` for a pace of each worker's own.
        journal: The journal's path, for messages.
        client_options: Of the client, without a key in clear text.
        options: Of the batch, as ``generate_many`` takes them.
        prompt_column: The column of prompts.
        id_column: The column of ids.
        field_columns: Columns that are fields of the request.
        beat: Seconds of silence after which the ledger is told that the worker is alive.
    """

    ledger: Any
    pacemaker: Any
    journal: str
    client_options: dict[str, Any]
    options: dict[str, Any]
    prompt_column: str
    id_column: str | None
    field_columns: tuple[str, ...]
    beat: float


class Worker:
    """The callable that Ray Data holds in each of its actors.

    Args:
        plan: What every worker is told.
    """

    def __init__(self, plan: Plan) -> None:
        # This process is the worker's alone: what Ray has loaded stays, and is not searched for garbage over and over
        gc.freeze()
        gc.set_threshold(_GARBAGE)
        self._plan = plan
        self.name: str = f"{platform.node()}-{os.getpid()}-{uuid.uuid4().hex[:12]}"
        self._queue: deque[tuple[int, dict[str, Any]]] = deque()
        self._waiting: dict[int, asyncio.Future[BatchItem]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._blocks: dict[int, Block] = {}
        self._walking = 0
        self._stopped: str | None = None
        self._fatal: VideoRouterError | None = None
        self._remote: RemoteJournal | None = None
        self._link: Link | None = None
        self._client: AsyncVideoRouter | None = None
        self._books: WorkerBooks | None = None
        self._saver: Saver | None = None
        self._room = self._most = 1
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="videorouter-ray", daemon=True)
        self._thread.start()
        self._run(self._open())

    async def __call__(self, block: pa.Table) -> AsyncIterator[pa.Table]:
        """Bring every row of a block to its end."""
        going = asyncio.run_coroutine_threadsafe(self._take_block(block), self._loop)
        yield await asyncio.wrap_future(going)

    def close(self) -> None:
        """End the client and the loop. Idempotent."""
        if self._loop.is_running():
            closing = asyncio.run_coroutine_threadsafe(self._close(), self._loop)
            with contextlib.suppress(Exception):  # a cluster that has gone answers no more, and must not keep us alive
                closing.result(_CLOSING)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(5.0)

    def __del__(self) -> None:
        if "_thread" in self.__dict__ and threading.current_thread() is not self._thread:
            self.close()

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _open(self) -> None:
        plan = self._plan
        if plan.ledger is not None:
            self._remote = RemoteJournal(
                lambda message: plan.ledger.exchange.remote(self.name, *cut(message)),
                self._hear_stop,
                path=Path(plan.journal),
                beat=plan.beat,
            )
            self._remote.start()
        try:
            await self._set_up()
        except VideoRouterError as error:
            # Raised here, it would have Ray start this worker over and over, and in the end kill the others
            self._books = None
            await self._end_run(error)

    async def _set_up(self) -> None:
        plan = self._plan
        options = dict(plan.client_options)
        if plan.ledger is not None:
            key = await self._ask_for_key()
            if key is not None:
                options["api_key"] = key
        self._client = client = AsyncVideoRouter(**options)
        caller = client._caller  # noqa: SLF001  a guest of the house, which adds no verb to the client for itself
        given = dict(plan.options)
        save_to = given.pop("save_to", None)
        chosen = check_options(caller.settings, "generate", given)
        if plan.pacemaker is not None:
            self._link = Link(
                lambda message: plan.pacemaker.report.remote(self.name, message),
                lambda: plan.pacemaker.watch.remote(self.name),
                caller.limit,
            )
            self._link.on_share = self._take_share
            self._link.start()
        self._room = self._most = caller.limit.limit
        self._take_share()
        self._books = WorkerBooks(caller, chosen, self._stop, self._remote)
        self._books.stopped = self._stopped
        self._builder = client._builder  # noqa: SLF001  as above
        if save_to is not None and "://" in save_to:
            self._saver = StoreSaver(self._books, save_to, chosen.name, client.save)
        elif save_to is not None:
            await asyncio.to_thread(_make_folder, save_to)
            self._saver = Saver(self._books, Path(save_to), chosen.name, client.save)

    async def _ask_for_key(self) -> str | None:
        try:
            key: str | None = await self._plan.ledger.greet.remote(self.name)
        except Exception as error:  # whatever Ray says
            raise JournalError(explain_silence(error), path=self._plan.journal) from error
        return key

    async def _close(self) -> None:
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._link is not None:
            await self._link.aclose()
        if self._remote is not None:
            await self._remote.aclose()
        if self._client is not None:
            await self._client.aclose()

    async def _take_block(self, table: pa.Table) -> pa.Table:
        plan = self._plan
        rows = list(read_rows(table, plan.prompt_column, plan.id_column, plan.field_columns))
        block = await self._claim(rows)
        futures = [self._enter(position, raw, block) for position, raw in rows]
        self._admit()
        try:
            items = await asyncio.gather(*futures)
        finally:
            await self._leave(block)
        return make_table(table, items)

    async def _claim(self, rows: list[tuple[int, dict[str, Any]]]) -> Block | None:
        """Tell the ledger that the rows are here, unless they are already, from an earlier run of their block."""
        if self._remote is None or self._books is None:
            return None
        start = rows[0][0]
        block = self._blocks.get(start)
        if block is None:
            block = self._blocks[start] = Block(start, [find_id(raw) for _, raw in rows])
            block.claimed = self._loop.create_task(self._remote.claim(block))
        block.runs += 1
        if block.claimed is not None:
            await asyncio.shield(block.claimed)
        return block

    async def _leave(self, block: Block | None) -> None:
        """All that was said of a block is committed when this returns, or dispatch has stopped."""
        if block is None or self._remote is None:
            return
        block.runs -= 1
        if not block.runs:
            del self._blocks[block.start]
            with contextlib.suppress(JournalError):
                await self._remote.leave(block)

    def _enter(self, position: int, raw: dict[str, Any], block: Block | None) -> asyncio.Future[BatchItem]:
        """A row's outcome to be; the one that is on its way already, when Ray runs its block again here."""
        future = self._waiting.get(position)
        if future is None:
            future = self._waiting[position] = self._loop.create_future()
            if block is not None and self._remote is not None:
                self._remote.blocks[position] = block
            self._queue.append((position, raw))
        return future

    def _take_share(self) -> None:
        """The lanes have room for another number of jobs."""
        share = float(self._most)
        if self._link is not None:
            share = min(share, sum(follower.limit for follower in self._link.followers.values()))
            self._room = min(self._most, int(share * 1.25) + _AHEAD)
        if self._remote is not None:
            self._remote.room = int(share)
        self._admit()

    def _admit(self) -> None:
        """Let as many rows go as the lanes will soon have room for: their deadline starts now."""
        while self._queue and self._walking < self._room:
            position, raw = self._queue.popleft()
            self._walking += 1
            task = self._loop.create_task(self._walk(position, raw))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _walk(self, position: int, raw: dict[str, Any]) -> None:
        future = self._waiting[position]
        walking = True
        try:
            item = await self._take(position, raw)
            self._walking -= 1
            walking = False
            self._admit()
            if self._saver is not None and self._saver.wants(item) and not (item.resumed and self._stopped):
                item = await self._saver.save(item, 0)
            if not future.done():
                future.set_result(item)
        except BatchAbortedError as error:
            # Raised here, it would have Ray kill all workers with what they have in flight: the driver raises it
            await self._end_run(error.error)
            if not future.done():
                future.set_result(_show_unsent(position, raw, error.error))
        except Exception as error:  # noqa: BLE001  a row that waits for ever would hold its block
            _fail(future, error)
        except asyncio.CancelledError:
            future.cancel()
            raise
        finally:
            del self._waiting[position]
            if walking:
                self._walking -= 1
                self._admit()

    async def _take(self, position: int, raw: dict[str, Any]) -> BatchItem:
        books = self._books
        if books is None:
            return _show_unsent(position, raw, InvalidRequestError(f"Not sent, the batch has stopped: {self._stopped}"))
        try:
            entry = read_entry(raw)
        except InvalidRequestError as error:
            entry = Entry(prompt=None, id=find_id(raw), broken=error)
        item = Item(books, self._builder, position, entry, given=entry.id)
        try:
            return await item.process()
        except VideoRouterError as error:
            return _show_unsent(position, raw, error)
        finally:
            if self._remote is not None:
                self._remote.forget(position, item.record.id)

    async def _end_run(self, error: VideoRouterError) -> None:
        """Let nobody send anything more, and the driver raise this error when what runs has ended."""
        if self._remote is not None:
            with contextlib.suppress(JournalError):
                await self._remote.end_run(error)
        self._stop(str(error))

    def _stop(self, reason: str) -> None:
        """This worker has met a wall: let nobody run into it."""
        if self._remote is not None:
            self._remote.stop(reason)
        self._hear_stop(reason)

    def _hear_stop(self, reason: str) -> None:
        if self._stopped is None:
            self._stopped = reason
            if self._books is not None:
                self._books.stopped = reason
                self._books.wake()


def _make_folder(folder: str) -> None:
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ConfigurationError(
            f"save_to={folder!r} cannot be written on {platform.node()}: {error}. This worker has sent nothing."
        ) from error


def _fail(future: asyncio.Future[BatchItem], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)


def _show_unsent(position: int, raw: dict[str, Any], error: VideoRouterError) -> BatchItem:
    given, prompt = raw.get("id"), raw.get("prompt")
    return BatchItem(
        index=position,
        id="" if given is None else str(given),
        state="not_sent",
        prompt=prompt if isinstance(prompt, str) else None,
        failure=describe_failure(error),
    )
