"""Lends one verb's parameters to another, at run time and for type checkers.

The borrower's own ``def`` may then be short, while ``inspect.signature``, editors and checkers show every parameter.
This file never calls a verb.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from msgspec import UNSET, UnsetType

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence

    from videorouter.models import Input, Task, Video, VideoResult

P = ParamSpec("P")
S = TypeVar("S")
R = TypeVar("R")


def takes_what(
    lender: Callable[Concatenate[Any, P], object],
) -> Callable[
    [Callable[Concatenate[S, ...], Coroutine[Any, Any, R]]], Callable[Concatenate[S, P], Coroutine[Any, Any, R]]
]:
    """Give a verb that takes ``**options`` the parameters of ``lender``; its result stays its own."""

    def lend(
        borrower: Callable[Concatenate[S, ...], Coroutine[Any, Any, R]],
    ) -> Callable[Concatenate[S, P], Coroutine[Any, Any, R]]:
        dress(borrower, lender, returns=inspect.signature(borrower).return_annotation)
        return borrower

    return lend


def dress(borrower: Callable[..., Any], lender: Callable[..., Any], *, returns: object) -> None:
    """Show ``lender``'s parameters, and ``returns``, on ``borrower``."""
    vars(borrower)["__signature__"] = inspect.signature(lender).replace(return_annotation=returns)
    borrower.__annotations__ = {**lender.__annotations__, "return": returns}


def job(
    self: object,
    /,
    prompt: str,
    *,
    model: str | None = None,
    image_url: Input | None = None,
    start_image_url: Input | None = None,
    end_image_url: Input | None = None,
    image_urls: Sequence[Input] | None = None,
    video_urls: Sequence[Input] | None = None,
    audio_urls: Sequence[Input] | None = None,
    duration: str | float | None = None,
    aspect_ratio: str | None = None,
    resolution: str | None = None,
    generate_audio: bool | None = None,
    seed: int | None = None,
    n: int | None = None,
    output_format: str = "url",
    timeout: float | UnsetType | None = UNSET,
    max_retries: int | None = None,
    extra_headers: Mapping[str, str] | None = None,
    extra_body: Mapping[str, Any] | None = None,
    idempotency_key: str | None = None,
    **fields: Any,
) -> None:
    """Lends what one job takes; ``AsyncVideoRouter.generate`` explains each."""


def edit_job(
    self: object,
    /,
    video: VideoResult | Video | Task | str,
    prompt: str,
    *,
    model: str | None = None,
    image_url: Input | None = None,
    start_image_url: Input | None = None,
    end_image_url: Input | None = None,
    image_urls: Sequence[Input] | None = None,
    video_urls: Sequence[Input] | None = None,
    audio_urls: Sequence[Input] | None = None,
    duration: str | float | None = None,
    aspect_ratio: str | None = None,
    resolution: str | None = None,
    generate_audio: bool | None = None,
    seed: int | None = None,
    n: int | None = None,
    output_format: str = "url",
    timeout: float | UnsetType | None = UNSET,
    max_retries: int | None = None,
    extra_headers: Mapping[str, str] | None = None,
    extra_body: Mapping[str, Any] | None = None,
    idempotency_key: str | None = None,
    **fields: Any,
) -> None:
    """Lends what one edit takes."""
