"""Fixtures for the test suites of people who use this client, and the guard over their money.

pytest loads this file in every run where the package is installed: so it imports nothing but pytest, and each fixture
loads what it needs. The guard stands from the start of a run to its end; ``videorouter_guard = false`` in the ini file
takes it away, the marker ``video_gateway`` for one test. It never starts a sandbox that no test asked for.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

import videorouter
import videorouter.sandbox
from videorouter.signatures import LazyModule
from videorouter.transport import live_guard

if TYPE_CHECKING:
    from videorouter import testing
else:  # the plugin stays light
    testing = LazyModule("videorouter.testing")

REASON = (
    "this is a test run. Take the video_sandbox fixture, respx or httpx.MockTransport; a test that is meant to pay is "
    "marked with @pytest.mark.video_gateway, and videorouter_guard = false in the ini file permits all."
)
_BEFORE = pytest.StashKey[str | None]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the setting that takes the guard away."""
    parser.addini("videorouter_guard", "keep videorouter off the real gateway during tests", type="bool", default=True)


def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers, and put the guard up."""
    config.addinivalue_line("markers", "video_gateway: this test may reach the real gateway and cost money")
    config.addinivalue_line("markers", "video_sandbox(**options): options of this test's sandbox, such as mode='task'")
    config.stash[_BEFORE] = live_guard.find_reason()
    if config.getini("videorouter_guard"):
        live_guard.block(REASON)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Take the guard down."""
    live_guard.block(config.stash.get(_BEFORE, None))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Let one marked test through."""
    if item.get_closest_marker("video_gateway") is None:
        return (yield)
    before = live_guard.find_reason()
    live_guard.block(None)
    try:
        return (yield)
    finally:
        live_guard.block(before)


@pytest.fixture(scope="session")
def _shared_video_sandbox() -> Iterator[videorouter.sandbox.ThreadedSandbox]:
    with testing.run_sandbox(mode="mixed") as sandbox:
        yield sandbox


@pytest.fixture
def video_sandbox(request: pytest.FixtureRequest) -> Iterator[videorouter.sandbox.ThreadedSandbox]:
    """A pretend gateway on loopback: one for all tests, empty at the start of each.

    ``@pytest.mark.video_sandbox(mode="task", latency=2)`` gives a test one of its own, with these options.
    """
    marker = request.node.get_closest_marker("video_sandbox")
    if marker is None:
        sandbox: videorouter.sandbox.ThreadedSandbox = request.getfixturevalue("_shared_video_sandbox")
        sandbox.reset()
        yield sandbox
        sandbox.reset()
        return
    options: dict[str, Any] = {"mode": "mixed", **marker.kwargs}
    with testing.run_sandbox(**options) as sandbox:
        yield sandbox


@pytest.fixture
def video_faults(video_sandbox: videorouter.sandbox.ThreadedSandbox) -> videorouter.sandbox.Faults:
    """What goes wrong in ``video_sandbox``: ``video_faults.add("status=503; retry-after=2", times=1)``."""
    return video_sandbox.faults


@pytest.fixture
def video_events() -> testing.EventRecorder:
    """What happened in ``video_router`` and ``video_router_sync``: ``video_events.of(TaskAccepted)``."""
    return testing.EventRecorder()


@pytest.fixture
def video_router(
    video_sandbox: videorouter.sandbox.ThreadedSandbox, video_events: testing.EventRecorder
) -> Iterator[videorouter.AsyncVideoRouter]:
    """An ``AsyncVideoRouter`` wired to ``video_sandbox``, for tests of any async plugin; closed afterwards."""
    router = testing.open_router(video_sandbox, on_event=video_events)
    yield router
    testing.close_from_outside(router.aclose)


@pytest.fixture
def video_router_sync(
    video_sandbox: videorouter.sandbox.ThreadedSandbox, video_events: testing.EventRecorder
) -> Iterator[videorouter.VideoRouter]:
    """A ``VideoRouter`` wired to ``video_sandbox``; closed afterwards."""
    with testing.open_sync_router(video_sandbox, on_event=video_events) as router:
        yield router


@pytest.fixture
def video_environment(
    video_sandbox: videorouter.sandbox.ThreadedSandbox, monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    """The environment wired to ``video_sandbox``, for an application that makes its own client."""
    variables = testing.environment(video_sandbox)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return variables
