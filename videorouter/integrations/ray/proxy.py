"""The journal as a worker sees it: the methods of ``io/journal.py``, carried to the ledger in groups.

Whatever the items of a worker have to say while a group is on its way shares the next one, so that a thousand items
cost a few calls a second. An awaited intent has been committed on the driver's disk, as with a journal of one's own.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, cast

from videorouter.errors import BudgetExceededError, ClientClosedError, InvalidRequestError, JournalError
from videorouter.integrations.ray.words import (
    Accept,
    Answer,
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
from videorouter.rules.money import to_dollars, to_micros

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from videorouter.io.journal import Ending, Intent
    from videorouter.rules.ledger import Recorded

_ASK_AGAIN = 0.5
_MOST = 2_000
"""Words in one group, so that no group keeps the others waiting."""


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
        self._pending: list[tuple[Word, asyncio.Future[Answer | None] | None]] = []
        self._courier: asyncio.Task[None] | None = None
        self._pulse: asyncio.Task[None] | None = None
        self._last = 0.0
        self._gap = 0.0
        self._stopped: str | None = None
        self._gone: str | None = None
        self.groups: int = 0

    def start(self) -> None:
        """Begin to tell the ledger now and then that this worker is alive."""
        self._pulse = asyncio.ensure_future(self._keep_alive())

    async def meet(self, position: int, digest: str, given: str | None) -> Answer:
        """Who a row is, and what is known of it; waits while another worker that lives has it.

        Raises:
            InvalidRequestError: Its id belongs to another row, or the row is another one than before.
            ClientClosedError: Nothing more is to be sent.
            JournalError: The ledger cannot be asked.
        """
        answer = await self._ask(Meet(position, digest, given))
        if answer.verdict == "twice":
            raise InvalidRequestError(
                f"The id {given!r} came twice in this dataset. This row was not sent. Give each row an id of its own."
            )
        if answer.verdict == "changed":
            raise InvalidRequestError(
                f"Row {position} was another one when its block ran for the first time, so what it buys cannot be told "
                "apart. It was not sent. Make the steps before generate_dataset give the same rows each time, or write "
                "the prompts to a file first."
            )
        return answer

    async def intend(self, intent: Intent) -> str:
        """Commit that a request is about to be sent, and hold its money.

        Returns:
            Its id.

        Raises:
            BudgetExceededError: The cap does not allow it.
            ClientClosedError: Another worker has the item now, or nothing more is to be sent.
            JournalError: It could not be committed.
        """
        micros = to_micros(intent.reserved)
        answer = await self._ask(Intend(intent, micros))
        if answer.verdict == "over":
            raise BudgetExceededError(
                f"max_cost is reached: the next item may cost ${to_dollars(micros):.6g}, and ${answer.text} are left in "
                "the whole cluster. It was not sent. Raise max_cost and run the same call again: it goes on from here."
            )
        if answer.verdict == "taken":
            raise ClientClosedError(
                "This worker was silent for so long that another one has taken this item over. It was not sent here."
            )
        return intent.id

    async def accept(self, item: str, task_id: str, poll_url: str | None = None, request_id: str | None = None) -> None:
        """Commit what an accepted task is called."""
        await self._say(Accept(item, task_id, poll_url, request_id))

    async def finish(self, ending: Ending) -> None:
        """Commit what became of a request."""
        await self._say(Finish(ending))

    async def refuse(self, item: str, position: int, verb: str, failure: bytes) -> None:
        """Commit that a row could not be read."""
        await self._say(Refuse(item, position, verb, failure))

    async def find(self, item: str) -> Recorded | None:
        """What is recorded of an item."""
        answer = await self._say(Find(item))
        return None if answer is None else answer.recorded

    async def find_inline(self, item: str) -> dict[int, bytes]:
        """The videos of an item that came inside its answer, by number."""
        answer = await self._say(FindInline(item))
        return {} if answer is None else answer.inline

    async def find_files(self, item: str) -> tuple[tuple[Path, str | None], ...]:
        """The files of an item that were saved whole, with their digests, in order."""
        places = await self.find_places(item)
        # A URL stays text: as a path it would lose a slash, and all that is done with it is to show it
        return tuple((cast("Path", place) if "://" in place else Path(place), digest) for place, digest in places)

    async def find_places(self, item: str) -> tuple[tuple[str, str | None], ...]:
        """As ``find_files``, as text: a URL is no path."""
        answer = await self._say(FindFiles(item))
        return () if answer is None else answer.files

    async def plan_file(self, item: str, number: int, path: Path) -> Path:
        """Reserve a file name for one video of an item."""
        return Path(await self.plan_place(item, number, str(path)))

    async def plan_place(self, item: str, number: int, place: str) -> str:
        """As ``plan_file``, for a path or a URL."""
        answer = await self._say(PlanFile(item, number, place))
        return place if answer is None else answer.text

    async def record_file(self, path: Path | str, *, size: int, sha256: str | None = None) -> None:
        """Commit that a file stands whole under its name."""
        await self._say(RecordFile(str(path), size, sha256))

    def leave(self, item: str) -> None:
        """This worker is done with an item."""
        self._post(Leave(item), None)

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

    async def _ask(self, word: Word) -> Answer:
        while True:
            if self._stopped is not None:
                raise ClientClosedError(f"The batch had stopped before this row was sent: {self._stopped}")
            answer = await self._say(word)
            if answer is None:
                return _YES
            if answer.verdict != "wait":
                return answer
            await asyncio.sleep(_ASK_AGAIN)

    async def _say(self, word: Word) -> Answer | None:
        if self._gone is not None:
            raise JournalError(self._gone, path=str(self.path))
        future: asyncio.Future[Answer | None] = asyncio.get_running_loop().create_future()
        self._post(word, future)
        return await future

    def _post(self, word: Word, future: asyncio.Future[Answer | None] | None) -> None:
        self._pending.append((word, future))
        if self._courier is None or self._courier.done():
            self._courier = asyncio.ensure_future(self._carry())

    async def _carry(self) -> None:
        while self._pending:
            gap = self._last + self._gap - time.monotonic()
            if gap > 0:
                await asyncio.sleep(gap)
            group, self._pending = self._pending[:_MOST], self._pending[_MOST:]
            await self._exchange(group)

    async def _exchange(self, group: list[tuple[Word, asyncio.Future[Answer | None] | None]]) -> None:
        self._last = time.monotonic()
        self.groups += 1
        try:
            reply = read_reply(await self._call(encode([word for word, _ in group])))
        except Exception as error:  # noqa: BLE001  whatever Ray says, those who wait must hear it
            self._gone = _explain(error)
            self._hear_stop(self._gone)
            for _, future in group:
                _fail(future, JournalError(self._gone, path=str(self.path)))
            return
        self._gap = reply.gap
        if reply.stopped is not None:
            self._hear_stop(reply.stopped)
        if reply.trouble is not None:
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
                await self._exchange([])


_YES = Answer()


def _explain(error: Exception) -> str:
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
