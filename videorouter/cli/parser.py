"""The grammar of the command line. Builds parsers and loads nothing but argparse, so that ``--help`` comes at once."""

from __future__ import annotations

import argparse
import os
from collections import namedtuple

from videorouter.cli import options
from videorouter.cli.exits import MEANINGS, Exit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, NoReturn

    Subparsers = argparse._SubParsersAction[Any]  # noqa: SLF001  argparse gives it no public name

_DESCRIPTION = """\
Make, edit and collect AI videos on the Infron gateway: never paid for twice, never lost.

Data goes to stdout; words, progress and errors go to stderr.
"""
_START = """\
To try it without a key and without money:
  videorouter demo
  videorouter generate "A cute baby sea otter" --sandbox -o otter.mp4
"""


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read a command line; exits with code 2 where it makes no sense. ``module`` names whose ``run`` does the work."""
    # Nine commands' options that nobody asked for would take longer to build than all the rest.
    parser = build_parser(only=next((word for word in argv if not word.startswith("-")), ""))
    args, rest = parser.parse_known_args(argv)
    # argparse takes one run of positional arguments only: `generate A -o x B` leaves B over.
    taker: str | None = getattr(args, "rest", None)
    if rest and taker is not None and not any(word.startswith("-") and word != "-" for word in rest):
        getattr(args, taker).extend(rest)
        rest = []
    if rest:
        args.parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return args


def build_parser(only: str | None = None) -> argparse.ArgumentParser:
    """The parser of the whole command line; ``completion`` and the docs are made from it too."""
    parser = _Parser(
        prog="videorouter",
        description=_DESCRIPTION,
        epilog=f"{_START}\nExit codes: {_list_codes()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    parser.set_defaults(parser=parser)
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=_Parser)
    for name, command in _COMMANDS.items():
        added = subparsers.add_parser(
            name,
            help=command.words,
            description=f"{command.words[0].upper()}{command.words[1:]}.",
            epilog=f"examples:\n{command.examples}" if command.examples else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        added.set_defaults(module=f"videorouter.cli.{command.module}", command=name, parser=added)
        if only is None or only == name:
            command.fill(added)
    _add_batch(subparsers, only)
    return parser


def _add_batch(subparsers: Subparsers, only: str | None) -> None:
    """``batch`` has options of its own, in a module of its own, read only when it is asked for."""
    if only is None or only == "batch":
        from videorouter.cli.batch_options import add_batch  # noqa: PLC0415  see above

        add_batch(subparsers)
    else:
        subparsers.add_parser("batch", help=options.BATCH_WORDS)


_Command = namedtuple("_Command", "words module examples fill")  # noqa: PYI024  a dataclass takes 15 ms to import
"""A command's line of help, the module whose ``run(args) -> int`` does the work, its examples, what adds its options."""

_COMMANDS: dict[str, _Command] = {}


def _command(
    name: str, words: str, *, module: str, examples: str = ""
) -> Callable[[Callable[[argparse.ArgumentParser], None]], Callable[[argparse.ArgumentParser], None]]:
    def note(fill: Callable[[argparse.ArgumentParser], None]) -> Callable[[argparse.ArgumentParser], None]:
        _COMMANDS[name] = _Command(words=words, module=module, examples=examples, fill=fill)
        return fill

    return note


@_command(
    "generate",
    "make videos and wait until they are finished",
    module="making",
    examples="""\
  videorouter generate "A cute baby sea otter" -o otter.mp4
  videorouter generate "An otter" "A heron" --model google/veo3.1/text-to-video --duration 8s -o clips/
  echo "A cute baby sea otter" | videorouter generate - --sandbox -o otter.mp4
""",
)
def _fill_generate(parser: argparse.ArgumentParser) -> None:
    options.add_prompt_options(parser)
    _add_destination(parser)
    parser.add_argument("--no-wait", action="store_true", help="print the task id as soon as the job is accepted")
    options.add_request_options(parser)
    options.add_client_options(parser)
    options.add_output_options(parser)


@_command(
    "edit",
    "make a new video from an earlier one of the same model family",
    module="making",
    examples="""\
  videorouter edit video_68fc872dba248190875ba0c177c7b0cf0974c02d85a9c020 "Make it snow" -o snow.mp4
""",
)
def _fill_edit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("video", metavar="VIDEO_ID", help="the id that the earlier generation gave")
    options.add_prompt_options(parser)
    _add_destination(parser)
    parser.add_argument("--no-wait", action="store_true", help="print the task id as soon as the job is accepted")
    options.add_request_options(parser)
    options.add_client_options(parser)
    options.add_output_options(parser)


@_command(
    "wait",
    "wait for accepted tasks and collect their videos; it never pays",
    module="collecting",
    examples="  videorouter wait cgt-20260312231129-7db6s -o otter.mp4\n",
)
def _fill_wait(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("tasks", nargs="*", metavar="TASK_ID", help="the id that the gateway gave; - reads stdin")
    parser.set_defaults(rest="tasks")
    _add_destination(parser)
    options.add_asked(parser)
    options.add_client_options(parser)
    options.add_output_options(parser)


@_command(
    "download",
    "save finished videos by their URLs: whole, checked, resumed where they stopped",
    module="collecting",
    examples="  videorouter download https://resource.onerouter.pro/video/otter.mp4 -o otter.mp4\n",
)
def _fill_download(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("urls", nargs="*", metavar="URL", help="where the video lies; - reads stdin")
    parser.set_defaults(rest="urls")
    _add_destination(parser)
    parser.add_argument("--no-check", action="store_true", help="take any bytes, not only a whole video file")
    options.add_asked(parser)
    options.add_client_options(parser)
    options.add_output_options(parser)


@_command("models", "list the gateway's video models", module="account")
def _fill_models(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--all", action="store_true", help="every model, not only those for video")
    options.add_client_options(parser)
    options.add_output_options(parser)


@_command("balance", "print what is left on the account, in US dollars", module="account")
def _fill_balance(parser: argparse.ArgumentParser) -> None:
    options.add_client_options(parser)
    options.add_output_options(parser)


@_command(
    "sandbox",
    "run a pretend gateway on this machine until Ctrl-C: real HTTP, real MP4 files, no key, no money",
    module="gateway",
    examples="""\
  videorouter sandbox --port 8700
  videorouter sandbox --mode task --profile realistic --speed 10
  videorouter sandbox --fault "status=503; retry-after=2; probability=0.2" --fault "stall; every=5; seconds=3"
""",
)
def _fill_sandbox(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("behaviour")
    group.add_argument(
        "--mode", choices=options.SANDBOX_MODES, default="mixed", help="how a POST is answered (default: mixed)"
    )
    group.add_argument(
        "--profile", choices=options.SANDBOX_PROFILES, default="quick", help="how long a video takes (default: quick)"
    )
    group.add_argument(
        "--speed", type=float, default=1.0, metavar="X", help="divide every latency by this (default: 1)"
    )
    group.add_argument("--seed", type=int, default=0, metavar="N", help="seed of latencies and faults (default: 0)")
    group.add_argument(
        "--auth", choices=("any", "bare", "bearer"), default="any", help="how the key must come (default: any)"
    )
    add_key = options.add_path(group, "--key-file", "accept only the key in this file")
    add_key.metavar = "FILE"
    group.add_argument("--max-concurrency", type=int, metavar="N", help="refuse more unfinished jobs than this")
    group.add_argument("--rate", type=float, metavar="N", help="refuse more jobs a second than this")
    group.add_argument("--balance", type=float, metavar="USD", help="refuse jobs beyond this money as out of credit")
    group.add_argument("--honour-idempotency", action="store_true", help="replay the answer of a repeated key")
    group.add_argument("--strict-models", action="store_true", help="refuse models that its catalogue lacks")
    group.add_argument(
        "--fault",
        action="append",
        default=[],
        metavar="WORDS",
        help='a fault to order, such as "status=503; retry-after=2; every=3"; may be repeated',
    )
    place = parser.add_argument_group("place")
    place.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="a loopback address (default: 127.0.0.1)")
    place.add_argument(
        "--allow-host",
        action="append",
        default=[],
        dest="allowed_hosts",
        metavar="NAME",
        help="a further name by which it may be asked, where a proxy or a forwarded port leads to it; may be repeated",
    )
    place.add_argument(
        "--port", type=int, default=0, metavar="PORT", help="of the API and the gallery (default: a free one)"
    )
    place.add_argument("--files-port", type=int, default=0, metavar="PORT", help="of the videos (default: a free one)")
    options.add_path(place, "--state", "keep everything in this file (default: in memory)")
    parser.add_argument("--sandbox", action="store_true", help=argparse.SUPPRESS)
    options.add_output_options(parser)


@_command(
    "demo",
    "make several videos against a sandbox and a gallery page that shows them; no key, no money",
    module="demo",
    examples="  videorouter demo -o my-demo\n",
)
def _fill_demo(parser: argparse.ArgumentParser) -> None:
    folder = options.add_path(parser, "--output", "the folder to write to (default: videorouter-demo)", "-o")
    folder.metavar, folder.default = "FOLDER", "videorouter-demo"
    parser.add_argument("--open", action="store_true", help="open the gallery in a browser at the end")
    parser.add_argument("--sandbox", action="store_true", help=argparse.SUPPRESS)
    options.add_output_options(parser)


@_command(
    "doctor",
    "say what is wrong with key, network, proxy, certificates and limits, and how to mend it",
    module="doctor",
    examples="""\
  videorouter doctor
  videorouter doctor --online
  videorouter doctor --sandbox
""",
)
def _fill_doctor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--online",
        action="store_true",
        help="contact a gateway beyond this machine, too (it reads the balance: nothing is made or paid)",
    )
    options.add_client_options(parser)
    options.add_output_options(parser)


@_command(
    "completion",
    "print a completion script for a shell",
    module="completion",
    examples="""\
  bash:  videorouter completion bash > ~/.local/share/bash-completion/completions/videorouter
  zsh:   videorouter completion zsh > "${fpath[1]}/_videorouter"
  fish:  videorouter completion fish > ~/.config/fish/completions/videorouter.fish
""",
)
def _fill_completion(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), metavar="SHELL", help="bash, zsh or fish")
    parser.add_argument("--sandbox", action="store_true", help=argparse.SUPPRESS)


def _add_destination(parser: argparse.ArgumentParser) -> None:
    action = options.add_path(
        parser,
        "--output",
        "save as this file, or into this folder (ends in / or exists); s3://bucket/otter.mp4 too; - is stdout",
        "-o",
    )
    action.metavar = "FILE"


def _list_codes() -> str:
    lines = [f"  {code.value:>3}  {words}" for code, words in MEANINGS.items()]
    return "\n" + "\n".join(lines) + "\n"


class _Parser(argparse.ArgumentParser):
    """Says after each usage error where to read on, and does not waste a terminal's width."""

    def error(self, message: str) -> NoReturn:
        self.exit(Exit.USAGE, f"{self.prog}: {message}\nTry `{self.prog} --help`.\n")

    def _get_formatter(self) -> argparse.HelpFormatter:
        width = int(os.environ.get("COLUMNS") or 0) or min(_terminal_width(), 110)
        return self.formatter_class(prog=self.prog, max_help_position=32, width=width - 2)  # type: ignore[call-arg]


def _terminal_width() -> int:
    try:
        return os.get_terminal_size().columns
    except OSError:
        return 100


class _Version(argparse.Action):
    """Prints the version; reads it only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from videorouter._version import __version__  # noqa: PLC0415

        print(f"videorouter {__version__}")
        parser.exit()
