"""Remembers on disk how far a transfer got, and locks its destination: the hidden file ``.otter.mp4.resume``.

``downloads.resume`` decides whether a transfer resumes. Every method blocks and belongs in a thread. Nothing here
follows a symbolic link or writes to a file through a second hard link.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from videorouter.downloads.names import is_part_of, resume_file_name
from videorouter.locks import lock_descriptor, unlock_descriptor

if TYPE_CHECKING:
    from videorouter.downloads.resume import TransferState

OPEN_FLAGS = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
_IS_SYMLINK = frozenset({errno.ELOOP, errno.EMLINK, getattr(errno, "EFTYPE", errno.ELOOP)})
_IS_LOCKED = frozenset({errno.EACCES, errno.EAGAIN, errno.EDEADLK})
_MAX_BYTES = 16384


class Busy(Exception):  # noqa: N818  it is a state, and never reaches a user
    """Another transfer, in this process or another, holds the destination."""


class ResumeNote(msgspec.Struct, frozen=True, kw_only=True):
    """The note of an earlier transfer: its temporary file, a digest of its URL, and the facts of the file."""

    part: str
    key: str
    etag: str | None = None
    total: int | None = None
    boot: str = ""


class ResumeFile:
    """The lock on one destination, and the note about its transfer."""

    def __init__(self, destination: Path) -> None:
        self._destination = destination
        self._path = destination.with_name(resume_file_name(destination.name))
        self._descriptor = -1

    def lock(self) -> None:
        """Lock the destination; raises ``Busy`` when another transfer holds it."""
        while self._descriptor < 0:
            descriptor = self._open()
            try:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise OSError(errno.EINVAL, "is not an ordinary file", str(self._path))
                _lock(descriptor)
                if self._still_has_name(descriptor):
                    if os.fstat(descriptor).st_nlink == 1:
                        self._descriptor = descriptor
                    else:  # a second name of somebody's file, which is not for us to write to
                        self._path.unlink(missing_ok=True)
            finally:
                if self._descriptor < 0:
                    os.close(descriptor)

    def read(self) -> ResumeNote | None:
        """Return the note of an earlier transfer to this destination, if it is valid."""
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        try:
            note = msgspec.json.decode(os.read(self._descriptor, _MAX_BYTES), type=ResumeNote)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        return note if is_part_of(self._destination.name, note.part) else None

    def write(self, part: Path, key: str, state: TransferState) -> None:
        """Write what a later transfer needs to resume; without a validator none can."""
        note = ResumeNote(part=part.name, key=key, etag=state.etag, total=state.total, boot=boot_id())
        text = msgspec.json.encode(note)
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        os.write(self._descriptor, text)
        os.ftruncate(self._descriptor, len(text))

    def release(self, *, keep: bool) -> None:
        """Unlock the destination; ``keep`` leaves the note for a later transfer. Idempotent."""
        if self._descriptor < 0:
            return
        descriptor, self._descriptor = self._descriptor, -1
        if not keep and sys.platform != "win32":  # still locked, so that nobody else's note is removed
            with contextlib.suppress(OSError):
                self._path.unlink()
        with contextlib.suppress(OSError):
            unlock_descriptor(descriptor)
        with contextlib.suppress(OSError):
            os.close(descriptor)
        if not keep and sys.platform == "win32":  # an open file cannot be removed there
            with contextlib.suppress(OSError):
                self._path.unlink()

    def _open(self) -> int:
        while True:
            try:
                return os.open(self._path, OPEN_FLAGS | os.O_CREAT, 0o600)
            except OSError as error:
                if error.errno not in _IS_SYMLINK or not self._path.is_symlink():
                    raise
                self._path.unlink(missing_ok=True)

    def _still_has_name(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), self._path.lstat())
        except OSError:
            return False


def boot_id() -> str:
    """Return a value that changes with each boot: bytes that were not synced may be lost then."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


def _lock(descriptor: int) -> None:
    try:
        lock_descriptor(descriptor)
    except OSError as error:
        if error.errno in _IS_LOCKED:
            raise Busy from error
        # A disk without locks (some network ones): go on without; the temporary names still never meet.
