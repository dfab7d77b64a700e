"""``videorouter batch run`` and ``batch retry``: a file of prompts in, videos and a journal out.

The journal is always on. A signal stops dispatch and lets what runs come to its end; a second one ends it now; either way the
command that resumes is told.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import shlex
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from videorouter.cli.batch_board import Gauge, Moment, make_board, say_left
from videorouter.cli.batch_files import EntryFile
from videorouter.cli.batch_places import (
    find_folder,
    find_journal,
    find_store,
    make_folder,
    place_journal,
    recall_command,
    say_batch,
    say_command,
    say_displaced,
)
from videorouter.cli.console import Console, OutputGoneError, ask, clean, plain
from videorouter.cli.driver import drive
from videorouter.cli.exits import Exit, exit_of, gravest
from videorouter.cli.making import MODELS, read_fields
from videorouter.cli.reporting import report_error, shorten
from videorouter.cli.session import open_router, wants_sandbox
from videorouter.cli.signals import END_SIGNALS, obey_signals
from videorouter.errors import (
    BudgetExceededError,
    ClientClosedError,
    ConfigurationError,
    InvalidRequestError,
    JournalError,
    JournalMismatchError,
)
from videorouter.journal.budget import find_price, to_dollars
from videorouter.journal.states import SETTLED
from videorouter.journal.status import read_status

if TYPE_CHECKING:
    import argparse

    from videorouter.batch.batch import Batch
    from videorouter.batch.plan import BatchPlan
    from videorouter.cli.batch_board import BatchBoard
    from videorouter.cli.signals import EndSignal
    from videorouter.client import AsyncVideoRouter
    from videorouter.models import BatchItem, BatchSummary

_REDRAW = 0.25
_MOST_TOLD = 20
_NOTICE = 60
"""Characters of why a batch stops while it does: the whole sentence comes at its end."""
_STATE_EXITS = {
    "in_doubt": Exit.IN_DOUBT,
    "lost": Exit.IN_DOUBT,
    "accepted": Exit.RUNNING,
    "failed": Exit.TASK_FAILED,
    "not_sent": Exit.NOT_SENT,
}


def run(args: argparse.Namespace) -> int:
    """Run a batch."""
    console = Console.of(args)
    try:
        if args.command == "retry":
            args = _recall(args)
        words = args.words if "words" in args else list(sys.argv[1:])
        if args.dry_run:
            return _estimate(args, console)
        first = Run(args, console, words)
    except (ConfigurationError, InvalidRequestError, JournalError) as error:
        report_error(console, error, args)
        return exit_of(error)
    code = drive(first.go, args, console)
    if first.question is None:
        return code
    try:
        agreed = ask(console, first.question.message, "Buy them anew?")
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    if not agreed:
        console.say("Nothing was sent.")
        return Exit.JOURNAL
    args.new = True
    return drive(Run(args, console, words).go, args, console)


def _recall(args: argparse.Namespace) -> argparse.Namespace:
    """The arguments of the run that made a journal, with the states to send again."""
    from videorouter.cli.parser import parse  # noqa: PLC0415  it knows this module's commands

    path = find_journal(args.journal)
    meta = read_status(path).meta
    words = recall_command(path, meta)
    if words is None:
        raise ConfigurationError(
            f"{path} was written by a program, not by `videorouter batch run`: run that program again with "
            'retry=["refused", "failed"].'
        )
    called_in = Path.cwd()
    if meta.get("folder"):
        try:
            os.chdir(meta["folder"])
        except OSError as error:
            raise ConfigurationError(
                f"{meta['folder']}, the folder in which {path} was made, cannot be entered ({error.strerror}), so that its input "
                f"is not found. Run it from where the input is now: {say_command([*words, '--retry', 'refused', '--retry', 'failed'])}"
            ) from error
    recalled = parse(words)
    if recalled.file == "-":
        raise ConfigurationError(
            "This batch was read from stdin: pipe the same input in again, with `batch run - --retry refused --retry "
            "failed` and the same options."
        )
    recalled.new, recalled.called_in = False, called_in
    recalled.words = words if args.max_cost is None else [*words, "--max-cost", f"{args.max_cost:.15g}"]
    recalled.retry = args.state or ["refused", "failed"]
    recalled.max_cost = args.max_cost if args.max_cost is not None else recalled.max_cost
    recalled.json, recalled.quiet, recalled.verbose = args.json, args.quiet, args.verbose
    return recalled


def _read_prices(args: argparse.Namespace) -> dict[str, float] | None:
    return dict(args.price) or None


def _check_cap(args: argparse.Namespace) -> None:
    if args.max_cost is not None and not args.price:
        raise ConfigurationError("--max-cost needs --price: what one call costs, in US dollars.")


def _open_input(args: argparse.Namespace) -> EntryFile:
    """The input, read as the journal remembers that it was read before."""
    journal = place_journal(args)
    if args.field_columns is None and journal.is_file():
        notes = read_status(journal).meta
        # An earlier version sent all columns, and made no note of it.
        args.field_columns = notes.get("field_columns", "all" if "command" in notes else "") or None
    return EntryFile.of(args)


def _estimate(args: argparse.Namespace, console: Console) -> int:
    """Read everything, send nothing, say what it would cost."""
    prices = _read_prices(args)
    _check_cap(args)
    with _open_input(args) as file:
        found = file.survey()
    models: dict[str, int] = {}
    for model, count in found.models.items():
        name = model or args.model or MODELS["generate"]
        models[name] = models.get(name, 0) + count
    needed = args.max_cost is not None
    priced = {name: find_price(prices, {"model": name}, needed=needed) for name in models}
    total = sum((priced[name] or 0) * count for name, count in models.items())
    unpriced = sum(count for name, count in models.items() if priced[name] is None)
    calls, cost = found.total, to_dollars(total)
    found.tell(console)
    fits = args.max_cost is None or cost <= args.max_cost
    if console.json:
        console.record(
            {
                "calls": calls,
                "models": models,
                "unreadable": len(found.bad),
                "cost": None if unpriced else cost,
                "unpriced": unpriced,
                "fits": fits,
            }
        )
    else:
        for model, count in sorted(models.items(), key=lambda pair: -pair[1]):
            console.data(f"{count:>9,}  {model}")
        told = f"${cost:,.2f}" if total or not unpriced else "unknown: pass --price"
        without = f", and {unpriced:,} without a price" if total and unpriced else ""
        console.data(f"{calls:>9,}  calls, cost {told}{without}")
    if prices and not fits:
        console.tell(f"--max-cost ${args.max_cost:,.2f} will stop it before its end.")
    console.say("Nothing was sent.")
    broken = found.repeated or (found.bad and not args.skip_bad_rows)
    return Exit.USAGE if broken else Exit.OK


class Run:
    """One run of a batch."""

    def __init__(self, args: argparse.Namespace, console: Console, words: list[str]) -> None:
        self._args = args
        self._console = console
        self._words = words
        """The command that resumes, to be called in the folder where this process is now."""
        self._place = (
            "" if getattr(args, "called_in", Path.cwd()) == Path.cwd() else f"cd {shlex.quote(str(Path.cwd()))} && "
        )
        self._folder = find_folder(args.file, args.out)
        self._journal = place_journal(args)
        self._codes: set[Exit] = set()
        self._fresh = 0
        self._handed = 0
        self._unsaved = 0
        self._settled = 0
        self._others: Counter[str] = Counter()
        """States of what this input does not have, and is not at its end."""
        self._dearer: set[str | None] = set()
        self._told = 0
        self._exit: Exit | None = None
        """Of what has ended it early from outside: a signal, or stdout."""
        self._closing: list[asyncio.Future[None]] = []
        self._ended: str | None = None
        """Why the input ended before its end."""
        self._skipped = 0
        self.question: JournalMismatchError | None = None
        """What somebody must consent to before anything is sent."""

    async def go(self) -> int:
        """Run it to its end, or to the second Ctrl-C."""
        with _open_input(self._args) as file:
            return await self._go(file)

    async def _go(self, file: EntryFile) -> int:
        args = self._args
        _check_cap(args)
        found = await asyncio.to_thread(file.survey) if file.regular else None
        if found is not None:
            found.tell(self._console)
            if found.bad and not args.skip_bad_rows:
                raise ConfigurationError(found.say_bad())
        planned = found.total if found is not None else None
        if not (args.no_save and args.journal):
            make_folder(self._folder)
        if wants_sandbox(args) and not args.sandbox_state:
            # What the journal says was bought must still be there when the same command goes on.
            args.sandbox_state = str(self._journal.with_name(f"{self._journal.stem}.sandbox.db"))
        gauge = Gauge(planned, args.max_cost)
        async with open_router(args, self._console) as router:
            batch = self._start(router, file, nameless=found is None or None in found.models)
            board = make_board(self._console, gauge)
            counted = "" if planned is None or args.deduplicate else str(planned)  # equal entries share a row
            batch.rereadable = file.regular
            batch.note({"field_columns": args.field_columns or ""})
            batch.note({"command": json.dumps(self._words), "folder": str(Path.cwd()), "planned": counted})
            # Ctrl-C is obeyed before the first request leaves.
            with board, obey_signals(partial(self._obey, batch)):
                try:
                    async with batch:
                        self._tell_plan(batch.plan)
                        await self._follow(batch, board, router)
                except JournalMismatchError as error:
                    if not self._asks(batch.plan):
                        raise
                    self.question = error
                    return Exit.JOURNAL
            if file.skipped:
                self._console.tell(f"{file.skipped:,} rows of {file.name} cannot be read and were left out.")
            self._ended, self._skipped = file.ended, file.skipped
            return self._conclude(batch, planned)

    def _start(self, router: AsyncVideoRouter, file: EntryFile, *, nameless: bool) -> Batch:
        args = self._args
        if args.model is None and nameless:
            words = f"Entries that name no model are made by {MODELS['generate']}; --model names another."
            self._console.say(self._console.style(words, "dim"))
        fields = read_fields(args)
        return router.generate_many(
            file,
            model=args.model or MODELS["generate"],
            concurrency=args.concurrency,
            journal=self._journal,
            save_to=None if args.no_save else find_store(args.out) or self._folder,
            name=args.name,
            ordered=args.ordered,
            max_cost=args.max_cost,
            price=_read_prices(args),
            on_outcome_unknown=args.on_unknown,
            deduplicate=args.deduplicate,
            new=args.new,
            stop_after=args.stop_after,
            retry=args.retry,
            **fields,
        )

    def _asks(self, plan: BatchPlan | None) -> bool:
        """Whether the plan was refused, and somebody is there who can be asked."""
        is_refused = plan is not None and plan.needs_consent and not self._args.new
        return is_refused and not self._console.json and sys.stdin.isatty() and sys.stderr.isatty()

    def _tell_plan(self, plan: BatchPlan | None) -> None:
        """Say what the journal holds, and what this run adds to it, before anything is sent."""
        if plan is None or not plan.held:
            return
        held = f"{self._journal} holds {plan.held:,} requests"
        if plan.sends is None:
            self._console.say(f"{held}; which of them this input meets is known as it is read.")
            return
        cost = "cost unknown without --price" if plan.cost is None else f"about ${plan.cost:,.2f}"
        money = f" ({cost})" if plan.sends else ""
        unmet = f"{plan.unmet:,} are not in this input, " if plan.unmet else ""
        self._console.say(
            f"{held}; the input meets {plan.met:,} of them, {unmet}and {plan.new:,} are new. To send: {plan.sends:,}{money}."
        )

    async def _follow(self, batch: Batch, board: BatchBoard, router: AsyncVideoRouter) -> None:
        """Tell each item as it comes, and draw the board now and then."""

        async def draw() -> None:
            while True:
                board.show(self._look(batch, router))
                await asyncio.sleep(_REDRAW)

        drawing = asyncio.ensure_future(draw())
        try:
            async for item in batch:
                try:
                    self._tell(item)
                except OutputGoneError as error:
                    self._lose_output(batch, error)
        finally:
            drawing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await drawing
        board.show(self._look(batch, router))

    def _look(self, batch: Batch, router: AsyncVideoRouter) -> Moment:
        """How it stands now."""
        summary, stats = batch.summary, router.stats()
        waiting = min(stats.queued, batch.in_flight)
        notice = batch.paused
        if summary.stopped and (batch.in_flight or batch.saving):
            notice = f"Stopping: {shorten(summary.stopped, _NOTICE)}"
        return Moment(
            summary=summary,
            in_flight=batch.in_flight - waiting,
            waiting=waiting,
            saving=batch.saving,
            paused=stats.paused_until - time.monotonic() if stats.paused_until else 0.0,
            handed=self._handed,
            worked=self._fresh + batch.caught_up,
            notice=notice,
        )

    def _tell(self, item: BatchItem) -> None:
        console = self._console
        if item.in_input:
            self._handed += 1
        else:
            self._others[item.state] += 1
        if not item.resumed:
            self._fresh += 1
        stopped = item.state == "not_sent" and isinstance(item.error, ClientClosedError | BudgetExceededError)
        self._settled += item.failure is not None and item.failure.code == SETTLED
        self._unsaved += item.state == "done" and item.error is not None
        if item.error is not None and item.state != "lost":  # whose error is of a poll
            self._codes.update(() if stopped else (exit_of(item.error),))
        elif item.state in _STATE_EXITS:
            self._codes.add(_STATE_EXITS[item.state])
        self._compare_price(item)
        if console.json:
            console.record(plain(item))
        elif item.ok and (item.fetched or not item.resumed):
            videos = item.result.videos if item.result is not None else ()
            for place in item.files or (video.url or item.id for video in videos):
                console.data(place)
        known = stopped or (item.resumed and not item.fetched)
        if item.failure is None or (known and not console.verbose):
            return
        self._told += 1
        if self._told <= _MOST_TOLD or console.verbose:
            label = shorten(item.prompt or item.id)
            words = item.failure.message if console.verbose else shorten(item.failure.message, 150)
            state = console.style(item.state.replace("_", " "), "yellow" if item.state != "refused" else "red")
            console.tell(f"  #{item.index} {state}: {clean(label)}: {clean(words)}")
            if self._told == _MOST_TOLD and not console.verbose:
                console.tell(f"... further ones are in the journal: {say_batch('status', self._journal)}")

    def _lose_output(self, batch: Batch, error: OutputGoneError) -> None:
        if self._exit is None:
            left = error.errno == errno.EPIPE
            words, code = (
                ("whoever read the output went away", Exit.BROKEN_PIPE) if left else (str(error.strerror), Exit.FAILURE)
            )
            self._end(batch, words, code, END_SIGNALS["SIGINT"].grace)

    def _compare_price(self, item: BatchItem) -> None:
        """Say once for each model that it costs more than --price, with which the cap is kept."""
        cost = item.result.cost if item.result is not None and not item.resumed else None
        prices = _read_prices(self._args)
        if cost is None or prices is None or item.model in self._dearer:
            return
        priced = find_price(prices, {"model": item.model}, needed=False)
        price = cost if priced is None else to_dollars(priced)
        if price < cost - 1e-6:
            self._dearer.add(item.model)
            console, cap = self._console, self._args.max_cost
            words = "; what is in flight at the end may exceed --max-cost by the difference" if cap is not None else ""
            told = f"{clean(item.model)} costs ${cost:,.4g}, says the gateway, and --price says ${price:,.4g}{words}."
            console.tell(f"{console.style('note:', 'yellow')} {told}")

    def _obey(self, batch: Batch, by: EndSignal) -> None:
        """The first signal stops dispatch, the second ends it at once."""
        if self._exit is None:
            self._end(batch, by.words, by.exit, by.grace)
            return
        doubt = ": what is in flight is written down as in doubt" if batch.in_flight else ""
        self._console.tell(f"Ending now{doubt}.")
        self._close(batch)

    def _end(self, batch: Batch, words: str, code: Exit, grace: float) -> None:
        """Send nothing more, let what runs come to its end for a while, and say at once how it goes on."""
        self._exit = code
        batch.stop(words)
        grace = grace if self._args.grace is None else self._args.grace
        asyncio.get_running_loop().call_later(grace, self._close, batch)
        parts = [(batch.in_flight, "in flight"), (batch.saving, "being saved")]
        runs = ", ".join(f"{count:,} {what}" for count, what in parts if count)
        limit = (
            f"{runs}, for at most {say_left(grace)}. Another signal ends it at once" if runs else "nothing is in flight"
        )
        self._console.tell(f"{words[0].upper()}{words[1:]}: {limit}.")
        if batch.displaced is None:
            self._say_next(f"{say_command(self._words)}   (resumes)")
        else:
            self._say_next(say_displaced(self._journal))

    def _say_next(self, words: str) -> None:
        place = self._place if words.startswith("videorouter ") else ""
        self._console.tell(f"  {self._console.style('next:', 'cyan')} {place}{words}")

    def _close(self, batch: Batch) -> None:
        self._closing.append(asyncio.ensure_future(batch.aclose()))

    def _conclude(self, batch: Batch, planned: int | None) -> int:
        console, summary = self._console, batch.summary
        if console.json:
            with contextlib.suppress(OutputGoneError):
                read = {"ended": self._ended, "skipped": self._skipped}
                console.record({"summary": plain(summary), "input": read, "journal": str(self._journal)})
        left = max(0, planned - summary.total) if planned is not None else 0
        for line in describe_summary(console, summary, left):
            console.say(line)
        if summary.stopped:
            console.tell(f"{console.style('stopped:', 'yellow')} {clean(summary.stopped)}")
        if self._ended is not None:
            self._codes.add(Exit.USAGE)
            console.tell(f"{console.style('the input ended early:', 'yellow')} {clean(self._ended)}.")
        if batch.unwritten:
            console.tell(
                f"{console.style('keep the lines above:', 'yellow')} {batch.unwritten:,} outcomes could not be written "
                "down. The next run collects their tasks again, and reports those without a task as in doubt."
            )
        displaced = batch.displaced
        if displaced is not None:
            self._codes.add(exit_of(displaced))
            if displaced.message != summary.stopped:
                console.tell(f"{console.style('error:', 'red', 'bold')} {clean(displaced.message)}")
        for words in self._list_next(batch, left) if displaced is None else [say_displaced(self._journal)]:
            self._say_next(words)
        if self._exit is not None:
            return self._exit
        if batch.cause is not None:
            self._codes.add(exit_of(batch.cause))
        return gravest(self._codes) if self._codes else Exit.OK

    def _list_next(self, batch: Batch, left: int) -> list[str]:
        steps, summary, others = [], batch.summary, self._others
        accepted, lost = summary.accepted + others["accepted"], summary.lost + others["lost"]
        if summary.stopped or self._ended or left or accepted or lost or summary.not_sent or self._unsaved:
            why = "resumes"
            if isinstance(batch.cause, BudgetExceededError):
                why = "resumes, with a higher --max-cost"
            elif self._unsaved:
                videos = "1 video" if self._unsaved == 1 else f"{self._unsaved:,} videos"
                why = f"resumes, and fetches {videos} that could not be saved"
            steps.append(f"{say_command(self._words)}   ({why})")
        doubts = summary.in_doubt + others["in_doubt"] + lost
        if doubts or summary.cost_in_doubt:
            count = f"{doubts:,}" if doubts else f"${summary.cost_in_doubt:,.2f}"
            steps.append(f"{say_batch('settle', self._journal)}   ({count} may have been billed)")
        again = summary.refused + summary.failed - self._settled
        if again:
            steps.append(f"{say_batch('retry', self._journal)}   ({again:,} to send again)")
        if summary.done and not wants_sandbox(self._args):
            steps.append(say_batch("gallery", self._journal))
        return steps


def describe_summary(console: Console, summary: BatchSummary, left: int) -> list[str]:
    """How a batch stands, in a few lines."""
    styles = {
        "done": "green",
        "refused": "red",
        "failed": "red",
        "in_doubt": "yellow",
        "lost": "yellow",
        "accepted": "cyan",
    }
    counts = {name: getattr(summary, name) for name in ("done", "refused", "failed", "accepted", "in_doubt", "lost")}
    words = [
        console.style(f"{count:,} {name.replace('_', ' ')}", styles[name]) for name, count in counts.items() if count
    ]
    not_sent = summary.not_sent + left
    if not_sent:
        words.append(f"{not_sent:,} not sent")
    spent, doubt = summary.cost, summary.cost_in_doubt
    money = ["cost unknown"] if spent is None else [f"spent ${spent:,.2f}"] if spent or doubt else []
    money += [f"up to ${doubt:,.2f} more in doubt"] if doubt else []
    money += [f"{summary.unpriced:,} without a price"] if summary.unpriced else []
    lines = [", ".join(words) or "nothing to do", *([", and ".join(money)] if money else [])]
    if summary.not_in_input:
        lines.append(f"{summary.not_in_input:,} in the journal are not in this input")
    if summary.mismatched:
        lines.append(console.style(f"{summary.mismatched:,} not what was asked for", "yellow"))
    return lines
