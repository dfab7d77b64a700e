"""Frozen records of what happens, handed to ``on_event`` hooks.

No record holds a key, a prompt or a URL, but for ``ItemFinished``, whose item has them as fields and does not show
them; a batch's file names begin with the first words of a prompt. A hook may be a plain function or a coroutine function;
what it raises is logged and changes nothing. This file never performs I/O.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

import msgspec

from videorouter.models import BatchItem, BatchSummary, InDoubt, Media, Mismatch


class Event(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The base of all events. ``call_id`` is the same for all events of one logical call (its idempotency key)."""

    call_id: str


class CallStarted(Event, frozen=True, kw_only=True):
    """A logical call began."""

    verb: str
    model: str | None = None


class AttemptStarted(Event, frozen=True, kw_only=True):
    """A request is about to go on the wire."""

    attempt: int
    host: str


class AttemptFinished(Event, frozen=True, kw_only=True):
    """A request ended, with a status or with what went wrong."""

    attempt: int
    host: str
    phase: str
    status: int | None = None
    trouble: str | None = None
    elapsed: float = 0.0


class RetryScheduled(Event, frozen=True, kw_only=True):
    """The request will be sent again, as the retry table allows."""

    attempt: int
    wait: float
    reason: str


class TaskAccepted(Event, frozen=True, kw_only=True):
    """The gateway accepted the job and gave it an id: write it down, it is paid."""

    task_id: str
    model: str | None = None


class TaskPolled(Event, frozen=True, kw_only=True):
    """A task was polled."""

    task_id: str
    status: str | None = None
    polls: int = 1
    elapsed: float = 0.0
    next_in: float | None = None
    error: str | None = None


class GatewayUnreachable(Event, frozen=True, kw_only=True):
    """Polls find no gateway, told once an outage: accepted tasks are paid, and wait for it together."""

    host: str
    reason: str


class OutcomeInDoubt(Event, frozen=True, kw_only=True):
    """A request may have been billed and its answer is missing."""

    record: InDoubt


class CallFinished(Event, frozen=True, kw_only=True):
    """A logical call ended. ``attempts`` and ``status`` are its error's; after a success, count ``AttemptStarted``."""

    verb: str
    model: str | None = None
    elapsed: float = 0.0
    attempts: int = 0
    error_type: str | None = None
    status: int | None = None
    request_id: str | None = None
    task_id: str | None = None
    cost: float | None = None


class DownloadProgressed(Event, frozen=True, kw_only=True):
    """Bytes of a download arrived. ``total`` and ``time_left`` are ``None`` while unknown."""

    name: str
    received: int
    total: int | None = None
    rate: float = 0.0
    time_left: float | None = None


class DownloadFinished(Event, frozen=True, kw_only=True):
    """A download ended: whole, or with an error. ``mismatches`` say how the video differs from what was asked for."""

    name: str
    size: int | None = None
    elapsed: float = 0.0
    error_type: str | None = None
    media: Media | None = None
    mismatches: tuple[Mismatch, ...] = ()


class ItemFinished(Event, frozen=True, kw_only=True):
    """A batch item reached its state. ``item`` has the prompt and the result; the event's repr shows neither."""

    item: BatchItem

    def __repr__(self) -> str:
        item = self.item
        return f"ItemFinished(call_id={self.call_id!r}, index={item.index}, state={item.state!r}, cost={item.cost!r})"


class BatchProgressed(Event, frozen=True, kw_only=True):
    """How a batch stands."""

    summary: BatchSummary
    in_flight: int = 0


EventHook: TypeAlias = Callable[[Event], Awaitable[None] | None]
InDoubtHook: TypeAlias = Callable[[InDoubt], Awaitable[None] | None]
