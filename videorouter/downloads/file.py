"""Puts a file in its place whole or not at all: temporary file, check, fsync, rename.

Every method blocks and belongs in a thread. Nothing here follows a symbolic link at a name of its own, and nothing
touches the old file before the new one is whole. What it raises is ``OSError``, or ``Busy`` for a locked destination.

During a transfer, ``otter.mp4`` has two hidden neighbours: ``.otter.mp4.resume`` (see ``downloads.resume_file``) and
``.otter.mp4.<32 hex digits>.part`` (the bytes).
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
import sys
from hashlib import sha256
from itertools import chain, islice
from typing import TYPE_CHECKING, Literal, TypeAlias

from videorouter.downloads.media import look_through
from videorouter.downloads.names import name_content, number_paths, part_name, rejected_name
from videorouter.downloads.resume import TransferState
from videorouter.downloads.resume_file import OPEN_FLAGS, Busy, ResumeFile, boot_id

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Sequence
    from hashlib import _Hash
    from pathlib import Path

    from videorouter.downloads.resume_file import ResumeNote
    from videorouter.models import Media
    from videorouter.places import ObjectURL

Conflict: TypeAlias = Literal["replace", "refuse", "number"]
"""What to do about an existing file of that name: replace it, refuse, or take the next free number."""

_READ_BYTES = 2**20
_LOOK_BYTES = 4096
_MAX_PARTS = 512
_MAX_NAMES = 10_000
_SPECIAL_FOLDERS = ("/dev", "/proc", "/sys")
_MEMORY_FOLDERS = ("/dev/shm",)  # noqa: S108  an ordinary folder that lives under a special one


def is_folder(path: Path) -> bool:
    """Whether the path is a folder."""
    return os.path.isdir(path)  # noqa: PTH112  Path.is_dir raises for a name that is too long


def find_free(path: Path, taken: Container[Path | ObjectURL] = ()) -> Path:
    """Return the path, or the first numbered one beside it, that is neither a file nor reserved."""
    return next(free for free in number_paths(path) if free not in taken and not os.path.lexists(free))


def find_size(path: Path) -> int | None:
    """Return the size of the file at the path, or ``None``."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def is_cut(path: Path, size: int) -> bool:
    """Whether a file that had that size was deleted, emptied or cut; another whole one in its place is not."""
    try:
        found = path.stat().st_size
        if found >= size:
            return False
        with path.open("rb") as file:
            _, reason = read_media(file.fileno(), found)
    except OSError:
        return True
    return reason is not None


def read_media(descriptor: int, size: int, *, framed: bool = True) -> tuple[Media | None, str | None]:
    """Read the facts of an open file, and why it is not a whole video file. It skips what it can."""

    def read(start: int, count: int) -> bytes:
        os.lseek(descriptor, start, os.SEEK_SET)
        return os.read(descriptor, max(count, _LOOK_BYTES))

    return look_through(read, size, framed=framed)


class PartialFile:
    """One destination during a transfer to it. ``key`` is a digest of its URL: only the same URL resumes."""

    def __init__(self, path: Path, *, key: str = "", hashed: bool = False, conflict: Conflict = "replace") -> None:
        self.path: Path = path
        self.size: int = 0
        self._wanted = path
        self._key = key
        self._digest: _Hash | None = sha256() if hashed else None
        self._conflict = conflict
        self._resume: ResumeFile | None = None
        self._file: int | None = None
        self._part: Path | None = None
        self._resumable = False

    @property
    def sha256(self) -> str | None:
        """The hex digest of the written bytes, if it was asked for."""
        return None if self._digest is None else self._digest.hexdigest()

    def open(self) -> TransferState:
        """Lock the destination, and adopt what an earlier transfer left."""
        _refuse_special_folder(self._wanted.parent)
        self._wanted.parent.mkdir(parents=True, exist_ok=True)
        numbered = self._conflict == "number"
        for path in islice(number_paths(self._wanted, "."), _MAX_NAMES if numbered else 1):
            self.path = path
            if numbered and os.path.lexists(path):
                continue
            self._check_destination()
            resume = ResumeFile(path)
            try:
                resume.lock()
            except Busy:
                if numbered:
                    continue
                raise
            self._resume = resume
            note = resume.read()
            if numbered and self._is_promised(note):
                resume.release(keep=True)
            elif numbered and os.path.lexists(path):  # another transfer ended between the look and the lock
                resume.release(keep=note is not None)
            else:
                state = self._adopt(note)
                self._check_room(state)
                return state
        raise FileExistsError(errno.EEXIST, "no free name is left", str(self._wanted))

    def begin(self, state: TransferState) -> None:
        """Start from the first byte of a file of that length and validator."""
        self._check_room(state)
        if self._resume is None:
            raise OSError(errno.EBADF, "the destination is not open")
        self._resumable = state.etag is not None
        if self._file is None or self._part is None:
            self._part = self.path.with_name(part_name(self.path.name, secrets.token_hex(16)))
            self._resume.write(self._part, self._key, state)
            self._file = os.open(self._part, OPEN_FLAGS | os.O_CREAT | os.O_EXCL, 0o666)
        else:
            os.ftruncate(self._file, 0)
            os.lseek(self._file, 0, os.SEEK_SET)
            self._resume.write(self._part, self._key, state)
        self.size = 0
        if self._digest is not None:
            self._digest = sha256()

    def write(self, parts: Sequence[bytes | memoryview]) -> None:
        """Append bytes."""
        if not parts:
            return
        if self._file is None:
            raise OSError(errno.EBADF, "the transfer has not begun")
        if self._digest is not None:
            for part in parts:
                self._digest.update(part)
        for start in range(0, len(parts), _MAX_PARTS):
            self._write_some(self._file, parts[start : start + _MAX_PARTS])

    def _write_some(self, file: int, parts: Sequence[bytes | memoryview]) -> None:
        written = os.writev(file, parts) if hasattr(os, "writev") else 0
        self.size += written
        if written == sum(map(len, parts)):
            return
        rest = memoryview(b"".join(parts))[written:]
        while rest:
            written = os.write(file, rest)
            self.size += written
            rest = rest[written:]

    def inspect(self, *, framed: bool) -> tuple[Media | None, str | None]:
        """Read the facts of the written file, and why it is not a whole video file."""
        return (None, "it is empty") if self._file is None else read_media(self._file, self.size, framed=framed)

    def head(self) -> bytes:
        """Return the first written bytes."""
        if self._file is None:
            return b""
        os.lseek(self._file, 0, os.SEEK_SET)
        return os.read(self._file, 512)

    def commit(self, container: str = "mp4") -> None:
        """Rename the file to its final name, with the ending of its content; on failure the old file is unchanged."""
        part = self._sync_part()
        named = self.path.with_name(name_content(self.path.name, container))
        if named != self.path:
            self._name_part(part, number_paths(named, "."))  # the caller did not agree to replace a file of that name
        elif self._conflict == "replace":
            part.replace(self.path)
        elif self._conflict == "refuse":
            self._name_part(part, [self.path])
        else:
            self._name_part(part, chain([self.path], number_paths(self._wanted, ".")))
        self._finish()

    def reject(self) -> Path:
        """Keep the written bytes under a name that marks them as rejected; they were paid for."""
        part = self._sync_part()
        rejected = self.path.with_name(rejected_name(self.path.name))
        self._name_part(part, number_paths(rejected, "."))  # another rejected file was paid for as well
        self._finish()
        return self.path

    def close(self, *, keep: bool) -> bool:
        """Release the destination; return whether a later transfer can resume, which ``keep`` allows. Idempotent."""
        kept = keep and self._resumable and self.size > 0 and self._part is not None
        if self._file is not None:
            with contextlib.suppress(OSError):
                os.close(self._file)
            self._file = None
        if not kept and self._part is not None:
            with contextlib.suppress(OSError):
                self._part.unlink()
            self._part = None
        if self._resume is not None:
            self._resume.release(keep=kept)
        return kept

    def _sync_part(self) -> Path:
        if self._file is None or self._part is None:
            raise OSError(errno.EBADF, "the transfer has not begun")
        os.fsync(self._file)
        file, self._file = self._file, None
        os.close(file)
        return self._part

    def _name_part(self, part: Path, paths: Iterable[Path]) -> None:
        """Rename the part to the first of these names that is free."""
        for path in paths:
            try:
                os.link(part, path, follow_symlinks=False)
            except FileExistsError:
                continue
            except (OSError, NotImplementedError):
                # No hard links here (FAT, some network disks): the lock keeps out everyone who uses this package.
                if os.path.lexists(path):
                    continue
                part.replace(path)
            else:
                part.unlink()
            self.path = path
            return
        raise FileExistsError(errno.EEXIST, "exists already", str(self.path))

    def _finish(self) -> None:
        self._part = None
        _sync_folder(self.path.parent)
        self.close(keep=False)

    def _check_destination(self) -> None:
        try:
            mode = self.path.lstat().st_mode
        except FileNotFoundError:
            return
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, "is a folder", str(self.path))
        if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
            raise OSError(errno.EINVAL, "is not an ordinary file; pass a file object to write to it", str(self.path))
        if self._conflict == "refuse":
            raise FileExistsError(errno.EEXIST, "exists already", str(self.path))

    def _check_room(self, state: TransferState) -> None:
        if state.total is None:
            return
        missing = state.total - self.size
        free = shutil.disk_usage(self.path.parent).free
        if missing > free:
            text = f"{missing} bytes are missing and {free} are free"
            raise OSError(errno.ENOSPC, text, str(self.path.parent))

    def _is_promised(self, note: ResumeNote | None) -> bool:
        """Whether a transfer from another URL can still come back to this name."""
        return note is not None and note.key != self._key and self.path.with_name(note.part).exists()

    def _adopt(self, note: ResumeNote | None) -> TransferState:
        """Continue an earlier transfer's part if it is trustworthy, else remove it."""
        if note is None:
            return TransferState()
        part = self.path.with_name(note.part)
        file = self._open_part(note, part)
        if file is None:
            with contextlib.suppress(OSError):
                part.unlink()
            return TransferState()
        self._file, self._part, self.size, self._resumable = file, part, os.fstat(file).st_size, True
        if self._digest is not None:
            os.lseek(file, 0, os.SEEK_SET)
            while data := os.read(file, _READ_BYTES):
                self._digest.update(data)
        os.lseek(file, 0, os.SEEK_END)
        return TransferState(offset=self.size, etag=note.etag, total=note.total)

    def _open_part(self, note: ResumeNote, part: Path) -> int | None:
        if note.key != self._key or note.boot != boot_id() or note.etag is None:
            return None
        try:
            file = os.open(part, OPEN_FLAGS)
        except OSError:
            return None
        facts = os.fstat(file)
        ours = not hasattr(os, "geteuid") or facts.st_uid == os.geteuid()
        fits = facts.st_size > 0 and (note.total is None or facts.st_size <= note.total)
        if stat.S_ISREG(facts.st_mode) and facts.st_nlink == 1 and ours and fits:
            return file
        os.close(file)
        return None


def _refuse_special_folder(folder: Path) -> None:
    real = os.path.realpath(folder)
    special = any(real == root or real.startswith(f"{root}/") for root in _SPECIAL_FOLDERS)
    memory = any(real == root or real.startswith(f"{root}/") for root in _MEMORY_FOLDERS)
    if special and not memory:
        raise OSError(errno.EINVAL, "no folder for files; pass a file object to write to a device", real)


def _sync_folder(folder: Path) -> None:
    if sys.platform == "win32":
        return
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
