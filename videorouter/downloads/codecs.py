"""Names codecs as people and ffprobe do, from what MP4, QuickTime, WebM and Matroska call them."""

from __future__ import annotations

_VIDEO = {
    "h264": b"avc1 avc2 avc3 avc4 dva1 dvav",
    "hevc": b"hvc1 hev1 dvh1 dvhe",
    "vvc": b"vvc1 vvi1",
    "av1": b"av01 dav1",
    "vp8": b"vp08",
    "vp9": b"vp09",
    "mpeg4": b"mp4v XVID DIVX",
    "h263": b"s263 h263 H263",
    "mpeg1video": b"mp1v m1v1",
    "mpeg2video": b"mp2v m2v1",
    "mjpeg": b"jpeg mjpa",
    "prores": b"apch apcn apcs apco ap4h ap4x",
    "dnxhd": b"AVdn AVdh",
    "ffv1": b"FFV1",
    "rawvideo": b"2vuy yuv2 yuvs",
}
_AUDIO = {
    "aac": b"mp4a",
    "opus": b"Opus",
    "flac": b"fLaC",
    "alac": b"alac",
    "ac3": b"ac-3 sac3",
    "eac3": b"ec-3",
    "truehd": b"mlpa",
    "mp3": b".mp3",
    "mp2": b".mp2",
    "dts": b"dtsc dtsh dtsl dtse",
    "amr_nb": b"samr",
    "amr_wb": b"sawb",
    "pcm": b"sowt twos lpcm ipcm fpcm in24 in32 fl32 fl64 ulaw alaw NONE",
}
_ENTRIES: dict[bytes, str] = {
    code: name for table in (_VIDEO, _AUDIO) for name in table for code in table[name].split()
}
"""Four letters of a sample entry (``stsd``): QuickTime's own and those registered at mp4ra.org."""

_SPACED = {b"png ": "png", b"rle ": "qtrle", b"m1v ": "mpeg1video", b"mp3 ": "mp3", b"ms\0U": "mp3"}

_OBJECTS: dict[int, str] = {
    0x20: "mpeg4",
    0x21: "h264",
    0x23: "hevc",
    0x40: "aac",
    **dict.fromkeys(range(0x60, 0x66), "mpeg2video"),
    **dict.fromkeys(range(0x66, 0x69), "aac"),
    0x69: "mp3",
    0x6A: "mpeg1video",
    0x6B: "mp3",
    0x6C: "mjpeg",
    0x6D: "png",
    0xA5: "ac3",
    0xA6: "eac3",
    0xA9: "dts",
    0xAD: "opus",
    0xB1: "vp9",
    0xC1: "flac",
    0xDD: "vorbis",
}
"""The object types of an ``esds`` box (ISO/IEC 14496-1, table 5, and mp4ra.org)."""

_MATROSKA: dict[str, str] = {
    "V_AV1": "av1",
    "V_FFV1": "ffv1",
    "V_MJPEG": "mjpeg",
    "V_MPEG1": "mpeg1video",
    "V_MPEG2": "mpeg2video",
    "V_MPEG4/ISO/AP": "mpeg4",
    "V_MPEG4/ISO/ASP": "mpeg4",
    "V_MPEG4/ISO/AVC": "h264",
    "V_MPEG4/ISO/SP": "mpeg4",
    "V_MPEGH/ISO/HEVC": "hevc",
    "V_MPEGI/ISO/VVC": "vvc",
    "V_PRORES": "prores",
    "V_THEORA": "theora",
    "V_UNCOMPRESSED": "rawvideo",
    "V_VP8": "vp8",
    "V_VP9": "vp9",
    "A_AC3": "ac3",
    "A_ALAC": "alac",
    "A_DTS": "dts",
    "A_EAC3": "eac3",
    "A_FLAC": "flac",
    "A_MPEG/L2": "mp2",
    "A_MPEG/L3": "mp3",
    "A_OPUS": "opus",
    "A_TRUEHD": "truehd",
    "A_VORBIS": "vorbis",
}


def name_sample_entry(code: bytes, entry: bytes) -> str | None:
    """Name the codec of an MP4 or QuickTime sample entry; a general or encrypted one names its codec inside."""
    if code in {b"encv", b"enca"} and (found := entry.find(b"\0\0\0\x0cfrma")) >= 0:
        code = entry[found + 8 : found + 12]
    if code in {b"mp4v", b"mp4a"} and (found := entry.find(b"esds")) >= 0:
        named = _OBJECTS.get(_read_object_type(entry[found + 8 : found + 64]))
        if named is not None:
            return named
    return _ENTRIES.get(code) or _SPACED.get(code) or _spell(code.decode("latin-1"))


def name_matroska(code: str, private: bytes = b"") -> str | None:
    """Name the codec of a WebM or Matroska track; Windows' ``CodecID`` has it in ``CodecPrivate``."""
    if code == "V_MS/VFW/FOURCC":
        return name_sample_entry(private[16:20], b"")
    if code.startswith("A_AAC"):
        return "aac"
    if code.startswith("A_PCM"):
        return "pcm"
    return _MATROSKA.get(code) or _spell(code)


def _spell(code: str) -> str | None:
    """Return an unknown code unchanged, if it is printable."""
    plain = code.strip(" \0").lower()
    return plain[:32] if plain.isascii() and plain.isprintable() and plain else None


def _read_object_type(descriptors: bytes) -> int:
    """Return the object type inside an ES descriptor, or -1 (ISO/IEC 14496-1, 7.2.6)."""
    place = _skip_length(descriptors, 0)
    if descriptors[:1] != b"\x03" or place + 3 > len(descriptors):
        return -1
    flags = descriptors[place + 2]
    place += 3 + 2 * bool(flags & 0x80) + 2 * bool(flags & 0x20)
    if flags & 0x40 and place < len(descriptors):
        place += 1 + descriptors[place]
    if descriptors[place : place + 1] != b"\x04":
        return -1
    place = _skip_length(descriptors, place)
    return descriptors[place] if place < len(descriptors) else -1


def _skip_length(descriptors: bytes, place: int) -> int:
    """Return where a descriptor's content begins: after its tag and a length of one to four bytes."""
    place += 1
    for _ in range(3):
        if place < len(descriptors) and descriptors[place] & 0x80:
            place += 1
    return place + 1
