"""The input of a batch, from which its workers take entries one at a time: any iterable, async or not.

What lies in memory is read where the batch runs. Any other iterator may block, so a thread reads it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Sized
from typing import Any

from videorouter.batch.tables import Rows, read_table
from videorouter.errors import ConfigurationError
from videorouter.threads import ThreadedIterator

END = object()
"""Taken when there is nothing left, or nothing more is wanted."""
WAIT = object()
"""Given where the next entry is not at hand yet."""
_SAMPLES: tuple[object, ...] = (
    [],
    (),
    range(0),
    set(),
    frozenset(),
    deque(),
    {}.keys(),
    {}.values(),
    {}.items(),
    iter([]),
    iter(()),
)
_IN_MEMORY = frozenset({Rows, *(type(each) for each in _SAMPLES)})
"""Types that give each entry at once. A type derived from them may do anything."""
_AHEAD = 64
"""Entries of a quick input that are read before they are wanted, and never more than there are jobs at once."""


class EntrySource:
    """The entries of any input; an input that raises is reported to ``fail`` and ends there.

    ``known`` is their number, if the input has a length.
    """

    __slots__ = (
        "_ahead",
        "_awaiting",
        "_fail",
        "_iterator",
        "_lock",
        "_source",
        "_stopped",
        "_taker",
        "_thread",
        "known",
        "taken",
    )

    def __init__(self, source: object, fail: Callable[[BaseException], None], *, limit: int = 1) -> None:
        source = read_table(source)
        is_text = isinstance(source, str | bytes | bytearray | memoryview)
        if is_text or not isinstance(source, Iterable | AsyncIterable):
            raise ConfigurationError(
                f"A batch takes an iterable or async iterable of entries, not {type(source).__name__}. For one prompt "
                "pass [prompt], or call generate()."
            )
        self.known: int | None = len(source) if isinstance(source, Sized) else None
        self.taken: int = 0
        self._source: Iterable[Any] | AsyncIterable[Any] = source
        self._fail = fail
        self._ahead = min(_AHEAD, limit)
        self._iterator: Iterator[Any] = iter(())
        self._awaiting: AsyncIterator[Any] | None = None
        self._thread: ThreadedIterator[Any] | None = None
        self._lock = asyncio.Lock()
        self._taker: asyncio.Task[None] | None = None
        self._stopped = False

    @property
    def ended(self) -> bool:
        """Whether nothing will be taken any more."""
        return self._stopped

    def read_ahead(self) -> AsyncIterator[Any] | None:
        """The entries, to be looked through before they are taken; ``None`` of an input that gives them only once."""
        is_plain = isinstance(self._source, Iterable) and not isinstance(self._source, Iterator | AsyncIterable)
        return _read_through(self._source) if is_plain else None  # type: ignore[arg-type]

    def open(self) -> None:
        """Make the iterator of the input, unless nothing is wanted of it any more."""
        source = self._source
        if self._stopped:
            return
        if isinstance(source, AsyncIterable):
            self._awaiting = source.__aiter__()
        elif type(source) in _IN_MEMORY:
            self._iterator = iter(source)
        else:
            self._thread = ThreadedIterator(source, ahead=self._ahead)

    def stop(self) -> None:
        """Read no more entries, and wake the workers that wait for input that may never arrive.

        What a thread has read by then is still taken, so that nothing vanishes.
        """
        self._stopped = True
        if self._thread is not None:
            self._thread.close()
        if self._taker is not None:
            self._taker.cancel()

    def take_ready(self) -> Any:
        """Return the next entry if it is at hand, or ``END``; ``WAIT`` where ``take`` must be awaited."""
        if self._thread is not None:
            return self._note(self._thread.pop()) if self._thread.ready else WAIT
        if self._stopped:
            return END
        if self._awaiting is not None:
            return WAIT
        try:
            entry = next(self._iterator, END)
        except Exception as error:  # noqa: BLE001  changed while it is read: its error ends the batch, not what runs
            self._fail(error)
            return END
        return self._note(entry)

    async def take(self) -> Any:
        """Return the next entry of an input that is waited for, or ``END``."""
        return await (self._take_awaited() if self._thread is None else self._take_read(self._thread))

    async def _take_read(self, thread: ThreadedIterator[Any]) -> Any:
        try:
            entry = await anext(thread)
        except StopAsyncIteration:
            entry = END
        except Exception as error:  # noqa: BLE001  the caller's own iterator: as above
            self._fail(error)
            return END
        return self._note(entry)

    async def _take_awaited(self) -> Any:
        async with self._lock:
            if self._stopped or self._awaiting is None:
                return END
            self._taker = task = asyncio.current_task()
            failure: Exception | None = None
            entry: Any = END
            try:
                entry = await anext(self._awaiting)
            except StopAsyncIteration:
                pass
            except asyncio.CancelledError:
                # By ``stop``, which only wakes the worker; whoever cancels the worker itself means it
                if not self.ended or task is None or task.uncancel() > 0:
                    raise
            except Exception as error:  # noqa: BLE001  as above
                failure = error
            finally:
                self._taker = None
            if failure is not None:
                self._fail(failure)
                return END
            return self._note(entry)

    def _note(self, entry: Any) -> Any:
        if entry is END:
            self._stopped = True
        else:
            self.taken += 1
        return entry


async def _read_through(source: Iterable[Any]) -> AsyncIterator[Any]:
    if type(source) in _IN_MEMORY:
        for entry in source:
            yield entry
        return
    thread = ThreadedIterator(source, ahead=_AHEAD)
    try:
        async for entry in thread:
            yield entry
    finally:
        thread.close()
