"""Faults that strike before HTTP begins: a connection is broken, or left in silence, before its request was read.

A guard stands in front of aiohttp's protocol only while such a rule exists.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from videorouter.sandbox.delivery import drop

if TYPE_CHECKING:
    from collections.abc import Callable

    from videorouter.sandbox.faults import Fault, Faults
    from videorouter.sandbox.records import RequestLog, RequestRecord


class Guard(asyncio.Protocol):
    """Reads in front of another protocol until it is clear that no fault strikes.

    Args:
        inner: The protocol that it guards.
        faults: The rules.
        strike: Called with the fault, the guard and the request line when one strikes.
    """

    def __init__(self, inner: asyncio.Protocol, faults: Faults, strike: Callable[[Fault, Guard, bytes], None]) -> None:
        self._inner: asyncio.Protocol | None = inner
        self._faults = faults
        self._strike = strike
        self._seen = bytearray()
        self._fault: Fault | None = None
        self._open = False
        self._looked = False
        self.record: RequestRecord | None = None
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note the transport, and break it at once when a fault says so."""
        self.transport = cast("asyncio.Transport", transport)
        fault = self._faults.pick("connect")
        if fault is not None:
            self._strike(fault, self, b"")

    def data_received(self, data: bytes) -> None:
        """Read on until it is clear whether a fault strikes, then pass everything on."""
        if self.transport is None or self.transport.is_closing():
            return
        if self._open and self._inner is not None:
            self._inner.data_received(data)
            return
        self._seen += data
        line, ended, _ = bytes(self._seen).partition(b"\r\n")
        if ended and not self._looked:
            self._looked = True
            method, _, rest = line.decode("latin-1").partition(" ")
            path = rest.split(" ", 1)[0].partition("?")[0]
            self._fault = self._faults.pick("request", method=method, path=path)
        if self._looked and self._fault is None:
            self._pass()
        elif self._fault is not None and len(self._seen) >= (self._fault.byte or 0) and self.record is None:
            self._strike(self._fault, self, line)

    def _pass(self) -> None:
        if self._inner is None or self.transport is None:
            return
        self._open = True
        self._inner.connection_made(self.transport)
        if self._seen:
            self._inner.data_received(bytes(self._seen))
            self._seen.clear()

    def resume(self) -> None:
        """Let the request through after all."""
        self._fault = None
        self._pass()

    def eof_received(self) -> bool | None:
        """Pass it on."""
        return self._inner.eof_received() if self._open and self._inner is not None else None

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass it on."""
        if self._open and self._inner is not None:
            self._inner.connection_lost(exc)
        self._inner = None

    def pause_writing(self) -> None:
        """Pass it on."""
        if self._open and self._inner is not None:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        """Pass it on."""
        if self._open and self._inner is not None:
            self._inner.resume_writing()


class Door:
    """Makes the protocol of each new connection.

    Args:
        make: Makes aiohttp's protocol.
        faults: The rules.
        log: The request log.
        side: ``api`` or ``files``.
    """

    def __init__(self, make: Callable[[], asyncio.Protocol], faults: Faults, log: RequestLog, side: str) -> None:
        self._make = make
        self._faults = faults
        self._log = log
        self._side = side
        self._silent: set[Guard] = set()

    def __call__(self) -> asyncio.Protocol:
        """Return the protocol of one connection, guarded while a fault may strike there."""
        inner = self._make()
        return Guard(inner, self._faults, self._strike) if self._faults.at_connection else inner

    def close(self) -> None:
        """Break the connections that are kept in silence."""
        for guard in list(self._silent):
            drop(guard.transport, reset=True)
        self._silent.clear()

    def _strike(self, fault: Fault, guard: Guard, line: bytes) -> None:
        words = line.decode("latin-1").split(" ")
        record, _ = self._log.start(self._side, method=words[0], path=words[1] if len(words) > 1 else "")
        record.fault = f"{fault.kind}; at={fault.place}"
        guard.record = record
        self._log.finish(record)
        if fault.kind != "stall":
            drop(guard.transport, reset=fault.kind == "reset")
            return
        if guard.transport is not None:
            guard.transport.pause_reading()
        self._silent.add(guard)
        if fault.seconds is not None:
            asyncio.get_running_loop().call_later(fault.seconds, self._wake, guard)

    def _wake(self, guard: Guard) -> None:
        if guard not in self._silent:
            return
        self._silent.discard(guard)
        if guard.transport is not None and not guard.transport.is_closing():
            guard.transport.resume_reading()
            guard.resume()
