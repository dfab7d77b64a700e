"""Shows how a batch stands while it runs: one live panel on a terminal with rich, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self

from videorouter.cli.console import clean, is_terminal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from videorouter.cli.console import Console
    from videorouter.models import BatchSummary

SECONDS_BETWEEN_LINES = 10.0
_WINDOW = 30.0
_MARK_EVERY = 0.5
_MOST_MARKS = 2_000
_GAP = "   "
_BAR = 28


@dataclass(frozen=True, kw_only=True)
class Moment:
    """What a board shows: how a batch stands at one moment.

    Attributes:
        summary: Counts and money.
        in_flight: Requests that are with the gateway.
        waiting: Entries that wait for their turn, as the pace is full.
        saving: Items whose videos are being fetched, or wait for it.
        paused: Seconds for which the gateway has asked to be left alone.
        handed: Items that are at their end.
        worked: Of these, how many this run had something to do for.
        notice: What its user must know, such as what Ctrl-C does now.
    """

    summary: BatchSummary
    in_flight: int = 0
    waiting: int = 0
    saving: int = 0
    paused: float = 0.0
    handed: int = 0
    worked: int = 0
    notice: str = ""


class Gauge:
    """How fast a batch goes, and how long it will take.

    The rate is taken over half a minute, and over more where jobs take longer: at least two of them for each that runs
    at once. Nothing ends while the first ones run: half of that time is not counted, as if they had begun one by one.
    """

    def __init__(
        self, planned: int | None, max_cost: float | None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.planned = planned
        self.max_cost = max_cost
        self._clock = clock
        self._began = clock()
        self._marks: deque[tuple[float, int]] = deque()

    def read_rate(self, moment: Moment) -> float:
        """Items a second that this run brings to an end; 0 while nobody can say."""
        now, marks = self._clock(), self._marks
        if not moment.worked:
            return 0.0
        if not marks:
            marks.append((self._began + (now - self._began) / 2, 0))
        if now - marks[-1][0] >= _MARK_EVERY:
            marks.append((now, moment.worked))
        enough = 2 * (moment.in_flight + moment.saving)
        while len(marks) > 2 and (
            (now - marks[1][0] >= _WINDOW and moment.worked - marks[1][1] >= enough) or len(marks) > _MOST_MARKS
        ):
            marks.popleft()
        then, before = marks[0]
        return (moment.worked - before) / (now - then) if now - then >= _MARK_EVERY else 0.0

    def describe(self, moment: Moment) -> Words:
        """The words of a board."""
        summary = moment.summary
        rate = self.read_rate(moment)
        figures = [
            (f"{summary.done:,} done", "green" if summary.done else "dim"),
            (f"{summary.refused + summary.failed:,} failed", "red" if summary.refused + summary.failed else "dim"),
            (f"{summary.in_doubt:,} in doubt", "yellow" if summary.in_doubt else "dim"),
            (f"{moment.in_flight:,} in flight", "cyan" if moment.in_flight else "dim"),
        ]
        figures += [(f"{moment.waiting:,} waiting", "")] if moment.waiting else []
        figures += [(f"paused {say_left(moment.paused)}", "yellow")] if moment.paused > 0 else []
        figures += [(f"{moment.saving:,} saving", "cyan")] if moment.saving else []
        figures += [(f"{summary.accepted:,} accepted", "cyan")] if summary.accepted else []
        figures += [(words, "dim") for words in (_say_rate(rate), *_list_cost(summary, self.max_cost)) if words]
        return Words(figures=figures, count=self._say_count(summary), left=self._say_left(moment, rate))

    def _say_count(self, summary: BatchSummary) -> str:
        met = f"{summary.total - summary.not_sent:,}"
        return met if self.planned is None else f"{met}/{self.planned:,}"

    def _say_left(self, moment: Moment, rate: float) -> str:
        if self.planned is None or moment.summary.stopped is not None or moment.worked < moment.in_flight / 2:
            return ""
        left = self.planned - moment.handed
        if 0 < left <= moment.in_flight:
            return f"the last {left:,}"
        return f"{say_left(left / rate)} left" if rate and left > 0 else ""


@dataclass(frozen=True, kw_only=True)
class Words:
    """The words of a board: figures with their styles, how many of how many, and how long it will take."""

    figures: list[tuple[str, str]]
    count: str
    left: str


def say_left(seconds: float) -> str:
    """About how long, in words."""
    if seconds < 59.5:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours < 48 else f"{hours / 24:.0f} days"


def _say_rate(rate: float) -> str:
    return f"{rate:.1f}/s" if rate >= 1 else f"{rate * 60:.1f}/min" if rate else ""


def _list_cost(summary: BatchSummary, max_cost: float | None) -> Iterator[str]:
    if summary.cost is None:
        yield "cost unknown"
    elif summary.cost or summary.cost_in_doubt or max_cost is not None:
        cap = f" of ${max_cost:,.2f}" if max_cost is not None else ""
        yield f"${summary.cost:,.2f}{cap}"
    if summary.cost_in_doubt:
        yield f"+${summary.cost_in_doubt:,.2f} in doubt"
    if summary.unpriced:
        yield f"{summary.unpriced:,} without a price"


def fit(figures: list[tuple[str, str]], width: int) -> list[list[tuple[str, str]]]:
    """Figures in as many rows as they need: none is broken in two."""
    rows: list[list[tuple[str, str]]] = []
    room = 0
    for figure in figures:
        need = len(figure[0])
        if not rows or need + len(_GAP) > room:
            rows.append([])
            room = width + len(_GAP)
        rows[-1].append(figure)
        room -= need + len(_GAP)
    return rows


class BatchBoard(Protocol):
    """What shows a batch."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def show(self, moment: Moment) -> None:
        """Show how it stands."""


def make_board(console: Console, gauge: Gauge) -> BatchBoard:
    """The board that fits the terminal."""
    if console.quiet:
        return BatchSilentBoard()
    if is_terminal(sys.stderr):
        try:
            return BatchLiveBoard(console, gauge)
        except ModuleNotFoundError:
            return BatchLineBoard(console, gauge)
    return BatchLineBoard(console, gauge)


class BatchSilentBoard:
    """Shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def show(self, moment: Moment) -> None:
        """Nothing."""


class BatchLineBoard:
    """One line every ten seconds."""

    def __init__(self, console: Console, gauge: Gauge) -> None:
        self._console = console
        self._gauge = gauge
        self._last = time.monotonic()
        self._notice = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def show(self, moment: Moment) -> None:
        """Tell it, unless it was told a moment ago."""
        if moment.notice and moment.notice != self._notice:
            self._notice = moment.notice
            self._console.tell(clean(moment.notice))
        if time.monotonic() - self._last < SECONDS_BETWEEN_LINES:
            return
        self._last = time.monotonic()
        words = self._gauge.describe(moment)
        rest = [figure for figure, _ in words.figures if not figure.startswith("0 ")]
        self._console.say(f"{words.count}: {', '.join([*rest, words.left] if words.left else rest)}")


class BatchLiveBoard:
    """A bar and a row of figures, drawn with rich."""

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
        """Show a line above the panel."""
        from rich.text import Text  # noqa: PLC0415

        self._rich.print(Text.from_ansi(text), soft_wrap=True)

    def show(self, moment: Moment) -> None:
        """Draw it anew."""
        self._live.update(self._draw(moment))

    def _draw(self, moment: Moment) -> Any:
        from rich.console import Group  # noqa: PLC0415
        from rich.progress_bar import ProgressBar  # noqa: PLC0415
        from rich.table import Table  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        words, planned = self._gauge.describe(moment), self._gauge.planned
        met = moment.summary.total - moment.summary.not_sent
        count, left = Text(words.count, style="bold"), Text(words.left, style="dim")
        width = self._rich.width
        bar = ProgressBar(
            total=planned,
            completed=met,
            width=max(8, min(_BAR, width - len(count) - len(left) - 3)),
            pulse=planned is None,
            finished_style="green",
        )
        line = Table.grid(padding=(0, 1))
        line.add_row(bar, count, left)
        rows: list[Any] = [line]
        for figures in fit(words.figures, width):
            row = Text(no_wrap=True, overflow="ellipsis")
            for place, (figure, style) in enumerate(figures):
                number, _, unit = figure.partition(" ")
                bold = style not in {"", "dim"}
                row.append(_GAP if place else "").append(number, style=f"bold {style}" if bold else style)
                row.append(f" {unit}" if unit else "", style="" if bold else style)
            rows.append(row)
        if moment.notice:
            rows.append(Text(clean(moment.notice), style="yellow"))
        return Group(*rows)
