"""Runs one asynchronous command to its end, also when a signal ends it early."""

from __future__ import annotations

import asyncio
import contextlib
import warnings
from typing import TYPE_CHECKING

from videorouter.cli.console import clean
from videorouter.cli.exits import Exit, exit_of
from videorouter.cli.reporting import report_error
from videorouter.cli.signals import obey_signals
from videorouter.errors import VideoRouterError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Awaitable, Callable, Iterator

    from videorouter.cli.console import Console
    from videorouter.cli.signals import EndSignal


def drive(work: Callable[[], Awaitable[int]], args: argparse.Namespace, console: Console) -> int:
    """Run a command.

    Ctrl-C, SIGTERM and SIGHUP cancel it, so that it can say what is paid and how to collect it.
    """
    ended: list[Exit] = []

    async def main() -> int:
        task = asyncio.current_task()

        def end(by: EndSignal) -> None:
            ended.append(by.exit)
            if task is not None:
                task.cancel()

        with obey_signals(end, ("SIGTERM", "SIGHUP")):  # asyncio itself obeys SIGINT
            return await work()

    try:
        with _tell_warnings(console):
            return asyncio.run(main())
    except VideoRouterError as error:
        report_error(console, error, args)
        return exit_of(error)
    except MissingPartError as error:
        console.tell(f"{console.style('error:', 'red', 'bold')} {error}")
        return Exit.MISSING_PART
    except asyncio.CancelledError:
        if ended:
            return ended[0]
        raise
    except KeyboardInterrupt:
        return Exit.INTERRUPTED


@contextlib.contextmanager
def _tell_warnings(console: Console) -> Iterator[None]:
    """Warnings are words for the user of the command, not lines of a program that they did not write."""

    def tell(message: Warning | str, *_: object, **__: object) -> None:
        console.say(f"{console.style('note:', 'yellow')} {clean(message)}")

    shown, warnings.showwarning = warnings.showwarning, tell
    try:
        yield
    finally:
        warnings.showwarning = shown


class MissingPartError(Exception):
    """An extra that the command needs is not installed; the message says how to install it."""
