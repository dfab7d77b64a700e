import json
from pathlib import Path

import pytest

from videorouter.cli.batch_places import find_folder, place_journal, recall_command
from videorouter.cli.destination import Destination, name_of_url
from videorouter.cli.parser import parse
from videorouter.errors import InvalidRequestError


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://h/video/generated%2Fonerouter_1.mp4?sig=x", "onerouter_1.mp4"),
        ("https://h/", ""),
        ("https://[bad", "video"),
    ],
)
def test_the_last_part_of_a_url_names_its_file(url, name):
    assert name_of_url(url) == name


def test_a_folder_never_gives_a_name_twice(tmp_path):
    (tmp_path / "otter.mp4").touch()
    place = Destination(str(tmp_path), count=3)
    assert [place.place(number, "otter").name for number in (1, 2)] == ["otter-2.mp4", "otter-3.mp4"]


def test_a_file_for_several_videos_gets_numbers(tmp_path):
    place = Destination(str(tmp_path / "clip.mp4"), count=2)
    assert place.place(2, "x").name == "clip-2.mp4"
    assert place.spell(2) == str(tmp_path / "clip-2.mp4")


def test_one_file_keeps_its_name_also_when_it_exists(tmp_path):
    (tmp_path / "clip.mp4").touch()
    place = Destination(str(tmp_path / "clip.mp4"))
    assert place.place(1, "x") == tmp_path / "clip.mp4"


def test_a_new_folder_is_made_when_the_first_video_comes(tmp_path):
    place = Destination(f"{tmp_path}/a/b/")
    assert not (tmp_path / "a").exists()
    assert place.place(1, "otter") == tmp_path / "a" / "b" / "otter.mp4"
    assert (tmp_path / "a" / "b").is_dir()


def test_what_cannot_be_written_is_refused_at_once(tmp_path):
    (tmp_path / "file").touch()
    for output in (f"{tmp_path}/none/x.mp4", f"{tmp_path}/file/x.mp4", f"{tmp_path}/file/sub/"):
        with pytest.raises(InvalidRequestError):
            Destination(output)
    with pytest.raises(InvalidRequestError):
        Destination("-", count=2)


def test_a_url_of_no_store_is_refused_and_makes_no_folder_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for url in ("http://example.com/otter.mp4", "file:///tmp/clips/", "s3://bucket"):
        with pytest.raises(InvalidRequestError):
            Destination(url)
    assert list(tmp_path.iterdir()) == []


def test_a_stores_url_is_an_object_or_a_folder_of_objects():
    import fsspec

    store = fsspec.filesystem("memory")
    store.pipe_file("memory://shelf/an-otter.mp4", b"another's")
    folder = Destination("memory://shelf/")
    assert [str(folder.place(n, "an otter")) for n in (1, 2)] == [f"memory://shelf/an-otter-{n}.mp4" for n in (2, 3)]
    assert folder.spell(1) == "memory://shelf/"
    several = Destination("memory://shelf/x.mp4", count=2)
    assert several.place(2, "y") == several.spell(2) == "memory://shelf/x-2.mp4"
    store.rm("memory://shelf", recursive=True)


def test_the_journal_of_a_batch_into_a_store_is_on_this_disk(tmp_path):
    words = ["batch", "run", "prompts.txt", "-o", "s3://bucket/clips"]
    args = parse(words)
    assert place_journal(args) == Path("prompts-videos/run.db")
    meta = {"command": json.dumps(words), "folder": str(tmp_path)}
    assert recall_command(tmp_path / "prompts-videos" / "run.db", meta) == words
    moved = tmp_path / "elsewhere" / "run.db"
    assert recall_command(moved, meta) == [*words, "--journal", str(moved)]


def test_a_tilde_that_no_shell_has_read_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert Destination("~/otter.mp4").place(1, "x") == tmp_path / "otter.mp4"
    assert Destination("~/clips/").place(1, "otter") == tmp_path / "clips" / "otter.mp4"
    assert find_folder("prompts.txt", "~/clips") == tmp_path / "clips"
