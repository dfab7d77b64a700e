"""The API itself: who may ask, what is asked, which fault strikes, what is answered.

One order for each request: log, faults of the head, body, key, endpoint. This file never renders a video and never writes to
a socket; ``delivery`` does that.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import itertools
import json
import secrets
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from videorouter.sandbox import uploads
from videorouter.sandbox.answers import (
    POLICY,
    POLICY_WORDS,
    RefusalError,
    refuse_credit,
    write_fault,
    write_finished,
    write_json,
    write_refusal,
    write_task,
)
from videorouter.sandbox.catalogue import draw_latency, list_models, name_family, reckon_price
from videorouter.sandbox.delivery import Answer, Holds, StoppedError, deliver, drop
from videorouter.sandbox.faults import Fault, Faults, describe_fault, parse_fault
from videorouter.sandbox.limits import Limits
from videorouter.sandbox.requests import VideoRequest, read_request

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp import web

    from videorouter.sandbox.records import RequestLog, RequestRecord
    from videorouter.sandbox.settings import Settings
    from videorouter.sandbox.store import Store, StoredJob

BODY_LIMIT = 600 * 1024 * 1024
_JSON_LIMIT = 16 * 1024 * 1024


@dataclass(slots=True, kw_only=True)
class ReceivedCall:
    """One request on its way through the gateway."""

    request: web.BaseRequest
    record: RequestRecord
    body: bytes = b""
    fault: Fault | None = None
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def request_id(self) -> str:
        """The id that the answer carries."""
        return self.record.request_id


class Gateway:
    """The video API of one sandbox.

    Args:
        settings: The options.
        store: What is remembered.
        faults: The rules.
        log: The request log.
        holds: Where faults wait.
    """

    def __init__(self, settings: Settings, store: Store, faults: Faults, log: RequestLog, holds: Holds) -> None:
        self.settings = settings
        self.store = store
        self.faults = faults
        self.log = log
        self.holds = holds
        self.jobs: Holds = Holds(log.look)
        self.limits: Limits = Limits(settings)
        self.limits.restart(store.pending(time.time()))
        self.base_url = ""
        self.files_url = ""
        self._ids = itertools.count(1)
        self._life = secrets.token_hex(4)
        self._endpoints: dict[tuple[str, str], Callable[[ReceivedCall], Awaitable[Answer]]] = {
            ("POST", "/v1/videos/generations"): self._generate,
            ("POST", "/v1/videos/edits"): self._edit,
            ("GET", "/v1/models"): self._models,
            ("GET", "/v1/balance"): self._balance,
            ("POST", "/v1/upload/resources"): self._upload,
        }
        self._families: dict[str, Callable[[ReceivedCall, str], Awaitable[Answer]]] = {
            "/v1/videos/tasks/": self._task,
            "/v1/status/resources/": self._review,
        }

    def url_of(self, file: str) -> str:
        """Return the public URL of a result file, its slash encoded as in life.

        Args:
            file: The file's name.
        """
        return f"{self.files_url}/video/{quote(file, safe='')}"

    def release(self) -> int:
        """Make every unfinished job ready now and return how many there were."""
        count = self.store.finish_all(time.time())
        self.limits.restart([])
        self.jobs.release()
        return count

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request of the API.

        Args:
            request: The request.

        Raises:
            StoppedError: The connection is broken on purpose.
        """
        request_id = f"{self._life}{next(self._ids):012x}"
        record, key = self.log.start(
            "api",
            method=request.method,
            path=request.raw_path,
            headers=request.headers.items(),
            connection=name_connection(request),
            request_id=request_id,
        )
        call = ReceivedCall(request=request, record=record, headers={"x-infron-request-id": request_id})
        try:
            try:
                answer = await self._answer(call, key)
            except RefusalError as error:
                answer = write_refusal(error, request_id)
            answer = Answer(
                status=answer.status,
                body=answer.body,
                content_type=answer.content_type,
                headers={**call.headers, **answer.headers},
            )
            response = await deliver(request, answer, call.fault, self.holds)
            record.status = answer.status
            return response
        finally:
            self.log.finish(record)

    async def _answer(self, call: ReceivedCall, key: str) -> Answer:
        request, path = call.request, call.request.path
        await self._strike_head(call)
        if request.can_read_body:
            call.body = await read_body(request, BODY_LIMIT if path == "/v1/upload/resources" else _JSON_LIMIT)
            self.log.note_body(call.record, call.body, key)
        self._check_key(call.record.authorization, key)
        endpoint = self._endpoints.get((request.method, path))
        if endpoint is not None:
            return await endpoint(call)
        for prefix, family in self._families.items():
            if path.startswith(prefix) and request.method == "GET":
                return await family(call, unquote(request.raw_path.partition("?")[0][len(prefix) :]))
        if any(path == known for _, known in self._endpoints) or any(path.startswith(item) for item in self._families):
            raise RefusalError(405, f"{request.method} is not allowed here.")
        raise RefusalError(404, f"There is no {request.method} {path}: the API is below /v1.")

    async def _strike_head(self, call: ReceivedCall) -> None:
        request = call.request
        fault = read_header_fault(request)
        if fault is not None:
            call.fault = fault
            call.record.fault = say_fault(fault)
            if fault.place != "head":
                return
        elif self.faults.at_head:
            fault = self.faults.pick("head", method=request.method, path=request.path)
        if fault is None:
            return
        call.fault = fault
        call.record.fault = say_fault(fault)
        await self.holds.wait(fault.delay)
        if fault.kind == "stall":
            await self.holds.wait(fault.seconds)
            call.fault = None
            return
        drop(request.transport, reset=fault.kind == "reset")
        raise StoppedError

    def _pick(self, call: ReceivedCall, prompt: str | None = None, model: str | None = None) -> Fault | None:
        if call.fault is None:
            call.fault = self.faults.pick(
                "call", method=call.request.method, path=call.request.path, prompt=prompt, model=model
            )
            if call.fault is not None:
                call.record.fault = say_fault(call.fault)
        return call.fault

    async def _read(self, call: ReceivedCall, usual: Answer) -> Answer:
        """Return the answer to a request that costs nothing, or what a fault makes of it."""
        fault = self._pick(call)
        if fault is None:
            return usual
        await self.holds.wait(fault.delay)
        return write_fault(fault, usual, call.request_id)

    def _check_key(self, form: str | None, key: str) -> None:
        wanted, auth = self.settings.api_key, self.settings.auth
        if form is None or not key:
            raise RefusalError(401, "No API key: send it in the Authorization header.")
        if auth not in {"any", form}:
            raise RefusalError(401, f"Invalid API key: it came {form}, it must come {auth}.")
        if key[:7].lower() == "bearer ":
            raise RefusalError(401, "Invalid API key: 'Bearer' was sent twice.")
        if wanted is not None and not hmac.compare_digest(key.encode(), wanted.encode()):
            raise RefusalError(401, f"Invalid API key (sent {form}).")

    async def _generate(self, call: ReceivedCall) -> Answer:
        return await self._make(call, "generation")

    async def _edit(self, call: ReceivedCall) -> Answer:
        return await self._make(call, "edit")

    async def _make(self, call: ReceivedCall, kind: str) -> Answer:
        request = read_request(call.body, kind=kind, strict=self.settings.strict_models)
        self._check_parent(request)
        uploads.check_pictures(self.store, request.body)
        digest = hashlib.blake2b(call.body, digest_size=16).digest()
        known = self._find_replay(call.record.idempotency_key, digest)
        if known is not None:
            call.record.task_id = known.task_id
            return await self._present(known)
        self.limits.admit(time.time())
        fault = self._pick(call, request.prompt, request.model)
        if fault is None:
            return await self._present(self._accept(call, request, digest))
        await self.holds.wait(fault.delay)
        if _fails_later(fault):
            return await self._present(self._accept(call, request, digest), fault)
        if not fault.is_charged:
            return write_fault(fault, None, call.request_id)
        job = self._accept(call, request, digest)
        if fault.kind == "stall" and fault.place == "body":
            await self.holds.wait(fault.seconds)
            call.fault = None
            return await self._present(job)
        if fault.kind in _ANSWERED_AT_ONCE or fault.place == "body":
            return write_fault(fault, None, call.request_id)
        return write_fault(fault, await self._present(job, fault), call.request_id)

    def _check_parent(self, request: VideoRequest) -> None:
        if request.video_id is None:
            return
        video = self.store.find_video(video_id=request.video_id)
        parent = None if video is None else self.store.job_of_number(video.number)
        if parent is None or parent.lost or parent.state(time.time()) == "failed":
            raise RefusalError(
                404,
                f"video_id {request.video_id!r} is not known: only videos that this gateway generated can be edited.",
                param="video_id",
            )
        if parent.family != name_family(request.model):
            raise RefusalError(
                422,
                f"video_id {request.video_id!r} was made by {parent.model!r}; the model {request.model!r} edits only videos of "
                f"its own family ({name_family(request.model)}).",
                param="video_id",
            )

    def _find_replay(self, key: str | None, digest: bytes) -> StoredJob | None:
        if key is None or not self.settings.honour_idempotency:
            return None
        known = self.store.job_of_key(key)
        if known is not None and known.digest != digest:
            raise RefusalError(
                422,
                "This Idempotency-Key came with another request before.",
                param="Idempotency-Key",
                kind="idempotency_error",
            )
        return known

    def _accept(self, call: ReceivedCall, request: VideoRequest, digest: bytes) -> StoredJob:
        """Make the job: from here on it is bought, unless its fault says that it is free."""
        settings, fault, now = self.settings, call.fault, time.time()
        cost = reckon_price(request.model, request.seconds, request.takes)
        charged = fault is None or fault.is_charged
        if charged and settings.balance is not None and cost > float(self.store.get("balance")):
            raise refuse_credit(settings.no_credit_status)
        token = f"{settings.seed}|{digest.hex()}"
        ready = now + draw_latency(settings.profile, request.model, settings.latency, settings.speed, token)
        outcome, reason = _foresee(fault)
        job = self.store.add_job(
            request_id=call.request_id,
            kind=request.kind,
            model=request.model,
            family=name_family(request.model),
            prompt=request.prompt,
            body=json.dumps(_apply_to_request(request.body, fault), ensure_ascii=False),
            parent=request.video_id,
            takes=request.takes,
            created=now,
            ready=ready,
            cost=cost,
            charged=charged,
            outcome=outcome,
            reason=reason,
            lost=fault is not None and fault.kind == "lost_task",
            expired=fault is not None and fault.kind == "expired",
            idempotency_key=call.record.idempotency_key,
            digest=digest,
            form=self._choose_form(request.model),
        )
        self.limits.note(ready)
        call.record.charged = charged
        call.record.task_id = job.task_id
        return job

    def _choose_form(self, model: str) -> str:
        if self.settings.mode == "mixed":
            return "task" if "/" in model else "held"
        return self.settings.mode

    async def _present(self, job: StoredJob, fault: Fault | None = None) -> Answer:
        """Return the answer to the POST that made a job; a held one comes when the job is over."""
        if job.form == "task":
            return self._show(job, job.state(time.time()) if job.created < time.time() - 1 else "created", fault)
        if job.ready > time.time():
            await self.jobs.wait(job.ready - time.time())
        if job.form == "final":
            return self._show(job, job.outcome, fault)
        if job.lost:
            raise RefusalError(504, "The upstream provider lost the job.")
        if job.outcome == "failed":
            if (job.reason or "").startswith(POLICY):
                raise RefusalError(422, POLICY_WORDS, kind=POLICY)
            raise RefusalError(500, job.reason or "upstream error", kind="upstream_error")
        return write_finished(job, self._list_results(job))

    def _list_results(self, job: StoredJob) -> list[tuple[str, str]]:
        return [(self.url_of(video.file), video.video_id) for video in self.store.videos_of(job.number)]

    def _show(self, job: StoredJob, state: str, fault: Fault | None = None) -> Answer:
        videos = self._list_results(job) if state == "completed" else []
        query = f"{self.base_url}/videos/tasks/{job.task_id}"
        return write_task(job, state=state, query=query, videos=videos, fault=fault)

    async def _task(self, call: ReceivedCall, task_id: str) -> Answer:
        job = self.store.job_of_task(task_id)
        if job is None or job.lost:
            self._pick(call)
            raise RefusalError(404, f"The task {task_id!r} is not known.")
        fault = self._pick(call, job.prompt, job.model)
        if fault is None:
            return self._show(job, job.state(time.time()))
        await self.holds.wait(fault.delay)
        if _fails_later(fault) and fault.kind != "lost_task":
            _, reason = _foresee(fault)
            return self._show(dataclasses.replace(job, reason=reason), "failed", fault)
        return write_fault(fault, self._show(job, job.state(time.time()), fault), call.request_id)

    async def _models(self, call: ReceivedCall) -> Answer:
        return await self._read(call, write_json({"data": list_models(), "success": True}))

    async def _balance(self, call: ReceivedCall) -> Answer:
        left = float(self.store.get("balance"))
        if self.settings.balance is None:
            left = left % 1000.0 or 1000.0
        return await self._read(call, write_json({"account_name": "sandbox", "credit_balance": round(left, 4)}))

    async def _upload(self, call: ReceivedCall) -> Answer:
        upload = await uploads.read_upload(call.request, call.body, self.store, self.files_url)
        fault = self._pick(call, None, upload.model)
        if fault is not None:
            await self.holds.wait(fault.delay)
            if not fault.is_charged and fault.kind not in uploads.REVIEWS:
                return write_fault(fault, None, call.request_id)
        answer = uploads.accept_upload(upload, self.store, self.settings, fault, self.files_url)
        return answer if fault is None else write_fault(fault, answer, call.request_id)

    async def _review(self, call: ReceivedCall, number: str) -> Answer:
        answer = uploads.show_review(number, self.store, self.files_url)
        return await self._read(call, answer)


_ANSWERED_AT_ONCE = {"status", "html", "empty", "error_200", "moderation", "no_credit", "rate_limit"}


def _fails_later(fault: Fault) -> bool:
    return fault.kind in {"failed_task", "lost_task", "expired"} or (
        fault.kind == "moderation" and fault.where == "task"
    )


def _apply_to_request(body: dict[str, Any], fault: Fault | None) -> dict[str, Any]:
    """The request by which the video is made: not the one that came, where a fault says so."""
    if fault is None:
        return body
    if fault.kind == "wrong_seconds":
        return {**body, "duration": f"{4 if fault.seconds is None else fault.seconds:g}s"}
    if fault.kind == "wrong_ratio":
        return {**body, "aspect_ratio": fault.ratio or "1:1"}
    if fault.kind == "no_sound":
        return {**body, "generate_audio": False}
    return body


def _foresee(fault: Fault | None) -> tuple[str, str | None]:
    if fault is not None and fault.kind == "failed_task":
        return "failed", fault.reason or "upstream error"
    if fault is not None and fault.kind == "moderation" and fault.where == "task":
        return "failed", f"{POLICY}: {fault.reason or fault.message or POLICY_WORDS}"
    return "completed", None


def say_fault(fault: Fault) -> str:
    """Return a fault in the words that would make it again.

    Args:
        fault: The fault.
    """
    values = describe_fault(fault)
    return "; ".join([values.pop("kind"), *(f"{name}={value}" for name, value in values.items())])


def read_header_fault(request: web.BaseRequest) -> Fault | None:
    """Return the fault that a request brings along in its ``X-Sandbox-Fault`` header.

    Args:
        request: The request.

    Raises:
        RefusalError: The header makes no sense.
    """
    words = request.headers.get("X-Sandbox-Fault")
    if words is None:
        return None
    try:
        fault = parse_fault(words)
    except (ValueError, TypeError) as error:
        raise RefusalError(400, f"X-Sandbox-Fault: {error}") from error
    if fault.place in {"connect", "request"}:
        raise RefusalError(400, f"X-Sandbox-Fault cannot strike at {fault.place!r}: add a rule for that.")
    return fault


def name_connection(request: web.BaseRequest) -> int:
    """Return the client's port, which tells one connection from another.

    Args:
        request: The request.
    """
    peer = None if request.transport is None else request.transport.get_extra_info("peername")
    return int(peer[1]) if peer else 0


async def read_body(request: web.BaseRequest, limit: int) -> bytes:
    """Return a request's body.

    Args:
        request: The request.
        limit: Bytes it may have.

    Raises:
        RefusalError: It has more.
    """
    pieces, size = [], 0
    if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    async for piece in request.content.iter_any():
        size += len(piece)
        if size > limit:
            raise RefusalError(413, f"The body is larger than {limit} bytes.")
        pieces.append(piece)
    return b"".join(pieces)
