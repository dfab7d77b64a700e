"""The journal fails at each of its steps in turn, once or from then on: nothing is lost, nothing is bought twice."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading

import pytest

from videorouter import AsyncVideoRouter, JournalError
from videorouter.journal import journal as journal_module
from videorouter.sandbox import Sandbox

pytestmark = pytest.mark.anyio

CONCURRENCY = 2
STEPS = {"identify", "find", "intent", "task", "ending", "refusal", "commit"}
MADE = ("held", "task", "chain", "rain", "fog", "late")
"""What ends well in a sound run."""


def list_entries(name: str) -> list[object]:
    """Each way through the ledger: held, task, a chain, refused, failed, in doubt, unreadable."""
    return [
        {"prompt": f"held {name}", "model": "m"},
        {"prompt": 5},
        {"prompt": f"task {name}", "model": "with/task"},
        {"prompt": f"chain {name}", "model": "sora-2", "then": [f"rain {name}", f"fog {name}"]},
        {"prompt": f"bad words {name}", "model": "m"},
        {"prompt": f"no GPU {name}", "model": "with/task"},
        {"prompt": f"lost answer {name}", "model": "m"},
        {"id": "late", "prompt": f"late {name}", "model": "m"},
    ]


class Disk:
    """Counts the journal's steps, and fails at one of them: that time only, or ever after."""

    def __init__(self, at: int | None = None, *, lasting: bool = False) -> None:
        self.at = at
        self.lasting = lasting
        self.steps: list[str] = []
        self.failed = False

    def __call__(self, step: str) -> None:
        if step in {"open", "committed"}:  # the one is test_journal_schema's, the other has happened already
            return
        number = len(self.steps)
        self.steps.append(step)
        if self.at is not None and (number == self.at or (self.lasting and number > self.at)):
            self.failed = True
            raise sqlite3.OperationalError("database or disk is full")


class HeldDisk:
    """Holds the first of the journal's steps of one name until it is told to go on."""

    def __init__(self, step: str) -> None:
        self.step = step
        self.reached = threading.Event()
        self.go_on = threading.Event()

    def __call__(self, step: str) -> None:
        if step == self.step and not self.reached.is_set():
            self.reached.set()
            assert self.go_on.wait(30)


@pytest.fixture
def disks(monkeypatch):
    """What each journal lies on, by its folder's name."""
    chosen: dict[str, Disk | HeldDisk] = {}
    real = journal_module.Journal.__init__
    monkeypatch.setattr(
        journal_module.Journal, "__init__", lambda self, path, **_: real(self, path, fault=chosen.get(path.parent.name))
    )
    return chosen


@pytest.fixture
async def sandbox(anyio_backend):
    async with Sandbox(mode="mixed", profile="instant") as running:
        running.faults.add("moderation", prompt="bad words")
        running.faults.add("failed_task=no GPU was free", prompt="no GPU")
        running.faults.add("status=500", prompt="lost answer", charged=True)
        yield running


@pytest.fixture
async def router(sandbox):
    async with AsyncVideoRouter("key-for-faults", base_url=sandbox.base_url) as client:
        yield client


def read_rows(folder) -> dict[str, str]:
    database = sqlite3.connect(folder / "run.db")
    try:
        return dict(database.execute("SELECT json_extract(request, '$.prompt'), state FROM items").fetchall())
    finally:
        database.close()


async def run(router: AsyncVideoRouter, folder, items: list, count: int | None = None) -> str | None:
    """Run the batch of a folder, or its first entries; why it did not come to its end."""
    folder.mkdir(exist_ok=True)
    batch = router.generate_many(
        list_entries(folder.name)[:count], journal=folder / "run.db", concurrency=CONCURRENCY, price=1.0
    )
    try:
        async for item in batch:
            items.append(item)  # noqa: PERF401  those before an error count
    except JournalError as error:
        return str(error)
    return batch.summary.stopped


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "for good"])
@pytest.mark.parametrize("before", [0, 3], ids=["at first", "when resumed"])
async def test_the_journal_may_fail_at_any_of_its_steps(sandbox, router, disks, tmp_path, before, lasting):
    await run(router, tmp_path / "sound", [], before)
    sound = disks["sound"] = Disk()
    await run(router, tmp_path / "sound", [])
    assert set(sound.steps) == STEPS | ({"note"} if before else set())
    room = asyncio.Semaphore(8)

    async def check(at: int) -> None:
        async with room:
            folder = tmp_path / f"at-{at}-"
            await run(router, folder, [], before)
            await fail_and_resume(sandbox, router, disks, folder, Disk(at, lasting=lasting))

    await asyncio.gather(*map(check, range(len(sound.steps))))


async def fail_and_resume(sandbox, router, disks, folder, disk: Disk) -> None:
    earlier = set(await sandbox.charges())
    disks[folder.name] = disk
    items: list = []
    stopped = await run(router, folder, items)
    del disks[folder.name]
    place = (folder.name, disk.steps[-1], disk.lasting)
    paid = {prompt for prompt in await sandbox.charges() if prompt.endswith(folder.name)}
    # Nothing was sent whose intent was not on the disk.
    assert paid <= set(read_rows(folder)), place
    # What was paid for is in the caller's hands: its videos, its task, or that nobody knows.
    handed = {item.prompt for item in items if item.result or item.task_id or item.state == "in_doubt"}
    assert paid - earlier <= handed, place
    # A failure stops the batch, unless it was over: nothing more is begun than was at the disk already.
    assert stopped or not disk.failed or len(items) == 10, place
    assert disk.steps[disk.at + 1 :].count("intent") < CONCURRENCY, place
    again: list = []
    await run(router, folder, again)
    charges = {prompt: times for prompt, times in (await sandbox.charges()).items() if prompt.endswith(folder.name)}
    assert max(charges.values()) == 1, place
    states = {item.prompt: item.state for item in again}
    doubtful = {prompt for prompt, state in states.items() if state == "in_doubt"} - {f"lost answer {folder.name}"}
    assert len(doubtful) <= CONCURRENCY, place
    held_up = {f"{word} {folder.name}" for word in ("rain", "fog")} if doubtful & set(charges) else set()
    unmade = {f"{word} {folder.name}" for word in MADE if states[f"{word} {folder.name}"] != "done"}
    assert unmade <= doubtful | held_up, (place, states)


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "for good"])
async def test_files_are_whole_after_the_next_run_whichever_step_failed(sandbox, router, disks, tmp_path, lasting):
    async def save(folder) -> list:
        items = []
        with contextlib.suppress(JournalError):
            batch = router.generate_many(
                ["otter", "heron"], model="m", journal=folder / "run.db", save_to=folder / "clips", concurrency=1
            )
            async for item in batch:
                items.append(item)  # noqa: PERF401  those before an error count
        return items

    sound = disks["sound"] = Disk()
    (tmp_path / "sound").mkdir()
    await save(tmp_path / "sound")
    assert "file" in sound.steps
    for at in range(len(sound.steps)):
        await sandbox.reset()
        folder = tmp_path / str(at)
        folder.mkdir()
        disk = disks[folder.name] = Disk(at, lasting=lasting)
        first = await save(folder)
        del disks[folder.name]
        again = await save(folder)
        place = (at, disk.steps[-1], lasting)
        assert len(again) == 2, place
        for item in again:
            known = next((before.result for before in first if before.prompt == item.prompt and before.result), None)
            assert item.path.is_file() if item.state == "done" else item.state == "in_doubt" and known, place
        assert len(list((folder / "clips").glob("*.mp4"))) == len([item for item in again if item.ok]), place
        assert max((await sandbox.charges()).values()) == 1, place


@pytest.mark.parametrize("by", ["its caller", "its loop"])
@pytest.mark.parametrize(
    ("prompt", "step", "state"),
    [
        ("held", "intent", "not_sent"),
        ("held", "ending", "done"),
        ("task", "task", "accepted"),
        ("task", "ending", "done"),
        ("lost answer", "ending", "in_doubt"),
        ("bad words", "ending", "refused"),
    ],
)
async def test_a_batch_closed_while_it_writes_has_written_what_it_says(
    sandbox, router, disks, tmp_path, prompt, step, state, by
):
    entry = {"id": "a", "prompt": prompt, "model": "with/task" if prompt == "task" else "m"}
    options = {"journal": tmp_path / "run.db", "price": 0.5, "max_cost": 0.9}
    disk = disks[tmp_path.name] = HeldDisk(step)
    batch = router.generate_many([entry], **options)
    loop = asyncio.ensure_future(anext(batch))
    await asyncio.to_thread(disk.reached.wait, 30)
    if by == "its loop":
        workers = [task for task in asyncio.all_tasks() if "Batch._work" in str(task.get_coro())]
        assert workers
        for task in workers:
            task.cancel()
        await asyncio.sleep(0)
    closing = asyncio.ensure_future(batch.aclose())
    await asyncio.sleep(0)
    disk.go_on.set()
    await closing
    await asyncio.gather(loop, return_exceptions=True)
    assert (batch.summary.total, getattr(batch.summary, state)) == (1, 1)
    assert read_states(tmp_path) == {"a": state}
    charged = sum((await sandbox.charges()).values())
    again = router.generate_many([entry], **options)
    async for item in again:
        ended = "done" if state in {"not_sent", "accepted"} else state
        assert item.state == ended
    assert sum((await sandbox.charges()).values()) == charged + (state == "not_sent")
    assert again.summary.cost + again.summary.cost_in_doubt <= options["max_cost"]


async def test_a_batch_closed_while_its_journal_is_opened_leaves_it_to_the_next(sandbox, router, disks, tmp_path):
    disk = disks[tmp_path.name] = HeldDisk("open")
    batch = router.generate_many(["held"], model="m", journal=tmp_path / "run.db")
    loop = asyncio.ensure_future(anext(batch, None))
    await asyncio.to_thread(disk.reached.wait, 30)
    closing = asyncio.ensure_future(batch.aclose())
    await asyncio.sleep(0)
    disk.go_on.set()
    await closing
    assert [item.state async for item in router.generate_many(["held"], model="m", journal=tmp_path / "run.db")] == [
        "done"
    ]
    assert await loop is None
    assert await sandbox.charges() == {"held": 1}


async def test_a_batch_that_two_close_at_once_is_closed_for_both(sandbox, router, disks, tmp_path):
    disk = disks[tmp_path.name] = HeldDisk("intent")
    batch = router.generate_many(["held"], model="m", journal=tmp_path / "run.db")
    loop = asyncio.ensure_future(anext(batch, None))
    await asyncio.to_thread(disk.reached.wait, 30)
    first = asyncio.ensure_future(batch.aclose())
    await asyncio.sleep(0)
    disk.go_on.set()
    while batch.summary.total == 0:  # it is written down and counted: only the file is left to be closed
        await asyncio.sleep(0)
    await batch.aclose()
    assert [item.state async for item in router.generate_many(["held"], model="m", journal=tmp_path / "run.db")] == [
        "done"
    ]
    await first
    assert (await loop).state == "not_sent"


def read_states(folder) -> dict[str, str]:
    database = sqlite3.connect(folder / "run.db")
    try:
        return dict(database.execute("SELECT id, state FROM items").fetchall())
    finally:
        database.close()
