"""The signals that end a command, each with its exit code and the seconds that it leaves to what runs."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

from videorouter.cli.exits import Exit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@dataclass(frozen=True, kw_only=True)
class EndSignal:
    """One of them: ``words`` say what has happened, ``grace`` is in seconds."""

    words: str
    exit: Exit
    grace: float


END_SIGNALS: dict[str, EndSignal] = {
    "SIGINT": EndSignal(words="interrupted", exit=Exit.INTERRUPTED, grace=300.0),
    "SIGTERM": EndSignal(words="terminated (SIGTERM)", exit=Exit.TERMINATED, grace=8.0),
    "SIGHUP": EndSignal(words="hung up (SIGHUP)", exit=Exit.HUNG_UP, grace=8.0),
}
"""A container is killed ten seconds after its SIGTERM: what is in flight must be written down before."""


@contextlib.contextmanager
def obey_signals(obey: Callable[[EndSignal], None], names: tuple[str, ...] = tuple(END_SIGNALS)) -> Iterator[None]:
    """Call ``obey`` in the running loop for each of them; one that was ignored at the start, as by nohup, stays so."""
    loop = asyncio.get_running_loop()
    installed: list[int] = []
    try:
        for name in names:
            number = getattr(signal, name, None)
            if number is None or signal.getsignal(number) is signal.SIG_IGN:
                continue
            with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
                loop.add_signal_handler(number, obey, END_SIGNALS[name])
                installed.append(number)
        yield
    finally:
        for number in installed:
            loop.remove_signal_handler(number)
