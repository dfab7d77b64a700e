import io

import pytest

from videorouter.cli.console import Console, clean, has_colour, say_size, say_time


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J", "\\x1b[2J"),
        ("a\nb\r\nc", "a b c"),
        ("\u202eevil", "\\u202eevil"),
        ("\x9b31m", "\\x9b31m"),
        ("Ein Otter, カワウソ 🦦", "Ein Otter, カワウソ 🦦"),
        ("\ud800", "\\ud800"),
    ],
)
def test_no_text_from_elsewhere_drives_the_terminal(text, shown):
    assert clean(text) == shown


def test_colours_are_for_terminals_that_want_them(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert has_colour(Terminal())
    assert not has_colour(io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not has_colour(Terminal())
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert not has_colour(Terminal())


def test_quiet_leaves_words_out_but_not_errors(capsys):
    console = Console(quiet=True)
    console.say("word")
    console.tell("error")
    console.data("data")
    said = capsys.readouterr()
    assert (said.out, said.err) == ("data\n", "error\n")


@pytest.mark.parametrize(
    ("count", "words"), [(0, "0 B"), (999, "999 B"), (71_821, "71.8 kB"), (4_000_000_000, "4.0 GB")]
)
def test_sizes_read_well(count, words):
    assert say_size(count) == words


@pytest.mark.parametrize(("seconds", "words"), [(0.94, "0.9 s"), (59.9, "59.9 s"), (125.0, "2 min 05 s")])
def test_times_read_well(seconds, words):
    assert say_time(seconds) == words
