"""One writer per journal: an operating-system lock on a file beside it, gone with its process however that ends.

The lock is not on the database itself: closing any descriptor of that file would drop SQLite's own locks.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from videorouter.errors import JournalBusyError, JournalError
from videorouter.forks import after_fork

if TYPE_CHECKING:
    from pathlib import Path


class WriterLock:
    """The right to write a journal: its lock file stands beside it, with ``.lock`` added."""

    def __init__(self, journal: Path) -> None:
        self.path: Path = journal.with_name(journal.name + ".lock")
        self._descriptor = -1
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
        except OSError as error:
            raise JournalError(
                f"Could not write beside the journal {journal}: {error}. Nothing was sent. Check that its folder exists "
                "and can be written, or pass another path.",
                path=str(journal),
            ) from error
        try:
            lock_descriptor(descriptor)
        except OSError as error:
            holder = _read_holder(descriptor)
            os.close(descriptor)
            raise JournalBusyError(
                f"The journal {journal} is in use{holder}. Nothing was sent. Wait for that batch to end, or stop it; "
                "one journal has one writer. `videorouter batch status` can be read meanwhile.",
                path=str(journal),
            ) from error
        self._descriptor = descriptor
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        # A forked child must not keep the lock of a parent that has ended.
        after_fork(self, WriterLock.release)

    def release(self) -> None:
        """Let others write. Idempotent."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def is_locked(journal: Path) -> bool:
    """Whether someone is writing a journal right now."""
    path = journal.with_name(journal.name + ".lock")
    if not path.exists():
        return False
    try:
        WriterLock(journal).release()
    except JournalBusyError:
        return True
    except JournalError:
        return False
    return False


def _read_holder(descriptor: int) -> str:
    try:
        text = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
    except OSError:
        return ""
    return f" by process {text}" if text.isdigit() else ""


if sys.platform == "win32":  # pragma: no cover
    import msvcrt

    # The locked byte lies far behind what is written into the file, which others read.
    _BYTE = 1 << 20

    def lock_descriptor(descriptor: int) -> None:
        """Lock an open file against other processes; raises ``OSError`` at once when somebody else has."""
        os.lseek(descriptor, _BYTE, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        os.lseek(descriptor, 0, os.SEEK_SET)

    def unlock_descriptor(descriptor: int) -> None:
        """Let others lock it; closing it does that, too, unless it was inherited."""
        os.lseek(descriptor, _BYTE, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)
else:
    import fcntl

    def lock_descriptor(descriptor: int) -> None:
        """Lock an open file against other processes; raises ``OSError`` at once when somebody else has."""
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def unlock_descriptor(descriptor: int) -> None:
        """Let others lock it; closing it does that, too, unless it was inherited."""
        fcntl.flock(descriptor, fcntl.LOCK_UN)
