"""What guards a journal while others touch it: two runs without their lock file, a foreign lock, readers, a disk without locks."""

import errno
import os
import sqlite3
import subprocess
import sys
import time

import pytest

from tests.cli.conftest import make_environment, measured, point_at
from tests.cli.test_batch_places import RUN, follow
from videorouter.sandbox import Sandbox

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="locks and signals are POSIX")
COUNT = 6


@pytest.fixture(autouse=True)
def prompts(tmp_path):
    (tmp_path / "prompts.csv").write_text("prompt\n" + "".join(f"otter {n}\n" for n in range(COUNT)))


def read_states(path):
    database = sqlite3.connect(path)
    try:
        return dict(database.execute("SELECT state, count(*) FROM items GROUP BY state").fetchall())
    finally:
        database.close()


def test_two_runs_without_their_lock_file_buy_nothing_twice(start, run, tmp_path):
    with Sandbox(latency=float("inf")).in_thread() as sandbox:
        first = start(*RUN, env=point_at(sandbox))
        sandbox.wait_until(lambda one: one.held == 2)
        (tmp_path / "clips" / "run.db.lock").unlink()
        second = start(*RUN, env=point_at(sandbox))
        sandbox.wait_until(lambda one: one.held == 4)
        while second.poll() is None or first.poll() is None:
            sandbox.release()
            time.sleep(0.05)
        told = [b"".join(each.communicate(timeout=30)).decode() for each in (first, second)]
        assert (first.returncode, second.returncode) == (14, 8), told
        assert "run.db.lock was deleted or replaced" in told[0]
        assert "bug" not in told[0]
        assert "2 outcomes could not be written down" in told[0]
        assert sandbox.charges() == {f"otter {n}": 1 for n in range(COUNT)}
    with Sandbox().in_thread() as after:
        follow(run, told[0] + told[1], after, tmp_path)
        assert after.charges() == {}


HOLD = """
import sqlite3, sys, time
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("BEGIN IMMEDIATE")
print("held", flush=True)
time.sleep(float(sys.argv[2]))
database.execute("COMMIT")
"""


@pytest.fixture
def hold():
    """Another program that begins to write the database, and takes its time."""
    programs = []

    def begin(path, seconds):
        program = subprocess.Popen([sys.executable, "-c", HOLD, path, str(seconds)], stdout=subprocess.PIPE, text=True)
        programs.append(program)
        assert program.stdout.readline() == "held\n"
        return program

    yield begin
    for program in programs:
        program.kill()
        program.communicate()


@pytest.mark.parametrize("seconds", [7, 30])
def test_a_foreign_transaction_never_stops_a_batch(start, tmp_path, hold, seconds):
    with Sandbox(latency=float("inf")).in_thread() as sandbox:
        process = start(*RUN, env=point_at(sandbox))
        sandbox.wait_until(lambda one: one.held == 2)
        foreign = hold(tmp_path / "clips" / "run.db", seconds)
        sandbox.release()
        assert foreign.wait(60) == 0
        while process.poll() is None:
            sandbox.release()
            time.sleep(0.05)
        told = b"".join(process.communicate(timeout=30)).decode()
        assert process.returncode == 0, told
        assert sandbox.charges() == {f"otter {n}": 1 for n in range(COUNT)}
    assert read_states(tmp_path / "clips" / "run.db") == {"done": COUNT}


def test_a_foreign_transaction_is_waited_for_at_the_start_too(run, sandbox, tmp_path, hold):
    assert run(*RUN, env=point_at(sandbox)).code == 0
    hold(tmp_path / "clips" / "run.db", 7)
    again = run(*RUN, env=point_at(sandbox))
    assert again.code == 0, again.err


LOOK = """
import sys
from pathlib import Path
from videorouter.errors import JournalError
from videorouter.journal.status import read_status
print("looks", flush=True)
while True:
    try:
        read_status(Path(sys.argv[1]))
    except JournalError:
        pass  # it is not there yet
"""


def test_status_in_a_loop_never_makes_a_start_fail(run, sandbox, tmp_path):
    path = tmp_path / "clips" / "run.db"
    environment = make_environment(PYTHONPATH=os.pathsep.join(sys.path))
    looking = subprocess.Popen([sys.executable, "-c", LOOK, path], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert looking.stdout.readline() == "looks\n"
        for _ in range(3):
            ended = run(*RUN, env=point_at(sandbox))
            assert ended.code == 0, ended.err
        assert looking.poll() is None
    finally:
        looking.kill()
        looking.communicate()
    assert set(sandbox.charges().values()) == {1}


NO_LOCKS = """
import fcntl, sys
error = int(sys.argv.pop(1))
def refuse(*_):
    raise OSError(error, "not supported")
fcntl.flock = refuse
from videorouter.cli import main
sys.exit(main())
"""


@pytest.mark.parametrize("error", [errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS])
def test_a_disk_without_locks_is_named_as_that_and_nothing_is_sent(sandbox, tmp_path, error):
    words, counting = measured()
    script = tmp_path / "no_locks.py"
    script.write_text(NO_LOCKS)
    done = subprocess.run(
        [*words, script, str(error), *RUN],
        check=False,
        capture_output=True,
        cwd=tmp_path,
        env=make_environment(**counting, **point_at(sandbox)),
        text=True,
        timeout=60,
    )
    assert done.returncode == 14, done.stderr
    assert "knows no file locks" in done.stderr
    assert "in use" not in done.stderr
    assert sandbox.charges() == {}


def test_a_task_that_the_gateway_has_lost_is_told_and_settled(start, run, tmp_path):
    path = tmp_path / "clips" / "run.db"
    with Sandbox(mode="task", latency=float("inf")).in_thread() as sandbox:
        process = start(*RUN, "--price", "0.5", env=point_at(sandbox))
        sandbox.wait_until(lambda one: len({made.path for made in one.requests if "/tasks/" in made.path}) == 2)
        process.kill()
        process.wait(30)
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("UPDATE items SET accepted = accepted - 60")
    database.close()
    with Sandbox(mode="task").in_thread() as other:
        ended = run(*RUN, "--price", "0.5", env=point_at(other))
        assert ended.code == 8, ended.err
        assert "2 lost" in ended.err
        assert "batch settle clips   (2 may have been billed)" in ended.err
        first, second = run("batch", "settle", "clips", "--json").records
        assert {first["state"], second["state"]} == {"lost"}
        assert first["idempotency_key"]
        assert run("batch", "settle", "clips", first["id"], "--bought").code == 0
        assert run("batch", "settle", "clips", second["id"], "--not-bought").code == 0
        status = run("batch", "status", "clips", "--json").records[0]
        assert (status["lost"], status["failed"], status["not_sent"], status["cost_in_doubt"]) == (0, 1, 1, 0)
        run(*RUN, "--price", "0.5", env=point_at(other))
        assert sum(other.charges().values()) == COUNT - 1
    assert read_states(path) == {"done": COUNT - 1, "failed": 1}


def test_settle_shows_the_key_and_the_time_of_the_very_sending_that_is_in_doubt(run, sandbox, tmp_path):
    (tmp_path / "prompts.csv").write_text("prompt\notter\n")
    sandbox.faults.add("status=500", charged=True, times=1)
    assert run(*RUN, env=point_at(sandbox)).code == 8
    (before,) = run("batch", "settle", "clips", "--json").records
    assert run("batch", "settle", "clips", before["id"], "--send-again").code == 0
    assert run(*RUN, "--price", "0.5", env=point_at(sandbox)).code == 0
    (after,) = run("batch", "settle", "clips", "--json").records
    assert after["state"] == "done"
    assert (after["idempotency_key"], after["sent"]) == (before["idempotency_key"], before["sent"])
    assert before["idempotency_key"] in run("batch", "settle", "clips").out
    keys = {made.headers["idempotency-key"] for made in sandbox.requests if made.method == "POST"}
    assert len(keys) == 2
    assert before["idempotency_key"] in keys
