"""Where words go: data to stdout, everything else to stderr.

Text that came from elsewhere is shown without control characters, so that no answer of a server can drive a terminal.
Colours only on a terminal, and never with ``NO_COLOR``. Nothing here knows what the words are about.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, Protocol, TextIO

if TYPE_CHECKING:
    import argparse

_CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}
_BIDI = "\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


class Printer(Protocol):
    """Whatever owns the terminal for a while: lines must go through it."""

    def print(self, text: str) -> None:
        """Show one line above what is drawn."""


class Console:
    """The two streams of a command."""

    def __init__(self, *, json: bool = False, quiet: bool = False, verbose: bool = False) -> None:
        self.json = json
        self.quiet = quiet
        self.verbose = verbose
        self.printer: Printer | None = None
        self._gone: OutputGoneError | None = None

    @classmethod
    def of(cls, args: argparse.Namespace) -> Console:
        """The console that a command line asked for."""
        return cls(
            json=getattr(args, "json", False),
            quiet=getattr(args, "quiet", False),
            verbose=getattr(args, "verbose", False),
        )

    def data(self, text: str) -> None:
        """Write a line of data."""
        self._write(sys.stdout, clean(text))

    def record(self, values: object) -> None:
        """Write one JSON object as a line of data."""
        import json  # noqa: PLC0415

        self._write(sys.stdout, json.dumps(values, ensure_ascii=False, default=str))

    def say(self, text: str) -> None:
        """Tell something; ``--quiet`` leaves it out."""
        if not self.quiet:
            self._write(sys.stderr, text)

    def tell(self, text: str) -> None:
        """Tell something that must be seen, also with ``--quiet``: an error, or a job that is paid and not collected."""
        self._write(sys.stderr, text)

    def style(self, text: str, *styles: str, stream: TextIO | None = None) -> str:
        """Text in colour, where the stream is a terminal that wants it."""
        if not has_colour(stream or sys.stderr):
            return text
        return f"\x1b[{';'.join(_CODES[name] for name in styles)}m{text}\x1b[0m"

    def _write(self, stream: TextIO, text: str) -> None:
        if self.printer is not None and stream.isatty():
            self.printer.print(text)
            return
        if self._gone is not None and stream is sys.stdout:
            raise self._gone
        try:
            stream.write(f"{text}\n")
            stream.flush()
        except OSError as error:
            abandon(stream)
            if stream is sys.stdout:
                self._gone = OutputGoneError(error.errno, f"stdout cannot be written: {error.strerror or error}")
                raise self._gone from error


class OutputGoneError(BrokenPipeError):
    """Stdout takes no more: its reader went away, or the disk behind it is full. Each later write raises it again."""


def abandon(stream: TextIO) -> None:
    """Let a stream that takes no more swallow all that follows; the interpreter would complain of it at its end."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


def has_colour(stream: TextIO) -> bool:
    """Whether colours are wanted on a stream."""
    return is_terminal(stream) and not os.environ.get("NO_COLOR")


def ask(console: Console, words: str, question: str) -> bool:
    """Tell something and ask somebody at the terminal, who must say yes."""
    console.tell(clean(words))
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def is_terminal(stream: TextIO) -> bool:
    """Whether a stream is a terminal that can be drawn on."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def clean(text: object) -> str:
    """Text without control characters: they are shown as escapes, line ends as a space."""
    return "".join(_show(char) for char in " ".join(str(text).splitlines()))


def _show(char: str) -> str:
    code = ord(char)
    if code < 32 or 127 <= code < 160 or char in _BIDI or 0xD800 <= code < 0xE000:
        return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
    return char


def say_size(count: int) -> str:
    """Bytes in words."""
    if count < 1000:
        return f"{count} B"
    size = float(count)
    for unit in ("kB", "MB", "GB"):
        size /= 1000
        if size < 999.5 or unit == "GB":
            return f"{size:.1f} {unit}" if size < 99.5 else f"{size:.0f} {unit}"
    raise AssertionError(count)


def say_time(seconds: float) -> str:
    """Seconds in words."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"


def plain(record: Any) -> Any:
    """A record of this package as plain values without empty fields."""
    import msgspec  # noqa: PLC0415

    values = msgspec.to_builtins(record)
    return {name: value for name, value in values.items() if value is not None} if isinstance(values, dict) else values
