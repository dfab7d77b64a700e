"""How many connections this process can have: its file-descriptor limit, and what is left for calls."""

from __future__ import annotations

import sys

_MOST = 1000
_WITHOUT_LIMIT = 500


def read_file_limit() -> int | None:
    """The soft limit of open file descriptors; ``None`` where the system sets none."""
    if sys.platform == "win32":
        return None
    import resource  # noqa: PLC0415 - POSIX only

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


def default_concurrency() -> int:
    """How many jobs may be in flight when the caller does not say: the file limit less a reserve, at most 1,000.

    Each job needs one connection. The reserve (an eighth of the limit, at least 32) is for the downloads, the
    journal, the event loop and the program around us.
    """
    limit = read_file_limit()
    if limit is None:
        return _WITHOUT_LIMIT if sys.platform == "win32" else _MOST
    return max(1, min(_MOST, limit - max(32, limit // 8)))
