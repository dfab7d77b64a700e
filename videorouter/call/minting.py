"""Mints idempotency keys: UUIDs that no other call of any process has, at the price of a counter.

The first 74 bits are random and new in every process, a forked child included; the last 48 count from a random start.
"""

from __future__ import annotations

import itertools
import os
import sys
import uuid

_COUNTED = 48


class _Mint:
    def __init__(self) -> None:
        self.start_afresh()

    def start_afresh(self) -> None:
        seed = uuid.uuid4()
        self.stem = str(seed)[:24]
        self.numbers = itertools.count(seed.int & ((1 << _COUNTED) - 1))


_MINT = _Mint()
if sys.platform != "win32":
    os.register_at_fork(after_in_child=_MINT.start_afresh)


def new_idempotency_key() -> str:
    """A key for one logical call."""
    return f"{_MINT.stem}{next(_MINT.numbers) & 0xFFFFFFFFFFFF:012x}"
