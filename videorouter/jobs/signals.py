"""The signals that end a process, told to every queue that it has entered: one handler for all, before the server's own."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_ENDING = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """Calls what was added when the process is told to end, and then the handler that was there before.

    Each queue with a handler of its own would bury the others': taken off in another order, one would stay for ever and
    swallow Ctrl-C.
    """

    def __init__(self) -> None:
        self._stops: set[Callable[[], object]] = set()
        self._before: dict[int, list[Any]] = {}
        """The handlers that this one stands before: one, unless a server's that came later calls this one."""
        self._depth = 0

    def add(self, stop: Callable[[], object]) -> None:
        """Call ``stop`` at a signal; called again, stand before what a server has set meanwhile."""
        self._stops.add(stop)
        self._chain()

    def remove(self, stop: Callable[[], object]) -> None:
        """Call it no more; after the last one the handlers are as they were."""
        self._stops.discard(stop)
        if self._stops or threading.current_thread() is not threading.main_thread():
            return
        for number, handlers in self._before.items():
            if (
                handlers and signal.getsignal(number) == self._note
            ):  # else another one stands before it, and may call it
                signal.signal(number, handlers.pop())

    def _chain(self) -> None:
        """Stop at the signal, and not when a server has closed its connections, which is when a lifespan ends."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in _ENDING:
            handler = signal.getsignal(number)
            if callable(handler) and handler != self._note:
                self._before.setdefault(number, []).append(handler)
                signal.signal(number, self._note)

    def _note(self, number: int, frame: Any) -> None:
        depth = self._depth
        for stop in () if depth else [*self._stops]:
            stop()
        handlers = self._before.get(number, ())
        if depth < len(handlers):
            self._depth += 1
            try:
                handlers[-1 - depth](number, frame)
            finally:
                self._depth = depth


STOP_SIGNALS = StopSignals()
