"""Files as people have them: what each buys, or why it is refused before anything is sent.

``inputs/expected.jsonl`` is the table: a file of that folder, what it is, the prompts that it buys, and words that must be said.
"""

import json
import shutil
from pathlib import Path

import pytest

from tests.cli.conftest import point_at
from videorouter.cli import main
from videorouter.sandbox import Sandbox

INPUTS = Path(__file__).parent / "inputs"
TABLE = [json.loads(line) for line in (INPUTS / "expected.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def shared_sandbox():
    with Sandbox(mode="held").in_thread() as running:
        yield running


def buy(sandbox, words):
    """Run a command in this process; return its exit code and the prompts that were charged for."""
    before = len(sandbox.charge_list())
    code = main(words)
    return code, sorted(charge.prompt for charge in sandbox.charge_list()[before:])


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row["file"])
def test_a_file_buys_what_its_author_meant_or_nothing(row, shared_sandbox, tmp_path, monkeypatch, capsys):
    shutil.copy(INPUTS / row["file"], tmp_path)
    monkeypatch.chdir(tmp_path)
    for name, value in point_at(shared_sandbox).items():
        monkeypatch.setenv(name, value)
    code, bought = buy(shared_sandbox, ["batch", "run", row["file"], "--no-save", *row.get("args", [])])
    said = capsys.readouterr().err
    assert bought == sorted(row["buys"])
    assert code == row.get("code", 0 if row["buys"] else 2), said
    for words in row.get("says", []):
        assert words in said


def test_the_table_names_every_file_once():
    named = [row["file"] for row in TABLE]
    assert sorted(named) == sorted(path.name for path in INPUTS.iterdir() if path.name != "expected.jsonl")
