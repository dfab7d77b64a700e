"""Processes one entry: its identity, what the journal knows of it, and whether it is sent, sent again or not at all.

``journal/states.py`` decides what a state means; ``batch/sending.py`` does each sending.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec

from videorouter.batch.entries import name_refused
from videorouter.batch.run import name_clash, name_mismatch
from videorouter.batch.sending import ItemRecord, Sending
from videorouter.call.uploads import needs_upload
from videorouter.errors import ConfigurationError, InvalidRequestError, JournalError, VideoRouterError
from videorouter.journal.identity import UNNAMED, digest_chain, digest_request, name_parent
from videorouter.journal.journal import Fingerprint
from videorouter.journal.records import digest_inputs, encode, read_failure, to_item
from videorouter.journal.states import describe_failure, state_after_error

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from videorouter.batch.entries import Entry
    from videorouter.batch.run import BatchRun
    from videorouter.call.prepare import RequestBuilder
    from videorouter.call.requests import Submission
    from videorouter.journal.states import ItemRow
    from videorouter.models import BatchItem, ItemState, VideoResult


class BatchAbortedError(Exception):
    """Carries an error that ends the whole batch, not only one item."""

    def __init__(self, error: VideoRouterError) -> None:
        super().__init__(str(error))
        self.error = error


class _NoParentVideoError(Exception):
    """The item to edit has no video. The edit was not sent."""


class Item:
    """One entry of a batch in progress; ``before`` is the item whose video a step of a chain edits."""

    __slots__ = (
        "_before",
        "_builder",
        "_entry",
        "_future",
        "_given",
        "_options",
        "_run",
        "_step",
        "_submission",
        "record",
    )

    def __init__(
        self,
        run: BatchRun,
        builder: RequestBuilder,
        index: int,
        entry: Entry,
        *,
        given: str | None = None,
        before: BatchItem | None = None,
        step: int = 0,
    ) -> None:
        parent = before.id if before is not None else entry.parent
        self.record: ItemRecord = ItemRecord(index, given or "", entry.prompt, parent, entry.meta)
        self._run = run
        self._builder = builder
        self._entry = entry
        self._given = given
        self._before = before
        self._step = step
        common = run.options.common
        self._options: dict[str, Any] = {**common, **entry.options} if entry.options else common
        self._submission: Submission | None = None
        self._future: asyncio.Future[BatchItem | None] | None = None

    def process(self) -> Awaitable[BatchItem]:
        """Process the entry, with an ``error`` on the item if it fails; raises when the batch cannot go on."""
        if self._given is None and not self._run.options.deduplicate:
            return self._process()  # others can only wait for an item whose id they know
        return self._process_named()

    async def _process_named(self) -> BatchItem:
        """Process the entry as an item that others may wait for."""
        outcome = None
        if self._given is not None:
            self._future = self._run.enter(self._given)
        try:
            outcome = await self._process()
            return outcome
        finally:
            if self._future is not None:
                self._run.leave(self.record.id, self._future, outcome)

    async def _process(self) -> BatchItem:
        run, record = self._run, self.record
        try:
            known = await self._describe()
        except Exception as error:  # noqa: BLE001  one broken entry never loses the others
            return await self._refuse(error)
        fingerprint = await self._read(known)
        record.digest = fingerprint.digest
        try:
            taken = self._given is not None and self._future is None
            identity = await run.identify(fingerprint, self._given, record.index, taken=taken)
        except InvalidRequestError as error:
            return await self._refuse(error, taken=True)
        except JournalError as error:
            run.note_error(error)
            return self._end("not_sent", known, error)
        record.id = identity.id
        if run.options.deduplicate and self._given is None:
            if identity.times > 1:
                return await self._copy_equal(known)
            self._future = run.enter(record.id)
        row = identity.row
        if run.guard is not None:
            await run.guard.check(row, known.body, self._before)
        if row is None or not row.digest:
            return await self._send(known)
        if not fingerprint.matches(row):
            if self._given == self._entry.id and self._given is not None:
                raise BatchAbortedError(name_mismatch(row, record.index, run.journal))
            return await self._refuse(name_clash(row), taken=True)
        record.unknown = row.unknown
        record.spent = row.cost or 0.0
        return await self._resume(row, known)

    async def _describe(self) -> Submission:
        """Return the request as far as it is known before uploads and before a parent has a video."""
        entry = self._entry
        if self.record.parent is not None or needs_upload(self._options) or entry.broken is not None:
            return await self._describe_unsent()
        self._submission = await self._builder.prepare(entry.verb, entry.prompt, self._options, video=entry.video)
        return self._submission

    async def _describe_unsent(self) -> Submission:
        entry, parent = self._entry, self.record.parent
        if entry.broken is not None:
            raise entry.broken
        video = entry.video if parent is None else name_parent(parent)
        fields = await digest_inputs(self._options) if needs_upload(self._options) else self._options
        return self._builder.build(entry.verb, entry.prompt, fields, video=video)

    async def describe(self) -> tuple[Submission, Fingerprint]:
        """What the entry asks for, as far as it is known before anything is uploaded or sent; raises where it is refused."""
        known = await self._describe_unsent()
        return known, await self._read(known)

    async def _read(self, known: Submission) -> Fingerprint:
        digest = digest_request(known.verb, known.body)
        chain, steps = (await self._describe_chain(digest)) if self._entry.then else (digest, ())
        return Fingerprint(known.verb, known.body, digest, chain, steps)

    async def _describe_chain(self, digest: str) -> tuple[str, tuple[tuple[str | None, bytes], ...]]:
        """The digest of the entry with the chain that follows from it, and the chain's bodies."""
        steps = [(step.id, await self._describe_step(step)) for step in self._entry.then]
        return digest_chain(digest, [body for _, body in steps]), tuple(steps)

    async def _describe_step(self, step: Entry) -> bytes:
        options = {**self._run.options.common, **(step.options or {})}
        try:
            fields = await digest_inputs(options) if needs_upload(options) else options
            return self._builder.build("edit", step.prompt, fields, video=UNNAMED).body
        except VideoRouterError as error:  # it is refused when its turn comes
            return msgspec.json.encode({"broken": str(error)})

    async def _complete(self) -> Submission:
        """Return the request to send, with the video of the item that it edits."""
        entry, parent = self._entry, self.record.parent
        video = entry.video if parent is None else await self._find_parent(parent)
        self._submission = await self._builder.prepare(entry.verb, entry.prompt, self._options, video=video)
        return self._submission

    async def _find_parent(self, parent: str) -> VideoResult:
        item = self._before if self._before is not None else await self._run.find(parent, self._given)
        if item is None:
            raise InvalidRequestError(
                f"There is no item {parent!r} before this one, so its video cannot be edited. edit_of names the id of "
                "an earlier entry (without a journal: one of the last 16,384)."
            )
        if item.result is None:
            raise _NoParentVideoError(
                f"Item {parent!r}, whose video this one edits, is {item.state.replace('_', ' ')}. This one was not sent; it is when the "
                "batch runs again and the other one is done."
            )
        return item.result

    async def _resume(self, row: ItemRow, known: Submission) -> BatchItem:
        run, record = self._run, self.record
        action = run.decide(row)
        if action == "send":
            failure = read_failure(row.failure)
            if row.state == "not_sent" and failure is not None and failure.in_doubt:
                record.doubt, record.earlier = self._show_row(row, known, state="in_doubt"), row
                self._take_stored(row, known)
            return await self._send(known)
        if action == "poll":
            try:
                item = await Sending(run, record, known).poll(row)
            except asyncio.CancelledError:
                run.count(record.show("accepted", known), record.unknown)
                raise
            run.count(item, record.unknown)
            return item
        item = self._show_row(row, known)
        if action == "doubt":
            policy = await self._ask(item)
            if policy != "report":
                record.doubt, record.earlier = item, row
                self._take_stored(row, known)
                return await self._send(known, asked=True, key=row.idempotency_key if policy == "replay" else None)
        elif action == "collect" and run.journal is not None:
            item = await run.collect(run.journal, item)
        run.count(item, row.unknown)
        return item

    def _take_stored(self, row: ItemRow, known: Submission) -> None:
        """What is sent once more is what was sent: the very bytes, as far as the journal still has them."""
        if row.request is not None:
            body = row.request.encode("utf-8", "surrogatepass")
            self._submission = msgspec.structs.replace(known, body=body, model=row.model or known.model)

    async def _send(self, known: Submission, *, asked: bool = False, key: str | None = None) -> BatchItem:
        """Send, and send again if the caller wants that for an unknown outcome."""
        record = self.record
        while True:
            try:
                sending = await self._make_sending(known, key)
                item = await sending.send() if isinstance(sending, Sending) else sending
            finally:
                self._run.breaker.release(record)
            if item.state == "in_doubt" and not asked:
                asked = True
                sent = self._submission
                policy = await self._ask(item)
                if policy != "report":
                    record.doubt, record.earlier = item, None
                    key = sent.idempotency_key if sent is not None and policy == "replay" else None
                    continue
            self._run.count(item, record.unknown, doubted=record.doubt is not None)
            return item

    async def _ask(self, item: BatchItem) -> str:
        """Ask the caller what to do about an item in doubt."""
        run, unknown = self._run, self.record.unknown
        try:
            return await run.ask_policy(item)
        except asyncio.CancelledError:
            run.count(item, unknown)
            raise
        except ConfigurationError as error:
            run.count(item, unknown)
            raise BatchAbortedError(error) from error
        except Exception as error:  # noqa: BLE001  a function of the caller's must not lose an item
            run.stop(f"on_outcome_unknown failed: {error}")
            return "report"

    async def _make_sending(self, known: Submission, key: str | None) -> Sending | BatchItem:
        """What the next sending of the item needs, money included, or the item that stays unsent."""
        run = self._run
        try:
            run.check_running()
            submission = self._submission or await self._complete()
            if key is not None:
                submission = msgspec.structs.replace(submission, idempotency_key=key)
            if run.breaker.holds:
                await run.breaker.admit(self.record)  # with the video of its parent in hand, which may be held, too
            priced = run.prices.find(submission)
            reserved = run.prices.correct(submission.model, priced)
            run.check_running()
            if reserved or run.budget.cap is not None:
                await run.reserve(reserved)
        except _NoParentVideoError as error:
            return self._stay("not_sent", known, InvalidRequestError(str(error)))
        except VideoRouterError as error:
            run.note_error(error)
            return self._stay(state_after_error(error, sent=False), known, error)
        except Exception as error:  # noqa: BLE001  a function of the caller's must not lose the other items
            named = InvalidRequestError(f"This entry could not be prepared: {type(error).__name__}: {error}")
            named.__cause__ = error
            return self._stay("refused", known, named)
        self._submission = submission
        return Sending(run, self.record, submission, reserved=reserved, priced=priced, replayed=key is not None)

    def _stay(self, state: ItemState, known: Submission, error: Exception) -> BatchItem:
        """Return the item unsent and unrecorded; an earlier doubt remains."""
        record = self.record
        if record.doubt is not None and not record.decided:
            return record.doubt
        return record.show(state, known, error=error)

    async def _refuse(self, error: Exception, *, taken: bool = False) -> BatchItem:
        """Refuse an entry that cannot be used, or whose id is ``taken`` by an earlier one: nothing was sent."""
        if not isinstance(error, VideoRouterError):
            named = InvalidRequestError(f"This entry could not be read: {type(error).__name__}: {error}")
            named.__cause__ = error
            error = named
        run, given = self._run, self._given
        try:
            if taken or given is None or self._future is None or not await run.claim(given):
                await self._change_id()
            await self._record_invalid_entry(error)
        except JournalError as trouble:
            run.note_error(trouble)
        return self._end("refused", None, error)

    async def _change_id(self) -> None:
        """Leave the id to the entry that used it first, and take a generated one."""
        future, self._future = self._future, None
        if future is not None:
            await self._run.hand_back(self.record.id, future)
        self.record.id = name_refused(self.record.index, self._step)

    async def _record_invalid_entry(self, error: Exception) -> None:
        journal, record, failure = self._run.journal, self.record, encode(describe_failure(error))
        if journal is None:
            return
        if await journal.record_invalid_entry(record.id, record.index, self._entry.verb, failure):
            await self._change_id()
            await journal.record_invalid_entry(record.id, record.index, self._entry.verb, failure)

    async def _copy_equal(self, known: Submission) -> BatchItem:
        """Copy the outcome of an equal request of this batch, so that it is paid once."""
        equal = await self._run.find(self.record.id)
        if equal is None:
            return self._end(
                "not_sent", known, InvalidRequestError("The equal entry before it in this batch was not sent.")
            )
        copy = equal.replace(index=self.record.index, cost=0.0, meta=self.record.meta)
        self._run.count(copy)
        return copy

    def _show_row(self, row: ItemRow, known: Submission, **changed: Any) -> BatchItem:
        item = to_item(row)
        meta = item.meta if self.record.meta is None else self.record.meta
        return item.replace(index=self.record.index, prompt=known.prompt, meta=meta, **changed)

    def _end(self, state: ItemState, known: Submission | None, error: Exception) -> BatchItem:
        item = self.record.show(state, known, error=error)
        self._run.count(item)
        return item
