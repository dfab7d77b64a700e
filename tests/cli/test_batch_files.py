"""What a batch's file may hold, line by line."""

import io

import pytest

from videorouter.batch.entries import Unreadable
from videorouter.cli.batch_files import EntryFile, read_entries
from videorouter.errors import ConfigurationError


def read(text, form):
    return list(read_entries(io.StringIO(text, newline=""), form, "file"))


def test_json_lines_are_prompts_objects_and_plain_words():
    assert read('{"prompt": "a"}\n\n"b"\nc d\n', "jsonl") == [{"prompt": "a"}, "b", "c d"]


def test_a_broken_line_is_an_entry_that_says_why():
    (first, second, third) = read('{"prompt"\n[1]\n{"prompt": "x"}', "jsonl")
    assert isinstance(first, Unreadable)
    assert "line 1" in first.reason
    assert "line 2" in second.reason
    assert third == {"prompt": "x"}


def test_csv_cells_are_text_and_a_few_documented_fields_are_not():
    text = (
        "id,prompt,duration,seed,generate_audio,image_urls,extra:json,empty\n"
        '7,"An otter, swimming\nin rain",8s,42,yes,https://a https://b,"{""k"": 1}",\n'
    )
    assert read(text, "csv") == [
        {
            "id": "7",
            "prompt": "An otter, swimming\nin rain",
            "duration": "8s",
            "seed": 42,
            "generate_audio": True,
            "image_urls": ["https://a", "https://b"],
            "extra": {"k": 1},
        }
    ]


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_other_delimiters_are_seen(delimiter):
    assert read(f"id{delimiter}prompt\n1{delimiter}An otter\n", "csv") == [{"id": "1", "prompt": "An otter"}]


@pytest.mark.parametrize("row", ["x,1,2,3", "x,many,", "x,1,maybe", pytest.param("x,,{broken", id="json")])
def test_a_row_that_cannot_be_read_never_loses_the_next(row):
    entries = read(f"prompt,seed,generate_audio\n{row}\nlast,,\n".replace("{broken", "no way"), "csv")
    assert isinstance(entries[0], Unreadable)
    assert "row 2" in entries[0].reason
    assert entries[1] == {"prompt": "last"}


def test_a_csv_without_a_prompt_column_is_refused():
    with pytest.raises(ConfigurationError, match="no column named prompt"):
        read("text,model\nx,y\n", "csv")


@pytest.mark.parametrize("text", ["{}", "nothing"])
def test_a_json_file_holds_a_list(text):
    with pytest.raises(ConfigurationError):
        read(text, "json")
    assert read('["a", {"prompt": "b"}]', "json") == ["a", {"prompt": "b"}]


def test_the_ending_says_how_to_read(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_bytes(b"\xef\xbb\xbf{not json\r\nline two\n")
    assert list(EntryFile(str(path))) == ["{not json", "line two"]
    assert EntryFile(str(path)).count() == 2


def test_bytes_that_are_no_text_are_said(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(b'caf\xe9\n{"prompt": "caf\xe9"}\n{"prompt": "ok"}\n')
    first, second, third = EntryFile(str(path))
    assert isinstance(first, Unreadable)
    assert isinstance(second, Unreadable)
    assert third == {"prompt": "ok"}


def test_the_edits_that_follow_from_an_entry_are_counted(tmp_path):
    path = tmp_path / "chain.jsonl"
    path.write_text('{"prompt": "a", "then": ["b", "c"]}\n"d"\n{"prompt": "e", "then": "f"}\n')
    assert EntryFile(str(path)).count() == 6


@pytest.mark.parametrize("coding", ["utf-16", "utf-32", "cp500"])
def test_a_csv_in_another_coding_says_how_to_save_it(tmp_path, coding):
    (tmp_path / "a.csv").write_bytes("prompt\r\nAn otter\r\n".encode(coding))
    with pytest.raises(ConfigurationError, match="UTF-8"):
        list(EntryFile(str(tmp_path / "a.csv")))


def test_a_quote_that_is_never_closed_does_not_make_one_prompt_of_the_rest():
    first, broken = read('id,prompt\na,One\nb,"Two\nc,Three\n', "csv")
    assert first == {"id": "a", "prompt": "One"}
    assert isinstance(broken, Unreadable)
    assert "row 3: a quote is opened and never closed" in broken.reason
