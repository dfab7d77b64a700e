"""A batch whose input is a stream that stays open: items come as entries come, and nothing waits for its end."""

import os
import signal
import sqlite3
import subprocess
import sys

import pytest

from tests.cli.conftest import finish, point_at

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and named pipes are POSIX")


@pytest.fixture(params=["pipe", "fifo", "terminal"])
def stream(request, tmp_path, start, sandbox):
    """Start a batch on a stream that the test writes into, and that stays open."""
    opened = []

    def call(*args):
        name, stdin = "-", subprocess.DEVNULL
        if request.param == "pipe":
            stdin, into = os.pipe()
            opened.extend([stdin, into])
        elif request.param == "terminal":
            into, stdin = os.openpty()
            opened.extend([stdin, into])
        else:
            name = "prompts"
            os.mkfifo(tmp_path / name)
        words = ["batch", "run", name, "--format", "lines", "--model", "m", "--out", "clips", *args]
        process = start(*words, env=point_at(sandbox), stdin=stdin)
        if request.param == "fifo":
            into = os.open(tmp_path / name, os.O_WRONLY)
            opened.append(into)
        return process, lambda text: os.write(into, text.encode())

    yield call
    for number in opened:
        os.close(number)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["SIGTERM", "SIGINT"])
def test_items_come_as_entries_come_and_a_signal_ends_it_while_it_reads(stream, sandbox, tmp_path, number, code):
    process, write = stream()
    for count in range(3):
        write(f"otter {count}\n")
        assert process.stdout.readline() == f"clips/{count:06d}-otter-{count}.mp4\n".encode()
    ended = finish(process, number)
    assert ended.code == code
    assert "nothing is in flight" in ended.err
    assert "(resumes)" in ended.err
    database = sqlite3.connect(tmp_path / "clips" / "run.db")
    assert database.execute("SELECT state, count(*) FROM items").fetchall() == [("done", 3)]
    database.close()
    assert set(sandbox.charges().values()) == {1}


def test_a_row_that_cannot_be_read_ends_it_at_once(stream, sandbox):
    process, write = stream("--json")
    write("otter\n- prompt: heron\nboat\n")
    out, err = process.communicate(timeout=30)
    assert process.returncode == 2
    assert b"the input ended early:" in err
    assert b"is YAML" in err
    assert len(out.splitlines()) == 2
    assert len(sandbox.charges()) == 1
