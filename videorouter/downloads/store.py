"""Puts a video into an object store that fsspec knows: whole, or not there.

The store's own means make it so: the parts of an upload are seen by nobody before its last call completes it, and what fails
is aborted. Every method blocks and belongs in a thread; what it raises is whatever the store's package raises.
"""

from __future__ import annotations

from hashlib import sha256
from itertools import islice
from typing import TYPE_CHECKING, Any

from videorouter.downloads.media import look_through
from videorouter.downloads.names import name_content, number_names
from videorouter.errors import ConfigurationError, DownloadError
from videorouter.places import STORE_PACKAGES, ObjectURL

if TYPE_CHECKING:
    from collections.abc import Container, Sequence
    from hashlib import _Hash
    from pathlib import Path

    from videorouter.downloads.file import Conflict
    from videorouter.models import Media

BLOCK = 2**20
"""Bytes that are handed to a thread at once."""
_PART = 5 * 2**20
"""Bytes of one part of an upload, the least that S3 takes: its package holds each four times. 10,000 of them, the most, are 52 GB."""
_LOOK_BYTES = 2**16
_MARK = "videorouter"
"""The name of a mark among an object's metadata."""
_AZURE = frozenset({"az", "abfs"})
_MAX_NAMES = 10_000


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
        msg = (
            f"{scheme}:// needs the package {STORE_PACKAGES[scheme]}. In a clone of videorouter: pip install '.[data]'"
        )
        raise ConfigurationError(msg) from error
    except Exception as error:
        msg = (
            f"{scheme}:// cannot be used: {type(error).__name__}: {error}. Say in the environment who you are and where the "
            f"store is, as the package {STORE_PACKAGES[scheme]} reads it."
        )
        raise ConfigurationError(msg) from error


def check_store(folder: ObjectURL) -> None:
    """Check that a store answers and has the bucket of this folder.

    Raises:
        ConfigurationError: It does not.
    """
    store = open_store(folder)
    if folder.startswith("memory:"):
        return
    bucket = store._strip_protocol(folder).partition("/")[0]  # noqa: SLF001  fsspec's own way to say it; it has no other
    try:
        store.invalidate_cache()
        store.info(bucket)
    except Exception as error:
        scheme = folder.partition(":")[0]
        msg = f"{scheme}://{bucket} cannot be used: {type(error).__name__}: {error}. Check the name, and who the environment says you are."
        raise ConfigurationError(msg) from error


def find_object_size(url: ObjectURL) -> int | None:
    """Return the size of an object, or ``None``.

    Raises:
        DownloadError: The store cannot be asked.
    """
    try:
        return StoredObject(url).find_size()
    except ConfigurationError:
        raise
    except Exception as error:
        raise DownloadError(f"{url} cannot be looked at ({type(error).__name__}: {error}).") from error


def find_free_object(url: ObjectURL, taken: Container[Path | ObjectURL] = ()) -> ObjectURL:
    """Return the URL, or the first numbered one beside it, that is neither an object nor reserved.

    Raises:
        DownloadError: The store cannot be asked.
    """
    names = (url.with_name(name) for name in number_names(url.name))
    return next(free for free in names if free not in taken and find_object_size(free) is None)


class StoredObject:
    """One object during a transfer to it.

    ``mark`` names the video: it is kept in the object's metadata, and tells the same video from another of the same size.
    """

    def __init__(
        self,
        url: ObjectURL,
        *,
        mark: str = "",
        hashed: bool = False,
        overwrite: bool | None = None,
        conflict: Conflict = "replace",
    ) -> None:
        self.url: ObjectURL = url
        self.size: int = 0
        self._mark = mark
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
        if self._conflict == "refuse" and self.find_size() is not None:
            raise FileExistsError(self.url)

    def begin(self, total: int | None, container: str) -> bool:
        """Choose the name, and begin to write; ``False`` when this very video is there and can stay."""
        name = name_content(self.url.name, container)
        conflict: Conflict = self._conflict if name == self.url.name else "number"
        for free in islice(number_names(name, "."), _MAX_NAMES if conflict == "number" else 1):
            self.url = self._wanted.with_name(free)
            size = None if self._overwrite and conflict == "replace" else self.find_size()
            if size is not None and total in (size, None) and self._find_mark() == self._mark:
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
        self.size = size = self.find_size() or 0

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

            file = MemoryFile(self._store, self._path)  # its ``open`` shows the object before it is whole
            file.mark = self._mark
            return file
        scheme = self.url.partition(":")[0]
        metadata = {_MARK: self._mark, **({"is_directory": "false"} if scheme in _AZURE else {})}
        named = {"Metadata" if scheme == "s3" else "metadata": metadata}
        return self._store.open(self._path, mode, block_size=_PART, **named)

    def find_size(self) -> int | None:
        """Return the size of the object that is there, or ``None``."""
        if self._store is None:
            self._store = open_store(self.url)
        found = self._find_facts()
        return None if found is None or found.get("type") == "directory" else int(found["size"])

    def _find_mark(self) -> str | None:
        """Return the mark of the object that is there: none, of one that was put there by other means."""
        if self._is_memory:
            return getattr(self._store.store.get(self._path), "mark", None)
        if self.url.startswith("s3:"):
            found = self._store.metadata(self._path, refresh=True)
        else:
            found = (self._find_facts() or {}).get("metadata")
        return (found or {}).get(_MARK)

    def _find_facts(self) -> dict[str, Any] | None:
        self._store.invalidate_cache()
        try:
            found: dict[str, Any] = self._store.info(self._path)
        except FileNotFoundError:
            return None
        return found
