"""One pace for the whole cluster: an actor that holds the lanes, and the shares of them that workers follow.

The actor keeps one ``call.pace.AdaptiveRate`` per lane and hears from each worker what it has seen and how many jobs
run and wait there. It deals out whole jobs: what runs is never taken back, what is free goes to whoever has least, and
a share counts until its worker has confirmed a smaller one, so that the shares never exceed the lane. Workers decide by
their own share, without asking anybody; a ``Retry-After`` that one of them hears is pushed to all.

Times on the wire are lengths, never moments: every machine has a clock of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from videorouter.call.limiter import PROCESS_LIMITS, set_pace_factory
from videorouter.call.pace import LONGEST_HOLD, AdaptiveRate
from videorouter.integrations.ray.words import (
    Demand,
    Share,
    Shares,
    encode,
    read_demands,
    read_shares,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from videorouter.call.limiter import ClientLimit
    from videorouter.http import Origin

LaneKey: TypeAlias = tuple[str, str, int, str]
K = TypeVar("K")

EXPIRY = 10.0
"""Seconds of silence after which a worker's share goes to the others."""
EVERY = 0.1
"""Seconds between two reports of one worker, where there are few workers."""
CALLS_A_SECOND = 250.0
"""Reports a second that the actor should get from all workers together."""
_WATCH = 5.0
_TURN = 5.0
_STILL_HERE = 2.0
_WORTH_TELLING = 1.25
"""How much larger a share must have become for a worker that waits to be told at once, and not when it next asks."""


def deal(total: int, wants: Mapping[K, tuple[int, int, int]], turn: int = 0) -> dict[K, int]:
    """Deal the jobs of a lane out to its workers, or those of the cluster to its lanes.

    Args:
        total: Jobs that may run at once in all.
        wants: By worker or lane: jobs that run, jobs that wait, and the share that it may still be using.
        turn: Grows with time; says who comes first where there are fewer jobs than workers.

    Returns:
        Jobs that each may run at once.
    """
    shares: dict[K, int] = {}
    left, heads = total, len(wants)
    order = list(wants.items())
    if total < heads:
        order = order[turn % heads :] + order[: turn % heads]
        order.sort(key=lambda entry: not sum(entry[1][:2]))
    else:
        order.sort(key=lambda entry: sum(entry[1][:2]))
    for worker, (used, waiting, _) in order:
        shares[worker] = min(used + waiting, -(-left // heads))
        left -= shares[worker]
        heads -= 1
    spare = max(0, left) // len(wants) if wants else 0
    free = total - sum(max(used, standing) for used, _, standing in wants.values())
    for worker, (used, _, standing) in wants.items():
        most = max(used, standing)
        extra = shares[worker] + spare - most
        if extra > 0:
            extra = min(extra, max(0, free))
            free -= extra
        shares[worker] = max(0, most + extra)
    return shares


class _Room:
    """One lane of the cluster."""

    __slots__ = ("demands", "pace", "standing", "told")

    def __init__(self) -> None:
        self.pace = AdaptiveRate()
        self.demands: dict[str, Demand] = {}
        self.standing: dict[str, int] = {}
        self.told: dict[str, tuple[int, int]] = {}


class Pacemaker:
    """The lanes of a cluster.

    Args:
        concurrency: Jobs at once in the whole cluster; ``None`` for what the gateway allows.
        expiry: Seconds of silence after which a worker's share goes to the others.
    """

    def __init__(self, *, concurrency: int | None = None, expiry: float = EXPIRY) -> None:
        self._most = concurrency
        self._expiry = expiry
        self._rooms: dict[LaneKey, _Room] = {}
        self._seen: dict[str, float] = {}
        # One that is started again must not count from where it began: workers pass over what is older than what they know
        self._serial = time.monotonic_ns() // 1_000
        self._news: dict[str, asyncio.Event] = {}

    async def report(self, worker: str, message: bytes) -> bytes:
        """Hear what a worker has seen, and tell it its shares."""
        now = time.monotonic()
        self._forget(now)
        self._seen[worker] = now
        confirmed, demands = read_demands(message)
        for demand in demands:
            self._hear(worker, confirmed, demand, now)
        return encode(self._tell(worker, now))

    async def watch(self, worker: str) -> bytes:
        """Wait until a worker must hear something at once; answers after some seconds all the same."""
        news = self._news.setdefault(worker, asyncio.Event())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(news.wait(), _WATCH)
        news.clear()
        return encode(self._tell(worker, time.monotonic()))

    def _hear(self, worker: str, confirmed: int, demand: Demand, now: float) -> None:
        room = self._rooms.get(demand.lane)
        if room is None:
            room = self._rooms[demand.lane] = _Room()
        told = room.told.get(worker)
        if told is not None and confirmed >= told[0]:
            room.standing[worker] = told[1]
        room.demands[worker] = demand
        pace = room.pace
        before = (pace.paused_until, int(pace.limit))
        used = sum(other.used for other in room.demands.values())
        for _ in range(demand.successes):
            pace.count_success(now, used)
        for retry_after in demand.refusals:
            pace.count_refusal(now, retry_after)
        for _ in range(demand.overloads):
            pace.count_overload(now)
        if demand.pause > 0:
            pace.paused_until = max(pace.paused_until, now + min(demand.pause, LONGEST_HOLD))
        slower = demand.refusals or pace.paused_until > before[0] or int(pace.limit) < before[1]
        shares = {} if slower else self._deal(demand.lane)
        for other, wants in room.demands.items():
            if other == worker or other not in self._news:
                continue
            _, share = room.told.get(other, (0, 0))
            if slower or (wants.waiting and shares[other] > share * _WORTH_TELLING):
                self._news[other].set()

    def _tell(self, worker: str, now: float) -> Shares:
        self._serial += 1
        shares = []
        for lane, room in self._rooms.items():
            if worker not in room.demands:
                continue
            limit = self._deal(lane)[worker]
            room.told[worker] = (self._serial, limit)
            room.standing[worker] = max(limit, room.standing.get(worker, 0))
            rate = room.pace.rate
            if rate is not None:
                rate /= max(1, sum(1 for demand in room.demands.values() if demand.waiting))
            shares.append(Share(lane, limit, rate, max(0.0, room.pace.paused_until - now)))
        every = max(EVERY, len(self._seen) / CALLS_A_SECOND)
        return Shares(self._serial, tuple(shares), every)

    def _deal(self, lane: LaneKey) -> dict[str, int]:
        room = self._rooms[lane]
        total = int(room.pace.limit)
        if self._most is not None:
            total = min(total, self._share_out(self._most)[lane])
        wants = {
            worker: (demand.used, demand.waiting, room.standing.get(worker, 0))
            for worker, demand in room.demands.items()
        }
        return deal(total, wants, int(time.monotonic() / _TURN))

    def _share_out(self, most: int) -> dict[LaneKey, int]:
        """What each lane may have of the jobs of the cluster: all lanes together never exceed them."""
        if len(self._rooms) == 1:
            return dict.fromkeys(self._rooms, most)
        wants = {}
        for lane, room in self._rooms.items():
            used = sum(demand.used for demand in room.demands.values())
            waiting = sum(demand.waiting for demand in room.demands.values())
            standing = sum(max(room.standing.get(worker, 0), demand.used) for worker, demand in room.demands.items())
            wants[lane] = (used, min(waiting, max(0, int(room.pace.limit) - used)), standing)
        return deal(most, wants, int(time.monotonic() / _TURN))

    def _forget(self, now: float) -> None:
        gone = [worker for worker, seen in self._seen.items() if now - seen > self._expiry]
        for worker in gone:
            del self._seen[worker]
            self._news.pop(worker, None)
            for room in self._rooms.values():
                for table in (room.demands, room.standing, room.told):
                    table.pop(worker, None)


class Follower(AdaptiveRate):
    """A lane's pace in one worker: its share of the cluster's.

    Args:
        link: Is told what happens here.
        lane: Which lane it is.
    """

    __slots__ = ("lane", "link", "overloads", "refusals", "successes")

    def __init__(self, link: Link, lane: LaneKey) -> None:
        super().__init__()
        self.limit = 0.0
        self.link: Link = link
        self.lane: LaneKey = lane
        self.successes: int = 0
        self.refusals: list[float | None] = []
        self.overloads: int = 0
        link.followers[lane] = self
        link.nudge()

    def count_success(self, now: float, used: int) -> None:  # noqa: ARG002  moments mean nothing elsewhere
        """A good answer, or one held long enough: the cluster's pace counts it."""
        self.successes += 1
        if used >= self.limit and self.successes * 2 >= self.limit:
            self.link.nudge()

    def count_refusal(self, now: float, retry_after: float | None = None) -> None:
        """The gateway refused for load: hold here at once, and tell everybody."""
        self.refusals.append(retry_after)
        if retry_after is not None:
            self.paused_until = max(self.paused_until, now + min(retry_after, LONGEST_HOLD))
        self.link.nudge()

    def count_overload(self, now: float) -> None:  # noqa: ARG002  as above
        """A connect timeout or a 503."""
        self.overloads += 1
        self.link.nudge()

    def take_share(self, share: Share, now: float) -> None:
        """Go by what the cluster has dealt out."""
        self.limit: float = float(share.limit)
        self.rate: float | None = share.rate
        self.learning: bool = share.rate is None
        if share.pause > 0:
            self.paused_until: float = max(self.paused_until, now + share.pause)


class Link:
    """A worker's line to the pace actor. All of it runs in the worker's event loop.

    Args:
        report: Hands a report to the actor and brings the shares.
        watch: Waits for news.
        limit: The client's own limit, whose queues show how many wait.
    """

    def __init__(
        self, report: Callable[[bytes], Awaitable[bytes]], watch: Callable[[], Awaitable[bytes]], limit: ClientLimit
    ) -> None:
        self.followers: dict[LaneKey, Follower] = {}
        self.reports: int = 0
        self.on_share: Callable[[], None] = _ignore
        self._report = report
        self._watch = watch
        self._limit = limit
        self._serial = 0
        self._every = EVERY
        self._urgent = asyncio.Event()
        self._last: tuple[float, list[tuple[int, int]]] = (0.0, [])
        self._owes = False
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Give the models of this process their pace, and keep in touch."""
        set_pace_factory(self.make_pace)
        self._tasks = [asyncio.ensure_future(self._keep_reporting()), asyncio.ensure_future(self._keep_watching())]

    async def aclose(self) -> None:
        """Let the process's lanes be their own again."""
        set_pace_factory(lambda _: AdaptiveRate())
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def make_pace(self, key: tuple[Origin, str]) -> AdaptiveRate:
        """The pace of a lane that opens in this process."""
        (scheme, host, port), model = key
        return Follower(self, (scheme, host, port, model))

    def nudge(self) -> None:
        """Something has happened that the actor should hear of at once."""
        self._urgent.set()

    async def _keep_reporting(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._urgent.wait(), self._every)
            self._urgent.clear()
            demands = self._gather()
            if demands and self._is_news(demands):
                self.reports += 1
                try:
                    self._take(read_shares(await self._report(encode((self._serial, demands)))))
                except Exception:  # noqa: BLE001  the actor is being restarted: go on by the share that we have
                    await asyncio.sleep(1.0)
            await asyncio.sleep(self._every / 10)

    async def _keep_watching(self) -> None:
        while True:
            try:
                self._take(read_shares(await self._watch()))
                self.nudge()
            except Exception:  # noqa: BLE001  as above
                await asyncio.sleep(1.0)

    def _gather(self) -> tuple[Demand, ...]:
        if not self.followers:
            return ()
        waiting: dict[LaneKey, int] = {}
        used: dict[LaneKey, int] = {}
        now = time.monotonic()
        with PROCESS_LIMITS.lock:
            for queue in self._limit.queues:
                pace = queue.model_limit.pace
                if isinstance(pace, Follower):
                    waiting[pace.lane] = waiting.get(pace.lane, 0) + len(queue.waiters)
                    used[pace.lane] = queue.model_limit.used
            demands = []
            for lane, follower in self.followers.items():
                demands.append(
                    Demand(
                        lane,
                        used.get(lane, 0),
                        waiting.get(lane, 0),
                        follower.successes,
                        tuple(follower.refusals),
                        follower.overloads,
                        max(0.0, follower.paused_until - now),
                    )
                )
                follower.successes = follower.overloads = 0
                follower.refusals = []
        return tuple(demands)

    def _is_news(self, demands: tuple[Demand, ...]) -> bool:
        now = time.monotonic()
        figures = [(demand.used, demand.waiting) for demand in demands]
        seen = any(demand.successes or demand.refusals or demand.overloads for demand in demands)
        if seen or self._owes or figures != self._last[1] or now - self._last[0] > _STILL_HERE:
            self._last = (now, figures)
            self._owes = False
            return True
        return False

    def _take(self, shares: Shares) -> None:
        if shares.serial < self._serial:
            return
        self._serial = shares.serial
        self._every = shares.every
        now = time.monotonic()
        with PROCESS_LIMITS.lock:
            for share in shares.shares:
                follower = self.followers.get(share.lane)
                if follower is not None:
                    if share.limit < follower.limit:
                        # Others have what is taken back only when it is confirmed.
                        self._owes = True
                        self._urgent.set()
                    follower.take_share(share, now)
            for queue in self._limit.queues:
                queue.model_limit.dispatch(now)
        self.on_share()


def _ignore() -> None:
    return
