"""A destination is locked for one transfer, and a later one goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys

import pytest

from videorouter.downloads.file import PartialFile
from videorouter.downloads.resume import TransferState
from videorouter.downloads.resume_file import Busy

VIDEO = b"\0\0\0\x10ftypisom\0\0\0\0" + b"\0\0\0\x0cmdatabcd"
KNOWN = TransferState(etag='"v1"', total=len(VIDEO))


def begin(path, known=KNOWN, **options):
    file = PartialFile(path, key="url", **options)
    file.open()
    file.begin(known)
    return file


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_was_kept_is_taken_up_again(tmp_path):
    first = begin(tmp_path / "a.mp4")
    first.write([VIDEO[:10]])
    assert first.close(keep=True)
    second = PartialFile(tmp_path / "a.mp4", key="url", hashed=True)
    assert second.open() == TransferState(offset=10, etag='"v1"', total=len(VIDEO))
    second.write([VIDEO[10:]])
    second.commit()
    assert (tmp_path / "a.mp4").read_bytes() == VIDEO
    assert second.sha256 == hashlib.sha256(VIDEO).hexdigest()


def test_without_a_validator_nothing_is_kept(tmp_path):
    file = begin(tmp_path / "a.mp4", TransferState(total=len(VIDEO)))
    file.write([VIDEO[:10]])
    assert not file.close(keep=True)
    assert names(tmp_path) == []


def test_after_the_machine_started_anew_nothing_is_believed(tmp_path, monkeypatch):
    file = begin(tmp_path / "a.mp4")
    file.write([VIDEO[:10]])
    file.close(keep=True)
    monkeypatch.setattr("videorouter.downloads.file.boot_id", lambda: "another boot")
    again = PartialFile(tmp_path / "a.mp4", key="url")
    assert again.open() == TransferState()
    again.close(keep=False)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "note", [b"", b"{", b"[]", b"null", b'{"part": "../x"}', b'{"part": 7}', b"[" * 15000, b"\xff\xfe"]
)
def test_a_broken_resume_file_means_a_fresh_start(tmp_path, note):
    (tmp_path / ".a.mp4.resume").write_bytes(note)
    (tmp_path / "x").write_bytes(b"precious")
    file = begin(tmp_path / "a.mp4")
    file.write([VIDEO])
    file.commit()
    assert names(tmp_path) == ["a.mp4", "x"]


@pytest.mark.parametrize("fault", ["hard link", "too long", "folder", "etag", "total"])
def test_a_part_that_is_not_ours_is_not_written_to(tmp_path, fault):
    file = begin(tmp_path / "a.mp4")
    file.write([VIDEO[:10]])
    file.close(keep=True)
    resume_file = tmp_path / ".a.mp4.resume"
    note = json.loads(resume_file.read_bytes())
    part = tmp_path / note["part"]
    if fault == "hard link":
        os.link(part, tmp_path / "other")
    elif fault == "too long":
        part.write_bytes(VIDEO * 2)
    elif fault == "folder":
        part.unlink()
        part.mkdir()
    else:
        resume_file.write_text(json.dumps({**note, fault: ["odd"]}))
    again = PartialFile(tmp_path / "a.mp4", key="url")
    assert again.open() == TransferState()
    again.close(keep=False)
    if fault == "hard link":
        assert (tmp_path / "other").read_bytes() == VIDEO[:10]


def test_a_second_process_finds_the_destination_busy(tmp_path):
    place = tmp_path / "a.mp4"
    file = begin(place)
    script = (
        "import sys, pathlib\n"
        "from videorouter.downloads.file import PartialFile\n"
        "from videorouter.downloads.resume_file import Busy\n"
        "file = PartialFile(pathlib.Path(sys.argv[1]))\n"
        "try:\n    file.open()\nexcept Busy:\n    print('busy')\nelse:\n    print('open'); file.close(keep=False)\n"
    )

    def ask() -> str:
        return subprocess.run(
            [sys.executable, "-c", script, str(place)], capture_output=True, text=True, check=True, timeout=60
        ).stdout.strip()

    assert ask() == "busy"
    file.write([VIDEO])
    file.commit()
    assert ask() == "open"
    assert names(tmp_path) == ["a.mp4"]


def test_one_process_cannot_open_it_twice(tmp_path):
    file = begin(tmp_path / "a.mp4")
    second = PartialFile(tmp_path / "a.mp4")
    with pytest.raises(Busy):
        second.open()
    second.close(keep=False)
    file.write([VIDEO])
    file.commit()


def test_a_second_name_of_another_file_is_not_a_resume_file(tmp_path):
    other = tmp_path / "other"
    other.write_bytes(b"precious")
    os.link(other, tmp_path / ".a.mp4.resume")
    file = begin(tmp_path / "a.mp4")
    file.write([VIDEO])
    file.commit()
    assert other.read_bytes() == b"precious"
    assert names(tmp_path) == ["a.mp4", "other"]
