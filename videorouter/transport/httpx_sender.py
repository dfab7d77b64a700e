"""Sends through any ``AsyncClient`` of httpx or httpx2: a user's own, a mock, the stock transport behind a proxy.

The phase comes from httpx's ``trace`` request extension, and from our own transport. Until an event of this very
sending says otherwise it is unknown, whatever class the transport is, and unknown counts as in doubt;
``httpx.MockTransport`` and respx are the named exceptions, whose connect errors mean what they say. It never closes the
client, never follows a redirect, and never uses the client's own timeouts: their default of 5 s would turn each held
POST into a lost answer.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, TypeAlias, cast
from weakref import WeakKeyDictionary

import anyio

from videorouter.errors import ConfigurationError, Phase
from videorouter.http import (
    DEFAULT_PORTS,
    Attempt,
    ConnectStep,
    Request,
    Response,
    ResponseStream,
    WireError,
    WireFailure,
    clip_body,
    name_host,
)
from videorouter.loops import PerLoop, running_loop, start_task
from videorouter.transport.body import decode_body
from videorouter.transport.causes import explain, name_connect_failure
from videorouter.transport.dialing import resolve_name
from videorouter.transport.exchange import CANCEL_GRACE, UNSAFE_METHODS
from videorouter.transport.httpx_api import HttpxApi, find_api, is_httpx_error, is_mocked
from videorouter.transport.httpx_stock import StockTransport
from videorouter.transport.httpx_transport import EXTENSION, VideoTransport
from videorouter.transport.live_guard import check_host

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    import httpx

    from videorouter.http import BodySpool, Header, HTTPClient

Places: TypeAlias = "WeakKeyDictionary[Any, anyio.Semaphore]"

_IDENTITY = (b"Accept-Encoding", b"identity")
_REST_TIMEOUT = 30.0


def ask_identity(headers: tuple[Header, ...]) -> list[Header]:
    """Set ``Accept-Encoding: identity`` and no other coding: bodies are bounded by their size on the wire."""
    kept = [(name, value) for name, value in headers if name.lower() != b"accept-encoding"]
    kept.append(_IDENTITY)
    return kept


class _AbandonedError(Exception):
    """The caller was cancelled while the request waited in httpcore's queue."""


class _Tracer:
    """Takes an attempt's phase from httpcore's trace events; those of a proxy's CONNECT belong to connecting.

    Whoever connects or sends once more when a request has been sent begins another sending.
    """

    __slots__ = ("abandoned", "attempt", "fired", "place", "tunnelling")

    def __init__(self, attempt: Attempt) -> None:
        self.attempt = attempt
        self.abandoned = False
        self.fired = False
        self.tunnelling = False
        self.place: str | None = None

    async def __call__(self, event: str, info: dict[str, Any]) -> None:
        if not self.fired:
            # Once: httpcore tells of its cleaning up by events too.
            self.fired = True
            self.attempt.phase = Phase.CONNECTING
            if self.abandoned:
                raise _AbandonedError
            check_host(self.attempt.host or "")
        layer, _, step = event.partition(".")
        if layer in ("connection", "proxy", "socks"):
            self.attempt.begin(Phase.CONNECTING)
            self._note_step(step, info)
        elif step == "send_request_headers.started":
            self.tunnelling = info["request"].method == b"CONNECT"
            self.attempt.begin(Phase.CONNECTING if self.tunnelling else Phase.SENDING)
        elif not self.tunnelling:
            self._follow(layer, step, info)

    def _note_step(self, step: str, info: dict[str, Any]) -> None:
        attempt = self.attempt
        if step == "connect_tcp.started":
            attempt.step = ConnectStep.CONNECT
            place = f"{info['host']}:{info['port']}"
            attempt.proxy = place if self.place not in (None, place) else None
        elif step == "start_tls.started":
            attempt.step = ConnectStep.HANDSHAKE

    def _follow(self, layer: str, step: str, info: dict[str, Any]) -> None:
        attempt = self.attempt
        if step == "send_request_body.complete":
            if attempt.phase is Phase.SENDING:
                attempt.phase = Phase.SENT
        elif step in ("send_request_headers.failed", "send_request_body.failed"):
            if layer == "http11" and type(info["exception"]).__name__ == "WriteError":
                attempt.half_written = attempt.phase is Phase.SENDING
        elif step == "receive_response_headers.complete":
            answer = info["return_value"]
            # HTTP/1.1 tells version, status, reason, headers and what trails; HTTP/2 status and headers.
            status, headers = answer if len(answer) == 2 else (answer[1], answer[3])
            attempt.response = Response(status=status, headers=_lower(headers))
            attempt.phase = Phase.ANSWERED


def _lower(headers: Any) -> tuple[Header, ...]:
    return tuple((bytes(name).lower(), bytes(value)) for name, value in headers)


def _find_client_api(client: object) -> HttpxApi:
    kind = type(client)
    api = find_api(kind, "AsyncClient")
    if api is None:
        is_sync = find_api(kind, "Client") is not None
        advice = " VideoRouter, too, takes the async one, since it sends on a loop of its own." if is_sync else ""
        msg = (
            f"http_client must be an httpx.AsyncClient (httpx 0.28) or an httpx2.AsyncClient, not "
            f"{kind.__module__}.{kind.__qualname__}.{advice}"
        )
        raise ConfigurationError(msg)
    return api


class HttpxSender:
    """A ``Sender`` over any ``AsyncClient`` of httpx or httpx2, which is never closed here."""

    def __init__(
        self, client: HTTPClient, *, connect_timeout: float = 10.0, rest_timeout: float = _REST_TIMEOUT
    ) -> None:
        self._api = _find_client_api(client)
        self.httpx: Any = self._api.module
        self._client: Any = client
        self._rest_timeout = rest_timeout
        self._timeouts = {"connect": connect_timeout, "read": None, "write": None, "pool": None}
        self._places: PerLoop[Places] = PerLoop(WeakKeyDictionary)
        self._abandoned: set[asyncio.Task[Response]] = set()
        self.scopes: PerLoop[set[anyio.CancelScope]] = PerLoop(set)
        self.closed: bool = False

    @property
    def client(self) -> httpx.AsyncClient:
        """The client that requests go through."""
        return cast("httpx.AsyncClient", self._client)

    async def send(self, request: Request, attempt: Attempt, *, deadline: float, max_body: int) -> Response:
        """Send once and read the whole response; see ``Sender.send``.

        httpcore loses a slot of its pool for good when a caller is cancelled while it waits in the queue. So the
        request runs in a task of its own, which is cancelled only where httpcore can bear it.
        """
        attempt.host = name_host(request.url)
        tracer = _Tracer(attempt)
        loop = running_loop()
        if loop is None:
            return await self._send(request, tracer, deadline=deadline, max_body=max_body)
        places = self._find_places(self._api.parse_url(request.url))
        if places is not None:
            await _wait_for_place(places, deadline - time.monotonic(), attempt.host)
        task = start_task(self._send(request, tracer, deadline=deadline, max_body=max_body))
        if places is not None:
            task.add_done_callback(lambda _: places.release())
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            await self._abandon(task, tracer, unsafe=request.method in UNSAFE_METHODS, pooled=places is not None)
            raise

    async def _abandon(self, task: asyncio.Task[Response], tracer: _Tracer, *, unsafe: bool, pooled: bool) -> None:
        """Listen for a late response after the caller was cancelled, then end the task where that is safe."""
        tracer.abandoned = pooled and not tracer.fired and not self._api.is_transport_patched()
        self._abandoned.add(task)
        task.add_done_callback(self._discard)
        with anyio.CancelScope(shield=True):
            if tracer.abandoned:
                return
            try:
                if unsafe and tracer.attempt.has_left:
                    await asyncio.wait((task,), timeout=CANCEL_GRACE)
            finally:
                task.cancel()
            await asyncio.wait((task,), timeout=CANCEL_GRACE)

    def _discard(self, task: asyncio.Task[Response]) -> None:
        self._abandoned.discard(task)
        if not task.cancelled():
            task.exception()

    def _find_places(self, url: Any) -> anyio.Semaphore | None:
        """Return our own queue before httpcore's, with as many places as its pool has connections."""
        transport = self._find_transport(url)
        if type(transport) is not self.httpx.AsyncHTTPTransport:
            return None
        by_transport = self._places.find()
        places = by_transport.get(transport)
        if places is None:
            most = getattr(getattr(transport, "_pool", None), "_max_connections", None)
            places = anyio.Semaphore(most if isinstance(most, int) else 1 << 30, fast_acquire=True)
            by_transport[transport] = places
        return places

    def _find_transport(self, url: Any) -> Any:
        find = getattr(self._client, "_transport_for_url", None)
        transport: Any = None if find is None else find(url)
        return transport.find_stock(str(url)) or transport if isinstance(transport, VideoTransport) else transport

    async def _send(self, request: Request, tracer: _Tracer, *, deadline: float, max_body: int) -> Response:
        attempt = tracer.attempt
        self._check_open(attempt)
        scope = anyio.CancelScope(deadline=anyio.current_time() + (deadline - time.monotonic()))
        scopes = self.scopes.find()
        scopes.add(scope)
        response: Response | None = None
        rest_ends = deadline
        try:
            with scope:
                built = self._build(request, tracer, deadline)
                tracer.place = _name_place(built.url)
                if request.body is not None:
                    built.stream = self._api.request_body(request.body, attempt)
                attempt.phase = Phase.UNKNOWN
                try:
                    httpx_response = await self._client.send(built, stream=True, follow_redirects=False)
                except self.httpx.RemoteProtocolError:
                    # httpx parses Location even of a redirect that nobody follows.
                    if attempt.response is None or not 300 <= attempt.response.status < 400:
                        raise
                    attempt.phase = Phase.COMPLETE
                    return attempt.response
                response = _note_head(httpx_response, attempt)
                rest_ends = time.monotonic() + self._rest_timeout
                scope.deadline = min(scope.deadline, anyio.current_time() + self._rest_timeout)

                def extend() -> None:
                    scope.deadline = anyio.current_time() + (deadline - time.monotonic())

                try:
                    await _read_whole(httpx_response, response, attempt, max_body, extend)
                finally:
                    await httpx_response.aclose()
                    # Its repr has the server's reason phrase, in which the key may stand.
                    del httpx_response
                attempt.phase = Phase.COMPLETE
        except (WireError, AssertionError):
            raise
        except Exception as error:
            raise self._explain(error, attempt, tracer, request.url) from error
        finally:
            scopes.discard(scope)
        if scope.cancelled_caught or response is None:
            failure = WireFailure.STALLED if rest_ends < deadline else WireFailure.DEADLINE
            raise explain(WireFailure.CLOSED if self.closed else failure, attempt.host)
        return response

    def _check_open(self, attempt: Attempt) -> None:
        if self.closed or self._client.is_closed:
            raise explain(WireFailure.CLOSED, attempt.host)

    def _build(self, request: Request, tracer: _Tracer, deadline: float) -> Any:
        """Build the request as the client itself would, without cookies and parameters, in a fraction of the time."""
        client = self._client
        headers = ask_identity(request.headers)
        content: Any
        if isinstance(request.body, tuple):
            content = self._api.request_body(request.body, tracer.attempt)
            headers.append((b"Content-Length", b"%d" % sum(map(len, request.body))))
        else:
            content = request.body
        extensions = {
            "timeout": self._timeouts,
            "trace": tracer,
            EXTENSION: {"attempt": tracer.attempt, "deadline": deadline},
        }
        if client.params or len(client.cookies.jar):
            return client.build_request(
                request.method, request.url, headers=headers, content=content, extensions=extensions
            )
        names = {name.lower() for name, _ in headers}
        own = [(name, value) for name, value in client.headers.raw if name.lower() not in names]
        return self.httpx.Request(
            request.method,
            self._api.parse_url(request.url),
            headers=own + headers,
            content=content,
            extensions=extensions,
        )

    async def stream(
        self, request: Request, attempt: Attempt, *, deadline: float, stall: float, addresses: tuple[str, ...] = ()
    ) -> ResponseStream:
        """Send once and return as soon as the head is in; see ``Sender.stream``.

        The client's default headers, cookies and auth stay out of it: they belong to the gateway, not to a file host.
        """
        attempt.host = name_host(request.url)
        tracer = _Tracer(attempt)
        self._check_open(attempt)
        built = self._build_bare(request, tracer, deadline, stall, addresses)
        tracer.place = _name_place(built.url)
        scope = anyio.CancelScope(deadline=anyio.current_time() + (deadline - time.monotonic()))
        scopes = self.scopes.find()
        scopes.add(scope)
        httpx_response: httpx.Response | None = None
        try:
            with scope:
                attempt.phase = Phase.UNKNOWN
                httpx_response = await self._client.send(built, stream=True, auth=None, follow_redirects=False)
        except (WireError, AssertionError):
            raise
        except Exception as error:
            raise self._explain(error, attempt, tracer, request.url) from error
        finally:
            scopes.discard(scope)
        if httpx_response is None:
            raise explain(WireFailure.CLOSED if self.closed else WireFailure.DEADLINE, attempt.host)
        response = _note_head(httpx_response, attempt)
        return _ClientStream(httpx_response, response, attempt, deadline=deadline, stall=stall, sender=self)

    def _build_bare(
        self, request: Request, tracer: _Tracer, deadline: float, stall: float, addresses: tuple[str, ...]
    ) -> Any:
        url = self._api.parse_url(request.url)
        headers = ask_identity(request.headers)
        extensions: dict[str, Any] = {
            "timeout": {**self._timeouts, "read": stall},
            "trace": tracer,
            EXTENSION: {"attempt": tracer.attempt, "deadline": deadline, "addresses": addresses},
        }
        if addresses and not isinstance(self._find_transport(url), VideoTransport):
            # httpcore pools by address: a kept connection could serve another name that shares it.
            headers = [*headers, (b"Host", url.netloc), (b"Connection", b"close")]
            extensions["sni_hostname"] = url.host
            url = url.copy_with(host=addresses[0])
        return self.httpx.Request(request.method, url, headers=headers, extensions=extensions)

    async def resolve(self, url: str, *, deadline: float) -> tuple[str, ...]:
        """Return the addresses that a stock transport would connect to; none behind a proxy, mock or foreign one."""
        if (
            is_mocked()
            or self._api.is_transport_patched()
            or not self._resolves(self._find_transport(self._api.parse_url(url)))
        ):
            return ()
        return await resolve_name(url, deadline=deadline)

    def _resolves(self, transport: Any) -> bool:
        """Whether a transport resolves names itself, and here: not a proxy or a foreign transport."""
        if isinstance(transport, StockTransport):
            return transport.proxy is None
        if type(transport) is self.httpx.AsyncHTTPTransport:
            return type(transport._pool).__name__ == "AsyncConnectionPool"  # noqa: SLF001 - there is no public way
        return isinstance(transport, VideoTransport)

    def _explain(self, error: Exception, attempt: Attempt, tracer: _Tracer, url: str) -> WireError:
        """Explain a client's error. Not a context manager: its frame would show the error, which may quote the key."""
        if isinstance(error.__cause__, WireError):
            return error.__cause__
        failure = name_httpx_failure(error)
        connecting = is_httpx_error(error, "ConnectError", "ConnectTimeout")
        if connecting and not tracer.fired and self._is_mock(url):
            attempt.phase = Phase.CONNECTING
        unreached = connecting and attempt.phase is Phase.CONNECTING and attempt.step is ConnectStep.CONNECT
        return explain(failure, attempt.host, error, proxy=attempt.proxy if unreached else None)

    def _is_mock(self, url: str) -> bool:
        return is_mocked() or type(self._find_transport(self._api.parse_url(url))) is self.httpx.MockTransport

    async def aclose(self) -> None:
        """Abort what runs here. The client, and other requests through it, go on."""
        self.closed = True
        self.scopes.tell(_cancel_all)


def _cancel_all(scopes: set[anyio.CancelScope]) -> None:
    for scope in tuple(scopes):
        scope.cancel()


async def _wait_for_place(places: anyio.Semaphore, seconds: float, host: str | None) -> None:
    """Take one of a number of places, released by ``release``; raises ``WireError`` after so many seconds."""
    try:
        places.acquire_nowait()
    except anyio.WouldBlock:
        try:
            async with asyncio.timeout(seconds):
                await places.acquire()
        except TimeoutError as error:
            raise explain(WireFailure.DEADLINE, host, error) from error


def _name_place(url: httpx.URL) -> str:
    return f"{url.raw_host.decode('ascii')}:{url.port or DEFAULT_PORTS.get(url.scheme)}"


def _note_head(httpx_response: httpx.Response, attempt: Attempt) -> Response:
    response = Response(status=httpx_response.status_code, headers=_lower(httpx_response.headers.raw))
    attempt.response = response
    attempt.phase = Phase.ANSWERED
    return response


async def _read_whole(
    httpx_response: httpx.Response, response: Response, attempt: Attempt, max_body: int, extend: Callable[[], None]
) -> None:
    if httpx_response.is_stream_consumed:
        body = decode_body(_find_read_body(httpx_response, attempt.host), (), max_body)
        response.body = clip_body(body, max_body)
        if len(body) > max_body:
            await _open_spool(response, attempt, extend).write(body)
        return
    # One object, not a list: a million chunks of one byte would weigh far more, and a traceback keeps this frame.
    pieces = bytearray()
    whole = False
    try:
        async for piece in httpx_response.stream:  # type: ignore[union-attr]  # an async client gives these
            pieces += piece
            if attempt.spool is None and len(pieces) <= max_body:
                continue
            spool = attempt.spool or _open_spool(response, attempt, extend)
            await spool.write(bytes(pieces))
            pieces.clear()
        whole = True
    finally:
        raw = bytes(pieces)
        response.body = decode_body(raw, response.headers, max_body)
        pieces.clear()
        del httpx_response
        swollen = whole and len(response.body) > max_body
        response.body = clip_body(response.body, max_body)
        raw = raw if swollen else b""
    if swollen:
        writing = _open_spool(response, attempt, extend).write(raw)
        del raw
        await writing


def _open_spool(response: Response, attempt: Attempt, extend: Callable[[], None]) -> BodySpool:
    """Make the spool for a body that is too large for memory, and allow it more time."""
    if attempt.make_spool is None or not 200 <= response.status < 300:
        raise explain(WireFailure.TOO_LARGE, attempt.host)
    extend()
    attempt.spool = attempt.make_spool()
    return attempt.spool


def _find_read_body(httpx_response: httpx.Response, host: str | None) -> bytes:
    """Return the body that a hook of the client has read already; its stream is exhausted, and may never end."""
    try:
        return httpx_response.content
    except Exception as error:
        if not is_httpx_error(error, "ResponseNotRead"):
            raise
        raise explain(WireFailure.BODY_CUT, host, error) from error


class _ClientStream:
    """The ``ResponseStream`` over an open ``httpx.Response``; it ends when its sender is closed."""

    def __init__(
        self,
        httpx_response: httpx.Response,
        response: Response,
        attempt: Attempt,
        *,
        deadline: float,
        stall: float,
        sender: HttpxSender,
    ) -> None:
        self.status = response.status
        self.headers = response.headers
        self._response = httpx_response
        self._attempt = attempt
        self._deadline = deadline
        self._stall = stall
        self._sender = sender
        self._httpx = sender.httpx

    async def chunks(self, memory: Callable[[], memoryview] | None = None) -> AsyncIterator[bytes]:  # noqa: ARG002  httpx has its own
        host = self._attempt.host
        if self._response.is_stream_consumed:
            yield _find_read_body(self._response, host)
            self._attempt.phase = Phase.COMPLETE
            return
        pieces = self._response.stream.__aiter__()  # type: ignore[union-attr]  # an async client gives these
        scopes = self._sender.scopes.find()
        while True:
            left = self._deadline - time.monotonic()
            scope = anyio.CancelScope(deadline=anyio.current_time() + min(left, self._stall))
            scopes.add(scope)
            try:
                if self._sender.closed:
                    scope.cancel()
                with scope:
                    piece = await anext(pieces)
            except StopAsyncIteration:
                break
            except self._httpx.ReadTimeout as error:
                raise explain(self._name_end(), host) from error
            except self._httpx.RemoteProtocolError as error:
                raise explain(WireFailure.BODY_CUT, host, error) from error
            except (self._httpx.HTTPError, self._httpx.StreamError) as error:
                raise explain(name_httpx_failure(error), host, error) from error
            finally:
                scopes.discard(scope)
            if scope.cancelled_caught:
                raise explain(self._name_end(), host)
            if piece:
                yield piece
        self._attempt.phase = Phase.COMPLETE

    def _name_end(self) -> WireFailure:
        if self._sender.closed:
            return WireFailure.CLOSED
        return WireFailure.DEADLINE if time.monotonic() >= self._deadline else WireFailure.STALLED

    async def aclose(self) -> None:
        await self._response.aclose()


def _name_proxy_failure(error: Exception) -> WireFailure:
    """Classify a ``ProxyError`` by its status, the first word of ``"407 Proxy Authentication Required"``."""
    status = str(error).partition(" ")[0]
    if status.isdigit() and 400 <= int(status) < 500:
        return WireFailure.PROXY_REFUSED
    return WireFailure.PROXY_UNAVAILABLE


def name_httpx_failure(error: Exception) -> WireFailure:
    """Return the failure behind an httpx exception, else ``RESET``. It never says whether a request left."""
    if is_httpx_error(error, "ProxyError"):
        return _name_proxy_failure(error)
    if is_httpx_error(error, "ConnectTimeout"):
        return WireFailure.CONNECT_TIMEOUT
    if is_httpx_error(error, "ConnectError"):
        return name_connect_failure(error)
    if is_httpx_error(error, "PoolTimeout"):
        return WireFailure.DEADLINE
    if is_httpx_error(error, "WriteError", "WriteTimeout"):
        return WireFailure.WRITE_FAILED
    if is_httpx_error(error, "ReadTimeout"):
        return WireFailure.STALLED
    if is_httpx_error(error, "UnsupportedProtocol", "InvalidURL", "LocalProtocolError"):
        return WireFailure.PROTOCOL
    if is_httpx_error(error, "RemoteProtocolError"):
        text = str(error)
        if "disconnected" in text:
            return WireFailure.RESET
        return WireFailure.BODY_CUT if "closed connection" in text else WireFailure.PROTOCOL
    return WireFailure.RESET
