"""A pretend gateway on loopback: the whole video API, real files, faults to order, no money.

``Sandbox`` runs one inside a program, ``serve`` runs one until a signal, ``python -m videorouter.sandbox`` does so from
a shell. Nothing is loaded until one of the names is used. This package never imports the client it is used to test, so
that it cannot agree with the client's mistakes, never contacts any other machine, and never starts by itself.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from videorouter.sandbox.faults import Fault, Faults
    from videorouter.sandbox.host import Sandbox, ThreadedSandbox
    from videorouter.sandbox.records import RequestRecord
    from videorouter.sandbox.serving import serve
    from videorouter.sandbox.settings import Options, Settings
    from videorouter.sandbox.store import Charge

__all__ = [
    "Charge",
    "Fault",
    "Faults",
    "Options",
    "RequestRecord",
    "Sandbox",
    "Settings",
    "ThreadedSandbox",
    "serve",
]

_HOMES = {
    "Charge": "store",
    "Fault": "faults",
    "Faults": "faults",
    "Options": "settings",
    "RequestRecord": "records",
    "Sandbox": "host",
    "Settings": "settings",
    "ThreadedSandbox": "host",
    "serve": "serving",
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = importlib.import_module(f"{__name__}.{home}")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] not in {"aiohttp", "av", "PIL"}:
            raise
        raise ModuleNotFoundError(
            f"The sandbox needs the package {error.name!r}, which is not installed. "
            "Install the extra, in a clone of videorouter: pip install '.[sandbox]'",
            name=error.name,
        ) from error
    value: object = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
