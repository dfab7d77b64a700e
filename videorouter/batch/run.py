"""The options of a batch and the state that its items share: journal, money, counts, ids, and waits on each other.

Nothing is sent here, and memory does not grow with the input: what must be known of a million items is in the journal.
"""

from __future__ import annotations

import asyncio
import inspect
import os
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from videorouter.batch.breaker import CircuitBreaker
from videorouter.batch.prices import Prices
from videorouter.call.requests import OPTIONS, Verb, describe_near_miss, find_near_miss
from videorouter.config import check_count
from videorouter.downloads.names import DEFAULT_NAME, check_template
from videorouter.downloads.save import still_stands
from videorouter.errors import (
    BudgetExceededError,
    ClientClosedError,
    ConfigurationError,
    InvalidRequestError,
    JournalError,
    JournalMismatchError,
    VideoRouterError,
)
from videorouter.journal.budget import Budget, check_budget, to_dollars, to_micros
from videorouter.journal.identity import name_item
from videorouter.journal.journal import Identity
from videorouter.journal.records import read_failure, read_media, read_mismatches, restore_inline, show_path, to_item
from videorouter.journal.states import (
    POLICIES,
    SETTLED,
    STOP_AFTER,
    UNCERTAIN,
    Counts,
    ItemRow,
    StopRule,
    check_retry,
    decide_resumption,
)
from videorouter.models import BatchItem, ItemState
from videorouter.places import ObjectURL, read_url
from videorouter.plain import as_number

if TYPE_CHECKING:
    from videorouter.batch.consent import StreamGuard
    from videorouter.call.caller import Caller
    from videorouter.config import ClientSettings
    from videorouter.journal.journal import Ending, Fingerprint, Journal, SavedFile
    from videorouter.journal.states import Resumption
    from videorouter.models import Task

DoubtPolicy: TypeAlias = str | Callable[[BatchItem], str | Awaitable[str]]
REMEMBERED = 16_384
"""Distinct requests, and finished parents, that a batch without a journal remembers."""
MOST_AT_ONCE = 1000
_NOT_HERE = frozenset(
    {"models", "fallback_on_failure", "idempotency_key", "prompt", "id", "then", "edit_of", "video", "video_id", "meta"}
)


class BatchOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options of one batch, checked. Money is in US dollars."""

    verb: Verb
    common: dict[str, Any]
    limit: int
    ordered: bool = False
    journal: Path | None = None
    save_to: Path | ObjectURL | None = None
    name: str = DEFAULT_NAME
    max_cost: float | None = None
    price: Any = None
    on_outcome_unknown: Any = "report"
    deduplicate: bool = False
    new: bool = False
    stop_after: int = STOP_AFTER
    retry: frozenset[ItemState] = frozenset()


_OPTIONS = (*OPTIONS, "concurrency", *({*BatchOptions.__struct_fields__} - {"verb", "common", "limit"}))
"""Options of a batch that are not fields of the gateway."""


def check_options(settings: ClientSettings, verb: Verb, given: Mapping[str, Any]) -> BatchOptions:
    """Check the options of ``generate_many``; all others belong to every request."""
    common = dict(given)

    def take(name: str, default: Any = None) -> Any:
        return common.pop(name, default)

    max_cost, price, policy = take("max_cost"), take("price"), take("on_outcome_unknown", "report")
    concurrency, journal, save_to = take("concurrency"), take("journal"), take("save_to")
    ordered, deduplicate, new = (bool(take(switch, False)) for switch in ("ordered", "deduplicate", "new"))
    name = take("name") or DEFAULT_NAME
    stop_after, retry = take("stop_after", STOP_AFTER), take("retry", ())
    check_budget(max_cost, price)
    wrong = _NOT_HERE & common.keys()
    if wrong:
        raise ConfigurationError(f"A batch takes no {', '.join(sorted(wrong))} for all its entries.")
    for field in common:
        near = find_near_miss(field, _OPTIONS)
        if near is not None:
            raise ConfigurationError(describe_near_miss(field, near))
    if not callable(policy) and policy not in POLICIES:
        raise ConfigurationError(
            "on_outcome_unknown must be 'report', 'resend' (you accept a second charge), 'replay' (the gateway honours "
            f"idempotency keys) or a function of the item that gives one of these, not {policy!r}."
        )
    if policy == "replay":
        check_replay(settings)
    most = settings.max_concurrency or MOST_AT_ONCE
    return BatchOptions(
        verb=verb,
        common={field: value for field, value in common.items() if value is not None},
        limit=most if concurrency is None else min(most, check_count(concurrency, "concurrency", least=1)),
        ordered=ordered,
        journal=None if journal is None else check_path(journal, "journal"),
        save_to=None if save_to is None else _check_folder(save_to),
        name=check_template(name),
        max_cost=as_number(max_cost),
        price=price,
        on_outcome_unknown=policy,
        deduplicate=deduplicate,
        new=new,
        stop_after=check_count(stop_after, "stop_after", least=1),
        retry=check_retry(retry),
    )


def check_replay(settings: ClientSettings) -> None:
    """Refuse to replay on a gateway that is not declared to honour keys."""
    if settings.idempotency != "honoured":
        raise ConfigurationError(
            "on_outcome_unknown='replay' sends the same key again, which is only safe where the gateway honours it: "
            "declare that with AsyncVideoRouter(idempotency='honoured'), or choose 'report' or 'resend'."
        )


def _check_folder(value: Any) -> Path | ObjectURL:
    text = os.fspath(value) if isinstance(value, str | os.PathLike) else ""
    try:
        url = read_url(text if text.endswith("/") else f"{text}/")
    except InvalidRequestError as error:
        raise ConfigurationError(f"save_to: {error} Nothing was sent.") from error
    return check_path(value, "save_to") if url is None else url


def check_path(value: str | os.PathLike[str], name: str) -> Path:
    """Check the path of a file or a folder of this disk."""
    try:
        text: object = os.fspath(value)
    except TypeError as error:
        raise ConfigurationError(f"{name} must be a path, not {type(value).__name__}.") from error
    if not isinstance(text, str) or not text.strip() or "\0" in text:
        raise ConfigurationError(f"{name} must be a path, not {value!r}.")
    if "://" in text:
        raise ConfigurationError(f"{name} must be a path, not the URL {text!r}. Nothing was sent.")
    return Path(text).expanduser()


class BatchRun:
    """The state that the items of one batch share."""

    def __init__(self, caller: Caller, options: BatchOptions, stop: Callable[[str], None]) -> None:
        self.caller = caller
        self.options = options
        self.stop = stop
        self.journal: Journal | None = None
        self.guard: StreamGuard | None = None
        """Of an input that could not be looked up whole in a journal that holds something."""
        self.budget: Budget = Budget(options.max_cost)
        self.prices: Prices = Prices(options.price, needed=options.max_cost is not None)
        self.counts: Counts = Counts()
        self.in_flight: int = 0
        self.stopped: str | None = None
        self.cause: VideoRouterError | None = None
        """The error that stopped dispatch, where one did."""
        self.breaker: CircuitBreaker = CircuitBreaker(options.stop_after, self.stop_for)
        self._rule = StopRule(options.stop_after)
        self._money_back = asyncio.Event()
        self._occurrences: dict[str, int] = {}
        self._ids: set[int] = set()
        self._running: dict[str, asyncio.Future[BatchItem | None]] = {}
        self._waiting: dict[str, str] = {}
        """Items that wait for another one, by their given ids."""
        self._finished: OrderedDict[str, BatchItem] = OrderedDict()
        self._unwritten: list[Ending] = []

    async def open(self, journal: Journal) -> None:
        """Load what earlier runs recorded and spent."""
        self.journal = journal
        await self.prices.take_up(journal)
        totals = await journal.totals()
        self.budget.carry_over(reserved=totals.reserved, confirmed=totals.cost, unknown=totals.unknown)

    async def close(self) -> None:
        """Retry the writes that failed, and close the journal."""
        if self.journal is None:
            return
        try:
            while self._unwritten:
                await self.journal.record_ending(self._unwritten[0])
                del self._unwritten[0]
        except JournalError as error:
            self.stop_for(error)
        finally:
            await self.journal.aclose()

    def count(self, item: BatchItem, unknown: float = 0.0, *, doubted: bool = False) -> None:
        """Count an item in its final state; ``unknown`` are US dollars that it may have cost.

        ``doubted``: an earlier sending of it is in doubt.
        """
        counts = self.counts
        state, cost = item.state, item.cost
        counts.count(state)
        if cost is not None:
            counts.cost += to_micros(cost)
        if unknown:
            counts.unknown += to_micros(unknown)
        if self.prices.is_free(item.model):
            return
        if state == "done" and cost is None:
            counts.unpriced += 1
        if not unknown and (doubted or state in UNCERTAIN or (state == "failed" and cost is None)):
            counts.unpriced_doubts += 1

    def count_mismatches(self, item: BatchItem) -> None:
        """Count an item whose files, if it has any, are saved."""
        self.counts.mismatched += bool(item.mismatches)

    def note_success(self, record: object) -> None:  # noqa: ARG002  a queue asks whose it is
        """Reset the count of equal errors after an accepted request."""
        self._rule.note_success()

    def decide_state(self, state: ItemState, error: Exception) -> ItemState:  # noqa: ARG002  a queue asks for it
        """Return the state of an item after its call raised."""
        return state

    async def rest(self, item: str) -> None:
        """Record that a claimed item was refused for now; a batch claims none."""

    def note_error(self, error: BaseException, record: object = None) -> None:  # noqa: ARG002  as above
        """Stop dispatch at an error that every further item would meet."""
        reason = self._rule.judge(error)
        if reason is not None:
            self.stop_for(error, reason)

    def stop_for(self, error: BaseException, reason: str | None = None) -> None:
        """Stop dispatch because of an error, and keep it."""
        if self.cause is None and self.stopped is None and isinstance(error, VideoRouterError):
            self.cause = error
        self.stop(reason or str(error))

    @property
    def unwritten(self) -> int:
        """Endings that could not be written."""
        return len(self._unwritten)

    def check_running(self) -> None:
        """Raise once dispatch has stopped."""
        if self.stopped is not None:
            raise ClientClosedError(f"The batch had stopped before this entry was sent: {self.stopped}")

    async def reserve(self, micros: int) -> None:
        """Reserve money for one request; wait while running requests may return some."""
        while not self.budget.reserve(micros):
            if self.in_flight == 0:
                left = to_dollars(max(0, (self.budget.cap or 0) - self.budget.committed))
                raise BudgetExceededError(
                    f"max_cost is reached: the next item may cost ${to_dollars(micros):.6g}, and ${left:.6g} of "
                    f"${to_dollars(self.budget.cap or 0):.6g} are left. It was not sent. Raise max_cost and run the same "
                    "batch with its journal again: it goes on from here."
                )
            await self._money_back.wait()
            self.check_running()

    def end_request(self) -> None:
        """Note that a request has ended and may have returned money."""
        self.in_flight -= 1
        if self.options.max_cost is not None:
            self.wake()

    def wake(self) -> None:
        """Wake those who wait for money or, once the batch has stopped, for the gateway."""
        if self.stopped is not None:
            self.breaker.stop()
        waiting, self._money_back = self._money_back, asyncio.Event()
        waiting.set()

    async def identify(self, entry: Fingerprint, given: str | None, index: int, *, taken: bool = False) -> Identity:
        """Return an entry's identity and row; ``taken``: another entry of its id runs now."""
        again = not self.options.deduplicate
        if given is not None:
            if taken:
                raise name_duplicate(given)
            if self.journal is not None:
                identity = await self.journal.identify(entry, given)
            else:
                identity = Identity(id=given, times=1 if await self.claim(given) else 2)
            if identity.times > 1:
                raise name_duplicate(given)
            return identity
        if self.journal is not None:
            return await self.journal.identify(entry, None, again=again)
        times = self._occurrences.get(entry.chain, 0) + 1
        if times == 1 and again and len(self._occurrences) >= REMEMBERED:
            return Identity(id=f"{entry.chain}-at{index}")
        self._occurrences[entry.chain] = times
        return Identity(id=name_item(entry.chain, times if again else 1), times=times)

    async def claim(self, given: str) -> bool:
        """Reserve an id for the first entry that uses it; return whether this is the one."""
        if self.journal is not None:
            return await self.journal.claim(given)
        key, before = hash(given), len(self._ids)
        self._ids.add(key)
        return len(self._ids) > before

    def decide(self, row: ItemRow) -> Resumption:
        """Decide what this run does with an item of the journal."""
        failure = read_failure(row.failure)
        settled = failure is not None and failure.code == SETTLED
        return decide_resumption(row.state, self.options.retry, settled=settled)

    async def find(self, item: str, asker: str | None = None) -> BatchItem | None:
        """Find another item of this batch; wait for a running one, unless that one waits for the ``asker``."""
        running = self._running.get(item)
        if running is not None:
            if asker is None:
                return await asyncio.shield(running)
            if self._waits_for(item, asker):
                return None
            self._waiting[asker] = item
            try:
                return await asyncio.shield(running)
            finally:
                del self._waiting[asker]
        if self.journal is not None:
            row = await self.journal.find(item)
            return None if row is None else to_item(row)
        return self._finished.get(item)

    def _waits_for(self, item: str, asker: str) -> bool:
        """Whether an item is the asker, or waits for it, directly or through others."""
        while item != asker:
            if item not in self._waiting:
                return False
            item = self._waiting[item]
        return True

    def enter(self, item: str) -> asyncio.Future[BatchItem | None] | None:
        """Register a running item that others may wait for, unless one of that id already runs."""
        if item in self._running:
            return None
        future = self._running[item] = asyncio.get_running_loop().create_future()
        return future

    def leave(self, item: str, future: asyncio.Future[BatchItem | None], outcome: BatchItem | None) -> None:
        """Wake those who wait for an item, and remember it for later ones."""
        self._running.pop(item, None)
        if outcome is None:
            future.cancel()
            return
        future.set_result(outcome)
        if self.journal is None:
            self._finished[item] = outcome
            if len(self._finished) > REMEMBERED and not self.options.deduplicate:
                self._finished.popitem(last=False)

    async def hand_back(self, item: str, future: asyncio.Future[BatchItem | None]) -> None:
        """Return an id to its first item: those who wait for the id get that item."""
        self._running.pop(item, None)
        first: BatchItem | None = None
        try:
            first = await self.find(item)
        finally:
            future.set_result(first)

    async def record_ending(self, ending: Ending) -> None:
        """Commit an ending. If that fails, the item is returned all the same, and dispatch stops."""
        if self.journal is None:
            return
        try:
            await self.journal.record_ending(ending)
        except JournalError as error:
            self._unwritten.append(ending)
            self.stop_for(error)

    async def record_task(self, item: str, task: Task) -> None:
        """Commit a task id. If that fails, the paid task is still collected, and dispatch stops."""
        if self.journal is None or not task.id:
            return
        try:
            await self.journal.record_task(item, task.id, task.poll_url, task.request_id)
        except JournalError as error:
            self.stop_for(error)

    async def collect(self, journal: Journal, item: BatchItem) -> BatchItem:
        """Restore a finished item's videos from the journal: inline bytes, and files."""
        if item.result is not None and any(video.url is None for video in item.result.videos):
            restore_inline(item.result, await journal.find_inline(item.id))
        saved = await journal.find_files(item.id)
        if self.options.save_to is not None:  # what is gone is fetched again
            saved = tuple([file for file in saved if await _is_there(file)])
        if not saved:
            return item.replace(files=())
        files = tuple(str(show_path(file.path, self.options.save_to)) for file in saved)
        mismatches = tuple(each for file in saved for each in read_mismatches(file.mismatches))
        return item.replace(
            files=files, sha256=saved[0].sha256, media=read_media(saved[0].media), mismatches=mismatches
        )

    async def ask_policy(self, item: BatchItem) -> str:
        """Ask the caller what to do about an item that may have been billed."""
        policy = self.options.on_outcome_unknown
        if callable(policy):
            policy = policy(item)
            if inspect.isawaitable(policy):
                policy = await policy
        if policy is None:
            policy = "report"
        if policy not in POLICIES:
            raise InvalidRequestError(f"on_outcome_unknown gave {policy!r}; it must give one of {', '.join(POLICIES)}.")
        if policy == "replay":
            check_replay(self.caller.settings)
        return str(policy)


async def _is_there(file: SavedFile) -> bool:
    """Whether a saved file still stands. Where a store gives no answer, saving it again says why."""
    try:
        return await still_stands(file.path, file.size)
    except VideoRouterError:
        return False


def name_duplicate(given: str) -> InvalidRequestError:
    """Build the error of an entry whose id another entry of its batch has."""
    return InvalidRequestError(
        f"The id {given!r} came twice in this batch. The second one was not sent. Give each entry an id of its own."
    )


def name_mismatch(row: ItemRow, index: int, journal: Journal | None) -> JournalMismatchError:
    """Build the error of an entry whose id is another request's in the journal."""
    return JournalMismatchError(
        f"The journal has item {row.id!r} with another request (position {row.position} then, {index} now). It was "
        "not sent. Give the changed entry another id, or put the input back.",
        path=str(journal.path) if journal is not None else None,
    )


def name_clash(row: ItemRow) -> InvalidRequestError:
    """The error of an entry whose id was made, and is another request's in the journal."""
    return InvalidRequestError(
        f"The id {row.id!r}, which is made for this entry, is another request's in the journal. This entry was not sent. Give "
        "it an id of its own."
    )
