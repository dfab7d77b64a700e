"""Names of codecs."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st
from media_files import esds

from videorouter.downloads.codecs import name_matroska, name_sample_entry


@pytest.mark.parametrize(
    ("code", "name"),
    [(b"avc1", "h264"), (b"mp3 ", "mp3"), (b"ms\0U", "mp3"), (b"xyz1", "xyz1"), (b"\0\0\0\0", None), (b"", None)],
)
def test_four_letters(code, name):
    assert name_sample_entry(code, b"") == name


@pytest.mark.parametrize(("flags", "extra"), [(0x80, b"\0\0"), (0x40, b"\3url"), (0x20, b"\0\0"), (0, b"")])
def test_descriptors_may_carry_more(flags, extra):
    plain = esds(0x6B)
    begin = plain.index(b"\0\1\0\4")
    entry = plain[: begin + 2] + bytes([flags]) + extra + plain[begin + 3 :]
    assert name_sample_entry(b"mp4a", entry) == "mp3"


@given(st.binary(max_size=80))
def test_random_descriptors_raise_nothing(data):
    for code in (b"mp4a", b"mp4v", b"enca", b"encv"):
        name_sample_entry(code, b"esds\0\0\0\0" + data)
        name_sample_entry(code, b"\0\0\0\x0cfrma" + data)


@given(st.text(max_size=80), st.binary(max_size=40))
def test_random_ids_raise_nothing(code, private):
    name_matroska(code, private)
    name_matroska("V_MS/VFW/FOURCC", private)
