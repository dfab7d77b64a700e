"""Tries the next model only after a verdict that proves that nothing was charged.

Such a verdict is a refusal by the gateway, or a connection that was never made; a failed task counts only when the
caller allows it, since it may have been billed. A key that is not accepted (401) and an account without credit (402)
end the list at once: the next model would meet the same. Everything in doubt is raised as it is.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec

from videorouter.call.tasks import run_job
from videorouter.errors import (
    APIConnectionError,
    APIStatusError,
    AuthenticationError,
    DeadlineExceededError,
    InsufficientCreditsError,
    InvalidRequestError,
    TaskFailedError,
    VideoRouterError,
)
from videorouter.models import SkippedModel, VideoResult
from videorouter.plain import as_text

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from videorouter.call.caller import Caller
    from videorouter.call.requests import Submission


def check_models(models: object) -> tuple[str, ...]:
    """Check a list of model ids to try in order; raises ``InvalidRequestError``."""
    if isinstance(models, str) or not isinstance(models, list | tuple):
        msg = 'models must be a list of model ids to try in order, such as ["veo3-fast", "sora-2"].'
        raise InvalidRequestError(msg)
    names = tuple(as_text(model) or "" for model in models)
    if not names or not all(name.strip() for name in names):
        msg = "models must name at least one model, each as text."
        raise InvalidRequestError(msg)
    return names


async def run_with_fallback(
    caller: Caller,
    prepare: Callable[[str, float], Awaitable[Submission]],
    models: Sequence[str],
    *,
    timeout: float,
    after_failed_task: bool,
) -> VideoResult:
    """Run a job on the first model that makes it; raises the last model's error, or the first that may have cost money.

    A refusal for pace (429, 503 with Retry-After) is not waited out while another model is left. ``prepare`` builds the
    submission for a model and the seconds that are left of ``timeout``, which is for the whole list.
    """
    deadline = time.monotonic() + timeout
    skipped: list[SkippedModel] = []
    for number, model in enumerate(models, 1):
        last = number == len(models)
        try:
            left = deadline - time.monotonic()
            if left <= 0:
                msg = (
                    f"The deadline passed before {model} could be tried. Nothing was sent to it, so nothing was bought."
                )
                raise DeadlineExceededError(msg, model=model)
            submission = await prepare(model, left)
            if number > 1:  # another request: a gateway that honours keys must not take it for the first one
                key = f"{submission.idempotency_key[:240]}.{number}"
                submission = msgspec.structs.replace(submission, idempotency_key=key, waited=True)
            if not last:
                submission = msgspec.structs.replace(submission, max_retries=0)
            result = await run_job(caller, submission)
        except VideoRouterError as error:
            if last or not _proves_no_charge(error, after_failed_task=after_failed_task):
                _tell(error, skipped)
                raise
            skipped.append(
                SkippedModel(model=model, reason=error.message, error=type(error).__name__, status=error.status)
            )
            continue
        return result.replace(skipped=tuple(skipped)) if skipped else result
    raise InvalidRequestError("models is empty.")  # check_models has refused it before


def _proves_no_charge(error: VideoRouterError, *, after_failed_task: bool) -> bool:
    if error.in_doubt or isinstance(error, AuthenticationError | InsufficientCreditsError | InvalidRequestError):
        return False
    if error.task_id is not None:
        return after_failed_task and isinstance(error, TaskFailedError | APIStatusError)
    return isinstance(error, APIStatusError | APIConnectionError)


def _tell(error: VideoRouterError, skipped: list[SkippedModel]) -> None:
    if skipped:
        tried = "; ".join(f"{one.model}: {one.error}" for one in skipped)
        error.add_note(f"Models tried before, without a charge: {tried}.")
