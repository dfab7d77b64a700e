"""Takes an answer that is too large for memory to the disk, and its inline videos out of it.

A finished answer may bring its video as base64 text. The raw bytes go to a file as they come; then each long base64
string is decoded into a file of its own, and a short one that nobody can guess takes its place, so that the rest is
read as any other answer. Bytes that make no sense stay in their file, which the error names.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import logging
import mmap
import os
import re
import secrets
import tempfile
import weakref
import zlib
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from videorouter.http import WireError, WireFailure
from videorouter.models import Task, TaskStatus, Video, VideoResult
from videorouter.threads import ThreadedResource

if TYPE_CHECKING:
    from collections.abc import Iterator

_BLOCK_BYTES = 2**20
_HEAD_BYTES = 2**16
_LONG_BYTES = 2**18
_MAX_FILES = 64
_TOKEN_BYTES = 24
_STRING = re.compile(rb'[^"\\]*(?:\\.[^"\\]*)*', re.DOTALL)
_ESCAPES = re.compile(rb"\\(?:[nrt]|u000[aAdD9])")
_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="
_STANDARD = bytes.maketrans(b"-_", b"+/")
_BASE64 = re.compile(rb"(?:data:[^,\"]{0,200},)?[A-Za-z0-9+/_=\s\\-]{4096}")
_MAX_RATIO = 16
_COMPRESSED = (b"\x1f\x8b", b"\x78\x01", b"\x78\x9c", b"\x78\xda")
_PREFIX = re.compile(rb"data:[^,\"]{0,200},")


log: logging.Logger = logging.getLogger("videorouter")


class FileBytes:
    """The bytes of an inline video, in an unnamed file that is deleted with its last reference."""

    __slots__ = ("view",)

    def __init__(self, file: BinaryIO) -> None:
        file.flush()
        self.view: memoryview = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))

    def __len__(self) -> int:
        return len(self.view)

    def __bytes__(self) -> bytes:
        return bytes(self.view)

    def __reduce__(self) -> tuple[type[bytes], tuple[bytes]]:
        return bytes, (bytes(self),)


def view_inline(video: Video) -> memoryview | None:
    """Return the bytes of an inline video, which may be mapped from disk."""
    data = video.__dict__.get("data_")
    if data is None:
        return None
    return data.view if isinstance(data, FileBytes) else memoryview(data)


class NotSplitError(Exception):
    """The answer is too large and holds no inline video that would explain it."""


class Spool:
    """One answer on its way to the disk: at most ``limit`` bytes, of which ``most`` may be left without its videos."""

    def __init__(self, *, limit: int, most: int) -> None:
        self.path: Path | None = None
        """The raw bytes, while their file stands."""
        self.size: int = 0
        self.head: bytes = b""
        self._limit = limit
        self._most = most
        self._parts: list[bytes] = []
        self._waiting = 0
        self._file: BinaryIO | None = None
        self._remove: weakref.finalize[[], Spool] | None = None
        self._files: dict[bytes, FileBytes] = {}

    async def write(self, piece: bytes) -> None:
        """Write the next bytes of the answer."""
        if not self.size:
            self.head = piece[:_HEAD_BYTES]
        self._parts.append(piece)
        self._waiting += len(piece)
        self.size += len(piece)
        del piece  # a traceback keeps this frame
        if self.size > self._limit:
            raise WireError(WireFailure.TOO_LARGE, f"the answer has more than {self._limit} bytes")
        if not self.head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"{", b"[", *_COMPRESSED)):
            raise WireError(WireFailure.TOO_LARGE, f"the answer has more than {self._most} bytes and is not JSON text")
        if self._waiting >= _BLOCK_BYTES:
            async with ThreadedResource(self._close) as owned:
                await owned.run(self._flush)

    async def finish(self) -> bytes:
        """Return the answer without its inline videos; ``attach`` restores them."""
        try:
            async with ThreadedResource(self._close) as owned:
                body, self._files = await owned.run(self._split)
        except NotSplitError as error:
            # Its frames hold megabytes of the answer, and an error may be kept for long.
            raise WireError(WireFailure.TOO_LARGE, str(error)) from error.with_traceback(None)
        return body

    def attach(self, answer: object) -> None:
        """Restore the videos in the result."""
        if isinstance(answer, Task | TaskStatus):
            answer = answer.result
        if isinstance(answer, VideoResult):
            for video in answer.videos:
                _attach(video, self._files)
            if self._remove is not None:
                self._remove()

    def keep(self) -> Path | None:
        """Keep the raw bytes on disk; return their path if anything was written."""
        with contextlib.suppress(OSError):
            self._flush()
        self._close()
        if self._remove is not None:
            self._remove.detach()
        return self.path

    def keep_cancelled(self) -> None:
        """Keep them for a call that was cancelled after the answer was complete, and log where they are."""
        log.warning(
            "a call was cancelled after its answer of %d bytes had come: they are in %s", self.size, self.keep()
        )

    def _flush(self) -> None:
        if self.path is None:
            descriptor, name = tempfile.mkstemp(prefix="videorouter-answer-", suffix=".json")
            self._file = os.fdopen(descriptor, "w+b")
            self.path = Path(name)
            self._remove = weakref.finalize(self, partial(self.path.unlink, missing_ok=True))
        if self._file is not None:
            self._file.writelines(self._parts)
        self._parts, self._waiting = [], 0

    def _split(self) -> tuple[bytes, dict[bytes, FileBytes]]:
        self._flush()
        if self._file is None:
            raise NotSplitError("its file was closed")
        self._file.seek(0)
        blocks = iter(partial(self._file.read, _BLOCK_BYTES), b"")
        if self.head.startswith(_COMPRESSED):
            blocks = _decompress(blocks, self._limit)
        found = split_answer(blocks, self._most)
        self._close()
        return found

    def _close(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            file.close()


def split_answer(blocks: Iterator[bytes], most: int) -> tuple[bytes, dict[bytes, FileBytes]]:
    """Replace each long base64 string of a JSON text by a short token; return the text and the bytes by token."""
    left = bytearray()
    files: dict[bytes, FileBytes] = {}
    with contextlib.ExitStack() as stack:
        decoder: _Decoder | None = None
        text = bytearray()
        inside = plain = False
        rest = b""
        for block in blocks:
            data, place = rest + block, 0
            rest = b""
            while place < len(data):
                if not inside:
                    quote = data.find(b'"', place) + 1 or len(data)
                    inside = data[quote - 1 : quote] == b'"'
                    left += data[place:quote]
                    place = quote
                    continue
                end = _STRING.match(data, place).end()  # type: ignore[union-attr]  # it matches the empty string
                text += data[place:end]
                place = end
                if decoder is None and not plain and len(text) > _LONG_BYTES:
                    plain = not _BASE64.match(text) or len(files) >= _MAX_FILES
                    decoder = None if plain else _Decoder(stack.enter_context(tempfile.TemporaryFile()))
                if decoder is not None:
                    decoder.feed(bytes(text))
                    text.clear()
                if data[place : place + 1] == b"\\":  # what it escapes stands in the next block
                    rest = data[place:]
                    break
                if place < len(data):
                    inside = plain = False
                    if decoder is not None:
                        token = secrets.token_bytes(_TOKEN_BYTES)
                        files[token] = decoder.finish()
                        text += decoder.prefix + base64.b64encode(token)
                        decoder = None
                    left += text
                    text.clear()
                    left += b'"'
                    place += 1
            if len(left) + len(text) > most:
                raise NotSplitError(f"the answer has more than {most} bytes beside its videos")
    if inside or rest:
        raise NotSplitError("the answer is not JSON text: it ends inside a string")
    return bytes(left), files


def _decompress(blocks: Iterator[bytes], limit: int) -> Iterator[bytes]:
    """Decompress gzip or zlib data in pieces of a bounded size."""
    decoder = zlib.decompressobj(zlib.MAX_WBITS | 32)
    made = came = 0
    for block in blocks:
        waiting = block
        came += len(block)
        while waiting:
            try:
                piece = decoder.decompress(waiting, _BLOCK_BYTES)
            except zlib.error as error:
                raise NotSplitError("the answer is compressed and cannot be read") from error
            made += len(piece)
            if made > min(limit, _MAX_RATIO * came):
                raise NotSplitError(f"the answer holds more than {made} bytes, compressed as no video can be")
            waiting = decoder.unconsumed_tail
            yield piece
    if not decoder.eof:
        raise NotSplitError("the answer is compressed and was cut")


class _Decoder:
    """Decodes base64 text piece by piece, in any alphabet and wrapping, into a file."""

    def __init__(self, file: BinaryIO) -> None:
        self.prefix: bytes = b""
        self._file = file
        self._text = b""
        self._begun = False

    def feed(self, text: bytes) -> None:
        if not self._begun:
            self._begun = True
            found = _PREFIX.match(text)
            self.prefix = b"" if found is None else found[0]
            text = text[len(self.prefix) :]
        text = _ESCAPES.sub(b"", text.replace(b"\\/", b"/"))
        text = self._text + text.translate(_STANDARD, b" \t\r\n")
        if text.translate(None, _ALPHABET):
            raise NotSplitError("the answer holds a long text that is not base64")
        whole = len(text) // 4 * 4
        self._text = text[whole:]
        self._decode(text[:whole])

    def finish(self) -> FileBytes:
        self._decode(self._text + b"=" * (-len(self._text) % 4))
        return FileBytes(self._file)

    def _decode(self, text: bytes) -> None:
        try:
            self._file.write(binascii.a2b_base64(text))
        except binascii.Error as error:
            raise NotSplitError("the answer holds a long text that is not base64") from error


def _attach(video: Video, files: dict[bytes, FileBytes]) -> None:
    data = video.__dict__.get("data_")
    if isinstance(data, bytes) and data in files:
        video.with_extras(data_=files[data])
