"""The readers of a batch's input: what a row becomes, two passes over one file, streams."""

import os
import threading

import pytest

from videorouter.cli.batch_files import EntryFile
from videorouter.cli.input_text import MAX_LINE
from videorouter.errors import ConfigurationError


@pytest.fixture
def read(tmp_path):
    """The entries of a text under a name, and what its first pass has found."""

    def call(name, text, **options):
        (tmp_path / name).write_bytes(text.encode())
        with EntryFile(str(tmp_path / name), **options) as file:
            found = file.survey()
            return list(file) if not found.bad else [], found

    return call


def reasons(found):
    return [f"{row.place}: {row.reason}" for row in found.bad]


def test_csv_cells_are_text_and_a_few_documented_fields_are_not(read):
    text = (
        "id,prompt,duration,seed,generate_audio,image_urls,extra:json,empty\n"
        '7,"An otter, swimming\nin rain",8s,42,yes,https://a https://b,"{""k"": 1}",\n'
    )
    entries, _ = read("a.csv", text, field_columns="all")
    assert entries == [
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


@pytest.mark.parametrize("row", ["x,1,2,3", "x,many,", "x,1,maybe", "x", "x,1_0,"])
def test_every_bad_row_is_found_at_once(read, row):
    _, found = read("a.csv", f"prompt,seed,generate_audio\n{row}\nlast,,\nx,1.5,\n")
    assert [each.partition(":")[0] for each in reasons(found)] == ["line 2", "line 4"]
    assert found.rows == 3


def test_a_row_is_named_by_the_line_on_which_it_begins(read):
    _, found = read("a.csv", 'id,prompt\r\n\r\n1,"An otter\r\nin rain"\r\n2,"Over\r\ntwo",3\r\n')
    assert reasons(found) == ["line 5: 3 cells for 2 columns. Quote cells that hold the separator"]


def test_requests_are_counted_with_the_edits_that_follow_from_them(read):
    _, found = read("a.jsonl", '{"prompt": "a", "then": ["b", "c"], "model": "m"}\n"d"\n{"prompt": "e", "then": "f"}\n')
    assert found.total == 6
    assert found.models == {"m": 3, None: 3}


@pytest.mark.parametrize(("name", "begin"), [("a.txt", ""), ("a.jsonl", '"'), ("a.csv", "prompt\n")])
def test_the_tail_of_a_long_line_is_no_prompt(tmp_path, name, begin):
    end = '"' if begin == '"' else ""
    path = tmp_path / name
    path.write_text(f"{begin}{'a' * MAX_LINE} and a tail{end}\n{end}next{end}\n")
    with EntryFile(str(path), skip_bad_rows=True) as file:
        if name == "a.csv":
            with pytest.raises(ConfigurationError, match=r"line 2: it is longer than 4,194,304 characters"):
                file.survey()
            return
        assert reasons(file.survey()) == ["line 1: it is longer than 4,194,304 characters"]
        assert list(file) == ["next"]


def test_a_line_of_the_greatest_length_is_read(read):
    longest = "a" * (MAX_LINE - 1)
    entries, _ = read("a.txt", f"{longest}\nnext\n")
    assert entries == [longest, "next"]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda text: text.replace("prompt 9999", "prompt 0000"), id="changed"),
        pytest.param(lambda text: text + "one more\n", id="grown"),
        pytest.param(lambda text: text[: len(text) // 2], id="cut"),
    ],
)
def test_what_was_changed_after_the_first_pass_is_not_handed_out(tmp_path, change):
    path = tmp_path / "a.txt"
    text = "".join(f"prompt {number:04}, {'x' * 100}\n" for number in range(10_000))
    path.write_text(text)
    with EntryFile(str(path)) as file:
        assert file.survey().total == 10_000
        path.write_text(change(text))
        taken = list(file)
        assert "a.txt was changed while it was read" in file.ended
    assert all(f"{entry}\n" in text for entry in taken)


def test_a_file_that_is_replaced_is_read_to_its_end_as_it_was_checked(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("otter\nheron\n")
    with EntryFile(str(path)) as file:
        file.survey()
        (tmp_path / "b.txt").write_text("boat\n")
        (tmp_path / "b.txt").replace(path)
        assert list(file) == ["otter", "heron"]


@pytest.fixture
def pipe(tmp_path):
    """A named pipe that somebody writes these bytes into."""
    writers = []

    def call(data):
        path = tmp_path / "fifo"
        os.mkfifo(path)
        writers.append(threading.Thread(target=path.write_bytes, args=(data,)))
        writers[0].start()
        return str(path)

    yield call
    for writer in writers:
        writer.join()


def test_a_stream_ends_at_its_first_bad_row(pipe):
    file = EntryFile(pipe(b'\xef\xbb\xbf"otter"\n{"prompt": \n"heron"\n'), "jsonl")
    assert not file.regular
    assert list(file) == ["otter"]
    assert "line 2: this is no JSON" in file.ended


def test_bad_rows_of_a_stream_are_left_out_with_consent(pipe):
    file = EntryFile(pipe(b'\xef\xbb\xbf"otter"\n{"prompt": \n"heron"\n\xe9\n'), "jsonl", skip_bad_rows=True)
    assert list(file) == ["otter", "heron"]
    assert file.skipped == 2
    assert file.ended is None


def test_a_stream_that_is_something_else_ends_there(pipe):
    file = EntryFile(pipe(b"otter\n- prompt: heron\n"), "lines")
    assert list(file) == ["otter"]
    assert "is YAML" in file.ended


def test_a_pipe_has_no_ending_that_says_how_to_read_it(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ConfigurationError, match="--format"):
        EntryFile(str(tmp_path / "fifo"))
