"""Reads texts, numbers, addresses and paths of other libraries as Python's own.

Templates, data frames and settings hand over texts and numbers of classes of their own, which encoders, databases and
other processes do not know. What is plain already comes here last, if at all.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Mapping
from decimal import Decimal
from numbers import Integral, Real
from pathlib import Path
from typing import Annotated, Any, Protocol, SupportsFloat, SupportsIndex, TypeAlias

from videorouter.record import AS_IS

Whole: TypeAlias = int | Annotated[SupportsIndex, AS_IS]
"""A whole number of any class, such as numpy's."""
Number: TypeAlias = float | Annotated[SupportsFloat, AS_IS] | Annotated[SupportsIndex, AS_IS]
"""A number of any class: ``Decimal``, numpy's."""


class PathObject(Protocol):
    """What names a file: ``pathlib.Path`` and every other ``os.PathLike``."""

    def __fspath__(self) -> str | bytes:
        """The path."""
        ...


class URLObject(Protocol):
    """A URL of httpx, yarl, Starlette, pydantic or ``urllib.parse``."""

    @property
    def scheme(self) -> object:  # text; pyright does not see through yarl's own kind of property
        """``https``."""
        ...


class ReadableFile(Protocol):
    """A file in binary mode, or one whose ``read`` is a coroutine function."""

    def read(self) -> bytes | Awaitable[bytes]:
        """All that is left of it."""
        ...


class UploadedFile(Protocol):
    """An upload of Starlette, FastAPI, Litestar, Flask, Django or aiohttp."""

    @property
    def filename(self) -> str | None:
        """The name that it was sent with."""
        ...


def as_text(value: object) -> str | None:
    """Return text of any class, or an enum's text, as plain ``str``; ``None`` for anything else."""
    if isinstance(value, enum.Enum):
        value = value.value
    return str.__str__(value) if isinstance(value, str) else None


def as_number(value: object) -> int | float | None:
    """Return a number of any class as ``int`` or ``float``; ``None`` for anything else, truth values included."""
    if isinstance(value, bool):
        return None
    if isinstance(value, Integral):
        return int(value)
    return float(value) if isinstance(value, Real | Decimal) else None


def as_url(value: object) -> str | None:
    """Return text, or the address that a URL object of any library holds; ``None`` for anything else."""
    text = as_text(value)
    if text is not None:
        return text
    scheme = getattr(value, "scheme", None)
    if not scheme or not isinstance(scheme, str):
        return None
    address = str(value.geturl() if hasattr(value, "geturl") else value)
    return address if address.lower().startswith(f"{scheme.lower()}:") else None


def as_path(value: object) -> Path | None:
    """Return what names a file, by whatever class of paths; ``None`` for anything else, text included."""
    if isinstance(value, Path):
        return value
    if not hasattr(value, "__fspath__"):
        return None
    name = value.__fspath__()
    return Path(name if isinstance(name, str) else name.decode("utf-8", "surrogateescape"))


def as_input(value: object) -> object:
    """Return an input of a URL field: a URL as text, what names a file as a ``Path``, anything else as it is."""
    for read in (as_url, as_path):
        plain = read(value)
        if plain is not None:
            return plain
    return value


def find_file_name(file: object) -> str | None:
    """Return the name of a file object, or the one that a web framework's upload was sent with."""
    names = (getattr(file, attribute, None) for attribute in ("filename", "name"))
    return next((name for name in names if isinstance(name, str)), None)


def as_value(value: object) -> Any:
    """Return a value that no encoder knows as one that it does; raises ``TypeError`` where there is none."""
    if isinstance(value, Mapping):
        return dict(value)
    for read in (as_url, as_number):
        plain = read(value)
        if plain is not None:
            return plain
    if hasattr(value, "tolist"):  # arrays and numpy's scalars
        return value.tolist()
    if as_path(value) is not None:
        msg = f"{str(value)!r} is a file of this machine, which the gateway cannot read; `await router.upload(path)` gives it an address"
        raise TypeError(msg)
    msg = f"{type(value).__name__} has no JSON form"
    raise TypeError(msg)
