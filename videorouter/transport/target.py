"""Parses a URL for the wire: where to connect, what to ask for, and the bytes of a request's head."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx

from videorouter.http import DEFAULT_PORTS, WireError, WireFailure, name_host, origin_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from videorouter.http import Body, Header

_MOST_REMEMBERED = 512
_remembered: dict[str, RequestTarget] = {}
_ORDINARY = frozenset({b"user-agent", b"accept", b"content-type", b"authorization", b"idempotency-key"})
"""What a paid request has: none of them is about framing, so that it need not be looked through."""
_FRAMING = frozenset({b"host", b"content-length", b"transfer-encoding", b"accept-encoding", b"connection"})


class RequestTarget:
    """A parsed URL."""

    __slots__ = ("host", "key", "label", "line", "netloc", "port", "secure", "url")

    def __init__(self, url: str) -> None:
        try:
            parsed = httpx.URL(url)
            _, host, _ = origin_of(url)
        except (httpx.InvalidURL, TypeError, ValueError) as error:
            raise WireError(WireFailure.PROTOCOL, f"not a URL: {error}") from error
        if parsed.scheme not in ("http", "https") or not (parsed.raw_host and host):
            raise WireError(WireFailure.PROTOCOL, "only absolute http and https URLs can be sent to")
        self.url: httpx.URL = parsed
        self.secure: bool = parsed.scheme == "https"
        self.host: str = parsed.raw_host.decode("ascii")
        self.port: int = parsed.port or DEFAULT_PORTS[parsed.scheme]
        self.label: str = name_host(url)
        self.key: tuple[bool, str, int] = (self.secure, self.host, self.port)
        self.line: bytes = b" %b HTTP/1.1\r\nHost: " % parsed.raw_path
        self.netloc: bytes = parsed.netloc


def find_target(url: str) -> RequestTarget:
    """Return the target of a URL; the last few hundred are cached."""
    target = _remembered.get(url)
    if target is None:
        target = RequestTarget(url)
        if len(_remembered) >= _MOST_REMEMBERED:
            _remembered.clear()
        _remembered[url] = target
    return target


class Payload:
    """A request's head and body: ``data`` in one piece, then ``rest``, the blocks of a large body.

    No traceback shows it: the key is in it. It sets the header fields about framing and coding itself and keeps a caller's
    ``Host``. A ``body`` of ``None`` is sent without ``Content-Length``.
    """

    __slots__ = ("data", "rest")

    def __init__(self, method: str, target: RequestTarget, headers: Sequence[Header], body: Body | None) -> None:
        self.rest: tuple[bytes, ...] = body if isinstance(body, tuple) else ()
        joined = body if isinstance(body, bytes) else None
        fields, host = headers, target.netloc
        for name, _ in headers:
            if name not in _ORDINARY:
                fields = [field for field in headers if field[0].lower() not in _FRAMING]
                host = ([value for name, value in headers if name.lower() == b"host"] or [host])[-1]
                break
        if body is not None:
            size = len(joined) if joined is not None else sum(map(len, self.rest))
            framing = b"Accept-Encoding: identity\r\nContent-Length: %d\r\n\r\n" % size
        else:
            framing = b"Accept-Encoding: identity\r\n\r\n"
        # One join for all: a loop over the fields costs as much as the rest of a head.
        head = b"\r\n".join((method.encode("ascii") + target.line + host, *map(b": ".join, fields), framing))
        lines = 2 + len(fields) + framing.count(b"\n")
        if len(head.translate(None, b"\r\n\0")) != len(head) - 2 * lines:
            raise WireError(WireFailure.PROTOCOL, "a header field or the URL has a line break in it; nothing was sent")
        self.data: bytes = head + joined if joined else head
