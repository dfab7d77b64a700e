"""The input of a batch, from which its workers take entries one at a time: any iterable, async or not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Mapping, Sized
from typing import Any

from videorouter.errors import ConfigurationError

END = object()
"""Taken when there is nothing left, or nothing more is wanted."""


class EntrySource:
    """The entries of any input; an input that raises is reported to ``fail`` and ends there.

    ``known`` is their number, if the input has a length. ``at_once``, set by ``open``, says whether ``take_at_once``
    works.
    """

    __slots__ = (
        "_awaiting",
        "_fail",
        "_iterator",
        "_lock",
        "_source",
        "_stopped",
        "_taker",
        "at_once",
        "known",
        "taken",
    )

    def __init__(self, source: Iterable[Any] | AsyncIterable[Any], fail: Callable[[BaseException], None]) -> None:
        if isinstance(source, str | bytes) or not isinstance(source, Iterable | AsyncIterable):
            raise ConfigurationError(
                f"A batch takes an iterable or async iterable of entries, not {type(source).__name__}. For one prompt "
                "pass [prompt], or call generate()."
            )
        if isinstance(source, Mapping):
            raise ConfigurationError(
                "A batch takes entries, and a dict gives only its names. For one entry pass [entry]; of a dict of entries pass "
                "its values()."
            )
        self.known: int | None = len(source) if isinstance(source, Sized) else None
        self.taken: int = 0
        self.at_once: bool = False
        self._source = source
        self._fail = fail
        self._iterator: Iterator[Any] = iter(())
        self._awaiting: AsyncIterator[Any] | None = None
        self._lock = asyncio.Lock()
        self._taker: asyncio.Task[None] | None = None
        self._stopped = False

    @property
    def ended(self) -> bool:
        """Whether nothing will be taken any more."""
        return self._stopped

    def read_ahead(self) -> Iterable[Any] | None:
        """The entries, to be looked through before they are taken; ``None`` of an input that gives them only once."""
        is_plain = isinstance(self._source, Iterable) and not isinstance(self._source, Iterator | AsyncIterable)
        return self._source if is_plain else None  # type: ignore[return-value]

    def open(self) -> None:
        """Make the iterator of the input."""
        if isinstance(self._source, AsyncIterable):
            self._awaiting = self._source.__aiter__()
        else:
            self._iterator = iter(self._source)
            self.at_once = True

    def stop(self) -> None:
        """Return no more entries, and wake a worker that waits for input that may never arrive."""
        self._stopped = True
        if self._taker is not None:
            self._taker.cancel()

    def take_at_once(self) -> Any:
        """Return the next entry of an input that needs no waiting, or ``END``."""
        if self._stopped:
            return END
        try:
            entry = next(self._iterator, END)
        except Exception as error:  # noqa: BLE001  the caller's own iterator: its error ends the batch, not what runs
            self._fail(error)
            return END
        return self._note(entry)

    async def take(self) -> Any:
        """Return the next entry of an input that is awaited, or ``END``."""
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
