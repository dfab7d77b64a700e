"""Comes back to a batch as people do: spelt otherwise, in another format, order and folder, and killed in between.

By hand: ``python tests/kill/respell_batches.py --batches 50``. Each run of a batch writes the same requests anew: as CSV
with its columns in any order, as JSON lines or as a JSON list, with a field in each row or as an option for all, and
the folder with the journal is renamed. Runs are killed at random, and some have a part of the entries alone; the last but one has
a part and comes to its end, and the last has all of them. What must hold then:

- after the last but one nothing is accepted any more, whether its input had it or not;
- of each request no more was charged than was asked for;
- every entry has a row, and each charge is in the journal as done or as in doubt;
- where nothing is in doubt, each request was charged as often as it was asked for.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
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

DURATION = "8s"
MODEL = "with/task"
IN_DOUBT = 8


@dataclass
class Figures:
    batches: int = 0
    runs: int = 0
    kills: int = 0
    asked: int = 0
    charged: int = 0
    doubtful: int = 0
    bought_twice: int = 0
    lost: int = 0
    missing: int = 0
    uncollected: int = 0

    @property
    def sound(self) -> bool:
        return not (self.bought_twice or self.lost or self.missing or self.uncollected)


def draw_entries(dice: random.Random, count: int) -> list[dict[str, object]]:
    """Requests as they are meant: single ones, takes of one prompt, given ids, exact and large numbers."""
    entries: list[dict[str, object]] = []
    for number in range(count):
        kind = dice.randrange(4)
        if kind == 0:
            entries.append({"prompt": f"otter {number}"})
        elif kind == 1:
            entries += [{"prompt": f"takes {number}"} for _ in range(dice.randrange(1, 4))]
        elif kind == 2:
            entries.append({"prompt": f'heron "{number}", twice', "seed": dice.choice([7, 2**63 - 1])})
        else:
            entries.append({"id": f"given-{number}", "prompt": f"seal\n{number}"})
    return entries


def spell_number(value: object, dice: random.Random) -> object:
    return float(value) if isinstance(value, int) and value < 2**50 and dice.random() < 0.5 else value


def write_input(folder: Path, entries: list[dict[str, object]], dice: random.Random) -> list[str]:
    """Write the entries in one of the ways to say them; the arguments that say the rest."""
    entries = [dict(entry) for entry in entries]
    dice.shuffle(entries)
    arguments = ["--duration", DURATION]
    if dice.random() < 0.5:
        arguments = []
        for entry in entries:
            entry["duration"] = DURATION
    kind = dice.choice(["csv", "jsonl", "json"])
    for entry in entries:
        if "seed" in entry:
            entry["seed"] = spell_number(entry["seed"], dice)
    path = folder / f"prompts-{dice.randrange(10**6)}.{kind}"
    if kind == "csv":
        columns = sorted({name for entry in entries for name in entry})
        dice.shuffle(columns)
        text = io.StringIO()
        writer = csv.DictWriter(text, columns)
        writer.writeheader()
        writer.writerows(entries)
        path.write_text(text.getvalue(), encoding="utf-8", newline="")
    else:
        spelt = []
        for entry in entries:
            fields = list(entry.items()) + ([("resolution", None)] if dice.random() < 0.3 else [])
            dice.shuffle(fields)
            spelt.append(dict(fields))
        text_of = "\n".join(map(json.dumps, spelt)) if kind == "jsonl" else json.dumps(spelt)
        path.write_text(text_of, encoding="utf-8")
    return [str(path), *arguments]


def count_prompts(entries: list[dict[str, object]]) -> Counter[str]:
    return Counter(str(entry["prompt"]) for entry in entries)


def run_once(folder: Path, sandbox: Sandbox, arguments: list[str], dice: random.Random, *, kill: bool) -> bool:
    """Run the command, killed at a random moment if so asked; whether it was killed."""
    command = [
        *(sys.executable, "-m", "videorouter.cli", "batch", "run", *arguments),
        *("--journal", str(folder / "run.db"), "--no-save", "--quiet", "--model", MODEL),
        *("--base-url", sandbox.base_url, "--concurrency", str(dice.randrange(1, 8)), "--price", "0.4"),
    ]
    environment = {**os.environ, "INFRON_API_KEY": "key-for-kills"}
    child = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    if kill:
        time.sleep(dice.uniform(0.2, 1.2))
        if child.poll() is None:
            child.send_signal(signal.SIGKILL)
    output, trouble = child.communicate(timeout=300)
    if child.returncode not in (0, IN_DOUBT, -signal.SIGKILL):
        raise RuntimeError(f"exit {child.returncode}: {trouble.decode()} {output.decode()[-2000:]}")
    return child.returncode == -signal.SIGKILL


def count_states(folder: Path) -> Counter[str]:
    database = sqlite3.connect(folder / "run.db")
    try:
        return Counter(dict(database.execute("SELECT id, state FROM items")).values())
    finally:
        database.close()


def run_batch(folder: Path, sandbox: Sandbox, dice: random.Random, *, count: int, runs: int) -> Figures:
    figures = Figures(batches=1)
    entries = draw_entries(dice, count)
    for number in range(runs + 2):
        moved = folder.with_name(f"{folder.name}-{number}")
        folder.rename(moved)
        has_part = number == runs or (number < runs and dice.random() < 0.3)
        part = dice.sample(entries, dice.randrange(1, len(entries))) if has_part else entries
        arguments = write_input(moved, part, dice)
        figures.runs += 1
        figures.kills += run_once(moved, sandbox, arguments, dice, kill=number < runs)
        folder = moved
        if number == runs:
            figures.uncollected = count_states(folder)["accepted"]
    states = count_states(folder)
    asked = count_prompts(entries)
    charged = Counter(charge.prompt for charge in sandbox.charge_list())
    figures.asked = asked.total()
    figures.charged = charged.total()
    figures.doubtful = states["in_doubt"]
    figures.bought_twice = (charged - asked).total()
    figures.missing = abs(figures.asked - states.total())
    figures.lost = max(0, figures.charged - states["done"] - states["in_doubt"])
    figures.lost += max(0, states["done"] - figures.charged)
    if not figures.doubtful:
        figures.lost += (asked - charged).total()
    return figures


def run(*, batches: int, count: int, runs: int, seed: int, say=lambda _: None) -> Figures:
    dice = random.Random(seed)
    total = Figures()
    with tempfile.TemporaryDirectory() as place, Sandbox(mode="mixed", latency=(0.0, 0.1)).in_thread() as sandbox:
        for number in range(batches):
            folder = Path(place) / f"batch-{number}"
            folder.mkdir()
            for name, value in vars(run_batch(folder, sandbox, dice, count=count, runs=runs)).items():
                setattr(total, name, getattr(total, name) + value)
            say(f"{total}")
            sandbox.reset()
    return total


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=50)
    parser.add_argument("--count", type=int, default=40, help="requests of a batch, about")
    parser.add_argument("--runs", type=int, default=4, help="runs of a batch that are killed")
    parser.add_argument("--seed", type=int, default=time.time_ns())
    args = parser.parse_args()
    sys.stdout.write(f"seed {args.seed}\n")
    total = run(
        batches=args.batches,
        count=args.count,
        runs=args.runs,
        seed=args.seed,
        say=lambda words: sys.stdout.write(f"{words}\n") and sys.stdout.flush(),
    )
    sys.stdout.write(f"{'sound' if total.sound else 'NOT SOUND'} {total}\n")
    return 0 if total.sound else 1


if __name__ == "__main__":
    sys.exit(main())
