"""Small video files for tests: made by hand, box by box and element by element, or by PyAV."""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path

ONE = 65536
MATRIX = (ONE, 0, 0, 0, ONE, 0, 0, 0, 2**30)
QUARTER = (0, ONE, 0, -ONE, 0, 0, 0, 0, 2**30)


def box(kind: bytes, *content: bytes, wide: bool = False) -> bytes:
    inner = b"".join(content)
    if wide:
        return struct.pack(">I4sQ", 1, kind, 16 + len(inner)) + inner
    return struct.pack(">I4s", 8 + len(inner), kind) + inner


def full(kind: bytes, content: bytes, *, version: int = 0, flags: int = 0) -> bytes:
    return box(kind, struct.pack(">I", version << 24 | flags), content)


def times(kind: bytes, timescale: int, length: int, more: bytes = b"", *, version: int = 0) -> bytes:
    """``mvhd`` or ``mdhd``."""
    form = ">QQIQ" if version else ">IIII"
    return full(kind, struct.pack(form, 0, 0, timescale, length) + more, version=version)


def mvhd(timescale: int, length: int, *, matrix=MATRIX, version: int = 0) -> bytes:
    return times(b"mvhd", timescale, length, bytes(16) + struct.pack(">9i", *matrix) + bytes(28), version=version)


def tkhd(number: int = 1, across: int = 0, down: int = 0, *, matrix=MATRIX, version: int = 0) -> bytes:
    head = struct.pack(">QQIIQ" if version else ">IIIII", 0, 0, number, 0, 0)
    return full(
        b"tkhd", head + bytes(16) + struct.pack(">9iII", *matrix, across << 16, down << 16), version=version, flags=3
    )


def hdlr(kind: bytes) -> bytes:
    return full(b"hdlr", bytes(4) + kind + bytes(13))


def video_entry(code: bytes = b"avc1", width: int = 320, height: int = 180, *more: bytes) -> bytes:
    head = bytes(6) + b"\0\1" + bytes(16) + struct.pack(">HH", width, height) + bytes(50)
    return box(code, head, *more)


def audio_entry(code: bytes = b"mp4a", *more: bytes) -> bytes:
    return box(code, bytes(6) + b"\0\1" + bytes(8) + struct.pack(">HHHHI", 2, 16, 0, 0, 44100 << 16), *more)


def esds(kind: int, *, stretched: bool = False) -> bytes:
    """The object type inside its descriptors, whose lengths may be written in four bytes."""
    length = (lambda size: b"\x80\x80\x80" + bytes([size])) if stretched else (lambda size: bytes([size]))
    config = b"\x04" + length(13) + bytes([kind]) + bytes(12)
    return full(b"esds", b"\x03" + length(3 + len(config)) + b"\0\1\0" + config)


def pasp(across: int, down: int) -> bytes:
    return box(b"pasp", struct.pack(">II", across, down))


def stsd(*entries: bytes) -> bytes:
    return full(b"stsd", struct.pack(">I", len(entries)) + b"".join(entries))


def stts(*pairs: tuple[int, int]) -> bytes:
    return full(b"stts", struct.pack(">I", len(pairs)) + b"".join(struct.pack(">II", *pair) for pair in pairs))


def stsz(count: int) -> bytes:
    return full(b"stsz", struct.pack(">II", 1, count))


def trak(kind: bytes, entry: bytes, header: bytes, media: bytes, *tables: bytes, edits: bytes = b"") -> bytes:
    inner = box(b"minf", hdlr(b"url "), box(b"stbl", stsd(entry), *tables))
    return box(b"trak", header, edits, box(b"mdia", media, hdlr(kind), inner))


def picture_track(
    *, entry: bytes | None = None, header: bytes | None = None, tables=((100, 512),), edits: bytes = b""
) -> bytes:
    """A hundred frames at 25 a second, 320x180."""
    media = times(b"mdhd", 12800, sum(count * each for count, each in tables))
    return trak(b"vide", entry or video_entry(), header or tkhd(1, 320, 180), media, stts(*tables), edits=edits)


def sound_track(*, entry: bytes | None = None, number: int = 2) -> bytes:
    return trak(
        b"soun",
        entry or audio_entry(b"mp4a", esds(0x40)),
        tkhd(number),
        times(b"mdhd", 44100, 176400),
        stts((172, 1024)),
    )


FTYP = box(b"ftyp", b"isom\0\0\2\0isomiso2avc1mp41")


def movie(
    *tracks: bytes, head: bytes | None = None, first: bool = True, ftyp: bytes = FTYP, wide: bool = False
) -> bytes:
    """A whole file, 4 s long."""
    moov = box(b"moov", head or mvhd(1000, 4000), *(tracks or (picture_track(), sound_track())), wide=wide)
    mdat = box(b"mdat", b"d" * 3000, wide=wide)
    return ftyp + (moov + mdat if first else mdat + moov)


def trun(*samples: int, flags: int = 0x100, count: int | None = None, version: int = 0) -> bytes:
    words = struct.pack(f">{len(samples)}I", *samples)
    return full(
        b"trun", struct.pack(">I", len(samples) if count is None else count) + words, version=version, flags=flags
    )


def tfhd(number: int = 1, usual: int | None = None) -> bytes:
    flags = 0 if usual is None else 8
    return full(b"tfhd", struct.pack(">I", number) + (b"" if usual is None else struct.pack(">I", usual)), flags=flags)


def tfdt(time: int, *, version: int = 1) -> bytes:
    return full(b"tfdt", struct.pack(">Q" if version else ">I", time), version=version)


def moof(*boxes: bytes) -> bytes:
    return box(b"moof", full(b"mfhd", struct.pack(">I", 1)), box(b"traf", *boxes))


def trex(number: int = 1, usual: int = 0) -> bytes:
    return full(b"trex", struct.pack(">IIIII", number, 1, usual, 0, 0))


def fragmented(*fragments: bytes, extends: bytes = b"", usual: int = 512, edits: bytes = b"") -> bytes:
    """A fragmented file of one track with 12,800 ticks a second."""
    moov = box(b"moov", mvhd(1000, 0), picture_track(tables=(), edits=edits), box(b"mvex", extends, trex(1, usual)))
    return FTYP + moov + b"".join(fragment + box(b"mdat", b"d" * 50) for fragment in fragments)


# WebM and Matroska


def element(kind: int, *content: bytes, unknown: bool = False) -> bytes:
    name = kind.to_bytes((kind.bit_length() + 7) // 8, "big")
    inner = b"".join(content)
    if unknown:
        return name + b"\x01" + b"\xff" * 7 + inner
    if len(inner) < 127:
        return name + bytes([0x80 | len(inner)]) + inner
    return name + (len(inner) | 1 << 56).to_bytes(8, "big") + inner


def number(kind: int, value: int) -> bytes:
    return element(kind, value.to_bytes((value.bit_length() + 7) // 8 or 1, "big"))


def real(kind: int, value: float, form: str = ">d") -> bytes:
    return element(kind, struct.pack(form, value))


def info(duration: float | None = 4000.0, *, tick: int = 1_000_000) -> bytes:
    return element(0x1549A966, number(0x2AD7B1, tick), b"" if duration is None else real(0x4489, duration))


def entry(kind: int, codec: bytes, *more: bytes, track: int = 1) -> bytes:
    return element(0xAE, number(0xD7, track), number(0x83, kind), element(0x86, codec), *more)


def sides(width: int = 320, height: int = 180, *more: bytes) -> bytes:
    return element(0xE0, number(0xB0, width), number(0xBA, height), *more)


PICTURES = entry(1, b"V_VP9", number(0x23E383, 40_000_000), sides())
UNTIMED = entry(1, b"V_VP9", sides())
SOUND = entry(2, b"A_OPUS", track=2)


def block(time: int, *, track: int = 1, data: bytes = b"f" * 40, simple: bool = True) -> bytes:
    return element(0xA3 if simple else 0xA1, bytes([0x80 | track]) + struct.pack(">hB", time, 0) + data)


def cluster(time: int, *blocks: bytes, unknown: bool = False) -> bytes:
    return element(0x1F43B675, number(0xE7, time), *blocks, unknown=unknown)


def webm(
    *inside: bytes,
    tracks: tuple[bytes, ...] = (PICTURES, SOUND),
    kind: bytes = b"webm",
    unknown: bool = False,
    head: bytes | None = None,
) -> bytes:
    """A whole file; ``inside`` stands behind ``Info`` and ``Tracks``."""
    segment = element(
        0x18538067, info() if head is None else head, element(0x1654AE6B, *tracks), *inside, unknown=unknown
    )
    return element(0x1A45DFA3, element(0x4282, kind)) + segment


# PyAV


def make_file(
    form: str, video: str, audio: str | None, *, options=None, rate=25, size=(160, 90), frames=50, aspect=None
) -> bytes:
    """A file that PyAV made; its sound is as long as its pictures."""
    import av

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video"  # on disk: ffmpeg moves an index to the front by reading the file again
        _write_file(av, str(path), form, video, audio, options or {}, rate, size, frames, aspect)
        return path.read_bytes()


def _write_file(av, path, form, video, audio, options, rate, size, frames, aspect) -> None:
    with av.open(path, "w", format=form, options=options) as file:
        pictures = file.add_stream(video, rate=rate)
        pictures.width, pictures.height = size
        pictures.pix_fmt = "yuv420p"
        pictures.thread_count = 1
        pictures.options = {"preset": "ultrafast", "g": "10"} if video == "libx264" else {"g": "10"}
        if aspect is not None:
            pictures.sample_aspect_ratio = aspect
        sound = None if audio is None else file.add_stream(audio, rate=48000, layout="stereo")
        for index in range(frames):
            picture = av.VideoFrame(*size, "yuv420p")
            for plane in picture.planes:
                plane.update(bytes([index * 5 % 256]) * plane.buffer_size)
            file.mux(pictures.encode(picture))
        file.mux(pictures.encode(None))
        if sound is not None:
            for index in range(int(frames * 50 / rate)):
                samples = av.AudioFrame(sound.format.name, "stereo", 960)
                for plane in samples.planes:
                    plane.update(bytes(plane.buffer_size))
                samples.sample_rate, samples.pts = 48000, index * 960
                file.mux(sound.encode(samples))
            file.mux(sound.encode(None))
