"""``videorouter.testing`` as a suite without pytest uses it."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading

import httpx
import pytest

from videorouter import APIConnectionError, NotFoundError, TaskFailedError, VideoRouter
from videorouter.events import CallStarted, TaskAccepted
from videorouter.testing import (
    EventRecorder,
    accepted_answer,
    allow_gateway,
    block_gateway,
    environment,
    error_answer,
    finished_answer,
    open_router,
    run_sandbox,
    task_answer,
)
from videorouter.transport import live_guard


def test_a_unittest_case_needs_no_more_than_two_lines(tmp_path):
    (tmp_path / "test_otter.py").write_text(
        textwrap.dedent("""
        import unittest
        from videorouter.testing import EventRecorder, open_router, open_sync_router, run_sandbox

        class OtterTest(unittest.TestCase):
            def setUp(self):
                self.sandbox = self.enterContext(run_sandbox(mode="task"))
                self.router = self.enterContext(open_sync_router(self.sandbox))

            def test_otter(self):
                self.assertTrue(self.router.generate("otter").video.url)
                self.assertEqual(self.sandbox.charges(), {"otter": 1})

        class AsyncOtterTest(unittest.IsolatedAsyncioTestCase):
            async def test_otter(self):
                sandbox = self.enterContext(run_sandbox())
                router = await self.enterAsyncContext(open_router(sandbox))
                self.assertTrue((await router.generate("otter")).video.url)
        """)
    )
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-m", "unittest", "-v"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Ran 2 tests" in ended.stderr, ended.stderr
    assert ended.returncode == 0, ended.stderr


@pytest.mark.anyio
async def test_the_recorder_keeps_events_by_kind():
    recorder = EventRecorder()
    with run_sandbox(mode="task") as sandbox:
        async with open_router(sandbox, on_event=recorder) as router:
            result = await router.generate("otter")
    assert [event.task_id for event in recorder.of(TaskAccepted)] == [result.task_id]
    assert "TaskAccepted" in repr(recorder)
    recorder.clear()
    assert recorder.events == []


def test_the_recorder_waits_for_an_event_of_another_thread():
    recorder = EventRecorder()
    event = TaskAccepted(call_id="c", task_id="t")
    threading.Timer(0.01, recorder, [event]).start()
    assert recorder.wait_for(TaskAccepted) is event
    with pytest.raises(TimeoutError, match="No CallStarted came"):
        recorder.wait_for(CallStarted, timeout=0.01)


def test_the_environment_wires_an_application(monkeypatch):
    with run_sandbox() as sandbox:
        for name, value in environment(sandbox).items():
            monkeypatch.setenv(name, value)
        with VideoRouter(model="veo3-fast") as router:
            assert router.generate("otter").video


def test_the_road_block_nests_and_says_who_put_it_up(monkeypatch):
    before = live_guard.find_reason()
    with block_gateway("the boss says no."):
        with allow_gateway():
            assert live_guard.find_reason() is None
        with VideoRouter("k") as router, pytest.raises(APIConnectionError, match="the boss says no") as caught:
            router.generate("otter", model="m")
        assert not caught.value.in_doubt
    assert live_guard.find_reason() == before


@pytest.mark.parametrize(
    ("host", "blocked"),
    [
        ("video.onerouter.pro", True),
        ("VIDEO.onerouter.pro.:443", True),
        ("onerouter.pro", True),
        ("notonerouter.pro", False),
        ("127.0.0.1:8000", False),
        ("[::1]:8000", False),
        ("onerouter.pro.example.com", False),
    ],
)
def test_the_road_block_stands_before_the_gateway_only(host, blocked):
    from videorouter.http import WireError

    with block_gateway("no."):
        if blocked:
            with pytest.raises(WireError):
                live_guard.check_host(host)
        else:
            live_guard.check_host(host)


def open_mocked(*answers):
    waiting = list(answers)
    transport = httpx.MockTransport(lambda _request: waiting.pop(0))
    return VideoRouter("k", http_client=httpx.AsyncClient(transport=transport))


def test_the_ready_made_answers_are_what_the_client_reads():
    with open_mocked(httpx.Response(200, json=finished_answer("https://files.example/a.mp4", video_id="v"))) as router:
        result = router.generate("otter", model="m")
        assert (result.video.url, result.video.video_id) == ("https://files.example/a.mp4", "v")
    accepted = httpx.Response(200, json=accepted_answer("t-1"))
    completed = httpx.Response(200, json=task_answer("completed", url="https://files.example/b.mp4"))
    with open_mocked(accepted, completed) as router:
        assert router.generate("otter", model="m").video.url == "https://files.example/b.mp4"
    failed = httpx.Response(200, json=task_answer("failed", reason="upstream error"))
    router = open_mocked(httpx.Response(200, json=accepted_answer("t-1")), failed)
    with router, pytest.raises(TaskFailedError, match="upstream error"):
        router.generate("otter", model="m")
    router = open_mocked(httpx.Response(404, json=error_answer("no such model", code="model_not_found")))
    with router, pytest.raises(NotFoundError, match="no such model"):
        router.generate("otter", model="m")
