"""The demo's page: every video it made, with what each cost and how long it took. One file, no script, no network."""

from __future__ import annotations

import base64
import html
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Iterable

    from videorouter.cli.inspection import Inspection


@dataclass(frozen=True, kw_only=True)
class Card:
    """One video on the page.

    Attributes:
        file: Its name, beside the page.
        prompt: What was asked for.
        model: Who made it.
        video_id: What ``edit`` takes.
        found: What the file holds.
        elapsed: Seconds from prompt to file.
        task_id: The task, where the gateway worked in task mode.
        cost: US dollars, where the gateway reports them.
        parent: The prompt of the video that it edits.
    """

    file: str
    prompt: str
    model: str
    video_id: str | None
    found: Inspection
    elapsed: float
    task_id: str | None = None
    cost: float | None = None
    parent: str | None = None


def write_page(cards: Iterable[Card], *, elapsed: float, charged: int) -> str:
    """The page's HTML."""
    listed = list(cards)
    edits = sum(card.parent is not None for card in listed)
    made = len(listed) - edits
    figures = (
        (str(len(listed)), "videos, whole and playable"),
        (f"{elapsed:.1f} s", "from start to page"),
        (f"{charged}", "charges: one a prompt"),
        ("$0", "of real money"),
    )
    return _PAGE.format(
        title="videorouter demo",
        style=_STYLE,
        lead=f"{made} prompts at once, {edits} edit, over real HTTP from the sandbox gateway on this machine.",
        figures="".join(f"<li><b>{_safe(value)}</b><span>{_safe(words)}</span></li>" for value, words in figures),
        cards="".join(_write_card(card) for card in listed),
        commands=_safe(_COMMANDS),
    )


def _write_card(card: Card) -> str:
    found = card.found
    poster = base64.b64encode(found.poster).decode()
    shape = "tall" if found.height > found.width else "wide"
    facts = [
        f"{found.width} x {found.height}",
        f"{found.seconds:.1f} s",
        f"{found.frames} frames",
        f"{found.size / 1000:.0f} kB",
        f"ready in {card.elapsed:.1f} s",
    ]
    if card.cost is not None:
        facts.append(f"${card.cost:.2f} (pretend)")
    facts = [fact.replace(" ", "\N{NO-BREAK SPACE}") for fact in facts]
    badge = '<span class="badge edit">edit</span>' if card.parent else ""
    mode = "task" if card.task_id else "held"
    origin = f'<p class="origin">made from “{_safe(card.parent)}”</p>' if card.parent else ""
    ids = "".join(
        f"<dt>{name}</dt><dd>{_safe(value)}</dd>"
        for name, value in (("video", card.video_id), ("task", card.task_id))
        if value
    )
    return (
        f'<article class="{shape}"><div class="stage"><video controls loop muted playsinline preload="metadata" '
        f'poster="data:image/jpeg;base64,{poster}" src="{quote(card.file)}" '
        f'aria-label="{html.escape(card.prompt, quote=True)}"></video></div>'
        f'<div class="words"><h2>{_safe(card.prompt)}</h2>{origin}'
        f'<p class="badges"><span class="badge">{_safe(card.model)}</span><span class="badge mode">{mode}</span>{badge}'
        f"</p><p class='facts'>{_safe(' · '.join(facts))}</p><dl>{ids}</dl></div></article>"
    )


def _safe(text: object) -> str:
    return html.escape(str(text))


_COMMANDS = """\
videorouter generate "Your own words" --sandbox -o mine.mp4   # again without a key
videorouter sandbox                                           # a gateway to build against
export INFRON_API_KEY=...                                     # then the real one:
videorouter generate "A cute baby sea otter" -o otter.mp4     # this one costs money"""

_STYLE = """
:root { color-scheme: light dark; --ground: #f5f6f8; --card: #fff; --ink: #16181d; --soft: #5d6472; --line: #dfe3ea;
  --accent: #0b6bcb; --tint: #e6f0fb; --warm: #8a4b00; --warmth: #fdf0dd; }
@media (prefers-color-scheme: dark) { :root { --ground: #101216; --card: #191c22; --ink: #eceef2; --soft: #9aa3b2;
  --line: #2b303a; --accent: #79b8ff; --tint: #16283d; --warm: #ffc276; --warmth: #36280f; } }
* { box-sizing: border-box; margin: 0; }
body { background: var(--ground); color: var(--ink); font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif;
  padding: 48px 24px 64px; }
main, header, footer { max-width: 1120px; margin: 0 auto; }
h1 { font-size: 30px; letter-spacing: -.02em; line-height: 1.2; }
header p { color: var(--soft); margin-top: 6px; max-width: 76ch; }
.figures { display: flex; flex-wrap: wrap; gap: 12px 36px; list-style: none; padding: 0; margin: 24px 0 32px; }
.figures b { display: block; font-size: 22px; letter-spacing: -.01em; font-variant-numeric: tabular-nums; }
.figures span { color: var(--soft); font-size: 13px; }
main { display: grid; gap: 20px; grid-template-columns: repeat(auto-fill, minmax(min(100%, 330px), 1fr)); }
article { background: var(--card); border: 1px solid var(--line); border-radius: 14px; overflow: hidden;
  display: flex; flex-direction: column; }
.stage { background: #000; aspect-ratio: 16 / 9; position: relative; }
video { position: absolute; inset: 0; width: 100%; height: 100%; object-fit: contain; }
.words { padding: 16px 18px 18px; display: flex; flex-direction: column; gap: 8px; flex: 1; }
h2 { font-size: 16px; line-height: 1.35; }
.origin { color: var(--soft); font-size: 13px; margin-top: -6px; }
.badges { display: flex; flex-wrap: wrap; gap: 6px; }
.badge { background: var(--tint); color: var(--accent); border-radius: 99px; padding: 2px 10px; font-size: 12px; }
.badge.mode { background: transparent; color: var(--soft); border: 1px solid var(--line); padding: 1px 9px; }
.badge.edit { background: var(--warmth); color: var(--warm); }
.facts { color: var(--soft); font-size: 13px; font-variant-numeric: tabular-nums; }
dl { display: grid; grid-template-columns: auto 1fr; gap: 2px 10px; font-size: 12px; color: var(--soft); margin-top: auto;
  padding-top: 4px; }
dd { font-family: ui-monospace, "SF Mono", Menlo, monospace; overflow: hidden; text-overflow: ellipsis;
  white-space: nowrap; user-select: all; }
footer { margin-top: 40px; }
footer h2 { margin-bottom: 10px; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 16px 18px; overflow-x: auto;
  font: 13px/1.6 ui-monospace, "SF Mono", Menlo, monospace; }
"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<header><h1>videorouter demo</h1><p>{lead}</p><ul class="figures">{figures}</ul></header>
<main>{cards}</main>
<footer><h2>What to try next</h2><pre>{commands}</pre></footer>
</body>
</html>
"""
