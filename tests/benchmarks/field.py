"""Sets up one run: the stub gateway, plain and under TLS, and a worker for each contender. All on loopback."""

import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import trustme
from comparing import make_environment

HERE = Path(__file__).parent


def raise_file_limit():
    """Ten thousand connections need as many descriptors, in each process."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class Worker:
    def __init__(self, name, urls, ca):
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "worker.py"), name, json.dumps(urls), ca],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=make_environment(),
        )

    def ask(self, **order):
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            msg = f"a worker died with status {self._process.wait()}"
            raise RuntimeError(msg)
        return json.loads(line)

    def close(self):
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()


@contextlib.contextmanager
def serve(script, *arguments):
    """A server of this folder in a process of its own; yields its port."""
    process = subprocess.Popen(
        [sys.executable, str(HERE / script), *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield int(process.stdout.readline())
    finally:
        process.stdin.close()
        process.wait(30)
        process.stdout.close()


@contextlib.contextmanager
def field():
    """The servers; yields their URLs and the path of their authority's certificate."""
    raise_file_limit()
    authority = trustme.CA()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        ca, cert = Path(folder, "ca.pem"), Path(folder, "cert.pem")
        authority.cert_pem.write_to_path(ca)
        authority.issue_cert("127.0.0.1", "localhost").private_key_and_cert_chain_pem.write_to_path(cert)
        plain = stack.enter_context(serve("stub.py"))
        secure = stack.enter_context(serve("stub.py", "--cert", str(cert)))
        yield {"plain": f"http://127.0.0.1:{plain}", "tls": f"https://127.0.0.1:{secure}"}, str(ca)


@contextlib.contextmanager
def workers(names):
    """The servers and a worker for each name."""
    with field() as (urls, ca), contextlib.ExitStack() as stack:
        crew = {}
        for name in names:
            crew[name] = Worker(name, urls, ca)
            stack.callback(crew[name].close)
        yield crew


def tell_conditions():
    """Versions and machine, for the head of a table."""
    import platform
    from datetime import UTC, datetime
    from importlib.metadata import version

    names = ("httpx", "aiohttp", "openai", "msgspec", "httptools", "anyio")
    packages = ", ".join(f"{name} {version(name)}" for name in names)
    today = datetime.now(UTC).date().isoformat()
    print(f"{today}, Python {platform.python_version()}, {platform.system()}, {os.cpu_count()} cores; {packages}\n")


def print_table(head, rows):
    """A Markdown table."""
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(str(cell) for cell in row) + " |")
    print()
