"""Puts a video into an object store that fsspec knows: whole, or not there.

The store's own means make it so: the parts of an upload are seen by nobody before its last call completes it, and what fails
is aborted. Every method blocks and belongs in a thread; what it raises is whatever the store's package raises.
"""

from __future__ import annotations

import re
from hashlib import sha256
from itertools import islice
from typing import TYPE_CHECKING, Any

from videorouter.downloads.media import look_through
from videorouter.downloads.names import name_content, number_names
from videorouter.errors import ConfigurationError, InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from hashlib import _Hash

    from videorouter.downloads.file import Conflict
    from videorouter.models import Media

BLOCK = 4 * 2**20
"""Bytes that are handed to a thread at once."""
_PART = 8 * 2**20
"""Bytes of one part of an upload: 10,000 of them, the most that S3 takes, are 80 GB."""
_LOOK_BYTES = 2**16
_MAX_NAMES = 10_000
_PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs", "memory": "fsspec"}
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_LOST_SLASH = re.compile(rf"({'|'.join(_PACKAGES)}):/[^/]", re.IGNORECASE)


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
    if scheme not in _PACKAGES:
        stores = ", ".join(f"{name}://" for name in ("s3", "gs", "az", "memory"))
        msg = f"Videos can be put at a path or at a URL of {stores}, not at {scheme}://."
        raise InvalidRequestError(msg)
    bucket, slash, _ = rest.partition("/")
    if scheme != "memory" and not (bucket and slash):
        msg = f"{text!r} names no object: a URL is {scheme}://bucket/name.mp4, or {scheme}://bucket/folder/ for a name by the video."
        raise InvalidRequestError(msg)
    return ObjectURL(f"{scheme}://{rest}")


def open_store(url: ObjectURL) -> Any:
    """Return the file system of a URL.

    Raises:
        ConfigurationError: Its package is missing, or cannot be set up.
    """
    scheme = url.partition(":")[0]
    try:
        import fsspec  # noqa: PLC0415  an extra

        return fsspec.filesystem(scheme)
    except ImportError as error:
        msg = f"{scheme}:// needs the package {_PACKAGES[scheme]}. In a clone of videorouter: pip install '.[data]'"
        raise ConfigurationError(msg) from error
    except Exception as error:
        msg = (
            f"{scheme}:// cannot be used: {type(error).__name__}: {error}. Say in the environment who you are and where the "
            f"store is, as the package {_PACKAGES[scheme]} reads it."
        )
        raise ConfigurationError(msg) from error


class StoredObject:
    """One object during a transfer to it."""

    def __init__(self, url: ObjectURL, *, hashed: bool, overwrite: bool | None, conflict: Conflict) -> None:
        self.url: ObjectURL = url
        self.size: int = 0
        self._wanted = url
        self._overwrite = overwrite
        self._conflict = conflict
        self._digest: _Hash | None = sha256() if hashed else None
        self._store: Any = None
        self._file: Any = None

    @property
    def sha256(self) -> str | None:
        """The hex digest of the bytes, if it was asked for."""
        return None if self._digest is None else self._digest.hexdigest()

    def open(self) -> None:
        """Find the store; refuse an object that is there, where that was asked for."""
        self._store = open_store(self.url)
        if self._conflict == "refuse" and self._find_size(self.url) is not None:
            raise FileExistsError(self.url)

    def begin(self, total: int | None, container: str) -> bool:
        """Choose the name, and begin to write; ``False`` when an object of that size is there and can stay."""
        name = name_content(self.url.name, container)
        conflict: Conflict = self._conflict if name == self.url.name else "number"
        for free in islice(number_names(name, "."), _MAX_NAMES if conflict == "number" else 1):
            self.url = self._wanted.with_name(free)
            size = None if self._overwrite and conflict == "replace" else self._find_size(self.url)
            if size is not None and size == total:
                return False
            if size is None or conflict == "replace":
                self._file = self._create("wb" if conflict == "replace" else "xb")
                return True
        raise FileExistsError(self.url)

    def write(self, parts: Sequence[bytes | memoryview]) -> None:
        """Append bytes; full parts go to the store."""
        for part in parts:
            if self._digest is not None:
                self._digest.update(part)
            self._file.write(part)
            self.size += len(part)

    def commit(self) -> None:
        """Complete the upload: only now is there an object."""
        file = self._file
        if self._is_memory:
            file.commit()
        else:
            file.close()
        self._file = None

    def abort(self) -> None:
        """Give up what was begun; nothing of it is left to see or, where the store can, to pay for. Idempotent."""
        file, self._file = self._file, None
        if file is None or self._is_memory:
            return
        file.closed = True  # or its finaliser would complete the upload
        file.discard()
        client = getattr(file, "container_client", None)
        if client is not None:
            from fsspec.asyn import sync  # noqa: PLC0415  an extra

            sync(file.loop, client.close)

    def measure(self) -> Media | None:
        """Read the facts of the object that is there, and its digest, if that was asked for."""
        store, path = self._store, self._path
        self.size = size = self._find_size(self.url) or 0

        def read(start: int, count: int) -> bytes:
            return bytes(store.cat_file(path, start=start, end=min(size, start + max(count, _LOOK_BYTES))))

        if self._digest is not None:
            for start in range(0, size, BLOCK):
                self._digest.update(read(start, BLOCK))
        media, _ = look_through(read, size)
        return media

    @property
    def _path(self) -> str:
        return str(self._store._strip_protocol(self.url))  # noqa: SLF001  fsspec's own way to say it; it has no other

    @property
    def _is_memory(self) -> bool:
        return self.url.startswith("memory:")

    def _create(self, mode: str) -> Any:
        if self._is_memory:
            from fsspec.implementations.memory import MemoryFile  # noqa: PLC0415  an extra

            return MemoryFile(self._store, self._path)  # its ``open`` shows the object before it is whole
        return self._store.open(self._path, mode, block_size=_PART)

    def _find_size(self, url: ObjectURL) -> int | None:
        path = self._store._strip_protocol(url)  # noqa: SLF001  as above
        self._store.invalidate_cache()
        try:
            found = self._store.info(path)
        except FileNotFoundError:
            return None
        return None if found.get("type") == "directory" else int(found["size"])
