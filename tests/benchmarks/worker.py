"""One contender in a process of its own: takes orders as JSON lines, measures itself, answers as JSON lines."""

import asyncio
import gc
import json
import sys
import time
from pathlib import Path

from contenders import CONTENDERS


def read_memory():
    """Bytes of memory that are this process's own."""
    for line in Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines():
        if line.startswith("Private_Dirty:"):
            return int(line.split()[1]) * 1024
    return 0


async def run(call, calls, in_flight):
    """Make so many calls, so many at a time."""
    left = calls
    errors = {}

    async def lane():
        nonlocal left
        while left > 0:
            left -= 1
            try:
                await call()
            except Exception as error:  # noqa: BLE001 - counted by name
                name = type(error).__name__
                errors[name] = errors.get(name, 0) + 1

    wall, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(lane() for _ in range(in_flight)))
    return {
        "wall": time.perf_counter() - wall,
        "cpu": (time.process_time() - cpu) / calls,
        "errors": errors,
    }


async def weigh(call, count, after):
    """Memory per call while so many are held."""
    gc.collect()
    before = read_memory()
    tasks = [asyncio.ensure_future(call()) for _ in range(count)]
    await asyncio.sleep(after)
    held = sum(1 for task in tasks if not task.done())
    gc.collect()
    memory = (read_memory() - before) / count
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    failed = sum(1 for outcome in outcomes if isinstance(outcome, BaseException))
    return {"memory": memory, "held": held, "errors": failed}


async def main(name, urls, ca):
    loop = asyncio.get_running_loop()
    while True:
        order = await loop.run_in_executor(None, sys.stdin.readline)
        if not order.strip():
            return
        order = json.loads(order)
        url = urls["tls" if order.get("tls") else "plain"] + f"/hold/{order.get('hold', 0)}/v1"
        if not order.get("hold"):
            url = url.replace("/hold/0/", "/")
        async with CONTENDERS[name](url, ca if order.get("tls") else None) as call:
            if order.get("warm", True):
                await run(call, min(200, order["calls"]), min(20, order["in_flight"]))
            if order["what"] == "weigh":
                answer = await weigh(call, order["calls"], order["after"])
            else:
                answer = await run(call, order["calls"], order["in_flight"])
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]))
