"""What a sandbox can be told when it is made, checked once.

This file holds plain values; it never performs I/O and loads nothing but the standard library.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypedDict

Mode = Literal["held", "task", "mixed", "final"]
Profile = Literal["instant", "quick", "realistic"]
Auth = Literal["any", "bare", "bearer"]

MODES = ("held", "task", "mixed", "final")
PROFILES = ("instant", "quick", "realistic")
AUTHS = ("any", "bare", "bearer")
LOOPBACK = ("127.0.0.1", "::1", "localhost")


class Options(TypedDict, total=False):
    """The keyword arguments of ``Sandbox``; ``Settings`` says what each one means."""

    mode: Mode
    profile: Profile
    seed: int
    speed: float
    latency: float | tuple[float, float] | None
    review: float | None
    host: str
    allowed_hosts: Collection[str]
    port: int
    files_port: int
    state: str | Path | None
    api_key: str | None
    auth: Auth
    max_concurrency: int | None
    rate: float | None
    limit_status: int
    limit_retry_after: float | None
    honour_idempotency: bool
    balance: float | None
    no_credit_status: int
    strict_models: bool
    size: tuple[int, int]
    seconds: float
    min_file_bytes: int
    url_ttl: float | None
    log_limit: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """The options of one sandbox.

    Args:
        mode: How a POST is answered: ``held`` until the video is ready, ``task`` at once with a task id, ``mixed``
            (a model id with a slash gets a task, any other is held), ``final`` (a task that is already finished).
        profile: How long a video takes: ``instant``, ``quick`` (fractions of a second), ``realistic`` (by model,
            two to four minutes).
        seed: Seeds the latencies and the dice of the faults.
        speed: Divides every latency: 10 makes four minutes 24 seconds.
        latency: Seconds instead of the profile's, or a pair to draw between; ``math.inf`` holds until ``release()``.
        review: Seconds that the review of an upload takes, instead of the profile's.
        host: A loopback address.
        allowed_hosts: Names, beside those of loopback, by which it may be asked, and whose pages may ask it: where a
            proxy or a forwarded port leads to it. Everybody else gets 403, so that no web page reaches it.
        port: Port of the API and the gallery; 0 takes a free one.
        files_port: Port of the result files; 0 takes a free one.
        state: File to keep everything in; ``None`` keeps it in memory.
        api_key: The one key that is accepted; ``None`` accepts any.
        auth: The form in which the key must come: ``any``, ``bare`` or ``bearer``.
        max_concurrency: Unfinished jobs at which another one is refused.
        rate: Accepted jobs a second above which one is refused.
        limit_status: Status of those refusals, 429 or 503.
        limit_retry_after: Seconds in their ``Retry-After``; ``None`` computes it.
        honour_idempotency: Whether a repeated ``Idempotency-Key`` gets the first job's answer instead of a new charge.
        balance: US dollars to start with; a job beyond them is refused as out of credit. ``None`` starts at 1,000 and
            never refuses.
        no_credit_status: Status of that refusal: 403, as the live gateway says it, 429 or 402.
        strict_models: Whether a model id that the catalogue lacks is refused.
        size: Width and height of a video whose request names neither resolution nor aspect ratio, in pixels.
        seconds: Length of a video whose request names no duration.
        min_file_bytes: Result files are padded to this size, for tests of long downloads.
        url_ttl: Seconds after which a result file is gone; ``None`` keeps it.
        log_limit: Requests that the log keeps.

    Raises:
        ValueError: An option makes no sense.
    """

    mode: Mode = "held"
    profile: Profile = "instant"
    seed: int = 0
    speed: float = 1.0
    latency: float | tuple[float, float] | None = None
    review: float | None = None
    host: str = "127.0.0.1"
    allowed_hosts: Collection[str] = ()
    port: int = 0
    files_port: int = 0
    state: str | Path | None = None
    api_key: str | None = None
    auth: Auth = "any"
    max_concurrency: int | None = None
    rate: float | None = None
    limit_status: int = 429
    limit_retry_after: float | None = None
    honour_idempotency: bool = False
    balance: float | None = None
    no_credit_status: int = 403
    strict_models: bool = False
    size: tuple[int, int] = (640, 360)
    seconds: float = 2.0
    min_file_bytes: int = 0
    url_ttl: float | None = None
    log_limit: int = 10_000

    def __post_init__(self) -> None:
        _one_of("mode", self.mode, MODES)
        _one_of("profile", self.profile, PROFILES)
        _one_of("auth", self.auth, AUTHS)
        if self.host not in LOOPBACK:
            raise ValueError(
                f"The sandbox listens on loopback only, host={self.host!r} is not. Use one of {', '.join(LOOPBACK)}."
            )
        if isinstance(self.allowed_hosts, str) or not all(map(_is_name, self.allowed_hosts)):
            raise ValueError(
                "allowed_hosts must be host names without scheme, port or path, such as ['sandbox.test'], "
                f"not {self.allowed_hosts!r}."
            )
        if not (self.speed > 0 and math.isfinite(self.speed)):
            raise ValueError(f"speed must be a positive number, got {self.speed!r}.")
        low, high = self.latency if isinstance(self.latency, tuple) else (self.latency or 0.0, self.latency or 0.0)
        if not 0 <= low <= high:
            raise ValueError(f"latency must be seconds, or a pair (low, high) of them, got {self.latency!r}.")
        if self.limit_status not in {429, 503}:
            raise ValueError(f"limit_status must be 429 or 503, got {self.limit_status!r}.")
        if self.no_credit_status not in {402, 403, 429}:
            raise ValueError(f"no_credit_status must be 403, 429 or 402, got {self.no_credit_status!r}.")
        if self.max_concurrency is not None and self.max_concurrency < 1:
            raise ValueError(f"max_concurrency must be at least 1 or None, got {self.max_concurrency!r}.")
        if self.rate is not None and not self.rate > 0:
            raise ValueError(f"rate must be a positive number of jobs a second or None, got {self.rate!r}.")
        width, height = self.size
        if not (16 <= width <= 1920 and 16 <= height <= 1920):
            raise ValueError(f"size must be a width and a height from 16 to 1920 pixels, got {self.size!r}.")
        if not 0.1 <= self.seconds <= 60:
            raise ValueError(f"seconds must be from 0.1 to 60, got {self.seconds!r}.")


def _is_name(name: object) -> bool:
    return isinstance(name, str) and bool(name) and not set(name) & set("/:@?#*, ")


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}.")
