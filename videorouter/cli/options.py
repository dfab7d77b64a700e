"""Options that several commands share, and the types of their values. Loads nothing but argparse."""

from __future__ import annotations

import argparse

TYPE_CHECKING = False  # what `typing` would say; it takes a tenth of the time that --help may take

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, NoReturn

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
BATCH_WORDS = "make many videos from a file: journalled, resumable, within a budget"
SANDBOX_MODES = ("held", "task", "mixed", "final")
SANDBOX_PROFILES = ("instant", "quick", "realistic")


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """Options that say how much is told, and in which form."""
    group = parser.add_argument_group("output")
    group.add_argument("--json", action="store_true", help="data as JSON, one object a line")
    loudness = group.add_mutually_exclusive_group()
    loudness.add_argument("-q", "--quiet", action="store_true", help="no words and no progress, only data and errors")
    loudness.add_argument("-v", "--verbose", action="store_true", help="tell every attempt and every look at a task")


def add_client_options(parser: argparse.ArgumentParser) -> None:
    """Options that say which gateway to speak to, and how."""
    group = parser.add_argument_group("gateway", "The key comes from INFRON_API_KEY or ONEROUTER_API_KEY.")
    secret = group.add_mutually_exclusive_group()
    add_path(secret, "--key-file", "read the key from this file")
    secret.add_argument("--key-command", metavar="COMMAND", help="run this command, its first line is the key")
    for name in ("--key", "--api-key"):
        secret.add_argument(name, action=_NoKey, help=argparse.SUPPRESS)
    group.add_argument("--base-url", metavar="URL", help="the gateway (else INFRON_VIDEO_BASE_URL, else the vendor's)")
    group.add_argument("--bearer", action="store_true", help='send "Bearer KEY" instead of the bare key')
    group.add_argument(
        "--timeout",
        type=read_seconds,
        default=0.0,
        metavar="TIME",
        help="seconds, or 90s, 15m, 2h, none: for one whole job (default: 15m)",
    )
    group.add_argument("--max-retries", type=read_count, metavar="N", help="retries where one is safe (default: 4)")
    group.add_argument("--user-agent", metavar="TEXT", help="the agent string")
    group.add_argument("--allow-insecure", action="store_true", help="permit http:// beyond this machine")
    group.add_argument("--allow-private-hosts", action="store_true", help="permit downloads from private addresses")
    add_sandbox_options(parser)


def add_sandbox_options(parser: argparse.ArgumentParser) -> None:
    """Options that start a sandbox for the time of one command."""
    group = parser.add_argument_group("sandbox", "A pretend gateway on this machine: no key, no money.")
    group.add_argument("--sandbox", action="store_true", help="run against a sandbox that lives as long as the command")
    group.add_argument(
        "--sandbox-mode", choices=SANDBOX_MODES, help="how it answers (default: held, unlike `videorouter sandbox`)"
    )
    group.add_argument("--sandbox-profile", choices=SANDBOX_PROFILES, help="how long a video takes (default: quick)")
    add_path(
        group,
        "--sandbox-state",
        "keep its videos and tasks in this file, for later commands (of a batch: beside its journal)",
    )


def add_request_options(parser: argparse.ArgumentParser) -> None:
    """Options that become fields of the request."""
    group = parser.add_argument_group("request", "VALUE is read as JSON where it is JSON, else as text.")
    group.add_argument("-m", "--model", metavar="MODEL", help="the model id, passed on untouched")
    for name, example in (
        ("duration", '8s, or "8" with its quotes, or 8: models differ'),
        ("aspect-ratio", "16:9, 9:16, ..."),
        ("resolution", "480p, 720p, 1080p"),
        ("seed", "for repeatable results, where the model supports it"),
    ):
        group.add_argument(f"--{name}", type=read_value, metavar="VALUE", help=example)
    group.add_argument("-n", type=read_count, metavar="N", help="how many videos of each prompt")
    group.add_argument(
        "--generate-audio", action=argparse.BooleanOptionalAction, default=None, help="whether to make sound"
    )
    add_path(group, "--image", "the first frame: an image file (it is uploaded), https:// or asset:// URL")
    group.add_argument(
        "-F",
        "--field",
        action="append",
        type=read_field,
        default=[],
        metavar="NAME=VALUE",
        help="any further field of the request; may be repeated",
    )


def add_asked(parser: argparse.ArgumentParser) -> None:
    """What a video that is only collected was asked to be."""
    parser.add_argument(
        "--asked",
        action="append",
        type=read_field,
        default=[],
        metavar="NAME=VALUE",
        help="a field of the request, such as duration=8s, to compare what came with; may be repeated",
    )


def add_prompt_options(parser: argparse.ArgumentParser) -> None:
    """The prompts: arguments, stdin or a file."""
    parser.add_argument("prompts", nargs="*", metavar="PROMPT", help="what the video should show; - reads stdin")
    parser.set_defaults(rest="prompts")
    group = parser.add_argument_group("prompts")
    add_path(group, "--prompt-file", "read a prompt from this file", "-f")
    group.add_argument("--lines", action="store_true", help="each line of stdin or of the file is a prompt of its own")


def add_path(
    group: argparse._ActionsContainer, name: str, words: str, short: str | None = None, *, metavar: str = "FILE"
) -> argparse.Action:
    """An option that takes a path, so that completion offers files."""
    action = group.add_argument(*filter(None, (short, name)), metavar=metavar, help=words)
    action.takes_path = True  # type: ignore[attr-defined]
    return action


def read_seconds(text: str) -> float | None:
    """A time such as ``90``, ``90s``, ``15m``, ``2h`` or ``none``, in seconds."""
    word = text.strip().lower()
    if word == "none":
        return None
    try:
        seconds = float(word[:-1]) * _UNITS[word[-1]] if word[-1:] in _UNITS else float(word)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < float("inf"):
        _refuse(f"{text!r} is no time: write seconds, or 90s, 15m, 2h, none")
    return seconds


def read_count(text: str) -> int:
    """A whole number that is not negative."""
    if not text.isdecimal():
        _refuse(f"{text!r} is no whole number")
    return int(text)


def read_value(text: str) -> Any:
    """JSON where it is JSON, else the text itself."""
    import json  # noqa: PLC0415  --help reads no values

    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, argparse.ArgumentTypeError, RecursionError):
        return text


def read_field(text: str) -> tuple[str, Any]:
    """``name=value`` as a pair."""
    name, found, value = text.partition("=")
    if not found or not name.strip():
        _refuse(f"{text!r} is no field: write name=value, such as duration=8s")
    return name.strip(), read_value(value)


def one_of(words: Sequence[str]) -> Callable[[str], str]:
    """A type for an option that takes one of some words, whatever the case."""

    def read(text: str) -> str:
        if text.lower() not in words:
            _refuse(f"{text!r} is none of {', '.join(words)}")
        return text.lower()

    return read


def _refuse(message: str) -> NoReturn:
    raise argparse.ArgumentTypeError(message)


class _NoKey(argparse.Action):
    """Refuses a key on the command line, without quoting it."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        parser.error(
            "a key on the command line can be read by every user of this machine and stays in the shell's history: "
            "set INFRON_API_KEY, or use --key-file or --key-command (and make a new key if this one was real)"
        )
