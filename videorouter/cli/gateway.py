"""``videorouter sandbox``: a pretend gateway until Ctrl-C, and how to point a client or curl at it."""

from __future__ import annotations

import asyncio
import shlex
import sys
from typing import TYPE_CHECKING, Any

from videorouter.cli.console import Console
from videorouter.cli.driver import MissingPartError
from videorouter.cli.exits import Exit
from videorouter.cli.session import find_sandbox, read_key_file
from videorouter.errors import ConfigurationError

if TYPE_CHECKING:
    import argparse

    from videorouter.sandbox import Sandbox

_PASSED = (
    "mode",
    "profile",
    "speed",
    "seed",
    "auth",
    "max_concurrency",
    "rate",
    "balance",
    "honour_idempotency",
    "strict_models",
    "host",
    "allowed_hosts",
    "port",
    "files_port",
    "state",
)
_ORDER = '{"model": "veo3-fast", "prompt": "A cute baby sea otter", "output_format": "url"}'


def run(args: argparse.Namespace) -> int:
    """Run a sandbox until a signal ends it."""
    console = Console.of(args)
    bad = console.style("error:", "red", "bold")
    try:
        sandbox_class = find_sandbox()
        options: dict[str, Any] = {name: getattr(args, name) for name in _PASSED}
        if args.key_file:
            options["api_key"] = read_key_file(args.key_file)
        trial = sandbox_class(**options)
        for words in args.fault:
            trial.faults.add(words)
    except MissingPartError as error:
        console.tell(f"{bad} {error}")
        return Exit.MISSING_PART
    except (ValueError, TypeError, ConfigurationError) as error:
        console.tell(f"{bad} {error}\n  {console.style('next:', 'cyan')} videorouter sandbox --help")
        return Exit.USAGE

    from videorouter.sandbox import serve  # noqa: PLC0415  an extra, known to be there by now

    def announce(sandbox: Sandbox) -> None:
        for words in args.fault:
            sandbox.faults.add(words)
        _announce(sandbox, args, console)

    try:
        asyncio.run(serve(on_start=announce, **options))
    except KeyboardInterrupt:
        pass
    except (OSError, ValueError) as error:
        console.tell(f"{bad} the sandbox could not start: {error}")
        console.tell(f"  {console.style('next:', 'cyan')} choose another --port or --state, or leave them out")
        return Exit.USAGE
    console.say("The sandbox has stopped.")
    return Exit.OK


def _announce(sandbox: Sandbox, args: argparse.Namespace, console: Console) -> None:
    if console.json:
        console.record({"base_url": sandbox.base_url, "files_url": sandbox.files_url, "gallery": sandbox.url})
    elif not sys.stdout.isatty():
        console.data(sandbox.base_url)
    key = "$(cat " + shlex.quote(args.key_file) + ")" if args.key_file else "any-key"
    header = f"Bearer {key}" if args.auth == "bearer" else key

    def name(text: str) -> str:
        return console.style(f"  {text:<9}", "dim")

    head = console.style("A sandbox gateway is running. Nothing here costs money.", "bold")
    faults = [f"{name('faults')}{words}" for words in args.fault]
    lines = [
        head,
        "",
        f"{name('API')}{sandbox.base_url}",
        f"{name('videos')}{sandbox.files_url}",
        f"{name('gallery')}{sandbox.url}/",
        f"{name('charges')}{sandbox.url}/_sandbox/charges",
        f"{name('answers')}{args.mode}, {args.profile}",
        *faults,
        "",
        console.style("Point the client at it, in another terminal:", "bold"),
        f'  export INFRON_VIDEO_BASE_URL={sandbox.base_url} INFRON_API_KEY="{key}"',
        f'  videorouter generate "A cute baby sea otter" -o otter.mp4{" --bearer" if args.auth == "bearer" else ""}',
        "",
        console.style("Or curl, as the vendor's quickstart does:", "bold"),
        f'  curl {sandbox.base_url}/videos/generations -H "Content-Type: application/json" \\',
        f"    -H \"Authorization: {header}\" -d '{_ORDER}'",
        "",
        "Ctrl-C stops it.",
    ]
    console.say("\n".join(lines))
