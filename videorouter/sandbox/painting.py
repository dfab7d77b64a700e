"""The frames of a scene, drawn with Pillow.

A generation is a moving sky with its prompt; a picture that the request names is the whole first frame; an edit shows
its parent, tinted behind and small in a corner, so that one sees what was edited. This file never encodes a video.
"""

from __future__ import annotations

import colorsys
import hashlib
import io
import math
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFilter, ImageOps

from videorouter.sandbox.lettering import measure, wrap, write_line

if TYPE_CHECKING:
    from videorouter.sandbox.scene import Picture, Scene

Colour = tuple[int, int, int]
_WHITE = (255, 255, 255)
_MOST_PIXELS = 64_000_000


class Painter:
    """Draws the frames of one scene.

    Args:
        scene: What they show.
        live: Whether a parent moves in its corner, too.
    """

    def __init__(self, scene: Scene, *, live: bool = True) -> None:
        self.scene = scene
        self.unit: float = min(scene.width, scene.height) / 360
        mark = hashlib.blake2b(f"{scene.prompt}|{scene.seed}|{scene.take}".encode("utf-8", "replace")).digest()
        self.hue: float = mark[0] / 256
        self._drift = mark[1] / 256
        self._parent = None if scene.parent is None else Painter(scene.parent, live=False)
        self._still = None if self._parent is None else self._parent.paint(self._parent.scene.frames // 2)
        self._live = live
        self._first = None if scene.first is None else _fit(scene.first, scene, self.unit)
        self._last = None if scene.last is None else _fit(scene.last, scene, self.unit)
        self._ground = self._paint_ground()
        self._words = self._paint_words()

    def paint(self, number: int) -> Image.Image:
        """Return one frame.

        Args:
            number: Counted from 0.
        """
        scene = self.scene
        part = number / (scene.frames - 1)
        frame = self._ground.copy()
        if self._first is not None:
            frame = _zoom(self._first, 1 + 0.08 * part)
        if self._last is not None:
            share = max(0.0, min(1.0, (part - 0.6) / 0.35))
            frame = Image.blend(frame, self._last, share)
        if self._first is None and self._last is None:
            self._move(frame, part)
        if self._parent is not None:
            self._inset(frame, number)
        # A picture is the first frame by itself: the words come in over the first third.
        share = 1.0 if self._first is None else min(1.0, part * 4)
        if share >= 1:
            frame.paste(self._words, (0, 0), self._words)
        elif share > 0:
            frame.paste(self._words, (0, 0), self._words.getchannel("A").point(lambda value: int(value * share)))
        self._mark(frame, part)
        return frame

    def _paint_ground(self) -> Image.Image:
        scene = self.scene
        if self._still is not None:
            base = ImageOps.fit(self._still, (scene.width, scene.height)).filter(
                ImageFilter.GaussianBlur(6 * self.unit)
            )
            return Image.blend(base, Image.new("RGB", base.size, _colour(self.hue, 0.75, 0.45)), 0.55)
        top, bottom = _colour(self.hue, 0.62, 0.62), _colour(self.hue + 0.12, 0.75, 0.24)
        shade = Image.linear_gradient("L").resize((scene.width, scene.height))
        return Image.composite(Image.new("RGB", shade.size, bottom), Image.new("RGB", shade.size, top), shade)

    def _move(self, frame: Image.Image, part: float) -> None:
        scene, unit = self.scene, self.unit
        ink = ImageDraw.Draw(frame, "RGBA")
        turn = 2 * math.pi * (part * max(1, round(scene.seconds / 2)) + self._drift)
        for place, (reach, size) in enumerate(((0.30, 70), (0.38, 44), (0.22, 26))):
            angle = turn * (1 if place % 2 == 0 else -1) + place * 2.1
            x = scene.width * (0.5 + 1.25 * reach * math.cos(angle))
            y = scene.height * (0.5 + reach * math.sin(angle))
            radius = size * unit
            ink.ellipse(
                (x - radius, y - radius, x + radius, y + radius),
                fill=(*_colour(self.hue + 0.08 * (place + 1), 0.6, 0.95), 120),
            )

    def _inset(self, frame: Image.Image, number: int) -> None:
        parent, scene, unit = self._parent, self.scene, self.unit
        if parent is None or self._still is None:
            return
        picture = parent.paint(number % parent.scene.frames) if self._live else self._still
        width = round(scene.width * 0.42)
        height = max(2, round(width * parent.scene.height / parent.scene.width))
        if height > scene.height * 0.45:
            height = round(scene.height * 0.45)
            width = max(2, round(height * parent.scene.width / parent.scene.height))
        left, top, edge = scene.width - width - round(18 * unit), round(18 * unit), max(1, round(3 * unit))
        ImageDraw.Draw(frame).rectangle(
            (left - edge, top - edge, left + width + edge - 1, top + height + edge - 1), _WHITE
        )
        frame.paste(picture.resize((width, height), Image.Resampling.BILINEAR), (left, top))

    def _paint_words(self) -> Image.Image:
        scene, unit = self.scene, self.unit
        layer = Image.new("RGBA", (scene.width, scene.height), (0, 0, 0, 0))
        ink = ImageDraw.Draw(layer)
        margin = 24 * unit
        room = scene.width - 2 * margin
        low = self._parent is not None or scene.first is not None or scene.last is not None
        largest = round((24 if low else 34) * unit)
        sizes = range(max(8, largest), max(7, round(13 * unit)) - 1, -2)
        lines, size = wrap(scene.prompt, room, 3 if low else 5, sizes, bold=True)
        step = size * 1.3
        foot = scene.height - 52 * unit
        top = foot - step * len(lines) - 6 * unit if low else (scene.height - step * len(lines)) / 2
        if low:
            head = top - (22 * unit if scene.parent else 6 * unit)
            ink.rectangle((0, head, scene.width, scene.height), fill=(0, 0, 0, 150))
            if scene.parent is not None:
                self._write_parent(ink, scene.parent.prompt, margin, top - 4 * unit, room)
        for place, line in enumerate(lines):
            left = margin if low else (scene.width - measure(line, size, bold=True)) / 2
            base = top + step * (place + 0.8)
            write_line(ink, (left + unit, base + unit), line, size, (0, 0, 0, 150), bold=True)
            write_line(ink, (left, base), line, size, (*_WHITE, 255), bold=True)
        self._write_foot(ink, margin, room)
        for place, picture in enumerate(scene.references):
            small = _fit(picture, scene, unit).resize((round(72 * unit), round(48 * unit)))
            layer.paste(small, (round(margin + place * 80 * unit), round(44 * unit)))
        return layer

    def _write_parent(self, ink: ImageDraw.ImageDraw, prompt: str, left: float, base: float, room: float) -> None:
        size = max(8, round(13 * self.unit))
        lines, _ = wrap(f"edit of: {prompt}", room, 1, range(size, size - 1, -1))
        write_line(ink, (left, base), lines[0], size, (220, 220, 220, 255))

    def _write_foot(self, ink: ImageDraw.ImageDraw, margin: float, room: float) -> None:
        scene, unit = self.scene, self.unit
        size = max(8, round(14 * unit))
        take = f" · take {scene.take + 1}" if scene.take else ""
        text = f"{scene.model}{take} · {scene.width}×{scene.height}"  # noqa: RUF001 - the sign of multiplication
        lines, _ = wrap(text, room - 100 * unit, 1, range(size, size - 1, -1))
        write_line(ink, (margin, scene.height - 26 * unit), lines[0], size, (*_WHITE, 220))

    def _mark(self, frame: Image.Image, part: float) -> None:
        scene, unit = self.scene, self.unit
        ink = ImageDraw.Draw(frame, "RGBA")
        size = max(8, round(13 * unit))
        width = measure("SANDBOX", size, bold=True)
        left, top = 18 * unit, 14 * unit
        ink.rounded_rectangle(
            (left, top, left + width + 14 * unit, top + 20 * unit), 5 * unit, fill=(255, 214, 10, 235)
        )
        write_line(ink, (left + 7 * unit, top + 15 * unit), "SANDBOX", size, (20, 20, 20), bold=True)
        clock = f"{part * scene.seconds:.1f} / {scene.seconds:g} s"
        size = max(8, round(14 * unit))
        place = scene.width - 24 * unit - measure(clock, size)
        write_line(ink, (place, scene.height - 26 * unit), clock, size, _WHITE)
        bar, end = scene.height - 10 * unit, scene.width - 24 * unit
        ink.rectangle((24 * unit, bar - 3 * unit, end, bar), fill=(255, 255, 255, 70))
        ink.rectangle((24 * unit, bar - 3 * unit, 24 * unit + (end - 24 * unit) * part, bar), fill=(255, 214, 10))


def _colour(hue: float, saturation: float, value: float) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def _zoom(picture: Image.Image, factor: float) -> Image.Image:
    width, height = picture.size
    inner_width, inner_height = width / factor, height / factor
    left, top = (width - inner_width) / 2, (height - inner_height) / 2
    return picture.resize(
        (width, height), Image.Resampling.BILINEAR, box=(left, top, left + inner_width, top + inner_height)
    )


def _fit(picture: Picture, scene: Scene, unit: float) -> Image.Image:
    """Return a picture, whole, on the size of a frame; its own blur fills the rest."""
    size = (scene.width, scene.height)
    found = _open(picture.data)
    if found is None:
        card = Image.new("RGB", size, (52, 58, 70))
        ink = ImageDraw.Draw(card)
        lines, letters = wrap(picture.label, scene.width * 0.8, 3, range(max(9, round(18 * unit)), 8, -1))
        write_line(ink, (scene.width * 0.1, scene.height * 0.4), "picture not held by the sandbox", letters, _WHITE)
        for place, line in enumerate(lines):
            base = scene.height * 0.4 + letters * 1.4 * (place + 1)
            write_line(ink, (scene.width * 0.1, base), line, letters, (190, 200, 215))
        return card
    ground = ImageOps.fit(found, size).filter(ImageFilter.GaussianBlur(14 * unit)).point(lambda value: int(value * 0.6))
    whole = ImageOps.contain(found, size)
    ground.paste(whole, ((size[0] - whole.width) // 2, (size[1] - whole.height) // 2))
    return ground


def _open(data: bytes | None) -> Image.Image | None:
    if data is None:
        return None
    try:
        picture = Image.open(io.BytesIO(data))
        if picture.width * picture.height > _MOST_PIXELS:
            return None
        return ImageOps.exif_transpose(picture).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
