"""Who may start now: a client's limit, the lanes that a process shares, and the queues before both.

A job holds one slot from dispatch to its end: one of its client's limit and one of its lane's. Taking a free slot is a
few comparisons under one lock. Waiters stand in one queue per client and lane; nothing is ever scanned, a cancelled
waiter passes its grant on, and waiters of several event loops and threads can share a lane.

``call.pace`` decides how fast a lane may go. This file never sends anything.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections import OrderedDict, deque
from typing import TYPE_CHECKING

import anyio

from videorouter.call.pace import HELD, AdaptiveRate, RecoveryProbe
from videorouter.errors import Phase

if TYPE_CHECKING:
    from collections.abc import Callable

    from videorouter.config import Origin
    from videorouter.http import Attempt

_MOST_LANES = 1024
_TRIO_LOOK = 0.02
_UNSENT = (Phase.QUEUED, Phase.CONNECTING, Phase.SENDING)


class _World:
    """What is one per process. A forked child starts afresh: its parent's jobs are not its own."""

    def __init__(self) -> None:
        self.generation: int = 0
        self.make_pace: Callable[[tuple[Origin, str]], AdaptiveRate] = lambda _: AdaptiveRate()
        self.start_afresh()

    def start_afresh(self) -> None:
        """Forget every lane, as a forked child must."""
        self.generation += 1
        self.lock: threading.Lock = threading.Lock()
        self.lanes: dict[tuple[Origin, str], ModelLimit] = {}


class ModelLimit:
    """One (origin, model): how many jobs run in it, how fast it may go, and who waits.

    Args:
        pace: Its rules; ``None`` when it has no limit of its own (``adaptive=False``).
    """

    __slots__ = ("_flying", "_prober", "_ring", "_timer", "pace", "probing", "used")

    def __init__(self, pace: AdaptiveRate | None) -> None:
        self.pace: AdaptiveRate | None = pace
        self.used: int = 0
        self.probing: RecoveryProbe = RecoveryProbe()
        self._prober: Slot | None = None
        self._ring: deque[WaitQueue] = deque()
        self._flying: deque[Slot] = deque()
        self._timer: tuple[float, asyncio.AbstractEventLoop, list[asyncio.TimerHandle]] | None = None

    @property
    def limit(self) -> float:
        """Jobs that may run in it at once."""
        return self.pace.limit if self.pace is not None else float("inf")

    @property
    def idle(self) -> bool:
        """Whether nobody is in it or waits for it."""
        return not self.used and not self._ring

    def admits(self, slot: Slot, now: float) -> bool:
        """Whether one more may start now, past nobody who waits."""
        if self._ring or slot.starved:
            return False
        pace = self.pace
        if pace is None:
            return True
        if self.used + 1 > pace.limit:
            self._ripen(now)
            if self.used + 1 > pace.limit:
                return False
        return not slot.sends or pace.find_start() <= now

    def enter(self, slot: Slot, now: float) -> None:
        """A job starts."""
        self.used += 1
        slot.held = True
        if slot.starved:
            slot.starved = False
            if self.probing.troubled:
                self._prober = slot
                self.probing.count_probe(now)
        slot.started = now
        pace = self.pace
        if pace is not None and slot.sends:
            slot.counted = False
            pace.count_start(now)
            self._flying.append(slot)

    def _ripen(self, now: float) -> None:
        """Count what the gateway has held long enough without refusing it."""
        flying = self._flying
        pace = self.pace
        if pace is None:
            return
        while flying:
            slot = flying[0]
            if slot.held and not slot.counted:
                if now - slot.started < HELD:
                    return
                flying.popleft()
                if _is_unsent(slot):
                    slot.started = now
                    flying.append(slot)
                else:
                    slot.counted = True
                    pace.count_success(now, self.used)
            else:
                flying.popleft()

    def leave(self, slot: Slot, now: float) -> None:
        """A job ends, or waits for its next attempt."""
        self.used -= 1
        if self._prober is slot:
            self._prober = None
        if self._ring:
            self.dispatch(now)
        else:
            self._ripen(now)

    def note_success(self, slot: Slot) -> None:
        """A job's request has been answered well."""
        if slot.counted and not self.probing.troubled:
            return
        with WORLD.lock:
            now = time.monotonic()
            self.probing.count_success()
            if self.pace is not None and not slot.counted:
                self.pace.count_success(now, self.used)
            slot.counted = True
            if self._ring:
                self.dispatch(now)

    def join(self, bay: WaitQueue) -> None:
        """A bay has somebody who waits."""
        self._ring.append(bay)

    def dispatch(self, now: float) -> None:
        """Let in as many as may start now, a bay after the other; set a timer for the next."""
        ring = self._ring
        pace = self.pace
        if pace is not None:
            self._ripen(now)
        while ring:
            bay = ring[0]
            if not bay.waiters:
                ring.popleft()
                bay.listed = False
                continue
            if bay.gate.used >= bay.gate.limit:
                ring.popleft()
                bay.gate.parked.append(bay)
                continue
            if pace is not None:
                if self.used + 1 > pace.limit:
                    if self._flying:
                        self._arm(now, self._flying[0].started + HELD, bay)
                    return
                start = pace.find_start()
                if start > now and bay.first.sends:
                    self._arm(now, start, bay)
                    return
            if self.probing.troubled and bay.first.starved:
                start = self._find_probe_start(now)
                if start > now:
                    self._arm(now, start, bay)
                    return
            bay.let_in(now)
            ring.rotate(-1)

    def _find_probe_start(self, now: float) -> float:
        """When the next attempt may start: one at a time, further and further apart, until one is answered well."""
        prober = self._prober
        start = self.probing.next_at
        if prober is not None and (now - prober.started < HELD or _is_unsent(prober)):
            # A refusal may take its time: only an answer ends the trouble, a long wait merely lets the next one ask.
            start = max(start, max(now, prober.started) + HELD)
        return start

    def _arm(self, now: float, when: float, bay: WaitQueue) -> None:
        timer = self._timer
        if timer is not None:
            if timer[0] <= when + 0.001 and not timer[1].is_closed():
                return
            self._disarm()
        loop = bay.first_loop
        if loop is None:
            return
        handles: list[asyncio.TimerHandle] = []
        self._timer = (when, loop, handles)
        delay = max(0.0, when - now)

        def set_timer() -> None:
            handles.append(loop.call_later(delay, self._wake, handles))

        if asyncio._get_running_loop() is loop:  # noqa: SLF001  documented for event loops; gives None outside one
            set_timer()
        else:
            try:
                loop.call_soon_threadsafe(set_timer)
            except RuntimeError:
                self._timer = None

    def _disarm(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None and asyncio._get_running_loop() is timer[1]:  # noqa: SLF001  as above
            for handle in timer[2]:
                handle.cancel()

    def _wake(self, handles: list[asyncio.TimerHandle]) -> None:
        with WORLD.lock:
            if self._timer is None or self._timer[2] is not handles:
                return
            self._timer = None
            self.dispatch(time.monotonic())

    def orphan(self, loop: asyncio.AbstractEventLoop | None, now: float) -> None:
        """A waiter has gone: its loop may go with it, and the lane's timer must not."""
        if self._timer is not None and self._timer[1] is loop:
            self._disarm()
            self.dispatch(now)


def _is_unsent(slot: Slot) -> bool:
    return slot.attempt is None or slot.attempt.phase in _UNSENT


class ClientLimit:
    """A client's own limit of jobs at once."""

    __slots__ = ("__weakref__", "_bays", "generation", "limit", "parked", "used", "waiting")

    def __init__(self, limit: int) -> None:
        self.limit: int = limit
        self._bays: dict[tuple[Origin, str], WaitQueue] = {}
        self._clear()

    def _clear(self) -> None:
        self.generation: int = WORLD.generation
        self.used: int = 0
        self.waiting: int = 0
        self.parked: list[WaitQueue] = []
        self._bays.clear()

    @property
    def bays(self) -> tuple[WaitQueue, ...]:
        """The queues of this client, one per lane."""
        return tuple(self._bays.values())

    def find_bay(self, origin: Origin, model: str, *, adaptive: bool) -> WaitQueue:
        """The queue of one lane."""
        if self.generation != WORLD.generation:
            self._clear()
        key = (origin, model)
        bay = self._bays.get(key)
        if bay is None:
            with WORLD.lock:
                if len(self._bays) >= _MOST_LANES:
                    self._bays = {name: kept for name, kept in self._bays.items() if kept.waiters or kept.lane.used}
                bay = self._bays[key] = WaitQueue(self, _find_lane(key) if adaptive else ModelLimit(None))
        return bay

    def unpark(self, now: float) -> None:
        """A job has ended: whoever waited for this client's limit only may come."""
        if self.parked:
            parked, self.parked = self.parked, []
            for bay in parked:
                bay.lane.join(bay)
            for bay in parked:
                bay.lane.dispatch(now)

    def close(self) -> None:
        """Send away everybody who waits."""
        with WORLD.lock:
            for bay in self._bays.values():
                while bay.waiters:
                    waiter, _ = bay.waiters.popitem(last=False)
                    self.waiting -= 1
                    waiter.wake()


def govern(make_pace: Callable[[tuple[Origin, str]], AdaptiveRate]) -> None:
    """Give lanes that open from now on a pace that is made elsewhere: one that follows a whole cluster's."""
    WORLD.make_pace = make_pace


def _find_lane(key: tuple[Origin, str]) -> ModelLimit:
    lanes = WORLD.lanes
    lane = lanes.get(key)
    if lane is None:
        if len(lanes) >= _MOST_LANES:
            WORLD.lanes = lanes = {name: kept for name, kept in lanes.items() if not kept.idle}
        lane = lanes[key] = ModelLimit(WORLD.make_pace(key))
    return lane


class WaitQueue:
    """The queue of one client before one lane.

    Attributes:
        waiters: Those who wait, in order.
        listed: Whether the lane, or the gate while the client is full, knows of them.
    """

    __slots__ = ("gate", "lane", "listed", "waiters")

    def __init__(self, gate: ClientLimit, lane: ModelLimit) -> None:
        self.gate: ClientLimit = gate
        self.lane: ModelLimit = lane
        self.waiters: OrderedDict[_Waiter, None] = OrderedDict()
        self.listed: bool = False

    @property
    def first(self) -> Slot:
        """The slot that the first in line waits for."""
        return next(iter(self.waiters)).slot

    @property
    def first_loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop of the first in line that has one."""
        return next((waiter.loop for waiter in self.waiters if waiter.loop is not None), None)

    def let_in(self, now: float) -> None:
        """Give the first in line its slot."""
        waiter, _ = self.waiters.popitem(last=False)
        self.gate.waiting -= 1
        if waiter.is_gone():
            return
        self.gate.used += 1
        self.lane.enter(waiter.slot, now)
        if not waiter.wake():
            waiter.slot.give_back(now)


class _Waiter:
    """Somebody who waits for a slot, in an event loop or in a trio task."""

    __slots__ = ("future", "loop", "slot")

    def __init__(self, slot: Slot) -> None:
        self.slot = slot
        self.loop = asyncio._get_running_loop()  # noqa: SLF001  gives None where no asyncio loop runs
        self.future: asyncio.Future[None] | None = None if self.loop is None else self.loop.create_future()

    def is_gone(self) -> bool:
        """Whether its event loop has been closed under it."""
        return self.loop is not None and self.loop.is_closed()

    def wake(self) -> bool:
        """Tell it; ``False`` when there is nobody left to tell."""
        loop, future = self.loop, self.future
        if loop is None or future is None:
            return True
        if asyncio._get_running_loop() is loop:  # noqa: SLF001  as above
            _finish(future)
            return True
        try:
            loop.call_soon_threadsafe(_finish, future)
        except RuntimeError:
            return False
        return True

    async def wait(self, until: float) -> None:
        """Until it is told, or the time is over."""
        if self.loop is not None and self.future is not None:
            timer = self.loop.call_later(max(0.0, until - time.monotonic()), _finish, self.future)
            try:
                await self.future
            finally:
                timer.cancel()
            return
        bay = self.slot.bay
        while self in bay.waiters and (left := until - time.monotonic()) > 0:
            await anyio.sleep(min(left, _TRIO_LOOK))
            with WORLD.lock:
                bay.lane.dispatch(time.monotonic())


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Slot:
    """One job's right to run, from dispatch to its end.

    Args:
        bay: Where it queues.
        sends: Whether it is for a request that may cost; looking at a task has no rate.

    Attributes:
        held: Whether the job has it now.
        starved: Whether its client had no retry budget left: it may start only as a attempt, or after a success.
        attempt: Of the attempt that runs, so that a held request can be told from one that is still connecting.
    """

    __slots__ = ("attempt", "bay", "counted", "held", "sends", "started", "starved")

    def __init__(self, bay: WaitQueue, *, sends: bool = True) -> None:
        self.bay: WaitQueue = bay
        self.sends: bool = sends
        self.starved: bool = False
        self.held: bool = False
        self.counted: bool = True
        self.started: float = 0.0
        self.attempt: Attempt | None = None

    def move(self, bay: WaitQueue) -> None:
        """Queue elsewhere from now on: the next attempt goes to another host."""
        self.bay = bay

    def try_take(self) -> bool:
        """Take it when it is free and nobody waits."""
        bay = self.bay
        gate = bay.gate
        if gate.used >= gate.limit or bay.waiters:
            return False
        with WORLD.lock:
            now = time.monotonic()
            if gate.used >= gate.limit or not bay.lane.admits(self, now):
                return False
            gate.used += 1
            bay.lane.enter(self, now)
            return True

    async def take(self, deadline: float, *, first: bool = False) -> bool:
        """Wait for it.

        Args:
            deadline: ``time.monotonic()`` value at which to give up.
            first: Whether to stand before all others: it was let in before, and was refused.

        Returns:
            Whether it is held now.
        """
        bay = self.bay
        gate = bay.gate
        lane = bay.lane
        with WORLD.lock:
            now = time.monotonic()
            waiter = _Waiter(self)
            bay.waiters[waiter] = None
            gate.waiting += 1
            if first:
                bay.waiters.move_to_end(waiter, last=False)
            if not bay.listed:
                bay.listed = True
                lane.join(bay)
            lane.dispatch(now)
        try:
            if waiter in bay.waiters:
                await waiter.wait(deadline)
        except BaseException:
            self._withdraw(waiter)
            self.release()
            raise
        if not self.held:
            self._withdraw(waiter)
        return self.held

    def _withdraw(self, waiter: _Waiter) -> None:
        with WORLD.lock:
            bay = self.bay
            if waiter in bay.waiters:
                del bay.waiters[waiter]
                bay.gate.waiting -= 1
                bay.lane.orphan(waiter.loop, time.monotonic())

    def release(self) -> None:
        """Give it back. Idempotent."""
        if self.held:
            with WORLD.lock:
                self.give_back(time.monotonic())

    def give_back(self, now: float) -> None:
        """As ``release``, when the lock is held."""
        if not self.held:
            return
        self.held = False
        self.attempt = None
        bay = self.bay
        if bay.gate.generation != WORLD.generation:
            return
        bay.gate.used -= 1
        bay.lane.leave(self, now)
        bay.gate.unpark(now)

    def note_success(self) -> None:
        """The gateway has answered well."""
        self.bay.lane.note_success(self)

    def note_refusal(self, retry_after: float | None) -> None:
        """The gateway has refused for load."""
        self.counted = True
        lane = self.bay.lane
        with WORLD.lock:
            lane.probing.count_refusal()
            if lane.pace is not None:
                lane.pace.count_refusal(time.monotonic(), retry_after)

    def note_overload(self) -> None:
        """A connect timeout, or a 503 that proves nothing."""
        self.counted = True
        pace = self.bay.lane.pace
        if pace is not None:
            with WORLD.lock:
                pace.count_overload(time.monotonic())


WORLD = _World()
if sys.platform != "win32":
    os.register_at_fork(after_in_child=WORLD.start_afresh)
