"""A driver on a cluster of three nodes that loses one of them: ``python lose_node.py BASE_URL JOURNAL FILE``.

The nodes are raylets of their own on this machine; the one that is lost is killed hard, its workers with it, once the
gateway has charged for a third of the prompts. The file holds the prompts; in their place come, as JSON, the rows, the
workers seen, and when the node went.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import urllib.request
from pathlib import Path


def read_parents() -> dict[int, int]:
    """Every process of this machine, and who started it."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    return parents


def main() -> None:
    import ray
    from ray.cluster_utils import Cluster

    from videorouter.integrations import ray as guest

    base_url, journal, path = sys.argv[1:]
    prompts = json.loads(Path(path).read_text())
    quick = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 4}
    common = {"include_dashboard": False, "object_store_memory": 80 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "_system_config": quick, **common})
    nodes = [cluster.add_node(num_cpus=2, resources={"lane": 2}, **common) for _ in range(2)]
    ray.init(address=cluster.address, logging_level="error", log_to_driver=False)
    guest.LEASE = 4.0
    lost: dict[str, object] = {}

    def count_charges() -> int:
        with urllib.request.urlopen(base_url.replace("/v1", "/ledger"), timeout=30) as answer:
            return len(json.load(answer)["charges"])

    def lose_a_node() -> None:
        while count_charges() < len(prompts) // 3:
            time.sleep(0.2)
        found = [entry["name"] for entry in ray.util.list_named_actors(all_namespaces=True)]
        ledger = ray.get_actor(next(name for name in found if "ledger" in name))
        workers = [int(name.split("-")[-2]) for name in ray.get(ledger.workers.remote())]
        parents = read_parents()
        home = parents[workers[0]]
        node = next(node for node in nodes if node.all_processes["raylet"][0].process.pid == home)
        below = [process for process, parent in parents.items() if parent == home]
        lost.update(at=count_charges(), workers=len(workers), killed=sum(worker in below for worker in workers))
        for process in [home, *below]:
            os.kill(process, signal.SIGKILL)
        cluster.remove_node(node, allow_graceful=False)

    losing = threading.Thread(target=lose_a_node, daemon=True)
    losing.start()
    rows = guest.generate_dataset(
        prompts,
        journal=journal,
        model="veo3-fast",
        client_options={"api_key": "sk-test", "base_url": base_url},
        concurrency=60,
        ray_remote_args={"resources": {"lane": 1}},
    ).take_all()
    losing.join(30)
    lost["alive"] = sum(node["Alive"] for node in ray.nodes())
    Path(path).write_text(json.dumps({"rows": rows, "lost": lost}))
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main()
