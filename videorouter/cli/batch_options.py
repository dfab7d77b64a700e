"""The grammar of ``videorouter batch``. Loads nothing but argparse."""

from __future__ import annotations

import argparse
from typing import Any

from videorouter.cli import options

FORMS = ("jsonl", "csv", "json", "lines")


def add_batch(subparsers: Any) -> None:
    """Add ``batch`` and its commands."""
    parser = _add(
        subparsers,
        "batch",
        options.BATCH_WORDS,
        module="batch",
        examples="""\
  videorouter batch run prompts.csv --out clips --max-cost 80 --price 0.4
  videorouter batch status clips
  videorouter batch gallery clips
""",
    )
    inner = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=type(parser))
    _add_run(inner)
    _add_status(inner)
    _add_retry(inner)
    _add_settle(inner)
    _add_gallery(inner)
    _add_export(inner)
    _add_forget(inner)


def _add(subparsers: Any, name: str, words: str, *, module: str, examples: str) -> Any:
    parser = subparsers.add_parser(
        name,
        help=words,
        description=f"{words[0].upper()}{words[1:]}.",
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(module=f"videorouter.cli.{module}", command=name, parser=parser)
    return parser


def _add_run(subparsers: Any) -> None:
    parser = _add(
        subparsers,
        "run",
        "run a batch, or go on with it: the same command again resumes",
        module="batch",
        examples="""\
  videorouter batch run prompts.txt --out clips --dry-run
  videorouter batch run prompts.csv --out clips --concurrency 50 --max-cost 80 --price 0.4
  videorouter batch run prompts.jsonl --sandbox --sandbox-profile instant
""",
    )
    parser.add_argument(
        "file", metavar="FILE", help=".jsonl, .csv, .json or .txt (a prompt a line); - reads JSON lines from stdin"
    )
    reading = parser.add_argument_group("reading")
    reading.add_argument("--format", choices=FORMS, help="how to read FILE, where its name does not say")
    reading.add_argument("--prompt-field", metavar="NAME", help="the column or key that holds the prompts (prompt)")
    reading.add_argument(
        "--field-columns",
        metavar="all|none|NAME,...",
        help="which undocumented columns of a CSV are fields of the gateway; the others are yours: kept, never sent",
    )
    reading.add_argument(
        "--skip-bad-rows", action="store_true", help="leave out rows that cannot be read (without it nothing is sent)"
    )
    options.add_path(
        parser,
        "--out",
        "the folder for videos and journal (default: FILE's name, -videos), or s3://bucket/clips for the videos",
        "-o",
        metavar="DIR",
    )
    options.add_path(parser, "--journal", "the journal (default: run.db in the folder)")
    parser.add_argument("--name", metavar="TEMPLATE", help='file names (default: "{index:06d}-{slug}.mp4")')
    parser.add_argument("--no-save", action="store_true", help="save no videos, only their URLs")
    parser.add_argument(
        "-c",
        "--concurrency",
        type=read_positive,
        metavar="N",
        help="jobs at once (default: as many as the limit of open files allows, at most 1,000)",
    )
    parser.add_argument("--ordered", action="store_true", help="tell items in the order of the input")
    money = parser.add_argument_group("money", "US dollars.")
    money.add_argument("--max-cost", type=read_money, metavar="USD", help="never spend more, earlier runs included")
    money.add_argument(
        "--price",
        action="append",
        type=read_price,
        default=[],
        metavar="[MODEL=]USD",
        help="what one call costs; may be repeated, once a model (0 only with its MODEL)",
    )
    money.add_argument("--dry-run", action="store_true", help="read the input, estimate the cost, send nothing")
    care = parser.add_argument_group("care")
    care.add_argument(
        "--on-unknown",
        choices=("report", "resend"),
        default="report",
        help="an entry that may have been billed: report it, or send it once more and accept a second charge",
    )
    care.add_argument(
        "--retry", action="append", choices=("refused", "failed"), default=[], help="send these of an earlier run again"
    )
    care.add_argument(
        "--new",
        action="store_true",
        help="buy what the journal lacks, also where it has paid for the same prompts with other options, models or ids",
    )
    care.add_argument("--deduplicate", action="store_true", help="send equal entries without an id once")
    care.add_argument(
        "--stop-after",
        type=read_positive,
        default=20,
        metavar="N",
        help="equal refusals in a row that stop it, and outcomes in doubt that pause it (20)",
    )
    care.add_argument(
        "--grace",
        type=options.read_seconds,
        metavar="TIME",
        help="how long a signal lets what runs come to its end (default: 5m after Ctrl-C, 8s after SIGTERM and SIGHUP)",
    )
    options.add_request_options(parser)
    options.add_client_options(parser)
    options.add_output_options(parser)


def _add_status(subparsers: Any) -> None:
    parser = _add(
        subparsers,
        "status",
        "how a batch stands, and where every cent went; also while it runs",
        module="batch_desk",
        examples="  videorouter batch status clips\n  videorouter batch status clips --json\n",
    )
    _add_journal(parser)
    options.add_output_options(parser)


def _add_retry(subparsers: Any) -> None:
    parser = _add(
        subparsers,
        "retry",
        "run the same batch again, refused and failed entries included",
        module="batch",
        examples="  videorouter batch retry clips\n  videorouter batch retry clips --state refused --max-cost 120\n",
    )
    _add_journal(parser)
    parser.add_argument("--state", action="append", choices=("refused", "failed"), default=[], help="only these")
    parser.add_argument("--max-cost", type=read_money, metavar="USD", help="another cap")
    options.add_output_options(parser)


def _add_settle(subparsers: Any) -> None:
    parser = _add(
        subparsers,
        "settle",
        "decide what became of entries that may have been billed",
        module="batch_desk",
        examples="""\
  videorouter batch settle clips                              (lists them)
  videorouter batch settle clips --all --not-bought           (they run again)
  videorouter batch settle clips ID --bought --url https://resource.onerouter.pro/video/x.mp4
""",
    )
    _add_journal(parser)
    parser.add_argument(
        "ids", nargs="*", metavar="ID", help="entries; without any, those that may have been billed are listed"
    )
    parser.set_defaults(rest="ids")
    parser.add_argument("--all", action="store_true", help="every entry that may have been billed")
    verdict = parser.add_mutually_exclusive_group()
    verdict.add_argument(
        "--not-bought", action="store_true", help="it was not billed: the next run sends what was in doubt"
    )
    verdict.add_argument("--send-again", action="store_true", help="nobody knows: send it, and accept a second charge")
    verdict.add_argument("--bought", action="store_true", help="it was billed: what was in doubt is never sent again")
    parser.add_argument("--url", metavar="URL", help="with --bought: where its video lies")
    parser.add_argument("--video-id", metavar="ID", help="with --bought: its video_id")
    parser.add_argument("--cost", type=read_money, metavar="USD", help="with --bought: what it cost")
    options.add_output_options(parser)


def _add_gallery(subparsers: Any) -> None:
    parser = _add(
        subparsers,
        "gallery",
        "write one page that shows the batch: players, prompts, states, costs, filters",
        module="batch_gallery",
        examples="  videorouter batch gallery clips\n  videorouter batch gallery clips -o batch.html --open\n",
    )
    _add_journal(parser)
    options.add_path(parser, "--output", "the page (default: gallery.html beside the journal)", "-o")
    parser.add_argument("--title", metavar="TEXT", help="its headline (default: the folder's name)")
    parser.add_argument("--open", action="store_true", help="show it in the browser")
    options.add_output_options(parser)


def _add_export(subparsers: Any) -> None:
    parser = _add(
        subparsers,
        "export",
        "the batch as JSON lines or CSV",
        module="batch_desk",
        examples="  videorouter batch export clips --format csv -o items.csv\n",
    )
    _add_journal(parser)
    parser.add_argument("--format", choices=("jsonl", "csv"), default="jsonl", help="default: jsonl")
    parser.add_argument("--state", action="append", default=[], metavar="STATE", help="only these")
    options.add_path(parser, "--output", "the file (default: stdout)", "-o")
    options.add_output_options(parser)


def _add_forget(subparsers: Any) -> None:
    parser = _add(
        subparsers,
        "forget",
        "erase the prompts of a batch from its journal; states and costs stay",
        module="batch_desk",
        examples="  videorouter batch forget clips\n",
    )
    _add_journal(parser)
    options.add_output_options(parser)


def _add_journal(parser: argparse.ArgumentParser) -> None:
    action = parser.add_argument("journal", metavar="JOURNAL", help="a batch's folder, or its journal")
    action.takes_path = True  # type: ignore[attr-defined]


def read_positive(text: str) -> int:
    """A whole number of at least 1."""
    number = options.read_count(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be at least 1")
    return number


def read_money(text: str) -> float:
    """US dollars."""
    try:
        value = float(text.strip().removeprefix("$"))
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no amount: write US dollars, such as 80 or 0.4")
    return value


def read_price(text: str) -> tuple[str, float]:
    """``0.4`` or ``veo3-fast=0.4``."""
    model, found, amount = text.rpartition("=")
    model, price = (model.strip() if found else "*"), read_money(amount)
    if not model:
        raise argparse.ArgumentTypeError(f"{text!r} names no model: write MODEL=USD, or USD for all others")
    if model == "*" and not price:
        raise argparse.ArgumentTypeError("0 is a price only for a model that it is given to by name: write MODEL=0")
    return model, price
