"""``videorouter batch run`` says what it will do before it pays, and asks before it buys a journal again."""

import os
import pty
import select
import signal
import subprocess
import sys

import pytest

from tests.cli.conftest import INTERRUPTIBLE, make_environment, point_at

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="terminals are POSIX")

RUN = ("batch", "run", "prompts.csv", "--price", "0.5")


def write(tmp_path, count, **more):
    names = ["prompt", *more]
    rows = "".join(",".join([f"otter {n}", *map(str, more.values())]) + "\n" for n in range(count))
    (tmp_path / "prompts.csv").write_text(",".join(names) + "\n" + rows)


def answer(words, cwd, env, *, reply):
    """Run a command on a terminal of its own, and give one answer to its question; without one, press Ctrl-C."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTIBLE, *words],
        stdin=follower,
        stdout=subprocess.PIPE,
        stderr=follower,
        cwd=cwd,
        env=make_environment(**env, NO_COLOR="1"),
    )
    os.close(follower)
    shown = b""
    try:
        while b"[y/N]" not in shown:
            assert select.select([leader], [], [], 60)[0], shown
            shown += os.read(leader, 4096)
        if reply:
            os.write(leader, reply)
        else:
            process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
        return process.returncode, shown.decode(), out.decode()
    finally:
        process.kill()
        process.wait()
        os.close(leader)


def test_the_plan_is_said_before_anything_is_sent(run, sandbox, tmp_path):
    write(tmp_path, 3)
    first = run(*RUN, env=point_at(sandbox))
    assert "holds" not in first.err
    write(tmp_path, 5)
    again = run(*RUN, env=point_at(sandbox))
    plan = "run.db holds 3 requests; the input meets 3 of them, and 2 are new. To send: 2 (about $1.00)."
    assert plan in again.err
    stream = run("batch", "run", "-", "--out", "prompts-videos", stdin='{"prompt": "otter 1"}\n', env=point_at(sandbox))
    assert "run.db holds 5 requests; which of them this input meets is known as it is read." in stream.err


def test_stdin_is_stopped_before_it_buys_again_what_was_bought(run, sandbox, tmp_path):
    words = ("batch", "run", "-", "--out", "clips")
    lines = [f'"otter {n}"\n' for n in range(3)]
    assert run(*words, stdin="".join(lines), env=point_at(sandbox)).code == 0
    respelt = "".join(f'{{"prompt": "otter {n}", "seed": 1}}\n' for n in range(3))
    refused = run(*words, stdin=respelt, env=point_at(sandbox))
    assert refused.code == 14, refused.err
    assert "would be bought again" in refused.err
    assert "next:" not in refused.err
    assert run(*words, stdin="".join([*lines, '"heron"']), env=point_at(sandbox)).code == 0
    assert set(sandbox.charges().values()) == {1}
    assert run(*words, "--new", stdin=respelt, env=point_at(sandbox)).code == 0
    assert sum(sandbox.charges().values()) == 4 + 3


def test_rows_that_the_input_has_no_longer_are_told_and_their_files_are_fetched(run, sandbox, tmp_path):
    write(tmp_path, 3)
    assert run(*RUN, "--journal", "run.db", "--no-save", env=point_at(sandbox)).code == 0
    write(tmp_path, 1)
    again = run(*RUN, "--journal", "run.db", env=point_at(sandbox))
    assert again.code == 0, again.err
    assert "the input meets 1 of them, 2 are not in this input, and 0 are new. To send: 0." in again.err
    assert "1 done\n" in again.err
    assert "2 in the journal are not in this input" in again.err
    assert len(again.lines) == 3
    assert all((tmp_path / line).is_file() for line in again.lines)
    status = run("batch", "status", "run.db", "--json").records[0]
    assert (status["done"], status["not_in_input"], status["not_met"], status["files_missing"]) == (3, 2, 0, 0)
    assert "2  of them are not in the input of the last run" in run("batch", "status", "run.db").out
    *items, last = run(*RUN, "--journal", "run.db", "--json", env=point_at(sandbox)).records
    assert [item["in_input"] for item in items] == [True]
    assert last["summary"]["not_in_input"] == 2


def test_what_is_in_doubt_and_not_in_this_input_is_told_as_that(run, sandbox, tmp_path):
    write(tmp_path, 2)
    sandbox.faults.add("status=500", prompt="otter 1")
    assert run(*RUN, env=point_at(sandbox)).code == 8
    write(tmp_path, 1)
    again = run(*RUN, env=point_at(sandbox))
    assert again.code == 8, again.err
    assert "batch settle prompts-videos   (1 may have been billed)" in again.err


def test_a_batch_that_would_be_bought_again_is_refused_unless_new_is_asked_for(run, sandbox, tmp_path):
    write(tmp_path, 3)
    assert run(*RUN, env=point_at(sandbox)).code == 0
    write(tmp_path, 3, seed=7)
    refused = run(*RUN, env=point_at(sandbox))
    assert refused.code == 14, refused.err
    assert "3 of the 3 requests" in refused.err
    assert "--new" in refused.err
    assert set(sandbox.charges().values()) == {1}
    for _ in range(2):
        assert run(*RUN, "--new", env=point_at(sandbox)).code == 0
    assert set(sandbox.charges().values()) == {2}


@pytest.mark.parametrize(("reply", "code", "charges"), [(b"y\n", 0, 2), (b"\n", 14, 1), (b"", 130, 1)])
def test_on_a_terminal_somebody_is_asked(run, sandbox, tmp_path, reply, code, charges):
    write(tmp_path, 3)
    assert run(*RUN, env=point_at(sandbox)).code == 0
    write(tmp_path, 3, seed=7)
    ended, shown, _ = answer(RUN, tmp_path, point_at(sandbox), reply=reply)
    assert ended == code
    assert "3 of the 3 requests" in shown.replace("\r\n", "")
    assert set(sandbox.charges().values()) == {charges}
