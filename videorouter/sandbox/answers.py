"""The gateway's words: finished lists, tasks, task states, errors, and the answers that a fault puts in their place.

This file makes bytes out of values; it never performs I/O.
"""

from __future__ import annotations

import json
import time
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

from videorouter.sandbox.delivery import Answer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from videorouter.sandbox.faults import Fault
    from videorouter.sandbox.store import StoredAsset, StoredJob

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "insufficient_credits",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
}
POLICY = "content_policy_violation"
POLICY_WORDS = "The prompt was refused by the content policy of the provider."
_NO_CREDIT: dict[int, tuple[str, int | str]] = {
    402: ("Insufficient credits: top up the account.", 402),
    403: (
        "Your current credits have been used up and we are unable to process further requests. Top up to go on.",
        "insufficient_user_quota",
    ),
    429: ("Free model requires Team balance greater than $4.999999.", 429),
}
_PAGE = "<!DOCTYPE html><html><head><title>{0}</title></head><body><h1>{0}</h1><hr>sandbox</body></html>"
_GONE = '<?xml version="1.0" encoding="UTF-8"?><Error><Code>NoSuchKey</Code><Message>The file has expired.</Message></Error>'


class RefusalError(Exception):
    """The gateway says no.

    Args:
        status: HTTP status.
        message: What is wrong and what to do.
        param: The field that is wrong.
        kind: The error's type, the usual one of the status when not given.
        code: The error's code, the status when not given.
        retry_after: Seconds for ``Retry-After``.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str = "",
        kind: str | None = None,
        code: int | str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.kind: str = kind or TYPES.get(status, "server_error")
        self.code = code
        self.retry_after = retry_after


def write_json(value: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """Return an answer with a JSON body.

    Args:
        value: What to write.
        status: HTTP status.
        headers: Further headers.
    """
    body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    return Answer(status=status, body=body, headers=headers or {})


def write_error(
    status: int,
    message: str,
    *,
    request_id: str,
    kind: str | None = None,
    param: str = "",
    code: int | str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """Return an error in the gateway's shape.

    Args:
        status: HTTP status.
        message: What is wrong.
        request_id: The id that the answer's header carries, too.
        kind: The error's type.
        param: The field that is wrong.
        code: The error's code, the status when not given.
        headers: Further headers.
    """
    error = {
        "message": f"{message} (request id: {request_id})",
        "type": kind or TYPES.get(status, "server_error"),
        "param": param,
        "code": status if code is None else code,
    }
    return write_json({"error": error}, status=status, headers=headers)


def refuse_credit(status: int) -> RefusalError:
    """Return what the gateway says when the account is out of credit, as the live one was seen to say it.

    Args:
        status: 403, 429 or 402.
    """
    words, code = _NO_CREDIT[status]
    return RefusalError(status, words, code=code)


def write_refusal(error: RefusalError, request_id: str) -> Answer:
    """Return the answer that says a refusal.

    Args:
        error: The refusal.
        request_id: The id of the answer.
    """
    headers = {} if error.retry_after is None else {"Retry-After": _write_seconds(error.retry_after)}
    return write_error(
        error.status,
        error.message,
        request_id=request_id,
        kind=error.kind,
        param=error.param,
        code=error.code,
        headers=headers,
    )


def write_finished(job: StoredJob, videos: list[tuple[str, str]]) -> Answer:
    """Return the specification's answer of a finished POST.

    Args:
        job: The job.
        videos: URL and id of each video.
    """
    data = [{"url": url, "revised_prompt": "", "video_id": video_id} for url, video_id in videos]
    return write_json({"data": data, "created": int(job.created)})


def write_task(
    job: StoredJob, *, state: str, query: str, videos: list[tuple[str, str]], fault: Fault | None = None
) -> Answer:
    """Return a task, as its POST and every look at it show it.

    Args:
        job: The job.
        state: ``created``, ``running``, ``completed`` or ``failed``.
        query: URL to look at it again.
        videos: URL and id of each video.
        fault: A fault that calls the state by another word.
    """
    renames = fault is not None and (fault.kind == "task_word" or state == "failed")
    data: dict[str, Any] = {
        "task_id": job.task_id,
        "object": "video",
        "model": job.model,
        "status": (fault.word if fault is not None and renames else None) or state,
        "urls": {"query": query},
    }
    if state == "completed":
        data["urls"]["video"] = videos[0][0]
        data["outputs"] = [url for url, _ in videos]
        data["video_id"] = videos[0][1]
        data["video_ids"] = [video_id for _, video_id in videos]
        data["cost"] = {"total_cost": job.cost if job.charged else 0.0}
    elif state == "failed":
        data["fail_reason"] = job.reason or "upstream error"
    if fault is not None and fault.url is not None:
        data["urls"]["video"] = fault.url
    return write_json({"code": 200, "message": "success", "data": data})


def write_asset(asset: StoredAsset, *, state: str, url: str) -> Answer:
    """Return an upload and the state of its review.

    Args:
        asset: The upload.
        state: ``Processing``, ``Active``, ``Failed`` or ``Rejected``.
        url: Its public URL.
    """
    data: dict[str, Any] = {
        "id": asset.number,
        "status": state.lower(),
        "upstream_status": state,
        "upstream_asset_uri": asset.uri,
        "gcs_url": url,
    }
    if asset.reason and state in {"Failed", "Rejected"}:
        data["fail_reason"] = asset.reason
    return write_json({"code": 200, "message": "success", "data": data})


def write_fault(fault: Fault, usual: Answer | None, request_id: str) -> Answer:
    """Return what a fault says in place of the usual answer; a fault of the wire leaves it as it is.

    Args:
        fault: The fault.
        usual: The answer that would have been given, when there is one.
        request_id: The id of the answer.
    """
    headers = dict(fault.headers)
    if fault.retry_after is not None:
        date = formatdate(time.time() + fault.retry_after, usegmt=True)
        headers["Retry-After"] = date if fault.retry_after_form == "date" else _write_seconds(fault.retry_after)
        headers.setdefault("Date", formatdate(time.time(), usegmt=True))
    if fault.body is not None:
        return Answer(
            status=fault.status or 200,
            body=fault.body.encode("utf-8", "surrogatepass"),
            content_type=fault.content_type or "application/json",
            headers=headers,
        )
    write = _REFUSALS.get(fault.kind)
    if write is not None:
        return write(fault, request_id, headers)
    if fault.kind == "html":
        status = fault.status or 200
        page = _PAGE.format(fault.message or "Something is being looked at")
        return Answer(status=status, body=page.encode(), content_type="text/html; charset=utf-8", headers=headers)
    if fault.kind == "bad_json":
        cut = usual.body[: len(usual.body) * 2 // 3] if usual else b'{"data":['
        return Answer(body=cut, headers=headers)
    if fault.kind == "empty":
        bodies = {"null": {"data": None, "created": 0}, "missing": {"created": 0}}
        if fault.where == "nothing":
            return Answer(headers=headers)
        return write_json(bodies.get(fault.where, {"data": [], "created": 0}), headers=headers)
    if fault.kind == "expired":
        return Answer(status=fault.status or 404, body=_GONE.encode(), content_type="application/xml", headers=headers)
    if fault.kind == "lost_task":
        return write_error(404, "task not found", request_id=request_id, headers=headers)
    if usual is None:
        return write_error(500, "The sandbox was told to fail.", request_id=request_id, headers=headers)
    return Answer(
        status=usual.status, body=usual.body, content_type=usual.content_type, headers={**usual.headers, **headers}
    )


def _write_status(fault: Fault, request_id: str, headers: dict[str, str]) -> Answer:
    status = fault.status or 500
    words = fault.message or f"The sandbox was told to answer {status}."
    return write_error(status, words, request_id=request_id, kind=fault.type, code=fault.code, headers=headers)


def _write_no_credit(fault: Fault, request_id: str, headers: dict[str, str]) -> Answer:
    status = fault.status or 403
    words, usual = _NO_CREDIT[status]
    code = usual if fault.code is None else fault.code
    return write_error(
        status, fault.message or words, request_id=request_id, kind=fault.type, code=code, headers=headers
    )


def _write_rate_limit(fault: Fault, request_id: str, headers: dict[str, str]) -> Answer:
    seconds = 6.0 if fault.seconds is None else fault.seconds
    words = f"Rate limit exceeded (5 requests per minute). Please try again after {seconds:g} seconds."
    return write_error(
        429, fault.message or words, request_id=request_id, kind=fault.type, code=fault.code, headers=headers
    )


def _write_moderation(fault: Fault, request_id: str, headers: dict[str, str]) -> Answer:
    words = fault.message or POLICY_WORDS
    if fault.where == "200" and fault.error == "code":
        return write_json({"code": 422, "message": f"{POLICY}: {words}", "data": None}, headers=headers)
    status = int(fault.where) if fault.where in {"200", "403"} else 422
    kind = fault.type or POLICY
    return write_error(status, words, request_id=request_id, kind=kind, code=fault.code, headers=headers)


def _write_error_200(fault: Fault, request_id: str, headers: dict[str, str]) -> Answer:
    words = fault.message or "model is required"
    code = 400 if fault.code is None else fault.code
    if fault.error == "object":
        return write_error(200, words, request_id=request_id, kind=fault.type, code=code, headers=headers)
    return write_json({"code": code, "data": None, "message": words}, headers=headers)


_REFUSALS: dict[str, Callable[[Fault, str, dict[str, str]], Answer]] = {
    "status": _write_status,
    "moderation": _write_moderation,
    "no_credit": _write_no_credit,
    "rate_limit": _write_rate_limit,
    "error_200": _write_error_200,
}


def _write_seconds(seconds: float) -> str:
    return str(int(seconds)) if seconds == int(seconds) else f"{seconds:g}"
