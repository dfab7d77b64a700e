"""Runs one asynchronous command to its end, also when a signal ends it early."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from typing import TYPE_CHECKING

from videorouter.cli.exits import Exit, exit_of
from videorouter.cli.reporting import report_error
from videorouter.errors import VideoRouterError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Awaitable, Callable

    from videorouter.cli.console import Console


def drive(work: Callable[[], Awaitable[int]], args: argparse.Namespace, console: Console) -> int:
    """Run a command.

    Ctrl-C and SIGTERM cancel it, so that it can say what is paid and how to collect it.

    Args:
        work: The command.
        args: The parsed arguments, for the hints of an error.
        console: Where to tell it.

    Returns:
        The exit code.
    """
    terminated: list[bool] = []

    async def main() -> int:
        task = asyncio.current_task()

        def terminate() -> None:
            terminated.append(True)
            if task is not None:
                task.cancel()

        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminate)
        return await work()

    try:
        return asyncio.run(main())
    except VideoRouterError as error:
        report_error(console, error, args)
        return exit_of(error)
    except MissingPartError as error:
        console.tell(f"{console.style('error:', 'red', 'bold')} {error}")
        return Exit.MISSING_PART
    except asyncio.CancelledError:
        if terminated:
            return Exit.TERMINATED
        raise
    except KeyboardInterrupt:
        return Exit.INTERRUPTED


class MissingPartError(Exception):
    """An extra that the command needs is not installed; the message says how to install it."""
