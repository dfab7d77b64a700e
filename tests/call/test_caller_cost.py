"""What a warm ``generate`` costs, counted and not timed: three figures that may not grow.

The gateway is the stub of the benchmarks, in a process of its own, so that each count is of the client alone.
"""

from __future__ import annotations

import asyncio
import selectors
import socket
import subprocess
import sys
import traceback
from pathlib import Path

import pytest

from videorouter import AsyncVideoRouter

pytestmark = pytest.mark.anyio

STUB = Path(__file__).parent.parent / "benchmarks" / "stub.py"
LOOP = (str(Path(asyncio.__file__).parent), selectors.__file__)
"""The event loop's own functions are not counted: they differ between versions of Python."""
MOST_ENTRIES = 90
MOST_FRAMES = 7
MOST_TASKS = 0


@pytest.fixture
def url():
    with subprocess.Popen([sys.executable, str(STUB)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as stub:
        yield f"http://127.0.0.1:{int(stub.stdout.readline())}/v1"
        stub.stdin.close()


class Count:
    """What happens while it is the profiler.

    ``entries`` are calls of Python functions, whoever's they are; a coroutine that goes on after a wait has been
    entered before and counts once. ``frames`` is how deep below the test ``socket.send`` is called.
    """

    def __init__(self) -> None:
        self.entries: list[str] = []
        self.frames: list[str] = []
        self.tasks = 0
        self._seen = {frame for frame, _ in traceback.walk_stack(sys._getframe(1))}  # they run already

    def __call__(self, frame, event, arg) -> None:
        if event == "call" and frame not in self._seen and not frame.f_code.co_filename.startswith(LOOP):
            self._seen.add(frame)
            self.entries.append(frame.f_code.co_qualname)
        elif event == "c_call" and arg.__name__ == "send" and isinstance(arg.__self__, socket.socket):
            assert not self.frames, "the request is written more than once"
            while frame.f_code is not test_a_warm_call_costs_no_more_than_this.__code__:
                self.frames.append(frame.f_code.co_qualname)
                frame = frame.f_back

    def start_task(self, loop, coroutine, **named) -> asyncio.Task:
        self.tasks += 1
        return asyncio.Task(coroutine, loop=loop, **named)


async def test_a_warm_call_costs_no_more_than_this(url):
    loop = asyncio.get_running_loop()
    counts = []
    async with AsyncVideoRouter("sk-test", base_url=url, trust_env=False) as router:
        for _ in range(20):
            await router.generate("otter", model="veo3-fast")
        for _ in range(10):
            count = Count()
            loop.set_task_factory(count.start_task)
            sys.setprofile(count)
            await router.generate("otter", model="veo3-fast")
            sys.setprofile(None)
            loop.set_task_factory(None)
            counts.append(count)
    least = min(counts, key=lambda count: len(count.entries))
    assert least.frames[-1].endswith("generate")
    assert len(least.frames) <= MOST_FRAMES, least.frames
    assert least.tasks == MOST_TASKS
    assert len(least.entries) <= MOST_ENTRIES, "\n".join(least.entries)
