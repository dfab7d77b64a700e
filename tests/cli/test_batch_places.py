"""A journal that was moved, replaced or deleted while its batch ran: no line that the command prints pays again."""

import os
import shlex
import shutil
import signal
import sqlite3
import sys

import pytest

from tests.cli.conftest import point_at
from videorouter.sandbox import Sandbox

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="an open file can be moved")

RUN = ("batch", "run", "prompts.csv", "-c", "2", "--out", "clips")
COUNT = 6


@pytest.fixture(autouse=True)
def prompts(tmp_path):
    (tmp_path / "prompts.csv").write_text("prompt\n" + "".join(f"otter {n}\n" for n in range(COUNT)))


def rename_folder(clips):
    clips.rename(clips.with_name("kept"))


def move(clips):
    (clips / "run.db").rename(clips.with_name("run.db"))


def delete(clips):
    (clips / "run.db").unlink()


def delete_all(clips):
    shutil.rmtree(clips)


def empty(clips):
    os.truncate(clips / "run.db", 0)


def replace(clips):
    """An older copy is put back, as a tool that synchronises folders does."""
    shutil.copy(clips / "run.db", clips / "copy")
    (clips / "copy").replace(clips / "run.db")


DAMAGES = [rename_folder, move, delete, delete_all, empty, replace]


def list_commands(told):
    """The command lines that somebody may copy from what was printed: where each is to be called, and its words."""
    for line in told.splitlines():
        _, is_command, rest = line.partition("next: ")
        place, _, rest = rest.rpartition(" && ")
        if is_command and rest.startswith("videorouter "):
            yield place.removeprefix("cd "), shlex.split(rest.partition("   (")[0])[1:]


def follow(run, told, sandbox, cwd):
    """Run each of them, and what they print themselves; everything that was said."""
    said = ""
    for _ in range(2):
        ended = [run(*words, env=point_at(sandbox), cwd=place or cwd) for place, words in list_commands(told)]
        told = "".join(each.out + each.err for each in ended)
        said += told
    return said


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("ends", ["by itself", "by a signal"])
def test_no_line_that_is_printed_pays_again(start, run, tmp_path, damage, ends):
    with Sandbox(latency=float("inf")).in_thread() as sandbox:
        process = start(*RUN, env=point_at(sandbox))
        sandbox.wait_until(lambda running: running.held == 2)
        damage(tmp_path / "clips")
        if ends == "by a signal":
            process.send_signal(signal.SIGTERM)
        sandbox.release()
        out, err = process.communicate(timeout=60)
        told = (out + err).decode()
        assert process.returncode == 14 if ends == "by itself" else 143, told
    with Sandbox().in_thread() as after:
        follow(run, told, after, tmp_path)
        assert after.charges() == {}, told


def leave_log_behind(clips):
    (clips / "run.db-wal").unlink()


def overwrite(clips):
    (clips / "run.db-wal").unlink(missing_ok=True)
    (clips / "run.db").write_text("otter\n" * 1000)


def put_head_in_place(clips):
    """The first page of a database, which holds nothing."""
    (clips / "run.db-wal").unlink()
    bare = sqlite3.connect(clips / "bare")
    bare.execute("PRAGMA journal_mode = WAL")
    bare.close()
    (clips / "bare").replace(clips / "run.db")


@pytest.mark.parametrize("damage", [move, delete, empty, leave_log_behind, overwrite, put_head_in_place])
def test_a_run_that_finds_a_damaged_journal_pays_for_nothing_and_prints_no_line_that_does(start, run, tmp_path, damage):
    with Sandbox(latency=float("inf")).in_thread() as sandbox:
        process = start(*RUN, env=point_at(sandbox))
        sandbox.wait_until(lambda running: running.held == 2)
        process.kill()
        process.wait(30)
        damage(tmp_path / "clips")
    with Sandbox().in_thread() as after:
        ended = run(*RUN, env=point_at(after))
        assert ended.code == 14, ended.err
        assert "another path" not in ended.err
        follow(run, ended.err, after, tmp_path)
        assert after.charges() == {}


def test_a_folder_that_was_renamed_while_its_batch_ran_goes_on_where_it_is_now(start, run, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with Sandbox(latency=float("inf")).in_thread() as sandbox:
        process = start(*RUN, env=point_at(sandbox))
        sandbox.wait_until(lambda running: running.held == 2)
        rename_folder(tmp_path / "clips")
        sandbox.release()
        _, err = process.communicate(timeout=60)
        assert b"next: put clips/run.db back, or run `videorouter batch status` on it where it is now" in err
    with Sandbox().in_thread() as after:
        status = run("batch", "status", tmp_path / "kept", cwd=elsewhere, env=point_at(after))
        follow(run, status.out + status.err, after, elsewhere)
        assert after.charges() == dict.fromkeys((f"otter {n}" for n in range(2, COUNT)), 1)
    assert not list(elsewhere.iterdir())


def test_what_settle_and_retry_print_is_about_the_journal_where_it_is_now(run, sandbox, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    sandbox.faults.add("moderation", prompt="otter 0")
    sandbox.faults.add("status=500", prompt="otter 1")
    env = point_at(sandbox)
    run(*RUN, env=env)
    rename_folder(tmp_path / "clips")
    kept = tmp_path / "kept"
    retried = run("batch", "retry", kept, cwd=elsewhere, env=env)
    told = retried.err
    assert f"next: cd {tmp_path} && videorouter batch settle {kept}" in told
    settled = run("batch", "settle", kept, "--all", "--not-bought", cwd=elsewhere, env=env)
    assert f"next: cd {tmp_path} && videorouter batch run prompts.csv" in settled.err
    follow(run, told + settled.err, sandbox, elsewhere)
    assert set(sandbox.charges().values()) == {1}
    assert not list(elsewhere.iterdir())
    assert not (tmp_path / "clips").exists()
