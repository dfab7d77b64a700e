"""What the first pass over an input finds: how many requests, of which models, which rows are bad, and what looks odd."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from videorouter.batch.entries import FIELDS, read_entry
from videorouter.cli.console import clean
from videorouter.cli.input_fields import find_typos
from videorouter.cli.input_text import BadRow, has_words
from videorouter.errors import ConfigurationError, InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from videorouter.batch.entries import Entry
    from videorouter.cli.console import Console
    from videorouter.cli.input_text import Row

_MOST_NAMES = 1000
_MOST_TOLD = 1000
_MARKED = re.compile(r"(#|//|/\*|<!--|;|>|[-*+•]\s|\d{1,4}[.)]\s)|.*:$")
"""A line of a text that is hardly a prompt as it stands: a heading, a comment, a mark of a list."""


class Survey:
    """The findings about one input. ``models`` counts requests, ``None`` those that name no model."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.rows: int = 0
        self.models: Counter[str | None] = Counter()
        self.edits: int = 0
        self.bad: list[BadRow] = []
        self.names: set[str] = set()
        self.repeated: list[str] = []
        self.marked: list[str] = []
        self._ids: set[int] = set()
        self._nameless: Counter[str] = Counter()
        self._with_prompt = 0

    @property
    def total(self) -> int:
        """Items: the entries, and the edits that follow from them."""
        return self.models.total()

    def add(self, row: Row | BadRow, *, text: bool = False) -> None:
        """Look at one row; ``text`` says that it is a line of a text."""
        self.rows += 1
        if isinstance(row, BadRow):
            self.bad.append(row)
            return
        value = row.value
        if isinstance(value, dict):
            if len(self.names) < _MOST_NAMES:
                self.names.update(value)
            if value.get("prompt") is None:
                self._nameless.update(list(value))
            self._note_id(value.get("id"), row.place)
        try:
            entry = check_entry(value)
        except InvalidRequestError as error:
            self.bad.append(BadRow(row.place, error.message.removesuffix(".")))
            return
        self._with_prompt += 1
        self.models.update(_list_models(entry))
        self.edits += isinstance(value, dict) and entry.video is not None
        if text and _MARKED.match(value):
            self.marked.append(f"{row.place} {value[:50]!r}")

    def check_whole(self) -> None:
        """Raise where there is no entry, or the whole input keeps its prompts under another name."""
        if not self.rows:
            raise ConfigurationError(f"{self.name} holds no entries.")
        if self._nameless and not self._with_prompt:
            found = ", ".join(f"{clean(key)} ({count:,})" for key, count in self._nameless.most_common(12))
            raise ConfigurationError(
                f"No entry of {self.name} has a prompt. Keys found: {found}. Name the one that holds the prompts with "
                "--prompt-field."
            )

    def tell(self, console: Console) -> None:
        """Say what is bad and what looks odd, before anything is sent."""
        for row in self.bad[:_MOST_TOLD]:
            console.tell(f"{console.style('cannot be read:', 'red')} {clean(row.place)}: {clean(row.reason)}")
        if len(self.bad) > _MOST_TOLD:
            console.tell(f"... and {len(self.bad) - _MOST_TOLD:,} more")
        for words in self._list_notes():
            console.tell(f"{console.style('note:', 'yellow')} {words}")

    def say_bad(self) -> str:
        """How many rows cannot be read, and what to do about them."""
        count = f"{len(self.bad):,} of {self.rows:,} rows"
        return f"{count} of {self.name} cannot be read. Correct them, or leave them out with --skip-bad-rows."

    def _list_notes(self) -> Iterator[str]:
        if self.edits:
            yield f"{self.edits:,} of {self.rows:,} rows name a video (video_id): they are edits of it, not new videos."
        if self.marked:
            shown = ", ".join(clean(each) for each in self.marked[:5])
            yield (
                f"{len(self.marked):,} lines look like headings, comments or items of a list, and are prompts as they stand: "
                f"{shown}{', ...' if len(self.marked) > 5 else ''}."
            )
        for each in self.repeated[:20]:
            yield f"{clean(each)}: it will be refused. Give each entry an id of its own."
        for name, meant in find_typos(self.names, FIELDS):
            yield f"{clean(name)!r} goes to the gateway as a field of that name. Is it meant to be {meant!r}?"

    def _note_id(self, given: object, place: str) -> None:
        if isinstance(given, str | int) and given != "":
            before = len(self._ids)
            self._ids.add(hash(str(given)))
            if len(self._ids) == before:
                self.repeated.append(f"{place}: the id {given!r} came before")


def check_entry(value: object) -> Entry:
    """The entry of a row; raises ``InvalidRequestError`` where it could not be sent."""
    entry = read_entry(value)
    for step in (entry, *entry.then):
        prompt = step.prompt
        if isinstance(prompt, str) and has_words(prompt):
            continue
        if prompt is not None and not isinstance(prompt, str):
            raise InvalidRequestError(f"its prompt is no text but {type(prompt).__name__}")
        if prompt:
            raise InvalidRequestError(f"its prompt {prompt[:40]!r} has no words")
        keys = ", ".join(list(value)[:8])[:200] if isinstance(value, dict) and step is entry else ""
        named = f". Its fields are {keys}; --prompt-field names the one that holds the prompt" if keys else ""
        raise InvalidRequestError(f"it has no prompt{named}")
    return entry


def _list_models(entry: Entry) -> list[str | None]:
    return [str(model) if (model := (step.options or {}).get("model")) else None for step in (entry, *entry.then)]
