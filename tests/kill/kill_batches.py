"""Kills a batch with SIGKILL at random points, resumes it, and compares the gateway's ledger with the journal.

By hand: ``python tests/kill/kill_batches.py --kills 1000``, with ``--chains`` for edits that build on each other,
``--save`` for files and ``--store`` for objects of a store (moto's server for S3). What must hold at the end of each batch:

- nothing was charged twice, and each charge bears the key of the one row that it belongs to;
- every entry has a row (a step of a chain: unless the one before it has no video), and every charge is in the journal as
  done, with its result and its money, or as in doubt: nothing that was paid for is lost;
- after each kill at most as many items are in doubt as were in flight;
- every file of what is done is whole, byte for byte what the gateway serves, and no other file is left.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from videorouter.sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator

CHILD = """
import asyncio, json, sys
from videorouter import AsyncVideoRouter
plan = json.loads(sys.argv[1])
async def main():
    async with AsyncVideoRouter("key-for-kills", base_url=plan["base"], adaptive=False) as router:
        print("ready", flush=True)
        async for item in router.generate_many(plan["entries"], price=0.4, **plan["options"]):
            pass
asyncio.run(main())
"""
MODELS = ("held", "with/task")
PICTURES = 4
"""Different prompts where files are saved: the sandbox paints each one once."""


@dataclass
class Figures:
    kills: int = 0
    batches: int = 0
    charged: int = 0
    doubtful: int = 0
    charged_in_doubt: int = 0
    files: int = 0
    charged_twice: int = 0
    lost: int = 0
    missing: int = 0
    false_done: int = 0
    unaccounted: int = 0
    broken_files: int = 0
    left_files: int = 0
    most_in_doubt_after_a_kill: int = 0
    killed_at: Counter[str] = field(default_factory=Counter)

    @property
    def sound(self) -> bool:
        return not (
            self.charged_twice
            or self.lost
            or self.missing
            or self.false_done
            or self.unaccounted
            or self.broken_files
            or self.left_files
        )


def list_entries(number: int, count: int, *, save: bool, chains: bool) -> list[dict[str, object]]:
    entries: list[dict[str, object]] = []
    for n in range(count):
        name = f"otter {n % PICTURES}" if save else f"otter {number} {n}"
        entry: dict[str, object] = {"id": f"e{n}", "prompt": name, "model": MODELS[n % 2]}
        if chains:
            entry["then"] = [{"prompt": f"{name}, {word}", "model": MODELS[n % 2]} for word in ("rain", "fog")]
        entries.append(entry)
    return entries


def read_rows(journal: Path) -> dict[str, dict[str, object]]:
    if not journal.exists():
        return {}
    database = sqlite3.connect(journal)
    database.row_factory = sqlite3.Row
    try:
        return {row["id"]: dict(row) for row in database.execute("SELECT * FROM items")}
    except sqlite3.OperationalError:
        return {}
    finally:
        database.close()


def run_batch(
    sandbox: Sandbox,
    folder: Path,
    number: int,
    *,
    count: int,
    concurrency: int,
    kills: int,
    dice: random.Random,
    save: bool = False,
    store: str | None = None,
    chains: bool = False,
) -> Figures:
    """Run one batch to its end, killing it on the way at most ``kills`` times."""
    figures = Figures(batches=1)
    journal = folder / f"{number}.db"
    clips = f"{store or folder}/{number}-clips"
    entries = list_entries(number, count, save=save, chains=chains)
    options = {"journal": str(journal), "concurrency": concurrency, "save_to": clips if save else None}
    plan = json.dumps({"base": sandbox.base_url, "entries": entries, "options": options})
    span = 0.0012 * count * (1 + 2 * chains) * (1 + 3 * save) + 3.0 * bool(store)  # the store's package takes its time
    doubtful = 0
    while True:
        child = subprocess.Popen([sys.executable, "-c", CHILD, plan], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        child.stdout.readline()
        if figures.kills < kills:
            time.sleep(dice.uniform(0.0, span))
            if child.poll() is None:
                child.send_signal(signal.SIGKILL)
        _, trouble = child.communicate(timeout=300)
        if child.returncode == 0:
            break
        if child.returncode != -signal.SIGKILL:
            raise RuntimeError(trouble.decode())
        figures.kills += 1
        states = Counter(str(row["state"]) for row in read_rows(journal).values())
        figures.killed_at.update(states.keys() or ["nothing"])
        fresh = states["sending"] + states["in_doubt"] - doubtful
        doubtful += fresh
        figures.most_in_doubt_after_a_kill = max(figures.most_in_doubt_after_a_kill, fresh)
    rows = read_rows(journal)
    compare_charges(figures, sandbox, rows)
    figures.missing = sum(
        name not in rows and (before is None or rows.get(before, {}).get("state") == "done")
        for name, before in list_names(entries)
    )
    if save:
        compare_files(figures, journal, clips, rows)
    return figures


def list_names(entries: list[dict[str, object]]) -> list[tuple[str, str | None]]:
    """The id of each item, and of the one whose video it edits."""
    names: list[tuple[str, str | None]] = []
    for entry in entries:
        before = str(entry["id"])
        names.append((before, None))
        for step, _ in enumerate(entry.get("then", ()), 1):
            names.append((f"{entry['id']}/{step}", before))
            before = f"{entry['id']}/{step}"
    return names


def compare_charges(figures: Figures, sandbox: Sandbox, rows: dict[str, dict[str, object]]) -> None:
    """The gateway's ledger against the journal, by the key of each request."""
    charges = Counter(charge.idempotency_key for charge in sandbox.charge_list())
    by_key = {row["idempotency_key"]: row for row in rows.values()}
    figures.charged = sum(charges.values())
    # A key that the journal does not have was sent twice under two keys, or lost.
    figures.charged_twice = sum(times > 1 for times in charges.values())
    figures.lost = sum(by_key.get(key, {}).get("state") not in {"done", "in_doubt"} for key in charges)
    figures.unaccounted = sum(not (row["cost"] or row["unknown"]) for key, row in by_key.items() if key in charges)
    done = [row for row in rows.values() if row["state"] == "done"]
    figures.false_done = sum(row["idempotency_key"] not in charges for row in done)
    urls = {json.loads(str(row["result"]))["videos"][0]["url"] for row in done if row["result"]}
    figures.false_done += len(done) - len(urls)
    figures.doubtful = sum(row["state"] == "in_doubt" for row in rows.values())
    figures.charged_in_doubt = sum(by_key[key]["state"] == "in_doubt" for key in charges if key in by_key)


def compare_files(figures: Figures, journal: Path, clips: str, rows: dict[str, dict[str, object]]) -> None:
    """What lies in the folder against what the journal says, and against what the gateway serves."""
    database = sqlite3.connect(journal)
    saved = {
        item: (path if "://" in path else str(journal.parent / path), size)
        for path, item, size in database.execute("SELECT path, item, size FROM files WHERE saved IS NOT NULL")
    }
    database.close()
    found = read_objects(clips) if "://" in clips else {str(path): path.read_bytes() for path in Path(clips).iterdir()}
    for name, row in rows.items():
        if row["state"] != "done":
            continue
        path, size = saved.get(name, ("nowhere", 0))
        with urllib.request.urlopen(json.loads(str(row["result"]))["videos"][0]["url"], timeout=60) as answer:
            served = answer.read()
        figures.files += 1
        figures.broken_files += len(served) != size or found.get(path) != served
    figures.left_files = len(found.keys() - {path for path, _ in saved.values()})


def read_objects(folder: str) -> dict[str, bytes]:
    import fsspec

    store = fsspec.filesystem("s3")
    store.invalidate_cache()
    return {f"s3://{path}": store.cat_file(path) for path in store.find(folder)}


@contextlib.contextmanager
def open_bucket() -> Iterator[str]:
    """A bucket on a server of S3 on this machine, to which the environment leads."""
    from stores import run_s3

    before = dict(os.environ)
    with run_s3() as environment:
        os.environ.update(environment)
        import fsspec

        store = fsspec.filesystem("s3", skip_instance_cache=True)
        store.mkdir("kills")
        type(store).clear_instance_cache()
        try:
            yield "s3://kills"
        finally:
            type(store).clear_instance_cache()
            os.environ.clear()
            os.environ.update(before)


def add(total: Figures, one: Figures) -> None:
    for name, value in vars(one).items():
        if name == "most_in_doubt_after_a_kill":
            total.most_in_doubt_after_a_kill = max(total.most_in_doubt_after_a_kill, value)
        elif isinstance(value, int):
            setattr(total, name, getattr(total, name) + value)
        else:
            total.killed_at.update(value)


def run(
    *,
    kills: int,
    count: int,
    concurrency: int,
    per_batch: int,
    seed: int,
    save: bool = False,
    store: bool = False,
    chains: bool = False,
    say=lambda _: None,
) -> Figures:
    """Kill as often as asked for, over as many batches as that takes."""
    dice = random.Random(seed)
    total = Figures()
    with (
        tempfile.TemporaryDirectory() as folder,
        open_bucket() if store else contextlib.nullcontext() as bucket,
        Sandbox(mode="mixed", latency=(0.0, 0.03)).in_thread() as sandbox,
    ):
        number = 0
        while total.kills < kills:
            left = min(per_batch, kills - total.kills)
            one = run_batch(
                sandbox,
                Path(folder),
                number,
                count=count,
                concurrency=concurrency,
                kills=left,
                dice=dice,
                save=save or store,
                store=bucket,
                chains=chains,
            )
            add(total, one)
            number += 1
            say(f"{total}")
            sandbox.reset()
    return total


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--count", type=int, default=1000, help="entries of a batch")
    parser.add_argument("--concurrency", type=int, default=20)
    parser.add_argument("--per-batch", type=int, default=20, help="kills of a batch")
    parser.add_argument("--save", action="store_true", help="save files too")
    parser.add_argument("--store", action="store_true", help="save them into an object store")
    parser.add_argument("--chains", action="store_true", help="two edits of each entry's video")
    parser.add_argument("--seed", type=int, default=time.time_ns())
    args = parser.parse_args()
    sys.stdout.write(f"seed {args.seed}\n")
    total = run(
        kills=args.kills,
        count=args.count,
        concurrency=args.concurrency,
        per_batch=args.per_batch,
        seed=args.seed,
        save=args.save,
        store=args.store,
        chains=args.chains,
        say=lambda words: sys.stdout.write(f"{words}\n") and sys.stdout.flush(),
    )
    sound = total.sound and total.most_in_doubt_after_a_kill <= args.concurrency
    sys.stdout.write(f"{'sound' if sound else 'NOT SOUND'} {total}\n")
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
