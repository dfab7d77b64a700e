import re
import subprocess
import sys
from pathlib import Path

import pytest

from videorouter.cli import main
from videorouter.cli.parser import build_parser, parse

COMMANDS = ("generate", "edit", "wait", "download", "models", "balance", "sandbox", "demo", "doctor", "completion")
HEAVY = ("httpx", "anyio", "asyncio", "msgspec", "rich", "aiohttp", "av", "PIL", "ssl", "socket", "sqlite3", "logging")


@pytest.mark.parametrize("arguments", [("--help",), ("generate", "--help"), ("--version",), ("generate", "--seed")])
def test_the_grammar_loads_nothing_that_takes_time(arguments):
    code = (
        "import sys\nfrom videorouter.cli import main\n"
        f"try: main({list(arguments)!r})\nexcept SystemExit: pass\n"
        f"print('LOADED', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=30)
    assert done.stdout.rstrip().endswith("LOADED []"), done.stdout + done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_and_takes_a_sandbox(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert "usage: videorouter" in capsys.readouterr().out
    least = {"edit": ["edit", "id", "--sandbox"], "completion": ["completion", "bash", "--sandbox"]}
    assert parse(least.get(command, [command, "--sandbox"])).sandbox is True


@pytest.mark.parametrize(
    "argv",
    [[], ["nothing"], ["generate", "--nothing"], ["generate", "x", "--timeout", "soon"], ["generate", "-F", "x"]],
)
def test_a_line_that_makes_no_sense_ends_with_2_and_a_hint(argv, capsys):
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 2
    assert "--help" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--api-key", "--key"])
def test_a_key_as_an_argument_is_refused_and_not_shown(flag, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["generate", "x", flag, "sk-secret-123"])
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert "sk-secret-123" not in said.err + said.out
    assert "INFRON_API_KEY" in said.err


def test_words_on_both_sides_of_options_are_all_prompts():
    assert parse(["generate", "a", "--json", "b", "-o", "x", "-"]).prompts == ["a", "b", "-"]
    assert parse(["edit", "id", "--json", "b"]).prompts == ["b"]


def test_the_help_lists_every_exit_code():
    from videorouter.cli.exits import Exit

    words = build_parser().format_help()
    for code in Exit:
        assert f"{code.value:>3}  " in words


def test_the_reference_names_every_command_option_and_exit_code():
    from videorouter.cli.completion import read_commands
    from videorouter.cli.exits import MEANINGS

    page = (Path(__file__).parents[2] / "docs" / "reference" / "cli.md").read_text()
    for command in read_commands(build_parser()):
        if command.name:
            assert f"## `videorouter {command.name}`" in page
            for option in command.options:
                assert all(re.search(rf"`{flag}[ `]", page) for flag in option.flags if flag not in {"-h", "--help"})
    for code, words in MEANINGS.items():
        assert f"| {code.value} | {words} |" in page
