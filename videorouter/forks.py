"""Resets a forked child: it has none of its parent's threads, and must not use its parent's sockets and locks."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

T = TypeVar("T")

_callbacks: MutableMapping[Any, Callable[[Any], object]] = WeakKeyDictionary()


def after_fork(owner: T, callback: Callable[[T], object]) -> None:
    """Call this with its owner in each forked child, before other code runs there, while the owner lives."""
    _callbacks[owner] = callback


def _run_callbacks() -> None:
    for owner, callback in list(_callbacks.items()):
        callback(owner)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_run_callbacks)
