"""What is used of httpx, and of httpx2 where a user's own client is one of that.

Both have the same classes by the same names, and neither takes the other's: a request, a body and an error must be of the
client's own package. So each package is one ``HttpxApi``, found by the classes that a client derives from.

It also notices mocks. respx, pytest-httpx, recorders and tracers patch httpx or httpcore. A test suite that mocks HTTP
must not reach the network, and somebody's money, because this package sends by another way. So whenever a method of
httpx is not the one that its own file defines, requests take the way that leads through that method. Nothing is
patched here.
"""

from __future__ import annotations

import operator
import sys
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

import httpx

from videorouter.http import cut_body

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from videorouter.http import Attempt, Body

_BODY_PIECE = 65_536
_CORES = {"httpx": "httpcore", "httpx2": "httpcore2"}
"""The package below each."""


class _Patches:
    """Methods of one class that a mock may replace, and whether they are still the original ones."""

    __slots__ = ("_genuine", "_names", "_owner", "_read")

    def __init__(self, owner: Any, *names: str) -> None:
        self._owner = owner
        self._names = names
        self._read: Callable[[object], object] = operator.attrgetter(*names)
        self._genuine: object = None

    def is_patched(self) -> bool:
        """Whether one is replaced. This runs for each request, so that methods found genuine are only compared."""
        methods = self._read(self._owner)
        if methods == self._genuine:
            return False
        if any(map(self._differs, self._names)):
            return True
        self._genuine = methods
        return False

    def _differs(self, name: str) -> bool:
        method = getattr(self._owner, name)
        code = getattr(method, "__code__", None)
        if code is None or hasattr(method, "__wrapped__"):
            return True
        # The module may have been loaded while a mock was already in place: only the file can tell.
        return bool(code.co_filename != self._owner.__aenter__.__code__.co_filename)


class RequestBody:
    """A body in pieces: once its request is given up, the rest is never sent.

    In one piece it would stay in a buffer of the transport, which is still written after the request was given up.
    """

    def __init__(self, body: Body, attempt: Attempt) -> None:
        self.body = body
        self._attempt = attempt

    async def __aiter__(self) -> AsyncIterator[bytes]:
        pieces = cut_body(self.body, _BODY_PIECE)
        piece = next(pieces, b"")
        for following in pieces:
            self._attempt.half_written = True
            yield bytes(piece)
            piece = following
        self._attempt.half_written = False
        yield bytes(piece)


class HttpxApi:
    """One of the two packages: its module, and what is made of its classes."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.parse_url: Callable[[str], Any] = lru_cache(maxsize=256)(module.URL)
        self.request_body: Callable[[Body, Attempt], Any] = type(
            "RequestBody", (RequestBody, module.AsyncByteStream), {}
        )
        self.is_client_patched: Callable[[], bool] = _Patches(
            module.AsyncClient, "send", "_transport_for_url"
        ).is_patched
        """Whether a method of ``AsyncClient`` is replaced: send through a client, over our own transport."""
        self._transport = _Patches(module.AsyncHTTPTransport, "handle_async_request")
        self._pool: _Patches | None = None

    def is_transport_patched(self) -> bool:
        """Whether the stock transport, or httpcore below it, is replaced: send through the stock transport."""
        if self._transport.is_patched():
            return True
        if self._pool is None:
            core = sys.modules.get(f"{_CORES[self.module.__name__]}._async.connection_pool")
            if core is None:
                return False
            self._pool = _Patches(core.AsyncConnectionPool, "handle_async_request")
        return self._pool.is_patched()


@cache
def _open_api(package: str) -> HttpxApi:
    return HttpxApi(sys.modules[package])


def find_api(kind: type, name: str) -> HttpxApi | None:
    """Find the package whose class of that name a class derives from, or is; ``None`` where it derives from neither's."""
    for base in kind.__mro__:
        package = base.__module__.partition(".")[0]
        if package in _CORES and base.__name__ == name:
            return _open_api(package)
    return None


def is_httpx_error(error: Exception, *names: str) -> bool:
    """Whether an error is of one of the classes that have these names in either package."""
    return any(find_api(type(error), name) for name in names)


OWN = _open_api(httpx.__name__)
"""That which this package depends on."""


def is_mocked() -> bool:
    """Whether respx intercepts requests right now: then connect errors mean what they say."""
    mocks = sys.modules.get("respx.mocks")
    if mocks is None:
        return False
    return any(mocker._patches for mocker in mocks.Mocker.registry.values())  # noqa: SLF001 - respx has no public way
