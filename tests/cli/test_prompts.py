import io
import sys

import pytest

from videorouter.cli.parser import parse
from videorouter.cli.prompts import read_prompts, read_words
from videorouter.errors import InvalidRequestError


def read(*argv):
    return read_prompts(parse(["generate", *argv]))


def test_stdin_stands_where_the_dash_is(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("from stdin\n"))
    assert read("first", "-", "last") == ["first", "from stdin", "last"]


def test_lines_are_prompts_only_when_asked(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_bytes("\ufeffone\r\n\r\n  zwei ü \n".encode())
    assert read("-f", str(path), "--lines") == ["one", "zwei ü"]
    assert read("-f", str(path)) == ["one\n\n  zwei ü"]


def test_what_cannot_be_a_prompt_is_refused(tmp_path, monkeypatch):
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    monkeypatch.setattr(sys, "stdin", io.StringIO("  \n"))
    for argv in (
        [],
        [" "],
        ["-"],
        ["-f", str(tmp_path / "missing")],
        ["-f", str(tmp_path / "binary")],
        ["-f", str(tmp_path)],
    ):
        with pytest.raises(InvalidRequestError):
            read(*argv)


def test_words_of_stdin_are_separated_by_space(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("t-1 t-2\nt-3\n"))
    assert read_words(["t-0", "-"], "task id") == ["t-0", "t-1", "t-2", "t-3"]
    with pytest.raises(InvalidRequestError, match="task id"):
        read_words([], "task id")
