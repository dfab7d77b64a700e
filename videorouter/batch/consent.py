"""When so much of what was paid for would be bought again that somebody must have asked for it, and the error that says so."""

from __future__ import annotations

from typing import TYPE_CHECKING

from videorouter.errors import JournalMismatchError
from videorouter.journal.survey import PAID, StreamSurvey

if TYPE_CHECKING:
    from videorouter.journal.journal import Journal
    from videorouter.journal.states import ItemRow
    from videorouter.models import BatchItem

_FEW = 10
"""Consent is needed where what would be bought again, this many times, is at least all that was paid for."""


def needs_consent(again: int, paid: int) -> bool:
    """Whether nothing may be sent, unless somebody has asked for it."""
    return again > 0 and again * _FEW >= paid


class StreamGuard:
    """Stops a stream where a tenth or more of what it has met so far would be bought again under another spelling."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._survey = StreamSurvey(journal)
        self._met = 0
        self._again = 0

    async def check(self, row: ItemRow | None, body: bytes, before: BatchItem | None) -> None:
        """Look at a request and its row before it is sent; ``before`` is the item whose video a step of a chain edits.

        Raises:
            JournalMismatchError: It would be bought again, as would too many others. It was not sent.
        """
        if row is not None and row.digest:
            self._met += row.state in PAID
            return
        taken = await self._survey.take(body, None if before is None else before.prompt or "")
        self._again += taken
        if needs_consent(self._again, self._met + self._again):
            self._again = again = await self._survey.count()  # some are met by now
            if needs_consent(again, self._met + again):
                wanted = f"{self._met + again:,} requests of {self._journal.path} that this stream wants so far"
                sent = "The last of them was not sent, and nothing more is"
                raise name_again(f"{again:,} of the {wanted}", sent, self._journal)


def name_again(bought: str, sent: str, journal: Journal) -> JournalMismatchError:
    """Build the error of a batch that would buy again what was paid for, and that nobody has consented to."""
    return JournalMismatchError(
        f"{bought} would be bought again: the input wants the same prompts with another option, model or id, and does not meet "
        f"what was bought. {sent}. Put the input and the options back as they were; to buy them anew pass new=True (--new), or "
        "take another journal.",
        path=str(journal.path),
    )
