"""Double charges: how often a paid prompt reaches a faulty server for one call, and what its user is told.

``python tests/benchmarks/charges.py [--only NAME]... [--fault TEXT]...``: each client as it ships, in a process of its
own, makes one call for each fault, against a server on loopback that keeps a ledger. A prompt counts as charged when it
arrived whole and the server did not refuse it, by 403, 429, 503 with ``Retry-After`` or 307. A fault stays, unless it
says otherwise. Where it would last for minutes, the client's own timeout option is set to one second, and nothing else; a
call that still runs after 90 s is stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import ssl
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from comparing import choose, make_environment, merge_columns, order, tell_versions, write_certificate  # noqa: E402
from field import print_table  # noqa: E402 - neither folder is a package
from peers import CONTENDERS, PROMPT  # noqa: E402
from servers import Gateway, Visit, lose, raw, reset_unread, write_answer  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

REQUEST_ID = "req-7d1f0a2b"
NAMED = tuple(f"{name}: {REQUEST_ID}" for name in ("x-infron-request-id", "x-request-id", "x-fal-request-id"))
BOUND = 90
MONEY = re.compile(r"\b(bill(ed)?|charged?|paid|bought|spent|in doubt)\b", re.IGNORECASE)
NGINX = b"<html><head><title>%d</title></head><body><center>nginx</center></body></html>"


def accept(job: dict, *, then_close: float | None = None):
    """Take the job; then, if told to, close the idle connection after some seconds."""

    async def step(visit: Visit) -> None:
        await visit.read()
        visit.server.used = visit
        await visit.say(write_answer(200, json.dumps(job).encode(), *NAMED))
        if then_close is not None:
            await asyncio.sleep(then_close)
            visit.close()

    return step


def refuse(status: int, *fields: str, body: bytes = b'{"error":{"message":"not now"}}'):
    """Answer that nothing was bought."""

    async def step(visit: Visit) -> None:
        (await visit.read()).refused = True
        await visit.say(write_answer(status, body, *fields, *NAMED))

    return step


def fail(status: int, body: bytes, *fields: str):
    async def step(visit: Visit) -> None:
        await visit.read()
        await visit.say(write_answer(status, body, *fields))

    return step


def cut(job: dict):
    whole = write_answer(200, json.dumps(job).encode(), *NAMED)
    return raw(whole[: len(whole) - len(json.dumps(job)) // 2])


def redirect(job: dict):
    """307 to another path of the same server."""

    async def step(visit: Visit) -> None:
        request = await visit.read()
        request.refused = not request.path.endswith("/moved")
        fields = (307, b"", f"Location: {request.path}/moved") if request.refused else (200, json.dumps(job).encode())
        await visit.say(write_answer(*fields))

    return step


def meet_on_the_way(job: dict):
    """A connection that was used before is gone when its next request comes; a fresh one works."""
    take = accept(job)

    async def step(visit: Visit) -> None:
        if visit is visit.server.used:
            visit.reset()
        else:
            await take(visit)

    return step


@dataclass(frozen=True)
class Fault:
    """A script of the server for a contender's job. ``down``: seconds until it listens. ``idle``: before a 2nd call."""

    steps: Callable
    patience: float | None = None
    down: float = 0
    idle: float | None = None


ERROR = json.dumps({"error": {"message": "internal error", "type": "server_error"}}).encode()
QUOTA = {
    "message": "You exceeded your current quota, please check your plan and billing details.",
    "type": "insufficient_quota",
    "code": "insufficient_quota",
}
NO_CREDIT = json.dumps({"error": QUOTA}).encode()
CLOUDFLARE = b"<html><title>524: A timeout occurred</title>cloudflare</html>"
FAULTS = {
    "connection refused for 0.2 s, then up": Fault(lambda job: [accept(job)], down=0.2),
    "connection refused for 3 s, then up": Fault(lambda job: [accept(job)], down=3),
    "reset before the server read anything": Fault(lambda _: [reset_unread()]),
    "reset after the whole request": Fault(lambda _: [lose()]),
    "silence (timeout set to 1 s)": Fault(lambda _: [lose("hold")], patience=1),
    "the answer is cut in half": Fault(lambda job: [cut(job)]),
    "500 from the application": Fault(lambda _: [fail(500, ERROR, *NAMED)]),
    "500 once, then it works": Fault(lambda job: [fail(500, ERROR, *NAMED), accept(job)]),
    "502, a proxy's page": Fault(lambda _: [fail(502, NGINX % 502)]),
    "504, a proxy's page": Fault(lambda _: [fail(504, NGINX % 504)]),
    "524, Cloudflare's page": Fault(lambda _: [fail(524, CLOUDFLARE, "cf-ray: 8e6a-FRA")]),
    "200 with an empty body": Fault(lambda _: [fail(200, b"", *NAMED)]),
    "503 with `Retry-After: 1` once": Fault(lambda job: [refuse(503, "Retry-After: 1"), accept(job)]),
    "429 with `Retry-After: 1` once": Fault(lambda job: [refuse(429, "Retry-After: 1"), accept(job)]),
    "out of credit, as 403": Fault(lambda _: [refuse(403, body=NO_CREDIT)]),
    "out of credit, as 429": Fault(lambda _: [refuse(429, body=NO_CREDIT)]),
    "307 to another path": Fault(lambda job: [redirect(job)]),
    "idle connection closed, then a call": Fault(lambda job: [accept(job, then_close=0.3), accept(job)], idle=0.6),
    "idle connection closed as the call comes": Fault(lambda job: [accept(job), meet_on_the_way(job)], idle=0.3),
}


@dataclass
class Outcome:
    """What one call came to, on both ends of the wire."""

    charged: int
    posts: int
    seconds: float
    error: str = ""  # its class; empty when there is a result
    job: bool = False  # the result has an id to collect the job by
    own: bool = False  # the error is of the client's own kind
    warned: bool = False  # it says that money may be spent
    named: bool = False  # it carries the request id, where the server had sent one
    keyed: bool = False  # it carries an idempotency key that was on the wire
    keys: int = 0  # idempotency keys on the wire

    @property
    def cell(self) -> str:
        times = f"**{self.charged}**" if self.charged > 1 else str(self.charged)
        words = f"{times}, {self.error or ('result' if self.job else 'a result without an id')}"
        return words + (f", sent {self.posts} times" if self.posts > 1 and not self.charged else "")


def is_carried(error: BaseException, text: str) -> bool:
    """Whether a user finds a text on an error: in its words, its attributes, or the headers of its exchange."""
    response = getattr(error, "response", None)
    request = getattr(error, "request", None) if not isinstance(error, RuntimeError) else None
    places = [str(error), *vars(error).values(), getattr(error, "request_id", None)]
    places += [dict(thing.headers) for thing in (response, request) if hasattr(thing, "headers")]
    return any(text in str(place) for place in places)


async def meet(contender, fault: Fault, *, port: int = 0, context: ssl.SSLContext | None = None) -> Outcome:
    """One call of one client while one fault lasts."""
    gateway = Gateway(*fault.steps(contender.answer), port=port, ssl_context=context)
    url = f"{'https' if context else 'http'}://localhost:{port}"
    raised, job = None, None
    async with contextlib.AsyncExitStack() as stack:

        async def listen() -> None:
            await asyncio.sleep(fault.down)
            await stack.enter_async_context(gateway)

        call = await stack.enter_async_context(contender.open(url, fault.patience))
        up = asyncio.create_task(listen())
        if not fault.down:
            await up
        if fault.idle is not None:
            await call()
            gateway.requests.clear()
            await asyncio.sleep(fault.idle)
        began = time.monotonic()
        try:
            async with asyncio.timeout(BOUND) as bound:
                job = contender.id_of(await call())
        except Exception as error:  # noqa: BLE001 - whatever comes up is what is measured
            raised = error
        seconds = time.monotonic() - began
        await up
        posts = [post for post in gateway.posts if PROMPT.encode() in post.body]
    keys = {post.headers["idempotency-key"] for post in posts if "idempotency-key" in post.headers}
    outcome = Outcome(sum(not getattr(post, "refused", False) for post in posts), len(posts), seconds, keys=len(keys))
    outcome.job = bool(job)
    if raised is not None:
        outcome.error = f"nothing after {BOUND} s" if bound.expired() else type(raised).__name__
        outcome.own = type(raised).__module__.partition(".")[0] == contender.package
        outcome.warned = bool(getattr(raised, "in_doubt", False)) or bool(MONEY.search(str(raised)))
        outcome.named = is_carried(raised, REQUEST_ID)
        outcome.keyed = any(is_carried(raised, key) for key in keys)
    return outcome


async def work(name: str, faults: list[str], cert: str) -> None:
    """All faults for one contender, each as a line of JSON."""
    contender = CONTENDERS[name]
    context = None
    if contender.tls:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(cert)
    async with Gateway() as gateway:
        port = gateway.port  # one for all faults: some clients read their host when they are imported
    with open(os.devnull, "w") as void:  # noqa: ASYNC230, PTH123
        for fault in faults:
            with contextlib.redirect_stdout(void):
                outcome = await meet(contender, FAULTS[fault], port=port, context=context)
            print(json.dumps([fault, vars(outcome)]), flush=True)


def measure(name: str, faults: list[str], folder: str) -> dict[str, Outcome]:
    command = order(__file__, name, faults, f"{folder}/cert.pem")
    run = subprocess.run(
        command, env=make_environment(folder), capture_output=True, text=True, timeout=900, check=False
    )
    if run.returncode:
        sys.exit(f"{name}: {run.stderr}")
    found = [json.loads(line) for line in run.stdout.splitlines()]
    print(f"{name} done", file=sys.stderr)
    return {fault: Outcome(**fields) for fault, fields in found}


def sum_up(name: str, outcomes: dict[str, Outcome]) -> tuple:
    """What one client's user is told, over all faults."""
    errors = [one for one in outcomes.values() if one.error]
    spent = [one for one in errors if one.charged]
    sent = [one for fault, one in outcomes.items() if one.error and re.search("half|500|empty", fault)]
    return (
        name,
        max(one.charged for one in outcomes.values()),
        sum(one.charged > 1 for one in outcomes.values()),
        f"{sum(one.warned for one in spent)} of {len(spent)}",
        f"{sum(one.named for one in sent)} of {len(sent)}",
        f"{sum(one.keyed for one in spent)} of {len(spent)}" if any(one.keys for one in spent) else "sends none",
        f"{sum(one.own for one in errors)} of {len(errors)}",
        f"{max(one.seconds for one in outcomes.values()):.0f}",
    )


def main() -> None:
    names, faults = choose(__doc__, CONTENDERS, FAULTS, kind="fault", work=work)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(3) as pool:
        write_certificate(folder)
        found = dict(zip(names, pool.map(lambda name: measure(name, faults, folder), names), strict=True))
    tell_versions([CONTENDERS[name].distribution for name in names])
    print("### How often the prompt is charged, and what the user gets\n")
    columns = merge_columns(names, {name: [found[name][fault].cell for fault in faults] for name in names})
    print_table(("fault", *columns), list(zip(faults, *columns.values(), strict=True)))
    print("### What the user is told\n")
    head = (
        "client",
        "charges for one call, at worst",
        "faults that charge twice or more",
        "errors after a charge that say so",
        "that carry the request id sent",
        "that carry the idempotency key",
        "errors of its own kind",
        "longest call, s",
    )
    print_table(head, [sum_up(name, found[name]) for name in names])


if __name__ == "__main__":
    main()
