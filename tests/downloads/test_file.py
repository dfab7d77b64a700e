"""A destination on a real disk: lock, temporary file, resume file, rename."""

from __future__ import annotations

import os

import pytest

from videorouter.downloads.file import PartialFile, find_free, is_folder
from videorouter.downloads.resume import TransferState

VIDEO = b"\0\0\0\x10ftypisom\0\0\0\0" + b"\0\0\0\x0cmdatabcd"
KNOWN = TransferState(etag='"v1"', total=len(VIDEO))


def begin(path, known=KNOWN, **options):
    file = PartialFile(path, key="url", **options)
    file.open()
    file.begin(known)
    return file


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_nothing_stands_under_the_name_before_the_commit(tmp_path):
    place = tmp_path / "a.mp4"
    file = begin(place, hashed=True)
    file.write([VIDEO[:10], VIDEO[10:]])
    assert not place.exists()
    assert len(names(tmp_path)) == 2
    assert file.inspect(framed=True)[1] is None
    file.commit()
    assert place.read_bytes() == VIDEO
    assert names(tmp_path) == ["a.mp4"]


def test_temporary_names_cannot_be_guessed(tmp_path):
    seen = set()
    for _ in range(2):
        file = begin(tmp_path / "a.mp4")
        seen |= {name for name in names(tmp_path) if name.endswith(".part")}
        file.close(keep=False)
    assert len(seen) == 2
    assert names(tmp_path) == []


def test_in_a_folder_a_busy_or_taken_name_gives_way_to_the_next(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"old")
    first = begin(tmp_path / "a.mp4", conflict="number")
    second = begin(tmp_path / "a.mp4", conflict="number")
    for file in (first, second):
        file.write([VIDEO])
        file.commit()
    assert names(tmp_path) == ["a.2.mp4", "a.3.mp4", "a.mp4"]
    assert (tmp_path / "a.mp4").read_bytes() == b"old"


def test_a_name_that_is_taken_meanwhile_is_not_overwritten(tmp_path):
    place = tmp_path / "a.mp4"
    file = begin(place, conflict="refuse")
    file.write([VIDEO])
    place.write_bytes(b"came up meanwhile")
    with pytest.raises(FileExistsError):
        file.commit()
    file.close(keep=False)
    assert place.read_bytes() == b"came up meanwhile"
    assert names(tmp_path) == ["a.mp4"]
    found = begin(tmp_path / "b.mp4", conflict="number")
    found.write([VIDEO])
    (tmp_path / "b.mp4").write_bytes(b"came up meanwhile")
    found.commit()
    assert found.path.read_bytes() == VIDEO
    assert (tmp_path / "b.mp4").read_bytes() == b"came up meanwhile"


def test_rejected_bytes_keep_their_own_name(tmp_path):
    file = begin(tmp_path / "a.mp4")
    file.write([b"<html>no</html>"])
    assert "begins with" in file.inspect(framed=True)[1]
    assert file.head() == b"<html>no</html>"
    assert file.reject() == tmp_path / "a.mp4.rejected"
    assert names(tmp_path) == ["a.mp4.rejected"]


def test_rejected_bytes_never_replace_others(tmp_path):
    for number in range(3):
        file = begin(tmp_path / "a.mp4")
        file.write([b"%d" % number])
        file.reject()
    rejected = ["a.mp4.rejected", "a.mp4.2.rejected", "a.mp4.3.rejected"]
    assert [(tmp_path / name).read_bytes() for name in rejected] == [b"0", b"1", b"2"]


def test_rejected_bytes_are_kept_although_a_folder_has_their_name(tmp_path):
    (tmp_path / "a.mp4.rejected").mkdir()
    file = begin(tmp_path / "a.mp4")
    file.write([b"<html>"])
    kept = file.reject()
    assert kept.read_bytes() == b"<html>"
    assert kept.suffix == ".rejected"


def test_many_small_parts_are_written_in_their_order(tmp_path):
    file = begin(tmp_path / "a", TransferState())
    parts = [bytes([number % 256]) * 3 for number in range(5000)]
    file.write(parts)
    file.commit()
    assert (tmp_path / "a").read_bytes() == b"".join(parts)


def test_a_system_without_writev_writes_the_same(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "writev", raising=False)
    file = begin(tmp_path / "a", TransferState())
    file.write([b"ab", b"cd"])
    file.commit()
    assert (tmp_path / "a").read_bytes() == b"abcd"


def test_a_disk_without_hard_links_still_keeps_what_is_there(tmp_path, monkeypatch):
    def link(*_args, **_options):
        raise PermissionError

    monkeypatch.setattr(os, "link", link)
    file = begin(tmp_path / "a", conflict="refuse")
    file.write([VIDEO])
    file.commit()
    assert (tmp_path / "a").read_bytes() == VIDEO
    with pytest.raises(FileExistsError):
        begin(tmp_path / "a", conflict="refuse")
    file = begin(tmp_path / "b", conflict="refuse")
    file.write([VIDEO])
    (tmp_path / "b").write_bytes(b"x")
    with pytest.raises(FileExistsError):
        file.commit()
    file.close(keep=False)
    assert names(tmp_path) == ["a", "b"]


@pytest.mark.parametrize("folder", ["/dev", "/proc/self", "/sys"])
def test_no_file_is_made_among_devices(folder, tmp_path):
    with pytest.raises(OSError, match="file object"):
        PartialFile(tmp_path / folder / "a.mp4").open()


def test_a_folder_or_a_pipe_is_no_destination(tmp_path):
    (tmp_path / "a.mp4").mkdir()
    with pytest.raises(IsADirectoryError):
        PartialFile(tmp_path / "a.mp4").open()
    os.mkfifo(tmp_path / ".b.mp4.resume")
    with pytest.raises(OSError, match="ordinary"):
        PartialFile(tmp_path / "b.mp4").open()
    assert is_folder(tmp_path / "a.mp4")
    assert not is_folder(tmp_path / ("x" * 300))


def test_closing_twice_and_writing_after_it_are_harmless(tmp_path):
    file = begin(tmp_path / "a.mp4")
    file.close(keep=False)
    assert not file.close(keep=True)
    with pytest.raises(OSError, match="not begun"):
        file.write([b"x"])
    with pytest.raises(OSError, match="not begun"):
        file.commit()
    assert file.inspect(framed=True) == (None, "it is empty")
    assert names(tmp_path) == []


def test_a_free_name_is_one_that_nothing_has_and_nobody_has_taken(tmp_path):
    (tmp_path / "a.mp4").touch()
    (tmp_path / "a-3.mp4").symlink_to(tmp_path / "nowhere")
    assert find_free(tmp_path / "a.mp4", {tmp_path / "a-2.mp4"}) == tmp_path / "a-4.mp4"
    assert find_free(tmp_path / "b.mp4") == tmp_path / "b.mp4"
