"""Writes to what the user brought: a file object, an async writer, an object store's file. It never closes it."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import anyio.to_thread

if TYPE_CHECKING:
    from collections.abc import Callable


def is_sink(value: object) -> bool:
    """Whether bytes can be written to it."""
    return callable(getattr(value, "write", None)) or inspect.iscoroutinefunction(getattr(value, "send", None))


def name_sink(value: object) -> str:
    """What to call it in events and messages."""
    name = getattr(value, "name", None) or getattr(value, "path", None)
    return name.rpartition("/")[2] if isinstance(name, str) else type(value).__name__


class Sink:
    """Blocks in, whole writes out, whichever way the object wants to be written to.

    Args:
        target: An object with ``write`` (plain: called in a thread; or a coroutine function), with ``write`` and a
            coroutine ``drain`` (a ``StreamWriter``), or with a coroutine ``send`` (an anyio stream).
    """

    def __init__(self, target: Any) -> None:
        self._target = target
        self._write: Callable[[bytes], Any] = target.write if callable(getattr(target, "write", None)) else target.send
        self._drain = getattr(target, "drain", None)
        self._inline = inspect.iscoroutinefunction(self._write) or inspect.iscoroutinefunction(self._drain)

    async def write(self, block: bytes) -> None:
        """Hand over all of a block; what the object raises comes through."""
        while block:
            if self._inline:
                taken = self._write(block)
            else:
                taken = await anyio.to_thread.run_sync(self._write, block)
            if inspect.isawaitable(taken):
                taken = await taken
            if inspect.iscoroutinefunction(self._drain):
                await self._drain()
            if not isinstance(taken, int) or isinstance(taken, bool) or taken >= len(block):
                return
            if taken <= 0:
                msg = f"{name_sink(self._target)} takes no more bytes"
                raise OSError(msg)
            block = block[taken:]

    async def flush(self) -> None:
        """Let the object pass on what it holds back, where it has a way to."""
        flush = getattr(self._target, "flush", None)
        if not callable(flush):
            return
        if inspect.iscoroutinefunction(flush):
            await flush()
            return
        outcome = await anyio.to_thread.run_sync(flush)
        if inspect.isawaitable(outcome):
            await outcome
