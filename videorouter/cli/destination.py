"""Where a command's videos go. Checked before anything is paid: a file that cannot be written is found out first."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from urllib.parse import unquote, urlsplit

from videorouter.downloads.file import find_free
from videorouter.downloads.names import join_words
from videorouter.downloads.store import check_store, find_free_object
from videorouter.errors import InvalidRequestError
from videorouter.places import ObjectURL, read_url


class Destination:
    """What ``-o`` said: a file, a folder (it ends in ``/`` or exists), ``-`` for stdout, or nothing."""

    def __init__(self, output: str | None, *, count: int = 1) -> None:
        self._output = output
        self.stdout: bool = output == "-"
        self.path: Path | ObjectURL | None = None
        if output and not self.stdout:
            self.path = read_url(output) or Path(output).expanduser()
        self.folder: bool = str(output).endswith(("/", os.sep)) or (isinstance(self.path, Path) and self.path.is_dir())
        self._count = count
        self._taken: set[Path | ObjectURL] = set()
        self._choosing = threading.Lock()
        if self.stdout:
            self._check_stdout()
        elif isinstance(self.path, ObjectURL):
            check_store(self.path)
        elif self.path is not None:
            self._check_path(self.path)

    @property
    def wanted(self) -> bool:
        """Whether videos are to be saved at all."""
        return self.stdout or self.path is not None

    def place(self, number: int, name: str) -> Path | ObjectURL:
        """The path of the command's video of this number, from 1; inside a folder it is called by ``name``, cleaned.

        It may ask a store, and belongs in a thread then.
        """
        if self.path is None:
            return self._free(Path(join_words(name)))
        if self.folder:
            if isinstance(self.path, Path):
                self.path.mkdir(parents=True, exist_ok=True)
            return self._free(self.path / join_words(name))
        if self._count == 1:
            return self.path
        return self.path.with_stem(f"{self.path.stem}-{number}")

    def spell(self, number: int) -> str | None:
        """What ``-o`` must say to save one of the command's videos where it belongs."""
        if self.path is None or self.folder or self._count == 1:
            return self._output
        return str(self.place(number, ""))

    def _free(self, path: Path | ObjectURL) -> Path | ObjectURL:
        """The path, or one with a number behind it, that no file and no other video of this command has."""
        with self._choosing:
            free = find_free_object(path, self._taken) if isinstance(path, ObjectURL) else find_free(path, self._taken)
            self._taken.add(free)
            return free

    def _check_stdout(self) -> None:
        if sys.stdout.isatty():
            _refuse("-o - writes the video itself to stdout, and that is a terminal: redirect it, or name a file.")
        if self._count != 1:
            _refuse(f"-o - takes one video, not {self._count}: name a folder, such as -o clips/.")

    def _check_path(self, path: Path) -> None:
        if self.folder:
            existing = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
        else:
            existing = path.parent
            if not existing.exists():
                _refuse(f"-o {path}: the folder {existing} does not exist. Make it first, or choose another place.")
        if not existing.is_dir():
            _refuse(f"-o {path}: {existing} is no folder. Choose another place.")
        if not os.access(existing, os.W_OK | os.X_OK):
            _refuse(f"-o {path}: the folder {existing} cannot be written to. Choose another place, or change its mode.")


def name_of_url(url: str) -> str:
    """The last part of a URL's path."""
    try:
        path = unquote(urlsplit(url).path)
    except ValueError:
        return "video"
    return path.rstrip("/").rsplit("/", 1)[-1]


def _refuse(message: str) -> None:
    raise InvalidRequestError(message)
