"""The front of both ports: strangers, the gallery, the control path, the gateway, and what becomes of a broken connection.

It decides which of them answers; it never answers itself, but to turn a stranger away.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from aiohttp import web

from videorouter.sandbox import gallery
from videorouter.sandbox.answers import write_error
from videorouter.sandbox.control import PREFIX, Control, list_jobs
from videorouter.sandbox.delivery import Answer, Holds, StoppedError, deliver, drop
from videorouter.sandbox.visitors import find_stranger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from videorouter.sandbox.files import Files
    from videorouter.sandbox.gateway import Gateway
    from videorouter.sandbox.studio import Studio

_LOGGER = logging.getLogger("videorouter.sandbox")


class Front:
    """Hands each request to the one who answers it.

    Args:
        gateway: The API.
        files: The result files.
        studio: Where posters come from.
    """

    def __init__(self, gateway: Gateway, files: Files, studio: Studio) -> None:
        self._gateway = gateway
        self._files = files
        self._studio = studio
        self._control = Control(gateway)
        self._allowed = frozenset(name.lower() for name in gateway.settings.allowed_hosts)

    async def handle_api(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer on the API's port.

        Args:
            request: The request.
        """
        return await self._guard(request, self._answer)

    async def handle_files(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer on the files' port.

        Args:
            request: The request.
        """
        return await self._guard(request, self._files.handle)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.path
        if path == "/" and request.method in {"GET", "HEAD"}:
            spent, charged = self._gateway.store.sum_charges()
            jobs = list_jobs(self._gateway)
            page = gallery.write_page(jobs, self._gateway.base_url, spent=spent, charged=charged)
            return await deliver(request, page, None, self._gateway.holds)
        if path.startswith(f"{PREFIX}posters/"):
            return await deliver(request, await self._poster(path), None, self._gateway.holds)
        if path.startswith(PREFIX):
            return await deliver(request, await self._control.handle(request), None, self._gateway.holds)
        return await self._gateway.handle(request)

    async def _poster(self, path: str) -> Answer:
        name = path.removeprefix(f"{PREFIX}posters/").removesuffix(".jpg")
        video = self._gateway.store.find_video(video_id=name)
        job = None if video is None else self._gateway.store.job_of_number(video.number)
        if video is None or job is None:
            return write_error(404, f"There is no video {name!r}.", request_id="control")
        reel = await self._studio.poster(job, video.take)
        return Answer(body=reel.data, content_type="image/jpeg", headers={"ETag": reel.etag})

    async def _guard(
        self, request: web.BaseRequest, answer: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        try:
            stranger = find_stranger(request.headers.get("Host"), request.headers.get("Origin"), self._allowed)
            if stranger is None:
                return await answer(request)
            words = f"The sandbox answers only to this machine, and {stranger}."
            return await deliver(request, write_error(403, words, request_id="sandbox"), None, Holds())
        except StoppedError:
            drop(request.transport, reset=False)
        except Exception as error:
            _LOGGER.exception("The sandbox failed on %s %s", request.method, request.path)
            failed = write_error(500, f"The sandbox itself failed: {error!r}.", request_id="sandbox")
            return await deliver(request, failed, None, Holds())
        # The connection is gone: aiohttp finds that out when it tries to send this.
        return web.Response(status=500)
