"""``batch run --sandbox`` after a kill: the same command goes on against the same sandbox, and buys nothing twice."""

from __future__ import annotations

import contextlib
import sqlite3
import time

import pytest
from batching import read

PROMPTS = ("A heron at dawn", "Neon rain", "A paper boat crosses a puddle", "A kite")
COMMAND = ("batch", "run", "prompts.txt", "--out", "clips", "-m", "veo3-fast", "--price", "1.20", "--max-cost", "20")


def wait_for_row(path, state, process):
    """Wait until the journal of a running command has a row in a state."""
    until = time.monotonic() + 60
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(sqlite3.Error):
            if path.is_file() and read(path, f"SELECT count(*) FROM items WHERE state = '{state}'") != [(0,)]:
                return
        time.sleep(0.01)
    raise AssertionError(f"no row became {state}: {process.poll()}")


def let_time_pass(ledger):
    """All tasks of a sandbox that has ended are ready from now on."""
    database = sqlite3.connect(ledger)
    database.execute("UPDATE jobs SET ready = created")
    database.commit()
    database.close()


@pytest.mark.parametrize(("mode", "state"), [("held", "sending"), ("task", "accepted")])
def test_the_same_command_with_a_sandbox_goes_on_after_a_kill(run, start, tmp_path, mode, state):
    (tmp_path / "prompts.txt").write_text("".join(f"{prompt}\n" for prompt in PROMPTS))
    command = (*COMMAND, "--sandbox", "--sandbox-mode", mode)
    journal, ledger = tmp_path / "clips" / "run.db", tmp_path / "clips" / "run.sandbox.db"
    slow = start(*command, "--sandbox-profile", "realistic")
    wait_for_row(journal, state, slow)
    slow.kill()
    slow.communicate()
    let_time_pass(ledger)
    left = dict(read(journal, "SELECT id, state FROM items"))
    tasks = read(journal, "SELECT id, task_id FROM items WHERE task_id IS NOT NULL ORDER BY id")
    ended = run(*command)
    after = dict(read(journal, "SELECT id, state FROM items"))
    assert len(after) == len(PROMPTS), ended.err
    expected = {item: "in_doubt" if left.get(item) == "sending" else "done" for item in after}
    assert after == expected, ended.err
    assert ended.code == (8 if "in_doubt" in after.values() else 0), ended.err
    assert set(tasks) <= set(read(journal, "SELECT id, task_id FROM items"))
    charges = read(ledger, "SELECT prompt, count(*) FROM charges GROUP BY prompt")
    assert max(count for _, count in charges) == 1
    paid = {prompt for prompt, _ in charges}
    done = {prompt for (prompt,) in read(journal, "SELECT request ->> 'prompt' FROM items WHERE state = 'done'")}
    assert done <= paid <= set(PROMPTS)
    again = run(*command)
    assert (again.code, again.lines) == (ended.code, []), again.err
    assert read(ledger, "SELECT prompt, count(*) FROM charges GROUP BY prompt") == charges
