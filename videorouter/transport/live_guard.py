"""Keeps this process off the gateway's own hosts, so that a test run costs no money.

It is off until something turns it on, such as the pytest plugin; a child process inherits it through its environment.
Every way that leads to the network asks here before it connects; what a mock catches never comes this far. This file
never performs I/O.
"""

from __future__ import annotations

import os

VARIABLE = "VIDEOROUTER_BLOCKED_BY"
"""The environment variable with the reason for a child process, in words."""
DOMAINS = ("onerouter.pro", "infron.ai")
_BELOW = tuple(f".{domain}" for domain in DOMAINS)

_reasons: list[str] = []


def block(reason: str | None) -> None:
    """Refuse connections to the gateway's hosts from now on, or, with ``None``, permit them again.

    The error has the reason: who blocks, and how to go on.
    """
    # Kept twice: a test that empties os.environ must not permit them.
    _reasons.clear()
    os.environ.pop(VARIABLE, None)
    if reason:
        _reasons.append(reason)
        os.environ[VARIABLE] = reason


def find_reason() -> str | None:
    """Return why the gateway's hosts are blocked, or ``None``."""
    return _reasons[0] if _reasons else os.environ.get(VARIABLE) or None


def check_host(host: str) -> None:
    """Refuse a connection to the gateway (with or without a port) while it is blocked."""
    name = host.partition(":")[0].rstrip(".").lower()
    if name not in DOMAINS and not name.endswith(_BELOW):
        return
    reason = find_reason()
    if reason is not None:
        from videorouter.http import WireError, WireFailure  # noqa: PLC0415  the pytest plugin stays light

        msg = f"{name} is the real gateway, where calls cost money, and it is off limits here: {reason}"
        raise WireError(WireFailure.ADDRESS_REFUSED, msg, host=host)
