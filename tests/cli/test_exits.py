import pytest

from videorouter import errors
from videorouter.cli.exits import MEANINGS, Exit, exit_of, gravest
from videorouter.downloads import host_errors


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ConfigurationError, 2),
        (errors.InvalidRequestError, 2),
        (errors.BadRequestError, 3),
        (errors.NotFoundError, 3),
        (errors.UnprocessableEntityError, 3),
        (errors.AuthenticationError, 4),
        (errors.PermissionDeniedError, 4),
        (errors.InsufficientCreditsError, 5),
        (errors.ContentPolicyError, 6),
        (errors.RateLimitError, 7),
        (errors.OutcomeUnknownError, 8),
        (errors.TaskTimeoutError, 9),
        (errors.TaskPollError, 9),
        (errors.TaskFailedError, 10),
        (errors.APIConnectionError, 11),
        (errors.DeadlineExceededError, 11),
        (errors.DownloadError, 12),
        (errors.JournalError, 14),
        (errors.JournalBusyError, 14),
        (errors.BudgetExceededError, 15),
        (errors.InternalServerError, 1),
        (errors.UnexpectedResponseError, 1),
        (errors.ClientClosedError, 1),
    ],
)
def test_a_code_never_changes_its_meaning(error, code):
    assert exit_of(error("x")) == code


@pytest.mark.parametrize("error", sorted(set(host_errors.FILE_REFUSALS.values()), key=str))
def test_a_file_that_a_host_refuses_was_paid_for(error):
    assert exit_of(error("x")) is Exit.DOWNLOAD


def test_every_code_has_a_meaning():
    assert set(MEANINGS) == set(Exit)


def test_of_several_outcomes_the_one_to_act_on_first_decides():
    assert gravest([Exit.OK, Exit.REFUSED, Exit.IN_DOUBT, Exit.DOWNLOAD]) is Exit.IN_DOUBT
    assert gravest([Exit.OK, Exit.RUNNING, Exit.REFUSED]) is Exit.RUNNING
    assert gravest([Exit.OK, Exit.OK]) is Exit.OK
    assert gravest([]) is Exit.OK
