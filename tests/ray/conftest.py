"""A real local cluster for the whole session, and a gateway that writes down what it charges."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_DATA_DISABLE_PROGRESS_BARS"] = "1"

KEY = "sk-test-of-the-cluster-4711"


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.ray)
            # Ray's own deprecations, and sockets that it leaves open, are not ours to mend
            item.add_marker(pytest.mark.filterwarnings("default"))


class Gateway:
    def __init__(self, port: int) -> None:
        self.port = port
        self.base_url = f"http://127.0.0.1:{port}/v1"
        self.options = {"api_key": KEY, "base_url": self.base_url, "allow_private_hosts": True}

    def ask(self, path: str, method: str = "GET") -> dict:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def ledger(self) -> dict:
        return self.ask("/ledger")


@pytest.fixture
def gateway():
    script = Path(__file__).with_name("gateway.py")
    with subprocess.Popen(
        [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield Gateway(int(process.stdout.readline()))
        process.stdin.close()
        process.wait(10)


@pytest.fixture(scope="session")
def cluster():
    """Four logical CPUs on loopback; shut down whatever happens."""
    import ray

    context = ray.init(
        "local",
        num_cpus=4,
        include_dashboard=False,
        object_store_memory=150 * 2**20,
        _node_ip_address="127.0.0.1",
        logging_level="warning",
        log_to_driver=False,
    )
    yield context
    ray.shutdown()
