"""The control path ``/_sandbox``: what was charged and asked, faults, reset, release, and what the gallery shows.

It takes no key: it is the tester's side of the sandbox, and the sandbox listens on loopback only.
"""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any

from videorouter.sandbox.answers import RefusalError, write_json, write_refusal
from videorouter.sandbox.faults import make_fault, parse_fault
from videorouter.sandbox.gateway import read_body
from videorouter.sandbox.requests import read_object

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import web

    from videorouter.sandbox.delivery import Answer
    from videorouter.sandbox.gateway import Gateway
    from videorouter.sandbox.store import StoredJob

PREFIX = "/_sandbox/"
_LISTED = 200
_BODY_LIMIT = 1024 * 1024


class Control:
    """Answers the control path of one sandbox.

    Args:
        gateway: What it tells about.
    """

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._shows: dict[str, Callable[[], object]] = {
            "charges": lambda: list_charges(gateway),
            "requests": lambda: [record.to_dict() for record in gateway.log.list()],
            "jobs": lambda: list_jobs(gateway),
            "health": lambda: {"open": gateway.log.open, "held": len(gateway.jobs), "requests": gateway.log.total},
            "faults": gateway.faults.describe,
        }
        self._acts: dict[str, Callable[[], object]] = {
            "reset": lambda: reset(gateway),
            "release": lambda: {"released": gateway.release()},
        }

    async def handle(self, request: web.BaseRequest) -> Answer:
        """Answer one request below ``/_sandbox/``.

        Args:
            request: The request.
        """
        try:
            return await self._answer(request)
        except RefusalError as error:
            return write_refusal(error, "control")

    async def _answer(self, request: web.BaseRequest) -> Answer:
        name = request.path.removeprefix(PREFIX).strip("/")
        show = self._shows.get(name)
        if show is not None and request.method == "GET":
            return write_json(show())
        act = self._acts.get(name)
        if act is not None and request.method == "POST":
            return write_json(act())
        if name == "faults" and request.method == "POST":
            return write_json({"id": self._add_fault(await read_body(request, _BODY_LIMIT))}, status=201)
        if request.method == "DELETE" and (name == "faults" or name.startswith("faults/")):
            return self._remove_fault(name.removeprefix("faults").strip("/"))
        raise RefusalError(404, f"There is no {request.method} {request.path}.")

    def _add_fault(self, body: bytes) -> int:
        values = read_object(body)
        words = values.pop("fault", None)
        try:
            fault = make_fault(values) if words is None else parse_fault(str(words), **values)
            return self._gateway.faults.add(fault)
        except (ValueError, TypeError) as error:
            raise RefusalError(400, str(error)) from error

    def _remove_fault(self, number: str) -> Answer:
        if not number:
            self._gateway.faults.clear()
        elif not number.isdecimal() or not self._gateway.faults.remove(int(number)):
            raise RefusalError(404, f"There is no fault {number!r}.")
        return write_json(self._gateway.faults.describe())


def list_charges(gateway: Gateway) -> dict[str, Any]:
    """Return how often each prompt was charged, every charge and their sum, ready for JSON.

    Args:
        gateway: The gateway.
    """
    charges = gateway.store.charges()
    return {
        "charges": gateway.store.count_charges(),
        "list": [dataclasses.asdict(charge) for charge in charges],
        "total_cost": round(sum(charge.amount for charge in charges), 4),
    }


def list_jobs(gateway: Gateway) -> list[dict[str, Any]]:
    """Return the newest jobs as the gallery shows them, ready for JSON.

    Args:
        gateway: The gateway.
    """
    return [_describe(gateway, job) for job in gateway.store.list_jobs(_LISTED)]


def reset(gateway: Gateway) -> dict[str, bool]:
    """Forget jobs, charges, uploads, requests and faults, end what is held, and say so.

    Args:
        gateway: The gateway.
    """
    gateway.store.reset()
    gateway.faults.clear()
    gateway.limits.restart([])
    gateway.log.clear()
    gateway.jobs.interrupt()
    gateway.holds.interrupt()
    return {"reset": True}


def _describe(gateway: Gateway, job: StoredJob) -> dict[str, Any]:
    now = time.time()
    state = "lost" if job.lost else job.state(now)
    videos = gateway.store.videos_of(job.number)
    return {
        "number": job.number,
        "task_id": job.task_id,
        "kind": job.kind,
        "model": job.model,
        "prompt": job.prompt,
        "parent": job.parent,
        "state": "expired" if job.expired and state == "completed" else state,
        "reason": job.reason if state == "failed" else None,
        "charged": job.charged,
        "cost": job.cost if job.charged else 0.0,
        "created": job.created,
        "sample": job.number == 0,
        "videos": [
            {
                "url": gateway.url_of(video.file),
                "video_id": video.video_id,
                "poster": f"{PREFIX}posters/{video.video_id}.jpg",
            }
            for video in videos
        ],
    }
