"""Batch results as a table for notebooks: one row an item, with its player.

It needs nothing but what notebooks read anyway: an object's ``_repr_html_``. Every text is escaped; no script runs.
"""

from __future__ import annotations

import html
from collections.abc import Iterable

from videorouter.models import BatchItem

_HEADS = ("#", "state", "prompt", "model", "cost", "video")
_CELL = "padding:4px 10px;text-align:left;vertical-align:top"


class Table:
    """Items of a batch; a notebook shows it as a table. ``tabulate`` makes one.

    Attributes:
        items: The items, in the order in which they came.
    """

    def __init__(self, items: Iterable[BatchItem]) -> None:
        self.items: tuple[BatchItem, ...] = tuple(items)

    def __len__(self) -> int:
        return len(self.items)

    def __repr__(self) -> str:
        lines = (f"{item.index:>6}  {item.state:<9} {(item.prompt or '')[:60]}" for item in self.items)
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        head = "".join(f'<th style="{_CELL}">{name}</th>' for name in _HEADS)
        rows = "".join(_write_row(item) for item in self.items)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def tabulate(items: Iterable[BatchItem]) -> Table:
    """Give items of ``generate_many`` or ``edit_many`` as a table for a notebook.

    Args:
        items: Finished items; those of a plain batch may be passed as the batch itself.
    """
    return Table(items)


def _write_row(item: BatchItem) -> str:
    if item.result is not None:
        outcome = "".join(
            f'<video src="{html.escape(video.url, quote=True)}" controls muted loop playsinline preload="metadata" '
            'style="width:240px;border-radius:6px"></video>'
            for video in item.result.videos
            if video.url is not None
        )
    else:
        outcome = html.escape(item.failure.message if item.failure is not None else "")
    cost = "" if item.cost is None else f"${item.cost:.2f}"
    texts = (str(item.index), item.state, item.prompt or "", item.model or "", cost)
    cells = [html.escape(text) for text in texts] + [outcome]
    return "<tr>" + "".join(f'<td style="{_CELL}">{cell}</td>' for cell in cells) + "</tr>"
