"""200 MB to disk against httpx's ``aiter_raw``, and 64 downloads of 20 MB beside 1,000 calls that are held open.

``python tests/benchmarks/downloads.py [--quick] [--folder DIR]``: contenders take turns, each in a process of its own,
and the median counts. Ours checks, syncs and renames the file, so ``httpx`` is shown without and with a sync, too.
"""

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
from field import print_table, raise_file_limit, serve, tell_conditions

HERE = Path(__file__).parent
MB = 10**6


class Memory:
    """The highest resident size above that at the start, looked at every 5 ms."""

    def __enter__(self):
        self.process = psutil.Process()
        self.base = self.peak = self.process.memory_info().rss
        self.done = threading.Event()
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def watch(self):
        while not self.done.wait(0.005):
            self.peak = max(self.peak, self.process.memory_info().rss)

    def __exit__(self, *_):
        self.done.set()
        self.thread.join()

    @property
    def grown(self):
        return (self.peak - self.base) / MB


class Clock:
    def __enter__(self):
        self.wall, self.cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_):
        self.wall, self.cpu = time.perf_counter() - self.wall, time.process_time() - self.cpu


async def save_ours(origin, place, size, *, memory):
    from videorouter import AsyncVideoRouter

    async with AsyncVideoRouter("key", base_url=f"{origin}/v1") as router:
        await router.save(f"{origin}/{MB}.mp4", place)
        with Memory() if memory else contextlib.nullcontext() as watched, Clock() as clock:
            await router.save(f"{origin}/{size}.mp4", place)
        return {"wall": clock.wall, "cpu": clock.cpu, "grown": watched.grown if memory else None}


async def save_httpx(origin, place, size, *, sync):
    import httpx

    async with httpx.AsyncClient() as client:
        await client.get(f"{origin}/{MB}.mp4")
        with Clock() as clock, place.open("wb") as file:
            async with client.stream("GET", f"{origin}/{size}.mp4") as response:
                async for chunk in response.aiter_raw():
                    file.write(chunk)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        return {"wall": clock.wall, "cpu": clock.cpu, "grown": None}


async def save_crowd(origin, gateway, folder, size, *, files, held):
    from videorouter import AsyncVideoRouter

    stalls, stretches = [], []

    async def watch():
        last, busy = time.perf_counter(), time.thread_time()
        while True:
            await asyncio.sleep(0.001)
            now, used = time.perf_counter(), time.thread_time()
            stalls.append(now - last - 0.001)
            stretches.append(used - busy)
            last, busy = now, used

    async with AsyncVideoRouter(
        "key", base_url=f"{gateway}/hold/120/v1", max_concurrency=held, adaptive=False
    ) as router:
        calls = [asyncio.create_task(router.generate("otter", model="m")) for _ in range(held)]
        await asyncio.sleep(5)
        watcher = asyncio.create_task(watch())
        with Clock() as clock:
            await asyncio.gather(*(router.save(f"{origin}/{size}.mp4", folder / f"{n}.mp4") for n in range(files)))
        watcher.cancel()
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
    stalls.sort()
    return {
        "wall": clock.wall,
        "cpu": clock.cpu,
        "longest": stalls[-1],
        "p99": stalls[int(len(stalls) * 0.99)],
        "stretch": max(stretches),
    }


def work(order):
    """One measurement in this process, as JSON on standard output."""
    raise_file_limit()
    kind = order.pop("kind")
    folder = Path(order.pop("folder"))
    if kind == "crowd":
        found = asyncio.run(save_crowd(folder=folder, **order))
    elif kind == "httpx":
        found = asyncio.run(save_httpx(place=folder / "film.mp4", **order))
    else:
        found = asyncio.run(save_ours(place=folder / "film.mp4", **order))
    print(json.dumps(found))


def ask(**order):
    with tempfile.TemporaryDirectory(dir=order.pop("folder")) as folder:
        command = [sys.executable, str(HERE / "downloads.py"), "--work", json.dumps({**order, "folder": folder})]
        answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=120).stdout
    return json.loads(answer)


CONTENDERS = {
    "httpx aiter_raw": {"kind": "httpx", "sync": False},
    "httpx aiter_raw + fsync": {"kind": "httpx", "sync": True},
    "videorouter": {"kind": "ours", "memory": False},
}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small numbers, one round: does it run?")
    parser.add_argument("--folder", default=tempfile.gettempdir(), help="where the files go")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(json.loads(options.work))
        return
    quick, folder = options.quick, options.folder
    size, rounds = (20 * MB, 1) if quick else (200 * MB, 7)
    raise_file_limit()
    tell_conditions()
    with serve("file_source.py") as port, serve("stub.py") as gateway:
        origin = f"http://127.0.0.1:{port}"
        found = {name: [] for name in CONTENDERS}
        for _ in range(rounds):
            for name, order in CONTENDERS.items():
                found[name].append(ask(origin=origin, folder=folder, size=size, **order))
        grown = [ask(origin=origin, folder=folder, size=size, kind="ours", memory=True)["grown"] for _ in range(3)]
        base = statistics.median(one["wall"] for one in found["httpx aiter_raw"])
        print(f"### {size // MB} MB to disk\n")
        rows = []
        for name, ones in found.items():
            wall = statistics.median(one["wall"] for one in ones)
            cpu = statistics.median(one["cpu"] for one in ones)
            rows.append((name, f"{wall:.3f}", f"{cpu:.3f}", f"{size / MB / wall:.0f}", f"{base / wall:.2f}"))
        print_table(("client", "wall, s", "CPU, s", "MB/s", "x httpx"), rows)
        print(f"videorouter grew by {max(grown):.1f} MB at most\n")
        files, held, each = (8, 50, 2 * MB) if quick else (64, 1000, 20 * MB)
        ones = [
            ask(
                origin=origin,
                gateway=f"http://127.0.0.1:{gateway}",
                folder=folder,
                size=each,
                kind="crowd",
                files=files,
                held=held,
            )
            for _ in range(1 if quick else 3)
        ]
        print(f"### {files} downloads of {each // MB} MB at once, {held} calls held open\n")
        rows = [
            (f"{o['wall']:.2f}", f"{o['cpu']:.2f}", *(f"{o[name] * 1e3:.1f}" for name in ("longest", "p99", "stretch")))
            for o in ones
        ]
        # On a machine with other work a stall is mostly time that the thread was not given; the last column is its own.
        head = (
            "wall, s",
            "CPU, s",
            "longest stall of the loop, ms",
            "99th percentile, ms",
            "longest stretch of CPU, ms",
        )
        print_table(head, rows)


if __name__ == "__main__":
    main()
