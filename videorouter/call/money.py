"""What a failure means for the user's money, and what it has interrupted: words that are made from facts alone.

The facts are what was sent (the kind of the request), what is known to have become of it (its outcome), and how far the
attempt got.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from videorouter.call.retry import Outcome, RequestKind
from videorouter.errors import Phase
from videorouter.http import ConnectStep

if TYPE_CHECKING:
    from videorouter.http import Attempt

UNSENT = frozenset(
    {
        Outcome.UNREACHED,
        Outcome.NAME_MISSING,
        Outcome.HOPELESS,
        Outcome.EXPIRED,
        Outcome.CLOSED,
        Outcome.UNSENT,
    }
)
SAYS_NO = frozenset({Outcome.OUT_OF_CREDIT, Outcome.THROTTLED, Outcome.FORBIDDEN, Outcome.MISSING, Outcome.REJECTED})
_LOOK_FIRST = "Look for the video in the vendor's dashboard, with request_id or the time of the call, before you decide what to do."
_BUYS_ONCE = "The same call with the same idempotency_key buys nothing twice on a gateway that honours keys."
_FETCHED = "The video is paid for: nothing more is paid for fetching it."
_PAID_ALREADY = "An accepted task stays paid and goes on: nothing more is paid for looking at it."
_FREE = "It was a read: nothing was bought, and it can be repeated."
_MONEY: dict[RequestKind, tuple[str, str, str]] = {
    # what was sent:     nothing left,    the gateway said no,    it may have been taken
    RequestKind.ONCE: (
        "Nothing was sent, so nothing was bought.",
        "Nothing was bought.",
        f"It may have been accepted and billed, so it is not sent a second time. {_LOOK_FIRST}",
    ),
    RequestKind.HONOURED: (
        "Nothing was sent, so nothing was bought.",
        "Nothing was bought.",
        f"It may have been accepted and billed. {_BUYS_ONCE} {_LOOK_FIRST}",
    ),
    RequestKind.UPLOAD: (
        "Nothing was sent. No video was bought.",
        "The file was not taken. No video was bought.",
        "Whether the file has arrived is unknown. No video was bought: upload it again.",
    ),
    RequestKind.READ: ("Nothing was sent, so nothing was bought.", _FREE, _FREE),
    RequestKind.POLL: (_PAID_ALREADY, _PAID_ALREADY, _PAID_ALREADY),
    RequestKind.REVIEW: ("No video was bought.", "No video was bought.", "No video was bought."),
    RequestKind.FILE: (_FETCHED, _FETCHED, _FETCHED),
}
SENT_WHAT = {
    RequestKind.ONCE: "request",
    RequestKind.HONOURED: "request",
    RequestKind.UPLOAD: "upload",
    RequestKind.READ: "read",
    RequestKind.POLL: "poll of the task",
    RequestKind.REVIEW: "poll of the upload",
    RequestKind.FILE: "download",
}
_INTERRUPTED = {
    Phase.QUEUED: "while it waited for a connection to {0}",
    Phase.CONNECTING: "while it connected to {0}",
    Phase.SENDING: "while the request was being sent to {0}",
    Phase.SENT: "while it waited for the answer of {0}",
    Phase.ANSWERED: "while the answer of {0} came in",
    Phase.COMPLETE: "when the answer of {0} was there",
    Phase.UNKNOWN: "while it waited for {0}; how far the request came is unknown",
}
_CONNECTING = {
    ConnectStep.RESOLVE: "while the name of {0} was looked up",
    ConnectStep.HANDSHAKE: "during the TLS handshake with {0}",
}


def describe_money(kind: RequestKind, outcome: Outcome) -> str:
    """What a failure means for the user's money: by what was sent, and by what is known to have become of it."""
    if outcome in UNSENT:
        return _MONEY[kind][0]
    return _MONEY[kind][1 if outcome in SAYS_NO or outcome is Outcome.REDIRECT_REPEATING else 2]


def describe_interruption(attempt: Attempt) -> str:
    """What the end of an attempt has interrupted, by its facts alone."""
    place = attempt.host or "the gateway"
    words = _INTERRUPTED[attempt.phase]
    if attempt.phase is Phase.CONNECTING:
        words = _CONNECTING.get(attempt.step, words) if attempt.step is not None else words
        if attempt.proxy is not None and attempt.step is ConnectStep.CONNECT:
            place = f"the proxy {attempt.proxy}, on the way to {place}"
    return words.format(place)
