"""An answer's body, piece by piece: nothing is read from the socket before somebody asks for it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from videorouter.io.transport.causes import explain
from videorouter.io.transport.seam import Trouble

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from videorouter.io.transport.connection import Connection
    from videorouter.io.transport.seam import Header, Incoming

_FAIR_SHARE = 8


class BodyStream:
    """The ``IncomingStream`` over a connection of our own.

    Args:
        connection: Carries the body; its head is in.
        head: Status and header fields.
        deadline: The loop's time at which the transfer ends with ``Trouble.DEADLINE``.
        stall: Seconds without a byte after which it ends with ``Trouble.STALLED``.
    """

    def __init__(self, connection: Connection, head: Incoming, *, deadline: float, stall: float) -> None:
        self.status: int = head.status
        self.headers: tuple[Header, ...] = head.headers
        self._connection = connection
        self._deadline = deadline
        self._stall = stall
        self._over = False

    async def chunks(self) -> AsyncIterator[bytes]:
        """The pieces of the body as they arrive; see ``IncomingStream.chunks``."""
        connection = self._connection
        loop = asyncio.get_running_loop()
        given = 0
        try:
            while True:
                piece = connection.pull()
                if piece is None:
                    await self._wait(connection, self._deadline - loop.time())
                elif piece:
                    yield piece
                    given += 1
                    if not given % _FAIR_SHARE:
                        # A fast server never lets the socket run dry; others want their turn all the same.
                        await asyncio.sleep(0)
                        if loop.time() >= self._deadline:
                            raise explain(Trouble.DEADLINE, connection.probe.host)
                else:
                    break
            connection.finish_stream()
            self._over = True
        finally:
            if not self._over:
                await self.aclose()

    async def _wait(self, connection: Connection, left: float) -> None:
        if left <= 0 or not await connection.wait_readable(min(left, self._stall)):
            trouble = Trouble.DEADLINE if left <= self._stall else Trouble.STALLED
            raise explain(trouble, connection.probe.host)

    async def aclose(self) -> None:
        """Give the connection back when the body is complete, else abort it. Idempotent."""
        if not self._over:
            self._over = True
            self._connection.close()
