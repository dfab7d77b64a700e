"""Names the cause of a failure: from an exception, however deeply wrapped, to a ``WireFailure`` and a sentence.

It never decides whether a request left: the phase does, and the phase never comes from an exception.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
from typing import TYPE_CHECKING

from videorouter.http import WireError, WireFailure

if TYPE_CHECKING:
    from collections.abc import Iterator

_UNREACHABLE = frozenset(
    {
        errno.ENETUNREACH,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.EHOSTDOWN,
        errno.EADDRNOTAVAIL,
        errno.EAFNOSUPPORT,
        errno.EACCES,
        errno.EPERM,
    }
)
_CONNECTING = (
    WireFailure.NAME_MISSING,
    WireFailure.NAME_TEMPORARY,
    WireFailure.CERTIFICATE,
    WireFailure.OUT_OF_FILES,
    WireFailure.OUT_OF_THREADS,
    WireFailure.TLS_CUT,
    WireFailure.CONNECT_TIMEOUT,
    WireFailure.CONNECTION_REFUSED,
    WireFailure.UNREACHABLE,
)
_MISSING_NAMES = frozenset(
    code for code in (getattr(socket, name, None) for name in ("EAI_NONAME", "EAI_NODATA")) if code is not None
)


def _list_causes(error: BaseException) -> Iterator[BaseException]:
    """List the error and everything that it was raised from, nearest first."""
    pending: list[BaseException | None] = [error]
    seen: set[int] = set()
    while pending:
        current = pending.pop(0)
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        if isinstance(current, BaseExceptionGroup):
            pending.extend(current.exceptions)
        pending.append(current.__cause__)
        pending.append(current.__context__)


def _name_cause(error: BaseException) -> WireFailure | None:
    if isinstance(error, socket.gaierror):
        return WireFailure.NAME_MISSING if error.errno in _MISSING_NAMES else WireFailure.NAME_TEMPORARY
    if isinstance(error, UnicodeError):
        return WireFailure.NAME_MISSING
    if isinstance(error, (ssl.SSLCertVerificationError, ssl.CertificateError)):
        return WireFailure.CERTIFICATE
    if isinstance(error, ssl.SSLError):
        return WireFailure.TLS_CUT
    if isinstance(error, TimeoutError):
        return WireFailure.CONNECT_TIMEOUT
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return WireFailure.OUT_OF_FILES
    if isinstance(error, OSError) and error.errno == errno.EAGAIN:
        return WireFailure.OUT_OF_THREADS
    if isinstance(error, OSError) and error.errno in _UNREACHABLE:
        return WireFailure.UNREACHABLE
    if isinstance(error, (ConnectionResetError, ConnectionAbortedError, BrokenPipeError)):
        return WireFailure.TLS_CUT
    if isinstance(error, ConnectionRefusedError):
        return WireFailure.CONNECTION_REFUSED
    return None


def name_connect_failure(error: BaseException) -> WireFailure:
    """Return the failure behind a connection that could not be made; the most telling cause wins."""
    found = {failure for failure in map(_name_cause, _list_causes(error)) if failure is not None}
    for failure in _CONNECTING:
        if failure in found:
            return failure
    return WireFailure.UNREACHABLE


_HINTS = {
    WireFailure.CONNECTION_REFUSED: "nothing listens there, or a firewall refuses; check the base URL and port",
    WireFailure.UNREACHABLE: "the network has no way to it; check the connection, VPN and firewall",
    WireFailure.CONNECT_TIMEOUT: "no connection within the connect timeout; check the network, or the host is overloaded",
    WireFailure.NAME_TEMPORARY: "the name server did not answer; check the network's DNS",
    WireFailure.NAME_MISSING: "no such host name; check the base URL for a typing error",
    WireFailure.TLS_CUT: "the TLS handshake was cut short or refused; check that the port speaks TLS",
    WireFailure.PROXY_UNAVAILABLE: "the proxy could not reach the gateway",
    WireFailure.PROXY_REFUSED: "the proxy refuses; check its address and the credentials in proxy= or HTTPS_PROXY",
    WireFailure.OUT_OF_FILES: "this process has no file descriptor left; lower max_concurrency or raise `ulimit -n`",
    WireFailure.OUT_OF_THREADS: "no thread can be started to look the name up; end some, or raise `ulimit -u`",
}


_EXPIRED = "the server's certificate is out of date, or this machine's clock is wrong"
_OTHER_HOST = (
    "the server's certificate is for another host; check the base URL, or whether a login page of the network answers"
)
_STRICT = (
    "the authority's certificate fails a strict check that Python 3.13 has begun to make, as those of many inspecting"
    " proxies do; set INFRON_X509_STRICT=0 to leave these checks out, or pass an ssl_context= without"
    " ssl.VERIFY_X509_STRICT"
)
_UNKNOWN = "nobody whom this machine trusts has issued the server's certificate; "
_NO_FILE = "correct the variable, or unset it to trust the system's store"
_CODES = {
    **dict.fromkeys((9, 10), _EXPIRED),
    **dict.fromkeys((62, 64), _OTHER_HOST),
    **dict.fromkeys(range(80, 95), _STRICT),
}
"""What OpenSSL's codes of a failed verification mean (``X509_V_ERR_...``); any other is an unknown issuer."""


def advise_on_certificate(error: BaseException | None) -> str:
    """Say why a certificate is not trusted, and what to do about it."""
    refused = None if error is None else _find_refusal(error)
    code = getattr(refused, "verify_code", None)
    if refused is not None and code is None and "SSL_CERT_" in str(refused):
        return _NO_FILE
    if code in _CODES:
        return _CODES[code]
    named = os.environ.get("SSL_CERT_FILE")
    if named:
        return (
            f"{_UNKNOWN}SSL_CERT_FILE={named} was read and does not hold the issuer: add it there, or pass ssl_context="
        )
    return f"{_UNKNOWN}behind an inspecting proxy set SSL_CERT_FILE to its authority, or pass ssl_context="


_PROXY_HINT = "the gateway was not asked; check proxy=, HTTPS_PROXY or the proxy of http_client"


def explain(
    failure: WireFailure, host: str | None, error: BaseException | None = None, *, proxy: str | None = None
) -> WireError:
    """Build the ``WireError`` to raise, with host, port, cause and, for connections, advice."""
    text = f"{failure.value} at {host}" if host else failure.value
    if proxy is not None:
        text = f"{failure.value} at the proxy {proxy}, on the way to {host}"
    detail = _innermost(error) if error is not None else ""
    if detail:
        text = f"{text}: {detail}"
    hint = _HINTS.get(failure) if proxy is None else _PROXY_HINT
    if failure is WireFailure.CERTIFICATE:
        hint = advise_on_certificate(error)
    return WireError(failure, f"{text} ({hint})" if hint else text, host=host)


def _find_refusal(error: BaseException) -> ssl.SSLCertVerificationError | None:
    """Return the refusal of a certificate among an error's causes."""
    return next((cause for cause in _list_causes(error) if isinstance(cause, ssl.SSLCertVerificationError)), None)


def _innermost(error: BaseException) -> str:
    refused = _find_refusal(error)
    if refused is not None:
        return str(refused)[:400]
    words = [str(part) for part in _list_causes(error) if isinstance(part, OSError) and str(part)]
    return (words[-1] if words else str(error) or type(error).__name__)[:400]
