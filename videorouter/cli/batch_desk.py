"""``videorouter batch status``, ``settle``, ``export`` and ``forget``: what a journal says, and what people decide.

Reading never disturbs a batch that runs; deciding waits until it has ended.
"""

from __future__ import annotations

import csv
import io
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videorouter.cli.batch_places import find_journal, recall_command, say_batch, say_recalled
from videorouter.cli.console import Console, clean, plain
from videorouter.cli.driver import drive
from videorouter.cli.exits import Exit, exit_of
from videorouter.cli.reporting import report_error, shorten
from videorouter.errors import ConfigurationError, JournalError, VideoRouterError
from videorouter.journal.journal import Journal
from videorouter.journal.queue import QueueJournal
from videorouter.journal.queue_reading import is_queue
from videorouter.journal.records import name_kind, read_media, read_meta, read_mismatches, to_item
from videorouter.journal.states import STATES
from videorouter.journal.status import Money, read_rows, read_status

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from videorouter.journal.journal import Settlement
    from videorouter.journal.status import JournalStatus

_MEDIA = ("seconds", "width", "height", "fps", "has_sound")
_COLUMNS = (
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
    "idempotency_key",
    "sent",
    "url",
    "video_id",
    "file",
    *_MEDIA,
    "mismatches",
    "failure",
)


def run(args: argparse.Namespace) -> int:
    """Do what one of the commands asks for."""
    console = Console.of(args)
    path = find_journal(args.journal)
    try:
        if args.command == "status":
            return _show_status(path, console)
        if args.command == "export":
            return _export(path, args, console)
        if args.command == "settle" and not _wants_verdict(args):
            return _list_doubts(path, args, console)
    except VideoRouterError as error:
        report_error(console, error, args)
        return exit_of(error)
    if not path.is_file():
        report_error(console, JournalError(f"There is no journal at {path}. Check the path."), args)
        return Exit.JOURNAL
    work = _forget if args.command == "forget" else _settle
    return drive(lambda: work(path, args, console), args, console)


def _show_status(path: Path, console: Console) -> int:
    status = read_status(path)
    left = status.unmet
    if console.json:
        values: dict[str, object] = {"journal": str(path), "running": status.running}
        values.update((state, status.counts.get(state, 0)) for state in STATES)
        values.update(
            not_met=left,
            not_in_input=status.not_in_input,
            cost=_round(status.cost),
            reserved=_round(status.reserved),
            cost_in_doubt=_round(status.unknown),
            cost_at_most=_round(status.at_most),
            unpriced=status.unpriced,
            cost_reported=round(status.reported, 6),
            files_missing=_count_missing(status),
            mismatched=status.mismatched,
            mismatches=dict(status.mismatches),
        )
        console.record(values)
        return Exit.OK
    total = sum(status.counts.values()) + left
    console.data(f"{path}: {total:,} entries, {'running now' if status.running else 'not running'}")
    for state in STATES:
        count = status.counts.get(state, 0) + (left if state == "not_sent" else 0)
        if count:
            money = ", ".join(_list_money(status.money.get(state, Money())))
            console.data(f"{count:>9,}  {state.replace('_', ' '):<9}{f'  {money}' if money else ''}".rstrip())
    missing = _count_missing(status)
    if missing:
        console.data(f"{missing:>9,}  of those done are not saved yet")
    if status.not_in_input:
        console.data(f"{status.not_in_input:>9,}  of them are not in the input of the last run")
    if status.mismatched:
        console.data(_say_mismatches(status))
    reported = status.reported
    priced = reported and (status.cost or 0.0) - reported > 5e-7
    source = f"  ${reported:,.4f} as the gateway says, the rest by your --price" if priced else ""
    console.data(f"spent      {_say_dollars(status.cost)}{source}")
    if status.reserved != 0:
        console.data(f"held       {_say_dollars(status.reserved)}  for what is accepted or runs")
    if status.unknown != 0:
        console.data(f"in doubt   {_say_dollars(status.unknown)}  may have been billed")
    without = f"  {status.unpriced:,} without a price" if status.unpriced else ""
    console.data(f"at most    {_say_dollars(status.at_most)}{without}")
    for words in _list_next(path, status):
        console.say(f"  {console.style('next:', 'cyan')} {words}")
    return Exit.OK


def _say_mismatches(status: JournalStatus) -> str:
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in status.mismatches.items())
    count = status.mismatched
    return f"{count:>9,}  {'video is' if count == 1 else 'videos are'} not what was asked for: {kinds}"


def _list_money(money: Money) -> Iterator[str]:
    for amount, words in ((money.cost, "spent"), (money.reserved, "held"), (money.unknown, "may have been billed")):
        if amount:
            yield f"${amount:,.4f} {words}"
    if money.unpriced:
        yield f"{money.unpriced:,} without a price"


def _say_dollars(amount: float | None) -> str:
    return "unknown" if amount is None else f"${amount:,.4f}"


def _round(amount: float | None) -> float | None:
    return None if amount is None else round(amount, 6)


def _count_missing(status: JournalStatus) -> int:
    """Items that are done and whose files the same command will fetch."""
    words = json.loads(status.meta.get("command", "null"))
    return status.unsaved if words and "--no-save" not in words else 0


def _list_next(path: Path, status: JournalStatus) -> list[str]:
    steps = []
    counts = status.counts
    words = recall_command(path, status.meta)
    unfinished = status.unmet or counts.get("not_sent") or counts.get("accepted") or _count_missing(status)
    if not status.running and words and unfinished:
        steps.append(f"{say_recalled(words, status.meta)}   (resumes)")
    if status.doubtful:
        steps.append(f"{say_batch('settle', path)}   ({status.doubtful:,} may have been billed)")
    if status.retryable:
        steps.append(say_batch("retry", path))
    if counts.get("done"):
        steps.append(say_batch("gallery", path))
    return steps


def list_records(path: Path, states: tuple[str, ...] = (), *, doubtful: bool = False) -> Iterator[dict[str, Any]]:
    """The items of a journal as plain values: of these states, or of any; ``doubtful``: what may have been billed."""
    for row, files in read_rows(path, states, doubtful=doubtful):
        item = to_item(row)
        video = item.result.video if item.result is not None and item.result.videos else None
        media = read_media(files[0].media) if files else None
        mismatches = [mismatch for file in files for mismatch in read_mismatches(file.mismatches)]
        yield {
            "index": item.index,
            "id": item.id,
            "state": item.state,
            "verb": row.verb,
            "model": item.model,
            "prompt": item.prompt,
            "cost": item.cost,
            "cost_in_doubt": row.unknown or None,
            "task_id": item.task_id,
            "request_id": row.request_id,
            "idempotency_key": row.idempotency_key,
            "url": video.url if video is not None else None,
            "urls": [each.url for each in item.result.videos if each.url] if item.result is not None else [],
            "video_id": video.video_id if video is not None else None,
            "files": [str(file.path) for file in files],
            "sha256": files[0].sha256 if files else None,
            "media": None if media is None else plain(media),
            "mismatches": [{**plain(mismatch), "kind": name_kind(mismatch)} for mismatch in mismatches],
            "failure": item.failure.message if item.failure is not None else None,
            "failure_type": item.failure.type if item.failure is not None else None,
            "parent": row.parent,
            "meta": item.meta,
            "sends": row.sends,
            "sent": row.sent,
            "finished": row.finished,
        }


def _export(path: Path, args: argparse.Namespace, console: Console) -> int:
    wrong = set(args.state) - set(STATES)
    if wrong:
        raise ConfigurationError(f"--state takes {', '.join(STATES)}, not {', '.join(sorted(wrong))}.")
    records = list_records(path, tuple(args.state))
    if args.format == "csv":
        lines = _write_csv(records, _list_own(path, tuple(args.state)))
    else:
        lines = (json.dumps(one, ensure_ascii=False) for one in records)
    if args.output and args.output != "-":
        try:
            count = _write_lines(Path(args.output), lines)
        except OSError as error:
            raise ConfigurationError(f"{args.output} cannot be written: {error.strerror or error}.") from error
        console.say(f"{args.output}: {count - (args.format == 'csv'):,} items")
    else:
        for line in lines:
            console.data(line)
    unmet = read_status(path).unmet
    if unmet and (not args.state or "not_sent" in args.state):
        console.say(f"{unmet:,} more of the input have no line: nothing was sent for them.")
    return Exit.OK


def _write_lines(path: Path, lines: Iterator[str]) -> int:
    count = 0
    with path.open("w", encoding="utf-8", newline="") as file:
        for line in lines:
            file.write(f"{line}\n")
            count += 1
    return count


def _list_own(path: Path, states: tuple[str, ...]) -> list[str]:
    """The names of the columns that are the user's own, in the order in which they come."""
    names: dict[str, None] = {}
    for row, _ in read_rows(path, states):
        if row.meta is not None and isinstance(meta := read_meta(row.meta), dict):
            names.update(dict.fromkeys(meta))
    return list(names)


def _write_csv(records: Iterator[dict[str, Any]], own: list[str]) -> Iterator[str]:
    def row(cells: Any) -> str:
        line = io.StringIO()
        csv.writer(line, lineterminator="").writerow(cells)
        return line.getvalue()

    # A cell that begins like a formula would be run by a spreadsheet.
    def guard(value: object) -> object:
        text = value if value is None or isinstance(value, str | int | float) else json.dumps(value, ensure_ascii=False)
        return f"'{text}" if isinstance(text, str) and text.startswith(("=", "+", "-", "@")) else text

    yield row((*_COLUMNS, *(guard(f"meta.{name}" if name in _COLUMNS else name) for name in own)))
    for record in records:
        record["file"] = record["files"][0] if record["files"] else None
        record.update({name: (record["media"] or {}).get(name) for name in _MEDIA})
        record["mismatches"] = "; ".join(
            f"asked for {one['asked']}, got {one['delivered']}" for one in record["mismatches"]
        )
        meta = record["meta"] if isinstance(record["meta"], dict) else {}
        yield row(guard(value) for value in (*(record[name] for name in _COLUMNS), *(meta.get(name) for name in own)))


def _wants_verdict(args: argparse.Namespace) -> bool:
    return bool(args.not_bought or args.send_again or args.bought)


def _list_doubts(path: Path, args: argparse.Namespace, console: Console) -> int:
    if args.ids or args.all:
        raise ConfigurationError("Say what became of them: --not-bought, --send-again or --bought.")
    count = 0
    for record in list_records(path, doubtful=True):
        count += 1
        if console.json:
            console.record(record)
            continue
        sent = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record["sent"])) if record["sent"] else "-"
        facts = f"request {record['request_id'] or '-'}  key {record['idempotency_key'] or '-'}"
        state = record["state"].replace("_", " ")
        money = f"  ${record['cost_in_doubt']:,.2f}" if record["cost_in_doubt"] else ""
        console.data(f"{record['id']}  {state}{money}  sent {sent}  {facts}  {shorten(record['prompt'] or '')}")
    if not count:
        console.say("Nothing is in doubt.")
        return Exit.OK
    console.say(
        "\nLook each one up on the vendor's usage page (by its time, request or key), then say what became of it:\n"
        f"  {say_batch('settle', path)} ID ... --not-bought            it runs again (what failed: after `retry`)\n"
        f"  {say_batch('settle', path)} ID --bought --url URL          it is done\n"
        f"  {say_batch('settle', path)} ID ... --bought                it is paid and lost\n"
        f"  {say_batch('settle', path)} ID ... --send-again            a second charge is accepted"
    )
    return Exit.OK


async def _settle(path: Path, args: argparse.Namespace, console: Console) -> int:
    if not args.bought and (args.url or args.video_id or args.cost is not None):
        raise ConfigurationError("--url, --video-id and --cost belong to --bought.")
    if args.url and (args.all or len(args.ids) != 1):
        raise ConfigurationError("--url is one video's: name one ID.")
    settlement: Settlement = "not_bought" if args.not_bought else "send_again" if args.send_again else "bought"
    journal = QueueJournal(path) if is_queue(path) else await Journal.open(path)
    try:
        ids = list(args.ids)
        if args.all:
            ids = [record["id"] for record in list_records(path, doubtful=True)]
        changed = 0
        for item in ids:
            changed += await journal.settle(item, settlement, cost=args.cost, url=args.url, video_id=args.video_id)
    finally:
        await journal.aclose()
    console.say(f"{changed:,} settled")
    missing = len(ids) - changed
    if missing:
        again = "; what failed or was refused is sent again by `retry`" if args.send_again else ""
        console.tell(
            f"{missing:,} of the entries are not in doubt, or not in this journal: nothing was changed about them{again}."
        )
        return Exit.USAGE
    if not args.bought and changed:
        meta = read_status(path).meta
        words = recall_command(path, meta)
        if words:
            console.say(f"  {console.style('next:', 'cyan')} {clean(say_recalled(words, meta))}")
    return Exit.OK


async def _forget(path: Path, args: argparse.Namespace, console: Console) -> int:
    del args
    journal = await Journal.open(path)
    try:
        changed = await journal.erase_prompts()
    finally:
        await journal.aclose()
    if not journal.erased:
        raise JournalError(
            f"{changed:,} prompts are forgotten, and their bytes are still in {path}: another program reads it, or the disk "
            "is full. Close that program, or free room, and run the same command again.",
            path=str(path),
        )
    console.say(f"{changed:,} prompts forgotten; states, costs, task ids and files stay")
    return Exit.OK
