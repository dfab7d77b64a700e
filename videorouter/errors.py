"""The error tree. Every failure of this package is one of these, and each can be pickled and copied.

::

    VideoRouterError
      ConfigurationError (ValueError)      a bad key, base URL or option; nothing was sent
      InvalidRequestError (ValueError)     a bad argument of a call; nothing was sent
      ClientClosedError                    the client was closed before the call was sent
      APIConnectionError                   no connection, or a read that was cut off; nothing was bought
      DeadlineExceededError (TimeoutError) the deadline passed before anything was sent
      OutcomeUnknownError                  the request left, its answer is missing: it may have been billed
      APIStatusError                       the gateway refused: nothing was bought
        BadRequestError 400                AuthenticationError 401       InsufficientCreditsError 402
        PermissionDeniedError 403          NotFoundError 404             UnprocessableEntityError 422
        ContentPolicyError                 RateLimitError 429            InternalServerError (reads only)
      UnexpectedResponseError              the answer to a read makes no sense
      TaskFailedError                      the gateway says that the task failed
      TaskPollError                        a task's state cannot be read any more; it stays accepted
      TaskTimeoutError (TimeoutError)      the deadline passed while an accepted task was still running
      DownloadError                        a file could not be fetched whole
      BudgetExceededError                  the money cap of a batch would be exceeded
      QueueFullError                       as many jobs wait as the queue may hold; nothing was put
      JournalError                         the journal could not be read or written
        JournalBusyError                   another process holds the journal
        JournalMismatchError               the journal holds the same with another request

``OutcomeUnknownError`` is deliberately no ``TimeoutError``, ``ConnectionError`` or ``OSError``: a blanket retry
decorator that catches those must not buy the same video twice.

This file never performs I/O and never formats a secret: callers hand it text that is already redacted.
"""

from __future__ import annotations

import enum
from typing import Any, ClassVar


class Phase(enum.StrEnum):
    """How far one attempt got. ``UNKNOWN`` counts as in doubt."""

    QUEUED = "QUEUED"
    CONNECTING = "CONNECTING"
    SENDING = "SENDING"
    SENT = "SENT"
    ANSWERED = "ANSWERED"
    COMPLETE = "COMPLETE"
    UNKNOWN = "UNKNOWN"


class VideoRouterError(Exception):
    """The root of every error that this package raises.

    Args:
        message: What happened, the likely cause and what to do next.
        facts: Any of the attributes below, by name. What is not given is ``None``.

    Attributes:
        in_doubt: Whether a request may have been accepted and billed without a known result.
        phase: How far the last attempt got.
        attempts: How many times the request was put on the wire or tried to be.
        status: The HTTP status of the last answer.
        code: The gateway's own error code, as it was sent.
        type: The gateway's own error type, as it was sent.
        param: The request field that the gateway complains of.
        request_id: The gateway's id of the request, for its support.
        cf_ray: Cloudflare's id of the request.
        task_id: The id of an accepted task. ``router.wait(error)`` collects it without paying again.
        poll_url: Where the state of that task is read.
        model: The model that was asked for.
        retry_after: Seconds that the gateway asked to wait.
        idempotency_key: The key that was sent with every attempt.
        elapsed: Seconds since the call began.
        host: ``host:port`` of the last attempt.
        body: A bounded, redacted piece of the answer.
        headers: The answer's header fields, without secrets.
        budget_exhausted: Whether the client's retry budget was empty.
        result_url: An address in the answer that could not be used.
        path: A file that the error speaks of.
    """

    FACTS: ClassVar[tuple[str, ...]] = (
        "in_doubt",
        "phase",
        "attempts",
        "status",
        "code",
        "type",
        "param",
        "request_id",
        "cf_ray",
        "task_id",
        "poll_url",
        "model",
        "retry_after",
        "idempotency_key",
        "elapsed",
        "host",
        "body",
        "headers",
        "budget_exhausted",
        "result_url",
        "path",
    )

    in_doubt: bool = False
    phase: Phase | None = None
    attempts: int = 0
    status: int | None = None
    code: int | str | None = None
    type: str | None = None
    param: str | None = None
    request_id: str | None = None
    cf_ray: str | None = None
    task_id: str | None = None
    poll_url: str | None = None
    model: str | None = None
    retry_after: float | None = None
    idempotency_key: str | None = None
    elapsed: float | None = None
    host: str | None = None
    body: str | None = None
    headers: tuple[tuple[str, str], ...] | None = None
    budget_exhausted: bool = False
    result_url: str | None = None
    path: str | None = None

    def __init__(self, message: str = "", **facts: Any) -> None:
        super().__init__(message)
        unknown = facts.keys() - set(self.FACTS)
        if unknown:
            msg = f"unknown facts: {', '.join(sorted(unknown))}"
            raise TypeError(msg)
        self.__dict__.update(facts)

    @property
    def message(self) -> str:
        """The text of the error."""
        return str(self.args[0])

    @property
    def facts(self) -> dict[str, Any]:
        """The facts that differ from their defaults, by name."""
        return {name: self.__dict__[name] for name in self.FACTS if name in self.__dict__}

    def add(self, **facts: Any) -> None:
        """Fill in facts that are known later; one that is already there stays."""
        for name, value in facts.items():
            if value is not None and name not in self.__dict__:
                self.__dict__[name] = value

    def __eq__(self, other: object) -> bool:
        """Equal when the class, the message and all facts are equal."""
        if type(self) is not type(other) or not isinstance(other, VideoRouterError):
            return NotImplemented
        return self.args == other.args and self.facts == other.facts

    def __hash__(self) -> int:
        return hash((type(self), self.args))  # without the facts, which may still be added

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: object) -> dict[str, Any]:
        """What pydantic does with an error as an argument or a field: it takes one, as it is."""
        return {"type": "is-instance", "cls": cls}

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.__class__, self.args[0], dict(self.__dict__))


def _rebuild(cls: type[VideoRouterError], message: str, state: dict[str, Any]) -> VideoRouterError:
    error = cls(message)
    error.__dict__.update(state)
    return error


class ConfigurationError(VideoRouterError, ValueError):
    """A key, base URL or option cannot be used; nothing was sent."""


class InvalidRequestError(VideoRouterError, ValueError):
    """An argument of a call cannot be used; nothing was sent."""


class ClientClosedError(VideoRouterError):
    """The client was closed, or is draining; nothing was sent."""


class APIConnectionError(VideoRouterError):
    """No connection could be made, or a read was cut off; nothing was bought. Of a paid request nothing was sent."""


class DeadlineExceededError(VideoRouterError, TimeoutError):
    """The deadline passed before anything was sent, so nothing was bought."""


class OutcomeUnknownError(VideoRouterError):
    """The request left and no usable answer came back: it may have been accepted and billed.

    It is never re-sent silently. Look for the video in the gateway's dashboard with ``request_id`` or
    ``idempotency_key``, or decide by name to send it again.
    """

    in_doubt = True


class APIStatusError(VideoRouterError):
    """The gateway refused the request: nothing was bought."""


class BadRequestError(APIStatusError):
    """400: the gateway does not understand the request."""


class AuthenticationError(APIStatusError):
    """401: the gateway does not accept the API key."""


class InsufficientCreditsError(APIStatusError):
    """The account has no credit left: 402, or a 403 or a 429 that says so."""


class PermissionDeniedError(APIStatusError):
    """403: the account, or this client's agent string, is not let in."""


class NotFoundError(APIStatusError):
    """404: the gateway knows no such path, model, video or task."""


class UnprocessableEntityError(APIStatusError):
    """422: a field of the request has a value that the model does not take."""


class ContentPolicyError(APIStatusError):
    """Moderation refused the prompt, an input or the finished video (403, 422, a code, or a failed task)."""


class RateLimitError(APIStatusError):
    """429: the gateway asks for a slower pace, and the deadline leaves no time to wait for it."""


class InternalServerError(APIStatusError):
    """5xx on a read (models, balance, a download); a POST raises ``OutcomeUnknownError`` instead."""


class UnexpectedResponseError(VideoRouterError):
    """The answer to a read makes no sense."""


class TaskFailedError(VideoRouterError):
    """The gateway says that an accepted task failed."""


class TaskPollError(VideoRouterError):
    """A task's state cannot be read any more. The job stays accepted: wait for it again by its id."""


class TaskTimeoutError(VideoRouterError, TimeoutError):
    """The deadline passed while an accepted task was running. Wait for it again by its id: nothing is paid twice."""


class DownloadError(VideoRouterError):
    """A file could not be fetched whole; no incomplete file stands under the final name."""


class BudgetExceededError(VideoRouterError):
    """The batch's money cap would be exceeded by the next item; it was not sent."""


class QueueFullError(VideoRouterError):
    """As many jobs wait to be sent as the queue may hold. Nothing was put; put it again later."""


class JournalError(VideoRouterError):
    """The journal could not be read or written."""


class JournalBusyError(JournalError):
    """Another process holds the journal."""


class JournalMismatchError(JournalError):
    """The journal holds an item of the same id with another request, or its prompts under other options, models or ids.

    In the second case so much of what it has paid for would be bought again that ``new=True`` must ask for it.
    """


class FieldWarning(UserWarning):
    """A field or a model was seen not to do what this request asks of it. It blocks nothing."""
