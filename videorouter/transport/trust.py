"""The TLS context that every client of a process shares: made once, on first use, in a thread of its own.

Reading the trust store takes tens of milliseconds; an event loop with a thousand calls in flight must not stand still
for it. It trusts the system's store, where that is empty certifi's, and honours ``SSL_CERT_FILE``.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import ssl
import threading
from pathlib import Path

_lock = threading.Lock()
_making: tuple[int, concurrent.futures.Future[ssl.SSLContext]] | None = None


def make_context() -> ssl.SSLContext:
    """Make a verifying client context for HTTP/1.1, with the trust store described in this file's head."""
    context = ssl.create_default_context()
    if not context.cert_store_stats()["x509_ca"] and not _has_directory():
        import certifi  # noqa: PLC0415 - comes with httpx; read only where the system has no store

        context.load_verify_locations(certifi.where())
    context.set_alpn_protocols(["http/1.1"])
    return context


def _has_directory() -> bool:
    """Whether OpenSSL looks up certificates one by one in a directory; it counts none of those beforehand."""
    folder = ssl.get_default_verify_paths().capath
    return bool(folder) and any(Path(folder).glob("*.[0-9]"))


def _start_making() -> concurrent.futures.Future[ssl.SSLContext]:
    global _making  # noqa: PLW0603 - one context per process is the point
    with _lock:
        # A forked child has the future but not the thread that would have filled it.
        made = _making
        if made is not None and made[0] == os.getpid() and not _has_failed(made[1]):
            return made[1]
        future: concurrent.futures.Future[ssl.SSLContext] = concurrent.futures.Future()
        # A running future cannot be cancelled, so that one waiter's cancellation is not everybody's.
        future.set_running_or_notify_cancel()
        _making = (os.getpid(), future)
    threading.Thread(target=_fill, args=(future,), name="videorouter-trust", daemon=True).start()
    return future


def _has_failed(future: concurrent.futures.Future[ssl.SSLContext]) -> bool:
    return future.done() and future.exception() is not None


def _fill(future: concurrent.futures.Future[ssl.SSLContext]) -> None:
    try:
        context = make_context()
    except BaseException as error:  # noqa: BLE001 - it is handed to whoever waits
        future.set_exception(error)
    else:
        future.set_result(context)


async def share_context() -> ssl.SSLContext:
    """The process's context, made by the first who asks.

    Raises:
        OSError: ``SSL_CERT_FILE`` names a file that cannot be read as certificates.
    """
    made = _making
    if made is not None and made[0] == os.getpid() and made[1].done() and not _has_failed(made[1]):
        return made[1].result()
    return await asyncio.wrap_future(_start_making())


def wait_for_context() -> ssl.SSLContext:
    """The process's context, for a caller that may block: a worker thread.

    Raises:
        OSError: ``SSL_CERT_FILE`` names a file that cannot be read as certificates.
    """
    return _start_making().result()
