"""CPU of the client per call: sequential and with 50 to 10,000 in flight, plain and under TLS; memory while held.

``python tests/benchmarks/calls.py [--quick] [--only NAME]...``: contenders take turns within one run, the median of
the rounds counts, and what is compared are the ratios.
"""

import argparse
import math
import statistics
import time

from contenders import CONTENDERS
from field import print_table, tell_conditions, workers

SLOW = {"openai-python", "stock httpx", "videorouter on stock httpx"}


def measure(crew, names, rounds, **order):
    """The median CPU per call in microseconds, by contender; contenders take turns."""
    cpu = {name: [] for name in names}
    wall = {name: [] for name in names}
    errors = dict.fromkeys(names, 0)
    for _ in range(rounds):
        for name in names:
            answer = crew[name].ask(what="run", **order)
            cpu[name].append(answer["cpu"] * 1e6)
            wall[name].append(answer["wall"])
            errors[name] += sum(answer["errors"].values())
    return {name: (statistics.median(cpu[name]), statistics.median(wall[name]), errors[name]) for name in names}


def show(title, found):
    print(f"### {title}\n", flush=True)
    openai = found.get("openai-python", (math.nan,))[0]
    aiohttp = found.get("aiohttp + msgspec", (math.nan,))[0]
    rows = [
        (name, f"{cpu:.0f}", f"{cpu / openai:.3f}", f"{cpu / aiohttp:.2f}", f"{wall:.2f}", errors)
        for name, (cpu, wall, errors) in found.items()
    ]
    print_table(("client", "CPU per call, us", "x openai", "x aiohttp", "wall, s", "errors"), rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small numbers, one round: does it run?")
    parser.add_argument("--only", action="append", choices=list(CONTENDERS), help="these contenders only")
    options = parser.parse_args()
    quick = options.quick
    names = options.only or list(CONTENDERS)
    fast = [name for name in names if name not in SLOW]
    rounds = 1 if quick else 3
    calls = 200 if quick else 2000
    began = time.monotonic()
    tell_conditions()
    with workers(names) as crew:
        for tls in (False, True):
            kind = "TLS" if tls else "plain"
            show(f"sequential, {kind}", measure(crew, names, rounds, calls=calls // 2, in_flight=1, tls=tls))
            show(f"50 in flight, {kind}", measure(crew, names, rounds, calls=calls, in_flight=50, tls=tls))
        growth(crew, fast, quick=quick)
        show_thousand(crew, names, quick=quick)
    weigh(names, quick=quick)
    print(f"took {time.monotonic() - began:.0f} s")


def growth(crew, names, *, quick):
    """Held calls, each connection used three times, so that only the number in flight differs."""
    sizes = (100, 1000) if quick else (100, 1000, 5000, 10_000)
    table = {name: [] for name in names}
    for size in sizes:
        hold = 0.1 if size <= 100 else 0.5 if size <= 1000 else 2.0
        found = measure(crew, names, 1, calls=3 * size, in_flight=size, hold=hold, warm=False)
        for name, (cpu, _, errors) in found.items():
            table[name].append((cpu, errors))
    print("### CPU per call as calls in flight grow, plain, us\n")
    rows = []
    for name, cells in table.items():
        exponent = math.log(cells[-1][0] / cells[0][0]) / math.log(sizes[-1] / sizes[0])
        failed = sum(errors for _, errors in cells)
        rows.append((name, *(f"{cpu:.0f}" for cpu, _ in cells), f"{exponent:.2f}", failed))
    print_table(("client", *(f"{size:,} in flight" for size in sizes), "exponent", "errors"), rows)


def show_thousand(crew, names, *, quick):
    """All at once: how long until the last is done."""
    for size, hold in ((200, 1.0),) if quick else ((1000, 1.0), (10_000, 5.0)):
        chosen = names if size <= 1000 else [name for name in names if name not in SLOW]
        found = measure(crew, chosen, 1, calls=size, in_flight=size, hold=hold, warm=False)
        show(f"{size:,} at once, each held {hold:.0f} s, plain", found)


def weigh(names, *, quick):
    """In fresh processes: what an earlier run has freed would hide what this one takes."""
    print("### memory per call in flight, KiB\n")
    size, after = (100, 1.0) if quick else (1000, 2.5)
    rows = []
    for name in names:
        cells = []
        for tls in (False, True):
            with workers([name]) as crew:
                order = {"calls": size, "in_flight": 1, "hold": 2 * after, "after": after, "tls": tls}
                answer = crew[name].ask(what="weigh", warm=False, **order)
            missing = f" ({answer['held']} held)" if answer["held"] < size else ""
            cells.append(f"{answer['memory'] / 1024:.1f}{missing}")
        rows.append((name, *cells))
    print_table(("client", "plain", "TLS"), rows)


if __name__ == "__main__":
    main()
