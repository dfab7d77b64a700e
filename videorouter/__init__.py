"""An asyncio client for paid AI video that never pays twice and never loses a result.

``AsyncVideoRouter`` is the client, ``VideoRouter`` the same without ``await``. Every name here is loaded when it is
first used, so ``import videorouter`` costs next to nothing.
"""

from __future__ import annotations

from videorouter._version import __version__ as __version__

# Type checkers read it as True. `typing` would be half of this import's time, and jedi skips what stands below a False.
TYPE_CHECKING = bool()  # noqa: UP018  see above
if TYPE_CHECKING:
    from videorouter.client import AsyncVideoRouter as AsyncVideoRouter
    from videorouter.errors import (
        APIConnectionError as APIConnectionError,
        APIStatusError as APIStatusError,
        AuthenticationError as AuthenticationError,
        BadRequestError as BadRequestError,
        BudgetExceededError as BudgetExceededError,
        ClientClosedError as ClientClosedError,
        ConfigurationError as ConfigurationError,
        ContentPolicyError as ContentPolicyError,
        DeadlineExceededError as DeadlineExceededError,
        DownloadError as DownloadError,
        FieldWarning as FieldWarning,
        InsufficientCreditsError as InsufficientCreditsError,
        InternalServerError as InternalServerError,
        InvalidRequestError as InvalidRequestError,
        JournalBusyError as JournalBusyError,
        JournalError as JournalError,
        JournalMismatchError as JournalMismatchError,
        NotFoundError as NotFoundError,
        OutcomeUnknownError as OutcomeUnknownError,
        PermissionDeniedError as PermissionDeniedError,
        Phase as Phase,
        QueueFullError as QueueFullError,
        RateLimitError as RateLimitError,
        TaskFailedError as TaskFailedError,
        TaskPollError as TaskPollError,
        TaskTimeoutError as TaskTimeoutError,
        UnexpectedResponseError as UnexpectedResponseError,
        UnprocessableEntityError as UnprocessableEntityError,
        VideoRouterError as VideoRouterError,
    )
    from videorouter.models import (
        Asset as Asset,
        Balance as Balance,
        BatchItem as BatchItem,
        BatchSummary as BatchSummary,
        Download as Download,
        DrainReport as DrainReport,
        InDoubt as InDoubt,
        Media as Media,
        Mismatch as Mismatch,
        Model as Model,
        SkippedModel as SkippedModel,
        Stats as Stats,
        Task as Task,
        TaskStatus as TaskStatus,
        Video as Video,
        VideoResult as VideoResult,
    )
    from videorouter.sync import VideoRouter as VideoRouter

_MODULES = {
    "client": ("AsyncVideoRouter",),
    "sync": ("VideoRouter",),
    "errors": (
        "APIConnectionError",
        "APIStatusError",
        "AuthenticationError",
        "BadRequestError",
        "BudgetExceededError",
        "ClientClosedError",
        "ConfigurationError",
        "ContentPolicyError",
        "DeadlineExceededError",
        "DownloadError",
        "FieldWarning",
        "InsufficientCreditsError",
        "InternalServerError",
        "InvalidRequestError",
        "JournalBusyError",
        "JournalError",
        "JournalMismatchError",
        "NotFoundError",
        "OutcomeUnknownError",
        "PermissionDeniedError",
        "Phase",
        "QueueFullError",
        "RateLimitError",
        "TaskFailedError",
        "TaskPollError",
        "TaskTimeoutError",
        "UnexpectedResponseError",
        "UnprocessableEntityError",
        "VideoRouterError",
    ),
    "models": (
        "Asset",
        "Balance",
        "BatchItem",
        "BatchSummary",
        "Download",
        "DrainReport",
        "InDoubt",
        "Media",
        "Mismatch",
        "Model",
        "SkippedModel",
        "Stats",
        "Task",
        "TaskStatus",
        "Video",
        "VideoResult",
    ),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "APIConnectionError",
    "APIStatusError",
    "Asset",
    "AsyncVideoRouter",
    "AuthenticationError",
    "BadRequestError",
    "Balance",
    "BatchItem",
    "BatchSummary",
    "BudgetExceededError",
    "ClientClosedError",
    "ConfigurationError",
    "ContentPolicyError",
    "DeadlineExceededError",
    "Download",
    "DownloadError",
    "DrainReport",
    "FieldWarning",
    "InDoubt",
    "InsufficientCreditsError",
    "InternalServerError",
    "InvalidRequestError",
    "JournalBusyError",
    "JournalError",
    "JournalMismatchError",
    "Media",
    "Mismatch",
    "Model",
    "NotFoundError",
    "OutcomeUnknownError",
    "PermissionDeniedError",
    "Phase",
    "QueueFullError",
    "RateLimitError",
    "SkippedModel",
    "Stats",
    "Task",
    "TaskFailedError",
    "TaskPollError",
    "TaskStatus",
    "TaskTimeoutError",
    "UnexpectedResponseError",
    "UnprocessableEntityError",
    "Video",
    "VideoResult",
    "VideoRouter",
    "VideoRouterError",
    "__version__",
]


def __getattr__(name: str) -> object:
    module = _MODULE_OF.get(name)
    if module is None:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    from importlib import import_module  # noqa: PLC0415  nothing is imported before it is used

    value: object = getattr(import_module(f"{__name__}.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
