"""Puts a file in its place whole or not at all: lock, temporary file, sidecar, fsync, rename.

Every method blocks and belongs in a thread. Nothing here follows a symbolic link at a name of its own, and nothing
touches the old file before the new one is whole. What it raises is ``OSError``, or ``Busy`` for a locked destination.

Beside ``otter.mp4`` stand, while it is on its way, ``.otter.mp4.resume`` (the lock, and what is known of the transfer)
and ``.otter.mp4.<32 hex digits>.part`` (the bytes).
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import shutil
import stat
import sys
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from videorouter.downloads.mp4 import BoxCheck
from videorouter.downloads.names import free_name, is_part_of, part_name, rejected_name, sidecar_name
from videorouter.downloads.transfer import TransferState

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

if TYPE_CHECKING:
    from collections.abc import Sequence
    from hashlib import _Hash

_FLAGS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
_NOFOLLOW_ERRORS = frozenset({errno.ELOOP, errno.EMLINK, getattr(errno, "EFTYPE", errno.ELOOP)})
_BLOCKING = frozenset({errno.EACCES, errno.EAGAIN, errno.EDEADLK})
_MAX_SIDECAR = 16384
_READ = 2**20
_LOCK_BYTE = 2**30
_MAX_PARTS = 512
_FREE_NAMES = 10_000
_SPECIAL_ROOTS = ("/dev", "/proc", "/sys")
_MEMORY_ROOTS = ("/dev/shm",)  # noqa: S108  an ordinary folder that lives under a special one


def is_folder(path: Path) -> bool:
    """Whether a folder stands there."""
    return os.path.isdir(path)  # noqa: PTH112  Path.is_dir raises for a name that is too long


class Busy(Exception):  # noqa: N818  it is a state, and never reaches a user
    """Another transfer, in this process or another, holds the destination."""


class PartialFile:
    """One destination while a file is on its way to it.

    Args:
        path: Where the file shall stand.
        key: A digest of the URL: only the same URL goes on where an earlier transfer stopped.
        hashed: Whether to compute the SHA-256 on the way.
        replace: Whether an older file may be replaced.
        fresh_name: Whether another free name is taken when this one is in use.
    """

    def __init__(
        self, path: Path, *, key: str = "", hashed: bool = False, replace: bool = True, fresh_name: bool = False
    ) -> None:
        self.path: Path = path
        self.size: int = 0
        self._wish = path
        self._key = key
        self._digest: _Hash | None = sha256() if hashed else None
        self._replace = replace
        self._fresh_name = fresh_name
        self._lock: int | None = None
        self._file: int | None = None
        self._part: Path | None = None
        self._resumable = False

    @property
    def sha256(self) -> str | None:
        """The hex digest of what was written, when it was asked for."""
        return None if self._digest is None else self._digest.hexdigest()

    def open(self) -> TransferState:
        """Lock the destination and look for what an earlier transfer left.

        Returns:
            What is here already.

        Raises:
            Busy: Another transfer holds it.
            FileExistsError: It exists and may not be replaced.
            OSError: The folder cannot be made or written.
        """
        self._refuse_special(self._wish.parent)
        self._wish.parent.mkdir(parents=True, exist_ok=True)
        for attempt in range(1, _FREE_NAMES):
            if attempt > 1:
                self.path = self._wish.with_name(free_name(self._wish.name, attempt))
            if self._fresh_name and os.path.lexists(self.path):
                continue
            self._refuse_odd_destination()
            try:
                self._lock = self._take_lock()
            except Busy:
                if self._fresh_name:
                    continue
                raise
            known = self._read_sidecar()
            if known is None:
                self._drop_lock()
            elif self._fresh_name and os.path.lexists(self.path):
                self.close(keep=True)
            else:
                self._require_room(known)
                return known
        raise FileExistsError(errno.EEXIST, "no free name is left", str(self._wish))

    def begin(self, known: TransferState) -> None:
        """FullContent from the first byte.

        Args:
            known: The file's length and validator, as far as they are known; ``offset`` is ignored.

        Raises:
            OSError: No room, or the temporary file cannot be made.
        """
        self._require_room(known)
        self._resumable = known.etag is not None
        if self._file is None:
            self._part = self.path.with_name(part_name(self.path.name, secrets.token_hex(16)))
            self._write_sidecar(known)
            self._file = os.open(self._part, os.O_RDWR | os.O_CREAT | os.O_EXCL | _FLAGS, 0o666)
        else:
            os.ftruncate(self._file, 0)
            os.lseek(self._file, 0, os.SEEK_SET)
            self._write_sidecar(known)
        self.size = 0
        if self._digest is not None:
            self._digest = sha256()

    def write(self, parts: Sequence[bytes]) -> None:
        """Append bytes.

        Raises:
            OSError: The disk is full, or broken.
        """
        if not parts:
            return
        if self._file is None:
            raise OSError(errno.EBADF, "the transfer has not begun")
        if self._digest is not None:
            for part in parts:
                self._digest.update(part)
        for start in range(0, len(parts), _MAX_PARTS):
            self._write_some(self._file, parts[start : start + _MAX_PARTS])

    def _write_some(self, file: int, parts: Sequence[bytes]) -> None:
        written = os.writev(file, parts) if hasattr(os, "writev") else 0
        self.size += written
        if written == sum(map(len, parts)):
            return
        rest = memoryview(b"".join(parts))[written:]
        while rest:
            written = os.write(file, rest)
            self.size += written
            rest = rest[written:]

    def inspect(self, *, framed: bool) -> str | None:
        """Why what was written is no whole MP4 file; ``None`` when it is one."""
        if self._file is None:
            return "it is empty"
        check = BoxCheck()
        while check.reason is None and not check.open_ended and check.wanted < self.size:
            before = check.at = check.wanted
            os.lseek(self._file, before, os.SEEK_SET)
            check.feed(os.read(self._file, 16))
            if check.wanted == before:
                break
        return check.finish(self.size, framed=framed)

    def head(self) -> bytes:
        """The first bytes of what was written."""
        if self._file is None:
            return b""
        os.lseek(self._file, 0, os.SEEK_SET)
        return os.read(self._file, 512)

    def commit(self) -> None:
        """Give the file its name.

        Raises:
            FileExistsError: A file of that name came up meanwhile, and may not be replaced.
            OSError: It could not be written to the end; the old file is as it was.
        """
        part = self._settle()
        if self._replace and not self._fresh_name:
            part.replace(self.path)
        else:
            self._rename_beside(part)
        self._part = None
        _sync_folder(self.path.parent)
        self.close(keep=False)

    def reject(self) -> Path:
        """Keep what was written under a name that says that it is no video; it was paid for."""
        kept = self.path.with_name(rejected_name(self.path.name))
        part = self._settle()
        if kept.is_dir() and not kept.is_symlink():
            kept = self.path.with_name(free_name(kept.name, secrets.randbelow(10**9)))
        part.replace(kept)
        self._part = None
        _sync_folder(kept.parent)
        self.close(keep=False)
        return kept

    def close(self, *, keep: bool) -> bool:
        """Leave the destination. Idempotent; it raises nothing.

        Args:
            keep: Whether a later transfer may go on from here.

        Returns:
            Whether it can.
        """
        kept = keep and self._resumable and self.size > 0 and self._part is not None
        if self._file is not None:
            with contextlib.suppress(OSError):
                os.close(self._file)
            self._file = None
        if not kept and self._part is not None:
            with contextlib.suppress(OSError):
                self._part.unlink()
            self._part = None
        if self._lock is not None and not kept:
            if sys.platform == "win32":
                self._drop_lock()
            with contextlib.suppress(OSError):
                self._sidecar.unlink()
        self._drop_lock()
        return kept

    @property
    def _sidecar(self) -> Path:
        return self.path.with_name(sidecar_name(self.path.name))

    def _settle(self) -> Path:
        if self._file is None or self._part is None:
            raise OSError(errno.EBADF, "the transfer has not begun")
        os.fsync(self._file)
        file, self._file = self._file, None
        os.close(file)
        return self._part

    def _rename_beside(self, part: Path) -> None:
        try:
            os.link(part, self.path, follow_symlinks=False)
        except FileExistsError:
            if not self._fresh_name:
                raise
            self.path = self.path.with_name(free_name(self._wish.name, secrets.randbelow(10**9)))
            part.replace(self.path)
        except (OSError, NotImplementedError):
            # No hard links here (FAT, some network disks): the lock keeps out everyone who uses this package.
            if os.path.lexists(self.path):
                raise FileExistsError(errno.EEXIST, "exists already", str(self.path)) from None
            part.replace(self.path)
        else:
            part.unlink()

    def _refuse_special(self, folder: Path) -> None:
        real = os.path.realpath(folder)
        inside = any(real == root or real.startswith(f"{root}/") for root in _SPECIAL_ROOTS)
        memory = any(real == root or real.startswith(f"{root}/") for root in _MEMORY_ROOTS)
        if inside and not memory:
            raise OSError(errno.EINVAL, "no folder for files; pass a file object to write to a device", real)

    def _refuse_odd_destination(self) -> None:
        try:
            mode = self.path.lstat().st_mode
        except FileNotFoundError:
            return
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, "is a folder", str(self.path))
        if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
            raise OSError(errno.EINVAL, "is no ordinary file; pass a file object to write to it", str(self.path))
        if not self._replace:
            raise FileExistsError(errno.EEXIST, "exists already", str(self.path))

    def _take_lock(self) -> int:
        sidecar = self._sidecar
        while True:
            lock = self._open_sidecar(sidecar)
            try:
                _refuse_odd(lock, sidecar)
                _lock_file(lock)
                if _is_same(lock, sidecar):
                    if os.fstat(lock).st_nlink == 1:
                        return lock
                    # Another name of somebody's file, which is not for us to write to.
                    with contextlib.suppress(FileNotFoundError):
                        sidecar.unlink()
            except BaseException:
                os.close(lock)
                raise
            os.close(lock)

    def _open_sidecar(self, sidecar: Path) -> int:
        while True:
            try:
                return os.open(sidecar, os.O_RDWR | os.O_CREAT | _FLAGS, 0o600)
            except OSError as error:
                if error.errno not in _NOFOLLOW_ERRORS or not sidecar.is_symlink():
                    raise
                with contextlib.suppress(FileNotFoundError):
                    sidecar.unlink()

    def _drop_lock(self) -> None:
        if self._lock is not None:
            lock, self._lock = self._lock, None
            _unlock_file(lock)
            with contextlib.suppress(OSError):
                os.close(lock)

    def _require_room(self, known: TransferState) -> None:
        if known.total is None:
            return
        missing = known.total - self.size
        free = shutil.disk_usage(self.path.parent).free
        if missing > free:
            text = f"{missing} bytes are missing and {free} are free"
            raise OSError(errno.ENOSPC, text, str(self.path.parent))

    def _forget(self) -> TransferState:
        self.size = 0
        return TransferState()

    def _read_sidecar(self) -> TransferState | None:
        """What an earlier transfer left, checked; ``None``: the name is promised to another URL's transfer."""
        note = self._load_note()
        part = note.get("part")
        if not is_part_of(self.path.name, part):
            return self._forget()
        place = self.path.with_name(str(part))
        if self._fresh_name and note.get("key") != self._key and place.exists():
            return None
        known = self._adopt(note, place)
        if known is None:
            with contextlib.suppress(OSError):
                place.unlink()
            return self._forget()
        return known

    def _adopt(self, note: dict[str, object], place: Path) -> TransferState | None:
        etag, total = note.get("etag"), note.get("total")
        if note.get("key") != self._key or note.get("boot") != _boot_id():
            return None
        if not isinstance(etag, str) or not (total is None or isinstance(total, int)):
            return None
        try:
            file = os.open(place, os.O_RDWR | _FLAGS)
        except OSError:
            return None
        facts = os.fstat(file)
        ours = not hasattr(os, "geteuid") or facts.st_uid == os.geteuid()
        fits = facts.st_size > 0 and (total is None or facts.st_size <= total)
        if not (stat.S_ISREG(facts.st_mode) and facts.st_nlink == 1 and ours and fits):
            os.close(file)
            return None
        self._file, self._part, self.size, self._resumable = file, place, facts.st_size, True
        self._hash_part(file)
        os.lseek(file, 0, os.SEEK_END)
        return TransferState(offset=self.size, etag=etag, total=total)

    def _hash_part(self, file: int) -> None:
        if self._digest is None:
            return
        os.lseek(file, 0, os.SEEK_SET)
        while data := os.read(file, _READ):
            self._digest.update(data)

    def _load_note(self) -> dict[str, object]:
        if self._lock is None:
            return {}
        os.lseek(self._lock, 0, os.SEEK_SET)
        try:
            note = json.loads(os.read(self._lock, _MAX_SIDECAR))
        except (ValueError, RecursionError):
            return {}
        return note if isinstance(note, dict) else {}

    def _write_sidecar(self, known: TransferState) -> None:
        if self._lock is None or self._part is None:
            return
        note = {
            "part": self._part.name,
            "key": self._key,
            "etag": known.etag,
            "total": known.total,
            "boot": _boot_id(),
        }
        text = json.dumps(note).encode()
        os.lseek(self._lock, 0, os.SEEK_SET)
        os.write(self._lock, text)
        os.ftruncate(self._lock, len(text))


def _boot_id() -> str:
    """What changes when the machine starts anew: bytes that were not synced may be lost then."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


def _refuse_odd(file: int, path: Path) -> None:
    if not stat.S_ISREG(os.fstat(file).st_mode):
        raise OSError(errno.EINVAL, "is no ordinary file", str(path))


def _is_same(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.lstat())
    except OSError:
        return False


def _lock_file(file: int) -> None:
    try:
        if sys.platform == "win32":
            os.lseek(file, _LOCK_BYTE, os.SEEK_SET)
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _BLOCKING:
            raise Busy from error
        # A disk without locks (some network ones): go on without; the temporary names still never meet.


def _unlock_file(file: int) -> None:
    with contextlib.suppress(OSError):
        if sys.platform == "win32":
            os.lseek(file, _LOCK_BYTE, os.SEEK_SET)
            msvcrt.locking(file, msvcrt.LK_UNLCK, 1)
        else:
            fcntl.flock(file, fcntl.LOCK_UN)


def _sync_folder(folder: Path) -> None:
    if sys.platform == "win32":
        return
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
