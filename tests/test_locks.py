"""One writer per journal, whatever becomes of its process."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import sys
import threading

import pytest

from videorouter import locks
from videorouter.errors import JournalBusyError, JournalError
from videorouter.journal.journal import Journal
from videorouter.locks import is_locked

pytestmark = pytest.mark.anyio


async def test_a_second_writer_is_refused_in_this_process_and_in_another(tmp_path):
    path = tmp_path / "run.db"
    journal = await Journal.open(path)
    with pytest.raises(JournalBusyError, match="in use"):
        await Journal.open(path)
    (tmp_path / "link.db").symlink_to(path)
    with pytest.raises(JournalBusyError):
        await Journal.open(tmp_path / "link.db")
    script = (
        "import asyncio, sys\nfrom videorouter.journal.journal import Journal\nfrom videorouter.errors import JournalBusyError\n"
        "try:\n    asyncio.run(Journal.open(sys.argv[1]))\nexcept JournalBusyError as error:\n    print(error)\n"
    )
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", script, str(path)],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert f"process {os.getpid()}" in done.stdout
    assert is_locked(path)
    await journal.aclose()
    assert not is_locked(path)
    await (await Journal.open(path)).aclose()


async def test_asking_whether_a_journal_is_written_never_keeps_a_writer_from_it(tmp_path):
    path = tmp_path / "run.db"
    await (await Journal.open(path)).aclose()
    ended = threading.Event()
    asked = []

    def ask() -> None:
        while not ended.is_set():
            asked.append(is_locked(path))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        for _ in range(15):
            await (await Journal.open(path)).aclose()
    finally:
        ended.set()
        thread.join()
    assert {True, False} == set(asked)
    assert (tmp_path / "run.db.lock").read_text().split()[0] == str(os.getpid())


async def test_a_disk_without_locks_is_named_as_that_and_not_as_a_busy_journal(tmp_path, monkeypatch):
    def refuse(_: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks, "lock_descriptor", refuse)
    with pytest.raises(JournalError, match=r"knows no file locks.*local disk") as caught:
        await Journal.open(tmp_path / "run.db")
    assert not isinstance(caught.value, JournalBusyError)


async def test_a_forked_child_does_not_keep_the_lock(tmp_path):
    script = """
import asyncio, os, sys
from videorouter.journal.journal import Journal
async def main():
    journal = await Journal.open(sys.argv[1])
    child = os.fork()
    if child == 0:
        os.read(0, 1)
        os._exit(0)
    print(child, flush=True)
    os._exit(0)
asyncio.run(main())
"""
    path = tmp_path / "run.db"
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-W", "ignore", "-c", script, str(path)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    child = int(await process.stdout.readline())
    os.kill(child, 0)
    for _ in range(200):
        if not is_locked(path):
            break
        await asyncio.sleep(0.01)
    await (await Journal.open(path)).aclose()
    os.kill(child, 0)
    await process.communicate(b"x")
