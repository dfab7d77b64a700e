"""Make the pictures of the README and of the front page anew, from the real thing. By hand:

    pip install -e '.[sandbox]' pyte
    python docs/assets/pictures.py film        # demo.svg: a batch in a real terminal, killed and run again
    python docs/assets/pictures.py gallery     # gallery.webp and gallery-dark.webp: the demo's page in Chromium

The film is what bash and ``videorouter`` wrote into a pseudo-terminal: nothing is drawn by hand, only long pauses are
cut short, and it begins where the first line has been answered. Chromium is ``CHROMIUM``, else ``chromium``.
"""

from __future__ import annotations

import fcntl
import html
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path

from videorouter.sandbox import Sandbox

HERE = Path(__file__).parent
COLUMNS, ROWS = 98, 25
CELL, LINE, SIZE = 8.4, 19, 14
EDGE, BAR = 18, 38
TICK, PAUSE, LAST = 0.08, 1.2, 5.0  # seconds: between frames at least, of stillness at most, of the last frame
PROMPT = "\x1b[1;32m$\x1b[0m "
RUN = "videorouter batch run prompts.csv -o clips -c 6 --price 3.20 --max-cost 80"
LINES = (
    "head -3 prompts.csv; wc -l < prompts.csv",
    f"timeout -s KILL 3.5 {RUN}",
    f"{RUN}   # the same again",
    "videorouter batch gallery clips",
)
SUBJECTS = ("A heron", "A paper boat", "A lighthouse", "Neon rain")
PLACES = ("at dawn", "in the fog", "from above", "in the first snow", "on an old film", "by night")
INK = "#c9d1d9"
COLOURS = {
    "black": "#6e7681", "red": "#ff7b72", "green": "#3fb950", "brown": "#d29922", "blue": "#79c0ff",
    "magenta": "#d2a8ff", "cyan": "#56d4dd", "white": INK, "default": INK,
}  # fmt: skip

# The film


def play(folder: Path, environment: dict[str, str]) -> list[tuple[float, bytes]]:
    """Type the lines into a real shell; what came back, and when. All until the first answer is one piece."""
    child, terminal = pty.fork()
    if child == 0:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        os.chdir(folder)
        os.execvpe("bash", ["bash", "--norc", "--noprofile", "-i"], environment)
    heard: list[tuple[float, bytes]] = []
    began = time.monotonic()

    def listen(until: bytes | None = None, seconds: float = 0.0) -> None:
        end, tail = time.monotonic() + (seconds or 60), b""
        while time.monotonic() < end:
            if select.select([terminal], [], [], 0.02)[0]:
                piece = os.read(terminal, 65536)
                heard.append((time.monotonic() - began, piece))
                tail = (tail + piece)[-200:]
                if until is not None and tail.endswith(until):
                    return

    listen(PROMPT.encode())
    for line in LINES:
        listen(seconds=0.6)
        for letter in line:
            os.write(terminal, letter.encode())
            listen(seconds=0.03)
        listen(seconds=0.3)
        os.write(terminal, b"\n")
        listen(PROMPT.encode())
        if line == LINES[0]:  # a film that opens on an empty screen looks broken
            heard[:] = [(0.0, b"".join(piece for _, piece in heard))]
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return heard


def develop(heard: list[tuple[float, bytes]]) -> list[tuple[float, tuple[str, ...]]]:
    """Frames: a time, and the lines of the screen as SVG. Frames that show the same are one."""
    import pyte  # noqa: PLC0415  only the film needs it

    screen = pyte.Screen(COLUMNS, ROWS)
    stream = pyte.ByteStream(screen)
    frames: list[tuple[float, tuple[str, ...]]] = []
    now, before = 0.0, 0.0
    for at, piece in heard:
        stream.feed(piece)
        now, before = now + min(at - before, PAUSE), at
        lines = tuple(draw_line(screen.buffer[row]) for row in range(ROWS))
        if frames and now - frames[-1][0] < TICK:
            frames[-1] = (frames[-1][0], lines)
        elif not frames or frames[-1][1] != lines:
            frames.append((now, lines))
    return frames


def draw_line(cells: dict) -> str:
    """One line of the screen, as pieces of text of one look each."""
    looks = [(cells[column].fg, cells[column].bold) for column in range(COLUMNS)]
    text = "".join(cells[column].data for column in range(COLUMNS)).rstrip()
    parts, start = [], 0
    while start < len(text):
        end = start + 1
        while end < len(text) and looks[end] == looks[start]:
            end += 1
        words = text[start:end]
        if words.strip():
            colour, bold = looks[start]
            fill = COLOURS.get(colour.removeprefix("bright"), f"#{colour}")
            look = f' fill="{fill}"' if fill != INK else ""
            look += ' font-weight="700"' if bold else ""
            lead = len(words) - len(words.lstrip())
            words = words.strip()
            width = f' textLength="{len(words) * CELL:.1f}"' if len(words) > 3 else ""
            parts.append(f'<text x="{(start + lead) * CELL:.1f}"{width}{look}>{html.escape(words)}</text>')
        start = end
    return "".join(parts)


def print_film(frames: list[tuple[float, tuple[str, ...]]]) -> str:
    """The frames as one SVG that plays by itself, without a script."""
    known: dict[str, str] = {}
    for _, lines in frames:
        for line in filter(None, lines):
            known.setdefault(line, f"l{len(known)}")
    width, height = COLUMNS * CELL + 2 * EDGE, ROWS * LINE + BAR + EDGE
    length = frames[-1][0] + LAST
    strip, keys = [], []
    for number, (at, lines) in enumerate(frames):
        strip.append(f'<g transform="translate(0 {number * height:.0f})">')
        strip += [f'<use href="#{known[line]}" y="{row * LINE}"/>' for row, line in enumerate(lines) if line]
        strip.append("</g>")
        keys.append(f"{at / length * 100:.2f}%{{transform:translateY({-number * height:.0f}px)}}")
    last = f"translateY({-(len(frames) - 1) * height:.0f}px)"
    keys.append(f"100%{{transform:{last}}}")
    symbols = "".join(f'<g id="{name}">{line}</g>' for line, name in known.items())
    dots = "".join(
        f'<circle cx="{EDGE + 6 + step * 18}" cy="20" r="5.5" fill="{colour}"/>'
        for step, colour in enumerate(("#ff5f57", "#febc2e", "#28c840"))
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" role="img">'
        "<title>A batch of 24 videos is killed in the middle; the same command finishes it</title>"
        f"<style>text{{font:{SIZE}px ui-monospace,SFMono-Regular,Menlo,Consolas,"
        "DejaVu Sans Mono,monospace;white-space:pre}"
        f".film{{animation:film {length:.1f}s step-end infinite}}@keyframes film{{{''.join(keys)}}}"
        f"@media (prefers-reduced-motion:reduce){{.film{{animation:none;transform:{last}}}}}</style>"
        f'<defs>{symbols}<clipPath id="screen"><rect width="{width - EDGE:.0f}" height="{ROWS * LINE + 6}"/></clipPath></defs>'
        f'<rect x="0.5" y="0.5" width="{width - 1:.0f}" height="{height - 1}" rx="9" fill="#0d1117" stroke="#30363d"/>{dots}'
        f'<g transform="translate({EDGE} {BAR})" fill="{INK}"><g clip-path="url(#screen)"><g class="film" '
        f'transform="translate(0 {-(len(frames) - 1) * height})"><g transform="translate(0 {SIZE})">{"".join(strip)}</g></g></g></g></svg>\n'
    )


def make_film() -> None:
    """Record ``demo.svg``."""
    with tempfile.TemporaryDirectory() as folder:
        rows = [f"{subject} {place},google/veo3.1/text-to-video" for place in PLACES for subject in SUBJECTS]
        (Path(folder) / "prompts.csv").write_text("\n".join(["prompt,model", *rows]) + "\n")
        with Sandbox(mode="mixed", latency=(0.3, 1.2), size=(320, 180), seconds=1.0).in_thread() as sandbox:
            environment = os.environ | {
                "INFRON_VIDEO_BASE_URL": sandbox.base_url,
                "INFRON_API_KEY": "anything",
                "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
                "PS1": "\\[\x1b[1;32m\\]$\\[\x1b[0m\\] ",
                "TERM": "xterm-256color",
                "HISTFILE": "",
                "BASH_SILENCE_DEPRECATION_WARNING": "1",
            }
            heard = play(Path(folder), environment)
            charges = sandbox.charges()
    assert len(charges) == len(rows), charges
    assert set(charges.values()) == {1}, charges
    film = print_film(develop(heard))
    (HERE / "demo.svg").write_text(film)
    print(f"demo.svg: {len(film) / 1000:.0f} kB; {len(charges)} prompts, each charged once")


# The gallery


def make_gallery() -> None:
    """Photograph ``gallery.webp`` and ``gallery-dark.webp``."""
    from PIL import Image  # noqa: PLC0415  only the photographs need it

    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        subprocess.run([sys.executable, "-m", "videorouter.cli", "demo", "-q", "-o", str(home / "demo")], check=True)
        page = home / "demo" / "index.html"
        # As it looks while the videos play: their controls hide themselves then
        page.write_text(page.read_text().replace("<video controls", "<video autoplay"))
        for name, scheme in (("gallery", 1), ("gallery-dark", 0)):
            shot = home / f"{name}.png"
            command = [
                os.environ.get("CHROMIUM", "chromium"), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
                "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
                f"--user-data-dir={home / 'profile'}", f"--blink-settings=preferredColorScheme={scheme}",
                "--virtual-time-budget=4000", "--window-size=1180,1050", "--force-device-scale-factor=1.5",
                f"--screenshot={shot}", page.as_uri(),
            ]  # fmt: skip
            subprocess.run(command, check=True, capture_output=True, timeout=120)
            place = HERE / f"{name}.webp"
            Image.open(shot).convert("RGB").save(place, quality=82, method=6)
            print(f"{place.name}: {place.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    {"film": make_film, "gallery": make_gallery}[sys.argv[1]]()
