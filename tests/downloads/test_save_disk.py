"""What stands at a destination, or a disk that is full, never costs a file: shown on real disks."""

from __future__ import annotations

import asyncio
import os
import pickle
import stat
from typing import TYPE_CHECKING

import pytest

from videorouter import AsyncVideoRouter, DownloadError, InvalidRequestError, Video

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio
CUTS = 65536


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def fail(router: AsyncVideoRouter, video: Video, place: object, **options: object) -> DownloadError:
    with pytest.raises(DownloadError) as caught:
        await router.save(video, place, **options)
    assert pickle.loads(pickle.dumps(caught.value)) == caught.value
    return caught.value


async def test_a_symlink_at_the_destination_is_replaced_and_not_followed(host, router, tmp_path):
    target = tmp_path / "precious"
    target.write_bytes(b"precious")
    place = tmp_path / "otter.mp4"
    place.symlink_to(target)
    (tmp_path / ".otter.mp4.resume").symlink_to(target)
    await router.save(host.video(), place)
    assert not place.is_symlink()
    assert place.read_bytes() == host.body
    assert target.read_bytes() == b"precious"
    assert names(tmp_path) == ["otter.mp4", "precious"]


async def test_a_forged_resume_file_leads_nowhere(host, router, tmp_path, plan):
    host.plans = [plan(cut=20 * CUTS)]
    place = tmp_path / "otter.mp4"
    await fail(router, host.video(), place, max_retries=0)
    part = next(path for path in tmp_path.iterdir() if path.suffix == ".part")
    precious = tmp_path / "precious"
    precious.write_bytes(b"precious")
    part.unlink()
    part.symlink_to(precious)
    saved = await router.save(host.video(), place)
    assert saved.resumed_from == 0
    assert precious.read_bytes() == b"precious"
    assert place.read_bytes() == host.body


async def test_two_downloads_of_one_destination_do_not_meet(host, router, tmp_path, plan):
    host.plans = [plan(stall=10 * CUTS)]
    place = tmp_path / "otter.mp4"
    first = asyncio.create_task(router.save(host.video(), place))
    await host.wait_for(9 * CUTS)
    error = await fail(router, host.video("/other.mp4"), place)
    assert "another download" in error.message
    host.release.set()
    assert (await first).path.read_bytes() == host.body
    assert names(tmp_path) == ["otter.mp4"]


async def test_without_room_nothing_is_begun(host, router, tmp_path, monkeypatch):
    place = tmp_path / "otter.mp4"
    place.write_bytes(b"old")
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("videorouter.downloads.file.shutil.disk_usage", lambda _: usage)
    error = await fail(router, host.video(), place)
    assert "1000 are free" in error.message
    assert names(tmp_path) == ["otter.mp4"]


async def test_a_disk_that_fills_up_leaves_the_old_file_and_no_other(host, router, tmp_path, monkeypatch):
    resource = pytest.importorskip("resource", reason="RLIMIT_FSIZE is how POSIX shows a full disk")
    place = tmp_path / "otter.mp4"
    place.write_bytes(b"old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, before[1]))
    try:
        error = await fail(router, host.video(), place)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "could not be written" in error.message
    assert place.read_bytes() == b"old"
    assert names(tmp_path) == ["otter.mp4"]


async def test_a_folder_that_is_missing_is_made(host, router, tmp_path):
    assert (await router.save(host.video(), tmp_path / "a" / "b" / "otter.mp4")).path.exists()


async def test_a_name_with_nul_or_too_long_is_a_clear_error(host, router, tmp_path):
    await fail(router, host.video(), f"{tmp_path}/a\0b.mp4")
    await fail(router, host.video(), tmp_path / ("x" * 300 + ".mp4"))
    assert names(tmp_path) == []


async def test_devices_and_pipes_are_not_replaced(host, router, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    await fail(router, host.video(), tmp_path / "pipe")
    await fail(router, host.video(), "/dev/null")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert not stat.S_ISREG(os.lstat(os.devnull).st_mode)


async def test_a_destination_that_is_no_place_says_so(router, host):
    with pytest.raises(InvalidRequestError, match="write"):
        await router.save(host.video(), 42)


async def test_the_file_has_the_rights_that_the_umask_leaves(host, router, tmp_path):
    before = os.umask(0o027)
    try:
        saved = await router.save(host.video(), tmp_path / "otter.mp4")
    finally:
        os.umask(before)
    assert stat.S_IMODE(saved.path.stat().st_mode) == 0o640
