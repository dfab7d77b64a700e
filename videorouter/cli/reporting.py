"""Says what went wrong, and what to do next, in terms of the command line."""

from __future__ import annotations

import shlex
import textwrap
from typing import TYPE_CHECKING, Any

from videorouter.cli.console import clean
from videorouter.cli.exits import Exit, exit_of

if TYPE_CHECKING:
    import argparse

    from videorouter.cli.console import Console
    from videorouter.errors import VideoRouterError

_SHOWN = ("status", "code", "type", "param", "request_id", "task_id", "retry_after", "idempotency_key", "attempts")
_KEPT = (
    ("base_url", "--base-url"),
    ("key_file", "--key-file"),
    ("key_command", "--key-command"),
    ("user_agent", "--user-agent"),
    ("sandbox_state", "--sandbox-state"),
)


def report_error(
    console: Console,
    error: VideoRouterError,
    args: argparse.Namespace,
    *,
    label: str | None = None,
    steps: list[str] | None = None,
) -> None:
    """Tell an error and what to do next, on stderr."""
    about = f"{clean(label)}: " if label else ""
    console.tell(f"{console.style('error:', 'red', 'bold')} {about}{clean(error.message)}")
    facts = [f"{name.replace('_', ' ')} {clean(value)}" for name, value in _facts(error).items()]
    if facts:
        console.tell(console.style(f"  ({', '.join(facts)})", "dim"))
    for step in next_steps(error, args) if steps is None else steps:
        console.tell(f"  {console.style('next:', 'cyan')} {step}")


def next_steps(error: VideoRouterError, args: argparse.Namespace, output: str | None = None) -> list[str]:
    """What its user can do after an error, each a command or a short sentence."""
    code = exit_of(error)
    if code in {Exit.RUNNING, Exit.IN_DOUBT} and error.task_id:
        return [collect_command(args, error.task_id, output)]
    if code is Exit.DOWNLOAD and error.result_url:
        return [download_command(args, error.result_url, output)]
    if code is Exit.IN_DOUBT:
        return ["look on the vendor's usage page before you run it again: a second run may be a second charge"]
    return list(_STEPS.get(code, ()))


_STEPS: dict[Exit, tuple[str, ...]] = {
    Exit.KEY: ("videorouter doctor --online", "where the gateway wants the other form of the key: --bearer"),
    Exit.CREDIT: ("top up on the vendor's page, then look with: videorouter balance",),
    Exit.POLICY: ("change the prompt or the input, then run it again",),
    Exit.RATE: ("run it again later, or give it more time with --timeout",),
    Exit.NOT_SENT: ("videorouter doctor --online, then run it again: nothing was bought",),
    Exit.REFUSED: ("mend what the message names (videorouter models lists the models), then run it again",),
    Exit.USAGE: ("mend it and run it again: nothing was sent",),
    Exit.FAILURE: ("videorouter doctor --online",),
    Exit.TASK_FAILED: ("look on the vendor's usage page whether it was billed, before you run it again",),
}


def collect_command(args: argparse.Namespace, task_id: str, output: str | None = None) -> str:
    """The command line that collects a task."""
    return _command(args, "wait", task_id, output)


def download_command(args: argparse.Namespace, url: str, output: str | None = None) -> str:
    """The command line that saves a finished video."""
    return _command(args, "download", url, output)


def show_error(error: VideoRouterError, code: Exit, steps: list[str]) -> dict[str, Any]:
    """An error as plain values for ``--json``."""
    return {
        "type": type(error).__name__,
        "message": error.message,
        "exit": int(code),
        "in_doubt": error.in_doubt,
        **_facts(error),
        "next": steps,
    }


def shorten(text: str, width: int = 44) -> str:
    """A prompt as a label."""
    return textwrap.shorten(clean(text), width, placeholder="…") or clean(text)[:width]


def _facts(error: VideoRouterError) -> dict[str, Any]:
    return {name: value for name in _SHOWN if (value := getattr(error, name, None)) not in (None, "", 0)}


def _command(args: argparse.Namespace, verb: str, subject: str, output: str | None) -> str:
    subject = clean(subject)
    words = ["videorouter", verb, *(["--", subject] if subject.startswith("-") else [subject])]
    options: list[str] = []
    if output:
        options += ["-o", output]
    for name, flag in _KEPT:
        value = getattr(args, name, None)
        if value:
            options += [flag, value]
    if getattr(args, "bearer", False):
        options.append("--bearer")
    for flag in ("allow_insecure", "allow_private_hosts"):
        if getattr(args, flag, False):
            options.append(f"--{flag.replace('_', '-')}")
    return shlex.join([*words[:2], *options, *words[2:]] if "--" in words else [*words, *options])
