"""Result files on a port of their own, without a key, as in life: Range, ETag, If-Range, HEAD.

A video is rendered when it is first asked for, in a thread. This file never reads an API key; the log only notes that
one came.
"""

from __future__ import annotations

import re
import time
from email.utils import formatdate
from typing import TYPE_CHECKING
from urllib.parse import unquote

from videorouter.sandbox.answers import RefusalError, write_fault, write_refusal
from videorouter.sandbox.delivery import Answer, StoppedError, deliver, drop
from videorouter.sandbox.gateway import name_connection, read_header_fault, say_fault
from videorouter.sandbox.studio import Reel, bind

if TYPE_CHECKING:
    from aiohttp import web

    from videorouter.sandbox.faults import Fault
    from videorouter.sandbox.gateway import Gateway
    from videorouter.sandbox.records import RequestRecord
    from videorouter.sandbox.studio import Studio

_PLAIN = "text/plain; charset=utf-8"
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


class Files:
    """The second port of one sandbox.

    Args:
        gateway: What it knows of jobs, faults and the log.
        studio: Where videos are rendered.
    """

    def __init__(self, gateway: Gateway, studio: Studio) -> None:
        self._gateway = gateway
        self._studio = studio

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request for a file.

        Args:
            request: The request.

        Raises:
            StoppedError: The connection is broken on purpose.
        """
        gateway = self._gateway
        record, _ = gateway.log.start(
            "files",
            method=request.method,
            path=request.raw_path,
            headers=request.headers.items(),
            connection=name_connection(request),
        )
        try:
            fault = None
            try:
                fault = await self._strike_head(request, record)
                answer = await self._find(request, fault)
            except RefusalError as error:
                answer = write_refusal(error, "files")
            response = await deliver(request, answer, fault, gateway.holds)
            record.status = answer.status
            return response
        finally:
            gateway.log.finish(record)

    async def _strike_head(self, request: web.BaseRequest, record: RequestRecord) -> Fault | None:
        gateway = self._gateway
        method, path = request.method, request.raw_path.partition("?")[0]
        fault = (
            read_header_fault(request)
            or gateway.faults.pick("head", method=method, path=path)
            or gateway.faults.pick("call", method=method, path=path)
        )
        if fault is None:
            return None
        record.fault = say_fault(fault)
        await gateway.holds.wait(fault.delay)
        if fault.place != "head":
            return fault
        if fault.kind == "stall":
            await gateway.holds.wait(fault.seconds)
            return None
        drop(request.transport, reset=fault.kind == "reset")
        raise StoppedError

    async def _find(self, request: web.BaseRequest, fault: Fault | None) -> Answer:
        path = request.raw_path.partition("?")[0]
        if request.method not in {"GET", "HEAD"}:
            return Answer(status=405, body=b"Only GET and HEAD.\n", content_type=_PLAIN, headers={"Allow": "GET, HEAD"})
        if fault is not None and fault.kind in {"status", "html", "expired", "empty", "error_200"}:
            return write_fault(fault, None, "files")
        if path.startswith("/asset/"):
            asset = self._gateway.store.find_asset(file=path.removeprefix("/asset/"))
            if asset is None or asset.data is None:
                return _miss()
            answer = _serve(request, bind(asset.data), asset.mime, asset.created, ranges=True)
        else:
            name = path.removeprefix("/video/")
            # The slash in a result's name is encoded on the wire; a client that decodes it asks for another file.
            video = self._gateway.store.find_video(file=unquote(name)) if path != name and "/" not in name else None
            job = None if video is None else self._gateway.store.job_of_number(video.number)
            if video is None or job is None or job.ready > time.time() or job.outcome != "completed":
                return _miss()
            ttl = self._gateway.settings.url_ttl
            if job.expired or (ttl is not None and job.number and time.time() > job.ready + ttl):
                return Answer(status=404, body=b"This file has expired.\n", content_type=_PLAIN)
            reel = await self._studio.film(job, video.take)
            ranges = fault is None or fault.kind != "no_range"
            answer = _serve(request, reel, "video/mp4", job.ready, ranges=ranges)
        return answer if fault is None else write_fault(fault, answer, "files")


def _miss() -> Answer:
    return Answer(status=404, body=b"There is no such file.\n", content_type=_PLAIN)


def _serve(request: web.BaseRequest, reel: Reel, mime: str, made: float, *, ranges: bool) -> Answer:
    data, etag = reel.data, reel.etag
    stamp = formatdate(int(made), usegmt=True)
    headers = {
        "ETag": etag,
        "Last-Modified": stamp,
        "Accept-Ranges": "bytes" if ranges else "none",
        "Cache-Control": "public, max-age=3600",
        "Access-Control-Allow-Origin": "*",
    }
    known = [item.strip() for item in request.headers.get("If-None-Match", "").split(",")]
    if etag in known or f"W/{etag}" in known or "*" in known:
        return Answer(status=304, content_type=mime, headers=headers)
    wanted, condition = request.headers.get("Range"), request.headers.get("If-Range")
    if not ranges or wanted is None or (condition is not None and condition.strip() not in {etag, stamp}):
        return Answer(body=data, content_type=mime, headers=headers)
    found = _RANGE.fullmatch(wanted.strip().replace(" ", ""))
    if found is None or not (found[1] or found[2]):
        return Answer(body=data, content_type=mime, headers=headers)
    size = len(data)
    if found[1]:
        first, last = int(found[1]), min(int(found[2]) if found[2] else size - 1, size - 1)
        if found[2] and int(found[2]) < first:
            return Answer(body=data, content_type=mime, headers=headers)
    else:
        first, last = max(0, size - int(found[2])), size - 1
    if first >= size or first > last:
        return Answer(status=416, content_type=_PLAIN, headers={**headers, "Content-Range": f"bytes */{size}"})
    return Answer(
        status=206,
        body=data[first : last + 1],
        content_type=mime,
        headers={**headers, "Content-Range": f"bytes {first}-{last}/{size}"},
    )
