import io

import pytest

from videorouter.cli.console import Console
from videorouter.cli.progress import LineBoard, SilentBoard, make_board


class Terminal(io.StringIO):
    def isatty(self):
        return True


def play(board):
    with board:
        board.add("a", "An otter\x1b[2J")
        board.state("a", "sending")
        board.state("a", "sending")
        board.transfer("a", 10, 100)
        board.transfer("a", 100, 100)
        board.end("a", "otter.mp4", ok=True)
        board.add("b", "A heron")
        board.end("b", "refused", ok=False)


def test_lines_tell_each_change_once(capsys):
    play(LineBoard(Console()))
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == ["An otter\\x1b[2J: sending", "An otter\\x1b[2J: downloading"]
    assert lines[2].startswith("An otter\\x1b[2J: ok: otter.mp4 after ")
    assert lines[3].startswith("A heron: not done: refused after ")
    assert len(lines) == 4


def test_one_job_needs_no_label(capsys):
    play(LineBoard(Console(), labelled=False))
    assert capsys.readouterr().err.splitlines()[0] == "sending"


def test_silence_is_silent(capsys):
    play(SilentBoard())
    assert capsys.readouterr().err == ""


def test_bars_are_for_terminals_only(monkeypatch, capsys):
    pytest.importorskip("rich", reason="bars need the extra 'cli'")
    monkeypatch.setenv("TERM", "xterm")
    assert isinstance(make_board(Console(quiet=True)), SilentBoard)
    assert isinstance(make_board(Console()), LineBoard)
    monkeypatch.setattr("sys.stderr", Terminal())
    assert type(make_board(Console())).__name__ == "BarBoard"
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(make_board(Console()), LineBoard)


def test_a_terminal_without_rich_gets_lines(monkeypatch):
    import sys

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stderr", Terminal())
    monkeypatch.setitem(sys.modules, "rich.console", None)
    monkeypatch.delitem(sys.modules, "videorouter.cli.bars", raising=False)
    monkeypatch.setitem(sys.modules, "rich", None)
    assert isinstance(make_board(Console()), LineBoard)
