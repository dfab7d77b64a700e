"""Shows how several jobs stand while they run: bars on a terminal with rich, lines on stderr elsewhere.

Knows nothing of gateways: a job here is a key, a label and a state in words.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Protocol, Self

from videorouter.cli.console import clean, is_terminal, say_time

if TYPE_CHECKING:
    from types import TracebackType

    from videorouter.cli.console import Console


class Board(Protocol):
    """What shows the jobs."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

    def add(self, key: str, label: str) -> None:
        """Show one more job."""

    def state(self, key: str, words: str) -> None:
        """Show what a job does now."""

    def transfer(self, key: str, received: int, total: int | None) -> None:
        """Show how much of a job's video has arrived."""

    def end(self, key: str, words: str, *, ok: bool) -> None:
        """Show how a job ended."""


def make_board(console: Console, *, labelled: bool = True) -> Board:
    """The board that fits the terminal."""
    if console.quiet:
        return SilentBoard()
    if is_terminal(sys.stderr):
        try:
            from videorouter.cli.bars import BarBoard  # noqa: PLC0415  rich is an extra
        except ModuleNotFoundError:
            return LineBoard(console, labelled=labelled)
        return BarBoard(console)
    return LineBoard(console, labelled=labelled)


class SilentBoard:
    """Shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is open."""

    def add(self, key: str, label: str) -> None:
        """Show nothing."""

    def state(self, key: str, words: str) -> None:
        """Show nothing."""

    def transfer(self, key: str, received: int, total: int | None) -> None:
        """Show nothing."""

    def end(self, key: str, words: str, *, ok: bool) -> None:
        """Show nothing."""


class LineBoard:
    """A line for each change of state: for logs, pipes and terminals without rich."""

    def __init__(self, console: Console, *, labelled: bool = True) -> None:
        self._console = console
        self._labelled = labelled
        self._labels: dict[str, str] = {}
        self._shown: dict[str, str] = {}
        self._began: dict[str, float] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is open."""

    def add(self, key: str, label: str) -> None:
        """Remember a job; its first state is its first line."""
        self._labels[key] = clean(label)
        self._began[key] = time.monotonic()

    def state(self, key: str, words: str) -> None:
        """Write a line when a job's state has changed."""
        if self._shown.get(key) != words:
            self._shown[key] = words
            self._line(key, words)

    def transfer(self, key: str, received: int, total: int | None) -> None:
        """Say once that the video arrives."""
        del received, total
        self.state(key, "downloading")

    def end(self, key: str, words: str, *, ok: bool) -> None:
        """Write a job's last line."""
        mark = self._console.style("ok", "green") if ok else self._console.style("not done", "red")
        self._line(key, f"{mark}: {words} after {say_time(time.monotonic() - self._began.get(key, time.monotonic()))}")

    def _line(self, key: str, words: str) -> None:
        self._console.say(f"{self._labels.get(key, key)}: {words}" if self._labelled else words)
