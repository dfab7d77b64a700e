"""The request log: what arrived, in which form, and what became of it, with every secret removed.

It never keeps an API key: neither in a header nor where a client sent it by mistake.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

REDACTED = "<redacted>"
_SECRET = frozenset({"authorization", "proxy-authorization", "cookie", "x-api-key", "api-key", "x-goog-api-key"})
_BODY_LIMIT = 16 * 1024


@dataclass(slots=True, kw_only=True)
class RequestRecord:
    """One request as the sandbox saw it; it fills up while the request is worked on.

    Attributes:
        number: Counted from 1.
        side: ``api`` or ``files``.
        connection: The client's port, so that the reuse of a connection can be seen.
        method: HTTP method, empty when the connection was struck before one was read.
        path: Path and query as sent.
        headers: Headers, names in lower case, secrets removed.
        body: The body as text, at most 16 KiB, secrets removed.
        authorization: ``bare``, ``bearer`` or ``None``: the form of the key that came along.
        idempotency_key: The ``Idempotency-Key`` header.
        request_id: The id that the answer carries.
        arrived: When, in seconds since 1970.
        elapsed: Seconds until it was over, ``None`` while it is open.
        status: Status that was answered, ``None`` when none was.
        fault: The fault that struck, in words.
        charged: Whether a job was accepted and paid for.
        task_id: The task that it made.
    """

    number: int
    side: str
    connection: int = 0
    method: str = ""
    path: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    body: str = ""
    authorization: str | None = None
    idempotency_key: str | None = None
    request_id: str = ""
    arrived: float = 0.0
    elapsed: float | None = None
    status: int | None = None
    fault: str | None = None
    charged: bool = False
    task_id: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        return asdict(self)


class RequestLog:
    """The last requests, oldest first.

    Args:
        limit: How many are kept.
    """

    def __init__(self, limit: int) -> None:
        self._records: deque[RequestRecord] = deque(maxlen=limit)
        self._numbers = itertools.count(1)
        self._watchers: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []
        self.total: int = 0
        self.open: int = 0

    def start(
        self,
        side: str,
        *,
        method: str = "",
        path: str = "",
        headers: Iterable[tuple[str, str]] = (),
        connection: int = 0,
        request_id: str = "",
    ) -> tuple[RequestRecord, str]:
        """Note a request that has begun and return its record and the key that came along.

        Args:
            side: ``api`` or ``files``.
            method: HTTP method.
            path: Path and query.
            headers: Its headers.
            connection: The client's port.
            request_id: Id of its answer.
        """
        form, key, kept, idempotency = None, "", {}, None
        for name, value in headers:
            low = name.lower()
            if low == "authorization":
                form, key = split_authorization(value)
            elif low == "idempotency-key":
                idempotency = value
            kept[low] = REDACTED if low in _SECRET else value
        if key and (key in path or any(key in value for value in kept.values())):
            path = path.replace(key, REDACTED)
            kept = {name: value.replace(key, REDACTED) for name, value in kept.items()}
        record = RequestRecord(
            number=next(self._numbers),
            side=side,
            connection=connection,
            method=method,
            path=path,
            headers=kept,
            authorization=form,
            idempotency_key=idempotency,
            request_id=request_id,
            arrived=time.time(),
        )
        self._records.append(record)
        self.total += 1
        self.open += 1
        self.look()
        return record, key

    def note_body(self, record: RequestRecord, body: bytes, key: str) -> None:
        """Keep a piece of a request's body.

        Args:
            record: The request.
            body: Its body.
            key: The key that came along, to be removed.
        """
        text = body[:_BODY_LIMIT].decode("utf-8", "replace")
        record.body = text.replace(key, REDACTED) if key else text
        self.look()

    def finish(self, record: RequestRecord) -> None:
        """Note that a request is over.

        Args:
            record: The request.
        """
        if record.elapsed is None:
            record.elapsed = time.time() - record.arrived
            self.open -= 1
            self.look()

    def list(self) -> list[RequestRecord]:
        """Return the records, oldest first."""
        return list(self._records)

    def clear(self) -> None:
        """Forget the finished ones."""
        unfinished = [record for record in self._records if record.elapsed is None]
        self._records.clear()
        self._records.extend(unfinished)
        self.total = len(unfinished)

    async def wait_for(self, condition: Callable[[], bool]) -> None:
        """Return as soon as a condition holds; it is looked at whenever a request begins, is read or ends.

        Args:
            condition: Called without arguments.
        """
        if condition():
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (condition, future)
        self._watchers.append(entry)
        try:
            await future
        finally:
            self._watchers.remove(entry)

    def look(self) -> None:
        """See whether what somebody waits for has come true."""
        for condition, future in self._watchers:
            if not future.done() and condition():
                future.set_result(None)


def split_authorization(value: str) -> tuple[str | None, str]:
    """Return the form in which a key came and the key itself.

    Args:
        value: The ``Authorization`` header.
    """
    value = value.strip()
    if value[:7].lower() == "bearer ":
        return "bearer", value[7:].strip()
    return ("bare", value) if value and value.lower() != "bearer" else (None, "")
