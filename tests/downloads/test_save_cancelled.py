"""A save that is cancelled at any step, in any way, on a slow disk, gives back every descriptor, lock and part."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import io
import os
import random
import threading
import time
from pathlib import Path

import anyio
import pytest

from videorouter import AsyncVideoRouter, DownloadError

pytestmark = pytest.mark.anyio

SLOW = ("open", "writev", "lseek", "read", "fsync", "ftruncate", "replace", "link", "unlink", "mkdir", "close", "fstat")
STEP = 0.002


class Disk:
    """Slows down each call of the disk from other threads, and calls ``at_step`` in the middle of one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.step = 0
        self.steps = 0
        self.at_step = lambda: None
        self.loop_thread = threading.get_ident()
        self.folder = str(folder)
        for name in SLOW:
            monkeypatch.setattr(os, name, self.slow(getattr(os, name)))

    def slow(self, call):
        def slowed(*args, **kwargs):
            if threading.get_ident() != self.loop_thread and threading.current_thread().name != "MainThread":
                self.steps += 1
                if self.steps == self.step:
                    self.at_step()
                time.sleep(STEP)
            return call(*args, **kwargs)

        return slowed

    def cancel_at(self, step: int, cancel) -> None:
        loop = asyncio.get_running_loop()
        self.step, self.steps = step, 0
        self.at_step = lambda: loop.call_soon_threadsafe(cancel)


@pytest.fixture
def disk(monkeypatch, tmp_path):
    return Disk(monkeypatch, tmp_path)


def open_files(folder: Path) -> list[str]:
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append(str(entry.readlink()))
    return [path for path in found if path.startswith(str(folder))]


def locked(folder: Path) -> list[str]:
    found = []
    for path in folder.glob(".*.resume"):
        with path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                found.append(path.name)
    return found


class SiblingError(Exception):
    pass


async def cancel_once(save, disk, step):
    task = asyncio.ensure_future(save())
    disk.cancel_at(step, task.cancel)
    await asyncio.wait([task])
    return task.cancelled()


async def cancel_twice(save, disk, step):
    task = asyncio.ensure_future(save())

    def cancel() -> None:
        task.cancel()
        asyncio.get_running_loop().call_later(STEP / 2, task.cancel)
        asyncio.get_running_loop().call_later(STEP * 2, task.cancel)

    disk.cancel_at(step, cancel)
    await asyncio.wait([task])
    return task.cancelled()


async def time_out(save, disk, step):
    try:
        async with asyncio.timeout(60) as limit:
            disk.cancel_at(step, lambda: limit.reschedule(0))
            await save()
    except TimeoutError:
        return True
    return False


async def fail_beside(save, disk, step):
    failed = asyncio.Event()
    disk.cancel_at(step, failed.set)

    async def fail() -> None:
        await failed.wait()
        raise SiblingError

    failures: list[BaseException] = []
    try:
        async with asyncio.TaskGroup() as group:
            sibling = group.create_task(fail())
            await group.create_task(save())
            sibling.cancel()
    except* SiblingError as caught:
        failures.append(caught)
    return bool(failures)


async def cancel_scope(save, disk, step):
    with anyio.CancelScope() as scope:
        disk.cancel_at(step, scope.cancel)
        await save()
    return scope.cancelled_caught


async def disconnect(save, disk, step):
    """Starlette cancels what answers a visitor who has gone."""
    responses = pytest.importorskip("starlette.responses", reason="Starlette comes with the session for web frameworks")
    gone = asyncio.Event()
    saved = []

    async def body():
        await save()
        saved.append(True)
        yield b"saved"

    async def receive():
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(_: object) -> None:
        pass

    disk.cancel_at(step, gone.set)
    await responses.StreamingResponse(body())({"type": "http", "asgi": {"spec_version": "2.0"}}, receive, send)
    return not saved


CANCELLERS = [cancel_once, cancel_twice, time_out, fail_beside, cancel_scope, disconnect]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="Linux lists the open files of a process")
@pytest.mark.parametrize("cancel", CANCELLERS)
async def test_a_cancelled_save_leaves_nothing_open_or_locked_and_can_be_repeated(
    host, router, tmp_path, mp4, disk, cancel
):
    host.body = mp4(300_000)
    step = cancelled = 0
    done = False
    while not done:
        step += 1
        place = tmp_path / str(step) / "otter.mp4"
        done = not await cancel(lambda place=place: router.save(host.video(), place, sha256=True), disk, step)
        cancelled += not done
        assert (open_files(tmp_path), locked(tmp_path / str(step))) == ([], [])
        disk.step = 0
        kept = [path.stat().st_size for path in place.parent.glob(".*.part")]
        saved = await router.save(host.video(), place)
        assert kept in ([], [saved.resumed_from])
        assert place.read_bytes() == host.body
        assert [path.name for path in place.parent.iterdir()] == ["otter.mp4"]
    assert cancelled > 10


@pytest.mark.parametrize("cancel", CANCELLERS)
async def test_a_part_that_a_later_save_can_go_on_from_outlives_each_cancelled_one(
    host, router, tmp_path, plan, disk, cancel
):
    place = tmp_path / "otter.mp4"
    host.plans = [plan(cut=20 * 65536)]
    with pytest.raises(DownloadError):
        await router.save(host.video(), place, max_retries=0)
    (part,) = tmp_path.glob(".*.part")
    size = part.stat().st_size
    for step in range(1, 8):
        host.plans = [plan(stall=0)]
        assert await cancel(lambda: router.save(host.video(), place, sha256=True), disk, step)
        disk.step = 0
        assert part.stat().st_size == size
        assert locked(tmp_path) == []
    host.plans = []
    saved = await router.save(host.video(), place)
    assert saved.resumed_from == size
    assert place.read_bytes() == host.body


@pytest.mark.parametrize("cancel", CANCELLERS)
async def test_a_cancelled_save_writes_no_more_to_what_its_owner_then_closes(host, router, disk, cancel):
    class Sink(io.RawIOBase):
        late = 0

        def write(self, block) -> int:
            os.fstat(0)  # a step of the slow disk
            self.late += self.closed
            return len(block)

    sinks = []

    async def save() -> None:
        with Sink() as sink:
            sinks.append(sink)
            await router.save(host.video(), sink)

    for step in range(1, 4):
        assert await cancel(save, disk, step)
    assert [(sink.closed, sink.late) for sink in sinks] == [(True, 0)] * 3


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="Linux lists the open files of a process")
def test_a_thousand_cancelled_saves_leave_no_descriptor_lock_or_thread(opened_host, tmp_path, mp4, monkeypatch):
    disk = Disk(monkeypatch, tmp_path)
    dice = random.Random(7)
    before = set(threading.enumerate())
    body = mp4(300_000)

    async def main() -> int:
        async with opened_host(body) as host, AsyncVideoRouter("k", base_url=host.url("/v1")) as router:

            async def save(number: int) -> None:
                await router.save(host.video(), tmp_path / f"{number}.mp4")

            tasks = [asyncio.ensure_future(save(number)) for number in range(1000)]
            for number, task in enumerate(tasks):
                asyncio.get_running_loop().call_later(dice.uniform(0, 2), task.cancel)
                if number % 3 == 0:
                    asyncio.get_running_loop().call_later(dice.uniform(0, 2), task.cancel)
            ends = await asyncio.gather(*tasks, return_exceptions=True)
            assert open_files(tmp_path) == []
            assert locked(tmp_path) == []
            steps = disk.steps
            monkeypatch.undo()
            parts = {part.name.split(".")[1]: part.stat().st_size for part in tmp_path.glob(".*.part")}
            assert parts
            for name, size in parts.items():
                assert (await router.save(host.video(), tmp_path / f"{name}.mp4")).resumed_from == size
            assert steps > 200  # the disk was at work when they were cancelled
            return sum(isinstance(end, asyncio.CancelledError) for end in ends)

    assert asyncio.run(main()) > 500
    assert locked(tmp_path) == []
    whole = [path.read_bytes() == body for path in tmp_path.glob("*.mp4")]
    assert all(whole)
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
    assert set(threading.enumerate()) - before == set()
