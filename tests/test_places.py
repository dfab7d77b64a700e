"""Where a video lies: paths, and the URLs of objects."""

from __future__ import annotations

from pathlib import Path

import pytest

from videorouter import InvalidRequestError
from videorouter.places import ObjectURL, find_place, read_url


def test_a_url_is_cut_into_the_parts_of_a_name():
    url = read_url("S3://bucket/a/otter.mp4")
    assert isinstance(url, ObjectURL)
    assert (url, url.name, url.stem, url.suffix) == ("s3://bucket/a/otter.mp4", "otter.mp4", "otter", ".mp4")
    assert url.with_name("b.mp4") == "s3://bucket/a/b.mp4"
    assert read_url("clips/otter.mp4") is None


@pytest.mark.parametrize(
    ("folder", "whole"),
    [
        ("s3://bucket/a", "s3://bucket/a/x/b.mp4"),
        ("s3://bucket/a/", "s3://bucket/a/x/b.mp4"),
        ("memory://", "memory://x/b.mp4"),
    ],
)
def test_a_name_is_put_behind_a_folder(folder, whole):
    assert ObjectURL(folder) / "x/b.mp4" == whole


def test_a_journal_spells_a_place_as_a_url_or_as_a_path_from_its_folder():
    assert find_place(Path("/clips"), "a/otter.mp4") == Path("/clips/a/otter.mp4")
    assert find_place(Path("/clips"), "/else/otter.mp4") == Path("/else/otter.mp4")
    found = find_place(Path("/clips"), "s3://bucket/otter.mp4")
    assert isinstance(found, ObjectURL)
    assert found == "s3://bucket/otter.mp4"


@pytest.mark.parametrize("url", ["s3://key:secret@bucket/a.mp4", "az://clips/a.mp4?sig=secret"])
def test_a_url_with_credentials_is_refused_and_not_shown(url):
    with pytest.raises(InvalidRequestError) as caught:
        read_url(url)
    assert "secret" not in str(caught.value)
