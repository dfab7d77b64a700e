"""The signals that end a process reach every queue that it has entered, and what was there before them."""

from __future__ import annotations

import signal

import pytest

from videorouter import AsyncVideoRouter
from videorouter.jobs.signals import StopSignals


@pytest.fixture
def told():
    """What an own handler of Ctrl-C was told."""
    found = []
    before = signal.signal(signal.SIGINT, lambda number, _: found.append(number))
    yield found
    signal.signal(signal.SIGINT, before)


@pytest.mark.anyio
@pytest.mark.parametrize("first", [0, 1])
async def test_two_queues_leave_the_handler_as_it_was_in_whatever_order_they_close(tmp_path, told, first):
    own = signal.getsignal(signal.SIGINT)
    async with AsyncVideoRouter("key", base_url="http://127.0.0.1:9") as router:
        queues = [router.jobs(tmp_path / f"{name}.db") for name in "ab"]
        for queue in queues:
            await queue.__aenter__()
        signal.raise_signal(signal.SIGINT)
        assert [queue.stopping for queue in queues] == [True, True]
        assert told == [signal.SIGINT]
        await queues[first].aclose()
        await queues[1 - first].aclose()
    assert signal.getsignal(signal.SIGINT) is own


def test_a_handler_that_was_set_later_and_calls_the_one_before_it_is_called_once(told):
    signals, stopped = StopSignals(), []
    stop = lambda: stopped.append(1)  # noqa: E731
    signals.add(stop)
    ours, later = signal.getsignal(signal.SIGINT), []
    signal.signal(signal.SIGINT, lambda *given: (later.append(1), ours(*given)))
    signals.add(stop)  # once more, as half a second after a start
    signal.raise_signal(signal.SIGINT)
    assert (stopped, later, told) == ([1], [1], [signal.SIGINT])
    signals.remove(stop)
    signal.raise_signal(signal.SIGINT)
    assert (stopped, later, told) == ([1], [1, 1], [signal.SIGINT] * 2)
