"""When to look at a task next, and when to give up.

Task states, as the gateway words them::

    created, in_progress, running, anything unknown  -> pending: look again
    completed, succeeded, success                    -> completed: collect the outputs
    failed, error, cancelled, canceled, expired      -> failed: raise, the gateway's word is final

This file knows no clock and throws no dice: both are arguments.
"""

from __future__ import annotations

FIRST = 0.5
GROWTH = 1.3
CAP = 10.0


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
