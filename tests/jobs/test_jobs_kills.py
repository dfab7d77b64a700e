"""The short form of ``tests/kill/kill_jobs.py``: kills and stops of all processes of one queue, ledger against file."""

import sys
import time

import pytest

from tests.kill.kill_jobs import run

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX")


@pytest.mark.parametrize("save", [False, True], ids=["videos stay", "videos are saved"])
def test_killed_and_stopped_processes_lose_nothing_and_pay_nothing_twice(save):
    seed = time.time_ns()
    total = run(kills=8, jobs=60 if save else 300, stops=0.4, seed=seed, save=save)
    assert total.sound, (seed, total)
    assert total.doubtful <= 32 * total.runners_killed, (seed, total)
    assert total.kills + total.stops == 8
