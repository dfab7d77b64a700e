"""What the exit codes mean, and which one an error gets. Scripts rely on them: a code never changes its meaning."""

from __future__ import annotations

import enum

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


class Exit(enum.IntEnum):
    """The exit codes, each with one meaning."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    REFUSED = 3
    KEY = 4
    CREDIT = 5
    POLICY = 6
    RATE = 7
    IN_DOUBT = 8
    RUNNING = 9
    TASK_FAILED = 10
    NOT_SENT = 11
    DOWNLOAD = 12
    MISSING_PART = 13
    JOURNAL = 14
    BUDGET = 15
    HUNG_UP = 129
    INTERRUPTED = 130
    BROKEN_PIPE = 141
    TERMINATED = 143


MEANINGS: dict[Exit, str] = {
    Exit.OK: "everything that was asked for is done",
    Exit.FAILURE: "something else failed, or a check of `doctor` did",
    Exit.USAGE: "the command line, the configuration or an argument cannot be used; nothing was sent. Or the input of a batch "
    "ended at a row that cannot be read; what came before it was sent",
    Exit.REFUSED: "the gateway refused the request; nothing was bought",
    Exit.KEY: "the gateway does not accept the API key, or does not let this account in; nothing was bought",
    Exit.CREDIT: "the account is out of credit; nothing was bought",
    Exit.POLICY: "moderation refused the prompt, the input or the finished video",
    Exit.RATE: "the gateway asks for a slower pace, and the deadline left no time for it; nothing was bought",
    Exit.IN_DOUBT: "the request may have been accepted and billed, and no answer came; it was not sent again",
    Exit.RUNNING: "the job is accepted and still running; collect it with `videorouter wait TASK_ID`",
    Exit.TASK_FAILED: "the gateway accepted the job and says that it failed",
    Exit.NOT_SENT: "no connection could be made, or the time was up before anything was sent; nothing was bought",
    Exit.DOWNLOAD: "the video exists and could not be saved whole; its URL is in the message",
    Exit.MISSING_PART: "a part that this command needs is not installed",
    Exit.JOURNAL: "the batch's journal cannot be used",
    Exit.BUDGET: "the batch's money cap is reached",
    Exit.HUNG_UP: "hung up (SIGHUP: the terminal is gone); as interrupted",
    Exit.INTERRUPTED: "interrupted (Ctrl-C); what was accepted is printed with the command that collects it",
    Exit.BROKEN_PIPE: "whoever read the output went away",
    Exit.TERMINATED: "terminated (SIGTERM); as interrupted",
}

_GRAVEST = (
    Exit.IN_DOUBT,
    Exit.RUNNING,
    Exit.DOWNLOAD,
    Exit.KEY,
    Exit.CREDIT,
    Exit.BUDGET,
    Exit.JOURNAL,
    Exit.TASK_FAILED,
    Exit.POLICY,
    Exit.REFUSED,
    Exit.RATE,
    Exit.NOT_SENT,
)


def exit_of(error: BaseException) -> Exit:
    """The exit code of one error."""
    from videorouter import errors as e  # noqa: PLC0415  argparse answers --help without it

    table: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], Exit], ...] = (
        # First: a file host's refusal is of its status's class, too, and that one would say that nothing was bought.
        (e.DownloadError, Exit.DOWNLOAD),
        ((e.ConfigurationError, e.InvalidRequestError), Exit.USAGE),
        (e.OutcomeUnknownError, Exit.IN_DOUBT),
        ((e.TaskTimeoutError, e.TaskPollError), Exit.RUNNING),
        (e.TaskFailedError, Exit.TASK_FAILED),
        (e.ContentPolicyError, Exit.POLICY),
        ((e.AuthenticationError, e.PermissionDeniedError), Exit.KEY),
        (e.InsufficientCreditsError, Exit.CREDIT),
        (e.RateLimitError, Exit.RATE),
        (e.InternalServerError, Exit.FAILURE),
        (e.APIStatusError, Exit.REFUSED),
        ((e.APIConnectionError, e.DeadlineExceededError), Exit.NOT_SENT),
        (e.JournalError, Exit.JOURNAL),
        (e.BudgetExceededError, Exit.BUDGET),
    )
    for kinds, code in table:
        if isinstance(error, kinds):
            return code
    return Exit.FAILURE


def gravest(codes: Iterable[Exit]) -> Exit:
    """The code of a command that did several things: the one that its user must act on first."""
    met = set(codes)
    for code in _GRAVEST:
        if code in met:
            return code
    return max(met, default=Exit.OK)
