"""What of a queue is paused, and when one job may ask again.

What stops a batch pauses a queue. An account that is not let in, or is out of credit, pauses all; equal refusals, and
outcomes in doubt in a row, pause their owner and model alone. While something is paused one job at a time tests it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from videorouter.batch.breaker import TOGETHER
from videorouter.errors import (
    APIConnectionError,
    AuthenticationError,
    BadRequestError,
    ConfigurationError,
    ContentPolicyError,
    DeadlineExceededError,
    InsufficientCreditsError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    UnprocessableEntityError,
)
from videorouter.journal.states import StopRule

if TYPE_CHECKING:
    from collections.abc import Callable

PAUSES = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
"""Seconds before each test; the last one again and again."""
WALLS = (AuthenticationError, InsufficientCreditsError, PermissionDeniedError)
"""Refusals that say something of the account and nothing of the job."""
OF_ALL = (*WALLS, APIConnectionError, ConfigurationError)
_OF_ONE = (BadRequestError, NotFoundError, UnprocessableEntityError)
Key = tuple[str, str]
ALL: Key = ("", "")
"""The key of a pause of everything; the others are of an owner and a model."""


class _Pause:
    __slots__ = ("count", "next_at", "reason", "testing")

    def __init__(self) -> None:
        self.count = 0
        self.next_at = 0.0
        self.reason = ""
        self.testing = False


class Pauses:
    """The pauses of one queue. ``after`` equal refusals, or outcomes in doubt, in a row are too many."""

    def __init__(self, after: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._after = after
        self._clock = clock
        self._pauses: dict[Key, _Pause] = {}
        self._rules: dict[Key, StopRule] = {}
        self._doubts: dict[Key, tuple[int, float]] = {}

    @property
    def reasons(self) -> dict[str, str]:
        """Why nothing is sent, by what is paused."""
        return {" ".join(filter(None, key)): pause.reason for key, pause in self._pauses.items()}

    @property
    def left(self) -> float | None:
        """Seconds until something may be tested; ``None`` where nothing is paused."""
        waits = [pause.next_at for pause in self._pauses.values() if not pause.testing]
        return max(0.0, min(waits) - self._clock()) if waits else None

    def find_room(self, model: str) -> tuple[int | None, dict[str, int]]:
        """How many jobs of a model may be sent now, and how many of some owners; ``None`` for as many as there are slots."""
        room = None
        if ALL in self._pauses:
            room = self._find_room(self._pauses[ALL])
        of_owners = {
            owner: self._find_room(pause) for (owner, name), pause in self._pauses.items() if name == model and name
        }
        return room, of_owners

    def _find_room(self, pause: _Pause) -> int:
        return int(not pause.testing and self._clock() >= pause.next_at)

    def begin(self, owner: str, model: str) -> None:
        """A job is sent: where something of it is paused, it is the test."""
        for pause in self._of(owner, model):
            pause.testing = True

    def end(self, owner: str, model: str) -> None:
        """A job has ended. Where it was a test and the pause still stands, the next one is due later."""
        for pause in self._of(owner, model):
            if pause.testing:
                self._put_off(pause)

    def note_success(self, owner: str, model: str) -> None:
        """The gateway has accepted a job: whatever was paused of it goes on."""
        key = (owner, model)
        self._doubts.pop(key, None)
        self._pauses.pop(ALL, None)
        self._pauses.pop(key, None)
        if key in self._rules:
            self._rules[key].note_success()

    def note_error(self, owner: str, model: str, error: BaseException) -> None:
        """Pause what every further job would meet as well."""
        if isinstance(error, _OF_ONE):
            key = (owner, model)
            rule = self._rules.get(key)
            if rule is None:
                rule = self._rules[key] = StopRule(self._after)
            reason = rule.judge(error)
            if reason is not None:
                self.pause(key, reason)
        elif isinstance(error, OF_ALL):
            self.pause(ALL, str(error))
        elif isinstance(error, (DeadlineExceededError, RateLimitError)):
            self.pause((owner, model), str(error))

    def note_doubt(self, owner: str, model: str, error: BaseException) -> None:
        """Count an outcome in doubt; those of one second count once, and moderation is none."""
        if isinstance(error, ContentPolicyError):
            return
        key, now = (owner, model), self._clock()
        count, last = self._doubts.get(key, (0, -TOGETHER))
        if now - last >= TOGETHER:
            count += 1
            self._doubts[key] = (count, now)
        if count >= self._after or key in self._pauses:
            self.pause(key, f"{count} outcomes in doubt in a row. The last one: {error}")

    def pause(self, key: Key, reason: str) -> None:
        """Pause something, or put its next test off."""
        pause = self._pauses.get(key)
        if pause is None:
            pause = self._pauses[key] = _Pause()
        elif not pause.testing and self._clock() < pause.next_at:
            return  # it was sent before the pause began
        pause.reason = reason
        self._put_off(pause)

    def _put_off(self, pause: _Pause) -> None:
        pause.testing = False
        pause.next_at = self._clock() + PAUSES[min(pause.count, len(PAUSES) - 1)]
        pause.count += 1

    def _of(self, owner: str, model: str) -> list[_Pause]:
        return [self._pauses[key] for key in (ALL, (owner, model)) if key in self._pauses]
