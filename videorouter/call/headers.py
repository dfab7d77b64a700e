"""Builds header fields: once per client, extended per call, with the key last and for the client's own origins only.

The key is added for an origin of the client's own set and for no other. Its value never shows: it travels as
``Sealed`` bytes. This file sends nothing.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from typing import TYPE_CHECKING

import anyio

from videorouter.config import check_key
from videorouter.errors import ConfigurationError
from videorouter.http import origin_of
from videorouter.loops import count_cancellations
from videorouter.secrets import authorize, seal

if TYPE_CHECKING:
    from videorouter.config import ClientSettings
    from videorouter.http import Header
    from videorouter.secrets import Secret

_JSON = (b"content-type", b"application/json")


class HeaderBuilder:
    """Builds the header fields of one client's requests."""

    def __init__(self, settings: ClientSettings) -> None:
        self._settings = settings
        self._common = _merge(
            ((b"user-agent", settings.user_agent.encode("latin-1")), (b"accept", b"application/json")),
            settings.default_headers,
        )
        key = settings.api_key
        self._fixed: tuple[Header, ...] | None = None
        if key is not None:
            self._fixed = (*self._common, _JSON, (b"authorization", authorize(key, settings.auth_scheme)))

    def build_paid_post(self, idempotency_key: str) -> tuple[Header, ...] | None:
        """Build the fields of a paid JSON request without extra fields; ``None`` when the key comes from a function."""
        if self._fixed is None:
            return None
        return (*self._fixed, (b"idempotency-key", idempotency_key.encode()))

    async def build(
        self,
        url: str,
        *,
        deadline: float,
        content_type: bytes | None = None,
        extra: tuple[tuple[str, str], ...] = (),
        idempotency_key: str | None = None,
    ) -> tuple[Header, ...]:
        """Build the fields of any request. The key is awaited until ``deadline`` and sent to own origins only."""
        fields = list(_merge(self._common, extra) if extra else self._common)
        if content_type is not None:
            fields.append((b"content-type", content_type))
        if idempotency_key is not None:
            fields.append((b"idempotency-key", idempotency_key.encode()))
        if origin_of(url) in self._settings.origins:
            key = self._settings.api_key or await self._ask(deadline)
            fields.append((b"authorization", authorize(key, self._settings.auth_scheme)))
        return tuple(fields)

    async def _ask(self, deadline: float) -> Secret:
        """Ask the user's function for the key. Its error may quote the key, so only type and place are shown."""
        problem = ""
        answer: object = None
        before = count_cancellations()
        try:
            answer = seal(self._settings.api_key_source())  # type: ignore[misc]  # one of the two is always there
            if inspect.isawaitable(answer):
                with anyio.fail_after(max(0.0, deadline - time.monotonic())):
                    answer = seal(await answer)
        except asyncio.CancelledError as error:
            if count_cancellations() > before:
                raise
            problem = _locate(error)
        except Exception as error:  # noqa: BLE001  whatever it is, nothing was sent
            problem = _locate(error)
        if problem:
            msg = (
                f"The api_key function failed ({problem}). Nothing was sent. Fix it, or pass the key itself; its own "
                "message is not repeated here, since it may hold the key."
            )
            raise ConfigurationError(msg)
        key = check_key(answer)
        self._settings.remember(key)
        return key


def _locate(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f" at {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace is not None else ""
    return f"{type(error).__name__}{where}"


def _merge(fields: tuple[Header, ...], own: tuple[tuple[str, str], ...]) -> tuple[Header, ...]:
    """Merge two lists of fields; ``own`` wins over fields of the same name."""
    names = {name.lower().encode() for name, _ in own}
    kept = tuple(field for field in fields if field[0] not in names)
    return kept + tuple((name.lower().encode(), value.encode("latin-1")) for name, value in own)
