"""The options of a queue, checked."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Literal, TypeAlias

import msgspec

from videorouter.batch.run import check_path
from videorouter.config import check_count
from videorouter.downloads.names import check_template
from videorouter.errors import ConfigurationError
from videorouter.jobs.models import Job, JobEvent
from videorouter.journal.budget import check_budget
from videorouter.models import Download, Video

Period: TypeAlias = Literal["day", "month"]
Notify: TypeAlias = Callable[[Job, JobEvent], Awaitable[None] | None] | str | None
Save: TypeAlias = Callable[[Video, Path], Awaitable[Download]]
MAX_QUEUED = 100_000
NAME = "{id}.mp4"
"""The template of file names: a queue has no input whose order they could tell."""


class JobOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options of one queue. Money is in US dollars."""

    path: Path
    save_to: Path | None = None
    name: str = NAME
    max_cost: float | None = None
    max_cost_per_owner: float | None = None
    period: Period | None = None
    price: Any = None
    max_queued: int = MAX_QUEUED
    per_owner: int | None = None
    concurrency: int | None = None
    stop_after: int = 20
    drain: float = 60.0
    notify: Any = None


def check_options(path: str | os.PathLike[str], given: dict[str, Any]) -> JobOptions:
    """Check the options of ``router.jobs``."""
    unknown = given.keys() - set(JobOptions.__struct_fields__)
    if unknown:
        raise ConfigurationError(f"router.jobs takes no {', '.join(sorted(unknown))}.")
    for cap in ("max_cost", "max_cost_per_owner"):
        if given.get(cap) is not None:
            check_budget(given[cap], given.get("price"))
    check_budget(None, given.get("price"))
    if given.get("period") not in {None, "day", "month"}:
        raise ConfigurationError(f"period must be 'day' or 'month', or left out for all time, not {given['period']!r}.")
    save_to = given.get("save_to")
    limits = ("max_queued", "per_owner", "concurrency", "stop_after")
    return JobOptions(
        **{
            **{name: value for name, value in given.items() if value is not None},
            **{name: check_count(given[name], name, least=1) for name in limits if given.get(name) is not None},
            "path": Path(os.path.abspath(check_path(path, "path"))),  # noqa: PTH100  no link is followed here
            "save_to": None if save_to is None else Path(os.path.abspath(check_path(save_to, "save_to"))),  # noqa: PTH100
            "name": check_template(given.get("name") or NAME),
        }
    )
