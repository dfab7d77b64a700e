"""Spans and metrics of real calls against the sandbox."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from videorouter import DownloadError, OutcomeUnknownError, RateLimitError
from videorouter.integrations.otel import instrument
from videorouter.testing import EventRecorder, open_router, open_sync_router, run_sandbox

TASK_MODEL = "google/veo3.1/text-to-video"
PROMPT = "A very secret otter"


@pytest.fixture
def sandbox():
    with run_sandbox(mode="mixed") as sandbox:
        yield sandbox


class Telemetry:
    def __init__(self):
        self.exporter = InMemorySpanExporter()
        self.tracing = TracerProvider()
        self.tracing.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        self.metering = MeterProvider([self.reader])

    def hook(self, **options):
        return instrument(tracer_provider=self.tracing, meter_provider=self.metering, **options)

    def spans(self):
        return list(self.exporter.get_finished_spans())

    def metrics(self):
        data = self.reader.get_metrics_data()
        found = data.resource_metrics[0].scope_metrics[0].metrics if data else []
        return {metric.name: list(metric.data.data_points) for metric in found}


@pytest.fixture
def telemetry():
    telemetry = Telemetry()
    yield telemetry
    telemetry.metering.shutdown()
    telemetry.tracing.shutdown()


@pytest.mark.anyio
async def test_one_call_is_one_span_with_what_it_did(sandbox, telemetry):
    async with open_router(sandbox, on_event=telemetry.hook()) as router:
        result = await router.generate(PROMPT, model=TASK_MODEL)
    (span,) = telemetry.spans()
    assert span.name == f"generate_content {TASK_MODEL}"
    assert span.kind is trace.SpanKind.CLIENT
    facts = dict(span.attributes)
    assert facts["gen_ai.operation.name"] == "generate_content"
    assert facts["gen_ai.request.model"] == TASK_MODEL
    assert facts["gen_ai.output.type"] == "video"
    assert facts["gen_ai.response.id"] == result.task_id
    assert facts["videorouter.verb"] == "generate"
    assert facts["server.address"] == "127.0.0.1"
    assert facts["videorouter.attempts"] == 1
    assert "error.type" not in facts
    assert span.status.is_ok or span.status.status_code is trace.StatusCode.UNSET
    assert "task accepted" in [event.name for event in span.events]


@pytest.mark.anyio
async def test_no_prompt_no_key_and_no_url_is_recorded(sandbox, telemetry, tmp_path):
    async with open_router(sandbox, on_event=telemetry.hook()) as router:
        await router.save(await router.generate(PROMPT, model=TASK_MODEL), tmp_path / "otter.mp4")
    shown = "".join(span.to_json() for span in telemetry.spans()) + str(telemetry.metrics())
    assert PROMPT not in shown
    assert "a-key-for-tests" not in shown
    assert sandbox.files_url not in shown


@pytest.mark.anyio
async def test_an_error_is_named_on_the_span(sandbox, telemetry):
    sandbox.faults.add("reset", times=1)
    async with open_router(sandbox, on_event=telemetry.hook()) as router:
        with pytest.raises(OutcomeUnknownError):
            await router.generate(PROMPT)
    (span,) = telemetry.spans()
    assert span.attributes["error.type"] == "OutcomeUnknownError"
    assert span.status.status_code is trace.StatusCode.ERROR
    assert sum(point.value for point in telemetry.metrics()["videorouter.client.active_calls"]) == 0


@pytest.mark.anyio
async def test_a_cancelled_call_ends_its_span_too(sandbox, telemetry):
    sandbox.faults.add("stall")
    async with open_router(sandbox, on_event=telemetry.hook()) as router:
        call = asyncio.create_task(router.generate(PROMPT))
        await asyncio.to_thread(sandbox.wait_until, lambda sandbox: len(sandbox.requests) > 0 or sandbox.held > 0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    (span,) = telemetry.spans()
    assert span.attributes["error.type"] == "CancelledError"
    assert sum(point.value for point in telemetry.metrics()["videorouter.client.in_doubt"]) == 1


@pytest.mark.anyio
async def test_the_span_is_a_child_of_the_callers_and_the_parent_of_what_goes_on_below(sandbox, telemetry):
    tracer = telemetry.tracing.get_tracer("app")
    async with open_router(sandbox, on_event=telemetry.hook()) as router:
        with tracer.start_as_current_span("web request") as outer:
            await asyncio.gather(router.generate("one"), router.generate("two"))
            assert trace.get_current_span() is outer
        assert trace.get_current_span() is trace.INVALID_SPAN
    spans = {span.name: span for span in telemetry.spans()}
    calls = [span for span in telemetry.spans() if span.name == "generate_content veo3-fast"]
    assert len(calls) == 2
    assert {span.parent.span_id for span in calls} == {spans["web request"].context.span_id}


@pytest.mark.anyio
async def test_the_span_is_current_while_the_call_runs(sandbox, telemetry):
    seen = []

    def look(event):
        seen.append(
            (type(event).__name__, trace.get_current_span().name if trace.get_current_span().is_recording() else "")
        )

    async with open_router(sandbox, on_event=telemetry.hook(also=look)) as router:
        await router.generate(PROMPT)
    assert ("AttemptStarted", "generate_content veo3-fast") in seen
    assert seen[-1] == ("CallFinished", "")


@pytest.mark.anyio
async def test_metrics_count_time_attempts_and_retries(sandbox, telemetry):
    sandbox.faults.add("status=429; retry-after=0", times=1)
    async with open_router(sandbox, on_event=telemetry.hook()) as router:
        await router.generate(PROMPT)
        sandbox.faults.add("status=429; retry-after=0")
        with pytest.raises(RateLimitError):
            await router.generate(PROMPT, max_retries=0)
    found = telemetry.metrics()
    assert sum(point.value for point in found["videorouter.client.attempts"]) == 3
    assert sum(point.value for point in found["videorouter.client.retries"]) == 1
    durations = {point.attributes.get("error.type"): point.count for point in found["gen_ai.client.operation.duration"]}
    assert durations == {None: 1, "RateLimitError": 1}


@pytest.mark.anyio
async def test_metrics_count_how_often_a_video_is_not_what_was_asked_for(sandbox, telemetry, tmp_path):
    sandbox.faults.add("wrong_seconds=4", path="*/generations")
    async with open_router(sandbox, on_event=telemetry.hook()) as router:
        for number in range(2):
            result = await router.generate(PROMPT, duration="8s")
            await router.save(result, tmp_path / f"{number}.mp4")
    (point,) = telemetry.metrics()["videorouter.client.mismatches"]
    assert (point.value, dict(point.attributes)) == (2, {"videorouter.field": "duration"})
    _, first, _, _ = telemetry.spans()
    assert (first.name, first.attributes["videorouter.mismatches"]) == ("download", ("asked for 8 s, got 4 s",))
    shown = {
        name: first.attributes[f"videorouter.media.{name}"] for name in ("seconds", "width", "height", "container")
    }
    assert shown == {"seconds": 4.0, "width": 640, "height": 360, "container": "mp4"}
    assert first.start_time < first.end_time


@pytest.mark.anyio
async def test_a_download_that_fails_is_a_span_with_its_error(sandbox, telemetry, tmp_path):
    async with open_router(sandbox, on_event=telemetry.hook(), max_retries=0) as router:
        result = await router.generate(PROMPT)
        sandbox.faults.add("expired")
        with pytest.raises(DownloadError) as raised:
            await router.save(result, tmp_path / "otter.mp4")
    span = telemetry.spans()[-1]
    assert (span.name, span.attributes["error.type"]) == ("download", type(raised.value).__name__)
    assert span.status.status_code is trace.StatusCode.ERROR


def test_a_sync_call_is_a_child_of_its_callers_span(sandbox, telemetry):
    tracer = telemetry.tracing.get_tracer("app")
    with open_sync_router(sandbox, on_event=telemetry.hook()) as router, tracer.start_as_current_span("script"):
        router.generate(PROMPT)
    call, script = telemetry.spans()
    assert call.parent.span_id == script.context.span_id


@pytest.mark.anyio
async def test_another_hook_gets_every_event(sandbox, telemetry):
    recorder = EventRecorder()
    async with open_router(sandbox, on_event=telemetry.hook(also=recorder)) as router:
        await router.generate(PROMPT)
    assert {"CallStarted", "CallFinished"} <= {type(event).__name__ for event in recorder.events}


def test_the_client_loads_none_of_it():
    program = "import sys, videorouter.client; print('opentelemetry' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "False\n"
    )


def test_without_the_package_the_message_names_the_extra():
    program = "import sys; sys.modules['opentelemetry'] = None; import videorouter.integrations.otel"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "pip install '.[otel]'" in ended.stderr
