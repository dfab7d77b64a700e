"""What the items of one batch share: its journal, its money, its counts, its ids, and who waits for whom.

Nothing is sent here, and nothing grows with the input: what must be known of a million items is in the journal.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import msgspec

from videorouter.batch.options import check_replay
from videorouter.errors import (
    BudgetExceededError,
    ClientClosedError,
    InvalidRequestError,
    JournalError,
    JournalMismatchError,
    VideoRouterError,
)
from videorouter.journal.budget import Budget, PriceCorrection, find_price, to_dollars, to_micros
from videorouter.journal.records import read_failure, restore_inline, show_recorded, spell_path
from videorouter.journal.states import SETTLED, VERDICTS, Counts, Recorded, StopRule, decide_resumption, name_item

if TYPE_CHECKING:
    from collections.abc import Callable

    from videorouter.batch.options import BatchOptions
    from videorouter.call.caller import Caller
    from videorouter.call.requests import Submission
    from videorouter.journal.journal import Ending, Journal
    from videorouter.journal.states import Resumption
    from videorouter.models import BatchItem, Task

_decode = msgspec.json.Decoder(dict[str, Any]).decode

REMEMBERED = 16_384
"""Distinct requests, and finished parents, that a batch without a journal remembers."""


class BatchRun:
    """The books of one batch.

    Args:
        caller: The client's way to the wire.
        options: The batch's options.
        stop: Called with the reason when dispatch must stop.
    """

    def __init__(self, caller: Caller, options: BatchOptions, stop: Callable[[str], None]) -> None:
        self.caller = caller
        self.options = options
        self.stop = stop
        self.journal: Journal | None = None
        self.purse: Budget = Budget(options.max_cost)
        self.overruns: PriceCorrection = PriceCorrection()
        self.tally: Counts = Counts()
        self.in_flight: int = 0
        self.fresh: bool = False
        """Whether the journal was empty when this run began: then nothing in it need be asked before an intent."""
        self.stopped: str | None = None
        self.cause: VideoRouterError | None = None
        """The error that stopped dispatch, where one did."""
        self._rule = StopRule(options.stop_after)
        self._paid = asyncio.Event()
        self._takes: dict[str, int] = {}
        self._ids: set[int] = set()
        self._living: dict[str, asyncio.Future[BatchItem | None]] = {}
        self._waiting: dict[str, str] = {}
        """Items that wait for another one, by their given ids."""
        self._finished: OrderedDict[str, BatchItem] = OrderedDict()
        self._unwritten: list[Ending] = []

    async def open(self, journal: Journal) -> None:
        """Go on from what earlier runs wrote down and spent."""
        self.journal = journal
        totals = await journal.totals()
        self.fresh = totals.items == 0 and not self.options.deduplicate
        self.purse.carry_over(reserved=totals.reserved, confirmed=totals.cost, unknown=totals.unknown)

    async def close(self) -> None:
        """Write once more what could not be written, and close the journal."""
        if self.journal is None:
            return
        try:
            while self._unwritten:
                await self.journal.finish(self._unwritten[0])
                del self._unwritten[0]
        except JournalError as error:
            self.stop_for(error)
        finally:
            await self.journal.aclose()

    def note(self, item: BatchItem, unknown: float = 0.0) -> None:
        """Count an item in the state in which this run leaves it; ``unknown`` are US dollars that it may have cost."""
        tally = self.tally
        tally.count(item.state)
        if item.cost is not None:
            tally.cost += to_micros(item.cost)
        if unknown:
            tally.unknown += to_micros(unknown)

    def note_success(self) -> None:
        """Something was accepted: no wall stands before the batch."""
        self._rule.note_success()

    def note_error(self, error: BaseException) -> None:
        """Stop dispatch when an error is one that every further item would meet."""
        reason = self._rule.judge(error)
        if reason is not None:
            self.stop_for(error, reason)

    def stop_for(self, error: BaseException, reason: str | None = None) -> None:
        """Stop dispatch because of an error, and remember which one."""
        if self.cause is None and self.stopped is None and isinstance(error, VideoRouterError):
            self.cause = error
        self.stop(reason or str(error))

    @property
    def unwritten(self) -> int:
        """Endings that could not be written down."""
        return len(self._unwritten)

    async def reserve(self, micros: int) -> None:
        """Hold money for one request; waits while requests that run may give some back.

        Raises:
            BudgetExceededError: The cap does not allow it.
        """
        while not self.purse.reserve(micros):
            if self.in_flight == 0:
                left = to_dollars(max(0, (self.purse.cap or 0) - self.purse.committed))
                raise BudgetExceededError(
                    f"max_cost is reached: the next item may cost ${to_dollars(micros):.6g}, and ${left:.6g} of "
                    f"${to_dollars(self.purse.cap or 0):.6g} are left. It was not sent. Raise max_cost and run the same "
                    "batch with its journal again: it goes on from here."
                )
            await self._paid.wait()
            self.check_running()

    def check_running(self) -> None:
        """Let nothing be sent once dispatch has stopped.

        Raises:
            ClientClosedError: It has.
        """
        if self.stopped is not None:
            raise ClientClosedError(f"The batch had stopped before this entry was sent: {self.stopped}")

    def wake(self) -> None:
        """Let those who wait for money look again."""
        waiting, self._paid = self._paid, asyncio.Event()
        waiting.set()

    def leave_flight(self) -> None:
        """A request has ended: whoever waits for money may look again."""
        self.in_flight -= 1
        if self.options.max_cost is not None:
            self.wake()

    def name_at_once(self, digest: str, given: str | None, index: int) -> tuple[str, int, Recorded | None] | None:
        """As ``name``, where no journal need be asked; ``None`` where one must.

        In a fresh journal an entry without an id is named by its intent, which also tells whether an id is taken.

        Raises:
            InvalidRequestError: This run has met the given id before.
        """
        if self.fresh:
            self._check_new(given)
            return given or "", 1, None
        if self.journal is not None:
            return None
        if given is not None:
            self._check_new(given)
            self.remember(given)
            return given, 1, None
        again = not self.options.deduplicate
        times = self._takes.get(digest, 0) + 1
        if times == 1 and again and len(self._takes) >= REMEMBERED:
            return f"{digest}-at{index}", 1, None
        self._takes[digest] = times
        return name_item(digest, times if again else 1), times, None

    async def name(self, digest: str, given: str | None, index: int) -> tuple[str, int, Recorded | None]:
        """The id of an entry, how often this run has met it, and what the journal knows of it.

        Raises:
            InvalidRequestError: This run has met the given id before.
        """
        if self.journal is None:
            return given or f"{digest}-at{index}", 1, None
        self._check_new(given)
        met = await self.journal.meet(digest, given, again=not self.options.deduplicate)
        if given is not None and met.times > 1:
            raise name_duplicate(given)
        return met.id, met.times, met.recorded

    def _check_new(self, given: str | None) -> None:
        if given is not None and self.has_met(given):
            raise name_duplicate(given)

    def has_met(self, given: str) -> bool:
        """Whether this run keeps an id of which there is no row in a journal."""
        return hash(given) in self._ids

    def remember(self, given: str) -> None:
        """Keep an id of which there is no row in a journal."""
        self._ids.add(hash(given))

    def decide(self, recorded: Recorded) -> Resumption:
        """What this run does with an item that the journal knows."""
        failure = read_failure(recorded.failure)
        settled = failure is not None and failure.code == SETTLED
        return decide_resumption(recorded.state, self.options.retry, settled=settled)

    async def find(self, item: str, asker: str | None = None) -> BatchItem | None:
        """How another item of this batch stands; waits for one that runs, unless that one waits for the ``asker``."""
        living = self._living.get(item)
        if living is not None:
            if asker is None:
                return await asyncio.shield(living)
            if self._waits_for(item, asker):
                return None
            self._waiting[asker] = item
            try:
                return await asyncio.shield(living)
            finally:
                del self._waiting[asker]
        if self.journal is not None:
            recorded = await self.journal.find(item)
            return None if recorded is None else show_recorded(recorded)
        return self._finished.get(item)

    def _waits_for(self, item: str, asker: str) -> bool:
        """Whether an item is the asker, or waits for it, itself or through others."""
        while item != asker:
            if item not in self._waiting:
                return False
            item = self._waiting[item]
        return True

    def enter(self, item: str) -> asyncio.Future[BatchItem | None] | None:
        """Let others wait for an item, unless one of that id already runs."""
        if item in self._living:
            return None
        future = self._living[item] = asyncio.get_running_loop().create_future()
        return future

    async def give_back(self, item: str, future: asyncio.Future[BatchItem | None]) -> None:
        """Leave an id to the item that had it first: whoever waits for it means that one."""
        self._living.pop(item, None)
        future.set_result(await self.find(item))

    def leave(self, item: str, future: asyncio.Future[BatchItem | None], outcome: BatchItem | None) -> None:
        """Tell those who wait for an item, and remember it for those who come later."""
        self._living.pop(item, None)
        if outcome is None:
            future.cancel()
            return
        future.set_result(outcome)
        if self.journal is None:
            self._finished[item] = outcome
            if len(self._finished) > REMEMBERED and not self.options.deduplicate:
                self._finished.popitem(last=False)

    async def write(self, ending: Ending) -> None:
        """Commit an ending. When that fails, the item is returned all the same, and dispatch stops."""
        if self.journal is None:
            return
        try:
            await self.journal.finish(ending)
        except JournalError as error:
            self._unwritten.append(ending)
            self.stop_for(error)

    async def accept(self, item: str, task: Task) -> None:
        """Commit a task id. When that fails, the paid task is still collected, and dispatch stops."""
        if self.journal is None or not task.id:
            return
        try:
            await self.journal.accept(item, task.id, task.poll_url, task.request_id)
        except JournalError as error:
            self.stop_for(error)

    async def collect(self, journal: Journal, item: BatchItem) -> BatchItem:
        """A finished item with what the journal keeps of its videos: bytes that came inside the answer, and files."""
        if item.result is not None and any(video.url is None for video in item.result.videos):
            restore_inline(item.result, await journal.find_inline(item.id))
        saved = await journal.find_files(item.id)
        files = tuple(str(spell_path(path, self.options.save_to)) for path, _ in saved)
        return msgspec.structs.replace(item, files=files, sha256=saved[0][1] if saved else item.sha256)

    def find_price(self, submission: Submission) -> int:
        """What a request may cost, in millionths of a dollar.

        Raises:
            InvalidRequestError: A price is needed and there is none, or the caller's function gave no usable number.
        """
        price, needed = self.options.price, self.options.max_cost is not None
        if price is None:
            return 0
        fields: dict[str, Any] = _decode(submission.body) if callable(price) else {"model": submission.model}
        return find_price(price, fields, needed=needed)

    async def judge_doubt(self, item: BatchItem) -> str:
        """What the caller wants done about an item that may have been billed.

        Raises:
            ConfigurationError: The caller wants a replay, and nobody said that the gateway honours keys.
            InvalidRequestError: The caller's function gave something else.
        """
        verdict = self.options.doubt
        if callable(verdict):
            verdict = verdict(item)
            if inspect.isawaitable(verdict):
                verdict = await verdict
        if verdict is None:
            verdict = "report"
        if verdict not in VERDICTS:
            raise InvalidRequestError(
                f"on_outcome_unknown gave {verdict!r}; it must give one of {', '.join(VERDICTS)}."
            )
        if verdict == "replay":
            check_replay(self.caller.settings)
        return str(verdict)


def name_duplicate(given: str) -> InvalidRequestError:
    """The error of an entry whose id another entry of its batch has."""
    return InvalidRequestError(
        f"The id {given!r} came twice in this batch. The second one was not sent. Give each entry an id of its own."
    )


def name_mismatch(recorded: Recorded, index: int, journal: Journal | None) -> JournalMismatchError:
    """The error of an entry whose id is another request's in the journal."""
    return JournalMismatchError(
        f"The journal has item {recorded.id!r} with another request (position {recorded.position} then, {index} now). It was "
        "not sent. Give the changed entry another id, put the input back, or start another journal.",
        path=str(journal.path) if journal is not None else None,
    )
