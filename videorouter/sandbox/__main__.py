"""``python -m videorouter.sandbox``: a sandbox until Ctrl-C; the first line on stdout is JSON and says where it is."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from typing import TYPE_CHECKING

from videorouter.sandbox.serving import serve
from videorouter.sandbox.settings import MODES, PROFILES

if TYPE_CHECKING:
    from videorouter.sandbox.host import Sandbox


def main() -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m videorouter.sandbox", description="A pretend video gateway.")
    parser.add_argument("--mode", choices=MODES, default="held", help="how a POST is answered")
    parser.add_argument("--profile", choices=PROFILES, default="quick", help="how long a video takes")
    parser.add_argument("--speed", type=float, default=1.0, metavar="FACTOR", help="divides every latency")
    parser.add_argument("--seed", type=int, default=0, help="seeds latencies and faults")
    parser.add_argument("--port", type=int, default=0, help="port of API and gallery (0: any)")
    parser.add_argument("--files-port", type=int, default=0, help="port of the result files (0: any)")
    parser.add_argument("--state", metavar="FILE", help="keep everything in this file (default: in memory)")
    parser.add_argument("--max-concurrency", type=int, metavar="N", help="refuse more unfinished jobs than this")
    parser.add_argument("--rate", type=float, metavar="N", help="refuse more jobs a second than this")
    given = parser.parse_args()
    try:
        asyncio.run(serve(on_start=_announce, **vars(given)))
    except KeyboardInterrupt:
        return 130
    except (OSError, ValueError) as error:
        sys.stderr.write(f"The sandbox could not start: {error}\n")
        return 1
    return 0


def _announce(sandbox: Sandbox) -> None:
    places = {"base_url": sandbox.base_url, "files_url": sandbox.files_url, "gallery": sandbox.url}
    sys.stdout.write(json.dumps(places) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
