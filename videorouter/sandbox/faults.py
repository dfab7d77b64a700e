"""Faults to order: what can go wrong, where, how often, and whether it costs money.

A fault is a value. It comes from a rule (``faults.add``, or POST ``/_sandbox/faults``) or from one request's
``X-Sandbox-Fault`` header, both in the same words: ``status=503; retry-after=2``. This file decides which fault strikes;
it never touches a socket.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from fnmatch import fnmatchcase
from typing import Any

KINDS: dict[str, str] = {
    "status": "an error with this HTTP status",
    "error_200": "an error under HTTP 200",
    "moderation": "a refusal of the prompt: where = 422, 403, 200 or task",
    "no_credit": "the account is out of credit: status = 403, 429 or 402",
    "rate_limit": "too many requests; how long to wait stands in the text only",
    "stall": "silence, for some seconds or for ever",
    "reset": "the connection is reset (RST)",
    "close": "the connection is closed (FIN)",
    "cut": "the body ends early, then the connection closes",
    "length": "a Content-Length that is wrong by some bytes",
    "slow": "the answer, byte by byte",
    "bad_json": "an answer that is no JSON",
    "html": "a page instead of JSON",
    "empty": "an answer without data",
    "lost_task": "the task is not found",
    "failed_task": "the task fails",
    "task_word": "a task's state goes by another word, with a URL beside it or without",
    "wrong_seconds": "the video has another length than was asked for",
    "wrong_ratio": "the video has another shape than was asked for",
    "no_sound": "the video has no sound, whatever was asked for",
    "expired": "the result file is gone",
    "no_range": "a Range header is ignored",
    "failed_review": "the review of an upload fails",
    "rejected_review": "the review of an upload rejects it",
}
PLACES = ("connect", "request", "head", "body", "answer")
_MAIN = {
    "status": "status",
    "error_200": "code",
    "moderation": "where",
    "no_credit": "status",
    "rate_limit": "seconds",
    "task_word": "word",
    "wrong_seconds": "seconds",
    "wrong_ratio": "ratio",
    "stall": "seconds",
    "reset": "at",
    "close": "at",
    "cut": "byte",
    "length": "by",
    "slow": "interval",
    "html": "status",
    "empty": "where",
    "failed_task": "reason",
    "expired": "status",
    "failed_review": "reason",
    "rejected_review": "reason",
}
_PLACED = {"stall", "reset", "close"}
_CHARGED = {"cut", "length", "slow", "bad_json", "html", "empty", "lost_task", "expired", "no_range", "task_word"}
_CHARGED |= {"wrong_seconds", "wrong_ratio", "no_sound"}
_GAVE_UP = {504, 520, 521, 522, 523, 524, 525, 526}


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """One thing that goes wrong.

    Args:
        kind: One of ``KINDS``.
        path: Strikes only where the path matches this pattern (``*/generations``, ``/video/*``).
        method: Strikes only this HTTP method.
        prompt: Strikes only prompts that contain this.
        model: Strikes only this model.
        nth: Strikes only the n-th match, counted from 1.
        every: Strikes every n-th match.
        probability: Strikes a match with this probability, by the sandbox's seed.
        times: Strikes at most this often.
        charged: Whether the job is accepted, and paid for, all the same. ``None``: as the kind suggests.
        delay: Seconds to wait before anything else happens.
        status: HTTP status of an error, a page or an expired file; of ``no_credit`` 403, 429 or 402.
        retry_after: Seconds in a ``Retry-After`` header.
        retry_after_form: ``seconds`` or ``date``.
        message: The error's message.
        type: The error's type.
        code: The error's code; of ``error_200`` the code in the body.
        at: Where a stall, reset or close happens: ``connect`` (accepted, nothing read), ``request`` (after ``byte``
            bytes of a connection's first request were read), ``head`` (the body is not read), ``body`` (all is read, nothing answered) or ``answer``
            (after ``byte`` bytes of the answer, its head included).
        byte: Where in the request or the answer; of ``cut`` the bytes of the body that are sent.
        seconds: How long a stall lasts; ``None``: for ever. Of ``rate_limit`` the wait that its text names, of
            ``wrong_seconds`` the length (``None``: 4).
        ratio: The shape of a ``wrong_ratio`` (``None``: 1:1).
        interval: Seconds between the bytes of a slow answer.
        by: Bytes by which the length is wrong; negative promises too little.
        where: Place of a moderation (``422``, ``403``, ``200``, ``task``), or form of an empty answer (``list``,
            ``null``, ``missing``, ``nothing``).
        reason: Why a task or a review failed.
        word: What a task's state is called, of a ``task_word``, a ``failed_task`` and a ``moderation`` of a task.
        url: A URL that stands beside the word of a ``task_word``, whether the video is ready or not.
        body: Body to send instead of the kind's own.
        content_type: Its type.
        headers: Headers to add to the answer.
        error: ``code`` or ``object``: the form of an ``error_200``, and of a moderation under 200.

    Raises:
        ValueError: The fault makes no sense.
    """

    kind: str
    path: str | None = None
    method: str | None = None
    prompt: str | None = None
    model: str | None = None
    nth: int | None = None
    every: int | None = None
    probability: float | None = None
    times: int | None = None
    charged: bool | None = None
    delay: float = 0.0
    status: int | None = None
    retry_after: float | None = None
    retry_after_form: str = "seconds"
    message: str | None = None
    type: str | None = None
    code: int | str | None = None
    at: str = ""
    byte: int | None = None
    seconds: float | None = None
    interval: float = 0.3
    by: int = -10
    where: str = ""
    reason: str | None = None
    ratio: str | None = None
    word: str | None = None
    url: str | None = None
    body: str | None = None
    content_type: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    error: str = "code"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"There is no fault {self.kind!r}. The kinds are: {', '.join(sorted(KINDS))}.")
        if self.kind == "status" and (self.status is None or not 200 <= self.status <= 599):
            raise ValueError(f"A status fault needs a status from 200 to 599, got {self.status!r}: 'status=503'.")
        if self.at and (self.at not in PLACES or self.kind not in _PLACED):
            raise ValueError(
                f"at={self.at!r} fits no {self.kind} fault: it is one of {', '.join(PLACES)}, of {_PLACED}."
            )
        if self.at in {"connect", "request", "head"} and (self.prompt is not None or self.model is not None):
            raise ValueError(f"A fault at {self.at!r} happens before prompt and model are read: match by path instead.")
        if self.at == "connect" and (self.path is not None or self.method is not None):
            raise ValueError("A fault at 'connect' happens before the path is read: use at='request' with byte=...")
        if self.kind == "moderation" and self.where not in {"", "422", "403", "200", "task"}:
            raise ValueError(f"Moderation happens at 422, 403, 200 or task, not at {self.where!r}.")
        if self.kind == "no_credit" and self.status not in {None, 402, 403, 429}:
            raise ValueError(f"Out of credit is said with 403, 429 or 402, not with {self.status!r}.")
        if self.kind == "task_word" and not self.word:
            raise ValueError("A task_word fault needs its word: 'task_word=SUCCESS'.")
        if self.retry_after_form not in {"seconds", "date"}:
            raise ValueError(f"retry_after_form is 'seconds' or 'date', not {self.retry_after_form!r}.")
        if self.probability is not None and not 0 <= self.probability <= 1:
            raise ValueError(f"probability is from 0 to 1, not {self.probability!r}.")

    @property
    def place(self) -> str:
        """Where it happens, the kind's usual place when the rule names none."""
        return self.at or ("body" if self.kind in _PLACED else "answer")

    @property
    def is_charged(self) -> bool:
        """Whether a job that it strikes is accepted and paid for."""
        if self.charged is not None:
            return self.charged
        if self.kind == "status":
            return self.status in _GAVE_UP
        if self.kind in _PLACED:
            return self.place in {"body", "answer"}
        return self.kind in _CHARGED


def parse_fault(text: str, **more: Any) -> Fault:
    """Return the fault that a line of words means.

    Args:
        text: ``kind``, or ``kind=main value``, then ``; name=value`` for any other field, dashes or underscores alike.
        more: Further fields.

    Raises:
        ValueError: The words make no sense.
    """
    values: dict[str, Any] = {}
    for place, part in enumerate(piece.strip() for piece in text.split(";")):
        if not part:
            continue
        name, equals, value = (piece.strip() for piece in part.partition("="))
        name = name.lower().replace("-", "_")
        if place == 0:
            values["kind"] = name
            if not equals:
                continue
            if name not in _MAIN:
                raise ValueError(f"The fault {name!r} takes no value of its own, got {part!r}.")
            name = _MAIN[name]
        values[name] = _read_value(name, value)
    return make_fault({**values, **more})


def make_fault(values: Mapping[str, Any]) -> Fault:
    """Return the fault with these fields.

    Args:
        values: Fields by name; ``kind`` is needed.

    Raises:
        ValueError: A field is unknown, or one is missing.
    """
    known = {item.name for item in fields(Fault)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ValueError(f"A fault has no field {', '.join(unknown)}. It has: {', '.join(sorted(known))}.")
    if "kind" not in values:
        raise ValueError(f"A fault needs a kind, one of: {', '.join(sorted(KINDS))}.")
    return Fault(**{name: _read_value(name, value) for name, value in values.items()})


def _read_value(name: str, value: Any) -> Any:
    if not isinstance(value, str):
        return str(value) if name == "where" else value
    types = {item.name: str(item.type) for item in fields(Fault)}
    kind = types.get(name, "str")
    try:
        if "bool" in kind:
            return {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}[value.lower()]
        if kind == "int | str | None":
            return int(value) if value.lstrip("-").isdigit() else value
        if "float" in kind:
            return float(value)
        if "int" in kind:
            return int(value)
    except (KeyError, ValueError) as error:
        raise ValueError(f"{name}={value!r} is not a {kind.removesuffix(' | None')}.") from error
    return value


@dataclass(slots=True)
class _Rule:
    number: int
    fault: Fault
    seen: int = 0
    struck: int = 0


class Faults:
    """The rules of one sandbox, in the order in which they were added; the first that matches strikes.

    Args:
        seed: Seeds the dice of ``probability``.
    """

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self._lock = threading.Lock()
        self._rules: list[_Rule] = []
        self._numbers = 0
        self._dice = random.Random(seed)  # noqa: S311 - no secret
        self.at_connection: bool = False
        self.at_head: bool = False

    def add(self, fault: Fault | str, **more: Any) -> int:
        """Add a rule and return its number.

        Args:
            fault: A ``Fault``, a kind, or words such as ``"status=503; retry-after=2"``.
            more: Further fields of ``Fault``: ``path``, ``prompt``, ``nth``, ``times``, ``charged`` and so on.

        Raises:
            ValueError: The fault makes no sense.
        """
        made = replace(fault, **more) if isinstance(fault, Fault) else parse_fault(fault, **more)
        with self._lock:
            self._numbers += 1
            self._rules.append(_Rule(self._numbers, made))
            self._note_places()
            return self._numbers

    def remove(self, number: int) -> bool:
        """Remove one rule and say whether it was there.

        Args:
            number: What ``add`` returned.
        """
        with self._lock:
            before = len(self._rules)
            self._rules = [rule for rule in self._rules if rule.number != number]
            self._note_places()
            return len(self._rules) < before

    def clear(self) -> None:
        """Remove every rule and throw the dice anew."""
        with self._lock:
            self._rules.clear()
            self._dice.seed(self._seed)
            self._note_places()

    def pick(
        self, stage: str, *, method: str = "", path: str = "", prompt: str | None = None, model: str | None = None
    ) -> Fault | None:
        """Return the fault that strikes now, and count it.

        Args:
            stage: ``connect``, ``request``, ``head`` or ``call``.
            method: HTTP method.
            path: Path of the request.
            prompt: Prompt, where there is one.
            model: Model, where there is one.
        """
        if not self._rules:
            return None
        with self._lock:
            for rule in self._rules:
                place = rule.fault.place
                if (place if place in {"connect", "request", "head"} else "call") != stage:
                    continue
                if self._matches(rule.fault, method, path, prompt, model) and self._strikes(rule):
                    rule.struck += 1
                    return rule.fault
        return None

    def __iter__(self) -> Iterator[Fault]:
        with self._lock:
            return iter([rule.fault for rule in self._rules])

    def __len__(self) -> int:
        return len(self._rules)

    def describe(self) -> list[dict[str, Any]]:
        """Return every rule with its number and how often it matched and struck, ready for JSON."""
        with self._lock:
            return [
                {"id": rule.number, **describe_fault(rule.fault), "matched": rule.seen, "struck": rule.struck}
                for rule in self._rules
            ]

    def _note_places(self) -> None:
        places = {rule.fault.place for rule in self._rules}
        self.at_connection = bool(places & {"connect", "request"})
        self.at_head = "head" in places

    @staticmethod
    def _matches(fault: Fault, method: str, path: str, prompt: str | None, model: str | None) -> bool:
        return (
            (fault.path is None or fnmatchcase(path, fault.path))
            and (fault.method is None or fault.method.upper() == method)
            and (fault.prompt is None or fault.prompt in (prompt or ""))
            and (fault.model is None or fault.model == model)
        )

    def _strikes(self, rule: _Rule) -> bool:
        fault = rule.fault
        if fault.times is not None and rule.struck >= fault.times:
            return False
        rule.seen += 1
        if fault.nth is not None and rule.seen != fault.nth:
            return False
        if fault.every is not None and rule.seen % fault.every:
            return False
        return fault.probability is None or self._dice.random() < fault.probability


def describe_fault(fault: Fault) -> dict[str, Any]:
    """Return the fields of a fault that were set, ready for JSON.

    Args:
        fault: The fault.
    """
    found: dict[str, Any] = {}
    for item in fields(fault):
        value = getattr(fault, item.name)
        if item.name == "headers":
            if value:
                found["headers"] = dict(value)
        elif item.default is MISSING or value != item.default:
            found[item.name] = value
    return found
