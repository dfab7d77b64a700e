"""Shows how a batch stands while it runs: one live panel on a terminal with rich, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any, Protocol, Self

from videorouter.cli.console import is_terminal, say_time

if TYPE_CHECKING:
    from videorouter.cli.console import Console
    from videorouter.models import BatchSummary

SECONDS_BETWEEN_LINES = 10.0
_WINDOW = 30.0


class Gauge:
    """How fast a batch goes, from the last half minute.

    Args:
        planned: Entries of the input, where they were counted.
        max_cost: US dollars.
    """

    def __init__(self, planned: int | None, max_cost: float | None) -> None:
        self.planned = planned
        self.max_cost = max_cost
        self._began = time.monotonic()
        self._marks: list[tuple[float, int]] = []

    def rate(self, fresh: int) -> float:
        """Items a second that this run has brought to an end.

        Args:
            fresh: How many it has so far.
        """
        now = time.monotonic()
        self._marks.append((now, fresh))
        while len(self._marks) > 2 and self._marks[0][0] < now - _WINDOW:
            del self._marks[0]
        (then, before), span = self._marks[0], now - self._marks[0][0]
        return (fresh - before) / span if span > 0.5 and then else 0.0

    def describe(self, summary: BatchSummary, in_flight: int, fresh: int) -> dict[str, str]:
        """The words of a panel.

        Args:
            summary: How the batch stands.
            in_flight: Requests that run.
            fresh: Items that this run has brought to an end.
        """
        rate = self.rate(fresh)
        lost = summary.refused + summary.failed
        words = {
            "done": f"{summary.done:,}",
            "failed": f"{lost:,}",
            "in doubt": f"{summary.in_doubt:,}",
            "in flight": f"{in_flight:,}",
            "rate": f"{rate:.1f}/s" if rate >= 1 else f"{rate * 60:.1f}/min" if rate else "",
            "cost": _say_cost(summary, self.max_cost),
            "left": "",
        }
        met = summary.total - summary.not_sent
        if self.planned and rate:
            words["left"] = say_time(max(0.0, self.planned - met) / rate)
        return words


def _say_cost(summary: BatchSummary, max_cost: float | None) -> str:
    if not summary.cost and not summary.cost_in_doubt and max_cost is None:
        return ""
    cap = f" of ${max_cost:,.2f}" if max_cost is not None else ""
    doubt = f" (+${summary.cost_in_doubt:,.2f} in doubt)" if summary.cost_in_doubt else ""
    return f"${summary.cost:,.2f}{cap}{doubt}"


class Board(Protocol):
    """What shows a batch."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def show(self, summary: BatchSummary, in_flight: int, fresh: int, *, notice: str = "") -> None:
        """Show how it stands."""


def make_board(console: Console, gauge: Gauge) -> Board:
    """The board that fits the terminal.

    Args:
        console: The command's console.
        gauge: Makes its words.
    """
    if console.quiet:
        return SilentBoard()
    if is_terminal(sys.stderr):
        try:
            return LiveBoard(console, gauge)
        except ModuleNotFoundError:
            return LineBoard(console, gauge)
    return LineBoard(console, gauge)


class SilentBoard:
    """Shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def show(self, summary: BatchSummary, in_flight: int, fresh: int, *, notice: str = "") -> None:
        """Nothing."""


class LineBoard:
    """One line every ten seconds.

    Args:
        console: Where to.
        gauge: Makes its words.
    """

    def __init__(self, console: Console, gauge: Gauge) -> None:
        self._console = console
        self._gauge = gauge
        self._last = time.monotonic()
        self._notice = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def show(self, summary: BatchSummary, in_flight: int, fresh: int, *, notice: str = "") -> None:
        """Tell it, unless it was told a moment ago."""
        if notice and notice != self._notice:
            self._notice = notice
            self._console.tell(notice)
        if time.monotonic() - self._last < SECONDS_BETWEEN_LINES:
            return
        self._last = time.monotonic()
        words = self._gauge.describe(summary, in_flight, fresh)
        total = f"/{self._gauge.planned:,}" if self._gauge.planned else ""
        met = summary.total - summary.not_sent
        rest = ", ".join(f"{name} {word}" for name, word in words.items() if word)
        self._console.say(f"{met:,}{total}: {rest}")


class LiveBoard:
    """A bar and a row of figures, drawn with rich.

    Args:
        console: The command's console; its lines go above the panel while it is drawn.
        gauge: Makes its words.

    Raises:
        ModuleNotFoundError: rich is not installed.
    """

    def __init__(self, console: Console, gauge: Gauge) -> None:
        from rich.console import Console as RichConsole  # noqa: PLC0415  an extra
        from rich.live import Live  # noqa: PLC0415

        self._console = console
        self._gauge = gauge
        self._rich = RichConsole(stderr=True, highlight=False)
        self._live = Live(console=self._rich, refresh_per_second=8, redirect_stdout=False, redirect_stderr=False)

    def __enter__(self) -> Self:
        self._live.start()
        self._console.printer = self
        return self

    def __exit__(self, *_: object) -> None:
        self._console.printer = None
        self._live.stop()

    def print(self, text: str) -> None:
        """Show a line above the panel.

        Args:
            text: May hold this package's own colours, nothing else.
        """
        from rich.text import Text  # noqa: PLC0415

        self._rich.print(Text.from_ansi(text), soft_wrap=True)

    def show(self, summary: BatchSummary, in_flight: int, fresh: int, *, notice: str = "") -> None:
        """Draw it anew."""
        self._live.update(self._draw(summary, in_flight, fresh, notice))

    def _draw(self, summary: BatchSummary, in_flight: int, fresh: int, notice: str) -> Any:
        from rich.console import Group  # noqa: PLC0415
        from rich.progress_bar import ProgressBar  # noqa: PLC0415
        from rich.table import Table  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        words = self._gauge.describe(summary, in_flight, fresh)
        met, planned = summary.total - summary.not_sent, self._gauge.planned
        line = Table.grid(padding=(0, 1))
        bar = ProgressBar(total=planned, completed=met, width=28, pulse=planned is None, finished_style="green")
        count = f"{met:,}/{planned:,}" if planned is not None else f"{met:,}"
        line.add_row(bar, Text(count, style="bold"), Text(words["left"] and f"{words['left']} left", style="dim"))
        figures = Text()
        styles = {"done": "green", "failed": "red", "in doubt": "yellow", "in flight": "cyan"}
        for name in ("done", "failed", "in doubt", "in flight"):
            value = words[name]
            figures.append(f"{value} ", style=f"bold {styles[name]}" if value != "0" else "dim")
            figures.append(f"{name}   ", style="" if value != "0" else "dim")
        tail = "   ".join(word for word in (words["rate"], words["cost"]) if word)
        figures.append(tail, style="dim")
        rows: list[Any] = [line, figures]
        if notice:
            rows.append(Text(notice, style="yellow"))
        return Group(*rows)
