"""Progress bars, drawn with rich on a terminal's stderr. Importing this needs the extra ``cli`` or ``sandbox``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Self

from rich.console import Console as RichConsole
from rich.progress import BarColumn, Progress, SpinnerColumn, Task, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from videorouter.cli.console import clean

if TYPE_CHECKING:
    from rich.console import RenderableType

    from videorouter.cli.console import Console


class _MarkColumn(SpinnerColumn):
    """A spinner while a job runs, then its mark."""

    def render(self, task: Task) -> RenderableType:
        mark: Text | None = task.fields["mark"]
        return super().render(task) if mark is None else mark


class BarBoard:
    """One row a job: spinner, label, bar, state, time."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._rich = RichConsole(stderr=True, highlight=False)
        self._progress = Progress(
            _MarkColumn("dots", style="cyan"),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=18, pulse_style="cyan", complete_style="cyan", finished_style="green"),
            TextColumn("{task.fields[words]}", style="dim", markup=False),
            TimeElapsedColumn(),
            console=self._rich,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._rows: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        self._console.printer = self
        return self

    def __exit__(self, *_: object) -> None:
        self._console.printer = None
        self._progress.stop()
        sys.stderr.flush()

    def print(self, text: str) -> None:
        """Show a line above the rows."""
        self._rich.print(Text.from_ansi(text), soft_wrap=True)

    def add(self, key: str, label: str) -> None:
        """Add a row whose bar pulses until the video arrives."""
        self._rows[key] = self._progress.add_task(clean(label), total=None, words="", mark=None)

    def state(self, key: str, words: str) -> None:
        """Change a row's words."""
        self._progress.update(self._rows[key], words=words)

    def transfer(self, key: str, received: int, total: int | None) -> None:
        """Fill a row's bar."""
        self._progress.update(self._rows[key], words="downloading", completed=received, total=total)

    def end(self, key: str, words: str, *, ok: bool) -> None:
        """Stop a row: full and green, or as far as it got."""
        row = self._rows[key]
        mark = Text("✓", "green") if ok else Text("✗", "red")
        if ok:
            self._progress.update(row, total=1, completed=1, words=words, mark=mark)
        else:
            self._progress.update(row, words=words, mark=mark, total=1, completed=0)
        self._progress.stop_task(row)
