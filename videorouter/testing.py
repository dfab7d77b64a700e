"""What tests of an application need, in any runner: a gateway that costs nothing, recorded events, a guard against real calls.

``pytest`` gets the same as fixtures from the plugin. Nothing here is loaded by the client itself.

Example:
    ::

        class OtterTest(unittest.TestCase):
            def setUp(self):
                self.sandbox = self.enterContext(run_sandbox())
                self.router = self.enterContext(open_sync_router(self.sandbox))
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import videorouter
import videorouter.sandbox
from videorouter.events import Event
from videorouter.transport import live_guard

KEY = "a-key-for-tests"
MODEL = "veo3-fast"
E = TypeVar("E", bound=Event)


class EventRecorder:
    """An ``on_event`` hook that keeps what happened, from any thread.

    Attributes:
        events: All of it, oldest first.
    """

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._news = threading.Condition()

    def __call__(self, event: Event) -> None:
        """Keep one event."""
        with self._news:
            self.events.append(event)
            self._news.notify_all()

    def of(self, kind: type[E]) -> list[E]:
        """The events of one kind, oldest first."""
        return [event for event in self.events if isinstance(event, kind)]

    def wait_for(self, kind: type[E], *, timeout: float = 10.0) -> E:
        """Wait, in another thread than the client's, until an event of this kind has come.

        Args:
            kind: The class of the event.
            timeout: Seconds after which it is given up.

        Raises:
            TimeoutError: None came.
        """
        with self._news:
            if not self._news.wait_for(lambda: bool(self.of(kind)), timeout):
                msg = (
                    f"No {kind.__name__} came within {timeout} s; what came: {[type(e).__name__ for e in self.events]}."
                )
                raise TimeoutError(msg)
            return self.of(kind)[0]

    def clear(self) -> None:
        """Forget what was kept."""
        self.events.clear()

    def __repr__(self) -> str:
        return f"EventRecorder({', '.join(type(event).__name__ for event in self.events)})"


@contextmanager
def run_sandbox(**options: Any) -> Iterator[videorouter.sandbox.ThreadedSandbox]:
    """Run a pretend gateway on loopback, in a thread of its own, while the block runs. Needs the extra ``sandbox``.

    Args:
        **options: What ``videorouter.sandbox.Settings`` lists: ``mode="task"``, ``latency=2``, ``balance=0.5``, ...
    """
    with videorouter.sandbox.Sandbox(**options).in_thread() as sandbox:
        yield sandbox


def open_router(sandbox: videorouter.sandbox.ThreadedSandbox, **options: Any) -> videorouter.AsyncVideoRouter:
    """A client of a running sandbox; ``async with`` closes it.

    Args:
        sandbox: What ``run_sandbox`` gives.
        **options: What ``AsyncVideoRouter`` takes.
    """
    return videorouter.AsyncVideoRouter(**_wire(sandbox, options))


def open_sync_router(sandbox: videorouter.sandbox.ThreadedSandbox, **options: Any) -> videorouter.VideoRouter:
    """A client of a running sandbox for tests without ``await``; ``with`` closes it.

    Args:
        sandbox: What ``run_sandbox`` gives.
        **options: What ``VideoRouter`` takes.
    """
    return videorouter.VideoRouter(**_wire(sandbox, options))


def _wire(sandbox: videorouter.sandbox.ThreadedSandbox, options: dict[str, Any]) -> dict[str, Any]:
    return {"api_key": KEY, "base_url": sandbox.base_url, "model": MODEL, "trust_env": False, **options}


def environment(sandbox: videorouter.sandbox.ThreadedSandbox) -> dict[str, str]:
    """The variables that wire an application to a running sandbox, for ``os.environ`` or a child process."""
    return {"INFRON_API_KEY": KEY, "INFRON_VIDEO_BASE_URL": sandbox.base_url}


@contextmanager
def block_gateway(reason: str = "a block_gateway() block runs. Use run_sandbox() or a mock.") -> Iterator[None]:
    """Keep this client off the gateway's own hosts while the block runs, child processes included.

    A call that would connect to one raises ``APIConnectionError`` with ``reason``, before anything is sent. Whatever a
    mock catches goes through.

    Args:
        reason: Who blocks, and how to go on.
    """
    with _live_guard(reason):
        yield


@contextmanager
def allow_gateway() -> Iterator[None]:
    """Permit the gateway's own hosts while the block runs: calls in it may cost money."""
    with _live_guard(None):
        yield


@contextmanager
def _live_guard(reason: str | None) -> Iterator[None]:
    before = live_guard.find_reason()
    live_guard.block(reason)
    try:
        yield
    finally:
        live_guard.block(before)


def finished_answer(
    url: str = "https://resource.onerouter.pro/video/generated%2Fotter.mp4",
    *,
    video_id: str = "video_0123456789abcdef",
    revised_prompt: str = "",
    created: int = 1_761_380_356,
) -> dict[str, Any]:
    """The JSON of a finished video, for ``httpx.Response(200, json=...)`` in respx or ``httpx.MockTransport``.

    Args:
        url: Where the file stands.
        video_id: What an edit takes.
        revised_prompt: The prompt as the model saw it.
        created: Unix time, in seconds.
    """
    video = {"url": url, "revised_prompt": revised_prompt, "video_id": video_id}
    return {"data": [video], "created": created}


def accepted_answer(task_id: str = "cgt-20260312231129-7db6s", *, model: str = MODEL) -> dict[str, Any]:
    """The JSON of an accepted task: what a gateway answers that does not hold the request.

    Args:
        task_id: What the task's state is asked for with.
        model: The model id.
    """
    data = {"task_id": task_id, "object": "video", "model": model, "status": "created"}
    return {"code": 200, "message": "success", "data": data}


def task_answer(status: str, *, url: str | None = None, reason: str | None = None) -> dict[str, Any]:
    """The JSON of a task's state.

    Args:
        status: ``created``, ``running``, ``completed`` or ``failed``.
        url: Of the file, once it is completed.
        reason: Why it failed.
    """
    data: dict[str, Any] = {"status": status}
    if url is not None:
        data["urls"] = {"video": url}
    if reason is not None:
        data["fail_reason"] = reason
    return {"data": data}


def error_answer(message: str, *, kind: str = "invalid_request_error", code: int | str | None = None) -> dict[str, Any]:
    """The JSON of a refusal.

    Args:
        message: What it says.
        kind: The gateway's ``type``: ``content_policy_violation``, ...
        code: As the status, or a symbol.
    """
    error: dict[str, Any] = {"message": message, "type": kind, "param": ""}
    if code is not None:
        error["code"] = code
    return {"error": error}


def close_from_outside(close: Callable[[], Any]) -> None:
    """Run a client's ``aclose`` where no loop runs, whatever loop it was used in.

    Args:
        close: ``router.aclose``.
    """
    import asyncio  # noqa: PLC0415  nothing is loaded before it is used

    def run() -> None:
        asyncio.run(close())

    thread = threading.Thread(target=run, name="videorouter-closing")
    thread.start()
    thread.join()
