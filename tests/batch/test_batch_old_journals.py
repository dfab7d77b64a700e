"""Coming back with a journal that an earlier version wrote: nothing that was paid for is paid again."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path

import pytest
from batching import read

from videorouter import AsyncVideoRouter
from videorouter.sandbox import Sandbox

pytestmark = pytest.mark.anyio

KEPT = Path(__file__).parents[1] / "journals"
NAMES = sorted(path.stem for path in KEPT.glob("*.json"))
ROWS = "SELECT id, position, state, sends, cost, unknown FROM items ORDER BY position, created"
AFTER = {"accepted": "done", "sending": "in_doubt", "not_sent": "done"}
"""What becomes of a row by coming back, where it does not stay as it was."""


def unpack(name: str, folder: Path) -> dict:
    """Put a journal into a folder as ``run.db``, and give what is known of it."""
    for packed in KEPT.glob(f"{name}.*.gz"):
        place = packed.name.removesuffix(".gz").replace(f"{name}.db", "run.db")
        (folder / place).write_bytes(gzip.decompress(packed.read_bytes()))
    return json.loads((KEPT / f"{name}.json").read_text())


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


@pytest.mark.parametrize("name", NAMES)
async def test_coming_back_buys_nothing_twice(tmp_path, name):
    facts = unpack(name, tmp_path)
    state = tmp_path / "running.sandbox"
    known = state if state.exists() else None
    async with Sandbox(mode="mixed", profile="instant", state=known) as sandbox:
        for prompt in ("bad words", "no GPU"):
            sandbox.faults.add("moderation", prompt=prompt)
        async with AsyncVideoRouter("key", base_url=sandbox.base_url) as router:
            options = {"model": "m", **facts["options"]}
            for _ in range(2):
                batch = router.generate_many(revive(facts["entries"]), journal=tmp_path / "run.db", **options)
                items = [item async for item in batch]
        charges = Counter(await sandbox.charges())
    before = Counter(facts["charges"]) if known is None else Counter()
    decided = Counter({"send again": 1, "not bought": 1}) if name == "settled" else Counter()
    assert (
        not before
        + charges
        - list_prompts(facts["entries"])
        - decided
        - Counter({"bought twice": 1, "twice in doubt": 1})
    )
    rows = {row[0]: row[2] for row in read(tmp_path / "run.db", ROWS)}
    for item, _, state, *_ in facts["rows"]:
        assert rows[item] == AFTER.get(state, state), item
    assert {item.state for item in items} <= {"done", "refused", "failed", "in_doubt", "not_sent"}
    assert batch.summary.total == len(items) == sum(list_prompts(facts["entries"]).values())
