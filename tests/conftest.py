"""What every test stands on: asyncio, loopback only, no settings from the machine that runs them."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import signal
import socket
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from videorouter.sandbox import Sandbox

LOCAL_NAMES = {"", "localhost", "ip6-localhost", socket.gethostname().lower()}
SETTINGS = ("INFRON_", "ONEROUTER_", "VIDEOROUTER_")
PROXIES = {"http_proxy", "https_proxy", "all_proxy", "no_proxy", "ftp_proxy"}

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts its background jobs so; tests of Ctrl-C, and the processes they start, need it to work
    signal.signal(signal.SIGINT, signal.default_int_handler)


class OffLoopbackError(RuntimeError):
    """A test tried to leave this machine."""


def is_local(host: object) -> bool:
    """Whether a host name or address is this machine, or needs no look-up at all."""
    if host is None:
        return True
    text = host.decode("ascii", "replace") if isinstance(host, bytes | bytearray) else str(host)
    text = text.lower().rstrip(".").partition("%")[0]
    if text in LOCAL_NAMES or text.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def is_literal(host: object) -> bool:
    try:
        ipaddress.ip_address(str(host).partition("%")[0])
    except ValueError:
        return False
    return True


def make_eager_loop() -> asyncio.AbstractEventLoop:
    """A loop whose tasks begin at once, inside ``create_task``; Python 3.12 brought that."""
    loop = asyncio.new_event_loop()
    loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]
    return loop


LOOPS: dict[str, dict[str, object]] = {
    "asyncio": {},
    "uvloop": {"use_uvloop": True},
    "eager": {"loop_factory": make_eager_loop},
}
"""Each kind of event loop, by its options for anyio."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--event-loop", choices=[*LOOPS], default="asyncio", help="what the async tests run on")


@pytest.fixture
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, object]]:
    return "asyncio", LOOPS[request.config.getoption("--event-loop")]


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key, base URL or proxy of the machine reaches a test."""
    for name in list(os.environ):
        if name.startswith(SETTINGS) or name.lower() in PROXIES:
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def loopback_only(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Refuse every connection and every look-up that would leave this machine, and fail the test that tried.

    Names under ``.invalid`` do not exist anywhere (RFC 6761), so they answer so without asking a server.
    """
    attempts: list[str] = []

    def refuse(what: str) -> OffLoopbackError:
        attempts.append(what)
        return OffLoopbackError(f"{what}: tests stay on loopback")

    def guard_address(sock: socket.socket, address: object) -> None:
        if sock.family in {socket.AF_INET, socket.AF_INET6} and isinstance(address, tuple) and not is_local(address[0]):
            raise refuse(f"connection to {address[0]}:{address[1]}")

    for method in ("connect", "connect_ex"):
        real_connect = getattr(socket.socket, method)

        def connect(sock: socket.socket, address: object, *, _real=real_connect) -> object:
            guard_address(sock, address)
            return _real(sock, address)

        monkeypatch.setattr(socket.socket, method, connect)

    real_sendto = socket.socket.sendto

    def sendto(sock: socket.socket, data: bytes, *rest: object) -> int:
        guard_address(sock, rest[-1])
        return real_sendto(sock, data, *rest)

    monkeypatch.setattr(socket.socket, "sendto", sendto)

    for look_up in ("getaddrinfo", "gethostbyname", "gethostbyname_ex"):
        real_look_up = getattr(socket, look_up)

        def resolve(host: object, *rest: object, _real=real_look_up, _name=look_up, **named: object) -> object:
            if not (is_local(host) or is_literal(host)):
                name = host.decode("ascii", "replace") if isinstance(host, bytes | bytearray) else str(host)
                if name.lower().rstrip(".").endswith(".invalid"):
                    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
                raise refuse(f"{_name}({host!r})")
            return _real(host, *rest, **named)

        monkeypatch.setattr(socket, look_up, resolve)

    yield
    assert not attempts, f"the test tried to leave this machine: {attempts}"


@pytest.fixture(autouse=True)
def forbidden_changes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Raise on each change of an item's state that the table of states forbids, in every journal that a test writes.

    Whatever becomes of the error, the test fails, unless it takes what it provoked from this list. Tests of Ray's ledger
    write what no batch would.
    """
    if request.node.get_closest_marker("ray"):
        yield []
        return
    from videorouter.journal import writer
    from videorouter.journal.states import MOVES

    forbidden: list[str] = []
    changes = {(old, new) for moves in MOVES.values() for old, later in moves.items() for new in later}
    pairs = ", ".join(f"('{old}', '{new}')" for old, new in sorted(changes))
    real_open = writer.open_writable

    def note(before: str, after: str) -> None:
        forbidden.append(f"{before} -> {after}")

    def open_guarded(path: Path) -> sqlite3.Connection:
        database = real_open(path)
        database.create_function("note_forbidden", 2, note)
        for event, before in (("UPDATE OF state", "old.state"), ("INSERT", "'not_sent'")):
            database.execute(
                f"CREATE TEMP TRIGGER guard_{event[:6]} BEFORE {event} ON main.items "
                f"WHEN ({before}, new.state) NOT IN (VALUES {pairs}) BEGIN "
                f"SELECT note_forbidden({before}, new.state); "
                "SELECT RAISE(ABORT, 'the table of states forbids this change'); END"
            )
        return database

    monkeypatch.setattr(writer, "open_writable", open_guarded)
    yield forbidden
    assert forbidden == []


@pytest.fixture
async def sandbox(anyio_backend: object) -> AsyncIterator[Sandbox]:
    """A gateway of the test's own on this machine, over real HTTP."""
    from videorouter.sandbox import Sandbox

    async with Sandbox() as running:
        yield running
