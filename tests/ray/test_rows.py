"""What becomes of each kind of input before anything is sent: no cluster."""

from __future__ import annotations

import pyarrow as pa
import pytest

from videorouter.errors import ConfigurationError
from videorouter.integrations.ray import rows as rows_module
from videorouter.integrations.ray.rows import POSITION, number_rows, open_source


def read(source, monkeypatch, columns=("prompt",), size=None):
    """The rows as they are numbered, without Ray."""
    kept = []
    monkeypatch.setattr(rows_module, "_from_blocks", kept.extend)
    _, total = number_rows(open_source(source, "prompt"), columns, size, 1)
    found = [row for block in kept for row in block.to_pylist()]
    assert [row.pop(POSITION) for row in found] == list(range(total))
    return found


def test_a_column_that_only_a_later_row_has_is_kept(monkeypatch):
    found = read([{"prompt": "otter"}, {"prompt": "seal", "id": "s"}], monkeypatch, ("prompt", "id"))
    assert found == [{"prompt": "otter", "id": None}, {"prompt": "seal", "id": "s"}]


def test_a_column_that_only_a_later_chunk_has_is_kept(monkeypatch):
    source = [{"prompt": f"otter {n}"} for n in range(10_000)] + [{"prompt": "seal", "take": 1.5}]
    found = read(source, monkeypatch, ("prompt", "take"))
    assert (found[0], found[-1]) == ({"prompt": "otter 0", "take": None}, {"prompt": "seal", "take": 1.5})


@pytest.mark.parametrize("make", [pa.table, lambda given: pytest.importorskip("pandas").DataFrame(given)])
def test_the_rows_of_a_table_are_prompts_and_its_columns_names_are_none(make, monkeypatch):
    found = read(make({"prompt": ["otter", "seal"], "take": [1, 2]}), monkeypatch)
    assert found == [{"prompt": "otter", "take": 1}, {"prompt": "seal", "take": 2}]


@pytest.mark.parametrize("make", [pa.array, lambda given: pytest.importorskip("pandas").Series(given)])
def test_a_prompt_that_is_missing_in_an_array_is_none(make, monkeypatch):
    assert read(make(["otter", None]), monkeypatch) == [{"prompt": "otter"}, {"prompt": None}]
    assert read(["otter", float("nan")], monkeypatch) == [{"prompt": "otter"}, {"prompt": None}]


@pytest.mark.parametrize("source", [{"prompt": "otter"}, b"otter", ["otter", ("name", "seal")], [7], [["otter"]]])
def test_what_is_no_prompt_is_not_bought_by_its_spelling(source, monkeypatch):
    with pytest.raises(ConfigurationError):
        read(source, monkeypatch)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ([{"prompt": "otter", "take": 1}, {"prompt": "seal", "take": "two"}], "'take'"),
        (["a lone \ud800"], "'prompt'"),
        ([{"prompt": "otter", POSITION: 7}], POSITION),
        ([{"prompt": "otter", "take": 1}] * 10_000 + [{"prompt": "seal", "take": "two"}], "take"),
        ("An otter swims", "one prompt"),
        ("prompts.txt", "Parquet"),
    ],
)
def test_an_input_that_cannot_be_used_says_what_is_wrong(source, says, monkeypatch):
    with pytest.raises(ConfigurationError, match=says):
        read(source, monkeypatch)
