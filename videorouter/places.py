"""Where a video lies: at a path, or as an object in a store, which a URL names. It performs no I/O."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from videorouter.errors import InvalidRequestError

if TYPE_CHECKING:
    from pathlib import Path

STORE_PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs", "memory": "fsspec"}
"""The schemes of object stores, and the package that speaks to each."""

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_LOST_SLASH = re.compile(rf"({'|'.join(STORE_PACKAGES)}):/[^/]", re.IGNORECASE)


class ObjectURL(str):
    """The URL of an object, with the few parts of a path that choosing a name takes."""

    __slots__ = ()

    @property
    def name(self) -> str:
        """What stands behind the last slash."""
        return self.rpartition("/")[2]

    @property
    def stem(self) -> str:
        """The name without its ending."""
        return self.name.rpartition(".")[0] or self.name

    @property
    def suffix(self) -> str:
        """The ending of the name, with its dot."""
        return self.name[len(self.stem) :]

    def with_name(self, name: str) -> ObjectURL:
        """Return the URL of another object beside it."""
        return ObjectURL(f"{self.rpartition('/')[0]}/{name}")

    def with_stem(self, stem: str) -> ObjectURL:
        """Return the URL of another object beside it, with the same ending."""
        return self.with_name(f"{stem}{self.suffix}")

    def __truediv__(self, name: str) -> ObjectURL:
        return ObjectURL(f"{self}{'' if self.endswith('/') else '/'}{name}")


def read_url(text: str) -> ObjectURL | None:
    """Return a destination as an object's URL; ``None`` for a path.

    Raises:
        InvalidRequestError: It is a URL, and not one of a store that videos can be put into.
    """
    found = _URL.fullmatch(text)
    if found is None:
        if _LOST_SLASH.match(text):
            msg = f"{text!r} was a URL before pathlib took one of its slashes: give URLs as text."
            raise InvalidRequestError(msg)
        return None
    scheme, rest = found[1].lower(), found[2]
    if scheme not in STORE_PACKAGES:
        stores = ", ".join(f"{name}://" for name in ("s3", "gs", "az", "memory"))
        msg = f"Videos can be put at a path or at a URL of {stores}, not at {scheme}://."
        raise InvalidRequestError(msg)
    bucket, slash, _ = rest.partition("/")
    if scheme != "memory" and not (bucket and slash):
        msg = f"{text!r} names no object: a URL is {scheme}://bucket/name.mp4, or {scheme}://bucket/folder/ for a name by the video."
        raise InvalidRequestError(msg)
    if scheme != "memory" and (":" in bucket or "?" in rest):
        msg = f"A URL of {scheme}:// holds no credentials and no options: give them in the environment."
        raise InvalidRequestError(msg)
    return ObjectURL(f"{scheme}://{rest}")


def find_place(folder: Path, text: str) -> Path | ObjectURL:
    """Return a place as a journal spells it: an object's URL, or a path from the folder."""
    return ObjectURL(text) if "://" in text else folder / text
