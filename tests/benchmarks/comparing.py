"""What the scripts of the comparison share: their options, the processes of their clients, their tables' heads."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable


def choose(
    words: str | None,
    clients: Iterable[str],
    cases: Iterable[str],
    *,
    kind: str,
    work: Callable[..., Coroutine[Any, Any, None]],
) -> tuple[list[str], list[str]]:
    """The clients and cases that the command line names; in a process made by ``order``, do that work and end."""
    parser = argparse.ArgumentParser(description=words)
    parser.add_argument("--only", action="append", choices=list(clients), help="these clients only")
    parser.add_argument(f"--{kind}", action="append", default=[], help=f"only {kind}s with this in their names")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = vars(parser.parse_args())
    if options["work"]:
        asyncio.run(work(*json.loads(options["work"])))
        sys.exit()
    texts = options[kind]
    return options["only"] or list(clients), [name for name in cases if not texts or any(one in name for one in texts)]


def order(script: str, *work: object) -> list[str]:
    """The command of a process that does a part of a script's work."""
    return [sys.executable, "-W", "ignore", script, "--work", json.dumps(work)]


def make_environment(folder: str | None = None) -> dict[str, str]:
    """No proxy; the authority of a folder's certificate, and that folder for what a client leaves on the disk."""
    kept = {key: value for key, value in os.environ.items() if "proxy" not in key.lower()}
    return kept if folder is None else {**kept, "SSL_CERT_FILE": f"{folder}/ca.pem", "TMPDIR": folder}


def write_certificate(folder: str) -> None:
    """An authority, and a certificate of its own for localhost."""
    import trustme

    authority = trustme.CA()
    authority.cert_pem.write_to_path(f"{folder}/ca.pem")
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(f"{folder}/cert.pem")


def merge_columns(names: list[str], columns: dict[str, list[str]]) -> dict[str, list[str]]:
    """Clients that did the same in every row share a column."""
    merged: dict[tuple, list[str]] = {}
    for name in names:
        merged.setdefault(tuple(columns[name]), []).append(name)
    return {", ".join(alike): list(cells) for cells, alike in merged.items()}


def tell_versions(distributions: list[str]) -> None:
    """Date, platform and packages, for the head of a table."""
    packages = ", ".join(f"{name} {version(name)}" for name in dict.fromkeys([*distributions, "httpx"]))
    print(f"{datetime.now(UTC).date()}, Python {platform.python_version()}, {platform.system()}; {packages}\n")
