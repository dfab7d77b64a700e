"""``videorouter completion SHELL``: a completion script, made from the parser itself, so that it knows every option.

The scripts need nothing but the shell: pressing TAB starts no Python.
"""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import dataclass

from videorouter.cli.parser import build_parser

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, kw_only=True)
class Option:
    """One option of a command.

    Attributes:
        flags: Its spellings.
        words: Its help.
        takes_value: Whether a value follows.
        takes_path: Whether that value is a path.
        choices: What the value may be, where that is known.
        name: What the value is called.
        repeats: Whether it may be given more than once.
    """

    flags: tuple[str, ...]
    words: str
    takes_value: bool = False
    takes_path: bool = False
    choices: tuple[str, ...] = ()
    name: str = "VALUE"
    repeats: bool = False


@dataclass(frozen=True, kw_only=True)
class Command:
    """One command.

    Attributes:
        name: Its word, or words: ``batch run``; empty for the program itself.
        words: Its help.
        options: Its options.
        choices: What its argument may be, where that is known.
        takes_path: Whether its argument is a path.
        holds: Whether its choices are commands.
    """

    name: str
    words: str
    options: tuple[Option, ...]
    choices: tuple[str, ...] = ()
    takes_path: bool = False
    holds: bool = False


def run(args: argparse.Namespace) -> int:
    """Print the script for one shell."""
    write = {"bash": write_bash, "zsh": write_zsh, "fish": write_fish}[args.shell]
    sys.stdout.write(write(read_commands(build_parser())))
    return 0


def read_commands(parser: argparse.ArgumentParser) -> tuple[Command, ...]:
    """The commands and options that a parser knows; the first is the program itself, with no word."""
    return tuple(_list_below(parser, "", ""))


def _list_below(parser: argparse.ArgumentParser, name: str, words: str) -> Iterator[Command]:
    """A command, and the commands that it holds: ``batch``, ``batch run``, ..."""
    yield _read_command(parser, name, words)
    for action in parser._actions:  # noqa: SLF001  argparse has no public way to read a parser
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}  # noqa: SLF001
            for word, sub in action.choices.items():
                yield from _list_below(sub, f"{name} {word}".strip(), helps.get(word, ""))


def _read_command(parser: argparse.ArgumentParser, name: str, words: str) -> Command:
    options: list[Option] = []
    choices: tuple[str, ...] = ()
    takes_path = holds = False
    for action in parser._actions:  # noqa: SLF001
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            choices, holds = tuple(action.choices), True
            continue
        if action.help == argparse.SUPPRESS:
            continue
        known = tuple(str(choice) for choice in action.choices or ())
        path = bool(getattr(action, "takes_path", False))
        if not action.option_strings:
            choices, takes_path = known or choices, path or takes_path
            continue
        options.append(
            Option(
                flags=tuple(action.option_strings),
                words=" ".join((action.help or "").split()),
                takes_value=action.nargs != 0,
                takes_path=path,
                choices=known,
                name=str(action.metavar or action.dest.upper()),
                repeats=isinstance(action, argparse._AppendAction),  # noqa: SLF001
            )
        )
    return Command(name=name, words=words, options=tuple(options), choices=choices, takes_path=takes_path, holds=holds)


def write_bash(commands: tuple[Command, ...]) -> str:
    """The script for bash 3.2 and later."""
    names = [f'"{command.name}"' for command in commands if command.name]
    values: list[str] = []
    words: list[str] = []
    for command in commands:
        for option in command.options:
            if not option.takes_value:
                continue
            pattern = "|".join(f'"{command.name} {flag}"' for flag in option.flags)
            if option.choices:
                act = f'_videorouter_words "{" ".join(option.choices)}"'
            else:
                act = "_videorouter_files" if option.takes_path else ":"
            values.append(f"        {pattern}) {act}; return ;;")
        flags = " ".join(flag for option in command.options for flag in option.flags)
        plain = f'_videorouter_words "{" ".join(command.choices)}"' if command.choices else ":"
        plain = "_videorouter_files" if command.takes_path else plain
        words.append(
            f'        "{command.name}") if [[ $cur == -* ]]; then _videorouter_words "{flags}"; else {plain}; fi ;;'
        )
    return _BASH.format(names="|".join(names), values="\n".join(values), words="\n".join(words))


_BASH = """\
# bash completion for videorouter; made by: videorouter completion bash
_videorouter_words() {{
    local word
    while IFS= read -r word; do COMPREPLY+=("$word"); done < <(compgen -W "$1" -- "$cur")
}}
_videorouter_files() {{
    local word
    compopt -o filenames 2>/dev/null
    while IFS= read -r word; do COMPREPLY+=("$word"); done < <(compgen -f -- "$cur")
}}
_videorouter() {{
    local cur prev command="" i
    COMPREPLY=()
    cur="${{COMP_WORDS[COMP_CWORD]}}"
    prev="${{COMP_WORDS[COMP_CWORD-1]}}"
    # --option=value comes as three words
    if [[ $cur == "=" ]]; then cur=""; elif [[ $prev == "=" ]]; then prev="${{COMP_WORDS[COMP_CWORD-2]}}"; fi
    for ((i = 1; i < COMP_CWORD; i++)); do
        case "${{command:+$command }}${{COMP_WORDS[i]}}" in
            {names}) command="${{command:+$command }}${{COMP_WORDS[i]}}" ;;
        esac
    done
    case "$command $prev" in
{values}
    esac
    case "$command" in
{words}
    esac
}}
complete -F _videorouter videorouter
"""


def write_zsh(commands: tuple[Command, ...]) -> str:
    """The script for zsh: a function file, or to be sourced."""
    program = commands[0]
    options = " \\\n        ".join(_zsh_option(option) for option in program.options)
    return _ZSH.format(commands=_list_zsh(commands, ""), options=options, cases=_zsh_cases(commands, ""))


def _list_inner(commands: tuple[Command, ...], name: str) -> list[tuple[str, Command]]:
    """The commands that a command holds, each with its own last word."""
    head = f"{name} " if name else ""
    found = [(command.name.removeprefix(head), command) for command in commands if command.name.startswith(head)]
    return [(word, command) for word, command in found if word and " " not in word]


def _list_zsh(commands: tuple[Command, ...], name: str) -> str:
    return "\n".join(
        f"        {_quote_zsh(f'{word}:{command.words}')}" for word, command in _list_inner(commands, name)
    )


def _zsh_cases(commands: tuple[Command, ...], name: str) -> str:
    cases = []
    for word, command in _list_inner(commands, name):
        lines = [_zsh_option(option) for option in command.options]
        if command.holds:
            inner = _ZSH_INNER.format(
                commands=_list_zsh(commands, command.name),
                options=" \\\n        ".join(lines),
                cases=_zsh_cases(commands, command.name),
            )
            cases.append(f"            {word})\n{inner}            ;;")
            continue
        if command.choices:
            lines.append(_quote_zsh(f"1:{word}:({' '.join(command.choices)})"))
        else:
            lines.append(_quote_zsh("*:argument:_default"))
        body = " \\\n                ".join(lines)
        cases.append(f"            {word})\n            _arguments \\\n                {body} ;;")
    return "\n".join(cases)


def _zsh_option(option: Option) -> str:
    value = ""
    if option.takes_value:
        act = f"({' '.join(option.choices)})" if option.choices else "_files" if option.takes_path else " "
        value = f":{option.name.replace(':', '')}:{act}"
    words = re.sub(r"([\[\]:\\])", r"\\\1", option.words)
    if option.repeats:
        heads = ",".join(f"\\*{flag}" for flag in option.flags)
        return f"{f'{{{heads}}}' if ',' in heads else heads}{_quote_zsh(f'[{words}]{value}')}"
    if len(option.flags) == 1:
        return _quote_zsh(f"{option.flags[0]}[{words}]{value}")
    return f"'({' '.join(option.flags)})'{{{','.join(option.flags)}}}{_quote_zsh(f'[{words}]{value}')}"


def _quote_zsh(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


_ZSH_INNER = """\
    commands=(
{commands}
    )
    _arguments -C \\
        {options} \\
        '1:command:->command' \\
        '*::argument:->argument'
    case $state in
        command) _describe -t commands 'command' commands ;;
        argument)
        case $words[1] in
{cases}
        esac ;;
    esac
"""
_ZSH = """\
#compdef videorouter
# zsh completion for videorouter; made by: videorouter completion zsh
_videorouter() {{
    local context state state_descr line
    typeset -A opt_args
    local -a commands
    commands=(
{commands}
    )
    _arguments -C \\
        {options} \\
        '1:command:->command' \\
        '*::argument:->argument'
    case $state in
        command) _describe -t commands 'videorouter command' commands ;;
        argument)
        case $words[1] in
{cases}
        esac ;;
    esac
}}
if [ "$funcstack[1]" = "_videorouter" ]; then
    _videorouter "$@"
else
    compdef _videorouter videorouter
fi
"""


def write_fish(commands: tuple[Command, ...]) -> str:
    """The script for fish."""
    lines = [
        "# fish completion for videorouter; made by: videorouter completion fish",
        "complete -c videorouter -f",
    ]
    for command in commands:
        seen = [f"__fish_seen_subcommand_from {word}" for word in command.name.split()]
        inner = _list_inner(commands, command.name) if command.holds else []
        if inner:
            seen.append(f"not __fish_seen_subcommand_from {' '.join(word for word, _ in inner)}")
        here = f'-n "{"; and ".join(seen)}"'
        lines += [_fish_option(option, here) for option in command.options]
        lines += [f"complete -c videorouter {here} -a {word} -d {_quote_fish(each.words)}" for word, each in inner]
        if command.choices and not inner:
            lines.append(f"complete -c videorouter {here} -a {_quote_fish(' '.join(command.choices))}")
        if command.takes_path:
            lines.append(f"complete -c videorouter {here} -F")
    return "\n".join(lines) + "\n"


def _fish_option(option: Option, condition: str) -> str:
    parts = [f"complete -c videorouter {condition}"]
    parts += [f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}" for flag in option.flags]
    if option.takes_value:
        parts.append("-r -F" if option.takes_path else "-x")
        if option.choices:
            parts.append(f"-a {_quote_fish(' '.join(option.choices))}")
    return " ".join([*parts, "-d", _quote_fish(option.words)])


def _quote_fish(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
