"""The journal as a worker sees it: the methods of ``journal/journal.py``, carried to the ledger in groups.

Whatever the items of a worker have to say while a group is on its way shares the next one, so that a thousand items
cost a few calls a second. An awaited intent has been committed on the driver's disk, as with a journal of one's own. An
ending is on its way when ``record_ending`` returns, and committed when its block has been left.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, cast

from videorouter.errors import (
    BudgetExceededError,
    ClientClosedError,
    InvalidRequestError,
    JournalError,
    VideoRouterError,
)
from videorouter.integrations.ray.words import (
    Accept,
    Answer,
    Claim,
    Find,
    FindFiles,
    FindInline,
    Finish,
    Intend,
    Leave,
    Meet,
    PlanFile,
    RecordFile,
    Refuse,
    Stop,
    Word,
    encode,
    read_reply,
)
from videorouter.journal.budget import to_dollars, to_micros
from videorouter.journal.identity import name_item
from videorouter.journal.journal import SavedFile

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import TypeAlias

    from videorouter.journal.journal import Ending, Intent
    from videorouter.journal.states import ItemRow

    _Said: TypeAlias = tuple[Word, asyncio.Future[Answer | None] | None]

_ASK_AGAIN = 0.5
_FULL = 400
"""Words of a kind that are worth a call of their own: no more are waited for. No group has more intents: while some are
being committed, others are at the gateway."""
_MOST = 1_000
"""Words of another kind in one group, so that no worker keeps the others waiting."""


class Block:
    """A block of rows in this worker.

    Args:
        start: The place of its first row, which is its name.
        given: The ids that its rows were given, in their order.
    """

    __slots__ = ("claimed", "fresh", "given", "runs", "start", "trouble", "twice")

    def __init__(self, start: int, given: list[str | None]) -> None:
        self.start: int = start
        self.given: list[str | None] = given
        self.claimed: asyncio.Task[None] | None = None
        self.trouble: VideoRouterError | None = None
        """Why its rows cannot be sent here."""
        self.runs: int = 0
        self.fresh: bool = False
        """Whether nobody has met a row of it: then there is nothing to ask about its rows."""
        self.twice: frozenset[int] = frozenset()


class RemoteJournal:
    """The ledger, by the names of a journal's methods.

    Args:
        call: Hands a group to the ledger and brings its reply.
        stop: Called with the reason when nothing more should be sent.
        path: The journal's path, for messages.
        beat: Seconds of silence after which the ledger is told that this worker is alive.
    """

    def __init__(
        self, call: Callable[[bytes], Awaitable[bytes]], stop: Callable[[str], None], *, path: Path, beat: float
    ) -> None:
        self.path = path
        self._call = call
        self._stop = stop
        self._beat = beat
        self.blocks: dict[int, Block] = {}
        """Rows that are in this worker, by place: their blocks."""
        self.room: int = 1 << 30
        """Jobs that may run here at once: where half of them wait for the ledger, little more will come for its next group."""
        self._homes: dict[str, int] = {}
        self._endings: list[_Said] = []
        self._unwritten: list[_Said] = []
        self._pending: list[_Said] = []
        self._intents: list[_Said] = []
        self._full: asyncio.Future[None] | None = None
        self._courier: asyncio.Task[None] | None = None
        self._pulse: asyncio.Task[None] | None = None
        self._last = 0.0
        self._gap = self._least = 0.0
        self._stopped: str | None = None
        self._gone: str | None = None
        self.groups: int = 0

    def start(self) -> None:
        """Begin to tell the ledger now and then that this worker is alive."""
        self._pulse = asyncio.ensure_future(self._keep_alive())

    async def claim(self, block: Block) -> None:
        """Take a block of rows; waits while another worker that lives has it. What is wrong stands on the block."""
        given = tuple(block.given) if any(block.given) else ()
        try:
            answer = await self._ask(Claim(block.start, len(block.given), given))
        except VideoRouterError as error:
            block.trouble = error
            return
        if answer.verdict == "changed":
            block.trouble = _name_change(block.start)
        block.fresh = answer.verdict == "fresh"
        block.twice = frozenset(answer.twice)

    async def leave(self, block: Block) -> None:
        """Say that all rows of a block are at their ends, once that is committed.

        Raises:
            JournalError: It could not be.
        """
        await self._say(Leave(block.start))

    def is_new(self, position: int, given: str | None) -> bool:
        """Whether nobody has ever met a row, so that there is nothing to ask.

        Raises:
            InvalidRequestError: Its id belongs to another row.
        """
        block = self.blocks[position]
        offset = position - block.start
        if not block.fresh or given != block.given[offset]:
            return False
        if offset in block.twice:
            raise _name_twice(given)
        if given is not None:
            self._homes[given] = block.start
        return True

    async def meet(self, position: int, digest: str, given: str | None, spelling: str = "") -> Answer:
        """Who a row is, and what is known of it; waits while another worker that lives has it.

        Raises:
            InvalidRequestError: Its id belongs to another row, or the row is another one than before.
            JournalError: The ledger cannot be asked.
        """
        block = self.blocks[position]
        if block.trouble is not None:
            raise block.trouble
        answer = await self._ask(Meet(block.start, position, digest, given, spelling))
        if answer.verdict == "twice":
            raise _name_twice(given)
        if answer.verdict == "changed":
            raise _name_change(position)
        if answer.id:
            self._homes[answer.id] = block.start
        return answer

    async def record_intent(self, intent: Intent) -> str:
        """Commit that a request is about to be sent, and hold its money.

        Returns:
            Its id.

        Raises:
            BudgetExceededError: The cap does not allow it.
            ClientClosedError: Another worker has the item now, or nothing more is to be sent.
            JournalError: It could not be committed.
        """
        block = self.blocks[intent.position]
        micros = to_micros(intent.reserved)
        row = (
            intent.id,
            intent.position,
            intent.digest,
            intent.verb,
            intent.model,
            intent.request,
            intent.idempotency_key,
            intent.reserved,
            intent.parent,
            intent.meta,
        )
        answer = await self._ask(Intend(block.start, micros, row))
        if answer.verdict == "over":
            raise BudgetExceededError(
                f"max_cost is reached: the next item may cost ${to_dollars(micros):.6g}, and ${answer.text} are left in "
                "the whole cluster. It was not sent. Raise max_cost and run the same call again: it goes on from here."
            )
        if answer.verdict == "taken":
            raise ClientClosedError(
                "This worker was silent for so long that another one has taken this item over. It was not sent here."
            )
        item = answer.id or intent.id or name_item(intent.digest, 1)
        self._homes[item] = block.start
        return item

    async def record_task(
        self, item: str, task_id: str, poll_url: str | None = None, request_id: str | None = None
    ) -> None:
        """Commit what an accepted task is called."""
        await self._say(Accept(self._homes.get(item, -1), item, task_id, poll_url, request_id))

    async def record_ending(self, ending: Ending) -> None:
        """Say what became of a request. It is committed with its block, if not before; where that fails, it is said again.

        Raises:
            JournalError: The ledger has gone.
        """
        self._check()
        row = (
            ending.id,
            ending.state,
            ending.reserved,
            ending.cost,
            ending.unknown,
            ending.result,
            ending.failure,
            ending.task_id,
            ending.request_id,
        )
        kept = None if ending.kept is None else (ending.kept, ending.kept_failure, ending.phase, ending.status)
        self._post(Finish(self._homes.get(ending.id, -1), row, ending.inline, kept), None)

    async def record_invalid_entry(self, item: str, position: int, verb: str, failure: str) -> None:
        """Commit that a row could not be read."""
        await self._say(Refuse(item, position, verb, failure.encode()))

    def forget(self, position: int, item: str) -> None:
        """A row has come to its end in this worker."""
        self.blocks.pop(position, None)
        self._homes.pop(item, None)

    async def find(self, item: str) -> ItemRow | None:
        """What is recorded of an item."""
        answer = await self._say(Find(item))
        return None if answer is None else answer.recorded

    async def find_inline(self, item: str) -> dict[int, bytes]:
        """The videos of an item that came inside its answer, by number."""
        answer = await self._say(FindInline(item))
        return {} if answer is None else answer.inline

    async def find_files(self, item: str) -> tuple[SavedFile, ...]:
        """The files of an item that were saved whole, in order."""
        answer = await self._say(FindFiles(item))
        # A URL stays text: as a path it would lose a slash, and all that is done with it is to show it
        return tuple(
            SavedFile(
                path=cast("Path", place) if "://" in place else Path(place),
                size=size,
                sha256=sha256,
                media=media,
                mismatches=mismatches,
            )
            for place, size, sha256, media, mismatches in (() if answer is None else answer.files)
        )

    async def plan_file(self, item: str, number: int, path: Path) -> Path:
        """Reserve a file name for one video of an item."""
        return Path(await self.plan_place(item, number, str(path)))

    async def plan_place(self, item: str, number: int, place: str) -> str:
        """As ``plan_file``, for a path or a URL."""
        answer = await self._say(PlanFile(item, number, place))
        return place if answer is None else answer.text

    async def record_file(self, planned: Path | str, file: SavedFile) -> None:
        """Commit that a file stands whole: under the name that was planned for it, or with another ending."""
        await self._say(RecordFile(str(planned), str(file.path), file.size, file.sha256, file.media, file.mismatches))

    def stop(self, reason: str) -> None:
        """Let no worker send anything more."""
        if self._stopped is None:
            self._stopped = reason
            if self._gone is None:
                self._post(Stop(reason), None)

    async def end_run(self, error: Exception) -> None:
        """Let no worker send anything more, and the driver raise this error: Ray would bring it a text only."""
        await self._say(Stop(str(error), type(error).__name__))

    async def aclose(self) -> None:
        """Send what waits."""
        if self._pulse is not None:
            self._pulse.cancel()
        while self._courier is not None and not self._courier.done():
            await asyncio.wait([self._courier])
        if self._unwritten and self._gone is None:
            await self._exchange(self._gather())

    async def _ask(self, word: Word) -> Answer:
        while True:
            if self._stopped is not None and type(word) is Intend:
                raise ClientClosedError(f"The batch had stopped before this row was sent: {self._stopped}")
            answer = await self._say(word)
            if answer is None:
                return _YES
            if answer.verdict != "wait":
                return answer
            await asyncio.sleep(_ASK_AGAIN)

    def _say(self, word: Word) -> asyncio.Future[Answer | None]:
        self._check()
        future: asyncio.Future[Answer | None] = asyncio.get_running_loop().create_future()
        self._post(word, future)
        return future

    def _check(self) -> None:
        if self._gone is not None:
            raise JournalError(self._gone, path=str(self.path))

    def _post(self, word: Word, future: asyncio.Future[Answer | None] | None) -> None:
        kind = type(word)
        words = self._endings if kind is Finish else self._intents if kind is Intend else self._pending
        words.append((word, future))
        if self._courier is None or self._courier.done():
            self._courier = asyncio.ensure_future(self._carry())
        elif self._full is not None and self._find_gap() < self._gap and not self._full.done():
            self._full.set_result(None)

    def _find_gap(self) -> float:
        """Seconds between two groups: the fewer, the less there is to gain by waiting for more words."""
        intents, pending = len(self._intents), len(self._pending)
        if max(intents, pending, len(self._endings)) >= _FULL:
            return 0.0
        return self._least if 2 * (intents + pending) >= self.room else self._gap

    def _gather(self) -> list[_Said]:
        """The next group. Endings come first: what is left and what is met again counts on them."""
        said = self._unwritten + self._endings[:_MOST]
        self._unwritten = []
        del self._endings[:_MOST]
        if not self._endings:
            said += self._pending[:_MOST] + self._intents[:_FULL]
            del self._pending[:_MOST], self._intents[:_FULL]
        return said

    async def _carry(self) -> None:
        while self._endings or self._pending or self._intents:
            while (left := self._last + self._find_gap() - time.monotonic()) > 0:
                self._full = asyncio.get_running_loop().create_future()
                await asyncio.wait([self._full], timeout=left)
                self._full = None
            await self._exchange(self._gather())

    async def _exchange(self, group: list[_Said]) -> None:
        self._last = time.monotonic()
        self.groups += 1
        try:
            reply = read_reply(await self._call(encode([word for word, _ in group])))
        except Exception as error:  # noqa: BLE001  whatever Ray says, those who wait must hear it
            self._gone = explain_silence(error)
            self._hear_stop(self._gone)
            for _, future in group:
                _fail(future, JournalError(self._gone, path=str(self.path)))
            return
        self._gap, self._least = reply.gap, reply.least
        if reply.stopped is not None:
            self._hear_stop(reply.stopped)
        if reply.trouble is not None:
            # Nothing of the group was written. What became of requests is said again: with the next group, or a beat later
            self._unwritten = [said for said in group if type(said[0]) is Finish]
            for _, future in group:
                _fail(future, JournalError(reply.trouble, path=str(self.path)))
            return
        for (_, future), answer in zip(group, reply.answers, strict=True):
            if future is not None and not future.done():
                future.set_result(answer)

    def _hear_stop(self, reason: str) -> None:
        self._stopped = self._stopped or reason
        self._stop(reason)

    async def _keep_alive(self) -> None:
        while self._gone is None:
            await asyncio.sleep(self._beat)
            if time.monotonic() - self._last >= self._beat and (self._courier is None or self._courier.done()):
                await self._exchange(self._gather())


_YES = Answer()


def _name_twice(given: str | None) -> InvalidRequestError:
    return InvalidRequestError(
        f"The id {given!r} came twice in this dataset. This row was not sent. Give each row an id of its own."
    )


def _name_change(position: int) -> InvalidRequestError:
    return InvalidRequestError(
        f"Row {position} was another one when its block ran for the first time, so what it buys cannot be told "
        "apart. It was not sent. Make the steps before generate_dataset give the same rows each time, or write "
        "the prompts to a file first."
    )


def explain_silence(error: Exception) -> str:
    """Why the ledger said nothing: Ray hands on what failed in it as a cause, and a ledger that has gone has none."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, Exception):
        said = (
            f"The ledger of this batch failed ({type(cause).__name__}: {cause}), which is a fault of this package: "
            "please report it."
        )
    else:
        said = f"The ledger of this batch cannot be reached ({type(error).__name__}): its driver or its node has ended."
    return f"{said} Nothing more is sent. Run the same call again: it resumes from the journal."


def _fail(future: asyncio.Future[Answer | None] | None, error: JournalError) -> None:
    if future is not None and not future.done():
        future.set_exception(error)
