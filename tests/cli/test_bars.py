import io

import pytest

pytest.importorskip("rich", reason="bars need the extra 'cli'")

from tests.cli.test_progress import Terminal, play
from videorouter.cli.console import Console


@pytest.fixture
def terminal(monkeypatch):
    def open_terminal():
        # Here and not in the fixture: pytest puts its own stderr in place before each phase of a test.
        screen = Terminal()
        monkeypatch.setattr("sys.stderr", screen)
        return screen

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return open_terminal


def test_rows_end_with_a_mark_and_no_foreign_escape(terminal):
    from videorouter.cli.bars import BarBoard

    screen = terminal()
    play(BarBoard(Console()))
    assert "✓" in screen.getvalue()
    assert "✗" in screen.getvalue()
    assert "\x1b[2J" not in screen.getvalue()
    assert "An otter\\x1b[2J" in screen.getvalue()


def test_words_go_above_the_rows_and_data_to_a_pipe_stays_data(terminal, monkeypatch):
    from videorouter.cli.bars import BarBoard

    screen, pipe = terminal(), io.StringIO()
    monkeypatch.setattr("sys.stdout", pipe)
    console = Console()
    with BarBoard(console) as board:
        board.add("a", "An otter [bold]not markup[/bold]")
        console.say("a word [red]as it is[/red]")
        console.data("https://example/clip.mp4")
    assert "a word [red]as it is[/red]" in screen.getvalue()
    assert "[bold]not markup[/bold]" in screen.getvalue()
    assert pipe.getvalue() == "https://example/clip.mp4\n"
    assert console.printer is None


def test_no_color_draws_without_colours(terminal, monkeypatch):
    from videorouter.cli.bars import BarBoard

    monkeypatch.setenv("NO_COLOR", "1")
    screen = terminal()
    play(BarBoard(Console()))
    assert "✓" in screen.getvalue()
    assert "\x1b[32m" not in screen.getvalue()
    assert "\x1b[36m" not in screen.getvalue()
