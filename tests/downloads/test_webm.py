"""What a WebM or Matroska file says, element by element, and whether it is whole."""

from __future__ import annotations

import pytest
from media_files import (
    PICTURES,
    SOUND,
    UNTIMED,
    block,
    cluster,
    element,
    entry,
    info,
    number,
    real,
    sides,
    webm,
)

from videorouter import Media
from videorouter.downloads import webm as module
from videorouter.downloads.media import MediaReader
from videorouter.downloads.webm import ElementParser


def read(data: bytes) -> Media:
    reader = MediaReader()
    reader.feed(data)
    reader.finish(len(data))
    assert reader.media is not None
    return reader.media


def judge(data: bytes, *, framed: bool = True) -> str | None:
    parser = ElementParser()
    parser.parse(data, 0)
    return parser.finish(len(data), framed=framed)


BODY = cluster(0, block(0), block(40)) + cluster(80, block(0))


def test_an_ordinary_file():
    assert read(webm(BODY)) == Media(
        container="webm",
        seconds=4.0,
        width=320,
        height=180,
        fps=25.0,
        video_codec="vp9",
        audio_codec="opus",
        has_sound=True,
    )


def test_matroska_is_named():
    assert read(webm(BODY, kind=b"matroska")).container == "mkv"


def test_a_file_without_sound_says_so():
    found = read(webm(BODY, tracks=(PICTURES,)))
    assert (found.has_sound, found.audio_codec) == (False, None)


def test_a_file_without_tracks_says_nothing():
    assert read(element(0x1A45DFA3, element(0x4282, b"webm"))) == Media(container="webm")


@pytest.mark.parametrize(
    ("head", "seconds"),
    [
        (info(4000.0), 4.0),
        (info(4e9, tick=1), 4.0),
        (info(4e6, tick=1000), 4.0),
        (info(4000.0, tick=0), 4.0),
        (element(0x1549A966, real(0x4489, 4000.0, ">f")), 4.0),
        (element(0x1549A966, element(0x4489, b"\1\2\3")), None),
        (info(float("nan")), None),
        (info(float("inf")), None),
        (info(-5.0), None),
        (info(None), None),
    ],
)
def test_the_length(head, seconds):
    assert read(webm(head=head)).seconds == seconds


def test_without_a_length_the_blocks_are_added_up():
    body = [cluster(1000 * each, *(block(40 * index) for index in range(25)), unknown=True) for each in range(4)]
    found = read(webm(*body, head=info(None), unknown=True))
    assert (found.seconds, found.fps) == (4.0, 25.0)
    untimed = read(webm(*body, tracks=(UNTIMED,), head=info(None), unknown=True))
    assert (untimed.seconds, untimed.fps) == (3.96, 25.0)


def test_groups_of_blocks_may_say_how_long_they_last():
    groups = [element(0xA0, block(40 * index, simple=False), number(0x9B, 40)) for index in range(25)]
    found = read(webm(cluster(0, *groups), tracks=(UNTIMED,), head=info(None)))
    assert (found.seconds, found.fps) == (1.0, 25.0)


def test_blocks_may_stand_before_their_cluster_and_in_any_order():
    body = cluster(100, block(-100), block(20), block(-60), block(-20), block(60))
    found = read(webm(body, tracks=(UNTIMED,), head=info(None)))
    assert (found.seconds, found.fps) == (0.16, 25.0)


def test_blocks_of_tracks_that_are_none_are_passed_over():
    body = cluster(0, block(0), block(40), block(9000, track=9), element(0xA3, b"\x81"), element(0xA3, b"\0" * 9))
    assert read(webm(body, head=info(None))).seconds == 0.08


def test_blocks_are_not_looked_at_where_the_head_says_it_all():
    reader = MediaReader()
    reader.feed(webm(cluster(0, *(block(index) for index in range(500)))))
    assert reader.steps <= 6


@pytest.mark.parametrize(
    ("video", "size"),
    [
        (sides(720, 576, number(0x54B0, 1024), number(0x54BA, 576)), (1024, 576)),
        (sides(720, 576, number(0x54B0, 16), number(0x54BA, 9), number(0x54B2, 3)), (1024, 576)),
        (sides(720, 576, number(0x54B0, 1), number(0x54BA, 9), number(0x54B2, 4)), (720, 576)),
        (sides(720, 576, number(0x54B0, 0), number(0x54BA, 0)), (720, 576)),
        (sides(720, 576, number(0x54B0, 2**60), number(0x54BA, 1)), (720, 576)),
        (sides(320, 180, element(0x7670, real(0x7675, 90.0))), (180, 320)),
        (sides(320, 180, element(0x7670, real(0x7675, -90.0, ">f"))), (180, 320)),
        (sides(320, 180, element(0x7670, real(0x7675, 180.0))), (320, 180)),
        (sides(0, 180), (None, None)),
        (b"", (None, None)),
    ],
)
def test_the_size_as_it_is_shown(video, size):
    found = read(webm(BODY, tracks=(entry(1, b"V_VP9", video),)))
    assert (found.width, found.height) == size


@pytest.mark.parametrize(
    ("codec", "name"),
    [
        (b"V_VP8", "vp8"),
        (b"V_AV1", "av1"),
        (b"V_MPEG4/ISO/AVC", "h264"),
        (b"V_MPEGH/ISO/HEVC", "hevc"),
        (b"V_SOMETHING\0\0", "v_something"),
        (b"V_\xe4\n", None),
        (b"", None),
    ],
)
def test_video_codecs(codec, name):
    assert read(webm(BODY, tracks=(entry(1, codec, sides()),))).video_codec == name


def test_a_codec_of_windows_is_named_by_its_four_letters():
    private = element(0x63A2, bytes(16) + b"XVID" + bytes(20))
    assert read(webm(BODY, tracks=(entry(1, b"V_MS/VFW/FOURCC", private, sides()),))).video_codec == "mpeg4"


@pytest.mark.parametrize(
    ("codec", "name"),
    [(b"A_VORBIS", "vorbis"), (b"A_AAC/MPEG4/LC", "aac"), (b"A_PCM/INT/LIT", "pcm"), (b"A_MPEG/L3", "mp3")],
)
def test_audio_codecs(codec, name):
    assert read(webm(BODY, tracks=(PICTURES, entry(2, codec, track=2)))).audio_codec == name


# Whole, or not


@pytest.mark.parametrize("unknown", [False, True])
def test_a_whole_file_is_whole(unknown):
    assert judge(webm(BODY, unknown=unknown)) is None


def test_an_open_end_proves_nothing_when_nobody_stated_a_length():
    assert judge(webm(BODY), framed=False) is None
    assert "where it ends" in (judge(webm(BODY, unknown=True), framed=False) or "")


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (webm(BODY)[:-1], "cut"),
        (webm(BODY, BODY)[:-200], "cut"),
        (webm(BODY, unknown=True)[:-1], "cut"),
        (webm(BODY) + b"\x1f", "not an element"),
        (webm(BODY) + bytes(20), "not an element"),
        (webm(BODY) + b"\xec\x00", "not an element"),
        (webm(element(0x1C53BB6B, unknown=True)), "impossible size"),
        (element(0x1A45DFA3, element(0x4282, b"webm")), "no tracks"),
    ],
)
def test_what_is_not_whole_is_named(data, word):
    assert word in (judge(data) or "")


def test_every_cut_is_seen():
    data = webm(BODY)
    assert [end for end in range(1, len(data)) if judge(data[:end]) is None] == []


# Lies


def test_elements_without_end_are_counted(monkeypatch):
    monkeypatch.setattr(module, "MAX_STEPS", 100)
    reader = MediaReader()
    reader.feed(webm(element(0xEC) * 500, tracks=(UNTIMED,), head=info(None)))
    assert reader.steps == 101
    assert reader.missing == 0
    assert reader.media.seconds is None


def test_a_hundred_tracks_are_not_kept():
    reader = MediaReader()
    reader.feed(webm(BODY, tracks=(PICTURES,) * 100))
    assert len(reader._parser._tracks) == 64


def test_tracks_that_are_larger_than_is_kept_are_read_as_far_as_they_are_kept():
    data = webm(BODY, tracks=(PICTURES, element(0xEC, bytes(2 * 2**20)), SOUND))
    reader = MediaReader()
    for start in range(0, len(data), 2**16):
        reader.feed(data[start : start + 2**16])
        assert len(reader._held) <= 2**20 + 16
    assert reader.media.width == 320
    assert reader.media.has_sound is None
