"""Mutated heads of video files: reading their facts never raises, loops or grows, however the bytes come.

``VIDEOROUTER_FUZZ_SECONDS`` bounds the time (default 60, of which this takes a third), ``VIDEOROUTER_FUZZ_CASES`` asks
for a number instead, such as 1000000 by hand. ``VIDEOROUTER_FUZZ_SEED`` repeats a run.
"""

from __future__ import annotations

import math
import os
import random
import struct
import time

import pytest
from media_files import (
    QUARTER,
    SOUND,
    UNTIMED,
    block,
    box,
    cluster,
    element,
    fragmented,
    full,
    info,
    moof,
    movie,
    number,
    pasp,
    picture_track,
    sides,
    tfdt,
    tfhd,
    tkhd,
    trun,
    video_entry,
    webm,
)

from videorouter import Media
from videorouter.downloads.media import MediaReader, find_mismatches

pytestmark = [pytest.mark.fuzz, pytest.mark.timeout(3 * 3600)]

# Read here: no test sees variables of this name
SEED = int(os.environ.get("VIDEOROUTER_FUZZ_SEED", time.time_ns() % 2**32))
CASES = int(os.environ.get("VIDEOROUTER_FUZZ_CASES", "0"))
SECONDS = float(os.environ.get("VIDEOROUTER_FUZZ_SECONDS", "60")) / 3
ASKED = {"duration": "8s", "aspect_ratio": "16:9", "resolution": "720p", "generate_audio": True}
TURNED = picture_track(
    entry=video_entry(b"mp4v", 720, 576, pasp(16, 11)),
    header=tkhd(1, 1047, 576, matrix=QUARTER),
    edits=box(b"edts", full(b"elst", struct.pack(">IIiIIiI", 2, 100, -1, 65536, 4000, 512, 65536))),
)
FILES = [
    movie(),
    movie(TURNED, first=False),
    movie(wide=True),
    movie(ftyp=box(b"ftyp", b"qt  \0\0\2\0qt  ")),
    movie(TURNED, ftyp=b"", first=False),
    b"GIF89a\x40\x01\xb4\0\x80\0\0" + b"\0" * 6 + b"!\xf9\4\0\0\0\0\0,\0\0\0\0\x40\1\xb4\0\0\2" + b"\7sevenby" * 9 + b"\0;",
    fragmented(*(moof(tfhd(1, 512), tfdt(5120 * each), trun(*[512, 7] * 10, flags=0x900, count=10)) for each in range(6))),
    webm(cluster(0, block(0), block(40)), cluster(80, block(0)), tracks=(UNTIMED, SOUND)),
    webm(*(cluster(80 * each, block(0), unknown=True) for each in range(4)), head=info(None), unknown=True),
    webm(cluster(0, element(0xA0, block(0, simple=False), number(0x9B, 40))), tracks=(element(0xAE, sides()),), head=info(None)),
]  # fmt: skip
PIECES = (
    b"\0\0\0\0", b"\0\0\0\1", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\xff" * 8, b"\x01" + b"\xff" * 7,
    b"\x40\x00", b"\x00", b"\xff", b"\x80", b"\x10\0\0\1", b"moov", b"trak", b"moof", b"trun", b"stsd", b"mdat",
    b"\x18\x53\x80\x67", b"\x1f\x43\xb6\x75", b"\x15\x49\xa9\x66", b"\xa3", b"\xae", b"\xec\x80",
)  # fmt: skip


def mutate(dice: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(dice.choice((1, 1, 2, 4, 16))):
        place = dice.randrange(len(changed))
        act = dice.random()
        if act < 0.4:
            changed[place] = dice.randrange(256)
        elif act < 0.7:
            piece = dice.choice(PIECES)
            changed[place : place + len(piece)] = piece
        elif act < 0.8:
            del changed[place : place + dice.randrange(1, 64)]
        elif act < 0.9:
            changed[place:place] = changed[place : place + dice.randrange(1, 400)] * dice.choice((1, 2, 30))
        else:
            other = dice.choice(FILES)
            changed[place:] = other[dice.randrange(len(other)) :]
        if not changed:
            return b""
    return bytes(changed[: dice.randrange(len(changed) + 1)] if dice.random() < 0.1 else changed)


def read_in_pieces(dice: random.Random, data: bytes) -> MediaReader:
    reader = MediaReader()
    place = 0
    while place < len(data):
        size = dice.choice((1, 7, 64, 500, 5000))
        reader.feed(data[place : place + size])
        place += size
        assert len(reader._held) <= len(data)
    reader.finish(len(data))
    return reader


def read_by_offsets(dice: random.Random, data: bytes) -> MediaReader:
    reader = MediaReader()
    reads = 0
    while (missing := reader.missing) > 0 and reader.wanted < len(data):
        reader.at = reader.wanted
        reader.feed(data[reader.at : reader.at + max(missing, dice.choice((0, 20, 4096)))])
        reads += 1
        assert reads <= len(data) + 2
    reader.finish(len(data))
    return reader


def check(media: Media | None) -> None:
    if media is None:
        return
    assert media.container in {"mp4", "mov", "webm", "mkv", "gif"}
    for value in (media.seconds, media.fps):
        assert value is None or (math.isfinite(value) and value >= 0)
    for side in (media.width, media.height):
        assert side is None or 0 < side < 2**64
    for codec in (media.video_codec, media.audio_codec):
        assert codec is None or (codec.isascii() and codec.isprintable() and 0 < len(codec) <= 32)
    assert Media(**media.to_dict()) == media
    find_mismatches(ASKED, media)


def test_whatever_a_file_says_its_facts_are_read_in_bounds():
    print(f"seed {SEED}")  # noqa: T201  it repeats the run
    dice = random.Random(SEED)
    done = 0
    ends = time.monotonic() + SECONDS
    while done < CASES if CASES else time.monotonic() < ends:
        data = mutate(dice, dice.choice(FILES))
        try:
            whole = MediaReader()
            began = time.thread_time()
            whole.feed(data)
            whole.finish(len(data))
            assert time.thread_time() - began < 0.5
            assert whole.steps <= len(data) + 1
            check(whole.media)
            other = read_in_pieces(dice, data) if dice.random() < 0.5 else read_by_offsets(dice, data)
            assert other.media == whole.media
        except BaseException as error:
            error.add_note(f"seed {SEED}, file {data!r}")
            raise
        done += 1
    print(f"{done} files")  # noqa: T201  how much was tried
