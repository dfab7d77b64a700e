"""Other people's ways of sending HTTP, each as it is met in the wild, for the law to hold on all of them."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
from typing import TYPE_CHECKING, Any

import httpx
import httpx2
import respx

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from types import ModuleType

    import pytest

PACKAGES = (httpx, httpx2)
_SEND = {package: package.AsyncClient.send for package in PACKAGES}
RESEND = "X-Resend: yes"
"""The header of an answer that makes the clients below send again: each other answer is left to the law."""


async def _note(_: object) -> None:
    """A hook."""


@functools.cache
def resending(package: ModuleType) -> Any:
    """An auth flow that sends once more."""

    class Resending(package.Auth):
        def auth_flow(self, request):
            response = yield request
            if "x-resend" in response.headers:
                yield request

    return Resending()


@functools.cache
def retrying(package: ModuleType) -> Any:
    """A class of transports that send once more after a bad answer, and where told so after a lost connection."""

    class Retrying(package.AsyncBaseTransport):
        def __init__(self, inner: Any = None, *, after_loss: bool = False) -> None:
            self.inner = inner or package.AsyncHTTPTransport()
            self.after_loss = after_loss

        async def handle_async_request(self, request):
            try:
                response = await self.inner.handle_async_request(request)
            except package.TransportError:
                if not self.after_loss:
                    raise
            else:
                if "x-resend" not in response.headers:
                    return response
                await response.aclose()
            return await self.inner.handle_async_request(request)

        async def aclose(self) -> None:
            await self.inner.aclose()

    return Retrying


@functools.cache
def forwarding(package: ModuleType) -> Callable[[Any], Any]:
    """What sends over a socket of its own and tells nobody how far it came, as a mock or a patch may do."""

    class Rest(package.AsyncByteStream):
        """The body of an answer as it comes from a socket."""

        def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, length: int) -> None:
            self.reader = reader
            self.writer = writer
            self.left = length

        async def __aiter__(self):
            while self.left:
                try:
                    piece = await self.reader.read(min(self.left, 65_536))
                except OSError as error:
                    raise package.ReadError(str(error)) from error
                if not piece:
                    raise package.RemoteProtocolError("peer closed connection without sending complete message body")
                self.left -= len(piece)
                yield piece

        async def aclose(self) -> None:
            self.writer.transport.abort()

    async def forward(request: Any) -> Any:
        body = await request.aread()
        try:
            reader, writer = await asyncio.open_connection(request.url.host, request.url.port)
        except OSError as error:
            raise package.ConnectError(str(error)) from error
        try:
            head = [f"{request.method} {request.url.raw_path.decode()} HTTP/1.1".encode()]
            head += [name + b": " + value for name, value in request.headers.raw]
            writer.write(b"\r\n".join(head) + b"\r\n\r\n" + body)
            lines = (await reader.readuntil(b"\r\n\r\n"))[:-4].split(b"\r\n")
            headers = [tuple(line.split(b": ", 1)) for line in lines[1:]]
            rest = Rest(reader, writer, int(dict(headers)[b"Content-Length"]))
            return package.Response(int(lines[0].split()[1]), headers=headers, stream=rest)
        except BaseException as error:
            writer.transport.abort()
            if isinstance(error, OSError | EOFError | ValueError | KeyError):
                raise package.ReadError(str(error)) from error
            raise

    return forward


Retrying = retrying(httpx)
forward = forwarding(httpx)


def _bound(sock: Any) -> None:
    """Let the kernel hold little: a request that its server does not read must not fit into the sockets on its way."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)


async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A proxy that reads one request line and then hands bytes to and fro."""
    line = await reader.readline()
    if not line:
        writer.close()
        return
    method, url, version = line.split()
    _, _, place, path = url.split(b"/", 3)
    far_reader, far_writer = await asyncio.open_connection("127.0.0.1", int(place.rpartition(b":")[2]))
    _bound(far_writer.get_extra_info("socket"))
    far_writer.write(b"%b /%b %b\r\n" % (method, path, version))

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65_536):
                sink.write(data)
                await sink.drain()
        finally:
            sink.close()

    try:
        await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer), return_exceptions=True)
    finally:
        writer.transport.abort()
        far_writer.transport.abort()


@contextlib.asynccontextmanager
async def _lend(package: ModuleType = httpx, **options: Any) -> AsyncIterator[dict[str, Any]]:
    async with package.AsyncClient(trust_env=False, **options) as client:
        yield {"http_client": client}


@contextlib.asynccontextmanager
async def _own() -> AsyncIterator[dict[str, Any]]:
    yield {}


@contextlib.asynccontextmanager
async def _proxied(package: ModuleType = httpx, *, lend: bool) -> AsyncIterator[dict[str, Any]]:
    tasks: set[asyncio.Task[None]] = set()
    writers: list[asyncio.StreamWriter] = []

    def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        tasks.add(asyncio.ensure_future(relay(reader, writer)))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    _bound(server.sockets[0])
    proxy = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        if lend:
            async with _lend(package, proxy=proxy) as options:
                yield options
        else:
            yield {"proxy": proxy}
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for writer in writers:  # of a relay that had not begun, too
            writer.transport.abort()
        for _ in range(3):  # an aborted transport closes its socket in the loop's next turns
            await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def _wrapped(
    monkeypatch: pytest.MonkeyPatch, package: ModuleType = httpx, *, lend: bool
) -> AsyncIterator[dict[str, Any]]:
    genuine = _SEND[package]

    @functools.wraps(genuine)
    async def send(self, request, **options):
        return await genuine(self, request, **options)

    with monkeypatch.context() as patch:
        patch.setattr(package.AsyncClient, "send", send)
        async with _lend(package) if lend else _own() as options:
            yield options


@contextlib.asynccontextmanager
async def _patched(
    monkeypatch: pytest.MonkeyPatch, package: ModuleType = httpx, *, lend: bool
) -> AsyncIterator[dict[str, Any]]:
    async def handle(self, request):
        return await forwarding(package)(request)

    with monkeypatch.context() as patch:
        patch.setattr(package.AsyncHTTPTransport, "handle_async_request", handle)
        async with _lend(package) if lend else _own() as options:
            yield options


@contextlib.asynccontextmanager
async def _respx(*, using: str, passes: bool) -> AsyncIterator[dict[str, Any]]:
    with respx.mock(using=using, assert_all_called=False) as mock:
        if passes:
            mock.route().pass_through()
        else:
            mock.route().mock(side_effect=forward)
        yield {}


@contextlib.asynccontextmanager
async def _pytest_httpx(httpx_mock: Any, *, lend: bool) -> AsyncIterator[dict[str, Any]]:
    httpx_mock.add_callback(forward, is_reusable=True, is_optional=True)
    async with _lend() if lend else _own() as options:
        yield options


def _list_lent(
    package: ModuleType,
) -> dict[str, Callable[[Any], contextlib.AbstractAsyncContextManager[dict[str, Any]]]]:
    """A user's own clients of one of the two packages."""
    return {
        "stock": lambda _: _lend(package),
        "hooks": lambda _: _lend(package, event_hooks={"request": [_note], "response": [_note]}),
        "auth that resends": lambda _: _lend(package, auth=resending(package)),
        "digest": lambda _: _lend(package, auth=package.DigestAuth("user", "password")),
        "retrying transport": lambda _: _lend(package, transport=retrying(package)()),
        "mounted": lambda _: _lend(package, mounts={"http://": package.AsyncHTTPTransport()}),
        "wrapped send over stock": lambda test: _wrapped(test.getfixturevalue("monkeypatch"), package, lend=True),
        "patched transport under stock": lambda test: _patched(test.getfixturevalue("monkeypatch"), package, lend=True),
        "MockTransport": lambda _: _lend(package, transport=package.MockTransport(forwarding(package))),
        "proxy of a stock client": lambda _: _proxied(package, lend=True),
    }


CLIENTS: dict[str, Callable[[Any], contextlib.AbstractAsyncContextManager[dict[str, Any]]]] = {
    "ours": lambda _: _own(),
    "wrapped send over ours": lambda test: _wrapped(test.getfixturevalue("monkeypatch"), lend=False),
    "patched transport under ours": lambda test: _patched(test.getfixturevalue("monkeypatch"), lend=False),
    "respx that passes through": lambda _: _respx(using="httpcore", passes=True),
    "respx": lambda _: _respx(using="httpcore", passes=False),
    "respx using httpx": lambda _: _respx(using="httpx", passes=False),
    "pytest-httpx under ours": lambda test: _pytest_httpx(test.getfixturevalue("httpx_mock"), lend=False),
    "pytest-httpx under stock": lambda test: _pytest_httpx(test.getfixturevalue("httpx_mock"), lend=True),
    "proxy": lambda _: _proxied(lend=False),
    **_list_lent(httpx),
    **{f"httpx2 {name}": opened for name, opened in _list_lent(httpx2).items()},
}
"""By name, what opens it: the options by which a client of ours is built on it."""

SILENT = {
    name for name in CLIENTS if name.removeprefix("httpx2 ").startswith(("patched", "respx", "pytest", "Mock"))
} - {"respx that passes through"}
"""Those that tell nobody how far a request came."""
