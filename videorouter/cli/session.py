"""What a command needs to speak to a gateway: a client made from the arguments, and a sandbox where one was asked for.

The key comes from the environment, a file or a command, never from the arguments. A sandbox never gets the real key.
"""

from __future__ import annotations

import contextlib
import shlex
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videorouter.cli.driver import MissingPartError
from videorouter.client import AsyncVideoRouter
from videorouter.errors import ConfigurationError

if TYPE_CHECKING:
    import argparse
    from collections.abc import AsyncIterator

    from videorouter.cli.console import Console
    from videorouter.events import EventHook
    from videorouter.sandbox import Sandbox

SANDBOX_KEY = "sandbox"


@contextlib.asynccontextmanager
async def open_router(
    args: argparse.Namespace, console: Console, *, on_event: EventHook | None = None
) -> AsyncIterator[AsyncVideoRouter]:
    """A client for the time of one command, and its sandbox where the arguments ask for one."""
    async with contextlib.AsyncExitStack() as stack:
        options = read_options(args)
        if wants_sandbox(args):
            if args.base_url:
                msg = "--sandbox and --base-url exclude each other: the sandbox has an address of its own."
                raise ConfigurationError(msg)
            sandbox = await stack.enter_async_context(make_sandbox(args))
            # A proxy of the environment could not reach this machine's loopback.
            options |= {"api_key": SANDBOX_KEY, "base_url": sandbox.base_url, "trust_env": False}
            console.say(console.style(f"sandbox at {sandbox.url} (nothing here costs money)", "dim"))
        else:
            options["api_key"] = read_key(args)
        yield await stack.enter_async_context(AsyncVideoRouter(**options, on_event=on_event))


def read_options(args: argparse.Namespace) -> dict[str, Any]:
    """The client's options that the arguments name, without the key."""
    given = {
        "base_url": args.base_url,
        "auth_scheme": "Bearer" if args.bearer else None,
        "max_retries": args.max_retries,
        "user_agent": args.user_agent,
    }
    options = {name: value for name, value in given.items() if value is not None}
    if args.timeout != 0:
        options["timeout"] = args.timeout
    options["allow_insecure"] = args.allow_insecure
    options["allow_private_hosts"] = args.allow_private_hosts
    return options


def read_key(args: argparse.Namespace) -> str | None:
    """The key from ``--key-file`` or ``--key-command``, never quoted; ``None`` leaves it to the environment."""
    if args.key_file:
        return read_key_file(args.key_file)
    if args.key_command:
        try:
            words = shlex.split(args.key_command)
            done = subprocess.run(words, stdout=subprocess.PIPE, check=False, timeout=120)  # noqa: S603  the user's own
        except (OSError, ValueError, IndexError, subprocess.TimeoutExpired) as error:
            msg = f"--key-command could not be run ({type(error).__name__}). Try it by itself in this shell."
            raise ConfigurationError(msg) from error
        if done.returncode != 0:
            msg = f"--key-command ended with exit code {done.returncode}. Try it by itself in this shell."
            raise ConfigurationError(msg)
        return _first_line(done.stdout.decode("utf-8", "replace"), "--key-command")
    return None


def read_key_file(name: str) -> str:
    """The key that stands on the first line of a file."""
    try:
        text = Path(name).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        msg = f"--key-file {name} cannot be read: {reason}. Check the path and who may read it."
        raise ConfigurationError(msg) from error
    return _first_line(text, f"--key-file {name}")


def _first_line(text: str, source: str) -> str:
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    if not line:
        msg = f"{source} gave nothing: its first line must be the key."
        raise ConfigurationError(msg)
    return line


def wants_sandbox(args: argparse.Namespace) -> bool:
    """Whether the arguments ask for a sandbox."""
    return bool(args.sandbox or args.sandbox_mode or args.sandbox_profile or args.sandbox_state)


def make_sandbox(args: argparse.Namespace) -> Sandbox:
    """The sandbox that the arguments describe, not yet started."""
    sandbox_class = find_sandbox()
    return sandbox_class(
        mode=args.sandbox_mode or "held", profile=args.sandbox_profile or "quick", state=args.sandbox_state
    )


def find_sandbox() -> type[Sandbox]:
    """The sandbox's class."""
    try:
        from videorouter.sandbox import Sandbox  # noqa: PLC0415  an extra that may be missing
    except ModuleNotFoundError as error:
        msg = (
            f"The sandbox needs the package {error.name!r}, which is not installed.\n"
            "  next: pip install '.[sandbox]' in a clone of videorouter"
        )
        raise MissingPartError(msg) from error
    return Sandbox
