"""What a batch costs over the calls themselves: CPU a prompt without and with a journal; memory over a million prompts.

``python tests/benchmarks/batches.py [--count 20000] [--rounds 3]`` compares, in one interleaved run, 50 lanes of plain
calls, the same prompts through ``generate_many``, and the same with a journal. ``--million [N]`` runs one batch of a
million generated rows against the same instant server and prints memory as it goes; ``--plot FILE`` draws it as SVG.
"""

import argparse
import asyncio
import resource
import statistics
import tempfile
import time
from pathlib import Path

from field import serve

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
    """Yields how many are done, and memory in MiB, a hundred times."""
    step = max(1, count // 100)
    done = 0
    yield 0, read_memory()
    async for item in router.generate_many(make_prompts(count), concurrency=FLYING, journal=journal):
        assert item.ok, item.error
        done += 1
        if done % step == 0:
            yield done, read_memory()


async def tell_million(router, count, journal):
    print(f"journal: {journal or 'none'}")
    began, marks = time.monotonic(), []
    async for done, memory in run_million(router, count, journal):
        marks.append((done, memory))
        if len(marks) % 5 == 1:
            print(f"{done:>9,}  {memory:6.1f} MiB  {done / (time.monotonic() - began):,.0f}/s", flush=True)
    return marks


def draw(marks):
    """Memory over prompts, from nothing up, as SVG."""
    wide, high, left, low = 640, 240, 56, 28
    most, top = marks[-1][0], max(memory for _, memory in marks) * 1.25
    points = " ".join(
        f"{left + (wide - left - 8) * done / most:.1f},{(high - low) * (1 - memory / top):.1f}"
        for done, memory in marks
    )
    words = [(left, high - 8, "start", "0"), (wide - 8, high - 8, "end", f"{most:,} prompts")]
    words += [(left - 6, high - low, "end", "0"), (left - 6, (high - low) * 0.2 + 4, "end", f"{top / 1.25:.0f} MiB")]
    texts = "".join(f'<text x="{x}" y="{y}" text-anchor="{anchor}">{text}</text>' for x, y, anchor, text in words)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" font-family="sans-serif" font-size="12" '
        f'fill="#888" role="img" aria-label="Memory over prompts">'
        f'<path d="M{left} 0V{high - low}H{wide - 8}" fill="none" stroke="#888"/>'
        f'<polyline points="{points}" fill="none" stroke="#2f7d6b" stroke-width="2"/>{texts}</svg>\n'
    )


async def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--million", type=int, nargs="?", const=1_000_000)
    parser.add_argument("--journal", action="store_true", help="with --million: keep one")
    parser.add_argument("--plot", type=Path, help="with --million: draw memory over prompts into this file")
    args = parser.parse_args()
    with serve("stub.py") as port:
        async with AsyncVideoRouter("key-of-benchmarks", base_url=f"http://127.0.0.1:{port}/v1", model="m") as router:
            await run_calls(router, 500)
            if args.million:
                with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
                    marks = await tell_million(router, args.million, Path(folder) / "run.db" if args.journal else None)
                if args.plot:
                    args.plot.write_text(draw(marks), encoding="utf-8")
                return
            found = await measure(router, args.count, args.rounds)
            for name, value in found.items():
                print(f"{name:<20} {value:6.1f} us CPU a prompt, {value - found['calls']:+6.1f} over the calls")


if __name__ == "__main__":
    asyncio.run(main())
