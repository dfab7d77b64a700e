"""``videorouter doctor``: what is wrong on this machine, and how to mend it.

Without ``--online`` it speaks only to addresses on this machine.
"""

from __future__ import annotations

import os
import sys
import textwrap
import time
from shutil import get_terminal_size
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from videorouter.cli.checks import (
    Check,
    check_base_url,
    check_certificates,
    check_machine,
    check_program,
    check_proxies,
    check_secret,
)
from videorouter.cli.console import Console, clean
from videorouter.cli.driver import drive
from videorouter.cli.exits import Exit
from videorouter.cli.session import SANDBOX_KEY, make_sandbox, open_router, read_key, read_options, wants_sandbox
from videorouter.config import BASE_URL_VARIABLE, VENDOR_BASE_URL, is_loopback
from videorouter.errors import ConfigurationError

if TYPE_CHECKING:
    import argparse

_MARKS = {"ok": ("✓", "green"), "info": ("·", "dim"), "warn": ("!", "yellow"), "fail": ("✗", "red")}
_PLAIN = {"ok": "ok", "info": "--", "warn": "!!", "fail": "XX"}


def run(args: argparse.Namespace) -> int:
    """Run every check."""
    console = Console.of(args)
    return drive(lambda: _look(args, console), args, console)


async def _look(args: argparse.Namespace, console: Console) -> int:
    if wants_sandbox(args):
        checks = await _look_at_sandbox(args, console)
    else:
        checks = await _look_at_gateway(args, console)
    _show(checks, console)
    return Exit.FAILURE if any(check.state == "fail" for check in checks) else Exit.OK


async def _look_at_sandbox(args: argparse.Namespace, console: Console) -> list[Check]:
    from videorouter.cli.probing import probe  # noqa: PLC0415  opens sockets
    from videorouter.client import AsyncVideoRouter  # noqa: PLC0415

    async with make_sandbox(args) as sandbox:
        url = sandbox.base_url
        checks = [
            *check_program(),
            Check(group="key", name="key", state="info", found="the sandbox takes any"),
            check_base_url(url, "the sandbox of this command", allow_insecure=False),
        ]
        options = read_options(args) | {"base_url": url, "max_retries": 0, "timeout": 20.0}
        async with AsyncVideoRouter(SANDBOX_KEY, **options, trust_env=False) as router:
            checks += await probe(router, url, trust_env=False)
    del console
    return [*checks, *check_machine(time.time())]


async def _look_at_gateway(args: argparse.Namespace, console: Console) -> list[Check]:
    from videorouter.cli.probing import probe  # noqa: PLC0415  opens sockets

    checks = check_program()
    try:
        checks += check_secret(args, os.environ, read_key(args))
    except ConfigurationError as error:
        checks.append(Check(group="key", name="key", state="fail", found="none", mend=error.message))
    url, source = _find_url(args)
    checks.append(check_base_url(url, source, allow_insecure=args.allow_insecure))
    usable = all(check.state != "fail" for check in checks if check.group in {"key", "gateway"})
    checks += check_proxies(url, online=args.online)
    if url.startswith("https://"):
        checks.append(check_certificates())
    usable = usable and all(check.state != "fail" for check in checks if check.name == "proxy")
    if not usable:
        words = "not tried: mend what is above first"
        checks.append(Check(group="gateway", name="connection", state="info", found=words))
    elif args.online or is_loopback(urlsplit(url).hostname or ""):
        args.max_retries, args.timeout = 0, args.timeout or 20.0
        async with open_router(args, console) as router:
            checks += await probe(router, url, trust_env=True)
    else:
        mend = "videorouter doctor --online (it reads the balance: nothing is made or paid)"
        checks.append(Check(group="gateway", name="connection", state="info", found="not tried", mend=mend))
    return [*checks, *check_machine(time.time())]


def _find_url(args: argparse.Namespace) -> tuple[str, str]:
    if args.base_url:
        return args.base_url, "from --base-url"
    if os.environ.get(BASE_URL_VARIABLE):
        return os.environ[BASE_URL_VARIABLE], f"from {BASE_URL_VARIABLE}"
    return VENDOR_BASE_URL, "the vendor's"


def _show(checks: list[Check], console: Console) -> None:
    if console.json:
        for check in checks:
            console.record(check.to_dict())
        return
    width = max(len(check.name) for check in checks)
    room = max(40, min(get_terminal_size((100, 24)).columns, 120) - width - 6)
    lines: list[str] = []
    shown = [check for check in checks if not console.quiet or check.state in {"warn", "fail"}]
    for group in dict.fromkeys(check.group for check in shown):
        lines += ["", console.style(group.capitalize(), "bold", stream=sys.stdout)]
        for check in (check for check in shown if check.group == group):
            first, *rest = textwrap.wrap(clean(check.found), room, break_on_hyphens=False) or [""]
            lines.append(f"  {_mark(check, console)} {check.name:<{width}}  {first}")
            lines += [f"    {'':<{width}}  {line}" for line in rest]
            if check.mend:
                mend = textwrap.wrap(clean(check.mend), room - 2, break_on_hyphens=False)
                colour = "cyan" if check.state in {"warn", "fail"} else "dim"
                lines += [
                    console.style(f"    {'':<{width}}  {'→ ' if not number else '  '}{line}", colour, stream=sys.stdout)
                    for number, line in enumerate(mend)
                ]
    print("\n".join([*lines[1:], "", _sum_up(checks, console)]))


def _mark(check: Check, console: Console) -> str:
    mark, colour = _MARKS[check.state]
    try:
        mark.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        mark = _PLAIN[check.state]
    return console.style(mark, colour, stream=sys.stdout)


def _sum_up(checks: list[Check], console: Console) -> str:
    failed = sum(check.state == "fail" for check in checks)
    warned = sum(check.state == "warn" for check in checks)
    if not failed and not warned:
        return console.style("Nothing is wrong.", "green", "bold", stream=sys.stdout)
    words = " and ".join(
        f"{count} {word}{'s' if count > 1 else ''}"
        for count, word in ((failed, "problem"), (warned, "warning"))
        if count
    )
    return console.style(f"{words}: see the arrows.", "red" if failed else "yellow", "bold", stream=sys.stdout)
