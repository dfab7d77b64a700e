"""The whole retry table of ``test_caller`` once more, unchanged, on each of other people's clients."""

from __future__ import annotations

import functools

import calling
import pytest
from call import test_caller
from clients import CLIENTS, SILENT

from videorouter import Phase

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

TABLE = (
    "test_a_lost_answer_is_never_sent_twice",
    "test_a_silent_gateway_ends_at_the_deadline_with_one_charge",
    "test_an_answer_in_doubt_keeps_its_evidence",
    "test_a_cut_answer_that_names_its_task_can_still_be_collected",
    "test_a_write_that_fails_before_the_body_is_complete_is_retried",
    "test_a_refusal_is_waited_out",
    "test_a_retry_after_past_the_deadline_is_raised_at_once",
    "test_a_refusal_at_the_deadline_is_raised_as_itself",
    "test_a_malformed_retry_after_makes_a_503_no_refusal",
    "test_no_retries_means_none_at_all",
    "test_a_rejection_is_raised_as_its_class",
    "test_a_rejection_under_http_200_is_raised_as_its_class",
    "test_moderation_has_one_class",
    "test_an_account_without_credit_ends_the_call_at_the_first_answer",
    "test_the_wait_in_the_words_of_a_429_is_kept",
    "test_an_honoured_key_is_sent_again_with_the_same_bytes",
    "test_honoured_retries_are_counted",
    "test_a_complaint_about_the_key_raises_the_first_failure",
    "test_a_later_rejection_does_not_undo_an_attempt_in_doubt",
    "test_a_dead_gateway_does_not_undo_an_attempt_in_doubt",
    "test_a_closed_client_sends_nothing",
    "test_a_read_is_repeated",
    "test_a_read_that_goes_on_failing_raises_its_class",
)
TOLD_BY_PHASES = {
    "test_a_silent_gateway_ends_at_the_deadline_with_one_charge",
    "test_a_write_that_fails_before_the_body_is_complete_is_retried",
}
"""What a client that tells nobody how far a request came cannot show: ``test_caller_clients`` has its own answers."""


@pytest.fixture(autouse=True)
async def client(request, monkeypatch):
    name = request.param
    monkeypatch.setattr("random.random", lambda: 0.0)
    if name in SILENT:
        monkeypatch.setattr(test_caller, "LEFT", {*calling.LEFT, Phase.UNKNOWN})
    async with CLIENTS[name](request) as options:
        monkeypatch.setattr(calling, "BUILT_ON", {"adaptive": False, **options})
        yield name


def _lend(name: str):
    test = getattr(test_caller, name)
    clients = [client for client in CLIENTS if client != "ours" and not (client in SILENT and name in TOLD_BY_PHASES)]

    @pytest.mark.parametrize("client", clients, indirect=True)
    @functools.wraps(test)
    async def lent(**given):
        await test(**given)

    return lent


for _name in TABLE:
    globals()[_name] = _lend(_name)
