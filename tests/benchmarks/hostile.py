"""Hostile answers to a paid call: does it end in time, in how much memory, in what, and where does the API key go?

``python tests/benchmarks/hostile.py [--only NAME]... [--answer TEXT]...``: each client, in a process of its own for each
answer, makes one call with its own timeout option at 3 s. What still runs after 20 s is killed; 8 GiB of address space
is the end in any case. Growth is the highest resident size above that right before the call. Linux only.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import io
import json
import logging
import os
import pickle
import resource
import ssl
import sys
import tempfile
import time
import zlib
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from comparing import choose, make_environment, merge_columns, order, tell_versions, write_certificate  # noqa: E402
from field import print_table  # noqa: E402
from peers import CONTENDERS, KEY, PROMPT  # noqa: E402
from servers import Gateway, raw, write_answer  # noqa: E402

PATIENCE = 3.0
BOUND = 20.0
RUNNING = f"still running after {BOUND:.0f} s"
MB = 10**6
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


def send(*pieces: bytes):
    return raw(*pieces, then="hold")


def pour(head: bytes, piece: bytes, every: float):
    """A piece every so often, for ever."""

    async def step(visit) -> None:
        await visit.read()
        await visit.say(head)
        while True:
            await visit.say(piece)
            await asyncio.sleep(every)

    return step


PADDING = b"A" * MB
OPENED = b'{"padding":"'


def close_padding(job: dict) -> bytes:
    return b'",' + json.dumps(job).encode()[1:]


@functools.cache
def squeeze_padding():
    bomb = zlib.compressobj(1, wbits=31)
    return bomb, bomb.compress(OPENED) + b"".join(bomb.compress(PADDING) for _ in range(500))


def squeeze(job: dict):
    """The job behind a field of 500 MB, as half a megabyte of gzip."""
    bomb, start = squeeze_padding()
    bomb = bomb.copy()
    body = start + bomb.compress(close_padding(job)) + bomb.flush()
    return send(OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body) + body)


def pad(job: dict):
    """The job behind a field of 100 MB."""
    end = close_padding(job)
    head = OK + b"Content-Length: %d\r\n\r\n" % (len(OPENED) + 100 * MB + len(end))
    return send(head + OPENED, *[PADDING] * 100, end)


def break_id(job: dict) -> bytes:
    """The same job, under an id that is no text."""
    text = json.dumps(job)
    for good in (
        "video_1",
        "https://resource.example/v.mp4",
        "job-1",
        "models/veo/operations/job-1",
        "00000000-0000-4000-8000-000000000001",
    ):
        text = text.replace(f'"{good}"', '"\\ud800"')
    return text.encode()


def flood(job: dict):
    fields = [f"X-Field-{n}: {'z' * 1000}" for n in range(5000)]
    return send(write_answer(200, json.dumps(job).encode(), *fields))


def echo_key(_: dict):
    body = json.dumps({"error": {"message": f"Incorrect API key provided: {KEY}"}, "detail": f"bad key {KEY}"}).encode()
    return send(write_answer(401, body))


ANSWERS = {
    "a gzip bomb: 500 MB": squeeze,
    "chunks without end, 20 MB/s": lambda _: pour(
        OK + b"Transfer-Encoding: chunked\r\n\r\n", b"30000\r\n" + b" " * 0x30000 + b"\r\n", 0.01
    ),
    "a byte every 0.3 s": lambda _: pour(OK + b"Content-Length: 100000\r\n\r\n", b" ", 0.3),
    "a JSON body of 100 MB": pad,
    "JSON nested 1 MB deep": lambda _: send(write_answer(200, b"[" * 500_000 + b"]" * 500_000)),
    "5 MB of headers": flood,
    "an HTML page under 200": lambda _: send(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 39\r\n\r\n"
        b"<!doctype html><html>Sign in</html>    "
    ),
    "a lone surrogate for an id": lambda job: send(write_answer(200, break_id(job))),
    "401 that echoes the API key": echo_key,
}


async def call(name: str, url: str) -> None:
    """Make one call in this process; say before it how large the process is, and after it what came up."""
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
    log = io.StringIO()
    logging.basicConfig(level=logging.DEBUG, stream=log)
    contender = CONTENDERS[name]
    found = {}
    async with contender.open(url, PATIENCE) as make:
        logging.getLogger().setLevel(logging.DEBUG)  # whatever it was set to meanwhile
        print(json.dumps({"before": read_peak("self")}), flush=True)
        began = time.monotonic()
        try:
            job = contender.id_of(await make())
            found["outcome"] = "result" if job else "result without an id"
            with contextlib.suppress(AttributeError):
                job.encode()
        except UnicodeEncodeError:
            found["outcome"] = "result with an id that no URL can hold"
        except BaseException as error:  # noqa: BLE001 - whatever comes up is what is measured
            found["outcome"] = type(error).__name__
            found["own"] = type(error).__module__.partition(".")[0] == contender.package
            found["shown"] = KEY in str(error) or KEY in repr(error)
            try:
                pickled = pickle.dumps(error)
                found["pickled"] = KEY.encode() in pickled
                found["unpickles"] = type(pickle.loads(pickled)) is type(error)
            except Exception as trouble:  # noqa: BLE001
                found["unpickles"] = False
                found["trouble"] = repr(trouble)[:100]
        found |= {"seconds": time.monotonic() - began, "after": read_peak("self"), "logged": KEY in log.getvalue()}
        print(json.dumps(found), flush=True)
        os._exit(0)  # what a client leaves behind is not measured here


def read_peak(process: object) -> int:
    """The highest resident size of a process so far, in bytes."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


async def meet(name: str, step, folder: str, context: ssl.SSLContext) -> dict:
    """One client, one answer: what came up, how it grew, how many paid prompts the server has seen."""
    contender = CONTENDERS[name]
    async with Gateway(step(contender.answer), ssl_context=context if contender.tls else None) as gateway:
        url = f"{'https' if contender.tls else 'http'}://localhost:{gateway.port}"
        process = await asyncio.create_subprocess_exec(
            *order(__file__, name, url),
            env=make_environment(folder),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        found = json.loads(await process.stdout.readline() or b"{}")
        try:
            found |= json.loads(await asyncio.wait_for(process.stdout.readline(), BOUND) or b'{"outcome": "died"}')
        except TimeoutError:
            found |= {"outcome": RUNNING, "seconds": BOUND, "after": read_peak(process.pid)}
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        said = await process.stderr.read()
        await process.wait()
        if "after" not in found:
            print(name, found, said.decode(), file=sys.stderr)
        found["posts"] = sum(PROMPT.encode() in post.body for post in gateway.posts)
    return found


async def send_away(name: str, folder: str, context: ssl.SSLContext) -> dict:
    """A 307 to another origin: what of the key and the prompt arrives there."""
    contender = CONTENDERS[name]
    tls = context if contender.tls else None
    there = Gateway(send(write_answer(200, json.dumps(contender.answer).encode())), ssl_context=tls)
    async with there:
        place = f"{'https' if tls else 'http'}://localhost:{there.port}/elsewhere"
        found = await meet(name, lambda _: send(write_answer(307, b"", f"Location: {place}")), folder, context)
        found["key"] = any(KEY.encode() in post.head for post in there.posts)
        found["prompt"] = any(PROMPT.encode() in post.body for post in there.posts)
    return found


def grow(found: dict) -> float:
    return (found.get("after", 0) - found.get("before", 0)) / MB


def describe(found: dict) -> str:
    """What came up; how large and how often where that is worth a word. A busy machine shows in neither."""
    words = found["outcome"]
    if grow(found) > 16:
        words += ", growing" if words == RUNNING else f", +{round(grow(found), -2):,.0f} MB"
    return words + (f", sent {found['posts']} times" if found["posts"] > 1 else "")


def sum_up(name: str, ones: list[dict]) -> tuple:
    errors = [one for one in ones if "own" in one]
    return (
        name,
        sum(one["outcome"] == RUNNING for one in ones),
        f"{max(map(grow, ones)):,.0f}",
        f"{sum(one['own'] for one in errors)} of {len(errors)}",
        max(one["posts"] for one in ones),
    )


def say(value: bool | None) -> str:
    return "-" if value is None else "yes" if value else "no"


async def measure(names: list[str], answers: list[str], folder: str) -> tuple[dict, dict]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(f"{folder}/cert.pem")
    turns = asyncio.Semaphore(2)

    async def one(name: str, answer: str) -> dict:
        async with turns:
            found = await meet(name, ANSWERS[answer], folder, context)
            print(f"{name}, {answer}: {describe(found)}", file=sys.stderr)
            return found

    if any("bomb" in answer for answer in answers):
        squeeze_padding()  # before anyone waits for it
    pairs = [(name, answer) for answer in answers for name in names]
    found = dict(zip(pairs, await asyncio.gather(*(one(*pair) for pair in pairs)), strict=True))
    return found, {name: await send_away(name, folder, context) for name in names}


def main() -> None:
    names, answers = choose(__doc__, CONTENDERS, ANSWERS, kind="answer", work=call)
    with tempfile.TemporaryDirectory() as folder:
        write_certificate(folder)
        found, away = asyncio.run(measure(names, answers, folder))
    tell_versions([CONTENDERS[name].distribution for name in names])
    print(f"### What a call costs its process, over {len(answers)} answers\n")
    head = (
        "client",
        f"still running after {BOUND:.0f} s, with a timeout of {PATIENCE:.0f} s",
        "growth at worst, MB",
        "errors of its own kind",
        "prompts sent for one call, at worst",
    )
    print_table(head, [sum_up(name, [found[name, answer] for answer in answers]) for name in names])
    print("### What comes up\n")
    columns = merge_columns(names, {name: [describe(found[name, answer]) for answer in answers] for name in names})
    print_table(("answer", *columns), list(zip(answers, *columns.values(), strict=True)))
    print("### Where the API key goes\n")
    echo = "401 that echoes the API key"
    head = (
        "client",
        "in the error's text",
        "in its pickle",
        "in DEBUG logs",
        "the error pickles and comes back",
        "sent to another origin after a 307",
        "prompt sent there",
    )
    rows = []
    for name in names:
        seen = found.get((name, echo), {})
        cells = [seen.get(key) for key in ("shown", "pickled", "logged", "unpickles")]
        rows.append((name, *map(say, (*cells, away[name]["key"], away[name]["prompt"]))))
    print_table(head, rows)


if __name__ == "__main__":
    main()
