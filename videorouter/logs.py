"""The package's log. An error in a handler changes nothing."""

from __future__ import annotations

import logging

_log = logging.getLogger("videorouter")


def report(level: int, message: str, *arguments: object, error: BaseException | None = None) -> None:
    """Log a line, with the traceback of an error."""
    try:
        _log.log(level, message, *arguments, exc_info=error)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # noqa: BLE001, S110  a handler that is broken, or cancels itself, must not end a paid call
        pass
