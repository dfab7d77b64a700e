"""Words on a terminal: ``videorouter generate | edit | wait | download | models | balance | batch | sandbox | ...``.

``main`` parses with argparse and nothing else, then loads the one command that was asked for. Data goes to stdout,
words and progress go to stderr, and the exit code says what became of the money (``exits.py``). Nothing here decides
what may be sent: that is the client's business.
"""

from __future__ import annotations

import errno
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    from importlib import import_module  # noqa: PLC0415  each command loads what it needs

    from videorouter.cli.exits import Exit  # noqa: PLC0415
    from videorouter.cli.parser import parse  # noqa: PLC0415

    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a character gets an escape, not a traceback.
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
    try:
        args = parse(sys.argv[1:] if argv is None else argv)
        run = import_module(args.module).run
        code: int = run(args)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted before anything was sent\n")
        return Exit.INTERRUPTED
    except BrokenPipeError as error:
        from videorouter.cli.console import abandon  # noqa: PLC0415

        abandon(sys.stdout)
        if error.errno == errno.EPIPE:
            return Exit.BROKEN_PIPE
        sys.stderr.write(f"error: {error.strerror}\n")
        return Exit.FAILURE
    return code
