"""What each failure says of the user's money: the table, cell by cell, and what it interrupted, fact by fact."""

import itertools

import pytest

from videorouter.call.answers import ErrorAnswer, Unusable
from videorouter.call.failures import FailedAttempt, build_error
from videorouter.call.money import describe_interruption, describe_money
from videorouter.call.retry import MAY_BE_ACCEPTED, TABLE, Outcome, Raise, RequestKind
from videorouter.config import resolve
from videorouter.errors import OutcomeUnknownError, Phase
from videorouter.http import Attempt, ConnectStep, Response, WireError, WireFailure

SETTINGS = resolve({"api_key": "k"}, {})
NOTHING_LEFT = (
    Outcome.UNREACHED,
    Outcome.NAME_MISSING,
    Outcome.HOPELESS,
    Outcome.EXPIRED,
    Outcome.CLOSED,
    Outcome.UNSENT,
)
SAID_NO = (
    Outcome.OUT_OF_CREDIT,
    Outcome.THROTTLED,
    Outcome.FORBIDDEN,
    Outcome.MISSING,
    Outcome.REJECTED,
    Outcome.REDIRECT_REPEATING,
)
PERHAPS = tuple(outcome for outcome in Outcome if outcome not in NOTHING_LEFT + SAID_NO)
LOOK = " Look for the video in the vendor's dashboard, with request_id or the time of the call, before you decide what to do."
ACCEPTED = "An accepted task stays paid and goes on: nothing more is paid for looking at it."
READ = "It was a read: nothing was bought, and it can be repeated."
REVIEW = "No video was bought."
FILE = "The video is paid for: nothing more is paid for fetching it."
NOTHING_SENT = "Nothing was sent, so nothing was bought."
WORDS = {
    RequestKind.ONCE: (
        NOTHING_SENT,
        "Nothing was bought.",
        "It may have been accepted and billed, so it is not sent a second time." + LOOK,
    ),
    RequestKind.HONOURED: (
        NOTHING_SENT,
        "Nothing was bought.",
        "It may have been accepted and billed. The same call with the same idempotency_key buys nothing twice on a gateway "
        "that honours keys." + LOOK,
    ),
    RequestKind.UPLOAD: (
        "Nothing was sent. No video was bought.",
        "The file was not taken. No video was bought.",
        "Whether the file has arrived is unknown. No video was bought: upload it again.",
    ),
    RequestKind.READ: (NOTHING_SENT, READ, READ),
    RequestKind.POLL: (ACCEPTED, ACCEPTED, ACCEPTED),
    RequestKind.REVIEW: (REVIEW, REVIEW, REVIEW),
    RequestKind.FILE: (FILE, FILE, FILE),
}
CELLS = [
    (kind, outcome, WORDS[kind][known])
    for kind in RequestKind
    for known, outcomes in enumerate((NOTHING_LEFT, SAID_NO, PERHAPS))
    for outcome in outcomes
]


def test_the_three_groups_are_all_there_is():
    assert len(CELLS) == len(RequestKind) * len(Outcome)
    assert set(PERHAPS) >= MAY_BE_ACCEPTED


@pytest.mark.parametrize(
    ("kind", "outcome", "words"), CELLS, ids=[f"{kind.name}-{outcome.name}" for kind, outcome, _ in CELLS]
)
def test_each_cell_says_what_is_known(kind, outcome, words):
    assert describe_money(kind, outcome) == words


def fail(outcome):
    """An attempt that ended so, with what such an attempt leaves behind."""
    attempt = Attempt()
    attempt.host = "gateway.example:443"
    if outcome in NOTHING_LEFT:
        attempt.phase = Phase.CONNECTING
        error = WireError(
            WireFailure.CONNECTION_REFUSED, "connection refused at gateway.example:443", host=attempt.host
        )
        return FailedAttempt(outcome=outcome, attempt=attempt, error=error)
    attempt.phase = Phase.SENT
    if outcome is Outcome.LOST:
        error = WireError(WireFailure.RESET, "connection lost at gateway.example:443", host=attempt.host)
        return FailedAttempt(outcome=outcome, attempt=attempt, error=error)
    status = {Outcome.SERVER_ERROR: 500, Outcome.CONFLICT: 409, Outcome.KEY_CONFLICT: 409, Outcome.REDIRECT: 302}.get(
        outcome, {Outcome.REDIRECT_REPEATING: 307, Outcome.OTHER_STATUS: 451, Outcome.MISSING: 404}.get(outcome, 403)
    )
    response = Response(status=status, headers=())
    answer: ErrorAnswer | Unusable = ErrorAnswer(status=status, effective=status, message="so it is")
    if outcome in {Outcome.CUT, Outcome.UNUSABLE, Outcome.EMPTY_TASK, Outcome.PENDING, Outcome.PARTIAL}:
        response = Response(status=200, headers=())
        answer = Unusable(status=200, reason="odd", body=b"")
    return FailedAttempt(outcome=outcome, attempt=attempt, response=response, answer=answer)


RAISED = [
    (kind, outcome)
    for kind, outcome in itertools.product(RequestKind, Outcome)
    if TABLE[outcome][kind][1] not in {Raise.FILE, Raise.TASK, Raise.TIMEOUT, Raise.FIRST}
]


@pytest.mark.parametrize(("kind", "outcome"), RAISED, ids=[f"{kind.name}-{outcome.name}" for kind, outcome in RAISED])
def test_each_error_says_its_cell_and_no_other(kind, outcome):
    error = build_error(TABLE[outcome][kind][1], fail(outcome), SETTINGS, kind=kind)
    assert describe_money(kind, outcome) in error.message
    spoken = {words for row in WORDS.values() for words in row if words in error.message}
    assert spoken <= {describe_money(kind, outcome), "Nothing was bought.", REVIEW}
    assert ("billed" in error.message) == (kind.paid and outcome in PERHAPS) == isinstance(error, OutcomeUnknownError)


INTERRUPTED = [
    (Phase.QUEUED, None, None, "while it waited for a connection to gateway.example:443"),
    (Phase.CONNECTING, None, None, "while it connected to gateway.example:443"),
    (Phase.CONNECTING, ConnectStep.RESOLVE, None, "while the name of gateway.example:443 was looked up"),
    (Phase.CONNECTING, ConnectStep.CONNECT, None, "while it connected to gateway.example:443"),
    (Phase.CONNECTING, ConnectStep.HANDSHAKE, None, "during the TLS handshake with gateway.example:443"),
    (
        Phase.CONNECTING,
        ConnectStep.CONNECT,
        "127.0.0.1:3128",
        "while it connected to the proxy 127.0.0.1:3128, on the way to gateway.example:443",
    ),
    (Phase.CONNECTING, ConnectStep.HANDSHAKE, "127.0.0.1:3128", "during the TLS handshake with gateway.example:443"),
    (Phase.SENDING, ConnectStep.CONNECT, None, "while the request was being sent to gateway.example:443"),
    (Phase.SENT, None, None, "while it waited for the answer of gateway.example:443"),
    (Phase.ANSWERED, None, None, "while the answer of gateway.example:443 came in"),
    (Phase.COMPLETE, None, None, "when the answer of gateway.example:443 was there"),
    (Phase.UNKNOWN, None, None, "while it waited for gateway.example:443; how far the request came is unknown"),
]


@pytest.mark.parametrize(("phase", "step", "proxy", "words"), INTERRUPTED)
def test_a_deadline_says_what_it_interrupted(phase, step, proxy, words):
    attempt = Attempt()
    attempt.host, attempt.phase, attempt.step, attempt.proxy = "gateway.example:443", phase, step, proxy
    assert describe_interruption(attempt) == words
    error = WireError(WireFailure.DEADLINE, "deadline at gateway.example:443", host=attempt.host)
    ending = Raise.DEADLINE if phase in {Phase.QUEUED, Phase.CONNECTING} else Raise.DOUBT
    outcome = Outcome.EXPIRED if ending is Raise.DEADLINE else Outcome.LOST
    built = build_error(
        ending, FailedAttempt(outcome=outcome, attempt=attempt, error=error), SETTINGS, kind=RequestKind.ONCE
    )
    assert f"The deadline passed {words}." in built.message


def test_every_phase_is_spoken_of():
    assert {phase for phase, *_ in INTERRUPTED} == set(Phase)
