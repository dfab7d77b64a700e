"""What an MP4's index says, box by box, and that a lie in it does no harm."""

from __future__ import annotations

import struct

import pytest
from media_files import (
    FTYP,
    MATRIX,
    ONE,
    QUARTER,
    audio_entry,
    box,
    esds,
    fragmented,
    full,
    moof,
    movie,
    mvhd,
    pasp,
    picture_track,
    sound_track,
    stsz,
    tfdt,
    tfhd,
    times,
    tkhd,
    trak,
    trex,
    trun,
    video_entry,
)

from videorouter import Media
from videorouter.downloads import mp4_facts
from videorouter.downloads.media import MediaReader
from videorouter.downloads.mp4_facts import MAX_STEPS, BoxFacts


def read(data: bytes) -> Media:
    reader = MediaReader()
    reader.feed(data)
    reader.finish(len(data))
    assert reader.media is not None
    return reader.media


def test_an_ordinary_file():
    assert read(movie()) == Media(
        container="mp4",
        seconds=4.0,
        width=320,
        height=180,
        fps=25.0,
        video_codec="h264",
        audio_codec="aac",
        has_sound=True,
    )


@pytest.mark.parametrize(
    ("ftyp", "container"),
    [
        (FTYP, "mp4"),
        (box(b"ftyp", b"qt  \0\0\2\0qt  "), "mov"),
        (b"", "mov"),
        (box(b"wide"), "mov"),
        (box(b"ftyp", b"3gp4\0\0\2\0"), "mp4"),
    ],
)
def test_the_brand_names_the_container(ftyp, container):
    assert read(movie(ftyp=ftyp)).container == container


def test_64_bits():
    head = mvhd(1000, 4000, version=1)
    track = trak(
        b"vide", video_entry(), tkhd(1, 320, 180, version=1), times(b"mdhd", 2**31, 2**33, version=1), stsz(100)
    )
    found = read(movie(track, head=head, wide=True))
    assert (found.seconds, found.fps, found.width) == (4.0, 25.0, 320)


@pytest.mark.parametrize("length", [0, 2**32 - 1])
def test_a_length_that_is_not_told_is_the_longest_track_s(length):
    assert read(movie(head=mvhd(1000, length))).seconds == 4.0
    assert read(movie(head=mvhd(0, 4000))).seconds == 4.0


def test_a_file_without_sound_says_so():
    found = read(movie(picture_track()))
    assert (found.has_sound, found.audio_codec) == (False, None)


def test_a_file_of_sound_alone_has_no_picture():
    found = read(movie(sound_track()))
    assert (found.width, found.fps, found.video_codec, found.audio_codec) == (None, None, None, "aac")


def test_a_file_without_an_index_is_of_a_known_kind_only():
    assert read(FTYP + box(b"mdat", bytes(100))) == Media(container="mp4")


# What is shown


@pytest.mark.parametrize(
    ("matrix", "size"),
    [
        (MATRIX, (320, 180)),
        (QUARTER, (180, 320)),
        ((0, -ONE, 0, ONE, 0, 0, 0, 0, 2**30), (180, 320)),
        ((-ONE, 0, 0, 0, -ONE, 0, 0, 0, 2**30), (320, 180)),
        ((-ONE, 0, 0, 0, ONE, 0, 0, 0, 2**30), (320, 180)),
        ((0, 0, 0, 0, 0, 0, 0, 0, 0), (320, 180)),
    ],
)
def test_a_rotation_turns_the_size(matrix, size):
    found = read(movie(picture_track(header=tkhd(1, 320, 180, matrix=matrix))))
    assert (found.width, found.height) == size


def test_the_whole_movie_may_be_turned():
    found = read(movie(head=mvhd(1000, 4000, matrix=QUARTER)))
    assert (found.width, found.height) == (180, 320)
    twice = read(movie(picture_track(header=tkhd(1, 320, 180, matrix=QUARTER)), head=mvhd(1000, 4000, matrix=QUARTER)))
    assert (twice.width, twice.height) == (320, 180)


@pytest.mark.parametrize(
    ("entry", "header", "size"),
    [
        (video_entry(b"avc1", 720, 576, pasp(16, 11)), tkhd(1, 1047, 576), (1047, 576)),
        (video_entry(b"avc1", 720, 576, pasp(16, 11)), tkhd(1, 720, 576), (1047, 576)),
        (video_entry(b"avc1", 720, 576), tkhd(1, 1024, 576), (1024, 576)),
        (video_entry(b"avc1", 720, 576, pasp(0, 1)), tkhd(1, 1024, 576), (1024, 576)),
        (video_entry(b"avc1", 720, 576, pasp(1, 0)), tkhd(1, 720, 576), (720, 576)),
        (
            video_entry(b"avc1", 720, 576),
            tkhd(1, 720, 576, matrix=(2 * ONE, 0, 0, 0, ONE, 0, 0, 0, 2**30)),
            (1440, 576),
        ),
        (video_entry(b"avc1", 720, 576), tkhd(1, 0, 0), (720, 576)),
        (video_entry(b"avc1", 0, 0), tkhd(1, 640, 360), (640, 360)),
        (video_entry(b"avc1", 0, 0), tkhd(1, 0, 0), (None, None)),
        (video_entry(b"avc1", 720, 576, pasp(2**32 - 1, 1)), tkhd(1, 720, 576), (720, 576)),
        (video_entry(b"avc1", 720, 576, pasp(1, 2**32 - 1)), tkhd(1, 720, 576), (720, 576)),
    ],
)
def test_pixels_are_shown_square(entry, header, size):
    found = read(movie(picture_track(entry=entry, header=header)))
    assert (found.width, found.height) == size


# Frames


@pytest.mark.parametrize(
    ("tables", "fps"),
    [(((100, 512),), 25.0), (((1, 1024), (98, 512), (1, 256)), 24.876), (((30, 1024), (10, 512)), 14.286), ((), None)],
)
def test_frames_a_second_are_an_average(tables, fps):
    assert read(movie(picture_track(tables=tables))).fps == fps


def test_a_table_that_is_too_long_to_add_up_leaves_the_count_and_the_length():
    table = full(b"stts", struct.pack(">I", 9000) + struct.pack(">II", 1, 512) * 9000)
    track = trak(b"vide", video_entry(), tkhd(1, 320, 180), times(b"mdhd", 12800, 9000 * 512), table, stsz(9000))
    assert read(movie(track)).fps == 25.0


def test_a_table_that_claims_more_than_it_has_is_read_as_far_as_it_goes():
    table = full(b"stts", struct.pack(">I", 2**32 - 1) + struct.pack(">II", 100, 512))
    track = trak(b"vide", video_entry(), tkhd(1, 320, 180), times(b"mdhd", 12800, 51200), table)
    assert read(movie(track)).fps == 25.0


# Fragments


def test_fragments_are_added_up():
    found = read(fragmented(*(moof(tfhd(), tfdt(512 * 10 * each), trun(*[512] * 10)) for each in range(5))))
    assert (found.seconds, found.fps, found.has_sound) == (2.0, 25.0, False)


@pytest.mark.parametrize("version", [0, 1])
def test_fragments_that_use_the_default_length(version):
    parts = [moof(tfhd(), tfdt(5120 * each, version=version), trun(flags=0, count=10)) for each in range(5)]
    assert read(fragmented(*parts)).seconds == 2.0
    assert read(fragmented(*(moof(tfhd(1, 1024), trun(flags=0, count=10)) for _ in range(5)))).seconds == 4.0


def test_fragments_without_a_time_follow_each_other():
    assert read(fragmented(*(moof(tfhd(), trun(*[512] * 10)) for _ in range(5)))).seconds == 2.0


def test_two_runs_of_one_fragment_follow_each_other():
    assert read(fragmented(moof(tfhd(), tfdt(0), trun(*[512] * 25), trun(*[512] * 25)))).seconds == 2.0


def test_a_piece_of_a_long_stream_is_as_long_as_itself():
    assert read(fragmented(moof(tfhd(), tfdt(2**40), trun(*[512] * 50)))).seconds == 2.0


def test_every_field_of_a_run_may_stand_beside_the_lengths():
    samples = [512, 1000, 0, 0] * 10
    assert read(fragmented(moof(tfhd(), tfdt(0), trun(*samples, flags=0xF00, count=10)))).seconds == 0.4
    assert read(fragmented(moof(tfhd(), tfdt(0), trun(64, 0, *samples, flags=0xF05, count=10)))).seconds == 0.4


def test_a_track_whose_first_frame_is_shown_late_ends_late():
    late = moof(tfhd(), tfdt(0), trun(*[512, 1024] * 50, flags=0x900, count=50))
    sound = moof(tfhd(2), tfdt(0), trun(*[1024] * 10))
    empty = trak(b"soun", audio_entry(), tkhd(2), times(b"mdhd", 44100, 0))
    head = box(b"moov", mvhd(1000, 0), picture_track(tables=()), empty, box(b"mvex", trex()))
    assert read(FTYP + head + late + sound).seconds == 2.08
    assert read(FTYP + head + late).seconds == 2.0


def test_an_edit_of_a_fragmented_file_takes_the_delay_back():
    late = moof(tfhd(), tfdt(0), trun(*[512, 1024] * 50, flags=0x900, count=50))
    edits = box(b"edts", full(b"elst", struct.pack(">IIiI", 1, 0, 1024, ONE)))
    assert read(fragmented(late, edits=edits)).seconds == 2.0


def test_fragments_that_are_too_many_leave_what_the_head_promises(monkeypatch):
    monkeypatch.setattr(mp4_facts, "MAX_STEPS", 60)
    parts = [moof(tfhd(), tfdt(5120 * each), trun(*[512] * 10)) for each in range(50)]
    mehd = full(b"mehd", struct.pack(">I", 20000))
    assert read(fragmented(*parts, extends=mehd)).seconds == 20.0
    assert read(fragmented(*parts)).seconds is None


@pytest.mark.parametrize("wide", [False, True])
def test_a_head_without_fragments_tells_what_its_index_says(wide):
    begin = struct.pack(">QQ" if wide else ">II", 0, 0)
    refs = struct.pack(">HH", 0, 2) + struct.pack(">III", 100, 25600, 0) * 2
    sidx = full(b"sidx", struct.pack(">II", 1, 12800) + begin + refs, version=int(wide))
    assert read(fragmented() + sidx).seconds == 4.0


# Codecs


@pytest.mark.parametrize(
    ("entry", "name"),
    [
        (video_entry(b"avc1"), "h264"),
        (video_entry(b"hev1"), "hevc"),
        (video_entry(b"av01"), "av1"),
        (video_entry(b"vp09"), "vp9"),
        (video_entry(b"apch"), "prores"),
        (video_entry(b"mp4v", 320, 180, esds(0x20)), "mpeg4"),
        (video_entry(b"mp4v", 320, 180, esds(0x61, stretched=True)), "mpeg2video"),
        (video_entry(b"encv", 320, 180, box(b"sinf", box(b"frma", b"hvc1"))), "hevc"),
        (video_entry(b"Zz9!"), "zz9!"),
        (video_entry(b"\xff\0\x01\x02"), None),
    ],
)
def test_video_codecs(entry, name):
    assert read(movie(picture_track(entry=entry))).video_codec == name


@pytest.mark.parametrize(
    ("entry", "name"),
    [
        (audio_entry(b"mp4a"), "aac"),
        (audio_entry(b"mp4a", esds(0x40)), "aac"),
        (audio_entry(b"mp4a", esds(0x6B, stretched=True)), "mp3"),
        (audio_entry(b"mp4a", esds(0xFF)), "aac"),
        (audio_entry(b"mp4a", box(b"wave", box(b"frma", b"mp4a"), esds(0xDD))), "vorbis"),
        (audio_entry(b"Opus"), "opus"),
        (audio_entry(b"sowt"), "pcm"),
        (audio_entry(b"enca", box(b"sinf", box(b"frma", b"ac-3"))), "ac3"),
    ],
)
def test_audio_codecs(entry, name):
    assert read(movie(picture_track(), sound_track(entry=entry))).audio_codec == name


# Lies


def test_a_hundred_tracks_are_not_kept():
    found = BoxFacts()
    found.read(b"moov", mvhd(1000, 4000) + picture_track() * 100)
    assert len(found._tracks) == 64
    assert found.media().seconds == 4.0


def test_boxes_inside_themselves_are_not_followed_for_ever():
    inner = mvhd(1000, 4000)
    for _ in range(5000):
        inner = box(b"mdia", inner)
    found = BoxFacts()
    found.read(b"moov", inner)
    assert found.steps <= 10


def test_boxes_without_end_are_counted():
    found = BoxFacts()
    for _ in range(20):
        found.read(b"moof", box(b"free") * 10_000)
    assert found.steps <= MAX_STEPS + 20


def test_a_second_index_changes_nothing():
    other = box(b"moov", mvhd(1000, 9000), picture_track())
    assert read(movie() + other) == read(movie())


def test_an_index_that_is_larger_than_is_kept_is_read_as_far_as_it_is_kept():
    data = FTYP + box(b"moov", mvhd(1000, 4000), picture_track(), box(b"udta", bytes(5 * 2**20)), sound_track())
    reader = MediaReader()
    for start in range(0, len(data), 2**16):
        reader.feed(data[start : start + 2**16])
        assert len(reader._held) <= 4 * 2**20 + 16
    assert reader.media.seconds == 4.0
    assert reader.media.has_sound is None


@pytest.mark.parametrize("kind", sorted(BoxFacts._READERS))
def test_a_box_of_any_length_raises_nothing(kind):
    for version in (0, 1, 255):
        for length in range(120):
            for filling in (b"\0", b"\xff"):
                content = bytes([version]) + filling * length
                inner = box(kind, content)
                found = BoxFacts()
                found.read(b"moov", box(b"trak", tkhd(), inner) + inner)
                found.read(b"moof", box(b"traf", tfhd(), inner, trun(1, 2, 3)))
                found.media()
