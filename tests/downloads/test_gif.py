"""Whole GIF files and others, however their bytes are cut into pieces."""

from __future__ import annotations

import io
import itertools

import pytest
from hypothesis import given, strategies as st

from videorouter import Media
from videorouter.downloads.media import MediaReader

PIL = pytest.importorskip("PIL.Image", reason="Pillow writes the files; it comes with the sandbox extra")


def make_gif(frames: int = 3, size: tuple[int, int] = (64, 48)) -> bytes:
    pictures = [PIL.new("RGB", size, (number * 40 % 256, 20, 30)) for number in range(frames)]
    for number, picture in enumerate(pictures):
        picture.putdata([(x * number % 256, x % 251, number) for x in range(size[0] * size[1])])
    out = io.BytesIO()
    pictures[0].save(out, "GIF", save_all=True, append_images=pictures[1:], duration=40, loop=0)
    return out.getvalue()


GIF = make_gif()
SMALL = make_gif(2, (4, 4))


def judge(data: bytes, cuts=()) -> str | None:
    reader = MediaReader()
    edges = [0, *sorted({cut for cut in cuts if cut < len(data)}), len(data)]
    for start, end in itertools.pairwise(edges):
        reader.feed(data[start:end])
    reason = reader.finish(len(data))
    assert reader.media is None or reader.media.container == "gif"
    return reason


def test_a_file_up_to_its_trailer_is_whole():
    assert judge(GIF) is None
    assert judge(GIF + b"\0" * 9) is None
    reader = MediaReader()
    reader.feed(GIF)
    assert reader.media == Media(container="gif", width=64, height=48, video_codec="gif", has_sound=False)


@pytest.mark.parametrize("data", [SMALL, GIF[:400]])
def test_each_cut_is_found(data):
    for size in range(13, min(len(data), 400)):
        assert judge(data[:size]) is not None


@given(st.lists(st.integers(1, len(GIF))))
def test_the_cuts_between_pieces_change_nothing(cuts):
    assert judge(GIF, cuts) is None
    assert judge(GIF[:-1], cuts) == "it ends before its trailer: it is cut"


@given(st.binary(max_size=300))
def test_random_bytes_never_raise(data):
    judge(b"GIF89a" + data)


def test_bytes_that_are_no_block_are_named():
    assert "not a block" in (judge(b"GIF89a\x04\0\x04\0\0\0\0" + b"html" * 9) or "")
