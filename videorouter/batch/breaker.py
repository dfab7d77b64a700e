"""The circuit breaker of a batch: while every outcome is in doubt it holds new requests back, and lets one probe now and then.

Each outcome in doubt may have been billed, so a gateway that answers everything with 500 must not be sent all that is left.
What runs already is not touched.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

from videorouter.errors import ContentPolicyError

if TYPE_CHECKING:
    from collections.abc import Callable


PAUSES = (60.0, 120.0, 300.0, 600.0)
"""Seconds before each probe. After the last one that ends in doubt, the batch stops."""
TOGETHER = 1.0
"""Seconds in which outcomes in doubt count once: one fault of a network breaks all that runs."""


class CircuitBreaker:
    """Pauses dispatch after ``after`` outcomes in doubt in a row; only an accepted request ends the row.

    As soon as that many have come, however close together, one request leaves a second: more would count no more. When
    those of different seconds are that many, it pauses.
    """

    __slots__ = (
        "_after",
        "_changed",
        "_counted",
        "_last",
        "_next",
        "_pauses",
        "_probe",
        "_reason",
        "_row",
        "_stop",
        "_stopped",
    )

    def __init__(self, after: int, stop: Callable[[BaseException, str], None]) -> None:
        self._after = after
        self._stop = stop
        self._stopped = False
        self._changed = asyncio.Event()
        self._row = 0
        self._counted = 0
        self._last = 0.0
        self._next = 0.0
        self._pauses = 0
        self._probe: object | None = None
        self._reason = ""

    @property
    def notice(self) -> str:
        """Why nothing is sent, and when one request will be; empty while requests are sent."""
        if not self._pauses or self._stopped:
            return ""
        if self._probe is not None:
            step = "one request probes the gateway now"
        else:
            at = time.localtime(time.time() + self._next - time.monotonic())
            step = f"one request probes the gateway at {time.strftime('%H:%M:%S', at)}"
        return f"Paused, probe {self._pauses} of {len(PAUSES)}: {step}. {self._reason}"

    @property
    def left(self) -> float:
        """Seconds until the next probe; 0 while none is awaited."""
        return max(0.0, self._next - time.monotonic()) if self.notice and self._probe is None else 0.0

    def stop(self) -> None:
        """Let those go that wait: the batch has stopped."""
        self._stopped = True
        self._wake()

    def release(self, item: object) -> None:
        """Hand the probe on, where this item was it and has learned nothing of the gateway."""
        if self._probe is item:
            self._probe = None
            self._wake()

    @property
    def holds(self) -> bool:
        """Whether an item must wait for ``admit``."""
        return self._row >= self._after and not self._stopped

    async def admit(self, item: object) -> None:
        """Wait until this item may be sent, or the batch stops."""
        while self.holds:
            left = self._next - time.monotonic()
            if self._probe is None and left <= 0:
                if self._pauses:
                    self._probe = item
                else:
                    self._next = time.monotonic() + TOGETHER
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), None if self._probe is not None else left)

    def note_accepted(self, item: object) -> None:
        """End the row. While dispatch is paused only the probe does: the others were sent before."""
        if self._row and (not self._pauses or self._probe is item):
            self._row = self._counted = self._pauses = 0
            self._probe = None
            self._wake()

    def note_doubt(self, item: object, error: BaseException) -> None:
        """Count an outcome in doubt; moderation is none."""
        if isinstance(error, ContentPolicyError):
            return
        now = time.monotonic()
        self._row += 1
        if self._pauses:
            if self._probe is item:
                self._pause(now, error)
        elif not self._counted or now - self._last >= TOGETHER:
            self._counted += 1
            self._last = now
            if self._counted >= self._after:
                self._pause(now, error)

    def _pause(self, now: float, error: BaseException) -> None:
        self._probe = None
        self._reason = f"Outcomes in doubt in a row: {self._row:,}. The last one: {error}"
        if self._pauses == len(PAUSES):
            self._stop(error, f"{self._pauses} probes in a row brought no answer either. {self._reason}")
            return
        self._next = now + PAUSES[self._pauses]
        self._pauses += 1
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
