"""What ``doctor`` looks at on this machine: each check finds one thing and says how to mend it.

These checks send nothing to anyone; those that speak to the gateway are in ``probing.py``. No key is ever shown.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import socket
import sqlite3
import ssl
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

import videorouter
from videorouter.config import KEY_VARIABLES, check_key, check_url, is_loopback
from videorouter.errors import ConfigurationError
from videorouter.http import DEFAULT_PORTS, WireError
from videorouter.transport.proxies import choose_proxy, read_routes
from videorouter.transport.tls import count_authorities, make_context

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

State = Literal["ok", "info", "warn", "fail"]

_CORE = ("httpx", "anyio", "msgspec", "httptools")
_EXTRAS = {
    "cli": ("progress bars", ("rich",)),
    "sandbox": ("demo, sandbox and --sandbox", ("aiohttp", "av", "PIL")),
    "otel": ("traces", ("opentelemetry",)),
    "data": ("videos straight into object storage", ("fsspec", "s3fs", "gcsfs", "adlfs")),
    "ray": ("batches over many machines", ("ray", "pyarrow")),
}
_ENOUGH_FILES = 1100
_FEW_FILES = 256
_MEGABYTE = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Check:
    """What one check found.

    Attributes:
        group: The heading it stands under.
        name: What was looked at.
        state: ``ok``, ``info`` (nothing to do), ``warn`` or ``fail``.
        found: What was found.
        mend: What to do about it.
    """

    group: str
    name: str
    state: State
    found: str
    mend: str | None = None

    def to_dict(self) -> dict[str, str | None]:
        """The check as plain values."""
        return asdict(self)


def check_program() -> list[Check]:
    """Versions of Python, of this package, of what it needs and of its extras."""
    group = "program"
    here = Path(videorouter.__file__).parent
    found = [
        Check(group=group, name="videorouter", state="ok", found=f"{videorouter.__version__} in {here}"),
        _check_python(group),
    ]
    versions = {name: _version(name) for name in _CORE}
    missing = [name for name, version in versions.items() if version is None]
    if missing:
        mend = f"pip install {' '.join(missing)}"
        found.append(Check(group=group, name="packages", state="fail", found=f"missing: {missing}", mend=mend))
    else:
        words = ", ".join(f"{name} {version}" for name, version in versions.items())
        found.append(Check(group=group, name="packages", state="ok", found=words))
    for extra, (use, modules) in _EXTRAS.items():
        absent = [name for name in modules if importlib.util.find_spec(name) is None]
        found.append(
            Check(
                group=group,
                name=f"extra {extra}",
                state="info" if absent else "ok",
                found=f"not installed ({use})" if absent else f"installed ({use})",
                mend=f"if you want it: pip install '.[{extra}]' in a clone of videorouter" if absent else None,
            )
        )
    return found


def check_secret(args: argparse.Namespace, environ: Mapping[str, str], text: str | None) -> list[Check]:
    """Whether there is a key, and whether it looks like one."""
    group, name = "key", "key"
    set_ = [variable for variable in KEY_VARIABLES if environ.get(variable)]
    if text is not None:
        source = f"from --key-file {args.key_file}" if args.key_file else "from --key-command"
    elif set_:
        source, text = f"set in {set_[0]}", environ[set_[0]]
    else:
        hint = " (VIDEOROUTER_API_KEY belongs to another package)" if environ.get("VIDEOROUTER_API_KEY") else ""
        mend = "export INFRON_API_KEY=... (keys are made on the vendor's API page); without one: videorouter demo"
        return [Check(group=group, name=name, state="fail", found=f"none{hint}", mend=mend)]
    try:
        key = check_key(text).reveal()
    except ConfigurationError as error:
        return [Check(group=group, name=name, state="fail", found=f"{source}, not usable", mend=error.message)]
    found = [_judge_key(key, text, source, group)]
    if len(set_) > 1 and environ[set_[0]].strip() != environ[set_[1]].strip():
        words = f"{set_[0]} and {set_[1]} differ; {set_[0]} is used"
        found.append(Check(group=group, name="two keys", state="warn", found=words, mend=f"unset {set_[1]}"))
    if args.key_file and os.name == "posix" and Path(args.key_file).stat().st_mode & 0o077:
        words = f"{args.key_file} can be read by other users"
        found.append(Check(group=group, name="key file", state="warn", found=words, mend=f"chmod 600 {args.key_file}"))
    return found


def _judge_key(key: str, text: str, source: str, group: str) -> Check:
    if key[:1] == "<" or "API_KEY" in key:
        mend = "put your own key there: the vendor's API page makes one"
        return Check(group=group, name="key", state="fail", found=f"{source}: a placeholder, not a key", mend=mend)
    if key[0] in "'\"" or key[-1] in "'\"":
        mend = "set it again without the quotes"
        return Check(group=group, name="key", state="fail", found=f"{source}: quotes are part of it", mend=mend)
    if " " in key.removeprefix("Bearer "):
        mend = "set it again: a key has no spaces"
        return Check(group=group, name="key", state="warn", found=f"{source}: there is a space in it", mend=mend)
    extra = " (begins with 'Bearer', sent as it is)" if key.startswith("Bearer ") else ""
    extra += " (spaces around it are cut off)" if text != text.strip() else ""
    return Check(group=group, name="key", state="ok", found=f"{source}{extra}")


def check_base_url(url: str, source: str, *, allow_insecure: bool) -> Check:
    """Whether the gateway's address can be used."""
    try:
        checked = check_url(url, name="base_url", allow_insecure=allow_insecure)
    except ConfigurationError as error:
        return Check(group="gateway", name="base URL", state="fail", found=source, mend=error.message)
    if not urlsplit(checked).path.strip("/"):
        mend = f"the vendor's API is below /v1: perhaps {checked}/v1"
        return Check(group="gateway", name="base URL", state="warn", found=f"{checked} ({source})", mend=mend)
    return Check(group="gateway", name="base URL", state="ok", found=f"{checked} ({source})")


def find_proxy(url: str) -> str | None:
    """The proxy of an address, as the client itself chooses it; ``None`` without one, or without one that can be used."""
    try:
        return choose_proxy(read_routes(None, trust_env=True), url)
    except WireError:
        return None


def check_proxies(url: str, *, online: bool) -> list[Check]:
    """Whether a proxy stands in the way and can be used, and what the environment names beside it."""
    group, name = "gateway", "proxy"
    routes = read_routes(None, trust_env=True)
    try:
        proxy, problem = choose_proxy(routes, url), ""
    except WireError as error:
        proxy, problem = None, error.message
    unused = [
        Check(group=group, name="unused proxy", state="info", found=route.problem, mend="no request needs it")
        for route in routes
        if route.problem and not problem.startswith(route.problem)
    ]
    if problem:
        mend = "set it to something like http://proxy.example:3128, or unset it"
        return [Check(group=group, name=name, state="fail", found=problem, mend=mend), *unused]
    if proxy is None:
        return [Check(group=group, name=name, state="ok", found="none for this address"), *unused]
    return [_check_proxy(proxy, url, online=online), *unused]


def _check_proxy(proxy: str, url: str, *, online: bool) -> Check:
    group, name = "gateway", "proxy"
    parts = urlsplit(proxy)
    shown = f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}"
    host, port = parts.hostname or "", parts.port or DEFAULT_PORTS.get(parts.scheme, 1080)
    if online or is_loopback(host):
        try:
            socket.create_connection((host, port), timeout=5).close()
        except OSError as error:
            mend = "start it or correct its address, or unset HTTPS_PROXY, HTTP_PROXY and ALL_PROXY"
            found = f"{shown} cannot be reached: {error.strerror or error}"
            return Check(group=group, name=name, state="fail", found=found, mend=mend)
    if is_loopback(urlsplit(url).hostname or ""):
        mend = "export NO_PROXY=127.0.0.1,localhost"
        return Check(group=group, name=name, state="warn", found=f"{shown}, for an address on this machine", mend=mend)
    mend = "a proxy that drops quiet connections loses answers of minutes: ask it to allow 15 minutes"
    return Check(group=group, name=name, state="info", found=shown, mend=mend)


def check_certificates() -> Check:
    """Whether there are certificates to trust."""
    group, name = "gateway", "certificates"
    try:
        context = make_context()
    except (ssl.SSLError, OSError) as error:
        mend = "unset SSL_CERT_FILE and SSL_CERT_DIR, or let them name certificates in PEM that are there"
        return Check(group=group, name=name, state="fail", found=str(error.args[-1]), mend=mend)
    count, paths = count_authorities(context), ssl.get_default_verify_paths()
    if count is None:
        return Check(group=group, name=name, state="ok", found="the system decides (truststore)")
    if count:
        return Check(
            group=group, name=name, state="ok", found=f"{count} authorities from {paths.cafile or 'the system'}"
        )
    if paths.capath and any(Path(paths.capath).iterdir()):
        return Check(group=group, name=name, state="ok", found=f"authorities in {paths.capath}")
    mend = "install the system's (apt install ca-certificates; on macOS: Install Certificates.command)"
    words = "the system has none; certifi's are used"
    return Check(group=group, name=name, state="info", found=words, mend=mend)


def check_machine(now: float) -> list[Check]:
    """Open files, clock, disk, loopback and SQLite."""
    return [_check_files(), _check_clock(now), _check_disk(), _check_loopback(), _check_sqlite()]


def _check_python(group: str) -> Check:
    words = f"{platform.python_version()} ({platform.python_implementation()}, {platform.platform(terse=True)})"
    return Check(group=group, name="Python", state="ok", found=words)


def _check_files() -> Check:
    group, name = "machine", "open files"
    if sys.platform == "win32":
        return Check(group=group, name=name, state="ok", found="no limit on this system")
    import resource  # noqa: PLC0415  Windows has none

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= _ENOUGH_FILES:
        shown = "unlimited" if soft == resource.RLIM_INFINITY else str(soft)
        return Check(group=group, name=name, state="ok", found=f"at most {shown}")
    top = "" if hard == resource.RLIM_INFINITY else f", up to {hard}"
    mend = f"ulimit -n 4096{top}: every job in flight holds a socket"
    state: State = "warn" if soft < _FEW_FILES else "info"
    return Check(group=group, name=name, state=state, found=f"at most {soft}, which limits the jobs at once", mend=mend)


def _check_clock(now: float) -> Check:
    written = Path(videorouter.__file__).stat().st_mtime
    shown = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    if now < written - 86400:
        mend = "set the clock (timedatectl set-ntp true): certificates look not yet valid otherwise"
        return Check(group="machine", name="clock", state="fail", found=f"{shown} is before this install", mend=mend)
    return Check(group="machine", name="clock", state="ok", found=shown)


def _check_disk() -> Check:
    group, name = "machine", "disk"
    for folder in (Path.cwd(), Path(tempfile.gettempdir())):
        if not os.access(folder, os.W_OK | os.X_OK):
            mend = "save elsewhere with -o, or change its mode" if folder == Path.cwd() else "set TMPDIR"
            return Check(group=group, name=name, state="warn", found=f"{folder} cannot be written to", mend=mend)
    free = shutil.disk_usage(Path.cwd()).free
    words = f"{free / 1e9:.1f} GB free here"
    if free < 1000 * _MEGABYTE:
        state: State = "fail" if free < 50 * _MEGABYTE else "warn"
        return Check(group=group, name=name, state=state, found=words, mend="make room: a video takes 1 to 100 MB")
    return Check(group=group, name=name, state="ok", found=words)


def _check_loopback() -> Check:
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname(), timeout=5).close()
    except OSError as error:
        mend = "the sandbox needs it: look at the firewall and at `ip addr show lo`"
        return Check(group="machine", name="loopback", state="warn", found=f"127.0.0.1 fails: {error}", mend=mend)
    return Check(group="machine", name="loopback", state="ok", found="127.0.0.1 can be listened on and connected to")


def _check_sqlite() -> Check:
    words = f"SQLite {sqlite3.sqlite_version}"
    if sqlite3.sqlite_version_info < (3, 24):
        mend = "use a Python with a newer SQLite: batch journals need 3.24"
        return Check(group="machine", name="journal", state="warn", found=words, mend=mend)
    return Check(group="machine", name="journal", state="ok", found=f"{words}, batches can keep one")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
