"""Applications out of the docs' own text, each under its real server, against a sandbox."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from videorouter.testing import environment, run_sandbox

DOCS = Path(__file__).resolve().parents[2] / "docs"
BLOCK = re.compile(r'^```\w+ title="(?P<name>[^"]+)"\n(?P<source>.*?)^```$', re.MULTILINE | re.DOTALL)
SERVERS = {
    "uvicorn": ["uvicorn", "app:app", "--fd", "{fd}", "--timeout-graceful-shutdown", "5"],
    "hypercorn": ["hypercorn", "app:app", "--bind", "fd://{fd}"],
}


def write_blocks(page, folder):
    """Write every block of a page that has a title to the file of that name."""
    for block in BLOCK.finditer((DOCS / page).read_text()):
        (folder / block["name"]).write_text(block["source"])


class Application:
    """A server in a process of its own."""

    def __init__(self, launch, url, folder, env):
        self.launch = launch
        self.process = launch()
        self.url = url
        self.folder = folder
        self.env = env
        self.output = ""

    def stop(self):
        """Ask it to end as an operator does, and say whether it ended in order."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.output += self.process.communicate(timeout=30)[0]
        # Uvicorn raises the signal again once it has ended in order.
        raised_again = self.process.returncode == -signal.SIGTERM and "Application shutdown complete" in self.output
        return self.process.returncode == 0 or raised_again

    def restart(self):
        """Start it again on the same socket, after it has ended."""
        self.process.stdout.close()
        self.process = self.launch()

    def run(self, program):
        """Run a program beside the application, in its folder and environment."""
        command = [sys.executable, "-c", program]
        return subprocess.run(command, cwd=self.folder, env=self.env, capture_output=True, text=True, check=False)

    def start(self, program):
        """Start one."""
        command = [sys.executable, "-c", program]
        return subprocess.Popen(command, cwd=self.folder, env=self.env, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def serve(tmp_path):
    """Start a page's application under a server."""
    with contextlib.ExitStack() as stack:

        def start(page, server, sandbox):
            write_blocks(page, tmp_path)
            places = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
            env = {**os.environ, **environment(sandbox), "PYTHONUNBUFFERED": "1", "PYTHONPATH": places}
            # The listening socket is handed over, so that a request before the server is up waits instead of failing.
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=2048))
            command = [part.format(fd=listener.fileno()) for part in SERVERS[server]]
            launch = functools.partial(
                subprocess.Popen,
                [sys.executable, "-m", *command],
                cwd=tmp_path,
                env=env,
                pass_fds=[listener.fileno()],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            app = Application(launch, f"http://127.0.0.1:{listener.getsockname()[1]}", tmp_path, env)
            stack.callback(app.stop)
            return app

        yield start


@pytest.fixture
def sandbox():
    with run_sandbox(mode="mixed", state=None) as sandbox:
        yield sandbox


@pytest.fixture
async def http(anyio_backend):
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        yield client
