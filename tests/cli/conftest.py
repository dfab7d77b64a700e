"""Runs the real command as a process of its own, against a real sandbox over real HTTP."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from videorouter.sandbox import Sandbox

# A shell that runs the tests in the background has made its children ignore Ctrl-C.
INTERRUPTIBLE = """\
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from videorouter.cli import main
sys.exit(main())
"""


def measured():
    """What to run Python with, and its environment, so that a coverage run counts the command's lines too."""
    coverage = sys.modules.get("coverage")
    current = coverage.Coverage.current() if coverage is not None else None
    if current is None:
        return [sys.executable], {}
    rules = Path(__file__).parents[2] / "pyproject.toml"
    data = Path(current.get_option("run:data_file")).absolute()
    words = [sys.executable, "-m", "coverage", "run", "--parallel-mode", f"--rcfile={rules}"]
    return words, {"COVERAGE_FILE": str(data)}


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str

    @property
    def lines(self):
        return self.out.splitlines()

    @property
    def records(self):
        return [json.loads(line) for line in self.out.splitlines()]


def make_environment(**more):
    kept = {
        name: value for name, value in os.environ.items() if not name.upper().endswith(("_PROXY", "_API_KEY", "_COLOR"))
    }
    kept.pop("INFRON_VIDEO_BASE_URL", None)
    return {**kept, "COLUMNS": "100", "PYTHONWARNINGS": "error", **more}


@pytest.fixture
def run(tmp_path):
    """Run one command to its end in an empty folder; no key and no address unless the test gives them."""

    def call(*args, stdin="", env=None, cwd=tmp_path, timeout=60):
        words, counting = measured()
        done = subprocess.run(
            [*words, "-m", "videorouter.cli", *map(str, args)],
            input=stdin.encode(),
            check=False,
            capture_output=True,
            cwd=cwd,
            env=make_environment(**counting, **(env or {})),
            timeout=timeout,
        )
        return Ended(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))

    return call


@pytest.fixture
def start(tmp_path, tmp_path_factory):
    """Start a command and leave it running; the test sends it a signal."""
    started = []
    script = tmp_path_factory.mktemp("script") / "interruptible.py"
    script.write_text(INTERRUPTIBLE)

    def call(*args, env=None, stdin=None):
        words, counting = measured()
        process = subprocess.Popen(
            [*words, script, *map(str, args)],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=tmp_path,
            env=make_environment(**counting, **(env or {})),
        )
        started.append(process)
        return process

    yield call
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def finish(process, number):
    """Send a signal and collect what the command says."""
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    return Ended(process.returncode, out.decode(), err.decode())


@pytest.fixture
def sandbox():
    with Sandbox(mode="held").in_thread() as running:
        yield running


@pytest.fixture
def task_sandbox():
    with Sandbox(mode="task").in_thread() as running:
        yield running


def point_at(sandbox, key="key-for-tests"):
    return {"INFRON_API_KEY": key, "INFRON_VIDEO_BASE_URL": sandbox.base_url}
