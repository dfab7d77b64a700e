"""The plugin as somebody else's test suite meets it: runs of pytest in a folder of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

LIGHT = "httpx,ssl,aiohttp,av,rich,ray,opentelemetry,msgspec,anyio,respx"


@pytest.fixture
def suite(tmp_path):
    """Write a test file and run pytest on it."""

    def run(source, *arguments, ini="", env=None):
        (tmp_path / "test_app.py").write_text(textwrap.dedent(source))
        (tmp_path / "pytest.ini").write_text(f"[pytest]\naddopts = --strict-markers -p no:cacheprovider\n{ini}")
        return subprocess.run(
            [sys.executable, "-W", "error", "-m", "pytest", "-q", *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "INFRON_API_KEY": "k", **(env or {})},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


def expect(ended, outcome):
    assert outcome in ended.stdout, ended.stdout + ended.stderr


def test_a_run_without_video_tests_loads_nothing_heavy(suite):
    source = f"""
        import sys

        def test_loaded():
            assert set({LIGHT.split(",")!r}) & set(sys.modules) == set()
    """
    # anyio's own pytest plugin loads anyio, others load theirs: only ours runs here.
    ended = suite(source, "-p", "videorouter.integrations.pytest_plugin", env={"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"})
    expect(ended, "1 passed")


FIXTURES = """
    import pytest
    from videorouter import AsyncVideoRouter, OutcomeUnknownError, VideoRouter
    from videorouter.events import TaskAccepted

    @pytest.fixture
    def anyio_backend():
        return "asyncio"

    @pytest.mark.anyio
    async def test_async(video_router, video_sandbox, video_events):
        result = await video_router.generate("otter", model="google/veo3.1/text-to-video")
        assert result.video.url.startswith(video_sandbox.files_url)
        assert video_sandbox.charges() == {"otter": 1}
        assert [event.task_id for event in video_events.of(TaskAccepted)] == [result.task_id]

    def test_sync_starts_with_an_empty_sandbox(video_router_sync, video_sandbox):
        assert video_sandbox.charges() == {}
        assert video_router_sync.generate("snow").video

    def test_faults(video_router_sync, video_faults, video_sandbox):
        video_faults.add("reset", times=1)
        with pytest.raises(OutcomeUnknownError):
            video_router_sync.generate("once")
        assert video_sandbox.charges() == {"once": 1}

    def test_faults_end_with_their_test(video_router_sync):
        assert video_router_sync.generate("after").video

    @pytest.mark.video_sandbox(mode="task", balance=0.0)
    def test_own_options(video_router_sync):
        assert video_router_sync.balance().credit_balance == 0.0

    def test_environment(video_environment, video_sandbox):
        with VideoRouter() as router:
            assert router.generate("by environment", model="veo3-fast").video
        assert video_sandbox.charges() == {"by environment": 1}
"""


def test_the_fixtures_give_a_gateway_a_client_events_and_faults(suite):
    expect(suite(FIXTURES), "6 passed")


GUARD = """
    import os
    import subprocess
    import sys
    from unittest import mock

    import httpx
    import pytest
    import respx
    from videorouter import APIConnectionError, VideoRouter
    from videorouter.testing import finished_answer

    URL = "https://video.onerouter.pro/v1/videos/generations"

    @pytest.mark.parametrize("base", ["https://video.onerouter.pro/v1", "https://media.onerouter.pro/v1"])
    def test_guard(base):
        with VideoRouter(base_url=base) as router, pytest.raises(APIConnectionError, match="video_sandbox fixture"):
            router.generate("otter", model="m")

    def test_guard_on_an_own_client():
        client = httpx.AsyncClient()
        with VideoRouter(http_client=client) as router, pytest.raises(APIConnectionError, match="test run"):
            router.generate("otter", model="m")

    def test_guard_with_a_proxy():
        with VideoRouter(proxy="http://127.0.0.1:9") as router, pytest.raises(APIConnectionError, match="test run"):
            router.generate("otter", model="m")

    def test_guard_in_an_emptied_environment():
        with mock.patch.dict(os.environ, {"INFRON_API_KEY": "k"}, clear=True):
            with VideoRouter() as router, pytest.raises(APIConnectionError, match="test run"):
                router.generate("otter", model="m")

    def test_guard_in_a_child_process():
        program = "from videorouter import VideoRouter; VideoRouter().generate('otter', model='m')"
        ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        assert "test run" in ended.stderr

    def test_respx_goes_through():
        with respx.mock:
            respx.post(URL).mock(httpx.Response(200, json=finished_answer(video_id="v-1")))
            with VideoRouter() as router:
                assert router.generate("otter", model="m").video.video_id == "v-1"

    def test_mock_transport_goes_through():
        transport = httpx.MockTransport(lambda request: httpx.Response(200, json=finished_answer(video_id="v-2")))
        with VideoRouter(http_client=httpx.AsyncClient(transport=transport)) as router:
            assert router.generate("otter", model="m").video.video_id == "v-2"
"""


def test_the_guard_keeps_a_run_off_the_gateway_and_lets_mocks_through(suite):
    expect(suite(GUARD, "-W", "default"), "8 passed")


LOOK = """
    import pytest
    from videorouter.transport import live_guard

    def test_plain():
        assert (live_guard.find_reason() is None) == {plain}

    @pytest.mark.video_gateway
    def test_marked():
        assert live_guard.find_reason() is None

    def test_after():
        assert (live_guard.find_reason() is None) == {plain}
"""


def test_a_marked_test_may_pass_the_guard(suite):
    expect(suite(LOOK.format(plain=False)), "3 passed")


def test_the_ini_file_takes_the_guard_away(suite):
    expect(suite(LOOK.format(plain=True), ini="videorouter_guard = false\n"), "3 passed")
