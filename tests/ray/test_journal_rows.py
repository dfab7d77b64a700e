"""What the ledger writes for many processes at once stands in the journal as what one batch writes: no cluster."""

from __future__ import annotations

import msgspec
import pytest
from batching import read

from videorouter.integrations.ray.journal_rows import write_endings, write_intents
from videorouter.journal.journal import Ending, Intent, Journal

pytestmark = pytest.mark.anyio

IDS = ["d1-1", "d2-1", "d1-2", "given", "d1-3", "d3-1", "d2-2"]


async def test_what_is_written_in_groups_is_what_is_written_one_by_one(tmp_path):
    rows = {}
    intents = [
        Intent(
            id=item,
            position=position,
            digest="d4" if item == "given" else item.partition("-")[0],
            verb="generate",
            model="m",
            request='{"prompt":"An otter"}',
            idempotency_key=f"k{position}",
        )
        for position, item in enumerate(IDS)
    ]
    for way in ("alone", "together"):
        journal = await Journal.open(tmp_path / f"{way}.db")
        if way == "alone":
            for intent in intents:
                await journal.record_intent(intent)
                await journal.record_ending(Ending(id=intent.id, state="done", cost=0.3, result="{}", request_id="r"))
        else:
            plain = [msgspec.structs.astuple(one) for one in intents]
            unnamed = [("" if row[0] != "given" else "given", *row[1:]) for row in plain]
            ids = []
            for group in (unnamed[:3], unnamed[3:]):
                ids += await journal.transact(lambda database, group=group: write_intents(database, group, 1.0))
            assert ids == IDS
            endings = [(item, "done", 0.0, 0.3, 0.0, "{}", None, None, "r") for item in ids]
            await journal.transact(lambda database, endings=endings: write_endings(database, endings, 2.0))
        await journal.aclose()
        columns = "id, position, state, digest, model, request, idempotency_key, sends, cost, result, request_id"
        rows[way] = read(tmp_path / f"{way}.db", f"SELECT {columns} FROM items ORDER BY position")
    assert rows["alone"] == rows["together"]
