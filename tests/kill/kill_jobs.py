"""Kills and stops the processes of one queue at random points, and compares the gateway's ledger with its file.

By hand: ``python tests/kill/kill_jobs.py --kills 500 --jobs 5000``, with ``--save`` for files. Two processes may run the
queue, two others put jobs blindly by their keys, from the beginning each time they are started again. Each kill is a
SIGKILL or, for ``--stops`` of them, a SIGTERM that a runner heeds. What must hold at the end:

- every key is one job, and nothing was charged twice;
- every charge bears the key of a sending that the file knows, as done or as in doubt: nothing that was paid for is lost;
- at most as many jobs are in doubt as were on the wire at the kills of a runner;
- every file of what is done is whole, and no other file is left.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from videorouter.sandbox import Sandbox

RUNNER = """
import asyncio, json, signal, sys
from videorouter import AsyncVideoRouter
plan = json.loads(sys.argv[1])
async def main():
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with AsyncVideoRouter("key-for-kills", base_url=plan["base"], adaptive=False) as router:
        async with router.jobs(plan["path"], **plan["options"]):
            print("ready", flush=True)
            await stop.wait()
asyncio.run(main())
"""
ASKER = """
import asyncio, json, sys
from videorouter import AsyncVideoRouter
plan = json.loads(sys.argv[1])
models = ("held", "with/task")
def seed(n):
    return {} if plan["options"]["save_to"] else {"seed": n}  # the sandbox paints each request once
async def main():
    async with AsyncVideoRouter("key-for-kills", base_url=plan["base"]) as router:
        jobs = router.jobs(plan["path"])
        print("ready", flush=True)
        for first in range(0, plan["jobs"], 20):
            await asyncio.gather(*(
                jobs.put(f"otter {n % 4}", **seed(n), model=models[n % 2], key=f"k{n}", owner=f"owner {n % 7}")
                for n in range(first, min(first + 20, plan["jobs"]))
            ))
asyncio.run(main())
"""


@dataclass
class JobFigures:
    jobs: int = 0
    kills: int = 0
    stops: int = 0
    runners_killed: int = 0
    charged: int = 0
    done: int = 0
    doubtful: int = 0
    charged_in_doubt: int = 0
    charged_twice: int = 0
    unknown_charges: int = 0
    missing: int = 0
    other_states: int = 0
    broken_files: int = 0
    left_files: int = 0
    broken_database: int = 0
    seconds: float = 0.0

    @property
    def sound(self) -> bool:
        return not (
            self.charged_twice
            or self.unknown_charges
            or self.missing
            or self.other_states
            or self.broken_files
            or self.left_files
            or self.broken_database
        )


def start(script: str, plan: dict[str, object]) -> subprocess.Popen[bytes]:
    child = subprocess.Popen([sys.executable, "-c", script, json.dumps(plan)], stdout=subprocess.PIPE)
    child.stdout.readline()
    child.stdout.close()
    return child


def read(path: Path, query: str) -> list[tuple]:
    database = sqlite3.connect(path, timeout=30)
    try:
        return database.execute(query).fetchall()
    finally:
        database.close()


def run(
    *, kills: int, jobs: int, stops: float, seed: int, concurrency: int = 32, save: bool = False, limit: float = 300.0
) -> JobFigures:
    """Kill as often as asked for, and see what is left."""
    dice = random.Random(seed)
    figures = JobFigures(jobs=jobs)
    began = time.monotonic()
    sandbox_options = {"mode": "mixed", "latency": (0.0, 0.1)}
    with tempfile.TemporaryDirectory() as folder, Sandbox(**sandbox_options).in_thread() as sandbox:
        path, clips = Path(folder) / "jobs.db", Path(folder) / "clips"
        options = {"concurrency": concurrency, "drain": 20.0, "save_to": str(clips) if save else None}
        plan = {"path": str(path), "base": sandbox.base_url, "jobs": jobs, "options": options}
        runners = [start(RUNNER, plan), start(RUNNER, plan)]
        askers = [start(ASKER, plan), start(ASKER, plan)]
        leaving: list[subprocess.Popen[bytes]] = []
        while figures.kills + figures.stops < kills:
            time.sleep(dice.uniform(0.05, 0.9))
            if dice.random() < 0.3:
                number = dice.randrange(2)
                askers[number].kill()
                askers[number].wait()
                askers[number] = start(ASKER, plan)
                figures.kills += 1
                continue
            number = dice.randrange(2)
            if dice.random() < stops:
                runners[number].terminate()
                leaving.append(runners[number])
                figures.stops += 1
            else:
                runners[number].send_signal(signal.SIGKILL)
                runners[number].wait()
                figures.kills += 1
                figures.runners_killed += 1
            runners[number] = start(RUNNER, plan)
        for asker in askers:
            asker.wait(timeout=limit)
        until = time.monotonic() + limit
        while time.monotonic() < until:
            rows = read(path, "SELECT state, count(*) FROM items GROUP BY state")
            if sum(count for state, count in rows if state in {"done", "in_doubt"}) == jobs and not (
                save and read(path, UNSAVED)[0][0]
            ):
                break
            time.sleep(0.2)
        for runner in runners:
            runner.terminate()
        for child in (*runners, *leaving):
            child.wait(timeout=60)
        compare(figures, path, sandbox, clips if save else None)
    figures.seconds = time.monotonic() - began
    return figures


UNSAVED = """
SELECT count(*) FROM items WHERE state = 'done' AND NOT EXISTS (SELECT 1 FROM files WHERE item = id AND saved IS NOT NULL)
"""


def compare(figures: JobFigures, path: Path, sandbox: Sandbox, clips: Path | None) -> None:
    charges = Counter(charge.idempotency_key for charge in sandbox.charge_list())
    states = dict(read(path, "SELECT idempotency_key, state FROM items"))
    asked = {key for (key,) in read(path, "SELECT key FROM items")}
    figures.charged = sum(charges.values())
    figures.charged_twice = sum(times > 1 for times in charges.values())
    figures.unknown_charges = sum(states.get(key) not in {"done", "in_doubt"} for key in charges)
    figures.missing = len({f"k{n}" for n in range(figures.jobs)} ^ asked)
    figures.done = sum(state == "done" for state in states.values())
    figures.doubtful = sum(state == "in_doubt" for state in states.values())
    figures.charged_in_doubt = sum(states.get(key) == "in_doubt" for key in charges)
    figures.other_states = len(read(path, "SELECT id FROM items")) - figures.done - figures.doubtful
    figures.broken_database = int(read(path, "PRAGMA integrity_check") != [("ok",)])
    if clips is not None:
        saved = {
            Path(name).name: size for name, size in read(path, "SELECT path, size FROM files WHERE saved IS NOT NULL")
        }
        there = {file.name: file.stat().st_size for file in clips.iterdir()}
        figures.broken_files = sum(there.get(name) != size for name, size in saved.items())
        figures.left_files = len(there.keys() - saved.keys())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--jobs", type=int, default=5000)
    parser.add_argument("--stops", type=float, default=0.3, help="the part of the runners' ends that is a SIGTERM")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", action="store_true")
    args = parser.parse_args()
    figures = run(kills=args.kills, jobs=args.jobs, stops=args.stops, seed=args.seed, save=args.save, limit=1200)
    for name, value in vars(figures).items():
        print(f"{name:>20} {value}")  # noqa: T201
    sys.exit(not figures.sound)


if __name__ == "__main__":
    main()
