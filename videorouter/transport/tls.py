"""A connection under TLS: the same exchanges, with OpenSSL's two memory buffers between the socket and the parser.

asyncio's own TLS costs 300 KiB a connection, most of it a read buffer; here the only buffers are OpenSSL's. The
handshake is driven by the same reader that later feeds the parser.

The context that every client of a process shares is made once, on first use, in a thread of its own: reading the trust
store takes tens of milliseconds. It trusts the system's store, where that is empty certifi's, and honours
``SSL_CERT_FILE``.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import ssl
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from videorouter.transport.connection import READ_SIZE, Connection

if TYPE_CHECKING:
    import socket

    from videorouter.transport.pool import Origin

_RECORD = 16_384


class TlsConnection(Connection):
    """A ``Connection`` whose bytes go through TLS.

    Args:
        sock: A connected, non-blocking socket; this connection owns it.
        origin: Where it leads.
        peer: The address at its other end.
        context: Decides about trust.
        hostname: The name that the certificate must have, and SNI.
    """

    __slots__ = ("incoming", "outgoing", "tls")

    def __init__(
        self, sock: socket.socket, origin: Origin, peer: str, *, context: ssl.SSLContext, hostname: str
    ) -> None:
        super().__init__(sock, origin, peer)
        self.incoming: ssl.MemoryBIO = ssl.MemoryBIO()
        self.outgoing: ssl.MemoryBIO = ssl.MemoryBIO()
        self.tls: ssl.SSLObject = context.wrap_bio(self.incoming, self.outgoing, server_hostname=hostname)

    async def shake_hands(self) -> None:
        """Agree on keys and check the certificate.

        Raises:
            ssl.SSLError: The certificate is not trusted, or the other side speaks another protocol.
            OSError: The connection broke.
        """
        loop = asyncio.get_running_loop()
        finished: asyncio.Future[None] = loop.create_future()
        loop.add_reader(self.fd, self._step, finished)
        try:
            self._step(finished)
            await finished
        finally:
            if self.sock is not None:
                loop.remove_reader(self.fd)

    def _step(self, finished: asyncio.Future[None]) -> None:
        if finished.done():
            return
        try:
            if self._advance():
                finished.set_result(None)
        except OSError as error:
            finished.set_exception(error)

    def _advance(self) -> bool:
        """One step of the handshake; whether it is over."""
        self._fill(READ_SIZE)
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return False
        except ssl.SSLError:
            # The alert tells the other side why.
            self._flush()
            raise
        self._flush()
        return True

    def _fill(self, size: int) -> bool:
        """Move what the socket has into OpenSSL; whether there was anything."""
        try:
            data = self.sock.recv(size)  # type: ignore[union-attr]  # open while it is read
        except (BlockingIOError, InterruptedError):
            return False
        if data:
            self.incoming.write(data)
        else:
            self.incoming.write_eof()
        return True

    def _flush(self) -> None:
        """Send what OpenSSL wants to say; handshakes and alerts fit any send buffer."""
        if self.outgoing.pending and not self.outbox:
            data = self.outgoing.read()
            try:
                sent = self.sock.send(data)  # type: ignore[union-attr]  # open while it is written
            except (BlockingIOError, InterruptedError):
                sent = 0
            if sent < len(data):
                self._keep(memoryview(data)[sent:])

    def _encode(self, payload: bytes) -> bytes:
        self.tls.write(payload)
        return self.outgoing.read()

    def _receive(self, size: int) -> bytes | None:
        if self.ended:
            return b""
        if self.sock is None or not self._fill(size):
            return None
        pieces: list[bytes] = []
        try:
            while piece := self.tls.read(_RECORD):
                pieces.append(piece)
            self.ended: bool = True
        except ssl.SSLWantReadError:
            if not pieces:
                self._flush()
                return None
        except ssl.SSLEOFError:
            # Closed without the farewell of TLS, as many servers do; lengths say whether anything is missing.
            self.ended = True
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


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
