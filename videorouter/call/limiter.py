"""Limits which jobs run now: a client's limit, the limits of models that a process shares, and the queues for both.

A job holds one slot from dispatch to its end: one of its client's limit and one of its model's, which is that of one
(origin, model). Taking a free slot is a few comparisons under one lock. Jobs wait in one queue per client and model;
nothing is ever scanned, a cancelled waiter passes its slot on, and several event loops and threads can share a limit.

``call.pace`` decides how fast requests to a model may start. This file sends nothing.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import OrderedDict, deque
from typing import TYPE_CHECKING

import anyio

from videorouter.call.pace import HELD_SECONDS, AdaptiveRate, RecoveryProbe
from videorouter.errors import Phase
from videorouter.forks import after_fork
from videorouter.loops import resolve_future, running_loop

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from videorouter.http import Attempt, Origin

_MOST_MODELS = 1024
_MOST_JOBS = 1000
_JOBS_ON_WINDOWS = 500
_LONGEST_REST = 0.1
"""Seconds after which a loop looks again by itself whether its jobs may start."""
_TRIO_LOOK = 0.02
_UNKNOWN_TIME = 1.0
_UNSENT_PHASES = (Phase.QUEUED, Phase.CONNECTING, Phase.SENDING)


def default_concurrency() -> int:
    """Return the default of jobs in flight: the file-descriptor limit less a reserve, at most 1,000.

    Each job needs one connection. The reserve (an eighth of the limit, at least 32) is for downloads, the journal, the
    event loop and the program around us.
    """
    limit = read_file_limit()
    if limit is None:
        return _JOBS_ON_WINDOWS if sys.platform == "win32" else _MOST_JOBS
    return max(1, min(_MOST_JOBS, limit - max(32, limit // 8)))


def read_file_limit() -> int | None:
    """Return the soft limit of open file descriptors; ``None`` where the system sets none."""
    if sys.platform == "win32":
        return None
    import resource  # noqa: PLC0415  POSIX only

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


class _ProcessLimits:
    """The limits that all clients of a process share. A forked child starts anew, without its parent's jobs."""

    def __init__(self) -> None:
        self.generation: int = 0
        self.make_pace: Callable[[tuple[Origin, str]], AdaptiveRate] = lambda _: AdaptiveRate()
        self.reset()

    def reset(self) -> None:
        """Forget every model's limit."""
        self.generation += 1
        # Reentrant: a slot may be given back by the garbage collector, in the middle of what is done under the lock.
        self.lock: threading.RLock = threading.RLock()
        self.model_limits: dict[tuple[Origin, str], ModelLimit] = {}

    def find_model_limit(self, key: tuple[Origin, str]) -> ModelLimit:
        """Return the limit of one (origin, model)."""
        limit = self.model_limits.get(key)
        if limit is None:
            if len(self.model_limits) >= _MOST_MODELS:
                self.model_limits = {name: kept for name, kept in self.model_limits.items() if not kept.idle}
            limit = self.model_limits[key] = ModelLimit(self.make_pace(key))
        return limit


class ModelLimit:
    """The jobs of one (origin, model): how many run, how many may, and which queues wait.

    ``pace`` is ``None`` for a limit that only counts (``adaptive=False``). ``least_time`` is the time in seconds of its
    fastest answer.
    """

    __slots__ = ("_answered", "_probe_slot", "_queues", "_timers", "_unproven", "least_time", "pace", "probe", "used")

    def __init__(self, pace: AdaptiveRate | None) -> None:
        self.pace: AdaptiveRate | None = pace
        self.used: int = 0
        self.least_time: float = _UNKNOWN_TIME
        self._answered = False
        self.probe: RecoveryProbe = RecoveryProbe()
        self._probe_slot: Slot | None = None
        self._queues: deque[WaitQueue] = deque()
        self._unproven: deque[Slot] = deque()
        """Slots whose requests were neither answered nor held for long enough, oldest first."""
        self._timers: dict[asyncio.AbstractEventLoop, _Timer] = {}
        """Of each event loop in which jobs wait: one that is blocked or stopped holds up no other."""

    @property
    def limit(self) -> float:
        """Jobs that may run at once."""
        return self.pace.limit if self.pace is not None else float("inf")

    @property
    def idle(self) -> bool:
        """Whether no job runs or waits."""
        return not self.used and not self._queues

    def admits(self, slot: Slot, now: float) -> bool:
        """Whether one more may start now without overtaking a waiting job."""
        if self._queues or slot.out_of_budget:
            return False
        pace = self.pace
        if pace is None:
            return True
        if self.used + 1 > pace.limit:
            self._count_held(now)
            if self.used + 1 > pace.limit:
                return False
        return not slot.queue.sends or pace.find_start() <= now

    def enter(self, slot: Slot, now: float) -> None:
        """Count a job that starts."""
        self.used += 1
        slot.held = True
        if slot.out_of_budget:
            slot.out_of_budget = False
            if self.probe.troubled:
                self._probe_slot = slot
                self.probe.count_probe(now)
        slot.started = now
        pace = self.pace
        if pace is not None and slot.queue.sends:
            slot.counted = False
            pace.count_start(now)
            self._unproven.append(slot)

    def _count_held(self, now: float) -> None:
        """Count a request that the gateway has held long enough without refusing it as a success."""
        unproven = self._unproven
        pace = self.pace
        if pace is None:
            return
        while unproven:
            slot = unproven[0]
            if slot.held and not slot.counted:
                if now - slot.started < HELD_SECONDS:
                    return
                unproven.popleft()
                if _is_unsent(slot):
                    slot.started = now
                    unproven.append(slot)
                else:
                    slot.counted = True
                    pace.count_success(now, self.used)
            else:
                unproven.popleft()

    def leave(self, slot: Slot, now: float) -> None:
        """Remove a job that has ended, or waits for its next attempt."""
        if self._probe_slot is slot:
            self._probe_slot = None
        if self._queues:
            self.dispatch(now)
        else:
            self._count_held(now)

    def note_success(self, slot: Slot, took: float) -> None:
        """Record a good answer after so many seconds."""
        if took < self.least_time or not self._answered:
            self._answered = True
            self.least_time = took
        if slot.counted and not self.probe.troubled:
            return
        with PROCESS_LIMITS.lock:
            now = time.monotonic()
            if self.probe.troubled:
                self.probe.count_success()
            if self.pace is not None and not slot.counted:
                self.pace.count_success(now, self.used)
            slot.counted = True
            if self._queues:
                self.dispatch(now)

    def join(self, queue: WaitQueue) -> None:
        """Add a queue with a waiting job."""
        self._queues.append(queue)

    def dispatch(self, now: float) -> None:
        """Start as many jobs as may start now, one of each queue in turn; set a timer for the next."""
        queues = self._queues
        pace = self.pace
        if pace is not None:
            self._count_held(now)
        following = now + _LONGEST_REST
        passed_over = 0
        while passed_over < len(queues):
            queue = queues[0]
            client = queue.client_limit
            if not queue.waiters:
                queues.popleft()
                queue.listed = False
            elif client.used >= client.limit:
                queues.popleft()
                client.blocked.append(queue)
            elif pace is not None and self.used + 1 > pace.limit:
                if self._unproven:
                    following = min(following, self._unproven[0].started + HELD_SECONDS)
                break
            else:
                start = self._find_start(queue, now)
                queues.rotate(-1)
                if start > now:
                    following = min(following, start)
                    passed_over += 1
                else:
                    passed_over = 0 if queue.admit_first(now) else passed_over + 1
        self._set_timer(now, following)

    def _find_start(self, queue: WaitQueue, now: float) -> float:
        """Return the time at which the first of a queue may start."""
        start = self.pace.find_start() if self.pace is not None and queue.sends else now
        if self.probe.troubled and queue.first.out_of_budget:
            start = max(start, self._find_probe_start(now))
        return start

    def _find_probe_start(self, now: float) -> float:
        """Return when the next probe may start: one at a time, at growing intervals, until one succeeds."""
        running = self._probe_slot
        start = self.probe.next_at
        if running is not None and running.held and (now - running.started < HELD_SECONDS or _is_unsent(running)):
            # A refusal may take its time: only an answer ends the trouble, a long wait merely lets the next one ask.
            start = max(start, max(now, running.started) + HELD_SECONDS)
        return start

    def begin_wait(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """Count a waiting job of this event loop."""
        if loop is not None:
            timer = self._timers.get(loop)
            if timer is None:
                timer = self._timers[loop] = _Timer()
            timer.waiting += 1

    def end_wait(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """Count it no more; called in its own loop."""
        if loop is not None:
            timer = self._timers[loop]
            timer.waiting -= 1
            if not timer.waiting:
                del self._timers[loop]
                if timer.handle is not None:
                    timer.handle.cancel()

    def _set_timer(self, now: float, when: float) -> None:
        """Set the timer of this event loop, if jobs wait in it. Every other loop has a timer of its own."""
        loop = running_loop()
        timer = self._timers.get(loop) if loop is not None else None
        if loop is None or timer is None:
            return
        if timer.handle is not None:
            if now < timer.when <= when + 0.001:
                return
            timer.handle.cancel()
        timer.when = when
        timer.handle = loop.call_later(max(0.0, when - now), self._on_timer, timer)

    def _on_timer(self, timer: _Timer) -> None:
        with PROCESS_LIMITS.lock:
            timer.handle = None
            if timer.waiting:
                self.dispatch(time.monotonic())


class _Timer:
    """The timer of one event loop's jobs that wait for a model, and their number."""

    __slots__ = ("handle", "waiting", "when")

    def __init__(self) -> None:
        self.waiting = 0
        self.when = 0.0
        self.handle: asyncio.TimerHandle | None = None


def _is_unsent(slot: Slot) -> bool:
    return slot.attempt is None or slot.attempt.phase in _UNSENT_PHASES


class ClientLimit:
    """A client's own limit of concurrent jobs.

    ``blocked`` has the queues that wait for this limit only, in order: the models of a client take turns.
    """

    __slots__ = ("__weakref__", "_queues", "blocked", "closed", "generation", "limit", "used", "waiting")

    def __init__(self, limit: int) -> None:
        self.limit: int = limit
        self.closed: bool = False
        self._queues: dict[tuple[Origin, str, bool], WaitQueue] = {}
        self._reset()

    def _reset(self) -> None:
        self.generation: int = PROCESS_LIMITS.generation
        self.used: int = 0
        self.waiting: int = 0
        self.blocked: deque[WaitQueue] = deque()
        self._queues.clear()

    @property
    def queues(self) -> tuple[WaitQueue, ...]:
        """Return the queues of this client."""
        return tuple(self._queues.values())

    def find_queue(self, origin: Origin, model: str, *, adaptive: bool, sends: bool = True) -> WaitQueue:
        """Return the queue of jobs that send to one (origin, model), or of those that only poll its tasks."""
        if self.generation != PROCESS_LIMITS.generation:
            self._reset()
        key = (origin, model, sends)
        queue = self._queues.get(key)
        if queue is None:
            with PROCESS_LIMITS.lock:
                if len(self._queues) >= _MOST_MODELS:
                    self._queues = {
                        name: kept for name, kept in self._queues.items() if kept.waiters or kept.model_limit.used
                    }
                limit = PROCESS_LIMITS.find_model_limit((origin, model)) if adaptive else ModelLimit(None)
                queue = self._queues[key] = WaitQueue(self, limit, sends=sends)
        return queue

    def wake_blocked(self, now: float) -> None:
        """Start the first job that waits for this limit only, after one has ended; its queue goes to the end."""
        for _ in range(len(self.blocked)):
            if self.used >= self.limit:
                return
            queue = self.blocked.popleft()
            queue.model_limit.join(queue)
            queue.model_limit.dispatch(now)

    def close(self) -> None:
        """End all waits, and let nobody wait any more."""
        with PROCESS_LIMITS.lock:
            self.closed = True
            for queue in self._queues.values():
                while queue.waiters:
                    waiter, _ = queue.waiters.popitem(last=False)
                    self.waiting -= 1
                    waiter.wake()


def set_pace_factory(make_pace: Callable[[tuple[Origin, str]], AdaptiveRate]) -> None:
    """Set where new limits of models get their pace from: a whole cluster's, for Ray."""
    PROCESS_LIMITS.make_pace = make_pace


class WaitQueue:
    """The jobs of one client that wait for one model.

    ``waiters`` has them in order; ``listed`` says whether a limit knows that a job waits; ``sends`` whether they are
    for requests that may cost: polls have no rate.
    """

    __slots__ = ("client_limit", "listed", "model_limit", "sends", "waiters")

    def __init__(self, client_limit: ClientLimit, model_limit: ModelLimit, *, sends: bool = True) -> None:
        self.client_limit: ClientLimit = client_limit
        self.model_limit: ModelLimit = model_limit
        self.sends: bool = sends
        self.waiters: OrderedDict[_Waiter, None] = OrderedDict()
        self.listed: bool = False

    @property
    def first(self) -> Slot:
        """Return the slot that the first in line waits for."""
        return next(iter(self.waiters)).slot

    def admit_first(self, now: float) -> bool:
        """Give a slot to the first in line whose event loop runs; ``False`` when there is none."""
        stopped = 0
        while stopped < len(self.waiters):
            waiter, _ = self.waiters.popitem(last=False)
            if waiter.is_stopped():
                self.waiters[waiter] = None  # its own loop lets it in when it runs again
                stopped += 1
                continue
            self.client_limit.waiting -= 1
            if waiter.is_gone():
                continue
            self.client_limit.used += 1
            self.model_limit.enter(waiter.slot, now)
            if waiter.wake():
                return True
            waiter.slot.give_back(now)
        return False


class _Waiter:
    """A job that waits for a slot, in an event loop or in a trio task."""

    __slots__ = ("future", "loop", "slot")

    def __init__(self, slot: Slot) -> None:
        self.slot = slot
        self.loop = running_loop()
        self.future: asyncio.Future[None] | None = None if self.loop is None else self.loop.create_future()

    def is_gone(self) -> bool:
        """Whether its event loop was closed."""
        return self.loop is not None and self.loop.is_closed()

    def is_stopped(self) -> bool:
        """Whether its event loop is stopped and may run again."""
        return self.loop is not None and not self.loop.is_running() and not self.loop.is_closed()

    def wake(self) -> bool:
        """Wake it; ``False`` when its loop is gone."""
        loop, future = self.loop, self.future
        if loop is None or future is None:
            return True
        if running_loop() is loop:
            resolve_future(future)
            return True
        try:
            loop.call_soon_threadsafe(resolve_future, future)
        except RuntimeError:
            return False
        return True

    async def wait(self, until: float) -> None:
        """Wait until it is woken, or the time is over."""
        if self.loop is not None and self.future is not None:
            timer = self.loop.call_later(max(0.0, until - time.monotonic()), resolve_future, self.future)
            try:
                await self.future
            finally:
                timer.cancel()
            return
        queue = self.slot.queue
        while self in queue.waiters and (left := until - time.monotonic()) > 0:
            await anyio.sleep(min(left, _TRIO_LOOK))
            with PROCESS_LIMITS.lock:
                queue.model_limit.dispatch(time.monotonic())


class Slot:
    """One job's right to run, from dispatch to its end.

    ``out_of_budget``: its client has no retry budget left, so it may start only as a probe, or after a success.
    ``attempt`` is the running one: a held request must be told from one that is still connecting.
    """

    __slots__ = ("attempt", "counted", "held", "out_of_budget", "queue", "started")

    def __init__(self, queue: WaitQueue) -> None:
        self.queue: WaitQueue = queue
        self.out_of_budget: bool = False
        self.held: bool = False
        self.counted: bool = True
        self.started: float = 0.0
        self.attempt: Attempt | None = None

    def move(self, queue: WaitQueue) -> None:
        """Wait in another queue from now on: the next attempt goes to another host."""
        self.queue = queue

    def try_take(self) -> bool:
        """Take it if it is free and no job waits."""
        queue = self.queue
        client = queue.client_limit
        if client.used >= client.limit or queue.waiters:
            return False
        with PROCESS_LIMITS.lock:
            now = time.monotonic()
            if client.used >= client.limit or not queue.model_limit.admits(self, now):
                return False
            client.used += 1
            queue.model_limit.enter(self, now)
            return True

    async def take(self, deadline: float, *, first: bool = False) -> bool:
        """Wait for it until a ``time.monotonic()`` deadline; return whether it is held then.

        ``first`` is for a job that was throttled: it waits before all others.
        """
        queue = self.queue
        with PROCESS_LIMITS.lock:
            if queue.client_limit.closed:
                return False
            now = time.monotonic()
            waiter = _Waiter(self)
            queue.waiters[waiter] = None
            queue.client_limit.waiting += 1
            queue.model_limit.begin_wait(waiter.loop)
            if first:
                queue.waiters.move_to_end(waiter, last=False)
            if not queue.listed:
                queue.listed = True
                queue.model_limit.join(queue)
            queue.model_limit.dispatch(now)
        try:
            if waiter in queue.waiters:
                await waiter.wait(deadline)
        except BaseException:
            self._withdraw(waiter)
            self.release()
            raise
        self._withdraw(waiter)
        return self.held

    def _withdraw(self, waiter: _Waiter) -> None:
        with PROCESS_LIMITS.lock:
            queue = self.queue
            queue.model_limit.end_wait(waiter.loop)
            if waiter in queue.waiters:
                del queue.waiters[waiter]
                queue.client_limit.waiting -= 1

    def release(self) -> None:
        """Release it. Idempotent."""
        if self.held:
            with PROCESS_LIMITS.lock:
                self.give_back(time.monotonic())

    def give_back(self, now: float) -> None:
        """Release it while the lock is held."""
        if not self.held:
            return
        self.held = False
        self.attempt = None
        queue = self.queue
        if queue.client_limit.generation != PROCESS_LIMITS.generation:
            return
        client, model = queue.client_limit, queue.model_limit
        client.used -= 1
        model.used -= 1
        if client.blocked:  # first: its other models have waited for longer
            client.wake_blocked(now)
        model.leave(self, now)

    def note_success(self, took: float) -> None:
        """Record a good answer after so many seconds."""
        self.queue.model_limit.note_success(self, took)

    def note_throttled(self, retry_after: float | None) -> None:
        """Record that the gateway refused for load."""
        self.counted = True
        limit = self.queue.model_limit
        with PROCESS_LIMITS.lock:
            limit.probe.count_refusal()
            if limit.pace is not None:
                limit.pace.count_refusal(time.monotonic(), retry_after)

    def note_overload(self) -> None:
        """Record a connect timeout, or a 503 that proves nothing."""
        self.counted = True
        pace = self.queue.model_limit.pace
        if pace is not None:
            with PROCESS_LIMITS.lock:
                pace.count_overload(time.monotonic())


PROCESS_LIMITS = _ProcessLimits()
after_fork(PROCESS_LIMITS, _ProcessLimits.reset)
