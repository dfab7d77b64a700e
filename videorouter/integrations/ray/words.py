"""What workers, the ledger and the pace actor say to each other: small structs, encoded as MessagePack.

Nothing here holds an API key. A word that is added goes to the end of its struct, so that it stays readable.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import msgspec

from videorouter.integrations.ray.journal_rows import EndingRow, IntentRow
from videorouter.journal.states import ItemRow
from videorouter.models import ItemState

if TYPE_CHECKING:
    from collections.abc import Callable


class Claim(msgspec.Struct, frozen=True, array_like=True, tag="c"):
    """This worker takes a block: so many rows from ``block`` on, with the ids that its rows were given, if any."""

    block: int
    rows: int
    given: tuple[str | None, ...] = ()


class Meet(msgspec.Struct, frozen=True, array_like=True, tag="m"):
    """A row of a block that has run before, or of a journal that knows rows: who is it, and what is known of it?"""

    block: int
    position: int
    digest: str
    given: str | None = None
    spelling: str = ""


class Intend(msgspec.Struct, frozen=True, array_like=True, tag="i"):
    """A request is about to be sent, ``row`` as the journal writes it; ``micros`` are held, millionths of a dollar."""

    block: int
    micros: int
    row: IntentRow


class Accept(msgspec.Struct, frozen=True, array_like=True, tag="a"):
    """The gateway has accepted it."""

    block: int
    id: str
    task_id: str
    poll_url: str | None = None
    request_id: str | None = None


class Finish(msgspec.Struct, frozen=True, array_like=True, tag="f"):
    """What became of it, ``row`` as the journal writes it; ``inline`` are videos that came inside the answer.

    ``kept`` are the state of the item, what is told of it, and the phase and status of this sending, where it bought nothing and
    an earlier sending is in doubt still.
    """

    block: int
    row: EndingRow
    inline: tuple[tuple[int, str | None, bytes], ...] = ()
    kept: tuple[ItemState, str | None, str | None, int | None] | None = None


class Refuse(msgspec.Struct, frozen=True, array_like=True, tag="r"):
    """The row itself could not be read."""

    id: str
    position: int
    verb: str
    failure: bytes


class Leave(msgspec.Struct, frozen=True, array_like=True, tag="l"):
    """This worker has brought all rows of a block to where this run leaves them, and has said so before."""

    block: int


class Find(msgspec.Struct, frozen=True, array_like=True, tag="?"):
    """What is recorded of an item."""

    id: str


class FindInline(msgspec.Struct, frozen=True, array_like=True, tag="n"):
    """The videos that came inside its answer."""

    id: str


class FindFiles(msgspec.Struct, frozen=True, array_like=True, tag="s"):
    """Its saved files."""

    id: str


class PlanFile(msgspec.Struct, frozen=True, array_like=True, tag="p"):
    """A name for one of its videos, please: a path, or a URL of a file store."""

    id: str
    number: int
    path: str


class RecordFile(msgspec.Struct, frozen=True, array_like=True, tag="w"):
    """A file stands whole: under the name that was planned for it, or with another ending."""

    planned: str
    path: str
    size: int
    sha256: str | None = None
    media: str | None = None
    mismatches: str | None = None


class Stop(msgspec.Struct, frozen=True, array_like=True, tag="x"):
    """Nothing more should be sent, by anybody; ``kind`` names the error where it ends the whole run."""

    reason: str
    kind: str = ""


Word: TypeAlias = (
    Claim
    | Meet
    | Intend
    | Accept
    | Finish
    | Refuse
    | Leave
    | Find
    | FindInline
    | FindFiles
    | PlanFile
    | RecordFile
    | Stop
)


class Answer(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """What the ledger says to one word.

    Attributes:
        verdict: ``""`` is yes; ``fresh``: nobody has ever met a row of this block; ``wait``: ask again, another worker
            has it or money may come back; ``twice``: the id belongs to another row; ``changed``: it is not what it was;
            ``taken``: another worker has taken it over; ``over``: the money cap is reached.
        id: The item.
        recorded: What the journal has of it.
        settled: Whether this very run has brought it to where it is, so that it is not tried again.
        text: A file's name, or a reason.
        files: Names, sizes, digests, media facts and mismatches.
        inline: Videos by number.
        twice: Rows of a fresh block, counted from its first, whose ids belong to other rows.
    """

    verdict: str = ""
    id: str = ""
    recorded: ItemRow | None = None
    settled: bool = False
    text: str = ""
    files: tuple[tuple[str, int, str | None, str | None, str | None], ...] = ()
    inline: dict[int, bytes] = {}
    twice: tuple[int, ...] = ()


class Reply(msgspec.Struct, frozen=True, array_like=True):
    """What the ledger says to a group of words: one answer each, ``None`` for a plain yes.

    ``trouble`` says why nothing of the group was written; ``stopped`` why nothing more should be sent; ``gap`` is how many
    seconds to gather words for the next group, and ``least`` how many where little more can come.
    """

    answers: list[Answer | None]
    trouble: str | None = None
    stopped: str | None = None
    gap: float = 0.02
    least: float = 0.004


class Demand(msgspec.Struct, frozen=True, array_like=True):
    """What a worker has seen and wants in one lane since it last said so."""

    lane: tuple[str, str, int, str]
    used: int
    waiting: int
    successes: int = 0
    refusals: tuple[float | None, ...] = ()
    overloads: int = 0
    pause: float = 0.0


class Share(msgspec.Struct, frozen=True, array_like=True):
    """What a worker may do in one lane: jobs at once, requests a second, and seconds to hold still."""

    lane: tuple[str, str, int, str]
    limit: int
    rate: float | None = None
    pause: float = 0.0


class Shares(msgspec.Struct, frozen=True, array_like=True):
    """All shares of a worker. ``serial`` grows with each; ``every`` is how often to report, in seconds."""

    serial: int
    shares: tuple[Share, ...]
    every: float = 0.1


encode: Callable[[object], bytes] = msgspec.msgpack.Encoder().encode
read_words: Callable[[bytes], list[Word]] = msgspec.msgpack.Decoder(list[Word]).decode
read_reply: Callable[[bytes], Reply] = msgspec.msgpack.Decoder(Reply).decode
read_demands: Callable[[bytes], tuple[int, tuple[Demand, ...]]] = msgspec.msgpack.Decoder(
    tuple[int, tuple[Demand, ...]]
).decode
read_shares: Callable[[bytes], Shares] = msgspec.msgpack.Decoder(Shares).decode

_INLINE = 90_000
"""Bytes of an argument that Ray hands over with the call; larger ones go through its object store."""
_MOST_INLINE = 4_000_000
"""Bytes of all such arguments of a call: a video inside an answer goes through the store after all."""


def cut(message: bytes) -> list[bytes]:
    """A message as the arguments of a call that cost it least."""
    if len(message) > _MOST_INLINE:
        return [message]
    return [message[start : start + _INLINE] for start in range(0, len(message), _INLINE)]
