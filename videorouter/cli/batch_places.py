"""Where a batch's journal lies, and the commands that go on with it."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from videorouter.errors import ConfigurationError
from videorouter.places import read_url

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

    from videorouter.places import ObjectURL

JOURNAL = "run.db"


def find_journal(name: str) -> Path:
    """The journal of a batch: a file, or ``run.db`` in a folder."""
    path = Path(name)
    return path / JOURNAL if path.is_dir() else path


def find_folder(file: str, out: str | None) -> Path:
    """The folder of a batch: its journal's, and its videos', unless ``--out`` is an object store."""
    if out and find_store(out) is None:
        return Path(out).expanduser()
    return Path("batch-videos") if file == "-" else Path(f"{Path(file).stem}-videos")


def find_store(out: str | None) -> ObjectURL | None:
    """The folder of an object store that ``--out`` names; ``None`` for one of this disk."""
    return read_url(out if out.endswith("/") else f"{out}/") if out else None


def place_journal(args: argparse.Namespace) -> Path:
    """The journal of `batch run` with these arguments."""
    return Path(args.journal) if args.journal else find_folder(args.file, args.out) / JOURNAL


def recall_command(path: Path, meta: Mapping[str, str]) -> list[str] | None:
    """The command that a journal was made by, for the journal where it is now; ``None`` where a program made it.

    A batch's folder is renamed and moved. The command as it was given would begin a new journal at the old place, and pay
    for all of it again.
    """
    from videorouter.cli.parser import parse  # noqa: PLC0415  it knows the commands

    words: list[str] | None = json.loads(meta.get("command", "null"))
    if not words:
        return None
    args = parse(words)
    path = path.resolve()
    if (Path(meta.get("folder") or ".") / place_journal(args)).resolve() == path:
        return words
    apart = bool(args.journal or find_store(args.out))
    moved = [] if apart else ["--out", str(path.parent)]
    return [*words, *moved, *(["--journal", str(path)] if apart or path.name != JOURNAL else [])]


def make_folder(folder: Path) -> None:
    """Make a batch's folder, unless it is there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"--out {folder} cannot be made: {error.strerror or error}.") from error


def say_command(words: Sequence[str]) -> str:
    """A command line to copy."""
    return shlex.join(["videorouter", *words])


def say_recalled(words: Sequence[str], meta: Mapping[str, str]) -> str:
    """The command line that goes on with a journal, in the folder where it was first called: its paths mean another there."""
    folder = meta.get("folder", "")
    command = say_command(words)
    return command if not folder or Path(folder) == Path.cwd() else f"cd {shlex.quote(folder)} && {command}"


def say_displaced(journal: Path) -> str:
    """What to do about a journal that does not lie where the run that wrote it would look for it: no command that pays."""
    return f"put {journal} back, or run `videorouter batch status` on it where it is now, which says how to go on"


def say_batch(command: str, journal: Path) -> str:
    """A ``batch`` command about a journal."""
    place = journal.parent if journal.name == JOURNAL and str(journal.parent) != "." else journal
    return say_command(["batch", command, str(place)])
