"""OpenTelemetry: one span a call, one a download, and a few metrics, made from the client's own events.

Spans of an instrumented HTTP library become children of the call's span. No prompt, key or URL is recorded: events hold
none. Nothing of this is loaded, or costs anything, unless it is imported. It never configures a provider and never
exports anything.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from contextvars import Token
from typing import Any

from videorouter.events import (
    AttemptFinished,
    AttemptStarted,
    CallFinished,
    CallStarted,
    DownloadFinished,
    Event,
    EventHook,
    OutcomeInDoubt,
    RetryScheduled,
    TaskAccepted,
    TaskPolled,
)

try:
    from opentelemetry import context, metrics, trace
    from opentelemetry.context import Context
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import Span, TracerProvider
except ModuleNotFoundError as _error:
    _msg = "Tracing needs the package opentelemetry-api. In a clone of videorouter: pip install '.[otel]'"
    raise ModuleNotFoundError(_msg, name=_error.name) from _error

OPERATION = "generate_content"
"""The semantic conventions' own word for an operation that makes content of any kind."""
PROVIDER = "infron"
_MOST_OPEN = 100_000


class _Open:
    """A span that has not ended, and where it was made current."""

    __slots__ = ("attempts", "span", "task", "token")

    def __init__(self, span: Span, token: Token[Context], task: object) -> None:
        self.span = span
        self.token = token
        self.task = task
        self.attempts = 0


class Instrument:
    """An ``on_event`` hook that turns events into spans and metrics; ``instrument`` makes one.

    Args:
        tracer_provider: Default: the global one.
        meter_provider: Default: the global one.
        also: Another hook that is handed every event, after this one.
    """

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        also: EventHook | None = None,
    ) -> None:
        self._tracer = trace.get_tracer("videorouter", tracer_provider=tracer_provider)
        self._also = also
        self._open: OrderedDict[str, _Open] = OrderedDict()
        meter = metrics.get_meter("videorouter", meter_provider=meter_provider)
        self._duration = meter.create_histogram(
            "gen_ai.client.operation.duration", unit="s", description="From the call to its finished video or error."
        )
        self._active = meter.create_up_down_counter(
            "videorouter.client.active_calls", unit="{call}", description="Calls that have begun and not ended."
        )
        self._attempts = meter.create_counter(
            "videorouter.client.attempts", unit="{request}", description="Requests put on the wire."
        )
        self._retries = meter.create_counter(
            "videorouter.client.retries", unit="{request}", description="Requests that were sent again."
        )
        self._doubts = meter.create_counter(
            "videorouter.client.in_doubt",
            unit="{request}",
            description="Requests that may have been billed unanswered.",
        )
        self._cost = meter.create_counter(
            "videorouter.client.cost", unit="{USD}", description="US dollars, as far as the gateway told them."
        )
        self._bytes = meter.create_counter(
            "videorouter.client.downloaded", unit="By", description="Bytes of finished downloads."
        )
        self._mismatches = meter.create_counter(
            "videorouter.client.mismatches",
            unit="{mismatch}",
            description="Ways in which saved videos differ from what was asked for.",
        )
        self._does: Mapping[type[Event], Callable[[Any], None]] = {
            CallStarted: self._begin,
            CallFinished: self._end,
            AttemptStarted: self._note_attempt,
            AttemptFinished: self._note_answer,
            RetryScheduled: self._note_retry,
            TaskAccepted: self._note_task,
            TaskPolled: self._note_poll,
            OutcomeInDoubt: self._note_doubt,
            DownloadFinished: self._note_download,
        }

    def __call__(self, event: Event) -> Awaitable[None] | None:
        """Record one event."""
        do = self._does.get(type(event))
        if do is not None:
            do(event)
        return None if self._also is None else self._also(event)

    def _begin(self, event: CallStarted) -> None:
        span = self._tracer.start_span(
            f"{OPERATION} {event.model}" if event.model else OPERATION,
            kind=trace.SpanKind.CLIENT,
            attributes=_describe(event),
        )
        token = context.attach(trace.set_span_in_context(span))
        self._open[event.call_id] = _Open(span, token, _find_task())
        self._active.add(1, _describe(event))
        if len(self._open) > _MOST_OPEN:
            _close(self._open.popitem(last=False)[1])

    def _end(self, event: CallFinished) -> None:
        attributes = _describe(event)
        self._active.add(-1, attributes)
        if event.error_type is not None:
            attributes["error.type"] = event.error_type
        self._duration.record(event.elapsed, attributes)
        if event.cost is not None:
            self._cost.add(event.cost, attributes)
        opened = self._open.pop(event.call_id, None)
        if opened is None:
            return
        span = opened.span
        found = {
            "error.type": event.error_type,
            "http.response.status_code": event.status,
            "gen_ai.response.id": event.task_id,
            "videorouter.request_id": event.request_id,
            "videorouter.attempts": opened.attempts or event.attempts,
            "videorouter.cost": event.cost,
        }
        span.set_attributes({name: value for name, value in found.items() if value is not None})
        if event.error_type is not None:
            span.set_status(trace.StatusCode.ERROR, event.error_type)
        _close(opened)

    def _note_attempt(self, event: AttemptStarted) -> None:
        self._attempts.add(1, {"server.address": event.host})
        opened = self._open.get(event.call_id)
        if opened is not None:
            opened.attempts += 1
            host, _, port = event.host.rpartition(":")
            opened.span.set_attribute("server.address", host or event.host)
            if host and port.isdecimal():
                opened.span.set_attribute("server.port", int(port))

    def _note_answer(self, event: AttemptFinished) -> None:
        self._add(event, "attempt finished", attempt=event.attempt, phase=str(event.phase), status=event.status)

    def _note_retry(self, event: RetryScheduled) -> None:
        self._retries.add(1)
        self._add(event, "retry scheduled", attempt=event.attempt, wait=event.wait)

    def _note_task(self, event: TaskAccepted) -> None:
        self._add(event, "task accepted", task_id=event.task_id)

    def _note_poll(self, event: TaskPolled) -> None:
        self._add(event, "task polled", status=event.status, polls=event.polls)

    def _note_doubt(self, event: OutcomeInDoubt) -> None:
        self._doubts.add(1, {"gen_ai.request.model": event.record.model or ""})
        self._add(event, "outcome in doubt", phase=str(event.record.phase))

    def _note_download(self, event: DownloadFinished) -> None:
        if event.error_type is None and event.size is not None:
            self._bytes.add(event.size)
        self._trace_download(event)
        for mismatch in event.mismatches:
            self._mismatches.add(1, {"videorouter.field": mismatch.field})

    def _trace_download(self, event: DownloadFinished) -> None:
        """One span a download, made at its end: what came, and how that differs from what was asked for."""
        ended = time.time_ns()
        media = event.media
        facts: dict[str, Any] = {"videorouter.size": event.size, "error.type": event.error_type}
        if media is not None:
            facts |= {f"videorouter.media.{name}": getattr(media, name) for name in media.__struct_fields__}
        if event.mismatches:
            facts["videorouter.mismatches"] = [str(mismatch) for mismatch in event.mismatches]
        span = self._tracer.start_span(
            "download",
            kind=trace.SpanKind.CLIENT,
            attributes={name: value for name, value in facts.items() if value is not None},
            start_time=ended - int((event.elapsed or 0.0) * 1e9),
        )
        if event.error_type is not None:
            span.set_status(trace.StatusCode.ERROR, event.error_type)
        span.end(ended)

    def _add(self, event: Event, name: str, **facts: str | float | None) -> None:
        opened = self._open.get(event.call_id)
        if opened is not None:
            known = {f"videorouter.{key}": value for key, value in facts.items() if value is not None}
            opened.span.add_event(name, known)


def instrument(
    *,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
    also: EventHook | None = None,
) -> Instrument:
    """Give the hook that traces a client: ``AsyncVideoRouter(on_event=instrument())``.

    Args:
        tracer_provider: Default: the global one.
        meter_provider: Default: the global one.
        also: Another plain or coroutine function that is handed every event.

    Returns:
        The hook. One may serve several clients.
    """
    return Instrument(tracer_provider=tracer_provider, meter_provider=meter_provider, also=also)


def _describe(call: CallStarted | CallFinished) -> dict[str, str | float]:
    found = {
        "gen_ai.operation.name": OPERATION,
        "gen_ai.provider.name": PROVIDER,
        "gen_ai.output.type": "video",
        "videorouter.verb": call.verb,
    }
    return {**found, "gen_ai.request.model": call.model} if call.model else {**found}


def _find_task() -> object:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None


def _close(opened: _Open) -> None:
    opened.span.end()
    # A context can be left only where it was entered: an event of another task leaves it to the task's own end.
    if opened.task is not None and opened.task is _find_task():
        context.detach(opened.token)
