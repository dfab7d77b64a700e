"""Batches on Ray: what two workers sustain next to one, and what ledger and pace add to a run without them.

``python tests/benchmarks/scale.py [--items 20000] [--rounds 3]`` starts a local cluster and a gateway that answers at
once, or after a quarter of a second, runs the variants in turn, and prints items a second and ratios of medians. A rate is
taken between the arrival of the first twentieth (with a slow gateway: of half) and the last at the gateway, so that
neither the start of processes counts nor how the lane finds its width. On two cores a second worker that waits for nobody
has no core of its own: the slow gateway shows what it adds where the cores are not what limits, and one worker what ledger
and pace add where they have a core beside it.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import select
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ANSWER = (
    b'{"data":[{"url":"https://resource.onerouter.pro/video/generated%2Fonerouter_0688d9c3-4e7f-45c5-a30d-7923dfd056a6'
    b'.mp4","revised_prompt":"","video_id":"video_68fc872dba248190875ba0c177c7b0cf0974c02d85a9c020"}],'
    b'"created":1761380356}'
)
REPLY = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(ANSWER), ANSWER)
SLOW = b"POST /slow/"
HOLD = 0.25
TICK = 0.005


def serve():
    """Answer each POST at once or a while later, with as little Python as it takes; a GET tells when they came."""
    server = socket.create_server(("127.0.0.1", 0), backlog=4096)
    server.setblocking(False)
    sys.stdout.write(f"{server.getsockname()[1]}\n")
    sys.stdout.flush()
    poll = select.epoll()
    poll.register(server.fileno(), select.EPOLLIN)
    poll.register(sys.stdin.fileno(), select.EPOLLIN)
    connections, arrivals, held, now = {}, [], collections.deque(), time.monotonic
    while True:
        for number, _ in poll.poll(TICK if held else -1):
            connection = connections.get(number)
            if connection is None:
                if number == sys.stdin.fileno():
                    return
                connection, _ = server.accept()
                connection.setblocking(False)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connections[connection.fileno()] = connection
                poll.register(connection.fileno(), select.EPOLLIN)
                continue
            try:
                data = connection.recv(65536)
                if data.startswith(b"POST"):  # one write, one request: the client writes head and body together
                    arrivals.append(now())
                    if data.startswith(SLOW):
                        held.append((arrivals[-1] + HOLD, connection))
                    else:
                        connection.send(REPLY)
                    continue
            except OSError:
                data = b""
            if data.startswith(b"GET"):
                count = data.startswith(b"GET /count")
                body = json.dumps(len(arrivals) if count else arrivals).encode()
                connection.setblocking(True)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
                arrivals = arrivals if count else []
            del connections[number]
            connection.close()
        while held and held[0][0] <= now():
            with contextlib.suppress(OSError):
                held.popleft()[1].send(REPLY)


def read_arrivals(port, path=b"/"):
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"GET %b HTTP/1.1\r\n\r\n" % path)
        data = b"".join(iter(lambda: connection.recv(1 << 20), b""))
    return json.loads(data.partition(b"\r\n\r\n")[2])


ROLES = {
    "--serve": "gateway",
    "ray::MapWorker": "workers",
    "ray::Ledger": "ledger",
    "ray::Pacemaker": "pace",
    "ray::": "Ray",
    "site-packages/ray/": "Ray",
}


def read_cpu():
    """CPU seconds of each process below this one and of this one, by role and process."""
    parents, spent = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            except OSError:
                continue
            process = int(entry.name)
            parents[process] = int(fields[1])
            role = next((role for words, role in ROLES.items() if words in command), "driver")
            spent[process] = (role, sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK"))
    below, more = set(), {os.getpid()}
    while more:
        below |= more
        more = {child for child, parent in parents.items() if parent in more} - below
    return {process: spent[process] for process in below if process in spent}


class Meter(threading.Thread):
    """CPU seconds an item by role, between the first tenth and the last; what ends meanwhile does not count."""

    def __init__(self, port, items):
        super().__init__(daemon=True)
        self.port, self.items = port, items
        self.spent: dict[str, float] = {}

    def run(self):
        marks = []
        for mark in (self.items // 10, self.items - self.items // 10):
            while (count := read_arrivals(self.port, b"/count")) < mark:
                time.sleep(0.1)
            marks.append((count, read_cpu()))
        (first, before), (last, after) = marks
        for process, (role, seconds) in after.items():
            if process in before:
                spent = (seconds - before[process][1]) / (last - first)
                self.spent[role] = self.spent.get(role, 0.0) + spent


def run_once(port, items, workers, *, ledger=True, slow=False):
    """Items a second and CPU seconds an item, from the first twentieth to the last."""
    from videorouter.integrations import ray as guest
    from videorouter.integrations.ray import _start_actors
    from videorouter.integrations.ray.rows import number_rows, open_source
    from videorouter.integrations.ray.worker import Plan

    read_arrivals(port)
    with tempfile.TemporaryDirectory() as folder:
        journal = str(Path(folder) / "run.db")
        client = {
            "base_url": f"http://127.0.0.1:{port}{'/slow' if slow else ''}/v1",
            "max_concurrency": 500 if slow else 1000,
        }
        actors = (None, None)
        if ledger:
            actors = _start_actors(journal, None, None, "sk-bench")
        else:
            client["api_key"] = "sk-bench"
        numbered, _ = number_rows(
            open_source([f"otter {n}" for n in range(items)], "prompt"), ["prompt"], None, workers * 8
        )
        plan = Plan(
            ledger=actors[0],
            pacemaker=actors[1],
            journal=journal,
            client_options=client,
            options={"model": "veo3-fast"},
            prompt_column="prompt",
            id_column=None,
            field_columns=(),
            beat=guest.LEASE / 4,
        )
        meter = Meter(port, items)
        meter.start()
        done = guest.lay_out(numbered, plan, workers).materialize()
        assert done.count() == items
        if ledger:
            import ray

            counts = ray.get(actors[0].count.remote())
            assert counts["done"] == items, counts
            ray.get(actors[0].close.remote())
        meter.join()
    arrivals = sorted(read_arrivals(port))
    assert len(arrivals) == items
    begin, end = items // 2 if slow else items // 20, items - items // 20
    return (end - begin) / (arrivals[end] - arrivals[begin]), meter.spent


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--serve", action="store_true")
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    if given.serve:
        serve()
        return
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    with subprocess.Popen(
        [sys.executable, __file__, "--serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as stub:
        port = int(stub.stdout.readline())
        ray.init(
            "local",
            num_cpus=4,
            include_dashboard=False,
            object_store_memory=200 * 2**20,
            logging_level="error",
            log_to_driver=False,
        )
        ray.data.DataContext.get_current().enable_progress_bars = False
        variants = {
            "1 worker, ledger and pace": (1, {}),
            "1 worker, neither": (1, {"ledger": False}),
            "2 workers, ledger and pace": (2, {}),
            "2 workers, neither": (2, {"ledger": False}),
            "1 worker, slow gateway": (1, {"slow": True}),
            "2 workers, slow gateway": (2, {"slow": True}),
        }
        rates: dict[str, list[tuple[float, dict[str, float]]]] = {name: [] for name in variants}
        try:
            for _ in range(given.rounds):
                for name, (workers, how) in variants.items():
                    rates[name].append(run_once(port, given.items, workers, **how))
                    rate, spent = rates[name][-1]
                    parts = ", ".join(f"{role} {cpu * 1e6:.0f}" for role, cpu in sorted(spent.items()))
                    sys.stdout.write(f"{name}: {rate:.0f} items/s; us of CPU an item: {parts}\n")
                    sys.stdout.flush()
        finally:
            ray.shutdown()
            stub.stdin.close()
    rate = {name: statistics.median(rate for rate, _ in found) for name, found in rates.items()}
    cpu = {
        name: statistics.median(sum(spent.values()) - spent["gateway"] for _, spent in found)
        for name, found in rates.items()
    }
    for kind, aim in (("ledger and pace", " (target: at least 1.5)"), ("slow gateway", "")):
        gain = rate[f"2 workers, {kind}"] / rate[f"1 worker, {kind}"]
        sys.stdout.write(f"two workers / one worker, {kind}: {gain:.2f}{aim}\n")
    for workers in ("1 worker", "2 workers"):
        both, neither = f"{workers}, ledger and pace", f"{workers}, neither"
        sys.stdout.write(
            f"{workers}, with ledger and pace / without: time {rate[neither] / rate[both]:.2f} (target: at most 1.15), "
            f"CPU {cpu[both] / cpu[neither]:.2f}\n"
        )


if __name__ == "__main__":
    main()
