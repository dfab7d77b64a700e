"""An API key that never shows: not in a repr, a log, a pickle, a traceback, nor where a server echoes it.

This file performs no I/O.
"""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Callable

REDACTED = "<redacted>"
_SHORT_KEY = 4
_LEAST_PREFIX = 6
_LEAST_BASE64 = 8


class Secret:
    """An API key that does not show: repr, str, format and pickle return ``<redacted>``."""

    __slots__ = ("_redact", "_reveal", "is_in")

    def __init__(self, value: str) -> None:
        # Closures, not attributes: vars(), dataclass dumps and debuggers' attribute views find no text here.
        self._reveal: Callable[[], str] = lambda: value
        self._redact: Callable[[str], str] | None = None
        needle: bytes = Sealed(value.encode("latin-1", "replace"))
        # `in` first takes the needle for a number, and throws the error away: four times the price.
        self.is_in: Callable[[bytes], bool] = lambda data: data.find(needle) >= 0
        """Whether bytes contain the bare key."""

    def reveal(self) -> str:
        """Return the key. Call it only where the header is built, in a frame that cannot raise."""
        return self._reveal()

    def redact(self, text: str) -> str:
        """Remove the key from a text, in whatever spelling a server may have echoed it, or cut it at the end."""
        if self._redact is None:
            self._redact = _build_redactor(self._reveal())
        return self._redact(text)

    def __repr__(self) -> str:
        return REDACTED

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(REDACTED, spec)

    def __reduce__(self) -> tuple[type[Secret], tuple[str]]:
        return Secret, (REDACTED,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self.reveal() == other.reveal()

    def __hash__(self) -> int:
        return hash(self.reveal())


class Sealed(bytes):
    """A header's value that does not show: bytes on the wire, ``<redacted>`` in every repr, text and pickle."""

    __slots__ = ()

    def __repr__(self) -> str:
        return REDACTED

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(REDACTED, spec)

    def __reduce__(self) -> tuple[type[Sealed], tuple[bytes]]:
        return Sealed, (REDACTED.encode(),)


def seal(value: object) -> object:
    """Wrap text as a :class:`Secret`, before anything can raise with it in a local; return other values unchanged."""
    return Secret(value) if isinstance(value, str) else value


def authorize(key: Secret, scheme: str | None) -> Sealed:
    """Build the value of the ``Authorization`` header: bare unless a scheme is set, and never with two schemes."""
    text = key.reveal()
    if scheme is not None and not text.lower().startswith(f"{scheme.lower()} "):
        text = f"{scheme} {text}"
    return Sealed(text.encode("ascii"))


def _build_redactor(key: str) -> Callable[[str], str]:
    """Build a function that removes the key from a text: bare, escaped, percent-encoded, or cut off."""
    bare = key.partition(" ")[2].strip() if key.lower().startswith("bearer ") else key.strip()
    spelling = "".join(_match_spellings(char) for char in bare)
    if len(bare) < _SHORT_KEY:
        # So short a key is a test's; whole words only, or it would cut holes into every message.
        spelling = rf"(?<![\w]){spelling}(?![\w])"
    find = re.compile("|".join((spelling, *_match_base64(bare))))
    forms = {bare, quote(bare, safe=""), quote(bare), bare.replace("/", "\\/")}
    starts = sorted({form[:size] for form in forms for size in range(_LEAST_PREFIX, len(form))}, key=len, reverse=True)

    def redact(text: str) -> str:
        text = find.sub(REDACTED, text)
        for start in starts:
            if text.endswith(start):
                return text[: -len(start)] + REDACTED
        return text

    return redact


def _match_spellings(char: str) -> str:
    """Build a pattern of all the spellings of one character of a key.

    Each repetition has an end: without one, an answer that is all backslashes would take minutes to search.
    """
    number = ord(char)
    named = f"|&(?:amp;){{0,4}}{_ENTITIES[char]};" if char in _ENTITIES else ""
    return (
        rf"(?:%(?:25){{0,4}}(?i:{number:02x})|\\{{1,8}}u00(?i:{number:02x})|\\{{1,8}}x(?i:{number:02x})"
        rf"|&(?:amp;){{0,4}}#0{{0,8}}{number};|&(?:amp;){{0,4}}#[xX]0{{0,8}}(?i:{number:x});{named}"
        rf"|\\?{re.escape(char)})"
    )


_ENTITIES = {"&": "amp", "<": "lt", ">": "gt", '"': "quot", "'": "apos"}


def _match_base64(key: str) -> list[str]:
    """Build patterns for the key in base64, at each alignment; none for a key that is too short."""
    if len(key) < _LEAST_BASE64:
        return []
    pieces: list[str] = []
    for before in range(3):
        text = base64.b64encode(b"\0" * before + key.encode("latin-1", "replace")).decode()
        # The characters at both ends hold bits of what stands around the key.
        whole = text.rstrip("=")[(before * 8 + 5) // 6 : (before + len(key)) * 8 // 6]
        pieces.append("".join({"+": "[+-]", "/": "[/_]"}.get(char, char) for char in whole))
    return [f"[A-Za-z0-9+/_-]?{piece}[A-Za-z0-9+/_-]?=*" for piece in pieces]
