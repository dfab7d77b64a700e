"""A batch into an object store: whole or absent, fetched once, and fetched again where an object is gone."""

# ruff: noqa: F401, F811  fixtures of another file
from __future__ import annotations

import pytest
from batching import collect, prompts, read as read_journal
from stores import azure, azurite, memory, names, place, read, s3, s3_server

from videorouter import AsyncVideoRouter, ConfigurationError, DownloadError

pytestmark = pytest.mark.anyio


@pytest.fixture
async def router(sandbox):
    async with AsyncVideoRouter("key", base_url=sandbox.base_url, model="veo3-fast") as client:
        yield client


def list_files(journal):
    return read_journal(journal, "SELECT path FROM files WHERE saved IS NOT NULL ORDER BY path")


async def test_videos_of_a_batch_go_into_a_store_and_the_journal_knows_where(router, tmp_path, place):
    journal, folder = tmp_path / "run.db", f"{place.url}/a"
    items = await collect(router.generate_many(prompts(4), journal=journal, save_to=folder))
    wanted = [f"{folder}/00000{n}-otter-{n}.mp4" for n in range(4)]
    assert [items[n].files for n in range(4)] == [(url,) for url in wanted]
    assert [items[n].media.seconds for n in range(4)] == [2.0] * 4
    assert list_files(journal) == [(url,) for url in wanted]
    for n in range(4):
        assert read(place, f"a/{n:06d}-otter-{n}.mp4")[4:8] == b"ftyp"
    assert not place.uploads()


async def test_a_missing_object_is_fetched_again_and_nothing_else(sandbox, router, tmp_path, place):
    call = {"journal": tmp_path / "run.db", "save_to": place.url}
    first = await collect(router.generate_many(prompts(4), **call))
    wanted = {name: read(place, name) for name in names(place)}
    place.store.rm_file(first[1].files[0])
    batch = router.generate_many(prompts(4), **call)
    again = await collect(batch)
    assert batch.caught_up == 1
    assert {name: read(place, name) for name in names(place)} == wanted
    assert [item.files for item in again.values()] == [first[n].files for n in again]
    assert len(await sandbox.charge_list()) == 4


async def test_another_video_under_a_name_is_neither_replaced_nor_taken_for_the_batchs_own(router, tmp_path, place):
    other = b"of another batch"
    place.store.pipe_file(f"{place.url}/000000-otter-0.mp4", other)
    call = {"journal": tmp_path / "run.db", "save_to": place.url}
    for _ in range(2):
        (item,) = (await collect(router.generate_many(prompts(1), **call))).values()
        assert item.files == (f"{place.url}/000000-otter-0.2.mp4",)
    assert read(place, "000000-otter-0.mp4") == other
    assert names(place) == ["000000-otter-0.2.mp4", "000000-otter-0.mp4"]
    place.store.pipe_file(f"{place.url}/000000-otter-0.2.mp4", other)
    assert (await collect(router.generate_many(prompts(1), **call)))[0].error is None
    assert read(place, "000000-otter-0.2.mp4") == other


async def test_an_object_that_a_killed_run_had_completed_is_taken_over(sandbox, router, tmp_path, s3):
    call = {"journal": tmp_path / "run.db", "save_to": s3.url}
    first = await collect(router.generate_many(prompts(2), **call))
    read_journal(call["journal"], "SELECT 1")
    forget_save(call["journal"])
    second = await collect(router.generate_many(prompts(2), **call))
    assert [second[n].files for n in range(2)] == [first[n].files for n in range(2)]
    assert [second[n].media for n in range(2)] == [first[n].media for n in range(2)]
    assert len(names(s3)) == 2


def forget_save(journal):
    """What a kill between an object's completion and its commit leaves."""
    import sqlite3

    with sqlite3.connect(journal) as database:
        database.execute("UPDATE files SET saved = NULL, size = NULL, media = NULL")
    database.close()


async def test_without_a_journal_a_batch_saves_into_a_store_too(router, place):
    items = await collect(router.generate_many(["otter", "otter"], save_to=f"{place.url}/", name="{index}.mp4"))
    assert sorted(item.files[0] for item in items.values()) == [f"{place.url}/0.mp4", f"{place.url}/1.mp4"]


@pytest.mark.parametrize(
    ("folder", "words"),
    [
        ("s3://no-such-bucket-here/clips", "no-such-bucket-here cannot be used"),
        ("http://example.com/clips", "not at http://"),
        ("s3://key:secret@bucket/clips", "holds no credentials"),
        ("s3:/bucket/clips", "give URLs as text"),
    ],
)
async def test_what_is_no_place_in_a_store_is_refused_before_anything_is_sent(sandbox, router, s3, folder, words):
    with pytest.raises(ConfigurationError, match=words) as caught:
        await collect(router.generate_many(["otter"], save_to=folder))
    assert "Nothing was sent" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert await sandbox.charge_list() == []


async def test_a_journal_is_a_file(router):
    with pytest.raises(ConfigurationError, match="journal must be a path, not the URL"):
        router.generate_many(["otter"], journal="s3://bucket/run.db")


async def test_a_store_that_is_gone_costs_no_video(sandbox, router, tmp_path, s3):
    call, bucket = {"journal": tmp_path / "run.db", "save_to": f"{s3.url}/clips"}, s3.url.removeprefix("s3://")
    batch = router.generate_many(prompts(200), concurrency=2, **call)
    async with batch:
        s3.store.rmdir(bucket)
        items = [item async for item in batch if item.state == "done"]
    assert items
    assert all(isinstance(item.error, DownloadError) for item in items)
    assert "could not be written" in batch.summary.stopped
    bought = len(await sandbox.charge_list())
    assert bought < 100
    s3.store.mkdir(bucket)
    again = await collect(router.generate_many(prompts(bought), **call))
    assert [item.error for item in again.values()] == [None] * bought
    assert len(names(s3)) == len(await sandbox.charge_list()) == bought


async def test_a_file_that_its_host_does_not_give_stops_no_batch(sandbox, router, tmp_path, s3):
    sandbox.faults.add("status=403", path="/video/*", times=2)
    batch = router.generate_many(prompts(6), concurrency=1, journal=tmp_path / "run.db", save_to=s3.url)
    items = await collect(batch)
    assert [item.state for item in items.values()] == ["done"] * 6
    assert sum(item.error is not None for item in items.values()) > 0
    assert batch.summary.stopped is None


async def test_no_credentials_are_written_down(router, tmp_path, s3, s3_server):
    journal = tmp_path / "run.db"
    await collect(router.generate_many(prompts(1), journal=journal, save_to=s3.url))
    for file in tmp_path.iterdir():
        assert s3_server["AWS_SECRET_ACCESS_KEY"].encode() not in file.read_bytes()
