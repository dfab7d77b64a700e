"""Who is let in: the rate of new jobs and the number of unfinished ones.

The clock is an argument everywhere; nothing here waits.
"""

from __future__ import annotations

import heapq
import math
from typing import TYPE_CHECKING

from videorouter.sandbox.answers import RefusalError

if TYPE_CHECKING:
    from videorouter.sandbox.settings import Settings


class Limits:
    """Counts what is under way.

    Args:
        settings: The sandbox's options.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._ready: list[float] = []
        self._tokens = self._burst = max(1.0, settings.rate or 1.0)
        self._filled = 0.0

    def restart(self, pending: list[float]) -> None:
        """Take over jobs that are already under way, and forget all others.

        Args:
            pending: When each will be ready.
        """
        self._ready = list(pending)
        heapq.heapify(self._ready)
        self._tokens = self._burst

    def admit(self, now: float) -> None:
        """Count one more job in, if there is room for it.

        Args:
            now: Seconds since 1970.

        Raises:
            RefusalError: There is none; it says when to come back.
        """
        limit, rate = self._settings.max_concurrency, self._settings.rate
        if limit is not None and self.count(now) >= limit:
            wait = self._ready[0] - now
            raise self._refuse(f"Too many concurrent jobs: {limit} are allowed.", wait if wait < 1e8 else 1.0)
        if rate is not None:
            self._tokens = min(self._burst, self._tokens + max(0.0, now - self._filled) * rate)
            self._filled = now
            if self._tokens < 1:
                raise self._refuse(f"Too many requests: {rate:g} jobs a second are allowed.", (1 - self._tokens) / rate)
            self._tokens -= 1

    def note(self, ready: float) -> None:
        """Count a job as under way until it is ready.

        Args:
            ready: Seconds since 1970.
        """
        if self._settings.max_concurrency is not None:
            heapq.heappush(self._ready, ready)

    def count(self, now: float) -> int:
        """Return how many jobs are under way.

        Args:
            now: Seconds since 1970.
        """
        while self._ready and self._ready[0] <= now:
            heapq.heappop(self._ready)
        return len(self._ready)

    def _refuse(self, message: str, wait: float) -> RefusalError:
        fixed = self._settings.limit_retry_after
        status = self._settings.limit_status
        return RefusalError(status, message, retry_after=max(1.0, math.ceil(wait)) if fixed is None else fixed)
