"""The notebook of the docs, cell by cell, in a real kernel."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

PLACE = Path(__file__).resolve().parents[2] / "docs" / "notebooks" / "videos.ipynb"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_the_notebook_runs_and_shows_players_and_tables(tmp_path):
    notebook = nbformat.read(PLACE, as_version=4)
    kernel = NotebookClient(notebook, timeout=60, resources={"metadata": {"path": str(tmp_path)}})
    kernel.execute()
    shown = [
        output["data"].get("text/html") or output["data"]["text/plain"]
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if output["output_type"] == "execute_result"
    ]
    result, edited, item, summary, table, charges = shown
    assert "<video" in result
    assert "<video" in edited
    assert "<video" in item
    assert "<table" in summary
    assert table.count("<video") == 3
    assert "A heron at dawn" in charges


def test_the_notebook_is_kept_without_outputs():
    cells = json.loads(PLACE.read_text())["cells"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells if cell["cell_type"] == "code")
