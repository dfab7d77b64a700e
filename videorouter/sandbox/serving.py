"""``serve``: a sandbox as a process of its own, until a signal ends it.

It never prints: ``on_start`` gets the running sandbox and says what there is to say.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Callable
from typing import Unpack

from videorouter.sandbox.host import Sandbox
from videorouter.sandbox.settings import Options


async def serve(*, on_start: Callable[[Sandbox], object] | None = None, **options: Unpack[Options]) -> None:
    """Run a sandbox until SIGINT or SIGTERM, or until the task is cancelled.

    Args:
        on_start: Called once with the running sandbox.
        options: See ``Settings``.

    Raises:
        ValueError: An option makes no sense.
        OSError: A port is taken.
    """
    _raise_file_limit()
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    caught: list[signal.Signals] = []
    async with Sandbox(**options) as sandbox:
        for number in (signal.SIGINT, signal.SIGTERM):
            # Neither Windows nor a thread other than the main one can do this; there, cancelling ends it.
            with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
                loop.add_signal_handler(number, ended.set)
                caught.append(number)
        try:
            if on_start is not None:
                on_start(sandbox)
            await ended.wait()
        finally:
            for number in caught:
                loop.remove_signal_handler(number)


def _raise_file_limit() -> None:
    if sys.platform == "win32":
        return
    import resource  # noqa: PLC0415 - Windows has none

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard) if soft < hard else (soft, hard))
