"""Downloads that go wrong: is there ever something under the final name that is not the film?

``python tests/benchmarks/download_faults.py [--only NAME]... [--fault TEXT]...``: each client's own way to put a video
on disk, as its README or docstring shows it, in a process of its own, against a file host on loopback that fails. The
film has 8 MB. What still runs after 60 s is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import struct
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from comparing import choose, make_environment, order, tell_versions  # noqa: E402 - neither folder is a package
from field import print_table  # noqa: E402
from peers import KEY  # noqa: E402
from servers import Gateway, Visit  # noqa: E402

MB = 10**6
BODY = os.urandom(8 * MB)
FILM = struct.pack(">I4s4sI", 16, b"ftyp", b"isom", 0) + struct.pack(">I4s", 8 + len(BODY), b"mdat") + BODY
PAGE = b"<!doctype html><html><body>This link has expired</body></html>"
BOUND = 60.0


async def save_videorouter(origin: str, place: Path) -> None:
    from videorouter import AsyncVideoRouter

    async with AsyncVideoRouter(KEY, base_url=f"{origin}/v1") as router:
        await router.save(f"{origin}/film.mp4", place)


async def save_openai(origin: str, place: Path) -> None:
    from openai import AsyncOpenAI

    async with AsyncOpenAI(api_key=KEY, base_url=f"{origin}/v1") as client:
        content = await client.videos.download_content("video_1")
        content.write_to_file(place)


async def stream_openai(origin: str, place: Path) -> None:
    from openai import AsyncOpenAI

    async with (
        AsyncOpenAI(api_key=KEY, base_url=f"{origin}/v1") as client,
        client.videos.with_streaming_response.download_content("video_1") as response,
    ):
        await response.stream_to_file(place)


async def save_replicate(origin: str, place: Path) -> None:
    from replicate import Client
    from replicate.helpers import FileOutput

    output = FileOutput(f"{origin}/film.mp4", Client(api_token=KEY, base_url="http://localhost:9"))
    with place.open("wb") as file:  # as its README does
        file.write(await output.aread())


async def save_google(origin: str, place: Path) -> None:
    sys.modules.setdefault("aiohttp", None)  # as it installs
    from google import genai
    from google.genai import types

    async with genai.Client(api_key=KEY, http_options=types.HttpOptions(base_url=origin)).aio as client:
        await client.files.download(file="files/film", destination=place)


async def save_httpx(origin: str, place: Path) -> None:
    import httpx

    async with httpx.AsyncClient() as client, client.stream("GET", f"{origin}/film.mp4") as response:
        response.raise_for_status()
        with place.open("wb") as file:
            async for chunk in response.aiter_bytes():
                file.write(chunk)


CONTENDERS = {
    "videorouter": (save_videorouter, "videorouter"),
    "openai": (save_openai, "openai"),
    "openai, streamed": (stream_openai, "openai"),
    "replicate": (save_replicate, "replicate"),
    "google-genai": (save_google, "google-genai"),
    "httpx by hand": (save_httpx, "httpx"),
}


def head(length: int | None, *fields: str, kind: str = "video/mp4", status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", "Connection: close", *fields]
    if length is not None:
        lines.append(f"Content-Length: {length}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def give(answer: bytes, then: str = "close"):
    """Answer with these bytes, then close, reset or hold."""

    async def step(visit: Visit) -> None:
        await visit.read()
        await visit.say(answer)
        if then == "hold":
            await asyncio.Event().wait()
        elif then == "reset":
            await asyncio.sleep(0.2)  # a reset throws away what the client has not read yet
            visit.reset()
        else:
            visit.close()
            await visit.writer.wait_closed()

    return step


async def ranged(visit: Visit) -> None:
    """Three megabytes at most, then a lost connection; it goes on where it is asked to."""
    request = await visit.read()
    start = int((re.search(r"bytes=(\d+)-", request.headers.get("range", "")) or [0, 0])[1])
    fields = ['ETag: "film"', "Accept-Ranges: bytes"]
    if start:
        fields.append(f"Content-Range: bytes {start}-{len(FILM) - 1}/{len(FILM)}")
    status = "206 Partial Content" if start else "200 OK"
    await visit.say(head(len(FILM) - start, *fields, status=status) + FILM[start : start + 3 * MB])
    visit.close()
    await visit.writer.wait_closed()


LOST = give(head(len(FILM)) + FILM[: 3 * MB], "reset")
WHOLE = give(head(len(FILM)) + FILM)
FAULTS = {
    "lost every 3 MB; the host knows `Range`": [ranged],
    "lost after 3 MB once; no `Range`": [LOST, WHOLE],
    "lost after 3 MB each time; no `Range`": [LOST],
    "ends after 3 MB, no length stated": [give(head(None) + FILM[: 3 * MB])],
    "3 MB of it, stated as the whole length": [give(head(3 * MB) + FILM[: 3 * MB])],
    "an HTML page under 200": [give(head(len(PAGE), kind="text/html") + PAGE)],
    "the same page as `video/mp4`": [give(head(len(PAGE)) + PAGE)],
    "an empty body under 200": [give(head(0))],
}
KILLED = "kill -9 after 3 MB"
FROM_THE_API = ("openai", "openai, streamed", "google-genai")


def look(place: Path) -> str:
    """What stands under the final name."""
    if not place.exists():
        return "nothing"
    found = place.read_bytes()
    if found == FILM:
        return "**the film**"
    if not found:
        return "an empty file"
    return f"{len(found) / MB:.1f} MB of it" if FILM.startswith(found) else "the page"


def start(name: str, gateway: Gateway, place: Path):
    command = order(__file__, name, f"http://localhost:{gateway.port}", str(place))
    return asyncio.create_subprocess_exec(*command, env=make_environment(), stdout=asyncio.subprocess.PIPE)


async def fetch(name: str, steps: list, place: Path) -> tuple[str, bool]:
    """What the call said, and whether the file host has seen the API key."""
    async with Gateway(*steps) as gateway:
        process = await start(name, gateway, place)
        try:
            said, _ = await asyncio.wait_for(process.communicate(), BOUND)
        except TimeoutError:
            process.kill()
            await process.wait()
            return f"still running after {BOUND:.0f} s", False
        return said.decode().strip(), any(KEY.encode() in request.head for request in gateway.requests)


async def kill(name: str, place: Path) -> tuple[str, str]:
    """Kill it when the host has sent 3 MB; then what is there, and what a second run on a good host makes of it."""
    async with Gateway(give(head(len(FILM), 'ETag: "film"') + FILM[: 3 * MB], "hold")) as gateway:
        process = await start(name, gateway, place)
        while not gateway.requests:
            await asyncio.sleep(0.01)
        await asyncio.sleep(2)
        process.kill()
        await process.wait()
    left = look(place)
    await fetch(name, [WHOLE], place)
    return left, look(place)


async def measure(name: str, faults: list[str]) -> dict[str, str]:
    found = {}
    for fault in faults:
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder, "film.mp4")
            if fault == KILLED:
                left, then = await kill(name, place)
                found[fault] = f"{left}; after a second run: {then}"
            else:
                said, seen = await fetch(name, FAULTS[fault], place)
                found[fault] = f"{look(place)}, {said}"
                found["key"] = "yes" if seen or found.get("key") == "yes" else "no"
        print(f"{name}, {fault}: {found[fault]}", file=sys.stderr)
    return found


async def save(name: str, origin: str, place: str) -> None:
    with contextlib.redirect_stdout(sys.stderr):
        try:
            await CONTENDERS[name][0](origin, Path(place))
            said = "no error"
        except Exception as error:  # noqa: BLE001 - whatever comes up is what is measured
            said = type(error).__name__
    print(said)


def main() -> None:
    names, faults = choose(__doc__, CONTENDERS, (*FAULTS, KILLED), kind="fault", work=save)

    async def everyone() -> list[dict[str, str]]:
        return await asyncio.gather(*(measure(name, faults) for name in names))

    found = dict(zip(names, asyncio.run(everyone()), strict=True))
    tell_versions([CONTENDERS[name][1] for name in names])
    print("### What stands under the final name, and what the call said\n")
    rows = [(fault, *(found[name][fault] for name in names)) for fault in faults]
    keys = {name: found[name].get("key", "-") + (": it is the API" if name in FROM_THE_API else "") for name in names}
    rows.append(("the file's host is sent the API key", *keys.values()))
    print_table(("fault", *names), rows)


if __name__ == "__main__":
    main()
