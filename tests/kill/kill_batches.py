"""Kills a batch with SIGKILL at random points, resumes it, and compares the gateway's ledger with the journal.

By hand: ``python tests/kill/kill_batches.py --kills 1000``. What must hold at the end of each batch:

- no prompt was charged twice;
- every entry has a row, and every charge is in the journal as done or in doubt, so nothing that was paid for is lost;
- after each kill at most as many items are in doubt as were in flight.
"""

from __future__ import annotations

import argparse
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from videorouter.sandbox import Sandbox

CHILD = """
import asyncio, sys
from videorouter import AsyncVideoRouter
base, journal, first, count, concurrency = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])
entries = [
    {"prompt": f"otter {first} {n}", "model": "held" if n % 2 else "with/task"} for n in range(count)
]
async def main():
    async with AsyncVideoRouter("key-for-kills", base_url=base, adaptive=False) as router:
        print("ready", flush=True)
        async for item in router.generate_many(entries, journal=journal, concurrency=concurrency, price=0.4):
            pass
asyncio.run(main())
"""


@dataclass
class Figures:
    kills: int = 0
    batches: int = 0
    charged: int = 0
    doubtful: int = 0
    charged_in_doubt: int = 0
    charged_twice: int = 0
    lost: int = 0
    missing: int = 0
    false_done: int = 0
    most_in_doubt_after_a_kill: int = 0
    killed_at: Counter[str] = field(default_factory=Counter)

    @property
    def sound(self) -> bool:
        return not (self.charged_twice or self.lost or self.missing or self.false_done)


def read_states(journal: Path) -> dict[str, str]:
    if not journal.exists():
        return {}
    database = sqlite3.connect(journal)
    try:
        rows = database.execute("SELECT json_extract(request, '$.prompt'), state FROM items").fetchall()
    except sqlite3.OperationalError:
        return {}
    finally:
        database.close()
    return dict(rows)


def run_batch(
    sandbox: Sandbox, folder: Path, number: int, *, count: int, concurrency: int, kills: int, dice: random.Random
) -> Figures:
    """Run one batch to its end, killing it on the way at most ``kills`` times."""
    figures = Figures(batches=1)
    journal = folder / f"{number}.db"
    words = [sys.executable, "-c", CHILD, sandbox.base_url, str(journal), str(number), str(count), str(concurrency)]
    doubtful = 0
    while True:
        child = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        child.stdout.readline()
        if figures.kills < kills:
            time.sleep(dice.uniform(0.0, 0.0012 * count))
            if child.poll() is None:
                child.send_signal(signal.SIGKILL)
        _, trouble = child.communicate(timeout=300)
        if child.returncode == 0:
            break
        if child.returncode != -signal.SIGKILL:
            raise RuntimeError(trouble.decode())
        figures.kills += 1
        states = Counter(read_states(journal).values())
        figures.killed_at.update(states.keys() or ["nothing"])
        fresh = states["sending"] + states["in_doubt"] - doubtful
        doubtful += fresh
        figures.most_in_doubt_after_a_kill = max(figures.most_in_doubt_after_a_kill, fresh)
    charges = {prompt: times for prompt, times in sandbox.charges().items() if prompt.startswith(f"otter {number} ")}
    states = read_states(journal)
    figures.charged = sum(charges.values())
    figures.charged_twice = sum(times > 1 for times in charges.values())
    figures.lost = sum(states.get(prompt) not in {"done", "in_doubt"} for prompt in charges)
    figures.missing = count - len(states)
    figures.false_done = sum(state == "done" and prompt not in charges for prompt, state in states.items())
    figures.doubtful = sum(state == "in_doubt" for state in states.values())
    figures.charged_in_doubt = sum(states[prompt] == "in_doubt" for prompt in charges if prompt in states)
    return figures


def add(total: Figures, one: Figures) -> None:
    for name, value in vars(one).items():
        if name == "most_in_doubt_after_a_kill":
            total.most_in_doubt_after_a_kill = max(total.most_in_doubt_after_a_kill, value)
        elif isinstance(value, int):
            setattr(total, name, getattr(total, name) + value)
        else:
            total.killed_at.update(value)


def run(*, kills: int, count: int, concurrency: int, per_batch: int, seed: int, say=lambda _: None) -> Figures:
    """Kill as often as asked for, over as many batches as that takes."""
    dice = random.Random(seed)
    total = Figures()
    with tempfile.TemporaryDirectory() as folder, Sandbox(mode="mixed", latency=(0.0, 0.03)).in_thread() as sandbox:
        number = 0
        while total.kills < kills:
            left = min(per_batch, kills - total.kills)
            one = run_batch(sandbox, Path(folder), number, count=count, concurrency=concurrency, kills=left, dice=dice)
            add(total, one)
            number += 1
            say(f"{total}")
            sandbox.reset()
    return total


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--concurrency", type=int, default=20)
    parser.add_argument("--per-batch", type=int, default=20)
    parser.add_argument("--seed", type=int, default=time.time_ns())
    args = parser.parse_args()
    sys.stdout.write(f"seed {args.seed}\n")
    total = run(
        kills=args.kills,
        count=args.count,
        concurrency=args.concurrency,
        per_batch=args.per_batch,
        seed=args.seed,
        say=lambda words: sys.stdout.write(f"{words}\n") and sys.stdout.flush(),
    )
    sound = total.sound and total.most_in_doubt_after_a_kill <= args.concurrency
    sys.stdout.write(f"{'sound' if sound else 'NOT SOUND'} {total}\n")
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
