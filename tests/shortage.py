"""One use of a client in a process of its own, from which something is taken away on the way.

``python shortage.py WHAT WHEN VERB CLIENT URL [ARGUMENT]`` prints as JSON what came of it. WHAT: descriptors, threads or
memory. WHEN: ``client`` (before there is one), ``call`` (before its first call), ``save``, or the name of an event.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import os
import resource
import sys
import threading
import traceback
from pathlib import Path

import videorouter
from videorouter.errors import VideoRouterError

WHAT, WHEN, VERB, CLIENT, URL, *MORE = sys.argv[1:]
taken: list[int] = []
over: list[bool] = []


def take() -> None:
    if taken or over:
        return
    if WHAT == "descriptors":
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, most), most))
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        return
    taken.append(-1)
    if WHAT == "threads":
        threading.stack_size(1 << 46)  # no system has room for such a stack: it refuses the thread
    else:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**20, resource.RLIM_INFINITY))


def give_back() -> None:
    over.append(True)
    while taken:
        number = taken.pop()
        if number >= 0:
            os.close(number)
    threading.stack_size(0)
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def take_at(moment: str) -> None:
    if moment == WHEN:
        take()


async def settle(value):
    return await value if inspect.isawaitable(value) else value


async def use(router, wait) -> dict:
    if VERB == "upload":
        return {"asset": (await wait(router.upload(Path(MORE[0])))).sha256}
    if VERB == "queue":
        jobs = router.jobs(MORE[0])
        try:
            return {"state": (await wait(jobs.put("otter", key="a"))).state}
        finally:
            give_back()
            await wait(jobs.put("otter", key="b"))
            await wait(jobs.aclose())
    if VERB == "batch":
        batch = router.generate_many(["a", "b"], journal=MORE[0])
        items = [item async for item in batch] if hasattr(batch, "__aiter__") else list(batch)
        return {"states": [item.state for item in items], "errors": [str(item.error) for item in items]}
    result = await wait(router.generate("otter"))
    if VERB == "save":
        take_at("save")
        return {"path": str((await wait(router.save(result, MORE[0]))).path)}
    return {"videos": len(result.videos), "bytes": len(result.video.data or b"")}


async def tell(client, wait) -> dict:
    found: dict = {}
    router = None
    take_at("client")
    try:
        router = client(
            "key",
            base_url=URL,
            model="veo3-fast",
            timeout=20.0,
            max_retries=0,
            on_event=lambda event: take_at(type(event).__name__),
        )
        take_at("call")
        found.update(await use(router, wait))
    except BaseException as error:  # noqa: BLE001  it is told
        give_back()
        found.update(error=type(error).__name__, own=isinstance(error, VideoRouterError), message=str(error))
        found["trace"] = "".join(traceback.format_exception(error))
    finally:
        give_back()
    if router is not None:
        found["in_doubt"] = len(router.in_doubt)
        # The process recovers: what was refused then works now
        found["afterwards"] = len((await wait(router.generate("again"))).videos)
        await wait(router.aclose() if hasattr(router, "aclose") else router.close())
    return found


if __name__ == "__main__":
    if CLIENT == "sync":
        answer = {}

        async def work() -> None:
            answer.update(await tell(videorouter.VideoRouter, settle))

        coroutine = work()  # without a loop: the sync client brings its own
        with contextlib.suppress(StopIteration):
            coroutine.send(None)
    else:
        answer = asyncio.run(tell(videorouter.AsyncVideoRouter, settle))
    sys.stdout.write(json.dumps(answer) + "\n")
