"""Server-sent events of a queue: numbered, so that a browser that comes back misses none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.responses import StreamingResponse

if TYPE_CHECKING:
    from videorouter.jobs.models import JobEvent
    from videorouter.jobs.queue import JobVerbs

SILENCE = 15.0
"""Seconds after which a comment is sent: proxies drop connections that say nothing."""
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
"""The second keeps nginx from holding events back."""


def stream_events(verbs: JobVerbs, job: str | None, after: int, stopping: Callable[[], bool]) -> StreamingResponse:
    """Stream the events after a number: of one job until it is over, of all of an owner's until the process stops."""
    return StreamingResponse(
        _tell(verbs.events(job, after=after), stopping), headers=_HEADERS, media_type="text/event-stream"
    )


async def _tell(events: AsyncGenerator[JobEvent, None], stopping: Callable[[], bool]) -> AsyncGenerator[bytes, None]:
    following: asyncio.Task[Any] | None = None
    try:
        yield b"retry: 1000\n\n"
        while not stopping():
            following = following or asyncio.ensure_future(anext(events, None))
            await asyncio.wait({following}, timeout=SILENCE)
            if not following.done():
                yield b": nothing new\n\n"
                continue
            event, following = following.result(), None
            if event is None:
                return
            shown = {
                "number": event.number,
                "job": event.job,
                "state": event.state,
                "at": event.at,
                "note": event.note,
                "over": event.over,
            }
            yield b"id: %d\ndata: %b\n\n" % (event.number, msgspec.json.encode(shown))
    finally:
        if following is not None:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
        await events.aclose()
