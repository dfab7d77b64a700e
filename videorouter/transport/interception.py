"""Notices that something stands between httpx and the network, so that our own transport lets itself be caught too.

respx, pytest-httpx, recorders and tracers patch httpx or httpcore. A test-suite that mocks HTTP must not reach the
network, and somebody's money, because this package sends by another way. So whenever a method below is not the one
that its own file defines, requests take the way that leads through that method. Nothing is patched here.
"""

from __future__ import annotations

import sys
from typing import Any

import httpx

_CORE = "httpcore._async.connection_pool"


class _Watch:
    """Methods of one class, and whether they are still those that its file defines.

    Args:
        owner: The class.
        names: Its methods that a mock may replace.
    """

    __slots__ = ("_genuine", "_names", "_owner")

    def __init__(self, owner: Any, *names: str) -> None:
        self._owner = owner
        self._names = names
        self._genuine: dict[str, object] = {}

    def is_patched(self) -> bool:
        owner, genuine = self._owner, self._genuine
        for name in self._names:  # noqa: SIM110 - a generator would cost more than the look
            if getattr(owner, name) is not genuine.get(name) and self._differs(name):
                return True
        return False

    def _differs(self, name: str) -> bool:
        method = getattr(self._owner, name)
        code = getattr(method, "__code__", None)
        if code is None or hasattr(method, "__wrapped__"):
            return True
        # The module may have been loaded while a mock was already in place: only the file can tell.
        if code.co_filename != self._owner.__aenter__.__code__.co_filename:
            return True
        self._genuine[name] = method
        return False


_client = _Watch(httpx.AsyncClient, "send", "_transport_for_url")
_transport = _Watch(httpx.AsyncHTTPTransport, "handle_async_request")
_core: list[_Watch] = []


def catches_client() -> bool:
    """Whether a method of ``httpx.AsyncClient`` is patched: send through a client, over our own transport."""
    return _client.is_patched()


def catches_transport() -> bool:
    """Whether the stock transport, or httpcore below it, is patched: send through the stock transport."""
    if _transport.is_patched():
        return True
    if not _core:
        module = sys.modules.get(_CORE)
        if module is None:
            return False
        _core.append(_Watch(module.AsyncConnectionPool, "handle_async_request"))
    return _core[0].is_patched()


def is_mocked() -> bool:
    """Whether respx intercepts requests right now: then connect errors mean what they say."""
    mocks = sys.modules.get("respx.mocks")
    if mocks is None:
        return False
    return any(mocker._patches for mocker in mocks.Mocker.registry.values())  # noqa: SLF001 - respx has no public way
