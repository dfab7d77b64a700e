"""The routes of ``jobs_app``: each sees one owner's jobs alone, and lets a browser set the listed fields alone."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Collection
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import quote

import anyio
import msgspec

try:
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.requests import Request
    from starlette.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, Response
    from starlette.routing import Route
except ImportError as _missing:
    raise ImportError("jobs_app needs Starlette. In a clone of videorouter: pip install '.[web]'") from _missing

from videorouter.errors import (
    ConfigurationError,
    InvalidRequestError,
    JournalError,
    JournalMismatchError,
    QueueFullError,
    VideoRouterError,
)
from videorouter.integrations.web.openapi import describe_api
from videorouter.integrations.web.stream import stream_events
from videorouter.jobs.jobs import Jobs
from videorouter.jobs.models import Job
from videorouter.jobs.queue import JobVerbs

Owner: TypeAlias = Callable[[Request], "str | Awaitable[str | None] | None"]
FIELDS = (
    *("image_url", "start_image_url", "end_image_url", "image_urls", "video_urls", "audio_urls"),
    *("duration", "aspect_ratio", "resolution", "generate_audio", "seed"),
)
"""The documented fields of a request that cost no more than the model does; ``n`` buys several and is not among them."""
MAX_BODY = 256 * 1024
_MOST_LISTED = 200
_RETRY_AFTER = "10"
_PAGE = Path(__file__).with_name("page.html")


def jobs_app(
    jobs: Jobs, *, owner: Owner, models: Collection[str], fields: Collection[str] = FIELDS, page: bool = True
) -> Starlette:
    """Make an ASGI application of a queue: mount it, and enter ``jobs`` in your own lifespan.

    ``POST /`` puts a job (``202``; the ``Idempotency-Key`` header is its key), ``GET /`` lists them, ``GET /{id}`` is one,
    ``GET /{id}/events`` and ``GET /events`` tell what happens as server-sent events, ``GET /{id}/video`` is the saved file,
    ``DELETE /{id}`` takes back what is not sent. ``GET /openapi.json`` describes all that. Errors are problem details.

    Args:
        jobs: The queue. An application whose host never enters it only asks.
        owner: Says whose request it is: from your session, your token or your user. ``None`` answers 401.
        models: The models that may be asked for; the first one is taken where a request names none.
        fields: The fields of the gateway that a request may set, beside ``prompt`` and ``model``.
        page: Whether a browser that opens ``/`` gets a small page with a form, progress and players.

    Raises:
        ConfigurationError: No model, or a field that is no field of the gateway.
    """
    if isinstance(models, str) or not models:
        raise ConfigurationError("models must name the models that a browser may ask for.")
    wrong = {"price", "max_cost", "notify", "priority", "owner", "key", "meta", "extra_body", "extra_headers"} & {
        *fields
    }
    if wrong:
        raise ConfigurationError(f"A browser must not set {', '.join(sorted(wrong))}: only the application may.")
    api = _Api(jobs, owner, tuple(models), frozenset({"prompt", "model", *fields}), page=page)
    routes = [
        Route("/", api.put, methods=["POST"]),
        Route("/", api.list),
        Route("/openapi.json", api.describe),
        Route("/events", api.events),
        Route("/{id}", api.get),
        Route("/{id}", api.cancel, methods=["DELETE"]),
        Route("/{id}/events", api.events),
        Route("/{id}/video", api.video),
    ]
    handlers = {HTTPException: _tell_http, VideoRouterError: _tell_error}
    return Starlette(routes=routes, exception_handlers=handlers)  # type: ignore[arg-type]


class _Api:
    """The answers of one application."""

    def __init__(
        self, jobs: Jobs, owner: Owner, models: tuple[str, ...], allowed: frozenset[str], *, page: bool
    ) -> None:
        self._jobs = jobs
        self._owner = owner
        self._models = models
        self._allowed = allowed
        self._page = page

    async def put(self, request: Request) -> Response:
        """Put a job."""
        verbs = await self._of_owner(request)
        given = await self._read(request)
        key = request.headers.get("idempotency-key") or None
        job = await verbs.put(given.pop("prompt"), key=key, **given)
        place = f"{_root(request)}/{job.id}"
        return JSONResponse(_show(job, request), 202, {"Location": place, "Cache-Control": "no-store"})

    async def list(self, request: Request) -> Response:
        """List the owner's jobs, the newest first; or show the page."""
        if self._page and _wants_page(request):
            return HTMLResponse(_read_page(), headers={"Vary": "Accept", "Cache-Control": "no-store"})
        verbs = await self._of_owner(request)
        event = (await verbs.stats()).event  # first, so that a stream from here on misses nothing
        wanted = request.query_params
        states = [state for state in wanted.get("state", "").split(",") if state]
        jobs = await verbs.list(
            state=states or None,  # type: ignore[arg-type]
            before=wanted.get("before") or None,
            limit=min(_MOST_LISTED, _read_number(wanted.get("limit", "50"), "limit", least=1)),
        )
        content = {"jobs": [_show(job, request) for job in jobs], "event": event, "models": self._models}
        return JSONResponse(content, headers={"Vary": "Accept", "Cache-Control": "no-store"})

    async def get(self, request: Request) -> Response:
        """One job."""
        _, job = await self._find(request)
        return JSONResponse(_show(job, request), headers={"Cache-Control": "no-store"})

    async def cancel(self, request: Request) -> Response:
        """Take a job back; what is sent is paid and goes on."""
        verbs, job = await self._find(request)
        job = await verbs.cancel(job.id)
        if job.state != "cancelled":
            words = job.state.replace("_", " ")
            raise HTTPException(409, f"This job is {words}: only what waits can be taken back.")
        return JSONResponse(_show(job, request))

    async def events(self, request: Request) -> Response:
        """Tell what happens to one job, or to all of the owner's."""
        after = _read_number(
            request.headers.get("last-event-id") or request.query_params.get("after") or "0", "Last-Event-ID"
        )
        if "id" not in request.path_params:
            verbs = await self._of_owner(request)
            last = (await verbs.stats()).event
            # A number that was never given is of another file: from the beginning then, so that nothing is missed.
            return stream_events(verbs, None, after if after <= last else 0, lambda: self._jobs.stopping)
        verbs, job = await self._find(request)
        after = after if after <= (await verbs.stats()).event else 0
        if job.over and job.event <= after:
            return Response(status_code=204)  # which tells an EventSource not to come again
        return stream_events(verbs, job.id, after, lambda: self._jobs.stopping)

    async def video(self, request: Request) -> Response:
        """The saved file, whole or by ranges; where files are not saved, the gateway's URL."""
        _, job = await self._find(request)
        number = _read_number(request.query_params.get("number", "0"), "number")
        if number < len(job.files):
            path = Path(job.files[number])
            if not await anyio.Path(path).is_file():
                raise HTTPException(410, "The file of this video is gone from the disk.")
            return FileResponse(
                path, filename=f"{job.id}{path.suffix}", content_disposition_type="inline", headers=_PRIVATE
            )
        videos = job.result.videos if job.result is not None else ()
        url = videos[number].url if number < len(videos) else None
        if url is None or not job.over:
            raise HTTPException(404, "There is no such video, or not yet.")
        return RedirectResponse(url, 307, headers=_PRIVATE)

    async def describe(self, request: Request) -> Response:
        """The OpenAPI description."""
        return JSONResponse(describe_api(_root(request), self._models, sorted(self._allowed)))

    async def _of_owner(self, request: Request) -> JobVerbs:
        name = self._owner(request)
        if inspect.isawaitable(name):
            name = await name
        if name is None or name == "":
            raise HTTPException(401, "Sign in first.")
        return self._jobs.of(name)

    async def _find(self, request: Request) -> tuple[JobVerbs, Job]:
        verbs = await self._of_owner(request)
        job = await verbs.get(request.path_params["id"])
        if job is None:
            raise HTTPException(404, "There is no such job.")
        return verbs, job

    async def _read(self, request: Request) -> dict[str, Any]:
        """Read what a request asks for: the listed fields alone."""
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            # A form of another site can send no JSON without asking this one first.
            raise HTTPException(415, "Send JSON, with Content-Type: application/json.")
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY:
                raise HTTPException(413, f"The body is longer than {MAX_BODY // 1024} KiB.")
        try:
            given = msgspec.json.decode(body, type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise HTTPException(400, f"The body is no JSON object: {error}.") from error
        wrong = given.keys() - self._allowed
        if wrong:
            raise HTTPException(
                400, f"A job takes no {', '.join(sorted(wrong))} here. It takes {', '.join(sorted(self._allowed))}."
            )
        given = {name: value for name, value in given.items() if value is not None}
        given.setdefault("prompt", "")
        if given.setdefault("model", self._models[0]) not in self._models:
            raise HTTPException(400, f"model must be one of {', '.join(self._models)}.")
        return given


_PRIVATE = {"Cache-Control": "private"}


def _show(job: Job, request: Request) -> dict[str, Any]:
    """What a browser may know of a job: neither owner, key, price nor the gateway's own ids."""
    place = f"{_root(request)}/{quote(job.id)}"
    count = len(job.files) or (len(job.result.videos) if job.result is not None and job.over else 0)
    return {
        "id": job.id,
        "state": job.state,
        "over": job.over,
        "prompt": job.prompt,
        "model": job.model,
        "created": job.created,
        "sent": job.sent,
        "finished": job.finished,
        "event": job.event,
        "failure": None if job.failure is None else {"type": job.failure.type, "message": job.failure.message},
        "videos": [f"{place}/video?number={number}" for number in range(count)],
        "self": place,
        "events": f"{place}/events",
    }


def _root(request: Request) -> str:
    return str(request.scope.get("root_path", "")).rstrip("/")


def _wants_page(request: Request) -> bool:
    accept = request.headers.get("accept", "")
    return "text/html" in accept and "application/json" not in accept


@functools.cache
def _read_page() -> str:
    return _PAGE.read_text("utf-8")


def _read_number(text: str, name: str, *, least: int = 0) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 18 or int(text) < least:
        raise HTTPException(400, f"{name} must be a whole number of at least {least}.")
    return int(text)


_STATUSES: tuple[tuple[type[VideoRouterError], int], ...] = (
    (QueueFullError, 503),
    (JournalMismatchError, 422),
    (JournalError, 503),
    (InvalidRequestError, 400),
)


async def _tell_error(_: Request, error: VideoRouterError) -> Response:
    """Answer an error of the library as problem details."""
    status = next((status for kind, status in _STATUSES if isinstance(error, kind)), 500)
    if status == 503 and not isinstance(error, QueueFullError):
        return _problem(status, "The queue cannot be written now. Try again.")  # its words name paths of the server
    return _problem(status, error.message)


async def _tell_http(_: Request, error: HTTPException) -> Response:
    """Answer an error of a request as problem details."""
    return _problem(error.status_code, error.detail, error.headers)


def _problem(status: int, detail: str, headers: Any = None) -> Response:
    more = {"Retry-After": _RETRY_AFTER} if status == 503 else {}
    content = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    return Response(
        msgspec.json.encode(content), status, {**more, **dict(headers or {})}, media_type="application/problem+json"
    )
