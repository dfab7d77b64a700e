"""Words on a frame: a font that covers them, lines that fit, escapes for what no font covers.

Noto Sans comes with the extra, so most scripts look the same everywhere; a font of the system helps out where it covers
more. This file never touches a video.
"""

from __future__ import annotations

import functools
import os
import struct
import threading
from pathlib import Path

from PIL import ImageDraw, ImageFont

_FOLDERS = (
    "/usr/share/fonts",
    "/usr/local/share/fonts",
    "~/.fonts",
    "~/.local/share/fonts",
    "/System/Library/Fonts",
    "/Library/Fonts",
    "C:/Windows/Fonts",
)
_HELPFUL = (
    "cjk",
    "noto",
    "dejavu",
    "unifont",
    "droid",
    "wqy",
    "hiragino",
    "pingfang",
    "arial unicode",
    "msyh",
    "symbola",
)
_ODD = ("bold", "italic", "oblique", "mono", "emoji", "light", "condensed", "serif", "math")
_MOST_FONTS = 40

Font = ImageFont.FreeTypeFont


@functools.cache
def own_font() -> Path:
    """Return the path of the Noto Sans that the extra brings."""
    import fontpkg_noto_sans  # type: ignore[import-untyped]  # noqa: PLC0415 - found only with the extra

    folder = Path(str(fontpkg_noto_sans.__file__)).parent / "files"
    return min(folder.glob("NotoSans*.ttf"), key=lambda path: ("Italic" in path.name, path.name))


def load_font(path: Path, size: int, bold: bool = False) -> Font:
    """Return a font in a size.

    Args:
        path: Its file.
        size: Pixels.
        bold: Whether a variable font is set to bold.
    """
    return _load_font(path, size, bold, threading.get_ident())


@functools.lru_cache(maxsize=256)
def _load_font(path: Path, size: int, bold: bool, _thread: int) -> Font:
    # FreeType's faces must not be shared by threads.
    font = ImageFont.truetype(str(path), size)
    if bold and path == own_font():
        names = [str(axis.get("name")) for axis in font.get_variation_axes()]
        font.set_variation_by_axes([700 if "eight" in name else 100 for name in names])
    return font


@functools.cache
def read_coverage(path: Path) -> frozenset[int]:
    """Return the code points that a font file has glyphs for, read from its ``cmap``.

    Args:
        path: The file; a collection counts as its first font.
    """
    try:
        data = path.read_bytes()
        start = struct.unpack_from(">I", data, 12)[0] if data[:4] == b"ttcf" else 0
        for place in range(start + 12, start + 12 + 16 * struct.unpack_from(">H", data, start + 4)[0], 16):
            if data[place : place + 4] == b"cmap":
                return frozenset(_read_cmap(data, struct.unpack_from(">I", data, place + 8)[0]))
    except (OSError, struct.error, IndexError):
        pass
    return frozenset()


def _read_cmap(data: bytes, base: int) -> set[int]:
    found: set[int] = set()
    for index in range(struct.unpack_from(">H", data, base + 2)[0]):
        table = base + struct.unpack_from(">I", data, base + 4 + 8 * index + 4)[0]
        form = struct.unpack_from(">H", data, table)[0]
        if form == 12:
            for group in range(struct.unpack_from(">I", data, table + 12)[0]):
                first, last = struct.unpack_from(">II", data, table + 16 + 12 * group)
                found.update(range(first, min(last, 0x10FFFF) + 1))
        elif form == 4:
            count = struct.unpack_from(">H", data, table + 6)[0] // 2
            ends = struct.unpack_from(f">{count}H", data, table + 14)
            starts = struct.unpack_from(f">{count}H", data, table + 16 + 2 * count)
            for first, last in zip(starts, ends, strict=True):
                found.update(range(first, last + 1) if last != 0xFFFF or first != 0xFFFF else ())
    return found


@functools.cache
def system_fonts() -> tuple[Path, ...]:
    """Return the font files of this machine that are likely to cover more than Noto Sans."""
    found: list[Path] = []
    for folder in _FOLDERS:
        for root, folders, names in os.walk(Path(folder).expanduser()):
            folders.sort()
            for name in sorted(names):
                low = name.lower()
                helpful = low.endswith((".ttf", ".otf", ".ttc")) and any(word in low for word in _HELPFUL)
                if helpful and not any(word in low for word in _ODD):
                    found.append(Path(root) / name)
    return tuple(found[:_MOST_FONTS])


@functools.cache
def _font_for(point: int) -> Path | None:
    if point in read_coverage(own_font()):
        return own_font()
    return next((path for path in system_fonts() if point in read_coverage(path)), None)


def split_runs(text: str) -> list[tuple[str, Path]]:
    """Return the pieces of a text, each with the font to set it in; what no font covers is escaped.

    Args:
        text: One line.
    """
    runs: list[tuple[str, Path]] = []
    for char in text:
        path = _font_for(ord(char)) if char.isprintable() else None
        piece, path = (char, path) if path is not None else (f"\\u{{{ord(char):x}}}", own_font())
        if runs and runs[-1][1] == path:
            runs[-1] = (runs[-1][0] + piece, path)
        else:
            runs.append((piece, path))
    return runs


def measure(text: str, size: int, *, bold: bool = False) -> float:
    """Return the width of a line, in pixels.

    Args:
        text: The line.
        size: Pixels.
        bold: Whether it is bold.
    """
    return sum(load_font(path, size, bold).getlength(piece) for piece, path in split_runs(text))


def write_line(  # noqa: D417 - ink is an ImageDraw
    ink: ImageDraw.ImageDraw,
    place: tuple[float, float],
    text: str,
    size: int,
    fill: tuple[int, ...],
    *,
    bold: bool = False,
) -> None:
    """Write one line.

    Args:
        place: Left end and baseline, in pixels.
        text: The line.
        size: Pixels.
        fill: Colour.
        bold: Whether it is bold.
    """
    left, base = place
    for piece, path in split_runs(text):
        font = load_font(path, size, bold)
        ink.text((left, base), piece, font=font, fill=fill, anchor="ls")
        left += font.getlength(piece)


def wrap(text: str, width: float, lines: int, sizes: range, *, bold: bool = False) -> tuple[list[str], int]:
    """Return the lines of a text and the largest size in which they fit; the rest is cut with an ellipsis.

    Args:
        text: Any text.
        width: Pixels a line may have.
        lines: Lines there may be.
        sizes: Sizes to try, largest first.
        bold: Whether it is bold.
    """
    text = " ".join(text.split())[:2000]
    found: list[str] = []
    for size in sizes:
        found = _break(text, width, size, bold=bold, most=lines + 1)
        if len(found) <= lines:
            return found, size
    size = sizes[-1]
    last = found[lines - 1]
    while last and measure(last + "…", size, bold=bold) > width:
        last = last[:-1]
    return [*found[: lines - 1], last + "…"], size


def _break(text: str, width: float, size: int, *, bold: bool, most: int) -> list[str]:
    lines: list[str] = []
    line = ""
    for word in text.split(" "):
        trial = f"{line} {word}" if line else word
        if measure(trial, size, bold=bold) <= width:
            line = trial
            continue
        if line:
            lines.append(line)
        line = word
        while measure(line, size, bold=bold) > width and len(line) > 1:
            end = len(line) - 1
            while end > 1 and measure(line[:end], size, bold=bold) > width:
                end = end * 3 // 4 if end > 12 else end - 1
            lines.append(line[:end])
            line = line[end:]
        if len(lines) >= most:
            return lines
    return [*lines, line] if line or not lines else lines
