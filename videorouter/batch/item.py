"""The walk of one batch item: what the journal knows, what it may cost, the call, and what is written down of it.

The order of the writes is the promise: intent before the first byte, task id before the first look, result before the
caller sees it. What a state means is decided in ``journal/states.py``, what may be spent in ``journal/budget.py``.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec

from videorouter.batch.entries import name_refused
from videorouter.batch.run import name_duplicate, name_mismatch
from videorouter.call.tasks import resume_job, run_job
from videorouter.call.uploads import needs_upload
from videorouter.errors import (
    ConfigurationError,
    InvalidRequestError,
    JournalError,
    OutcomeUnknownError,
    Phase,
    VideoRouterError,
)
from videorouter.journal.budget import to_micros
from videorouter.journal.journal import Ending, Intent
from videorouter.journal.records import (
    encode,
    find_inline,
    read_failure,
    show_recorded,
    spell_inputs,
    tell_refusal,
)
from videorouter.journal.states import describe_failure, digest_request, judge_error, keep_doubt
from videorouter.models import BatchItem, Task, VideoResult

if TYPE_CHECKING:
    from videorouter.batch.entries import Entry
    from videorouter.batch.run import BatchRun
    from videorouter.call.prepare import RequestBuilder
    from videorouter.call.requests import Submission
    from videorouter.journal.states import Recorded
    from videorouter.models import ItemState


class FatalError(Exception):
    """Carries the error that ends a whole batch, and not only one item of it."""

    def __init__(self, error: VideoRouterError) -> None:
        super().__init__(str(error))
        self.error = error


class _OrphanError(Exception):
    """An edit whose parent has no video. It was not sent."""


class _TakenError(Exception):
    """The id of an entry is an earlier one's. It was not sent."""


class Item:
    """One item on its way.

    Args:
        books: What the batch shares.
        builder: Makes the requests.
        index: Its place in the input.
        entry: What is asked for.
        given: The id that it was given.
        before: For a step of a chain, the item whose video it edits.
        step: Which step of the chain it is, from 1.
    """

    __slots__ = (
        "_before",
        "_builder",
        "_doubt",
        "_earlier",
        "_filed",
        "_future",
        "_given",
        "_intended",
        "_options",
        "_outcome",
        "_parent",
        "_priced",
        "_reserved",
        "_spent",
        "_step",
        "_submission",
        "_task",
        "_unknown",
        "books",
        "digest",
        "entry",
        "id",
        "index",
    )

    def __init__(
        self,
        books: BatchRun,
        builder: RequestBuilder,
        index: int,
        entry: Entry,
        *,
        given: str | None = None,
        before: BatchItem | None = None,
        step: int = 0,
    ) -> None:
        self.books: BatchRun = books
        self.entry: Entry = entry
        self.index: int = index
        self.id: str = given or ""
        self.digest: str = ""
        self._builder = builder
        self._given = given
        self._before = before
        self._step = step
        self._parent = before.id if before is not None else entry.parent
        common = books.options.common
        self._options: dict[str, Any] = {**common, **entry.options} if entry.options else common
        self._submission: Submission | None = None
        self._future: asyncio.Future[BatchItem | None] | None = None
        self._outcome: BatchItem | None = None
        self._doubt: BatchItem | None = None
        self._earlier: Recorded | None = None
        self._task: Task | None = None
        self._filed = False
        self._intended = False
        self._priced = 0
        self._spent = 0.0
        self._reserved = 0
        self._unknown = 0.0

    async def take(self) -> BatchItem:
        """Item to the end of this run.

        Returns:
            The item; ``error`` on it is the exception.

        Raises:
            FatalError: The batch cannot go on.
        """
        if self._given is not None:
            self._future = self.books.enter(self._given)
        try:
            self._outcome = await self._take()
            return self._outcome
        finally:
            if self._future is not None:
                self.books.leave(self.id, self._future, self._outcome)
            if self._given is not None and self.books.fresh and not self._filed:
                self.books.remember(self._given)

    async def _take(self) -> BatchItem:
        books = self.books
        try:
            known = await self._describe()
        except Exception as error:  # noqa: BLE001  one broken entry never loses the others
            return await self._refuse(error)
        self.digest = digest_request(known.verb, known.body)
        if books.fresh and self._given is not None and self._future is None:
            return await self._step_aside(counted=True)
        try:
            named = books.name_at_once(self.digest, self._given, self.index)
            self.id, times, recorded = named or await books.name(self.digest, self._given, self.index)
        except InvalidRequestError:
            return await self._step_aside(counted=True)
        except JournalError as error:
            books.note_error(error)
            return self._end("not_sent", known, error=error)
        if books.options.deduplicate and self._given is None:
            if times > 1:
                return await self._copy_twin(known)
            self._future = books.enter(self.id)
        if recorded is None or not recorded.digest:
            return await self._send(known)
        if recorded.digest != self.digest:
            raise FatalError(name_mismatch(recorded, self.index, books.journal))
        self._unknown = recorded.unknown
        self._spent = recorded.cost or 0.0
        return await self._resume(recorded, known)

    async def _describe(self) -> Submission:
        """The request, as far as it is known before anything is uploaded and before a parent has a video."""
        entry = self.entry
        if entry.broken is not None:
            raise entry.broken
        if needs_upload(self._options):
            fields = await spell_inputs(self._options)
            video = entry.video if self._parent is None else f"item:{self._parent}"
            return self._builder.build(entry.verb, entry.prompt, fields, video=video)
        if self._parent is not None:
            return self._builder.build(entry.verb, entry.prompt, self._options, video=f"item:{self._parent}")
        self._submission = await self._builder.prepare(entry.verb, entry.prompt, self._options, video=entry.video)
        return self._submission

    async def _complete(self) -> Submission:
        """The request as it goes on the wire.

        Raises:
            _OrphanError: The item that it builds on has no video.
            VideoRouterError: An input cannot be used or uploaded.
        """
        video = self.entry.video if self._parent is None else await self._find_parent(self._parent)
        self._submission = await self._builder.prepare(self.entry.verb, self.entry.prompt, self._options, video=video)
        return self._submission

    async def _find_parent(self, parent: str) -> VideoResult:
        item = self._before if self._before is not None else await self.books.find(parent, self._given)
        if item is None:
            raise InvalidRequestError(
                f"There is no item {parent!r} before this one, so its video cannot be edited. edit_of names the id of "
                "an earlier entry (without a journal: one of the last 16,384)."
            )
        if item.result is None:
            raise _OrphanError(
                f"Item {parent!r}, whose video this one edits, is {item.state.replace('_', ' ')}. This one was not sent; it is when the "
                "batch runs again and the other one is done."
            )
        return item.result

    async def _resume(self, recorded: Recorded, known: Submission) -> BatchItem:
        books = self.books
        action = books.decide(recorded)
        if action == "send":
            failure = read_failure(recorded.failure)
            if recorded.state == "not_sent" and failure is not None and failure.in_doubt:
                self._doubt = self._show_recorded(recorded, known, state="in_doubt")
                self._earlier = recorded
            return await self._send(known)
        if action == "poll":
            return await self._poll(recorded, known)
        item = self._show_recorded(recorded, known)
        if action == "doubt":
            verdict = await self._ask(item)
            if verdict != "report":
                self._doubt, self._earlier = item, recorded
                return await self._send(
                    known, asked=True, key=recorded.idempotency_key if verdict == "replay" else None
                )
        elif action == "collect" and books.journal is not None:
            item = await books.collect(books.journal, item)
        books.note(item, recorded.unknown)
        return item

    async def _send(self, known: Submission, *, asked: bool = False, key: str | None = None) -> BatchItem:
        """Send, and once more where the caller wants that done about an unknown outcome."""
        while True:
            item = await self._send_once(known, key)
            if item.state == "in_doubt" and not asked:
                asked = True
                sent = self._submission
                verdict = await self._ask(item)
                if verdict != "report":
                    self._doubt, self._earlier = item, None
                    key = sent.idempotency_key if sent is not None and verdict == "replay" else None
                    continue
            self.books.note(item, self._unknown)
            return item

    async def _ask(self, item: BatchItem) -> str:
        try:
            return await self.books.judge_doubt(item)
        except asyncio.CancelledError:
            self.books.note(item, self._unknown)
            raise
        except ConfigurationError as error:
            self.books.note(item, self._unknown)
            raise FatalError(error) from error
        except Exception as error:  # noqa: BLE001  a function of the caller's must not lose an item
            self.books.stop(f"on_outcome_unknown failed: {error}")
            return "report"

    async def _send_once(self, known: Submission, key: str | None) -> BatchItem:
        books = self.books
        try:
            submission = self._submission or await self._complete()
            if key is not None:
                submission = msgspec.structs.replace(submission, idempotency_key=key)
            self._priced = books.find_price(submission)
            micros = books.overruns.correct(submission.model, self._priced) if self._priced else 0
            books.check_running()
            if micros or books.purse.cap is not None:
                await books.reserve(micros)
        except _OrphanError as error:
            return self._stay("not_sent", known, InvalidRequestError(str(error)))
        except VideoRouterError as error:
            books.note_error(error)
            return self._stay(judge_error(error, sent=False), known, error)
        except Exception as error:  # noqa: BLE001  a function of the caller's must not lose the other items
            named = InvalidRequestError(f"This entry could not be prepared: {type(error).__name__}: {error}")
            named.__cause__ = error
            return self._stay("refused", known, named)
        self._submission = submission
        self._reserved = micros
        self._intended = False
        self._task = None
        books.in_flight += 1
        try:
            result = await run_job(
                books.caller,
                submission,
                intent=self._intend,
                accepted=self._accept,
                patient=True,
            )
            return await self._finish(result, submission, replayed=key is not None)
        except asyncio.CancelledError:
            await self._give_up(submission)
            raise
        except _TakenError:
            books.purse.release(self._reserved)
            return await self._step_aside()
        except Exception as error:  # noqa: BLE001  one failure never loses the others
            return await self._fail(error, submission)
        finally:
            books.leave_flight()

    async def _poll(self, recorded: Recorded, known: Submission) -> BatchItem:
        """Collect what an earlier run has paid for."""
        books = self.books
        self._reserved = self._priced = to_micros(recorded.reserved)
        self._intended = True
        self._task = task = Task(
            id=recorded.task_id,
            model=recorded.model,
            request_id=recorded.request_id,
            idempotency_key=recorded.idempotency_key,
            poll_url=recorded.poll_url,
        )
        books.in_flight += 1
        try:
            result = await resume_job(books.caller, task, timeout=known.timeout)
            item = await self._finish(result, known, replayed=False)
        except asyncio.CancelledError:
            books.note(self._show("accepted", known), self._unknown)
            raise
        except Exception as error:  # noqa: BLE001  one failure never loses the others
            item = await self._fail(error, known)
        finally:
            books.leave_flight()
        books.note(item, self._unknown)
        return item

    async def _intend(self) -> None:
        """Write down that the request is about to be sent. What this raises keeps it from being sent."""
        submission, journal = self._submission, self.books.journal
        self.books.check_running()
        if submission is None or journal is None:
            self._intended = True
            return
        item = await journal.intend(
            Intent(
                id=self.id,
                new=self.books.fresh and not self._filed,
                position=self.index,
                digest=self.digest,
                verb=submission.verb,
                model=submission.model,
                request=submission.body.decode("utf-8", "replace"),
                idempotency_key=submission.idempotency_key,
                reserved=self._reserved / 1_000_000,
                parent=self._parent,
            )
        )
        if item is None:
            raise _TakenError
        self.id = item
        self._filed = self._intended = True
        self.books.check_running()
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            await asyncio.sleep(0)  # cancelled while it was written down: it ends here, before the first byte

    async def _accept(self, task: Task) -> None:
        """Write down what the accepted task is called, before the first look at it."""
        self._task = task
        self.books.note_success()
        if self.books.journal is not None:
            await self.books.accept(self.id, task)

    async def _finish(self, result: VideoResult, submission: Submission, *, replayed: bool) -> BatchItem:
        books = self.books
        books.overruns.note(submission.model, self._priced, result.cost)
        cost = books.purse.confirm(self._reserved, self._priced, result.cost)
        books.note_success()
        cleared = self._unknown if replayed else 0.0
        if cleared:
            books.purse.forget(cleared)
            self._unknown = 0.0
        task_id = result.task_id or (self._task.id if self._task is not None else None)
        if books.journal is not None:
            await books.write(
                Ending(
                    id=self.id,
                    state="done",
                    cost=cost,
                    unknown=-cleared,
                    result=encode(result),
                    task_id=task_id,
                    request_id=result.request_id,
                    inline=find_inline(result),
                )
            )
        return self._show("done", submission, result=result, cost=cost, task_id=task_id)

    async def _fail(self, error: Exception, submission: Submission) -> BatchItem:
        books = self.books
        known_task = self._task.id if self._task is not None else None
        state = judge_error(error, sent=self._intended, task_id=known_task)
        if isinstance(error, VideoRouterError):
            known_task = known_task or error.task_id
        if self._doubt is not None and state in {"not_sent", "refused"}:
            books.note_error(error)
            return await self._stay_in_doubt(self._doubt, submission, state, error)
        await self._settle(state, describe=error, task_id=known_task)
        books.note_error(error)
        return self._show(state, submission, error=error, task_id=known_task)

    async def _give_up(self, submission: Submission) -> None:
        """The call was cancelled: write down what is known of it, and let the cancellation go on."""
        books = self.books
        key = submission.idempotency_key
        doubt = next(
            (record for record in reversed(books.caller.shared.in_doubt) if record.idempotency_key == key), None
        )
        caught = doubt.__dict__.get("result_") if doubt is not None else None
        if isinstance(caught, VideoResult):
            books.note(await self._finish(caught, submission, replayed=False), self._unknown)
            return
        task_id = self._task.id if self._task is not None else doubt.task_id if doubt is not None else None
        state: ItemState = "accepted" if task_id else "in_doubt" if doubt is not None else "not_sent"
        if state == "not_sent" and self._doubt is not None:
            books.note(await self._stay_in_doubt(self._doubt, submission), self._unknown)
            return
        if state == "accepted" and self._task is None:
            await books.accept(self.id, Task(id=task_id))
        reason = None
        if doubt is not None and state == "in_doubt":
            reason = OutcomeUnknownError(
                "The batch was closed while this request ran: it may have been accepted and billed. It is not sent again "
                "unless you say so: on_outcome_unknown='resend', or `videorouter batch settle`.",
                idempotency_key=key,
                model=submission.model,
                phase=Phase(doubt.phase) if doubt.phase else None,
            )
        await self._settle(state, describe=reason, task_id=task_id)
        books.note(self._show(state, submission, error=reason, task_id=task_id), self._unknown)

    @property
    def _decided(self) -> bool:
        """Whether somebody has said of this very item, which is in doubt, that it be sent again."""
        return self._earlier is not None and self._earlier.state == "not_sent"

    def _stay(self, state: ItemState, known: Submission, error: Exception) -> BatchItem:
        """Nothing of it was written down or sent: what was in doubt before is so still."""
        return self._doubt if self._doubt is not None and not self._decided else self._show(state, known, error=error)

    async def _stay_in_doubt(
        self, doubt: BatchItem, known: Submission, state: ItemState = "not_sent", error: Exception | None = None
    ) -> BatchItem:
        """Sending it once more bought nothing: what nobody knows of the sending before is as it was."""
        self.books.purse.release(self._reserved)
        if state == "refused" and error is not None:
            doubt = tell_refusal(doubt, error)
        state = keep_doubt(state, decided=self._decided)
        failure, earlier = doubt.failure, self._earlier
        if self._intended:
            await self.books.write(
                Ending(
                    id=self.id,
                    state=state,
                    failure=None if failure is None else encode(failure),
                    request_id=None if failure is None else failure.request_id,
                    idempotency_key=None if earlier is None else earlier.idempotency_key,
                    sent=None if earlier is None else earlier.sent,
                )
            )
        return doubt if state == "in_doubt" else self._show(state, known, error=error)

    async def _settle(self, state: ItemState, *, describe: Exception | None, task_id: str | None) -> None:
        """Move the money of a call that brought no video, and write it down."""
        books = self.books
        added = 0.0
        if state in {"in_doubt", "failed"}:
            added = books.purse.doubt(self._reserved)
            self._unknown += added
        elif state != "accepted":
            books.purse.release(self._reserved)
        if books.journal is None or not self._intended:
            return
        await books.write(
            Ending(
                id=self.id,
                state=state,
                reserved=self._reserved / 1_000_000 if state == "accepted" else 0.0,
                unknown=added,
                failure=None if describe is None else encode(describe_failure(describe)),
                task_id=task_id,
                request_id=getattr(describe, "request_id", None),
            )
        )

    async def _refuse(self, error: Exception) -> BatchItem:
        """The entry itself cannot be used: nothing was sent for it."""
        named = error
        if not isinstance(error, VideoRouterError):
            named = InvalidRequestError(f"This entry could not be read: {type(error).__name__}: {error}")
            named.__cause__ = error
        if self._given is None or self._future is None or self.books.has_met(self._given):
            await self._leave_id()
        else:
            self.books.remember(self._given)
        await self._file_refusal(named)
        return self._end("refused", None, error=named)

    async def _step_aside(self, *, counted: bool = False) -> BatchItem:
        """Leave the id to the entry that came first, and be refused under another; ``counted`` has that counted here."""
        error = name_duplicate(self._given or self.id)
        await self._leave_id()
        await self._file_refusal(error)
        return self._end("refused", None, error=error) if counted else self._show("refused", None, error=error)

    async def _leave_id(self) -> None:
        """Leave the id, where it has one, to the entry that has it too, and take one that nobody can give."""
        if self._future is not None:
            future, self._future = self._future, None
            await self.books.give_back(self.id, future)
        self.id = name_refused(self.index, self._step)

    async def _file_refusal(self, error: Exception) -> None:
        journal, failure = self.books.journal, encode(describe_failure(error))
        if journal is None:
            return
        try:
            if await journal.refuse(self.id, self.index, self.entry.verb, failure):
                await self._leave_id()
                await journal.refuse(self.id, self.index, self.entry.verb, failure)
        except JournalError as trouble:
            self.books.note_error(trouble)

    async def _copy_twin(self, known: Submission) -> BatchItem:
        """The same request ran, or runs, in this batch: its outcome is this one's too, and is paid once."""
        twin = await self.books.find(self.id)
        if twin is None:
            return self._end("not_sent", known, error=InvalidRequestError("Its twin in this batch was not sent."))
        copy = twin.replace(index=self.index, cost=None)
        self.books.note(copy)
        return copy

    def _show_recorded(self, recorded: Recorded, known: Submission, **changed: Any) -> BatchItem:
        return show_recorded(recorded).replace(index=self.index, prompt=known.prompt, **changed)

    def _end(self, state: ItemState, known: Submission | None, *, error: Exception) -> BatchItem:
        item = self._show(state, known, error=error)
        self.books.note(item)
        return item

    def _show(
        self,
        state: ItemState,
        known: Submission | None,
        *,
        result: VideoResult | None = None,
        error: Exception | None = None,
        cost: float | None = None,
        task_id: str | None = None,
    ) -> BatchItem:
        prompt = self.entry.prompt if isinstance(self.entry.prompt, str) else None
        if self._spent:
            cost = self._spent + (cost or 0.0)
        item = BatchItem(
            index=self.index,
            id=self.id or f"{self.digest}-at{self.index}",
            state=state,
            prompt=prompt,
            model=known.model if known is not None else None,
            result=result,
            failure=None if error is None else describe_failure(error),
            cost=cost,
            task_id=task_id,
        )
        return item if error is None else item.with_extras(error_=error)
