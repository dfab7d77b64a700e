"""The seam between a call and the wire: the values that cross it, what a sender must do, and what a URL is made of.

Nothing here knows httpx. ``call.caller`` and ``downloads.fetch`` use these types; every sender (our own transport, a user's
``httpx.AsyncClient``, a mock, a proxy) returns them.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias
from urllib.parse import SplitResult, urlsplit

import msgspec

from videorouter.errors import Phase

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator
    from pathlib import Path

Header: TypeAlias = tuple[bytes, bytes]
Body: TypeAlias = bytes | tuple[bytes, ...]
"""A request's body; a large file in blocks that are never joined: a copy would block the loop and fill memory."""
Origin: TypeAlias = tuple[str, str, int]
"""Scheme, host and port."""

DEFAULT_PORTS = {"http": 80, "https": 443}
_UNPRINTABLE = re.compile(r"[\x00-\x20\x7f]")


def split_url(url: str) -> SplitResult | None:
    """Split a URL into its parts; ``None`` when no client could use it."""
    if _UNPRINTABLE.search(url):
        return None
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts


def origin_of(url: str) -> Origin:
    """Return the scheme, host and port of a URL: a key is bound to them. Raises ``ValueError`` without them."""
    parts = urlsplit(url)
    scheme = parts.scheme.lower()
    return scheme, (parts.hostname or "").lower().rstrip("."), parts.port or DEFAULT_PORTS.get(scheme, 0)


def name_host(url: str) -> str:
    """Return ``host:port`` of a URL, for messages."""
    try:
        _, host, port = origin_of(url)
    except ValueError:
        return url[:100]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def find_header(headers: Iterable[Header], name: bytes) -> str | None:
    """Return the first header field of a name, which is in lower case as in a ``Response``."""
    for key, value in headers:
        if key == name:
            return value.decode("latin-1")
    return None


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One request, frozen before its first attempt. ``body`` is sent with ``Content-Length``, never chunked."""

    method: str
    url: str
    headers: tuple[Header, ...]
    body: Body | None = None

    def __repr__(self) -> str:
        return f"<Request {self.method} {self.url}>"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("method", self.method), ("url", self.url)]


def cut_body(body: Body, size: int) -> Iterator[memoryview]:
    """Cut a body into pieces of at most so many bytes, without a copy."""
    for block in (body,) if isinstance(body, bytes) else body:
        view = memoryview(block)
        for start in range(0, len(view), size):
            yield view[start : start + size]


class Response(msgspec.Struct, kw_only=True):
    """One response. Header names are in lower case."""

    status: int
    headers: tuple[Header, ...]
    body: bytes = b""

    def __repr__(self) -> str:
        # A server may echo the key: what it sent shows in no traceback.
        return f"<Response {self.status}, {len(self.body)} bytes>"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("status", self.status)]


_EVIDENCE = 2**18


def clip_body(body: bytes, most: int) -> bytes:
    """Return a body, or the beginning of one that is too large, as evidence."""
    return body if len(body) <= most else body[: min(most, _EVIDENCE)]


class ConnectStep(enum.Enum):
    """What making a connection consists of."""

    RESOLVE = "name look-up"
    CONNECT = "TCP connect"
    HANDSHAKE = "TLS handshake"


_SENT = frozenset({Phase.SENDING, Phase.SENT, Phase.ANSWERED, Phase.COMPLETE})


class HTTPClient(Protocol):
    """The shape of an ``AsyncClient`` of httpx or httpx2."""

    headers: Any
    cookies: Any

    @property
    def is_closed(self) -> bool:
        """Whether it was closed."""
        ...

    def build_request(self, method: str, url: Any) -> Any:
        """Build a request of the client's own package."""
        ...

    async def send(self, request: Any, *, stream: bool = False) -> Any:
        """Send a request that ``build_request`` made."""
        ...

    async def aclose(self) -> None:
        """Close it; videorouter never does."""
        ...


class BodySpool(Protocol):
    """Stores a body that is too large for memory."""

    head: bytes
    size: int

    async def write(self, piece: bytes) -> None:
        """Write the next piece; raises ``WireError`` when it is too large here, too."""
        ...

    async def finish(self) -> bytes:
        """Return the rest to parse; raises ``WireError`` when it is still too large."""
        ...

    def attach(self, answer: object) -> None:
        """Add the large parts back to the parsed answer."""
        ...

    def keep(self) -> Path | None:
        """Leave the bytes to the user, in the file whose path is returned."""
        ...

    def keep_cancelled(self) -> None:
        """Leave the bytes of a call that was cancelled to the user."""
        ...


class Attempt(msgspec.Struct, kw_only=True, eq=False):
    """The facts of one attempt while it runs: written by the sender, read when it is classified.

    A client that the user brought may send again by itself. These are the facts of the last sending, ``earlier`` has
    those of the sendings before it.
    """

    phase: Phase = Phase.QUEUED
    host: str | None = None
    step: ConnectStep | None = None
    """What was begun last of making a connection."""
    proxy: str | None = None
    """``host:port`` of the proxy that was connected to, where there is one."""
    half_written: bool = False
    """Whether a part of the request was not handed over: if it ends here, the server never has the whole."""
    response: Response | None = None
    """Status and headers as soon as they are in, with as much of the body as was read when it failed."""
    unread: bytes = b""
    """The bytes where no head could be read."""
    earlier: tuple[Attempt, ...] = ()
    make_spool: Callable[[], BodySpool] | None = None
    """Makes the spool for a successful response's body that is too large for memory."""
    spool: BodySpool | None = None
    """The spool with the body; ``response`` then has an empty one."""

    def __repr__(self) -> str:
        # A server may echo the key: what it sent shows in no traceback.
        return f"<Attempt {self.phase}>"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("phase", self.phase)]

    @property
    def has_left(self) -> bool:
        """Whether the request may have reached the server whole, by its phase alone."""
        if self.phase in (Phase.QUEUED, Phase.CONNECTING):
            return False
        return not (self.phase is Phase.SENDING and self.half_written)

    def begin(self, phase: Phase) -> None:
        """Begin to connect or to send. After a sending this begins another one, with facts of its own."""
        if self.phase in _SENT:
            past = Attempt()
            past.phase, past.host = self.phase, self.host
            past.half_written, past.response, past.unread = self.half_written, self.response, self.unread
            self.earlier += (past,)
            self.half_written = False
            self.response = None
            self.unread = b""
            self.spool = None
        self.phase = phase


class WireFailure(enum.StrEnum):
    """Why an attempt had no complete response. The phase comes from the attempt, never from this."""

    CONNECTION_REFUSED = "connection refused"
    UNREACHABLE = "host unreachable"
    CONNECT_TIMEOUT = "connect timeout"
    NAME_TEMPORARY = "temporary DNS failure"
    NAME_MISSING = "name does not exist"
    TLS_CUT = "TLS handshake cut short"
    CERTIFICATE = "certificate invalid"
    PROXY_UNAVAILABLE = "proxy unavailable"
    PROXY_REFUSED = "proxy refused"
    ADDRESS_REFUSED = "address not allowed"
    OUT_OF_FILES = "out of file descriptors"
    OUT_OF_THREADS = "out of threads"
    WRITE_FAILED = "write failed"
    RESET = "connection lost"
    PROTOCOL = "not HTTP"
    BODY_CUT = "body cut"
    TOO_LARGE = "too large"
    STALLED = "stalled"
    DEADLINE = "deadline"
    CLOSED = "client closed"


class WireError(Exception):
    """An attempt without a complete response. Internal: it never reaches a user."""

    def __init__(self, failure: WireFailure, message: str, *, host: str | None = None) -> None:
        super().__init__(message)
        self.failure = failure
        self.message = message
        self.host = host


class ResponseStream(Protocol):
    """A response whose body is read piece by piece, with back-pressure on the socket."""

    status: int
    headers: tuple[Header, ...]

    def chunks(self, memory: Callable[[], memoryview] | None = None) -> AsyncIterator[bytes | memoryview]:
        """Yield the body as it arrives, undecoded; raises ``WireError`` when it is cut, stalls or runs over.

        It may be read into what ``memory`` returns, which is asked for before each read: fresh memory for each piece of a
        large file costs more than the copy. A piece is then a view of that.
        """
        ...

    async def aclose(self) -> None:
        """Release the connection when the body is complete, else abort it. Idempotent."""
        ...


class Sender(Protocol):
    """Puts one request on the wire once. It never retries and never follows a redirect."""

    async def send(self, request: Request, attempt: Attempt, *, deadline: float, max_body: int) -> Response:
        """Send once and read the whole response, of at most ``max_body`` bytes.

        ``attempt`` is written as the request walks its phases; ``deadline`` is a value of ``time.monotonic()``.

        A cancellation propagates at once for reads, and for a POST until it is written whole: what is half written is
        aborted, so that it never becomes whole. After that a POST holds it back for at most 1 s, in case the response
        is on its way; when that comes whole, the attempt says COMPLETE and has it in ``response``. Then
        ``CancelledError`` is raised all the same.

        Raises:
            WireError: No whole response came; the attempt says how far the request got.
        """
        ...

    async def stream(
        self, request: Request, attempt: Attempt, *, deadline: float, stall: float, addresses: tuple[str, ...] = ()
    ) -> ResponseStream:
        """Send once and return as soon as the head is in.

        The whole transfer ends at ``deadline``, or after ``stall`` seconds without a byte. ``addresses`` are IP
        literals that the address guard has checked: connect to one of these only, with the URL's own host in SNI and
        ``Host``. Empty: resolve the name as usual.

        Raises:
            WireError: No head came.
        """
        ...

    async def resolve(self, url: str, *, deadline: float) -> tuple[str, ...]:
        """The addresses that ``stream`` would connect to, for a guard to check and then to pass as ``addresses``.

        Empty when something else resolves the name: a proxy, a mock, a transport that the user brought. A guard then
        checks literals and hosts only, and no name is looked up here.

        Raises:
            WireError: The name does not exist, or no name server answered.
        """
        ...

    async def aclose(self) -> None:
        """Abort what runs and close what is idle. Idempotent."""
        ...
