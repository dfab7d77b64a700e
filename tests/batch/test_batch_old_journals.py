"""Coming back with a journal that an earlier version wrote: nothing that was paid for is paid again."""

from __future__ import annotations

from collections import Counter
from contextlib import nullcontext

import pytest
from batching import KEPT, read, unpack

from videorouter import AsyncVideoRouter, JournalMismatchError
from videorouter.sandbox import Sandbox

pytestmark = pytest.mark.anyio

NAMES = sorted(path.stem for path in KEPT.glob("*.json"))
ROWS = "SELECT id, position, state, sends, cost, unknown FROM items ORDER BY position, created"
AFTER = {"accepted": "done", "sending": "in_doubt", "not_sent": "done"}
"""What becomes of a row by coming back, where it does not stay as it was."""


def revive(value: object) -> object:
    """Entries as the batch takes them: a path in JSON is a path."""
    if isinstance(value, dict):
        if value.keys() == {"path"}:
            return KEPT / str(value["path"])
        return {name: revive(each) for name, each in value.items()}
    return [revive(each) for each in value] if isinstance(value, list) else value


def list_prompts(entries: list) -> Counter[str]:
    """How often each prompt is asked for, chains included."""
    asked: Counter[str] = Counter()
    for entry in entries:
        fields = {"prompt": entry} if isinstance(entry, str) else entry
        asked[fields.get("prompt")] += 1
        asked += list_prompts(fields.get("then", []))
    return asked


def test_each_kind_of_journal_is_kept():
    assert set(NAMES) == {
        *("chains", "command", "forgotten", "forgotten-chains", "plain", "resent", "running", "running-held"),
        *("settled", "uploads"),
    }


def respell(entry: object) -> object:
    """The same request in other words: as a mapping, its fields in another order, its numbers with a point."""
    fields = {"prompt": entry} if isinstance(entry, str) else dict(entry)
    if "then" in fields:
        fields["then"] = [respell(step) for step in fields["then"]]
    spelt = {
        name: float(value) if name in {"seed", "guidance"} and value < 2**53 else value
        for name, value in fields.items()
    }
    return {"resolution": None, **dict(reversed(spelt.items()))}


SPELLINGS = {
    "as it was": lambda entries: entries,
    "respelt": lambda entries: [respell(entry) for entry in entries],
    "in another order": lambda entries: [*entries[1:], entries[0]],
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("name", NAMES)
async def test_coming_back_buys_nothing_twice(tmp_path, name, spelling):
    facts = unpack(name, tmp_path)
    # Of what was uploaded, or is forgotten, only the old rule's digest is known.
    refused = spelling == "respelt" and name in {"uploads", "forgotten"}
    entries = SPELLINGS[spelling](facts["entries"])
    state = tmp_path / "running.sandbox"
    known = state if state.exists() else None
    async with Sandbox(mode="mixed", profile="instant", state=known) as sandbox:
        for prompt in ("bad words", "no GPU"):
            sandbox.faults.add("moderation", prompt=prompt)
        async with AsyncVideoRouter("key", base_url=sandbox.base_url) as router:
            options = {"model": "m", **facts["options"]}
            for _ in range(2):
                batch = router.generate_many(revive(entries), journal=tmp_path / "run.db", **options)
                with pytest.raises(JournalMismatchError, match="bought again") if refused else nullcontext():
                    items = [item async for item in batch]
        charges = Counter(await sandbox.charges())
    if refused:
        assert not charges
        kept = {row[0]: row[2] for row in read(tmp_path / "run.db", ROWS)}
        assert all(kept[row[0]] == AFTER.get(row[2], row[2]) for row in facts["rows"] if row[2] in {"done", "in_doubt"})
        return
    before = Counter(facts["charges"]) if known is None else Counter()
    decided = Counter({"send again": 1, "not bought": 1}) if name == "settled" else Counter()
    asked = list_prompts(facts["entries"]) + decided + Counter({"bought twice": 1, "twice in doubt": 1})
    assert not before + charges - asked
    rows = {row[0]: row[2] for row in read(tmp_path / "run.db", ROWS)}
    for item, _, state, *_ in facts["rows"]:
        if not item.startswith("entry@"):
            assert rows[item] == AFTER.get(state, state), item
    assert {item.state for item in items} <= {"done", "refused", "failed", "in_doubt", "not_sent"}
    assert batch.summary.total == len(items) == sum(list_prompts(facts["entries"]).values())


async def test_what_the_old_journal_lacks_is_bought_and_met_again_by_the_new_rule(tmp_path):
    facts = unpack("plain", tmp_path)
    entries = [*facts["entries"], "takes", {"prompt": "takes"}, {"seed": 7, "prompt": "new"}]
    async with Sandbox() as sandbox, AsyncVideoRouter("key", base_url=sandbox.base_url) as router:
        for spelt in (entries, [respell(entry) for entry in entries]):
            async for _ in router.generate_many(spelt, journal=tmp_path / "run.db", **facts["options"]):
                pass
        assert await sandbox.charges() == {"takes": 2, "new": 1}
    assert read(tmp_path / "run.db", "SELECT count(*) FROM items WHERE request LIKE '%takes%'") == [(5,)]


async def test_equal_entries_that_are_wanted_once_are_the_first_of_them(tmp_path):
    facts = unpack("plain", tmp_path)
    async with Sandbox() as sandbox, AsyncVideoRouter("key", base_url=sandbox.base_url) as router:
        options = {**facts["options"], "journal": tmp_path / "run.db", "deduplicate": True}
        items = [
            item
            async for item in router.generate_many(["takes", {"prompt": "takes"}, "takes", "new", "new"], **options)
        ]
        assert await sandbox.charges() == {"new": 1}
    assert [item.state for item in items if item.in_input] == ["done"] * 5
    assert len({item.id for item in items if item.in_input}) == 2
    assert [item.state for item in items if not item.in_input] == ["in_doubt"]
