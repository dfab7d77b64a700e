"""What workers, the ledger and the pace actor say to each other: small structs, encoded as MessagePack.

Nothing here holds an API key. A word that is added goes to the end of its struct, so that it stays readable.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import msgspec

from videorouter.io.journal import Ending, Intent
from videorouter.rules.ledger import Recorded

if TYPE_CHECKING:
    from collections.abc import Callable


class Meet(msgspec.Struct, frozen=True, array_like=True, tag="m"):
    """A row of the input has come up: who is it, and what is known of it?"""

    position: int
    digest: str
    given: str | None = None


class Intend(msgspec.Struct, frozen=True, array_like=True, tag="i"):
    """Its request is about to be sent; ``micros`` is what it may cost, in millionths of a dollar."""

    intent: Intent
    micros: int = 0


class Accept(msgspec.Struct, frozen=True, array_like=True, tag="a"):
    """The gateway has accepted it."""

    id: str
    task_id: str
    poll_url: str | None = None
    request_id: str | None = None


class Finish(msgspec.Struct, frozen=True, array_like=True, tag="f"):
    """What became of it."""

    ending: Ending


class Refuse(msgspec.Struct, frozen=True, array_like=True, tag="r"):
    """The row itself could not be read."""

    id: str
    position: int
    verb: str
    failure: bytes


class Leave(msgspec.Struct, frozen=True, array_like=True, tag="l"):
    """This worker is done with it for this run."""

    id: str


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
    """A file stands whole under its name."""

    path: str
    size: int
    sha256: str | None = None


class Stop(msgspec.Struct, frozen=True, array_like=True, tag="x"):
    """Nothing more should be sent, by anybody; ``kind`` names the error where it ends the whole run."""

    reason: str
    kind: str = ""


Word: TypeAlias = (
    Meet | Intend | Accept | Finish | Refuse | Leave | Find | FindInline | FindFiles | PlanFile | RecordFile | Stop
)


class Answer(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """What the ledger says to one word.

    Attributes:
        verdict: ``""`` is yes; ``wait``: ask again, another worker has it or money may come back; ``twice``: the id
            belongs to another row; ``taken``: another worker has taken it over; ``over``: the money cap is reached.
        id: The item.
        recorded: What the journal has of it.
        settled: Whether this very run has brought it to where it is, so that it is not tried again.
        text: A file's name, or a reason.
        files: Names and digests.
        inline: Videos by number.
    """

    verdict: str = ""
    id: str = ""
    recorded: Recorded | None = None
    settled: bool = False
    text: str = ""
    files: tuple[tuple[str, str | None], ...] = ()
    inline: dict[int, bytes] = {}


class Reply(msgspec.Struct, frozen=True, array_like=True):
    """What the ledger says to a group of words: one answer each, ``None`` for a plain yes.

    ``trouble`` says why nothing of the group was written; ``stopped`` why nothing more should be sent; ``gap`` is how many
    seconds to gather words for the next group.
    """

    answers: list[Answer | None]
    trouble: str | None = None
    stopped: str | None = None
    gap: float = 0.02


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
