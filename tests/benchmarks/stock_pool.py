"""Why the transport is ours: what the pool of stock httpx does with long, dear calls.

``python tests/benchmarks/stock_pool.py``: a thousand requests that a server holds for a second, with its limits off and
with the default ones; then tasks that are cancelled while they stand in the queue of a full pool. videorouter's client
meets the same server in the same run.
"""

import asyncio
import contextlib
import multiprocessing
import random
import time
from collections import Counter

import httpx
from field import print_table, tell_conditions

from videorouter import AsyncVideoRouter

COUNT, HOLD, SLOTS, WORKERS = 1000, 1.0, 10, 30
ANSWER = b'{"data":[{"url":"https://files.example/v.mp4","video_id":"v"}],"created":1}'
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(ANSWER)


def serve(pipe):
    async def main():
        async def answer(reader, writer):
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                while True:
                    head = await reader.readuntil(b"\r\n\r\n")
                    size = next(
                        int(line[15:]) for line in head.lower().splitlines() if line.startswith(b"content-length:")
                    )
                    hold = float((await reader.readexactly(size)).partition(b"hold-")[2].partition(b"s")[0] or 0)
                    await asyncio.sleep(hold)
                    writer.write(HEAD + ANSWER)
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=4096)
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(main())


async def hold_all(post):
    """Seconds until all were answered, and what they ended with."""
    began = time.perf_counter()
    ends = await asyncio.gather(*(post(HOLD) for _ in range(COUNT)), return_exceptions=True)
    return time.perf_counter() - began, Counter(type(end).__name__ for end in ends if isinstance(end, BaseException))


async def cancel_some(post):
    """Of ``SLOTS`` slots, how many still answer after eight seconds of ``WORKERS`` tasks that time out at random."""
    dice = random.Random(7)

    async def work():
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(dice.uniform(0.001, 0.03)):
                    await post(0.005)

    workers = [asyncio.create_task(work()) for _ in range(WORKERS)]
    await asyncio.wait(workers, timeout=8)
    for worker in workers:
        worker.cancel()
    await asyncio.gather(*workers, return_exceptions=True)
    tasks = [asyncio.create_task(post(0.5)) for _ in range(SLOTS)]
    done, late = await asyncio.wait(tasks, timeout=3)
    for task in late:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return sum(1 for task in done if not task.cancelled() and task.exception() is None)


async def main():
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(there,), daemon=True)
    process.start()
    base = f"http://127.0.0.1:{here.recv()}/v1"

    def through(client):
        async def post(hold):
            body = {"model": "m", "prompt": f"hold-{hold}s"}
            (await client.post(f"{base}/videos/generations", json=body)).raise_for_status()

        return post

    def with_router(router):
        async def post(hold):
            await router.generate(f"hold-{hold}s", model="m")

        return post

    rows = []
    unlimited = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    for name, options in (
        ("stock httpx, no limits", {"limits": unlimited, "timeout": 120}),
        ("stock httpx, default limits", {}),
    ):
        async with httpx.AsyncClient(trust_env=False, **options) as client:
            took, errors = await hold_all(through(client))
        rows.append((name, f"{took:.1f}", dict(errors) or "none"))
    async with AsyncVideoRouter(
        "any-key", base_url=base, adaptive=False, trust_env=False, max_concurrency=COUNT
    ) as router:
        took, errors = await hold_all(with_router(router))
    rows.append(("videorouter, adaptive=False", f"{took:.1f}", dict(errors) or "none"))
    print_table((f"{COUNT} held for {HOLD:.0f} s", "seconds", "errors"), rows)
    print()

    rows = []
    few = httpx.Limits(max_connections=SLOTS)
    async with httpx.AsyncClient(trust_env=False, limits=few, timeout=httpx.Timeout(30, pool=None)) as client:
        rows.append((f"stock httpx, {SLOTS} connections", f"{await cancel_some(through(client))} of {SLOTS}"))
    async with AsyncVideoRouter(
        "any-key", base_url=base, adaptive=False, trust_env=False, max_concurrency=SLOTS
    ) as router:
        rows.append((f"videorouter, {SLOTS} jobs", f"{await cancel_some(with_router(router))} of {SLOTS}"))
    print_table(("after tasks were cancelled at random moments", "slots that still answer"), rows)
    process.terminate()


if __name__ == "__main__":
    tell_conditions()
    asyncio.run(main())
