"""1,000 web requests at once through one client: how long does the application's event loop stand still?

Run by hand: ``python tests/benchmarks/web.py``. The application runs under uvicorn in one process, the pretend gateway
and the people who ask in others, so that only the application's own work shows. A watcher on the application's loop
asks to be woken every millisecond and notes how late it is, and how much processor time the loop took meanwhile: on a
machine that others use, too, only the second tells what the application did. The requests arrive over five seconds and
are held for longer, so that all of them are open at once. The
collector's walk over modules that never change is taken out by ``gc.freeze()``, as a web application may do at its
start: without any video it alone takes 70 ms. Passes when the loop never works for 50 ms on end.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

REQUESTS = 1000
MOST_MS = 50.0
ARRIVAL = 5.0
APP = """
import asyncio, gc, time
from contextlib import asynccontextmanager
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
from videorouter import AsyncVideoRouter

lateness = []
busy = []

async def watch():
    while True:
        before, worked = time.perf_counter(), time.thread_time()
        await asyncio.sleep(0.001)
        lateness.append(time.perf_counter() - before - 0.001)
        busy.append(time.thread_time() - worked)

@asynccontextmanager
async def lifespan(app):
    watcher = asyncio.create_task(watch())
    async with AsyncVideoRouter(model="veo3-fast", adaptive=False) as router:
        yield {"router": router}
    watcher.cancel()

async def make(request):
    body = await request.json()
    if request.query_params.get("idle"):
        await asyncio.sleep(6)
        return JSONResponse({})
    result = await request.state.router.generate(body["prompt"])
    return JSONResponse(result.to_dict())

async def report(request):
    late, worked, stats = sorted(lateness), sorted(busy), request.state.router.stats().to_dict()
    gc.collect()
    gc.freeze()
    lateness.clear()
    busy.clear()
    p99 = late[int(len(late) * 0.99)]
    return JSONResponse({"late_ms": late[-1] * 1000, "busy_ms": worked[-1] * 1000, "p99_ms": p99 * 1000, **stats})

app = Starlette(lifespan=lifespan, routes=[Route("/videos", make, methods=["POST"]), Route("/report", report)])
"""


async def ask(port: int, path: str, body: bytes | None = None) -> dict[str, object]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"{'GET' if body is None else 'POST'} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    writer.write(f"{head}Content-Length: {len(body or b'')}\r\n\r\n".encode() + (body or b""))
    answer = await reader.read()
    writer.close()
    head_of, _, payload = answer.partition(b"\r\n\r\n")
    if b" 200 " not in head_of.split(b"\r\n")[0]:
        raise RuntimeError(answer[:300].decode(errors="replace"))
    return json.loads(payload)


async def measure(port: int) -> tuple[dict[str, object], dict[str, object]]:
    await ask(port, "/videos", b'{"prompt": "the first call warms up"}')

    async def crowd(path: str) -> None:
        async def arrive(number: int) -> None:
            await asyncio.sleep(number * ARRIVAL / REQUESTS)
            await ask(port, path, bodies[number])

        await asyncio.gather(*map(arrive, range(REQUESTS)))

    bodies = [json.dumps({"prompt": f"otter {number}"}).encode() for number in range(REQUESTS)]
    await crowd("/videos?idle=1")
    await ask(port, "/report")
    await crowd("/videos?idle=1")
    without = await ask(port, "/report")
    await crowd("/videos")
    return await ask(port, "/report"), without


def run() -> tuple[dict[str, object], dict[str, object]]:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "app.py").write_text(APP)
        options = ["--mode", "held", "--profile", "realistic", "--speed", "24"]
        gateway = subprocess.Popen(
            [sys.executable, "-m", "videorouter.sandbox", *options], stdout=subprocess.PIPE, text=True
        )
        base_url = json.loads(gateway.stdout.readline())["base_url"]
        env = {**os.environ, "INFRON_API_KEY": "key", "INFRON_VIDEO_BASE_URL": base_url}
        with socket.create_server(("127.0.0.1", 0), backlog=4096) as listener:
            serving = ["uvicorn", "app:app", "--fd", str(listener.fileno()), "--log-level", "warning"]
            server = subprocess.Popen(
                [sys.executable, "-m", *serving], cwd=folder, env=env, pass_fds=[listener.fileno()]
            )
            try:
                return asyncio.run(measure(listener.getsockname()[1]))
            finally:
                for process in (server, gateway):
                    process.terminate()
                    process.wait()


def main() -> int:
    found, without = run()
    for name, report in (("through the client", found), ("the same requests without videos", without)):
        worst = f"loop busy {report['busy_ms']:.1f} ms on end, late {report['late_ms']:.1f} ms"
        sys.stdout.write(f"{name}: at most {worst} (p99 {report['p99_ms']:.1f} ms)\n")
    sys.stdout.write(f"{found['succeeded']} videos of {REQUESTS + 1}, {found['in_doubt']} in doubt\n")
    return 0 if found["busy_ms"] <= MOST_MS else 1


if __name__ == "__main__":
    sys.exit(main())
