"""The verbs of a queue: what any process may ask. Nothing here sends anything.

``JobVerbs`` speaks of every job, or of one owner's alone: a web app is given the second and can see nothing else.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import msgspec

from videorouter.batch.entries import Entry, read_entry
from videorouter.call.prepare import RequestBuilder
from videorouter.call.requests import Verb
from videorouter.config import check_timeout
from videorouter.errors import (
    ClientClosedError,
    ConfigurationError,
    InvalidRequestError,
    OutcomeUnknownError,
    TaskTimeoutError,
)
from videorouter.jobs.inputs import keep_inputs
from videorouter.jobs.models import Job, JobEvent, JobStats, OwnerStats, to_job
from videorouter.jobs.options import JobOptions
from videorouter.journal.identity import digest_request
from videorouter.journal.journal import Settlement
from videorouter.journal.queue import (
    JobRow,
    NewJob,
    QueueJournal,
    cancel_job,
    find_job,
    prune_jobs,
    retry_job,
    settle_job,
)
from videorouter.journal.queue_reading import (
    EventRow,
    OwnerRow,
    QueueReader,
    Watcher,
    list_jobs,
    read_events,
    read_last_event,
    read_note,
    read_owners,
)
from videorouter.journal.records import encode
from videorouter.locks import read_heartbeat
from videorouter.models import ItemState, VideoResult

MAX_KEY = 255
PAUSED = "paused"
"""The note of a queue that says why its runner sends nothing, as JSON."""
ORIGIN = "gateway"
"""The note of a queue that has the base URL of the gateway that its runners send to."""
_OF_PUT = frozenset({"id", "then", "models", "fallback_on_failure", "idempotency_key"})


class QueueFile:
    """One queue's file as this process uses it: its writer, its reader and its watcher."""

    def __init__(self, options: JobOptions, builder: RequestBuilder) -> None:
        self.options = options
        self.builder = builder
        self.watcher: Watcher = Watcher(options.path)
        self.journal: QueueJournal = QueueJournal(options.path, committed=self.watcher.note_commit)
        self.reader: QueueReader = QueueReader(self.journal.path)
        self.ending: bool = False
        """Whether the process is about to stop: streams of events end."""
        self._signals: dict[tuple[str | None, str | None], set[_Signal]] = {}
        """Those who wait, by the job or the owner that they wait for; ``None`` twice: for any."""
        self._mutex = threading.Lock()

    async def make(self) -> None:
        """Make the file, where there is none, so that it can be read."""
        if not self.journal.path.exists():
            await self.journal.writer.do("find", lambda _: None)

    async def check_gateway(self, base_url: str) -> None:
        """Refuse to run the queue of another gateway: its jobs are not for this one."""
        await self.make()
        known = await self.reader.read(lambda database: read_note(database, ORIGIN))
        if known is not None and known != base_url:
            raise ConfigurationError(
                f"The queue {self.journal.path} is sent to {known}, and this client sends to {base_url}. Nothing was sent. Pass "
                "another path, or run it with a client of its gateway."
            )

    def end_streams(self) -> None:
        """End the streams of events. From any thread."""
        self.ending = True
        self._wake([])

    def _wake(self, events: list[EventRow]) -> None:
        """Wake those whom these events concern, or all where none is named. From any thread."""
        with self._mutex:
            if events:
                keys = {key for event in events for key in ((event.item, None), (None, event.owner), (None, None))}
                found = [signal for key in keys for signal in self._signals.get(key, ())]
            else:
                found = [signal for signals in self._signals.values() for signal in signals]
        for signal in found:
            signal.wake()

    @contextmanager
    def listen(self, *, item: str | None = None, owner: str | None = None) -> Iterator[_Signal]:
        """Notice events of one job, of one owner's, or of all."""
        key, signal = (item, owner), _Signal()
        with self._mutex:
            self._signals.setdefault(key, set()).add(signal)
        self.watcher.add(self._wake)
        try:
            yield signal
        finally:
            with self._mutex:
                self._signals[key].discard(signal)
                if not self._signals[key]:
                    del self._signals[key]
                if not self._signals:
                    self.watcher.remove(self._wake)

    async def aclose(self) -> None:
        """Close the file; a later verb opens it again."""
        await self.journal.aclose()
        self.reader.close()


class _Signal:
    """Wakes one waiter in its loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()

    def wake(self) -> None:
        """Wake it. From any thread."""
        try:
            self._loop.call_soon_threadsafe(self._event.set)
        except RuntimeError:
            return  # the loop is gone, and with it the waiter

    async def wait(self, seconds: float | None = None) -> None:
        """Wait until it is woken, or so many seconds."""
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            return
        self._event.clear()


class JobVerbs:
    """The verbs of a queue, of all owners or of one."""

    def __init__(self, file: QueueFile, owner: str | None = None) -> None:
        self._file = file
        self._owner = owner

    async def put(
        self,
        /,
        prompt: str,
        *,
        video: object = None,
        key: str | None = None,
        owner: str | None = None,
        priority: int = 0,
        notify: str | bool | None = None,
        meta: Any = None,
        **fields: Any,
    ) -> Job:
        """Put a job into the queue. It is on the disk when this returns, and nothing was sent yet.

        Args:
            prompt: What the video should show.
            video: The video to edit: then the job is an edit.
            key: Makes this call safe to repeat: the same owner and key give the job as it stands, whatever became of it.
            owner: Whose job it is: owners take turns.
            priority: A higher one is sent first, of all owners.
            notify: Whom to tell of its end: a URL, or whether the queue's own ``notify`` is to be told.
            meta: Your own JSON value, kept and never sent.
            **fields: Fields and options as ``generate`` takes them. What is no URL (a path, bytes, a file) is kept beside the
                queue, and uploaded by the runner.

        Returns:
            The job.

        Raises:
            InvalidRequestError: An argument cannot be used.
            QueueFullError: As many jobs wait as ``max_queued`` allows.
            JournalMismatchError: The key is that of another request.
            JournalError: The file cannot be written.
        """
        own = {"video": video, "key": key, "owner": owner, "priority": priority, "notify": notify, "meta": meta}
        job = await self._make(prompt, own, fields)
        row = await self._file.journal.put(job, most=self._file.options.max_queued)
        return self._show(row)

    async def put_many(self, jobs: Iterable[str | Mapping[str, Any]]) -> list[Job]:
        """Put jobs in one commit, all or none: prompts, or dicts of what ``put`` takes.

        Raises:
            VideoRouterError: As ``put``. None was put.
        """
        made = []
        for entry in jobs:
            given: dict[str, Any] = dict(entry) if isinstance(entry, Mapping) else {"prompt": entry}
            own = {name: given.pop(name, None) for name in ("video", "key", "owner", "priority", "notify", "meta")}
            made.append(await self._make(given.pop("prompt", None), own, given))
        rows = await self._file.journal.put_all(made, most=self._file.options.max_queued)
        return [self._show(row) for row in rows]

    async def get(self, job: str) -> Job | None:
        """The job as it stands; ``None`` where there is none of that id, or none of this owner's."""
        row = await self._read(lambda database: find_job(database, job, self._owner))
        return None if row is None else self._show(row)

    async def list(
        self, *, state: ItemState | Iterable[ItemState] | None = None, before: str | None = None, limit: int = 100
    ) -> list[Job]:
        """List jobs, the newest first.

        Args:
            state: Jobs in this state, or in one of these.
            before: The id of the last job of the page before.
            limit: How many at most.
        """
        states = () if state is None else (state,) if isinstance(state, str) else tuple(state)

        def work(database: Any) -> list[JobRow]:
            last = None if before is None else find_job(database, before, self._owner)
            place = None if last is None else last.position
            return list_jobs(database, owner=self._owner, states=states, before=place, limit=limit)

        return [self._show(row) for row in await self._read(work)]

    async def result(self, job: str, *, timeout: float | None = None) -> VideoResult:
        """Wait until a job is over, its files included, and return what was made.

        Args:
            job: The job's id.
            timeout: Seconds to wait; ``None`` means thirty days. The job goes on all the same.

        Raises:
            InvalidRequestError: There is no such job.
            TaskTimeoutError: It is not over yet.
            ClientClosedError: It was cancelled, or this process ends.
            VideoRouterError: How it ended, as ``generate`` would have raised it.
        """
        until = time.monotonic() + check_timeout(timeout)
        await self._file.make()
        with self._file.listen(item=job) as signal:
            while not (found := await self._find(job)).over:
                left = until - time.monotonic()
                if left <= 0:
                    raise TaskTimeoutError(
                        f"Job {job} is {found.state.replace('_', ' ')} and not over yet. It goes on: ask for its result again.",
                        task_id=found.task_id,
                    )
                if self._file.ending:
                    raise ClientClosedError(f"This process ends; job {job} goes on with the next runner of its queue.")
                await signal.wait(left)
        return _take_result(found)

    async def events(self, job: str | None = None, *, after: int = 0) -> AsyncGenerator[JobEvent, None]:
        """Tell what happens, from the first event after ``after`` on, as it happens.

        Of one job the stream ends with the job. Of all, or of an owner's, it ends with the process.

        Args:
            job: A job's id; ``None`` for every job that these verbs can see.
            after: The number of the last event that is known.
        """
        if job is not None:
            await self._find(job)
        await self._file.make()
        owner = self._owner if job is None else None
        over = False
        with self._file.listen(item=job, owner=owner) as signal:
            while not self._file.ending:
                rows = await self._read(partial(read_events, after=after, item=job, owner=owner))
                for row in rows:
                    after, over = row.number, row.over
                    yield _to_event(row)
                if rows:
                    continue
                if job is not None:
                    found = await self._find(job)
                    if over or (found.over and found.event <= after):
                        return
                    if found.event > after:
                        continue
                await signal.wait()

    async def cancel(self, job: str) -> Job:
        """Take a job back if it is not sent; returns it as it then stands. What is sent is paid, and goes on.

        Raises:
            InvalidRequestError: There is no such job.
        """
        owner = self._owner
        return self._show(await self._write("cancel", job, lambda database: cancel_job(database, job, owner)))

    async def retry(self, job: str) -> Job:
        """Put a job back that was refused, has failed or was cancelled: it may be bought anew.

        Raises:
            InvalidRequestError: There is no such job, or it is in another state.
        """
        row, changed = await self._file.journal.writer.do("retry", lambda db: retry_job(db, job, self._owner))
        if row is None:
            raise _name_missing(job)
        if not changed:
            raise InvalidRequestError(
                f"Job {job} is {row.state.replace('_', ' ')}: only what was refused, has failed or was cancelled is tried again. "
                "What is in doubt is settled."
            )
        return self._show(row)

    async def settle(
        self,
        job: str,
        settlement: Settlement,
        *,
        cost: float | None = None,
        url: str | None = None,
        video_id: str | None = None,
    ) -> Job:
        """Decide what became of a job in doubt, which only a person can, from the vendor's usage page.

        Args:
            job: The job's id.
            settlement: ``not_bought``: it is sent again. ``send_again``: it is, and a second charge is accepted. ``bought``:
                it is done where its video is named, else paid and lost.
            cost: US dollars that were billed.
            url: The video's URL.
            video_id: The video's id.

        Raises:
            InvalidRequestError: There is no such job, or no doubt about it.
        """
        row, changed = await self._file.journal.writer.do(
            "settle", lambda db: settle_job(db, job, self._owner, settlement, cost=cost, url=url, video_id=video_id)
        )
        if row is None:
            raise _name_missing(job)
        if not changed:
            raise InvalidRequestError(f"Job {job} is {row.state.replace('_', ' ')}: there is no doubt about it.")
        return self._show(row)

    async def stats(self) -> JobStats:
        """How the queue stands, or what of it is this owner's."""
        owner = self._owner

        def work(database: Any) -> tuple[dict[str, OwnerRow], str | None, int]:
            return read_owners(database, owner), read_note(database, PAUSED), read_last_event(database)

        owners, paused, event = await self._read(work)
        by_owner = {name: _to_stats(row) for name, row in owners.items()}
        runner, age = read_heartbeat(self._file.journal.path)
        total: dict[str, Any] = {
            field: sum(getattr(one, field) for one in by_owner.values()) for field in OwnerStats.__struct_fields__
        }
        total["oldest"] = max((one.oldest for one in by_owner.values()), default=0.0)
        return JobStats(
            **total,
            owners=by_owner,
            paused=msgspec.json.decode(paused or "{}", type=dict[str, str]) if runner is not None else {},
            runner=runner,
            runner_age=age,
            event=event,
        )

    async def prune(self, older_than: float) -> int:
        """Forget jobs that ended so many seconds ago, and return how many; their files stay.

        What has a key leaves owner, key and outcome behind, so that putting it again buys nothing. What is in doubt stays.
        """
        before, count = time.time() - check_timeout(older_than), 0
        while True:
            gone = await self._file.journal.writer.do("prune", lambda db: prune_jobs(db, before, self._owner))
            count += gone
            if not gone:
                return count

    async def _make(self, /, prompt: Any, own: dict[str, Any], fields: dict[str, Any]) -> NewJob:
        """Check what is put: ``own`` is the queue's, ``fields`` are the request's."""
        video, priority, notify, key = own.get("video"), own.get("priority") or 0, own.get("notify"), own.get("key")
        wrong = fields.keys() & _OF_PUT
        if wrong:
            raise InvalidRequestError(f"A job takes no {', '.join(sorted(wrong))}. Nothing was put.")
        if not isinstance(priority, int) or isinstance(priority, bool) or abs(priority) >= 2**31:
            raise InvalidRequestError(f"priority must be a whole number, not {priority!r}. Nothing was put.")
        fields, inputs = await keep_inputs(fields, self._file.journal.path)
        verb: Verb = "generate" if video is None else "edit"
        submission = await self._file.builder.prepare(verb, prompt, fields, video=video)
        entry: Entry = read_entry(
            {"prompt": submission.prompt, "meta": own.get("meta")}
        )  # which checks that meta is JSON
        kept = {
            name: getattr(submission, name)
            for name, given in (
                ("timeout", "timeout"),
                ("max_retries", "max_retries"),
                ("headers", "extra_headers"),
            )
            if fields.get(given) is not None
        }
        if inputs:
            kept["inputs"] = inputs
        wanted = self._file.options.notify is not None if notify is None else notify
        return NewJob(
            id=_new_id(),
            digest=digest_request(submission.verb, submission.body),
            verb=submission.verb,
            model=submission.model,
            request=submission.body.decode("utf-8", "replace"),
            owner=self._find_owner(own.get("owner")),
            key=None if key is None else check_name(key, "key"),
            priority=priority,
            options=encode(kept) if kept else None,
            notify=encode(wanted) if wanted else None,
            meta=None if entry.meta is None else encode(entry.meta),
        )

    def _find_owner(self, owner: object) -> str:
        if self._owner is None:
            return "" if owner is None else check_name(owner, "owner")
        if owner is not None and owner != self._owner:
            raise InvalidRequestError(f"These are the verbs of owner {self._owner!r}: they put no job of {owner!r}'s.")
        return self._owner

    async def _find(self, job: str) -> Job:
        found = await self.get(job)
        if found is None:
            raise _name_missing(job)
        return found

    async def _read(self, work: Callable[[Any], Any]) -> Any:
        await self._file.make()
        return await self._file.reader.read(work)

    async def _write(self, step: str, job: str, work: Callable[[Any], JobRow | None]) -> JobRow:
        row = await self._file.journal.writer.do(step, work)
        if row is None:
            raise _name_missing(job)
        return row

    def _show(self, row: JobRow) -> Job:
        return to_job(row, os.fspath(self._file.journal.folder))


def check_name(value: object, name: str) -> str:
    """Check an owner or a key."""
    if not isinstance(value, str) or not value.strip() or len(value) > MAX_KEY or not value.isprintable():
        raise InvalidRequestError(
            f"{name} must be 1 to {MAX_KEY} printable characters, not {value!r}. Nothing was put."
        )
    return value


def _new_id() -> str:
    """An id that grows with time, so that new rows lie side by side on the disk."""
    return f"{time.time_ns() // 1_000_000:012x}{uuid.uuid4().hex[:16]}"


def _name_missing(job: object) -> InvalidRequestError:
    return InvalidRequestError(f"There is no job {job!r} here. Check the id, the queue's path and the owner.")


def _take_result(job: Job) -> VideoResult:
    if job.result is not None:
        return job.result
    if job.error is not None:
        raise job.error
    if job.state in {"in_doubt", "lost"}:
        raise OutcomeUnknownError(f"Job {job.id} may have been billed. Settle it.")
    raise ClientClosedError(f"Job {job.id} is {job.state.replace('_', ' ')}: there is no result. Nothing was bought.")


def _to_event(row: EventRow) -> JobEvent:
    return JobEvent(
        number=row.number, job=row.item, owner=row.owner, state=row.state, at=row.at, note=row.note, over=row.over
    )


def _to_stats(row: OwnerRow) -> OwnerStats:
    counts = row.counts
    return OwnerStats(
        queued=counts.get("not_sent", 0),
        running=counts.get("sending", 0) + counts.get("accepted", 0),
        in_doubt=counts.get("in_doubt", 0) + counts.get("lost", 0),
        done=counts.get("done", 0),
        ended=sum(counts.get(state, 0) for state in ("refused", "failed", "cancelled")),
        oldest=0.0 if row.oldest is None else max(0.0, time.time() - row.oldest),
        spent=row.cost,
        spent_in_doubt=row.unknown,
        reserved=row.reserved,
    )
