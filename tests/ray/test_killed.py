"""Workers and drivers are killed at random; the gateway's own ledger says what was charged."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def find_workers() -> dict[str, float]:
    """Every worker of every ledger: the one of an earlier test may still be on its way out."""
    import ray

    found: dict[str, float] = {}
    for entry in ray.util.list_named_actors(all_namespaces=True):
        if "ledger" in entry["name"]:
            with contextlib.suppress(ValueError, ray.exceptions.RayError):
                ledger = ray.get_actor(entry["name"], namespace=entry["namespace"])
                found.update(ray.get(ledger.workers.remote(), timeout=20))
    return found


def kill_a_worker(dice: random.Random, killed: set[str]) -> bool:
    """Kill one worker that has been heard of lately, the hard way."""
    living = [name for name, silent in find_workers().items() if silent < 3 and name not in killed]
    if not living:
        return False
    victim = dice.choice(living)
    killed.add(victim)
    try:
        os.kill(int(victim.split("-")[-2]), signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def read_states(path) -> Counter:
    with sqlite3.connect(path) as database:
        return Counter(dict(database.execute("SELECT state, count(*) FROM items GROUP BY state").fetchall()))


@pytest.mark.timeout(300)
def test_workers_killed_at_random_pay_for_nothing_twice_and_lose_nothing(cluster, gateway, tmp_path, monkeypatch):
    from videorouter.integrations import ray as guest

    monkeypatch.setattr(guest, "LEASE", 4.0)
    dice = random.Random(4711)
    prompts = [
        f"task {dice.uniform(0.5, 2):.2f} of {number}"
        if number % 3 == 0
        else f"hold {dice.uniform(0.5, 2):.2f} of {number}"
        for number in range(2000)
    ]
    journal = tmp_path / "run.db"
    call = {"journal": journal, "model": "veo3-fast", "client_options": gateway.options, "concurrency": 150}
    killed: set[str] = set()
    ended = threading.Event()
    kills = []

    def kill_now_and_then():
        while not ended.wait(dice.uniform(2, 4)) and len(kills) < 5:
            charged = len(gateway.ledger()["charges"])
            if charged >= 150 * (len(kills) + 1) and kill_a_worker(dice, killed):
                kills.append(charged)

    killer = threading.Thread(target=kill_now_and_then)
    killer.start()
    try:
        rows = guest.generate_dataset(prompts, **call).take_all()
    finally:
        ended.set()
        killer.join()
    charges = gateway.ledger()["charges"]
    by_prompt = {row["prompt"]: row for row in rows}
    states = Counter(row["state"] for row in rows)
    sys.stderr.write(f"\nkilled after {kills} charges; {dict(states)}\n")

    assert len(kills) >= 3
    assert sorted(row["index"] for row in rows) == list(range(2000))
    assert set(states) <= {"done", "in_doubt"}
    assert max(charges.values()) == 1, "a prompt was charged a second time, silently"
    assert {prompt for prompt, row in by_prompt.items() if row["state"] == "done"} <= set(charges)
    lost = [prompt for prompt in charges if by_prompt[prompt]["state"] not in {"done", "in_doubt"}]
    assert lost == []
    assert all(row["url"] for row in rows if row["state"] == "done")
    assert states["in_doubt"] <= len(kills) * 150
    assert read_states(journal) == states

    again = guest.generate_dataset(prompts, **call).take_all()
    assert Counter(row["state"] for row in again) == states
    assert gateway.ledger()["charges"] == charges


DRIVER = """
import sys
import ray
from videorouter.integrations.ray import generate_dataset

ray.init(address=sys.argv[1], logging_level="error", log_to_driver=False)
prompts = [f"task 3 of {n}" if n % 2 else f"hold 3 of {n}" for n in range(200)]
client = {"api_key": "sk-test", "base_url": sys.argv[2]}
generate_dataset(prompts, journal=sys.argv[3], model="veo3-fast", client_options=client, concurrency=60)
"""


@pytest.mark.timeout(240)
def test_a_killed_driver_is_taken_over_by_the_same_call(cluster, gateway, tmp_path):
    from videorouter.integrations.ray import generate_dataset

    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    journal = tmp_path / "run.db"
    address = cluster.address_info["gcs_address"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    driver = subprocess.Popen(
        [sys.executable, str(script), address, gateway.base_url, str(journal)],
        env=environment,
        stdout=subprocess.DEVNULL,
    )
    until = time.monotonic() + 120
    while len(gateway.ledger()["charges"]) < 80:
        assert time.monotonic() < until
        assert driver.poll() is None
        time.sleep(0.2)
    driver.kill()
    driver.wait(20)

    prompts = [f"task 3 of {n}" if n % 2 else f"hold 3 of {n}" for n in range(200)]
    rows = generate_dataset(
        prompts, journal=journal, model="veo3-fast", client_options=gateway.options, concurrency=60
    ).take_all()
    charges = gateway.ledger()["charges"]
    states = Counter(row["state"] for row in rows)

    assert len(rows) == 200
    assert max(charges.values()) == 1
    assert set(states) <= {"done", "in_doubt"}
    assert 0 < states["in_doubt"] <= 60
    assert {row["prompt"] for row in rows if row["state"] == "done"} <= set(charges)
    assert {row["prompt"] for row in rows if row["resumed"] and row["state"] == "done"}


@pytest.mark.timeout(240)
def test_a_lost_node_pays_for_nothing_twice_and_loses_nothing(gateway, tmp_path):
    prompts = [f"task 2 of {n}" if n % 2 else f"hold 2 of {n}" for n in range(300)]
    file = tmp_path / "prompts.json"
    file.write_text(json.dumps(prompts))
    script = Path(__file__).with_name("lose_node.py")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run(
        [sys.executable, script, gateway.base_url, tmp_path / "run.db", file], env=environment, timeout=200, check=True
    )
    told = json.loads(file.read_text())
    rows, lost = told["rows"], told["lost"]
    charges = gateway.ledger()["charges"]
    states = Counter(row["state"] for row in rows)
    sys.stderr.write(f"\nlost {lost}; {dict(states)}\n")

    assert lost["killed"] >= 1
    assert lost["alive"] == 2
    assert sorted(row["index"] for row in rows) == list(range(300))
    assert set(states) <= {"done", "in_doubt"}
    assert 0 < states["in_doubt"] <= 60
    assert max(charges.values()) == 1, "a prompt was charged a second time, silently"
    assert {row["prompt"] for row in rows if row["state"] == "done"} <= set(charges)
    assert all(row["url"] for row in rows if row["state"] == "done")
    assert read_states(tmp_path / "run.db") == states


def wait_for_charges(gateway, number: int) -> None:
    until = time.monotonic() + 60
    while len(gateway.ledger()["charges"]) < number:
        assert time.monotonic() < until
        time.sleep(0.1)


@pytest.mark.timeout(120)
def test_what_runs_is_collected_when_the_ledger_has_died(cluster, gateway, tmp_path):
    import ray

    from videorouter.integrations.ray import generate_dataset

    def kill_the_ledger():
        wait_for_charges(gateway, 12)
        for entry in ray.util.list_named_actors(all_namespaces=True):
            if "ledger" in entry["name"]:
                with contextlib.suppress(ValueError):  # of an earlier test, on its way out
                    ray.kill(ray.get_actor(entry["name"], namespace=entry["namespace"]))

    killer = threading.Thread(target=kill_the_ledger)
    killer.start()
    call = {"journal": tmp_path / "run.db", "model": "m", "client_options": gateway.options, "concurrency": 12}
    rows = generate_dataset([f"hold 2 of {n}" for n in range(40)], **call).take_all()
    killer.join()
    charges = gateway.ledger()["charges"]
    assert {row["prompt"] for row in rows if row["url"]} == set(charges)
    assert {row["state"] for row in rows} == {"done", "not_sent"}
    assert any("Run the same call again" in (row["error"] or "") for row in rows)


@pytest.mark.timeout(120)
def test_an_error_that_ends_the_run_lets_what_runs_come_to_its_end(cluster, gateway, tmp_path):
    from videorouter.errors import JournalMismatchError
    from videorouter.integrations.ray import generate_dataset

    call = {"journal": tmp_path / "run.db", "model": "m", "client_options": gateway.options, "id_column": "id"}
    generate_dataset([{"id": "x", "prompt": "otter"}], **call)
    prompts = [{"id": f"i{n}", "prompt": f"hold 1.5 of {n}"} for n in range(80)]
    prompts.insert(50, {"id": "x", "prompt": "seal"})
    with pytest.raises(JournalMismatchError, match="'x'"):
        generate_dataset(prompts, **call, concurrency=16, block_rows=4)
    charges = gateway.ledger()["charges"]
    states = read_states(tmp_path / "run.db")
    assert states.pop("done") == len(charges)
    assert set(states) <= {"not_sent"}, "what was about to be sent was not; what had been sent is done"
