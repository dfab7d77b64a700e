"""By hand: the facts of more than 200 files of every container and layout beside ffprobe's, and what reading them costs.

Needs ``ffmpeg`` and ``ffprobe`` (5.1 or later). A file whose facts differ is kept and named, and the script then fails.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from videorouter.downloads.file import read_media
from videorouter.downloads.media import MediaReader

H264 = "-c:v libx264 -preset ultrafast -pix_fmt yuv420p -g 12"
VIDEO = {
    "h264": H264,
    "h264b": "-c:v libx264 -preset veryfast -bf 3 -pix_fmt yuv420p -g 12",
    "hevc": "-c:v libx265 -preset ultrafast -x265-params log-level=none -pix_fmt yuv420p",
    "hvc1": "-c:v libx265 -preset ultrafast -x265-params log-level=none -pix_fmt yuv420p -tag:v hvc1",
    "av1": "-c:v libsvtav1 -preset 12 -pix_fmt yuv420p",
    "mpeg4": "-c:v mpeg4",
    "mpeg2": "-c:v mpeg2video",
    "vp8": "-c:v libvpx -deadline realtime -cpu-used 8",
    "vp9": "-c:v libvpx-vp9 -deadline realtime -cpu-used 8",
    "mjpeg": "-c:v mjpeg -pix_fmt yuvj420p",
    "prores": "-c:v prores -pix_fmt yuv422p10le",
    "ffv1": "-c:v ffv1",
    "theora": "-c:v libtheora",
}
AUDIO = {
    "aac": "-c:a aac",
    "mp3": "-c:a libmp3lame",
    "opus": "-c:a libopus",
    "vorbis": "-c:a libvorbis",
    "ac3": "-c:a ac3",
    "eac3": "-c:a eac3",
    "flac": "-c:a flac -strict -2",
    "alac": "-c:a alac",
    "pcm": "-c:a pcm_s16le",
    "silent": "-an",
}
FRAGMENTED = {
    "keyframe": "-movflags frag_keyframe",
    "empty": "-movflags frag_keyframe+empty_moov",
    "base": "-movflags frag_keyframe+empty_moov+default_base_moof",
    "untailed": "-movflags frag_keyframe+empty_moov+skip_trailer",
    "delayed": "-movflags frag_keyframe+delay_moov",
    "frames": "-movflags frag_every_frame+empty_moov",
    "timed": "-movflags empty_moov -frag_duration 500000",
    "sidx": "-movflags frag_keyframe+empty_moov+global_sidx+default_base_moof",
    "cmaf": "-movflags frag_keyframe+empty_moov+cmaf",
    "apart": "-movflags frag_keyframe+empty_moov+separate_moof",
    "ism": "-movflags frag_keyframe+empty_moov+isml",
}
LAYOUTS = {
    "last": "",
    "first": "-movflags +faststart",
    "unedited": "-use_editlist 0",
    "negative": "-movflags +negative_cts_offsets",
    "fine": "-video_track_timescale 1000000000",
    "coarse": "-video_track_timescale 600",
}
RATES = ["24", "25", "30", "60", "12", "30000/1001", "24000/1001", "15", "16"]
SIZES = ["320x180", "180x320", "160x160", "210x90", "318x178", "352x288"]


class Plans:
    """Name, ffmpeg's input options and its output options of each file."""

    def __init__(self) -> None:
        self.files: list[tuple[str, str, str]] = []
        self._rates, self._sizes = itertools.cycle(RATES), itertools.cycle(SIZES)
        self._lengths = itertools.cycle([1.0, 0.5, 2.0, 4.0, 1.48, 8.0])
        self.plan_mp4()
        self.plan_fragments()
        self.plan_quicktime()
        self.plan_matroska()
        self.plan_shapes()

    def add(self, name: str, output: str, *, rate: str = "", filters: str = "", seconds: float = 0) -> None:
        seconds = seconds or next(self._lengths)
        picture = f"testsrc=size={next(self._sizes)}:rate={rate or next(self._rates)}:duration={seconds}"
        more = f",{filters}" if filters else ""
        given = f"-f lavfi -i {picture}{more} -f lavfi -i sine=duration={seconds + 0.07:g}"
        self.files.append((name, given, output))

    def plan_mp4(self) -> None:
        for video, audio in itertools.product(
            ["h264", "h264b", "hevc", "hvc1", "av1", "mpeg4", "vp9"], ["aac", "silent"]
        ):
            for layout in ("last", "first"):
                self.add(f"{video}-{audio}-{layout}.mp4", f"{VIDEO[video]} {AUDIO[audio]} {LAYOUTS[layout]}")
        for audio in ("mp3", "opus", "ac3", "eac3", "flac", "alac"):
            self.add(f"h264-{audio}.mp4", f"{H264} {AUDIO[audio]}")
        for layout, video in itertools.product(["unedited", "negative", "fine", "coarse"], ["h264", "h264b"]):
            self.add(f"{video}-{layout}.mp4", f"{VIDEO[video]} {AUDIO['aac']} {LAYOUTS[layout]}", seconds=5)
        for layout in ("last", "first"):
            self.add(f"wide-{layout}.mp4", f"{H264} {AUDIO['aac']} {LAYOUTS[layout]} WIDE")

    def plan_fragments(self) -> None:
        for layout, video, audio in itertools.product(FRAGMENTED, ["h264", "h264b", "hevc"], ["aac", "silent"]):
            if layout != "ism" or audio == "aac":
                self.add(f"{video}-{audio}-{layout}.mp4", f"{VIDEO[video]} {AUDIO[audio]} {FRAGMENTED[layout]}")
        self.add("h264-fragments.mov", f"{H264} {AUDIO['aac']} {FRAGMENTED['empty']}")

    def plan_quicktime(self) -> None:
        videos, audios = ["h264", "hvc1", "mpeg4", "mjpeg", "prores"], ["aac", "alac", "pcm", "silent"]
        for video, audio in itertools.product(videos, audios):
            self.add(f"{video}-{audio}.mov", f"{VIDEO[video]} {AUDIO[audio]}")
        for layout in ("first", "fine", "unedited"):
            self.add(f"h264-{layout}.mov", f"{H264} {AUDIO['aac']} {LAYOUTS[layout]}")
        self.add("h264-timecode.mov", f"{H264} {AUDIO['aac']} -timecode 01:00:00:00", rate="25")

    def plan_matroska(self) -> None:
        for video, audio in itertools.product(["vp8", "vp9", "av1"], ["opus", "vorbis", "silent"]):
            for more, options in {"": "", "-front": "-cues_to_front 1", "-short": "-cluster_time_limit 200"}.items():
                self.add(f"{video}-{audio}{more}.webm", f"{VIDEO[video]} {AUDIO[audio]} {options}")
        videos = ["h264", "hevc", "mpeg4", "ffv1", "theora", "vp9"]
        for video, audio in itertools.product(videos, ["aac", "flac", "silent"]):
            self.add(f"{video}-{audio}.mkv", f"{VIDEO[video]} {AUDIO[audio]}")
        for video, end in itertools.product(["vp8", "vp9"], ["webm", "mkv"]):
            self.add(f"{video}-live.{end}", f"{VIDEO[video]} -an -live 1", seconds=14)
        for audio in ("ac3", "eac3", "mp3", "pcm", "alac", "vorbis", "opus"):
            self.add(f"h264-{audio}.mkv", f"{H264} {AUDIO[audio]}")

    def plan_shapes(self) -> None:
        uneven = "select='not(mod(n\\,7))+mod(n\\,3)'"
        for end in ("mp4", "mov", "mkv"):
            for ratio in ("4/3", "16/11", "12/11", "2/1", "3/4"):
                self.add(f"ratio-{ratio.replace('/', '-')}.{end}", f"{H264} {AUDIO['aac']}", filters=f"setsar={ratio}")
            self.add(f"uneven.{end}", f"{H264} {AUDIO['aac']} -vsync vfr", filters=uneven, rate="25")
        self.add("ratio.webm", f"{VIDEO['vp9']} -an", filters="setsar=8/9")
        self.add("uneven.webm", f"{VIDEO['vp8']} -an -vsync vfr", filters=uneven, rate="25")
        for turn, end in itertools.product(("90", "180", "270"), ("mp4", "mov")):
            self.add(f"turned-{turn}.{end}", f"{H264} {AUDIO['aac']} -metadata:s:v rotate={turn}", filters="setsar=1")
        self.add("cut.mp4", f"{H264} {AUDIO['aac']} CUT -ss 1.3 -t 1.5", seconds=4)
        self.add("cut-late.mp4", f"{VIDEO['h264b']} {AUDIO['aac']} CUT -ss 0.9 -t 2", seconds=4)
        self.add("cut.mov", f"{H264} {AUDIO['aac']} CUT -ss 1.3 -t 1.5", seconds=4)
        self.add("delayed-sound.mp4", f"{H264} {AUDIO['aac']} -af adelay=400", seconds=2)


def make(folder: Path, name: str, given: str, output: str) -> Path:
    path = folder / name
    start = ["ffmpeg", "-hide_banner", "-loglevel", "error", "-y", "-fflags", "+bitexact"]
    output, _, cut = output.partition(" CUT ")
    output, wide = output.removesuffix(" WIDE"), output.endswith(" WIDE")
    if "rotate=" in output:
        whole = path.with_name(f"whole-{name}")
        output, _, turn = output.partition(" -metadata")
        subprocess.run([*start, *given.split(), *output.split(), "-shortest", whole], check=True)
        subprocess.run(
            [*start, "-i", whole, "-c", "copy", f"-metadata{turn.split()[0]}", turn.split()[1], path], check=True
        )
        whole.unlink()
    elif cut:
        whole = path.with_name(f"whole-{name}")
        subprocess.run([*start, *given.split(), *output.split(), whole], check=True)
        subprocess.run([*start, "-i", whole, *cut.split(), "-c", "copy", path], check=True)
        whole.unlink()
    else:
        subprocess.run([*start, *given.split(), *output.split(), path], check=True)
    if wide:
        path.write_bytes(widen(path.read_bytes()))
    return path


def widen(data: bytes) -> bytes:
    """The same file with a 64-bit size on ``mdat``, in place of the empty box that ffmpeg leaves room with."""
    found = data.index(b"\0\0\0\x08free")
    size, kind = struct.unpack_from(">I4s", data, found + 8)
    assert kind == b"mdat", kind
    return data[:found] + struct.pack(">I4sQ", 1, kind, size + 8) + data[found + 16 :]


def ask_ffprobe(path: Path, *, exact: bool = False) -> dict[str, object]:
    """Its facts; ``exact`` reads every packet, which ffprobe's own figures do not where an index is incomplete."""
    entries = "format=duration,start_time:stream=codec_type,codec_name,width,height,sample_aspect_ratio,avg_frame_rate"
    entries += ":stream_side_data=rotation:stream_tags=rotate"
    if exact:
        entries += ":packet=codec_type,pts_time,dts_time,duration_time"
    told = subprocess.run(
        ["ffprobe", "-v", "error", "-of", "json", "-show_entries", entries, path], check=True, capture_output=True
    )
    found = json.loads(told.stdout)
    video = next(s for s in found["streams"] if s["codec_type"] == "video")
    sound = next((s for s in found["streams"] if s["codec_type"] == "audio"), None)
    across, _, down = video.get("sample_aspect_ratio", "1:1").partition(":")
    ratio = int(across) / int(down) if int(across or 0) and int(down or 0) else 1
    width, height = round(video["width"] * ratio), video["height"]
    turned = next((abs(d["rotation"]) for d in video.get("side_data_list", []) if "rotation" in d), 0)
    if turned % 180 == 90:
        width, height = height, width
    frames, _, per = video["avg_frame_rate"].partition("/")
    fps = int(frames) / int(per) if int(per) else None
    seconds = float(found["format"]["duration"]) if "duration" in found["format"] else None
    if exact:
        frame = 1 / fps if fps else 0.0  # ffprobe 5 gives some packets no duration
        ends = [
            float(p.get("dts_time", p.get("pts_time"))) + float(p.get("duration_time", frame)) for p in found["packets"]
        ]
        seconds = max(ends) - min(0, float(found["format"]["start_time"]))
        frames = [p for p in found["packets"] if p["codec_type"] == "video"]
        end = float(frames[-1]["dts_time"]) + float(frames[-1].get("duration_time", frame))
        fps = len(frames) / (end - float(frames[0]["dts_time"]))
    return {
        "seconds": seconds,
        "width": width,
        "height": height,
        "fps": fps,
        "video_codec": video["codec_name"],
        "audio_codec": sound and sound["codec_name"].split("_")[0] if sound else None,
        "has_sound": sound is not None,
        "container": path.suffix[1:],
    }


def read_whole(data: bytes) -> MediaReader:
    reader = MediaReader()
    reader.feed(data)
    reader.finish(len(data))
    return reader


def is_near(name: str, ours: object, theirs: object) -> bool:
    if ours is None or theirs is None or not isinstance(ours, float):
        return ours == theirs
    return math.isclose(ours, theirs, rel_tol=0.001 if name == "fps" else 0, abs_tol=0.0015)


EXPLAINED = {
    "h264b-aac-cmaf.mp4": "ffprobe 5 shifts such frames too, and counts the last packet of sound whole; the file does not",
    "hevc-aac-cmaf.mp4": "ffprobe shifts frames that are shown before they are decoded; the file does not",
}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument(
        "--keep", type=Path, help="a folder for the files, which are made anew where they are missing"
    )
    given = arguments.parse_args()
    if shutil.which("ffmpeg") is None or shutil.which("ffprobe") is None:
        sys.exit("ffmpeg and ffprobe are needed: apt-get install ffmpeg")
    folder = given.keep or Path(tempfile.mkdtemp(prefix="media-facts-"))
    folder.mkdir(exist_ok=True)
    plans = Plans().files
    assert len({name for name, _, _ in plans}) == len(plans)
    with ThreadPoolExecutor(2) as pool:
        missing = [each for each in plans if not (folder / each[0]).exists()]
        list(pool.map(lambda each: make(folder, *each), missing))
    differing = explained = exact = 0
    slowest = on_disk = (0.0, "", 0)
    for name in (name for name, _, _ in plans):
        path = folder / name
        data = path.read_bytes()
        costs, costs_on_disk = [], []
        with path.open("rb") as file:
            for _ in range(5):
                began = time.thread_time()
                reader = read_whole(data)
                ours = reader.media.to_dict()
                costs.append(time.thread_time() - began)
                began = time.thread_time()
                assert read_media(file.fileno(), len(data)) == (reader.media, None)
                costs_on_disk.append(time.thread_time() - began)
        slowest = max(slowest, (min(costs), name, reader.steps))
        on_disk = max(on_disk, (min(costs_on_disk), name, reader.steps))
        theirs = ask_ffprobe(path)
        far = [fact for fact in theirs if not is_near(fact, ours[fact], theirs[fact])]
        if far:
            packets = ask_ffprobe(path, exact=True)
            exact += 1
            far = [fact for fact in far if not is_near(fact, ours[fact], packets[fact])]
        for fact in far:
            print(f"{path}: {fact} is {ours[fact]!r}, ffprobe says {theirs[fact]!r} {EXPLAINED.get(name, '')}")
        explained += bool(far and name in EXPLAINED)
        differing += bool(far and name not in EXPLAINED)
    print(
        f"{len(plans)} files, {differing} differ and {explained} differ for a known reason; for {exact} the packets were read"
    )
    for words, (cost, name, steps) in {"from memory": slowest, "on disk, reads included": on_disk}.items():
        print(f"the slowest {words}: {1000 * cost:.3f} ms of CPU, {name}, {steps} boxes or elements")
    sys.exit(bool(differing))


if __name__ == "__main__":
    main()
