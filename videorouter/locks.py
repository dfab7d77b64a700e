"""One writer per journal: an operating-system lock on a file beside it, gone with its process however that ends.

The lock is not on the database itself: closing any descriptor of that file would drop SQLite's own locks.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import sys
import time
from typing import TYPE_CHECKING

from videorouter.errors import JournalBusyError, JournalError
from videorouter.forks import after_fork

if TYPE_CHECKING:
    from pathlib import Path


_PATIENCE = 2.0
"""Seconds to wait for readers that test the lock: each takes less than a millisecond."""
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP}
"""Errors of a file system without locks."""


class WriterLock:
    """The right to write a journal, by a lock file beside it, with ``.lock`` added.

    The file also has the number of commits of the journal, so that an older copy of the journal is noticed.
    """

    def __init__(self, journal: Path) -> None:
        self.path: Path = journal.with_name(journal.name + ".lock")
        self.commits: int = 0
        """Commits that the last writer noted."""
        self._journal = journal
        self._descriptor = -1
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
        except OSError as error:
            raise JournalError(
                f"Could not write beside the journal {journal}: {error}. Nothing was sent. Check that its folder exists "
                f"and can be written{'' if journal.exists() else ', or pass another path'}.",
                path=str(journal),
            ) from error
        try:
            _lock_against_writers(descriptor)
        except OSError as error:
            holder, _ = _read_note(descriptor)
            os.close(descriptor)
            if error.errno in _NO_LOCKS:
                raise JournalError(
                    f"The disk of {journal} knows no file locks ({error}), so that two runs could write it and pay twice. "
                    "Nothing was sent. Put the journal on a local disk: files and videos may stay where they are.",
                    path=str(journal),
                ) from error
            raise JournalBusyError(
                f"The journal {journal} is in use{holder}. Nothing was sent. Wait for that batch to end, or stop it; "
                "one journal has one writer. `videorouter batch status` can be read meanwhile.",
                path=str(journal),
            ) from error
        self._descriptor = descriptor
        _, self.commits = _read_note(descriptor)
        self.note(self.commits)
        # A forked child must not keep the lock of a parent that has ended.
        after_fork(self, WriterLock.release)

    def note(self, commits: int) -> None:
        """Write the number of commits beside the journal."""
        with contextlib.suppress(OSError):  # on a full disk the journal itself says so
            os.pwrite(self._descriptor, f"{os.getpid():<10}\n{commits:<20}\n".encode(), 0)

    def beat(self) -> None:
        """Show that its process lives."""
        with contextlib.suppress(OSError):
            os.utime(self._descriptor)

    def check(self) -> None:
        """Raise ``JournalError`` when the lock file was deleted or replaced: another process may hold the new one."""
        try:
            there = os.stat(self.path)  # noqa: PTH116  this runs before each commit
            held = os.fstat(self._descriptor)
            kept = (there.st_dev, there.st_ino) == (held.st_dev, held.st_ino)
        except OSError:
            kept = False
        if not kept:
            raise JournalError(
                f"The lock file {self.path} was deleted or replaced while the batch ran, so that another run could write the "
                "same journal. Nothing more is sent. Make sure that no other run uses it, then run the same batch again: it "
                "resumes.",
                path=str(self._journal),
            )

    def release(self) -> None:
        """Release it. Idempotent."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


class EpochLock:
    """Shows that a runner's epoch is not over: ``.run`` and its number beside a queue, locked until its last request has ended."""

    def __init__(self, journal: Path, epoch: int) -> None:
        self.path: Path = journal.with_name(f"{journal.name}.run{epoch}")
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
        lock_descriptor(self._descriptor)
        after_fork(self, EpochLock._close)

    @classmethod
    def list_living(cls, journal: Path, before: int) -> list[int]:
        """List the earlier epochs that are not over; what ended ones have left is removed."""
        living = []
        for path in journal.parent.glob(f"{glob.escape(journal.name)}.run*"):
            number = path.name[len(journal.name) + 4 :]
            if not number.isdigit() or int(number) >= before:
                continue
            try:
                descriptor = os.open(path, os.O_RDWR | getattr(os, "O_CLOEXEC", 0))
            except OSError:
                continue
            try:
                lock_descriptor(descriptor)
                path.unlink(missing_ok=True)
            except OSError:
                living.append(int(number))
            finally:
                os.close(descriptor)
        return sorted(living)

    def release(self) -> None:
        """The epoch is over. Idempotent."""
        if self._descriptor >= 0:
            self.path.unlink(missing_ok=True)
            self._close()

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def read_commit_note(journal: Path) -> int:
    """Read how many commits of a journal were noted beside it, without its lock."""
    try:
        descriptor = os.open(journal.with_name(journal.name + ".lock"), os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    except OSError:
        return 0
    try:
        return _read_note(descriptor)[1]
    finally:
        os.close(descriptor)


def read_heartbeat(journal: Path) -> tuple[int | None, float | None]:
    """The process that holds a journal's lock, and how many seconds ago it was last seen; ``None`` where none does."""
    if not is_locked(journal):
        return None, None
    path = journal.with_name(journal.name + ".lock")
    try:
        words = path.read_bytes()[:10].split()
        seen = path.stat().st_mtime
    except OSError:
        return None, None
    return (int(words[0]) if words and words[0].isdigit() else None), max(0.0, time.time() - seen)


def is_locked(journal: Path) -> bool:
    """Whether a process is writing a journal right now."""
    try:
        descriptor = os.open(journal.with_name(journal.name + ".lock"), os.O_RDWR | getattr(os, "O_CLOEXEC", 0))
    except OSError:
        return False
    try:
        share_descriptor(descriptor)
    except OSError as error:
        return error.errno not in _NO_LOCKS
    finally:
        os.close(descriptor)
    return False


def _lock_against_writers(descriptor: int) -> None:
    """Lock the file; wait for readers that test it. Raises ``OSError`` when a writer has it."""
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            lock_descriptor(descriptor)
        except OSError as error:
            if error.errno in _NO_LOCKS or time.monotonic() >= until:
                raise
            share_descriptor(descriptor)  # a writer refuses this too, and that is raised
            unlock_descriptor(descriptor)
            time.sleep(0.005)
        else:
            return


def _read_note(descriptor: int) -> tuple[str, int]:
    """Return who has the lock, in words, and the number of commits."""
    try:
        lines = os.pread(descriptor, 64, 0).decode("ascii", "replace").split()
    except OSError:
        return "", 0
    holder = f" by process {lines[0]}" if lines and lines[0].isdigit() else ""
    return holder, int(lines[1]) if len(lines) > 1 and lines[1].isdigit() else 0


if sys.platform == "win32":  # pragma: no cover
    import msvcrt

    # The locked byte lies far behind what is written into the file, which others read.
    _BYTE = 1 << 20

    def lock_descriptor(descriptor: int) -> None:
        """Lock an open file against other processes; raises ``OSError`` at once when somebody else has."""
        os.lseek(descriptor, _BYTE, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        os.lseek(descriptor, 0, os.SEEK_SET)

    share_descriptor = lock_descriptor
    """Windows shares no locks: who asks whether a file is locked locks it for a moment."""

    def unlock_descriptor(descriptor: int) -> None:
        """Let others lock it; closing it does that, too, unless it was inherited."""
        os.lseek(descriptor, _BYTE, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)

    def wait_for_turn(descriptor: int) -> None:
        """Windows has no fair wait: SQLite's own lock has to do."""

    def pass_turn(descriptor: int) -> None:
        """As above."""
else:
    import fcntl

    def wait_for_turn(descriptor: int) -> None:
        """Wait for a courtesy lock, which the kernel hands over in the order of arrival."""
        fcntl.flock(descriptor, fcntl.LOCK_EX)

    def pass_turn(descriptor: int) -> None:
        """Hand it to the next in line."""
        fcntl.flock(descriptor, fcntl.LOCK_UN)

    def lock_descriptor(descriptor: int) -> None:
        """Lock an open file against other processes; raises ``OSError`` at once when somebody else has."""
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def share_descriptor(descriptor: int) -> None:
        """Lock an open file against writers alone; raises ``OSError`` at once when one has it."""
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)

    def unlock_descriptor(descriptor: int) -> None:
        """Let others lock it; closing it does that, too, unless it was inherited."""
        fcntl.flock(descriptor, fcntl.LOCK_UN)
