"""Where a command's videos go. Checked before anything is paid: a file that cannot be written is found out first."""

from __future__ import annotations

import os
import re
import sys
import unicodedata
from pathlib import Path
from urllib.parse import unquote, urlsplit

from videorouter.errors import InvalidRequestError

_OTHER = re.compile(r"[^\w.-]+")


class Destination:
    """What ``-o`` said: a file, a folder (it ends in ``/`` or exists), ``-`` for stdout, or nothing."""

    def __init__(self, output: str | None, *, count: int = 1) -> None:
        self._output = output
        self.stdout: bool = output == "-"
        self.path: Path | None = Path(output) if output and not self.stdout else None
        self.folder: bool = self.path is not None and (str(output).endswith(("/", os.sep)) or self.path.is_dir())
        self._count = count
        self._taken: set[Path] = set()
        if self.stdout:
            self._check_stdout()
        elif self.path is not None:
            self._check_path(self.path)

    @property
    def wanted(self) -> bool:
        """Whether videos are to be saved at all."""
        return self.stdout or self.path is not None

    def place(self, number: int, name: str) -> Path:
        """The path of the command's video of this number, from 1; inside a folder it is called by ``name``, cleaned."""
        if self.path is None:
            return self._free(Path(clean_name(name)))
        if self.folder:
            self.path.mkdir(parents=True, exist_ok=True)
            return self._free(self.path / clean_name(name))
        if self._count == 1:
            return self.path
        return self.path.with_stem(f"{self.path.stem}-{number}")

    def spell(self, number: int) -> str | None:
        """What ``-o`` must say to save one of the command's videos where it belongs."""
        if self.path is None or self.folder or self._count == 1:
            return self._output
        return str(self.place(number, ""))

    def _free(self, path: Path) -> Path:
        """The path, or one with a number behind it, that no file and no other video of this command has."""
        candidate, number = path, 1
        while candidate in self._taken or candidate.exists() or candidate.is_symlink():
            number += 1
            candidate = path.with_stem(f"{path.stem}-{number}")
        self._taken.add(candidate)
        return candidate

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


def clean_name(name: str) -> str:
    """A file name made from a prompt, an id or a URL's last part; never hidden, never with a separator."""
    text = _OTHER.sub("-", unicodedata.normalize("NFC", name).removesuffix(".mp4")).strip("-._")
    return f"{text[:60].strip('-._') or 'video'}.mp4"


def name_of_url(url: str) -> str:
    """The last part of a URL's path."""
    try:
        path = unquote(urlsplit(url).path)
    except ValueError:
        return "video"
    return path.rstrip("/").rsplit("/", 1)[-1]


def _refuse(message: str) -> None:
    raise InvalidRequestError(message)
