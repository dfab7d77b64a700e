"""The options of a client: key, addresses, limits. They are checked here, before anything is sent.

The key is a ``Secret`` from the first line on. This file reads the environment it is given and performs no I/O.
"""

from __future__ import annotations

import math
import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn, TypeAlias

import msgspec

from videorouter._version import __version__
from videorouter.errors import ConfigurationError
from videorouter.http import DEFAULT_PORTS, Origin, origin_of, split_url
from videorouter.plain import Number, as_number, as_text, as_url
from videorouter.record import AS_IS
from videorouter.secrets import Secret, seal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

VENDOR_BASE_URL = "https://video.onerouter.pro/v1"
VENDOR_MEDIA_BASE_URL = "https://media.onerouter.pro/v1"
VENDOR_MODELS_BASE_URL = "https://llm.onerouter.pro/v1"
VENDOR_HOSTS = frozenset({"video.onerouter.pro", "media.onerouter.pro", "llm.onerouter.pro"})
KEY_VARIABLES = ("INFRON_API_KEY", "ONEROUTER_API_KEY")
BASE_URL_VARIABLE = "INFRON_VIDEO_BASE_URL"
NO_DEADLINE = 30 * 86400.0
"""Seconds that ``timeout=None`` means: every wait ends some day."""

Idempotency = Literal["unknown", "honoured"]
Timeout: TypeAlias = Number | Annotated[msgspec.UnsetType, AS_IS] | None
"""Seconds of one call, ``None`` for thirty days; unset, the client's own."""

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_KEYS_KEPT = 15


def refuse_pickling(client: object) -> NoReturn:
    """Raise with the reason why a client cannot be pickled."""
    msg = (
        f"{type(client).__name__} cannot be pickled or copied: it holds connections, a key and the limits of its own "
        "process. Make a client in each process; with_options gives one with other settings that shares them."
    )
    raise TypeError(msg)


def read_environment(environ: Mapping[str, str]) -> dict[str, str | Secret]:
    """Read this package's variables, and no others; keys are sealed."""
    found: dict[str, str | Secret] = {}
    for name in KEY_VARIABLES:
        if environ.get(name):
            found[name] = Secret(environ[name])
    if environ.get(BASE_URL_VARIABLE):
        found[BASE_URL_VARIABLE] = environ[BASE_URL_VARIABLE]
    return found


class ClientSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The options of a client, checked and filled in with the defaults."""

    api_key: Secret | None
    api_key_source: Callable[[], str | Awaitable[str]] | None
    base_url: str
    media_base_url: str
    models_base_url: str
    failover_urls: tuple[str, ...]
    origins: frozenset[Origin]
    user_agent: str
    auth_scheme: str | None = None
    model: str | None = None
    timeout: float = 900.0
    max_retries: int = 4
    max_concurrency: int | None = None
    adaptive: bool = True
    idempotency: Idempotency = "unknown"
    refused_statuses: frozenset[int] = frozenset()
    allow_insecure: bool = False
    allow_private_hosts: bool = False
    allowed_hosts: frozenset[str] | None = None
    max_download_bytes: int = 4 * 2**30
    default_headers: tuple[tuple[str, str], ...] = ()
    proxy: str | None = None
    trust_env: bool = True
    hook_timeout: float = 5.0
    seen_keys: list[Secret] = msgspec.field(default_factory=list)
    """Keys that a callable has returned, so that a server's echo of them can be removed."""

    @property
    def account(self) -> tuple[object, ...]:
        """The gateway and the key, which uploads and a catalogue belong to."""
        return self.base_url, self.media_base_url, self.models_base_url, self.api_key or self.api_key_source

    @property
    def loopback(self) -> bool:
        """Whether the base URL is on this machine (the sandbox): then files may be, too."""
        return is_loopback(origin_of(self.base_url)[1])

    def redact(self, text: str) -> str:
        """Return ``text`` without the key."""
        if self.api_key is not None:
            return self.api_key.redact(text)
        for key in self.seen_keys:
            text = key.redact(text)
        return text

    def quotes_key(self, data: bytes) -> bool:
        """Whether bytes contain the key as it was sent; a quick check before ``redact``."""
        if self.api_key is not None:
            return self.api_key.is_in(data)
        return any(key.is_in(data) for key in self.seen_keys)

    def remember(self, key: Secret) -> None:
        """Remember a key that a callable returned, among the last few."""
        if key not in self.seen_keys:
            self.seen_keys[:-_KEYS_KEPT] = ()
            self.seen_keys.append(key)


def default_user_agent() -> str:
    """The agent string of this package: library defaults are refused by the vendor's Cloudflare (error 1010)."""
    return f"videorouter/{__version__} (asyncio client for AI video)"


OPTIONS: frozenset[str] = frozenset(ClientSettings.__struct_fields__) - {"api_key_source", "origins", "seen_keys"}
"""The options of a client, by name."""


def resolve(options: Mapping[str, Any], environ: Mapping[str, str | Secret]) -> ClientSettings:
    """Check the options of a client and fill the rest from the environment; a refusal says how to fix it."""
    unknown = sorted(options.keys() - OPTIONS)
    if unknown:
        msg = f"AsyncVideoRouter() got an unexpected keyword argument {unknown[0]!r}"
        raise TypeError(msg)
    given = dict(options)
    insecure = bool(given.get("allow_insecure"))
    base_url = given.pop("base_url", None)
    if base_url is None:
        base_url = environ.get(BASE_URL_VARIABLE) or VENDOR_BASE_URL
    base = check_url(base_url, name="base_url", allow_insecure=insecure)
    vendor = origin_of(base)[1] in VENDOR_HOSTS
    media = _follow(given.pop("media_base_url", None), VENDOR_MEDIA_BASE_URL, base, vendor=vendor)
    models = _follow(given.pop("models_base_url", None), VENDOR_MODELS_BASE_URL, base, vendor=vendor)
    media = check_url(media, name="media_base_url", allow_insecure=insecure)
    models = check_url(models, name="models_base_url", allow_insecure=insecure)
    failover = given.pop("failover_urls", ())
    if isinstance(failover, str):
        fail("failover_urls is a list of base URLs, not one string.")
    failover = tuple(check_url(url, name="failover_urls", allow_insecure=insecure) for url in failover)
    secret, source = _key(given.pop("api_key", None), environ)
    user_agent = given.pop("user_agent", None)
    return ClientSettings(
        api_key=secret,
        api_key_source=source,
        base_url=base,
        media_base_url=media,
        models_base_url=models,
        failover_urls=failover,
        origins=frozenset(origin_of(url) for url in (base, media, models, *failover)),
        user_agent=check_header("User-Agent", user_agent if user_agent is not None else default_user_agent())[1],
        **{name: _CHECKS[name](value) for name, value in given.items()},
    )


def fail(message: str) -> NoReturn:
    """Raise ``ConfigurationError``; nothing has been sent."""
    raise ConfigurationError(message)


def check_key(value: object) -> Secret:
    """Check and trim a key; one that a header cannot carry is refused without being quoted."""
    value = seal(value)
    if not isinstance(value, Secret):
        fail("The API key must be text. Pass api_key=... or set INFRON_API_KEY.")
    trimmed = _trim(value)
    problem = _find_problem(trimmed)
    if problem is not None:
        fail(problem)
    return trimmed


def _trim(key: Secret) -> Secret:
    return Secret(key.reveal().strip())


def _find_problem(key: Secret) -> str | None:
    text = key.reveal()
    if not text:
        return "The API key is empty. Pass api_key=... or set INFRON_API_KEY to a key from the vendor's API page."
    if not all(" " <= char <= "~" for char in text):
        return (
            "The API key has characters that cannot stand in a header (it must be printable ASCII). It was probably "
            "copied with a line break or a typographic character: copy it again from the vendor's API page."
        )
    return None


def _key(
    given: object, environ: Mapping[str, object]
) -> tuple[Secret | None, Callable[[], str | Awaitable[str]] | None]:
    if callable(given):
        return None, given
    if given is None:
        given = next((environ[name] for name in KEY_VARIABLES if environ.get(name)), None)
    if given is None:
        fail(
            "No API key. Set INFRON_API_KEY (or ONEROUTER_API_KEY), or pass api_key=... . Keys are made on the "
            "vendor's API page. To try without one, run `videorouter demo` or start `videorouter sandbox`."
        )
    return check_key(given), None


def check_url(url: object, *, name: str, allow_insecure: bool = False) -> str:
    """Check a base URL and strip its slash: https, or http for loopback or where ``allow_insecure`` says so."""
    text = (as_url(url) or "").strip()
    if not text:
        fail(f"{name} must be a URL such as {VENDOR_BASE_URL!r}, not {url!r}.")
    parts = split_url(text)
    if parts is None or parts.scheme not in DEFAULT_PORTS or not parts.hostname:
        fail(f"{name}={text!r} is not a usable URL: it needs https:// and a host, such as {VENDOR_BASE_URL!r}.")
    if parts.username is not None or parts.password is not None:
        fail(f"{name} must not hold a user name or password; the key goes into api_key=.")
    if parts.query or parts.fragment:
        fail(f"{name}={text!r} must not have a query or a fragment.")
    if parts.scheme == "http" and not allow_insecure and not is_loopback(parts.hostname):
        fail(
            f"{name}={text!r} would send the API key in the clear. Use https://, or pass allow_insecure=True if "
            "that network is really yours."
        )
    return text.rstrip("/")


def is_loopback(host: str) -> bool:
    """Whether a host name or literal is this machine."""
    import ipaddress  # noqa: PLC0415  only for literals; the import costs milliseconds

    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_timeout(value: object, *, name: str = "timeout") -> float:
    """Return seconds as a float; ``None`` means thirty days."""
    if value is None:
        return NO_DEADLINE
    if type(value) is float and 0.0 < value <= NO_DEADLINE:
        return value
    seconds = as_number(value)
    if seconds is None or not math.isfinite(seconds) or seconds <= 0:
        fail(f"{name} must be a positive number of seconds (or None), not {value!r}.")
    return min(float(seconds), NO_DEADLINE)


def check_count(value: object, name: str, *, least: int) -> int:
    """Check a whole number that is not below ``least``."""
    count = as_number(value)
    if not isinstance(count, int) or count < least:
        fail(f"{name} must be a whole number of at least {least}, not {value!r}.")
    return count


def check_header(name: object, value: object, *, argument: str = "default_headers") -> tuple[str, str]:
    """Check a header field: it can be sent as it is, and is not set by this client itself."""
    if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
        fail(f"{argument}: {name!r} is not a header name.")
    if not isinstance(value, str):
        fail(f"{argument}: the value of {name} must be text, not {type(value).__name__}.")
    if any((char < " " and char != "\t") or char == "\x7f" or ord(char) > 255 for char in value):
        fail(f"{argument}: the value of {name} has characters that cannot stand in a header.")
    lowered = name.lower()
    if lowered == "authorization":
        fail(f"{argument}: pass the key as api_key=, where it is kept secret and bound to the gateway's hosts.")
    if lowered == "idempotency-key":
        fail(f"{argument}: pass the key as idempotency_key=, so that results, errors and the journal carry it too.")
    if lowered in {"host", "content-length", "transfer-encoding", "connection", "content-type", "accept-encoding"}:
        fail(f"{argument}: {name} is set by the client itself.")
    return name, value.strip()


def check_headers(headers: Mapping[str, str] | None, argument: str) -> tuple[tuple[str, str], ...]:
    """Check each header field."""
    if headers is None:
        return ()
    if not hasattr(headers, "items"):
        fail(f"{argument} must be a mapping of names to values.")
    return tuple(check_header(name, value, argument=argument) for name, value in headers.items())


def _follow(given: str | None, vendors: str, base: str, *, vendor: bool) -> str:
    if given is None or (as_url(given) or "").rstrip("/") == vendors:
        return vendors if vendor else base
    return given


def _scheme(value: str | None) -> str | None:
    if value is None or value == "":
        return None
    if not _HEADER_NAME.fullmatch(str(value)):
        fail(f"auth_scheme must be None (the bare key) or a word such as 'Bearer', not {value!r}.")
    return value


def _model(value: object) -> str | None:
    model = as_text(value)
    if value is not None and not (model or "").strip():
        fail(f"model must be a non-empty text, not {value!r}.")
    return model


def _idempotency(value: object) -> Idempotency:
    if value not in ("unknown", "honoured"):
        fail(
            "idempotency must be 'unknown' (the default: the gateway documents nothing) or 'honoured' (you know "
            f"that it replays the answer of a repeated key), not {value!r}."
        )
    return "honoured" if value == "honoured" else "unknown"


def _statuses(values: Iterable[int]) -> frozenset[int]:
    values = tuple(values)
    for status in values:
        if type(status) is not int or not 400 <= status <= 599:
            fail(f"refused_statuses must be HTTP statuses from 400 to 599, not {status!r}.")
    return frozenset(values)


def _hosts(values: Iterable[str] | None) -> frozenset[str] | None:
    if values is None:
        return None
    if isinstance(values, str):
        fail("allowed_hosts is a list of host names, not one string.")
    return frozenset(str(host).lower().rstrip(".") for host in values)


_CHECKS: dict[str, Callable[[Any], Any]] = {
    "auth_scheme": _scheme,
    "model": _model,
    "timeout": check_timeout,
    "max_retries": lambda value: check_count(value, "max_retries", least=0),
    "max_concurrency": lambda value: None if value is None else check_count(value, "max_concurrency", least=1),
    "adaptive": bool,
    "idempotency": _idempotency,
    "refused_statuses": _statuses,
    "allow_insecure": bool,
    "allow_private_hosts": bool,
    "allowed_hosts": _hosts,
    "max_download_bytes": lambda value: check_count(value, "max_download_bytes", least=1),
    "default_headers": lambda value: check_headers(value, "default_headers"),
    "proxy": lambda value: value,
    "trust_env": bool,
    "hook_timeout": lambda value: check_timeout(value, name="hook_timeout"),
}
"""How each option is checked that needs no other."""
