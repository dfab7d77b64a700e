"""Where the words of a command come from: its arguments, stdin, or a file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from videorouter.errors import InvalidRequestError

if TYPE_CHECKING:
    import argparse


def read_prompts(args: argparse.Namespace) -> list[str]:
    """The prompts of a command, in order."""
    prompts: list[str] = []
    for word in args.prompts:
        prompts += _split(_read_stdin(), lines=args.lines) if word == "-" else [word]
    if args.prompt_file == "-":
        prompts += _split(_read_stdin(), lines=args.lines)
    elif args.prompt_file:
        prompts += _split(_read_file(args.prompt_file), lines=args.lines)
    if not prompts:
        msg = 'There is no prompt. Write one: videorouter generate "A cute baby sea otter", or - for stdin.'
        raise InvalidRequestError(msg)
    if any(not prompt.strip() for prompt in prompts):
        msg = "A prompt is empty. Say what the video should show."
        raise InvalidRequestError(msg)
    return prompts


def read_words(words: list[str], what: str) -> list[str]:
    """Task ids or URLs: the arguments, with those of stdin in the place of ``-``."""
    found: list[str] = []
    for word in words:
        found += _read_stdin().split() if word == "-" else [word]
    if not found:
        msg = f"There is no {what}. Give one or more, or - to read them from stdin."
        raise InvalidRequestError(msg)
    return found


def _split(text: str, *, lines: bool) -> list[str]:
    if lines:
        return [line.strip() for line in text.splitlines() if line.strip()]
    return [text.strip()]


def _read_stdin() -> str:
    if sys.stdin is None or sys.stdin.closed:
        msg = "stdin is closed; there is nothing to read for -."
        raise InvalidRequestError(msg)
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        msg = "stdin is not UTF-8 text."
        raise InvalidRequestError(msg) from error


def _read_file(name: str) -> str:
    try:
        return Path(name).read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        msg = f"{name} is not UTF-8 text."
        raise InvalidRequestError(msg) from error
    except OSError as error:
        msg = f"{name} cannot be read: {error.strerror or error}."
        raise InvalidRequestError(msg) from error
