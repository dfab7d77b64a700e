"""Writes to what the user brought: a file object, an async writer, an object store's file. It never closes it."""

from __future__ import annotations

import hashlib
import inspect
from functools import partial
from typing import TYPE_CHECKING, Any

from videorouter.errors import DownloadError
from videorouter.threads import run_in_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def is_sink(value: object) -> bool:
    """Whether bytes can be written to it."""
    return callable(getattr(value, "write", None)) or inspect.iscoroutinefunction(getattr(value, "send", None))


def name_sink(value: object) -> str:
    """Name it for events and messages."""
    name = getattr(value, "name", None) or getattr(value, "path", None)
    return name.rpartition("/")[2] if isinstance(name, str) else type(value).__name__


class Sink:
    """Writes blocks completely: by ``write`` (in a thread, or awaited), by ``write`` and ``drain``, or by ``send``."""

    def __init__(self, target: Any, *, hashed: bool = False) -> None:
        self.name: str = name_sink(target)
        self.size: int = 0
        self._target = target
        self._digest = hashlib.sha256() if hashed else None
        self._write: Callable[[bytes], Any] = target.write if callable(getattr(target, "write", None)) else target.send
        self._drain = getattr(target, "drain", None)
        self._inline = inspect.iscoroutinefunction(self._write) or inspect.iscoroutinefunction(self._drain)

    @property
    def sha256(self) -> str | None:
        """The hex digest of the written bytes, if it was asked for."""
        return None if self._digest is None else self._digest.hexdigest()

    async def write(self, parts: Sequence[bytes | memoryview]) -> None:
        """Write all of these bytes."""
        block = b"".join(parts)
        if not block:
            return
        if self._digest is not None:
            self._digest.update(block)
        self.size += len(block)
        try:
            await self._write_all(block)
        except Exception as error:
            raise self._name_failure(error) from error

    async def flush(self) -> None:
        """Flush the object, if it can."""
        flush = getattr(self._target, "flush", None)
        if not callable(flush):
            return
        try:
            outcome = flush() if inspect.iscoroutinefunction(flush) else await run_in_thread(flush)
            if inspect.isawaitable(outcome):
                await outcome
        except Exception as error:
            raise self._name_failure(error) from error

    async def _write_all(self, block: bytes) -> None:
        while block:
            taken = self._write(block) if self._inline else await run_in_thread(partial(self._write, block))
            if inspect.isawaitable(taken):
                taken = await taken
            if inspect.iscoroutinefunction(self._drain):
                await self._drain()
            if not isinstance(taken, int) or isinstance(taken, bool) or taken >= len(block):
                return
            if taken <= 0:
                msg = f"{self.name} takes no more bytes"
                raise OSError(msg)
            block = block[taken:]

    def _name_failure(self, error: Exception) -> DownloadError:
        msg = (
            f"Writing to {self.name} failed ({type(error).__name__}: {error}). What was written so far is not a whole "
            "video. Fix the writer and save again: nothing is paid for that. Files must be open in binary mode."
        )
        return DownloadError(msg)
