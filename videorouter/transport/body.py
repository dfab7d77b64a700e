"""An answer's body, piece by piece: nothing is read from the socket before somebody asks for it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from videorouter.http import WireFailure
from videorouter.transport.causes import explain

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from videorouter.http import Header, Response
    from videorouter.transport.connection import Connection

_FAIR_SHARE = 8
_TURN_BYTES = 2 * 2**20


class _Turn:
    """What all bodies of a loop have read in its present turn: many at once must not hold up everything else."""

    __slots__ = ("_armed", "spent")

    def __init__(self) -> None:
        self.spent = 0
        self._armed = False

    def note(self, size: int) -> None:
        self.spent += size
        if not self._armed:
            self._armed = True
            asyncio.get_running_loop().call_soon(self._begin)

    def _begin(self) -> None:
        self.spent = 0
        self._armed = False


_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, _Turn] = WeakKeyDictionary()


class BodyStream:
    """The ``IncomingStream`` over a connection of our own.

    Args:
        connection: Carries the body; its head is in.
        head: Status and header fields.
        deadline: The loop's time at which the transfer ends with ``WireFailure.DEADLINE``.
        stall: Seconds without a byte after which it ends with ``WireFailure.STALLED``.
    """

    def __init__(self, connection: Connection, head: Response, *, deadline: float, stall: float) -> None:
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
        turn = _turns.setdefault(loop, _Turn())
        try:
            while True:
                while turn.spent >= _TURN_BYTES:  # noqa: ASYNC110 - the next turn is what is waited for
                    await asyncio.sleep(0)
                piece = connection.pull()
                if piece is None:
                    await self._wait(connection, self._deadline - loop.time())
                elif piece:
                    turn.note(len(piece))
                    yield piece
                    given += 1
                    if not given % _FAIR_SHARE:
                        # A fast server never lets the socket run dry; others want their turn all the same.
                        await asyncio.sleep(0)
                        if loop.time() >= self._deadline:
                            raise explain(WireFailure.DEADLINE, connection.attempt.host)
                else:
                    break
            connection.finish_stream()
            self._over = True
        finally:
            if not self._over:
                await self.aclose()

    async def _wait(self, connection: Connection, left: float) -> None:
        if left <= 0 or not await connection.wait_readable(min(left, self._stall)):
            failure = WireFailure.DEADLINE if left <= self._stall else WireFailure.STALLED
            raise explain(failure, connection.attempt.host)

    async def aclose(self) -> None:
        """Give the connection back when the body is complete, else abort it. Idempotent."""
        if not self._over:
            self._over = True
            self._connection.close()
