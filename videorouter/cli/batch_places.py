"""Where a batch's journal lies, and the commands that go on with it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from videorouter.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

JOURNAL = "run.db"


def find_journal(name: str) -> Path:
    """The journal of a batch: a file, or ``run.db`` in a folder."""
    path = Path(name)
    return path / JOURNAL if path.is_dir() else path


def find_folder(file: str, out: str | None) -> Path:
    """The folder of a batch."""
    if out:
        return Path(out).expanduser()
    return Path("batch-videos") if file == "-" else Path(f"{Path(file).stem}-videos")


def make_folder(folder: Path) -> None:
    """Make a batch's folder, unless it is there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"--out {folder} cannot be made: {error.strerror or error}.") from error


def say_command(words: Sequence[str]) -> str:
    """A command line to copy."""
    return shlex.join(["videorouter", *words])


def say_batch(command: str, journal: Path) -> str:
    """A ``batch`` command about a journal."""
    place = journal.parent if journal.name == JOURNAL and str(journal.parent) != "." else journal
    return say_command(["batch", command, str(place)])
