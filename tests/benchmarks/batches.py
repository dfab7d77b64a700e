"""What a batch costs over the calls themselves: CPU a prompt without and with a journal; memory over a million prompts.

``python tests/benchmarks/batches.py [--count 20000] [--rounds 3]`` compares, in one interleaved run, 50 lanes of plain
calls, the same prompts through ``generate_many``, and the same with a journal. ``--million [N]`` runs one batch of a
million generated rows against the same instant server and prints memory as it goes.
"""

import argparse
import asyncio
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from videorouter import AsyncVideoRouter

FLYING = 50
PAGE = resource.getpagesize()


def read_memory():
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE / 2**20


def make_prompts(count):
    return (f"A paper boat in the rain, take {number}" for number in range(count))


async def run_calls(router, count):
    prompts = make_prompts(count)

    async def lane():
        for prompt in prompts:
            await router.generate(prompt)

    await asyncio.gather(*(lane() for _ in range(FLYING)))


async def run_batch(router, count, **options):
    async for item in router.generate_many(make_prompts(count), concurrency=FLYING, **options):
        assert item.ok, item.error


async def measure(router, count, rounds):
    cpu = {"calls": [], "batch": [], "batch with journal": []}
    for _ in range(rounds):
        for name, found in cpu.items():
            with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
                began = time.process_time()
                if name == "calls":
                    await run_calls(router, count)
                else:
                    journal = Path(folder) / "run.db" if "journal" in name else None
                    await run_batch(router, count, journal=journal)
                found.append((time.process_time() - began) / count * 1e6)
    return {name: statistics.median(found) for name, found in cpu.items()}


async def run_million(router, count, journal):
    print(f"memory {read_memory():.1f} MiB before, journal {journal}")
    began, step = time.monotonic(), max(1, count // 20)
    done = 0
    async for item in router.generate_many(make_prompts(count), concurrency=FLYING, journal=journal):
        assert item.ok, item.error
        done += 1
        if done % step == 0:
            rate = done / (time.monotonic() - began)
            print(f"{done:>9,}  {read_memory():6.1f} MiB  {rate:,.0f}/s", flush=True)


def start_stub():
    words = [sys.executable, Path(__file__).with_name("stub.py")]
    return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


async def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--million", type=int, nargs="?", const=1_000_000)
    parser.add_argument("--journal", action="store_true", help="with --million: keep one")
    args = parser.parse_args()
    stub = start_stub()
    port = int(stub.stdout.readline().split()[-1])
    try:
        async with AsyncVideoRouter("key-of-benchmarks", base_url=f"http://127.0.0.1:{port}/v1", model="m") as router:
            await run_calls(router, 500)
            if args.million:
                with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
                    await run_million(router, args.million, Path(folder) / "run.db" if args.journal else None)
                return
            found = await measure(router, args.count, args.rounds)
            for name, value in found.items():
                print(f"{name:<20} {value:6.1f} us CPU a prompt, {value - found['calls']:+6.1f} over the calls")
    finally:
        stub.stdin.close()
        stub.wait(10)


if __name__ == "__main__":
    asyncio.run(main())
