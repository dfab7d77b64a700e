"""``videorouter batch gallery``: one self-contained page that shows a batch. It loads nothing but the videos.

What came from prompts and servers is data in the page, never markup: it is shown as text, and links are http(s) or
relative files only, or the objects of a store that the batch was told to save into.
"""

from __future__ import annotations

import json
import os
import time
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from videorouter.cli.batch_desk import list_records
from videorouter.cli.batch_places import find_journal
from videorouter.cli.console import Console
from videorouter.cli.exits import Exit, exit_of
from videorouter.cli.reporting import report_error
from videorouter.errors import ConfigurationError, VideoRouterError
from videorouter.journal.status import read_status

if TYPE_CHECKING:
    import argparse

_KEPT = (
    "index",
    "id",
    "state",
    "verb",
    "model",
    "prompt",
    "cost",
    "cost_in_doubt",
    "task_id",
    "request_id",
    "failure",
    "parent",
    "media",
    "meta",
    "finished",
    "sent",
)


def run(args: argparse.Namespace) -> int:
    """Write the page."""
    console = Console.of(args)
    path = find_journal(args.journal)
    page = Path(args.output) if args.output else path.parent / "gallery.html"
    try:
        count = write_gallery(path, page, title=args.title or path.resolve().parent.name)
    except OSError as error:
        report_error(console, ConfigurationError(f"{page} cannot be written: {error}."), args)
        return Exit.USAGE
    except VideoRouterError as error:
        report_error(console, error, args)
        return exit_of(error)
    if console.json:
        console.record({"page": str(page), "items": count})
    else:
        console.data(str(page))
    if args.open:
        import webbrowser  # noqa: PLC0415  only when asked for

        webbrowser.open(page.resolve().as_uri())
    return Exit.OK


def write_gallery(journal: Path, page: Path, *, title: str) -> int:
    """Write one page about a batch."""
    status = read_status(journal)
    items = [_show(record, page) for record in list_records(journal)]
    data = {
        "title": title,
        "written": time.time(),
        "running": status.running,
        "cost": status.cost,
        "reserved": status.reserved,
        "unknown": status.unknown,
        "unpriced": status.unpriced,
        "unmet": status.unmet,
        "items": items,
    }
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    # Inside a script element only "<" can end it; the escapes read the same as JSON.
    safe = text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    template = files("videorouter.cli").joinpath("batch_gallery.html").read_text("utf-8")
    page.parent.mkdir(parents=True, exist_ok=True)
    temporary = page.with_name(f".{page.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(template.replace("__BATCH__", safe), "utf-8", errors="replace")
        temporary.chmod(0o600)
        temporary.replace(page)
    finally:
        temporary.unlink(missing_ok=True)
    return len(items)


def _show(record: dict[str, Any], page: Path) -> dict[str, Any]:
    shown = {name: record[name] for name in _KEPT if record.get(name) is not None}
    if record["mismatches"]:
        shown["mismatches"] = record["mismatches"]
    if record["files"]:
        shown["files"] = [_link(name, page) for name in record["files"]]
    urls = [url for url in record["urls"] if url.startswith(("https://", "http://"))]
    if urls:
        shown["urls"] = urls
    return shown


def _link(name: str, page: Path) -> str:
    if "://" in name:
        return quote(name, safe=":/")
    try:
        relative = os.path.relpath(name, page.parent)
    except ValueError:
        return Path(name).resolve().as_uri()
    return quote(Path(relative).as_posix())
