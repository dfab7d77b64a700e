"""The short forms of the scripts in ``tests/kill``: SIGKILL at random points, resume, ledger against journal."""

import sys
import time

import pytest

from tests.kill import respell_batches
from tests.kill.kill_batches import run

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX")


def test_killed_batches_lose_nothing_and_pay_nothing_twice():
    seed = time.time_ns()
    total = run(kills=6, count=80, concurrency=10, per_batch=3, seed=seed)
    assert total.sound, (seed, total)
    assert total.most_in_doubt_after_a_kill <= 10, (seed, total)
    assert total.kills == 6


def test_killed_chains_of_edits_go_on_where_they_stopped():
    seed = time.time_ns()
    total = run(kills=4, count=30, concurrency=6, per_batch=2, seed=seed, chains=True)
    assert total.sound, (seed, total)
    assert total.most_in_doubt_after_a_kill <= 6, (seed, total)
    assert total.kills == 4


def test_killed_downloads_are_whole_after_the_next_run():
    seed = time.time_ns()
    total = run(kills=4, count=40, concurrency=6, per_batch=2, seed=seed, save=True)
    assert total.sound, (seed, total)
    assert total.files > 0
    assert total.kills == 4


def test_killed_uploads_leave_whole_objects_or_none():
    pytest.importorskip("s3fs")
    seed = time.time_ns()
    total = run(kills=4, count=30, concurrency=6, per_batch=2, seed=seed, store=True)
    assert total.sound, (seed, total)
    assert total.files > 0
    assert total.kills == 4


def test_a_batch_that_is_killed_and_spelt_anew_each_time_is_bought_once():
    seed = time.time_ns()
    total = respell_batches.run(batches=2, count=20, runs=3, seed=seed)
    assert total.sound, (seed, total)
    assert total.kills > 0, (seed, total)
