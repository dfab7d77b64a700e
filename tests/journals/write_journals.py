"""Writes the journals of this folder; see README.md for which code it is run with, and how.

Each journal NAME.db comes with NAME.json: the entries and options that it was made from, what was charged, and how its
rows stood.
"""

from __future__ import annotations

# ruff: noqa: ASYNC220, ASYNC240  a script that waits for one thing at a time
import asyncio
import gzip
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

from videorouter import AsyncVideoRouter
from videorouter.sandbox import Sandbox

HERE = Path(__file__).resolve().parent
PLAIN = [
    "otter 0",
    {"prompt": "otter 1", "duration": "8s", "seed": 7, "guidance": 7.5},
    {"id": "given", "prompt": "otter 2"},
    "takes",
    "takes",
    "takes",
    "bad words",
    "lost answer",
    {"prompt": "no GPU", "model": "with/task"},
    {"prompt": 5},
    {"id": "given", "prompt": "twice"},
]
CHAINS = [
    {"id": "a", "prompt": "heron", "model": "sora-2", "then": ["rain", "fog"]},
    {"prompt": "seal", "model": "sora-2", "then": ["snow", {"prompt": "ice", "id": "ice"}]},
    {"id": "b", "prompt": "dusk", "edit_of": "a", "model": "sora-2"},
    {"prompt": "crab", "model": "sora-2", "then": ["lost answer", "never"]},
    {"video_id": "vid-of-another-day", "prompt": "dawn", "model": "sora-2"},
]
UPLOADS = [
    {"prompt": "moving otter", "image_url": {"path": "pixel.png"}},
    {"prompt": "moving otter", "image_url": {"path": "pixel.png"}, "duration": "4s"},
    {
        "id": "two",
        "prompt": "from two pictures",
        "image_urls": [{"path": "pixel.png"}, "https://example.com/second.png"],
    },
]
DECIDED = [{"id": word.replace(" ", "-"), "prompt": word} for word in ("send again", "not bought", "lost", "found")]
RESENT = ["bought twice", "twice in doubt", "then refused"]
RUNNING = [*(f"run {number}" for number in range(12)), {"id": "last", "prompt": "run last", "seed": 2**63 - 1}]
RECIPES = {
    "plain": (PLAIN, {"model": "m", "price": 0.4}),
    "chains": (CHAINS, {"price": 0.4}),
    "uploads": (UPLOADS, {"model": "m"}),
    "forgotten": (PLAIN, {"model": "m", "price": 0.4}),
    "forgotten-chains": (CHAINS, {"price": 0.4}),
    "resent": (RESENT, {"model": "m", "price": 0.4}),
    "settled": (DECIDED, {"model": "m", "price": 0.4}),
    "command": (["otter 0", {"prompt": "otter 1", "duration": "8s"}, "bad words"], {}),
    "running": (RUNNING, {"model": "with/task"}),
    "running-held": (RUNNING, {"model": "m"}),
}
CHILD = """
import asyncio, json, sys
from videorouter import AsyncVideoRouter
base, path, entries, options = json.loads(sys.argv[1])
async def main():
    async with AsyncVideoRouter("key-of-old-journals", base_url=base, adaptive=False) as router:
        async for item in router.generate_many(entries, journal=path, concurrency=4, **options):
            print(item.index, flush=True)
asyncio.run(main())
"""


def revive(value: object) -> object:
    """Entries as the batch takes them: a path in JSON is a path."""
    if isinstance(value, dict):
        if value.keys() == {"path"}:
            return HERE / str(value["path"])
        return {name: revive(each) for name, each in value.items()}
    return [revive(each) for each in value] if isinstance(value, list) else value


async def write(folder: Path, name: str, sandbox: Sandbox, router: AsyncVideoRouter) -> None:
    entries, options = RECIPES[name]
    path = folder / f"{name}.db"
    if name.startswith("running"):
        await stop_in_the_middle(sandbox, path, entries, options)
    elif name == "command":
        await command(folder, path, entries, sandbox)
    else:
        await run(router, path, entries, options)
    if name == "resent":
        sandbox.faults.clear()
        sandbox.faults.add("status=500", prompt="twice in doubt", charged=True)
        sandbox.faults.add("moderation", prompt="then refused")
        await run(router, path, entries, {**options, "on_outcome_unknown": "resend"})
    if name == "settled":
        for words in (["send-again", "--send-again"], ["not-bought", "--not-bought"], ["lost", "--bought"]):
            await ask("batch", "settle", str(path), *words)
        await ask("batch", "settle", str(path), "found", "--bought", "--url", "https://example.com/found.mp4")
    if name.startswith("forgotten"):
        await ask("batch", "forget", str(path))
    for left in (*folder.glob(f"{name}.db-shm"), *folder.glob(f"{name}.db.lock")):
        left.unlink()
    facts = {"entries": entries, "options": options, "charges": await sandbox.charges(), "rows": read_rows(path)}
    (folder / f"{name}.json").write_text(json.dumps(facts, indent=1) + "\n")


async def run(router: AsyncVideoRouter, path: Path, entries: list, options: dict) -> None:
    async for _ in router.generate_many(revive(entries), journal=path, concurrency=2, ordered=True, **options):
        pass


async def command(folder: Path, path: Path, entries: list, sandbox: Sandbox) -> None:
    lines = [json.dumps({"prompt": one} if isinstance(one, str) else one) for one in entries]
    (folder / "command.jsonl").write_text("\n".join(lines) + "\n")
    where = {"INFRON_VIDEO_BASE_URL": sandbox.base_url, "INFRON_API_KEY": "key-of-old-journals"}
    words = ["command.jsonl", "--journal", path.name, "--no-save", "--model", "m", "--price", "0.4", "-c", "1"]
    await ask("batch", "run", *words, cwd=folder, env={**os.environ, **where})


async def ask(*words: str, **options: object) -> None:
    """Run a command, whatever its exit code."""
    line = [sys.executable, "-m", "videorouter.cli", *words]
    await asyncio.to_thread(lambda: subprocess.run(line, check=False, capture_output=True, **options))


def read_rows(path: Path) -> list[tuple]:
    """The rows, read from a copy: whoever opens a journal whose log a kill has left would fold that log in."""
    with tempfile.TemporaryDirectory() as folder:
        for file in path.parent.glob(f"{path.name}*"):
            shutil.copy(file, folder)
        database = sqlite3.connect(Path(folder) / path.name)
        query = "SELECT id, position, state, sends, cost, unknown FROM items ORDER BY position, created"
        rows = database.execute(query).fetchall()
        database.close()
    return rows


async def stop_in_the_middle(sandbox: Sandbox, path: Path, entries: list, options: dict) -> None:
    """SIGKILL while some requests are on the wire, or some tasks run, and the rest was never met."""
    if options["model"] == "m":
        sandbox.faults.add("stall; seconds=600; at=answer", prompt="run 3")
        sandbox.faults.add("stall; seconds=600; at=answer", prompt="run 5")
    plan = json.dumps([sandbox.base_url, str(path), entries, options])
    child = subprocess.Popen([sys.executable, "-c", CHILD, plan], stdout=subprocess.PIPE, env={**os.environ})
    for _ in range(5):
        await asyncio.to_thread(child.stdout.readline)
    child.send_signal(signal.SIGKILL)
    await asyncio.to_thread(child.wait)


async def main() -> None:
    folder = Path(sys.argv[1]).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    for name in RECIPES:
        latency = 0.25 if name == "running" else None
        async with Sandbox(
            mode="mixed", profile="instant", latency=latency, state=folder / f"{name}.sandbox"
        ) as sandbox:
            sandbox.faults.add("moderation", prompt="bad words")
            sandbox.faults.add("failed_task=no GPU was free", prompt="no GPU")
            for prompt in ("lost answer", *RESENT, *(entry["prompt"] for entry in DECIDED)):
                sandbox.faults.add("status=500", prompt=prompt, charged=True)
            async with AsyncVideoRouter("key-of-old-journals", base_url=sandbox.base_url) as router:
                await write(folder, name, sandbox, router)
    for file in (*folder.glob("*.db"), *folder.glob("*.db-wal"), folder / "running.sandbox"):
        with gzip.GzipFile(f"{file}.gz", "wb", mtime=0) as packed:
            packed.write(file.read_bytes())
    for file in folder.iterdir():
        if file.suffix not in {".gz", ".json", ".jsonl"}:
            file.unlink()
    sys.stdout.writelines(f"{name}\n" for name in sorted(path.name for path in folder.iterdir()))


asyncio.run(main())
