"""A connection under TLS: the same exchanges, with OpenSSL's two memory buffers between the socket and the parser.

asyncio's own TLS costs 300 KiB a connection, most of it a read buffer; here the only buffers are OpenSSL's. The
handshake is driven by the same reader that later feeds the parser.

The context that every client of a process shares is made on first use, in a thread of its own: reading the trust store
takes tens of milliseconds. It trusts the system's store, where that is empty certifi's, and honours ``SSL_CERT_FILE`` and
``SSL_CERT_DIR``. When what they name has changed, the next connection gets a new one.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
import ssl
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from videorouter.forks import after_fork
from videorouter.transport.connection import PIECE_SIZE, READ_SIZE, Connection

if TYPE_CHECKING:
    import socket

    from videorouter.transport.connection import OriginPool

_RECORD = 16_384
STRICT_VARIABLE = "INFRON_X509_STRICT"
"""``0`` leaves out the strict checks of RFC 5280, which Python 3.13 has begun to make and many companies' roots fail."""
HTTP1 = "http/1.1"
"""The protocol that is asked for (ALPN), and the only one that is spoken."""


class TlsConnection(Connection):
    """A ``Connection`` whose bytes go through TLS; ``hostname`` is what the certificate must name, and SNI."""

    __slots__ = ("incoming", "outgoing", "tls")

    def __init__(
        self, sock: socket.socket, origin: OriginPool, peer: str, *, context: ssl.SSLContext, hostname: str
    ) -> None:
        super().__init__(sock, origin, peer)
        self.incoming: ssl.MemoryBIO = ssl.MemoryBIO()
        self.outgoing: ssl.MemoryBIO = ssl.MemoryBIO()
        self.tls: ssl.SSLObject = context.wrap_bio(self.incoming, self.outgoing, server_hostname=hostname)

    async def shake_hands(self) -> None:
        """Do the handshake and check the certificate; raises ``ssl.SSLError`` when it is not trusted."""
        loop = asyncio.get_running_loop()
        finished: asyncio.Future[None] = loop.create_future()
        loop.add_reader(self.fd, self._continue_handshake, finished)
        try:
            self._continue_handshake(finished)
            await finished
        finally:
            if self.sock is not None:
                loop.remove_reader(self.fd)
        protocol = self.tls.selected_alpn_protocol()
        if protocol not in (None, HTTP1):
            msg = f"{protocol} was agreed on, where only {HTTP1} is spoken; something else changes this ssl_context"
            raise ssl.SSLError(ssl.SSL_ERROR_SSL, msg)

    def _continue_handshake(self, finished: asyncio.Future[None]) -> None:
        if finished.done():
            return
        try:
            if self._do_handshake():
                finished.set_result(None)
        except ssl.SSLCertVerificationError as error:
            finished.set_exception(_find_shortage() or error)
        except OSError as error:
            finished.set_exception(error)

    def _do_handshake(self) -> bool:
        """Do one step of the handshake; return whether it is over."""
        self._read_socket(READ_SIZE)
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            self._write_socket()
            return False
        except ssl.SSLError:
            # The alert tells the other side why.
            self._write_socket()
            raise
        self._write_socket()
        return True

    def _read_socket(self, size: int) -> bool:
        """Move bytes of the socket into OpenSSL; return whether there were any."""
        try:
            data = self.sock.recv(size)  # type: ignore[union-attr]  # open while it is read
        except (BlockingIOError, InterruptedError):
            return False
        if data:
            self.incoming.write(data)
        else:
            self.incoming.write_eof()
        return True

    def _write_socket(self) -> None:
        """Send OpenSSL's output; handshakes and alerts fit any send buffer."""
        if self.outgoing.pending and not self.unsent:
            data = self.outgoing.read()
            try:
                sent = self.sock.send(data)  # type: ignore[union-attr]  # open while it is written
            except (BlockingIOError, InterruptedError):
                sent = 0
            if sent < len(data):
                self._write_later(memoryview(data)[sent:])

    def _encode(self, piece: bytes | memoryview) -> bytes:
        self.tls.write(piece)
        return self.outgoing.read()

    def _receive(self, size: int) -> bytes | None:
        if self.eof:
            if self.broken is not None:
                raise self.broken
            return b""
        if self.sock is None or not self._read_socket(size):
            return None
        pieces: list[bytes] = []
        try:
            while piece := self.tls.read(_RECORD):
                pieces.append(piece)
            self.eof: bool = True
        except ssl.SSLWantReadError:
            if not pieces:
                self._write_socket()
                return None
        except ssl.SSLEOFError:
            # Closed without the farewell of TLS, as many servers do; lengths say whether anything is missing.
            self.eof = True
        except ssl.SSLError as error:
            if not pieces:
                raise
            # An alert, or a record that is none: what was decrypted before it may be the whole answer.
            self.eof = True
            self.broken: OSError | None = error
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _receive_into(self, memory: memoryview) -> int | None:
        if self.broken is not None:
            raise self.broken
        filled = 0
        while filled < len(memory) and not self.eof:
            try:
                count: int = self.tls.read(len(memory) - filled, memory[filled:])  # type: ignore[assignment]  # with a buffer
                filled += count
                self.eof = count == 0
            except ssl.SSLWantReadError:
                if self.sock is None or not self._read_socket(min(PIECE_SIZE, len(memory))):
                    break
            except ssl.SSLEOFError:
                self.eof = True
            except ssl.SSLError as error:
                if not filled:
                    raise
                self.eof, self.broken = True, error
        if filled or self.eof:
            return filled
        self._write_socket()
        return None


class _SharedContext:
    """The process's TLS context, made on first use."""

    def __init__(self) -> None:
        self.start_afresh()
        after_fork(self, _SharedContext.start_afresh)

    def start_afresh(self) -> None:
        """Drop it in a forked child, which would wait for its parent's thread."""
        self._mutex = threading.Lock()
        self._making: concurrent.futures.Future[ssl.SSLContext] | None = None
        self._source: tuple[object, ...] = ()

    def make(self) -> concurrent.futures.Future[ssl.SSLContext]:
        """Return the context or a future of it; a failure is reported to those who wait and not remembered."""
        source = _find_source()
        with self._mutex:
            making = self._making
            if making is not None and source == self._source and not (making.done() and making.exception()):
                return making
            self._source = source
            self._making = making = concurrent.futures.Future()
            # A running future cannot be cancelled, so that one waiter's cancellation is not everybody's.
            making.set_running_or_notify_cancel()
        try:
            threading.Thread(target=_fill, args=(making,), name="videorouter-trust", daemon=True).start()
        except RuntimeError:  # no thread is to be had
            _fill(making)
        return making


_shared = _SharedContext()


def _fill(making: concurrent.futures.Future[ssl.SSLContext]) -> None:
    try:
        context = make_context()
    except BaseException as error:  # noqa: BLE001 - it is handed to whoever waits
        making.set_exception(error)
    else:
        making.set_result(context)


def make_context() -> ssl.SSLContext:
    """Make a verifying client context for HTTP/1.1, with the trust store described in this file's head.

    Raises ``ssl.SSLCertVerificationError`` when the environment names certificates that are not there, and ``OSError``
    where no file descriptor is left to read any.
    """
    _check_descriptors()
    file, folders = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    if folders and not any(map(os.path.isdir, folders.split(os.pathsep))):
        raise ssl.SSLCertVerificationError(f"SSL_CERT_DIR={folders} does not exist")
    context = ssl.create_default_context()
    if file:
        try:
            context.load_verify_locations(cafile=file)  # OpenSSL itself ignores one that it cannot read
        except OSError as error:
            _check_descriptors()
            raise ssl.SSLCertVerificationError(
                f"SSL_CERT_FILE={file} cannot be read: {error.strerror or error}"
            ) from error
    if os.environ.get(STRICT_VARIABLE) == "0":
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if count_authorities(context) == 0 and not _has_directory():
        import certifi  # noqa: PLC0415 - comes with httpx; read only where the system has no store

        context.load_verify_locations(certifi.where())
    context.set_alpn_protocols([HTTP1])
    return context


def _check_descriptors() -> None:
    """Raise ``OSError`` where no file descriptor is left: OpenSSL would then know no authority, and not say why."""
    os.close(os.open(os.devnull, os.O_RDONLY))


def _find_shortage() -> OSError | None:
    try:
        _check_descriptors()
    except OSError as error:
        return error
    return None


def count_authorities(context: ssl.SSLContext) -> int | None:
    """Return how many authorities a context holds; ``None`` for truststore's, which asks the system about each."""
    try:
        return context.cert_store_stats()["x509_ca"]
    except NotImplementedError:
        return None


def _find_source() -> tuple[object, ...]:
    """What the shared context is made from, and when that was last written."""
    paths = ssl.get_default_verify_paths()
    found = (paths.cafile, paths.capath, os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))
    written: list[object] = []
    for place in (paths.cafile, paths.capath):
        with contextlib.suppress(OSError):
            if place:
                state = Path(place).stat()
                written.append((state.st_mtime_ns, state.st_size, state.st_ino))
    return ssl.SSLContext, os.environ.get(STRICT_VARIABLE), *found, *written


def _has_directory() -> bool:
    """Whether OpenSSL reads certificates one by one from a directory; it counts none of those beforehand."""
    folder = ssl.get_default_verify_paths().capath
    return bool(folder) and any(Path(folder).glob("*.[0-9]"))


async def share_context() -> ssl.SSLContext:
    """Return the process's context."""
    making = _shared.make()
    return making.result() if making.done() else await asyncio.wrap_future(making)


def wait_for_context() -> ssl.SSLContext:
    """Return the process's context, for a caller that may block: a worker thread."""
    return _shared.make().result()
