"""Whole MP4 files and others, however their bytes are cut into pieces."""

from __future__ import annotations

import itertools
import re
import struct

import pytest
from hypothesis import given, strategies as st
from media_files import movie

from videorouter.downloads.media import MediaReader
from videorouter.downloads.mp4 import MAX_BOXES, describe_content


def box(kind: bytes, content: bytes = b"", *, wide: bool = False) -> bytes:
    if wide:
        return struct.pack(">I4sQ", 1, kind, 16 + len(content)) + content
    return struct.pack(">I4s", 8 + len(content), kind) + content


FTYP = box(b"ftyp", b"isom\0\0\0\0")
WHOLE = FTYP + box(b"free") + box(b"moov", b"m" * 40) + box(b"mdat", b"d" * 300, wide=True)
OPEN = FTYP + box(b"moov", b"m" * 40) + struct.pack(">I4s", 0, b"mdat") + b"d" * 300


def judge(data: bytes, cuts: list[int] | None = None, *, framed: bool = True) -> str | None:
    check = MediaReader()
    edges = [0, *sorted(cut for cut in cuts or [] if cut < len(data)), len(data)]
    for start, end in itertools.pairwise(edges):
        check.feed(data[start:end])
    return check.finish(len(data), framed=framed)


def test_boxes_that_fill_the_file_are_whole():
    assert judge(WHOLE) is None
    assert judge(OPEN) is None
    assert judge(FTYP) is None


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "empty"),
        (b"short", "too short"),
        (WHOLE[:-1], "cut"),
        (WHOLE + b"x", "not a box"),
        (WHOLE + b"x" * 8, "impossible size|cut"),
        (WHOLE + b"\0" * 8, "impossible size"),
        (box(b"moov") + FTYP, "begins with"),
        (b"<html>nope</html>", "begins with"),
        (FTYP + struct.pack(">I4s", 4, b"mdat"), "impossible size"),
        (FTYP + struct.pack(">I4s", 0, b"moov"), "impossible size"),
        (FTYP + struct.pack(">I4sQ", 1, b"mdat", 8), "impossible size"),
        (FTYP + struct.pack(">I4sQ", 1, b"mdat", 2**63), "cut"),
        (FTYP + struct.pack(">I4s", 1, b"mdat"), "not a box"),
        (FTYP + box(b"free") * (MAX_BOXES + 1), "more than"),
    ],
)
def test_what_is_no_whole_mp4_is_named(data, word):
    reason = judge(data)
    assert reason is not None
    assert re.search(word, reason), reason


def test_an_old_quicktime_file_may_begin_with_any_box_but_must_hold_a_video():
    assert judge(movie(ftyp=b"")) is None
    assert judge(movie(ftyp=box(b"wide"), first=False)) is None
    assert "begins with" in (judge(box(b"moov", b"m" * 40) + box(b"mdat", b"d" * 9)) or "")
    assert "cut" in (judge(movie(ftyp=b"")[:-1]) or "")


def test_an_open_end_proves_nothing_when_nobody_stated_a_length():
    assert "where it ends" in (judge(OPEN, framed=False) or "")
    assert judge(WHOLE, framed=False) is None


@given(st.sampled_from([WHOLE, OPEN, WHOLE[:-1], WHOLE + b"abc", b"<html>" * 20]), st.lists(st.integers(1, 450)))
def test_the_cuts_between_pieces_change_nothing(data, cuts):
    assert judge(data, cuts) == judge(data)


@given(st.binary(max_size=200))
def test_random_bytes_never_raise(data):
    judge(data)
    judge(FTYP + data)


@pytest.mark.parametrize(
    ("data", "looks"),
    [
        (b"\xef\xbb\xbf <!DOCTYPE HTML>", "an HTML page"),
        (b'\n {"a": 1}', "JSON"),
        (b"<?xml version", "an XML document"),
        (b"\x1f\x8b\x08", "gzip data"),
        (b"\x1a\x45\xdf\xa3", "a WebM or Matroska file"),
        (b"Not found\n", "text"),
        (b"\0\1\2", "unknown data"),
        (FTYP, "an MP4 file"),
    ],
)
def test_content_is_named(data, looks):
    assert describe_content(data) == looks
