"""The short form of ``tests/kill/kill_batches.py``: SIGKILL at random points, resume, ledger against journal."""

import sys
import time

import pytest

from tests.kill.kill_batches import run


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX")
def test_killed_batches_lose_nothing_and_pay_nothing_twice():
    seed = time.time_ns()
    total = run(kills=6, count=80, concurrency=10, per_batch=3, seed=seed)
    assert total.sound, (seed, total)
    assert total.most_in_doubt_after_a_kill <= 10, (seed, total)
    assert total.kills == 6
