import shlex

import pytest

from videorouter import errors
from videorouter.cli.console import Console
from videorouter.cli.parser import parse
from videorouter.cli.reporting import collect_command, next_steps, report_error


def test_the_collecting_command_repeats_what_it_needs_and_can_be_pasted():
    argv = [
        "generate",
        "x",
        "--base-url",
        "https://h/v1",
        "--bearer",
        "--key-command",
        "pass show key",
        "--timeout",
        "5",
    ]
    command = collect_command(parse(argv), "cgt 1; rm", "my clip.mp4")
    assert shlex.split(command) == [
        *("videorouter", "wait", "cgt 1; rm", "-o", "my clip.mp4"),
        *("--base-url", "https://h/v1", "--key-command", "pass show key", "--bearer"),
    ]
    assert parse(shlex.split(command)[1:]).tasks == ["cgt 1; rm"]


def test_a_task_id_that_looks_like_an_option_stays_an_id():
    command = collect_command(parse(["generate", "x", "--bearer"]), "-o", None)
    again = parse(shlex.split(command)[1:])
    assert (again.tasks, again.bearer) == (["-o"], True)


def test_an_error_shows_no_control_characters_and_ends_in_a_next_step(capsys):
    error = errors.UnprocessableEntityError("bad\x1b[2J field", status=422, request_id="r-\x1b]0;x\x07")
    report_error(Console(), error, parse(["generate", "x"]), label="my prompt")
    err = capsys.readouterr().err
    assert "\x1b" not in err
    assert err.startswith("error: my prompt: bad\\x1b[2J field\n")
    assert err.splitlines()[-1].startswith("  next: ")


@pytest.mark.parametrize(
    "kind",
    [
        errors.ConfigurationError,
        errors.AuthenticationError,
        errors.InsufficientCreditsError,
        errors.ContentPolicyError,
        errors.RateLimitError,
        errors.OutcomeUnknownError,
        errors.TaskTimeoutError,
        errors.TaskFailedError,
        errors.APIConnectionError,
        errors.BadRequestError,
        errors.InternalServerError,
    ],
)
def test_every_error_ends_in_something_to_do(kind):
    assert next_steps(kind("x", task_id="t-1"), parse(["generate", "x"]))


def test_a_lost_answer_whose_task_is_known_is_collected():
    error = errors.OutcomeUnknownError("x", task_id="t-1")
    assert next_steps(error, parse(["generate", "x"]), "x.mp4") == ["videorouter wait t-1 -o x.mp4"]
