"""How fast a model may be asked: what a success, a refusal and a ``Retry-After`` change.

Two numbers rule each (origin, model). *Concurrency*: starts at 16, doubles per window of successes until
the first refusal, then grows by one per window, and shrinks to 0.7 at most once a second. *Rate*: off until the first
refusal, then the successes of the last second, growing slowly, and shrinking to 0.8 at most once per half second.
A success is a good answer, or a request that the gateway has held for 250 ms without refusing it: a generation's
latency says nothing. One ``Retry-After`` holds all its requests once.

Every step is O(1). This file knows no clock, no threads and no queue: times are arguments, and others wait.
"""

from __future__ import annotations

START = 16.0
MOST = 100_000.0
HELD_SECONDS = 0.25
LONGEST_HOLD = 600.0
"""Seconds that one ``Retry-After`` can hold calls other than its own: a slip of the gateway must not stop them for good."""

_SHRINK = 0.7
_SHRINK_EVERY = 1.0
_SLOW = 0.8
_SLOW_EVERY = 0.5
_FIRST_RATE = 1.0
_LEAST_RATE = 0.5
_BURST = 0.05
_PROBE_GAP = 1.0
_LONGEST_PROBE_GAP = 30.0


class Recent:
    """Counts the events of the last second, to a tenth."""

    __slots__ = ("_counts", "_tick")

    def __init__(self) -> None:
        self._counts = [0] * 10
        self._tick = 0

    def _turn(self, now: float) -> int:
        tick = int(now * 10)
        passed = tick - self._tick
        if passed:
            for step in range(1, min(passed, 10) + 1):
                self._counts[(self._tick + step) % 10] = 0
            self._tick = tick
        return tick % 10

    def count(self, now: float) -> None:
        """Count one more."""
        self._counts[self._turn(now)] += 1

    def total(self, now: float) -> int:
        """Return the sum of the last second."""
        self._turn(now)
        return sum(self._counts)


class AdaptiveRate:
    """The pace of one (origin, model).

    ``limit`` is how many jobs may run at once, as a float that grows in fractions; ``rate`` is in requests a second,
    ``None`` until the first refusal.
    """

    __slots__ = (
        "_anchor",
        "_next_start",
        "_shrunk_at",
        "_slowed_at",
        "_successes",
        "learning",
        "limit",
        "paused_until",
        "rate",
    )

    def __init__(self) -> None:
        self.limit: float = START
        self.rate: float | None = None
        self.paused_until: float = 0.0
        self.learning: bool = True
        self._anchor = 0.0
        self._shrunk_at = float("-inf")
        self._slowed_at = float("-inf")
        self._next_start = 0.0
        self._successes = Recent()

    def find_start(self) -> float:
        """Return the time from which the next request may start."""
        return max(self._next_start, self.paused_until)

    def count_start(self, now: float) -> None:
        """Count a request that starts."""
        if self.rate is not None:
            self._next_start = max(self._next_start, now - _BURST) + 1.0 / self.rate

    def count_success(self, now: float, used: int) -> None:
        """Count a good answer, or a request held for ``HELD_SECONDS``. An unused limit does not grow."""
        self._successes.count(now)
        if used * 2 >= self.limit:
            self.limit = min(MOST, self.limit + (1.0 if self.learning else 1.0 / self.limit))
        rate = self.rate
        if rate is not None:
            if rate < 0.95 * self._anchor:
                step = 0.1 * (self._anchor - rate)
            else:
                step = (1.0 + 0.5 * (now - self._slowed_at)) / rate
            self.rate = rate + min(rate, step)

    def count_refusal(self, now: float, retry_after: float | None = None) -> None:
        """Count a refusal for load."""
        self.count_overload(now)
        if self.rate is None:
            self.rate = self._anchor = max(_FIRST_RATE, float(self._successes.total(now)))
            self._slowed_at = now
            self._next_start = now
        elif now - self._slowed_at >= _SLOW_EVERY:
            # A rate that was allowed but never used says nothing about what the gateway takes.
            self._anchor = min(self.rate, max(_LEAST_RATE, 2.0 * self._successes.total(now)))
            self.rate = max(_LEAST_RATE, self._anchor * _SLOW)
            self._slowed_at = now
        if retry_after is not None:
            self.paused_until = max(self.paused_until, now + min(retry_after, LONGEST_HOLD))

    def count_overload(self, now: float) -> None:
        """Count a connect timeout or a 503: fewer at once, the rate stays."""
        self.learning = False
        if now - self._shrunk_at >= _SHRINK_EVERY:
            self.limit = max(1.0, self.limit * _SHRINK)
            self._shrunk_at = now


class RecoveryProbe:
    """Decides when a call without retry budget may ask a throttling model again.

    One such call at a time, at growing intervals; the first success ends it. ``troubled``: a refusal has come since the
    last success.
    """

    __slots__ = ("_gap", "next_at", "troubled")

    def __init__(self) -> None:
        self.troubled: bool = False
        self.next_at: float = 0.0
        self._gap = _PROBE_GAP

    def count_success(self) -> None:
        """Count a success, which ends the probing."""
        self.troubled = False
        self.next_at = 0.0
        self._gap = _PROBE_GAP

    def count_refusal(self) -> None:
        """Count a refusal."""
        self.troubled = True

    def count_probe(self, now: float) -> None:
        """Count a probe that starts."""
        self.next_at = now + self._gap
        self._gap = min(_LONGEST_PROBE_GAP, self._gap * 2.0)
