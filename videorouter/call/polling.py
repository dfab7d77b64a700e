"""When to look at a task next, and when to give up.

Task states, as the gateway words them::

    created, in_progress, running, anything unknown  -> pending: look again
    completed, succeeded, success                    -> completed: collect the outputs
    failed, error, cancelled, canceled, expired      -> failed: raise, the gateway's word is final

A look that fails says nothing about the task, which is paid: it is repeated until the deadline. Only three answers end
the looking: 401 and 403 (the key is not let in), and 404 later than a minute after acceptance, since a new task may
not be visible at once. The job stays accepted even then.

This file knows no clock and throws no dice: both are arguments.
"""

from __future__ import annotations

FIRST = 0.25
GROWTH = 1.4
CAP = 10.0
NEWS = 60.0
"""Seconds after acceptance during which a 404 may only mean that the task is not visible yet."""
EMPTY_LOOKS = 2
"""Looks at a task that is completed without an address, before that counts as its end."""

_ERROR_FIRST = 0.5
_ERROR_GROWTH = 1.6
_ERROR_CAP = 10.0


def next_interval(polls: int, elapsed: float, dice: float) -> float:
    """Seconds until the next look.

    Args:
        polls: Looks so far.
        elapsed: Seconds since acceptance.
        dice: A number from 0 to 1.
    """
    del elapsed
    grown = min(CAP, FIRST * GROWTH ** min(polls, 40))
    return grown * (0.8 + 0.4 * dice)


def pause_after_error(errors: int, dice: float, retry_after: float | None = None) -> float:
    """Seconds until the next look after one that failed.

    Args:
        errors: Failed looks in a row, this one included.
        dice: A number from 0 to 1.
        retry_after: Seconds that the gateway asked for.
    """
    if retry_after is not None:
        return retry_after + dice * max(0.5, 0.2 * retry_after)
    return min(_ERROR_CAP, _ERROR_FIRST * _ERROR_GROWTH ** min(errors - 1, 20)) * (0.5 + 0.5 * dice)


def must_stop(status: int | None, since: float) -> bool:
    """Whether a failed look ends the looking.

    Args:
        status: Of its answer, or of the error in its answer; ``None`` when there was none.
        since: Seconds since acceptance, or since the first look when that is not known.
    """
    return status in {401, 403} or (status == 404 and since >= NEWS)
