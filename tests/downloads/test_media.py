"""The facts of whole files, however their bytes come, and what differs from what was asked for."""

from __future__ import annotations

import fractions
import io
import itertools

import pytest
from hypothesis import given, strategies as st
from media_files import (
    UNTIMED,
    block,
    box,
    cluster,
    fragmented,
    info,
    make_file,
    moof,
    movie,
    tfdt,
    tfhd,
    trun,
    webm,
)

from videorouter import Media, Mismatch
from videorouter.downloads.media import MediaReader, find_mismatches
from videorouter.journal.records import name_kind

FRAGMENTS = [moof(tfhd(), tfdt(start), trun(512, 512, 512)) for start in (0, 1536, 3072)]
FILES = {
    "first": movie(),
    "last": movie(first=False),
    "wide": movie(wide=True),
    "fragmented": fragmented(*FRAGMENTS),
    "webm": webm(cluster(0, block(0), block(40)), cluster(80, block(0))),
    "live": webm(
        cluster(0, block(0), block(40), unknown=True),
        cluster(80, block(0), block(40), unknown=True),
        tracks=(UNTIMED,),
        head=info(None),
        unknown=True,
    ),
}


def read(data: bytes, cuts=()) -> MediaReader:
    reader = MediaReader()
    edges = [0, *sorted({cut for cut in cuts if cut < len(data)}), len(data)]
    for start, end in itertools.pairwise(edges):
        reader.feed(data[start:end])
    reader.finish(len(data))
    return reader


def read_by_offsets(data: bytes, least: int = 0) -> tuple[MediaReader, int]:
    """The reader, and how many bytes it was handed."""
    reader = MediaReader()
    handed = 0
    while (missing := reader.missing) > 0 and reader.wanted < len(data):
        reader.at = reader.wanted
        piece = data[reader.at : reader.at + max(missing, least)]
        handed += len(piece)
        reader.feed(piece)
    reader.finish(len(data))
    return reader, handed


# How bytes come


@pytest.mark.parametrize("name", FILES)
@given(cuts=st.lists(st.integers(1, 4000), max_size=12))
def test_the_cuts_between_pieces_change_nothing(name, cuts):
    data = FILES[name]
    assert read(data, cuts).media == read(data).media


@pytest.mark.parametrize("name", FILES)
def test_byte_by_byte_and_by_offsets_the_facts_are_the_same(name):
    data = FILES[name]
    whole = read(data).media
    assert whole is not None
    assert whole.seconds
    assert read(data, range(len(data))).media == whole
    for least in (0, 50, 4096):
        assert read_by_offsets(data, least)[0].media == whole


def test_pictures_are_skipped_and_not_kept():
    data = movie(first=False)
    reader, handed = read_by_offsets(data)
    assert reader.media.seconds == 4.0
    assert handed < len(data) - 2500
    streamed = MediaReader()
    streamed.feed(data[:2000])  # in the middle of mdat
    assert not streamed._held


def test_bytearrays_and_views_are_read_too():
    data = movie()
    for piece in (bytearray(data), memoryview(data)):
        reader = MediaReader()
        reader.feed(piece)
        assert reader.media == read(data).media


def test_bytes_that_were_skipped_by_mistake_end_it():
    reader = MediaReader()
    reader.at = 5
    reader.feed(movie())
    assert reader.media is None
    assert reader.missing == 0


@pytest.mark.parametrize(
    "data", [b"", b"short", b"<html>nothing of the kind</html>", b"RIFF\0\0\0\0AVI LIST", bytes(40)]
)
def test_what_is_no_video_has_no_facts(data):
    reader = read(data)
    assert reader.media is None
    assert reader.steps == 0


def test_of_a_gif_the_size_is_known():
    assert read(b"GIF89a\x40\x01\xb4\0\xf7\0\0" + bytes(100)).media == Media(
        container="gif", width=320, height=180, video_codec="gif", has_sound=False
    )


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_cut_anywhere_raises_nothing(name):
    data = FILES[name]
    for end in range(len(data)):
        read(data[:end])
        read_by_offsets(data[:end])


def test_a_file_that_is_cut_in_its_index_tells_what_it_has():
    data = movie()
    found = read(data[: data.index(b"stts")]).media
    assert (found.seconds, found.width, found.has_sound) == (4.0, 320, None)


# Files that PyAV made


def probe(data: bytes, container: str) -> dict[str, object]:
    import av

    with av.open(io.BytesIO(data)) as file:
        video = file.streams.video[0]
        sound = next(iter(file.streams.audio), None)
        ratio = float(video.sample_aspect_ratio or 1)
        return {
            "container": container,
            "seconds": pytest.approx(file.duration / 1e6, abs=0.0015),
            "width": round(video.width * ratio),
            "height": video.height,
            "fps": pytest.approx(float(video.average_rate), rel=0.001),
            "video_codec": video.codec_context.codec.canonical_name,
            "audio_codec": sound and sound.codec_context.codec.canonical_name,
            "has_sound": sound is not None,
        }


MADE = [
    ("mp4", "libx264", "aac", {}),
    ("mp4", "libx264", None, {"movflags": "faststart"}),
    ("mp4", "libx264", "libopus", {"movflags": "faststart"}),
    ("mp4", "libx264", "libmp3lame", {}),
    ("mp4", "libx264", "ac3", {}),
    ("mp4", "libx264", "flac", {"strict": "-2"}),
    ("mp4", "libx264", "alac", {}),
    ("mp4", "libx265", "aac", {}),
    ("mp4", "libsvtav1", "aac", {}),
    ("mp4", "libvpx-vp9", "libopus", {}),
    ("mp4", "mpeg4", "aac", {"movflags": "faststart"}),
    ("mp4", "libx264", "aac", {"movflags": "frag_keyframe+empty_moov"}),
    ("mp4", "libx264", None, {"movflags": "frag_keyframe+empty_moov+default_base_moof"}),
    ("mp4", "libx264", "aac", {"movflags": "frag_keyframe"}),
    ("mp4", "libx264", None, {"movflags": "frag_every_frame+empty_moov+skip_trailer"}),
    ("mp4", "libx264", None, {"movflags": "frag_keyframe+empty_moov+global_sidx"}),
    ("mov", "libx264", "aac", {}),
    ("mov", "libx264", "pcm_s16le", {"movflags": "faststart"}),
    ("mov", "mpeg4", "alac", {}),
    ("mov", "libx264", None, {"movflags": "frag_keyframe+empty_moov"}),
    ("webm", "libvpx", "libopus", {}),
    ("webm", "libvpx-vp9", None, {}),
    ("webm", "libsvtav1", "libopus", {"cues_to_front": "1"}),
    ("matroska", "libx264", "aac", {}),
    ("matroska", "libx265", "flac", {}),
    ("matroska", "mpeg4", "libmp3lame", {}),
    ("matroska", "ffv1", "pcm_s16le", {}),
]
SHAPES = [
    (25, (160, 90), 50, None),
    (fractions.Fraction(30000, 1001), (90, 160), 45, None),
    (24, (128, 128), 37, fractions.Fraction(4, 3)),
    (16, (144, 96), 81, fractions.Fraction(8, 9)),
]


@pytest.mark.parametrize(("form", "video", "audio", "options"), MADE)
def test_facts_are_what_ffmpeg_finds(form, video, audio, options):
    av = pytest.importorskip("av", reason="PyAV makes these files: install the extra 'sandbox'")
    for codec in filter(None, (video, audio)):
        if codec not in av.codecs_available:
            pytest.skip(f"this PyAV has no encoder {codec}")
    for rate, size, frames, aspect in SHAPES:
        # In Matroska PyAV leaves the ratio of a pixel to the bitstream, which is not read
        shape = {"rate": rate, "size": size, "frames": frames, "aspect": None if form == "matroska" else aspect}
        data = make_file(form, video, audio, options=options, **shape)
        known = probe(data, {"matroska": "mkv"}.get(form, form))
        if known["audio_codec"] == "pcm_s16le":
            known["audio_codec"] = "pcm"
        assert read(data).media.to_dict() == known
        assert read_by_offsets(data, 4096)[0].media == read(data).media


@pytest.mark.parametrize("tracked", [True, False])
def test_what_a_browser_records_is_added_up_from_its_blocks(tracked):
    pytest.importorskip("av", reason="PyAV makes these files: install the extra 'sandbox'")
    found = read(make_file("webm", "libvpx", "libopus" if tracked else None, options={"live": "1"})).media
    assert found.seconds == pytest.approx(2.0, abs=0.05)
    assert found.fps == 25
    assert found.has_sound is tracked


# Bounds


def count_steps(data: bytes) -> int:
    return read(data).steps


def test_a_thousand_boxes_are_a_thousand_steps():
    data = fragmented(*(moof(tfhd(), tfdt(512 * each), trun(512)) for each in range(150)))
    steps = count_steps(data)
    boxes = sum(data.count(kind) for kind in (b"moof", b"mfhd", b"traf", b"tfhd", b"tfdt", b"trun", b"mdat"))
    assert boxes == 1050
    assert boxes <= steps <= boxes + 30
    assert count_steps(movie() + box(b"free") * 900) <= 930
    assert count_steps(webm(cluster(0, *(block(40 * each) for each in range(500))))) <= 10


# What was asked for

SEEN = Media(container="mp4", seconds=8.0, width=1280, height=720, fps=24.0, has_sound=True)


@pytest.mark.parametrize("duration", ["8s", "8", 8, 8.0, " 8 S ", "8 seconds", "8.2", "7.75s", 8.25])
def test_a_length_that_is_near_is_no_mismatch(duration):
    assert find_mismatches({"duration": duration}, SEEN) == ()


@pytest.mark.parametrize(
    "duration",
    [
        "auto",
        "",
        None,
        -1,
        0,
        "0",
        True,
        [8],
        {"s": 8},
        "8000000",
        "8-10",
        "1:30",
        "eight",
        pytest.param(10**5000, id="huge"),
        float("nan"),
    ],
)
def test_a_length_that_says_nothing_is_no_mismatch(duration):
    assert find_mismatches({"duration": duration}, SEEN) == ()


@pytest.mark.parametrize(("duration", "said"), [("4s", "4 s"), (10, "10 s"), ("7.7", "7.7 s"), ("8.26s", "8.26 s")])
def test_another_length_is_a_mismatch(duration, said):
    (found,) = find_mismatches({"duration": duration}, SEEN)
    assert found == Mismatch(field="duration", asked=said, delivered="8 s")
    assert str(found) == f"asked for {said}, got 8 s"


def test_three_percent_of_a_long_video_are_near():
    long = Media(container="mp4", seconds=30.8)
    assert find_mismatches({"duration": 30}, long) == ()
    assert find_mismatches({"duration": 29.8}, long) != ()


@pytest.mark.parametrize(
    ("ratio", "size", "fits"),
    [
        ("16:9", (1280, 720), True),
        ("16:9", (1248, 704), True),
        (" 16 : 9 ", (854, 480), True),
        ("9:16", (720, 1280), True),
        ("9:16", (1280, 720), False),
        ("1:1", (1280, 720), False),
        ("4:3", (1120, 832), True),
        ("21:9", (1504, 640), True),
        ("2.35:1", (1504, 640), True),
        ("16:9", (1280, 690), False),
        ("auto", (1280, 720), True),
        ("adaptive", (1, 1), True),
        ("0:9", (1280, 720), True),
        (1.78, (100, 100), True),
        (None, (100, 100), True),
    ],
)
@pytest.mark.parametrize("field", ["aspect_ratio", "ratio"])
def test_the_ratio_is_compared(field, ratio, size, fits):
    media = Media(container="mp4", width=size[0], height=size[1])
    found = find_mismatches({field: ratio}, media)
    assert [each.field for each in found] == ([] if fits else [field])


@pytest.mark.parametrize(
    ("resolution", "size", "fits"),
    [
        ("720p", (1280, 720), True),
        ("720P", (720, 1280), True),
        ("720", (1280, 720), True),
        (720, (1280, 720), True),
        ("1080p", (1920, 1088), True),
        ("1080p", (1280, 720), False),
        ("480p", (854, 480), True),
        ("720p", (854, 480), False),
        ("720p", (1248, 704), True),
        ("720p", (960, 960), True),
        ("720p", (1504, 640), True),
        ("1080p", (2176, 928), True),
        ("4k", (3840, 2160), True),
        ("4K", (1920, 1080), False),
        ("1280x720", (1280, 720), True),
        ("1280x720", (848, 480), False),
        ("high", (848, 480), True),
        ("2k", (848, 480), True),
        ("auto", (848, 480), True),
        (None, (848, 480), True),
        (True, (848, 480), True),
        ("000", (848, 480), True),
    ],
)
def test_the_resolution_is_compared_by_its_short_side_or_its_area(resolution, size, fits):
    media = Media(container="mp4", width=size[0], height=size[1])
    found = find_mismatches({"resolution": resolution}, media)
    assert [each.field for each in found] == ([] if fits else ["resolution"])


@pytest.mark.parametrize(
    ("asked", "has", "said"),
    [
        (True, False, "asked for sound, got no sound"),
        (False, True, "asked for no sound, got sound"),
        (True, True, None),
        (False, False, None),
        (True, None, None),
        ("true", False, None),
        (None, False, None),
    ],
)
def test_the_sound_is_compared(asked, has, said):
    found = find_mismatches({"generate_audio": asked}, Media(container="mp4", has_sound=has))
    assert [str(each) for each in found] == ([] if said is None else [said])


def test_every_mismatch_is_named_and_other_fields_are_nothing():
    asked = {"duration": 4, "aspect_ratio": "9:16", "resolution": "1080p", "generate_audio": False, "seed": 4, "n": 2}
    found = find_mismatches(asked, SEEN)
    assert [each.field for each in found] == ["duration", "aspect_ratio", "resolution", "generate_audio"]
    assert [str(each) for each in found][2] == "asked for 1080p, got 1280x720"


@pytest.mark.parametrize(
    ("asked", "kind"),
    [
        ({"duration": 20}, "shorter"),
        ({"duration": 2}, "longer"),
        ({"aspect_ratio": "1:1"}, "of another shape"),
        ({"ratio": "1:1"}, "of another shape"),
        ({"resolution": "360p"}, "of another resolution"),
        ({"generate_audio": not SEEN.has_sound}, "without sound" if not SEEN.has_sound else "with sound"),
    ],
)
def test_a_mismatch_has_a_word_for_its_kind(asked, kind):
    (found,) = find_mismatches(asked, SEEN)
    assert name_kind(found) == kind


def test_what_is_not_known_of_the_file_is_no_mismatch():
    asked = {"duration": 4, "aspect_ratio": "9:16", "resolution": "1080p", "generate_audio": False}
    assert find_mismatches(asked, Media(container="mkv")) == ()


@given(
    st.fixed_dictionaries(
        {},
        optional={
            name: st.one_of(st.text(max_size=20), st.integers(), st.floats(), st.none(), st.booleans(), st.binary())
            for name in ("duration", "aspect_ratio", "ratio", "resolution", "generate_audio")
        },
    )
)
def test_whatever_was_asked_for_raises_nothing(asked):
    find_mismatches(asked, SEEN)
