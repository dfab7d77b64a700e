"""What a batch shows while it runs: figures that fit, a rate that is right, and a guess that is no nonsense."""

import io

import pytest
from rich.console import Console as RichConsole

from videorouter.cli.batch_board import (
    BatchLineBoard,
    BatchLiveBoard,
    BatchSilentBoard,
    Gauge,
    Moment,
    fit,
    make_board,
    say_left,
)
from videorouter.cli.console import Console
from videorouter.models import BatchSummary


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


BUSY = Moment(
    summary=BatchSummary(done=119, refused=3, failed=2, in_doubt=4, accepted=1, cost=150.72, cost_in_doubt=0.8),
    in_flight=40,
    waiting=24,
    saving=80,
    paused=12.3,
    handed=60,
    worked=60,
    notice="Stopping: 40 in flight may come to their end for at most 300 s. Ctrl-C again stops now.",
)


def draw(moment, width, planned=1000, max_cost=500.0):
    clock = Clock()
    board = BatchLiveBoard(Console(), Gauge(planned, max_cost, clock=clock))
    clock.now += 60
    shown = RichConsole(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    board._rich = shown
    shown.print(board._draw(moment))
    return shown.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [40, 60, 80, 140])
def test_no_figure_is_broken_in_two_at_any_width(width):
    lines = draw(BUSY, width)
    assert all(len(line) <= width for line in lines)
    text = "   ".join(line.strip() for line in lines)
    figures = ["119 done", "5 failed", "4 in doubt", "40 in flight", "24 waiting", "paused 12 s", "80 saving"]
    for figure in [*figures, "1 accepted", "$150.72 of $500.00", "+$0.80 in doubt", "129/1,000"]:
        assert figure in text


def test_a_wide_terminal_needs_few_rows():
    assert len(draw(BUSY, 160)) == 3


def test_what_is_nothing_is_left_out():
    (bar, figures) = draw(Moment(summary=BatchSummary(), in_flight=4), 80, max_cost=None)
    assert "0/1,000" in bar
    assert figures.split("   ") == ["0 done", "0 failed", "0 in doubt", "4 in flight"]


def test_rows_are_filled_and_never_overfull():
    rows = fit([("abcd", ""), ("efgh", ""), ("ijkl", "")], 11)
    assert [[word for word, _ in row] for row in rows] == [["abcd", "efgh"], ["ijkl"]]


def watch(gauge, clock, count, concurrency, seconds):
    """Play jobs that take ``seconds`` each, so many at once; the guesses as (time, words)."""
    guesses = []
    begun = clock.now
    for second in range(int(count / concurrency * seconds) + 1):
        clock.now = begun + second
        # As in life, no two take equally long: an eighth of them ends in each eighth around their mean.
        done = sum(
            max(0, int((second - seconds * (0.65 + 0.1 * lane)) / seconds) + 1) * concurrency // 8
            for lane in range(8)
            if second >= seconds * (0.65 + 0.1 * lane)
        )
        done = min(done, count)
        flight = min(concurrency, count - done)
        summary = BatchSummary(done=done)
        guesses.append((second, gauge.describe(Moment(summary=summary, in_flight=flight, handed=done, worked=done))))
    return guesses


def test_the_guess_is_right_though_each_job_takes_minutes():
    clock = Clock()
    guesses = watch(Gauge(400, None, clock=clock), clock, 400, 40, 180)
    said = {second: words.left for second, words in guesses}
    assert said[100] == ""  # nothing has ended: nobody knows
    for second in range(190, 1500, 10):
        left = (1800 - second) / 60
        if said[second].startswith("the last"):
            assert left <= 4
            continue
        number = said[second].removesuffix(" min left")
        assert number.isdigit(), (second, said[second])
        assert left * 0.6 <= float(number) <= left * 1.4 + 1, (second, said[second])


def test_the_rate_forgets_what_is_long_ago():
    clock = Clock()
    gauge = Gauge(100_000, None, clock=clock)
    for second in range(1, 200):
        clock.now = 1000.0 + second
        gauge.read_rate(Moment(summary=BatchSummary(), worked=second * 50, in_flight=10))
    for second in range(200, 300):
        clock.now = 1000.0 + second
        rate = gauge.read_rate(Moment(summary=BatchSummary(), worked=9950 + (second - 199) * 5, in_flight=10))
    assert rate == pytest.approx(5.0, rel=0.1)


def test_files_that_an_earlier_run_left_missing_count_as_work():
    clock = Clock()
    gauge = Gauge(1000, None, clock=clock)
    for second in range(1, 60):
        clock.now = 1000.0 + second
        moment = Moment(
            summary=BatchSummary(done=500), saving=80, handed=400 + 2 * second, worked=2 * second, in_flight=0
        )
        words = gauge.describe(moment)
    assert ("2.0/s", "dim") in words.figures
    assert words.left == "4 min left"


def test_no_time_is_promised_where_nobody_knows():
    clock = Clock()
    gauge = Gauge(None, None, clock=clock)
    clock.now += 100
    assert gauge.describe(Moment(summary=BatchSummary(done=5), handed=5, worked=5)).left == ""
    stopped = Gauge(10, None, clock=clock)
    clock.now += 100
    assert stopped.describe(Moment(summary=BatchSummary(done=5, stopped="x"), handed=5, worked=5)).left == ""
    assert stopped.describe(Moment(summary=BatchSummary(done=7), handed=7, worked=7, in_flight=3)).left == "the last 3"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "1 s"), (59, "59 s"), (59.7, "1 min"), (3570, "1 h 00 min"), (22266, "6 h 11 min"), (400_000, "5 days")],
)
def test_time_left_is_told_no_more_exactly_than_it_is_known(seconds, words):
    assert say_left(seconds) == words


def test_without_a_terminal_a_line_is_told_now_and_then(capsys, monkeypatch):
    board = make_board(Console(), Gauge(1000, 500.0))
    assert isinstance(board, BatchLineBoard)
    board._last -= 60
    with board:
        for _ in range(3):
            board.show(BUSY)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("Stopping: 40 in flight")
    assert lines[1].startswith(
        "129/1,000: 119 done, 5 failed, 4 in doubt, 40 in flight, 24 waiting, paused 12 s, 80 sav"
    )


def test_a_quiet_batch_shows_nothing(capsys):
    with make_board(Console(quiet=True), Gauge(1, None)) as board:
        assert isinstance(board, BatchSilentBoard)
        board.show(BUSY)
    assert capsys.readouterr() == ("", "")
