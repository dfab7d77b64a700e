"""Downloads that go elsewhere than to one path: objects with ``write``, iterators, many at once, hooks."""

from __future__ import annotations

import asyncio
import hashlib
import io
import pickle
from pathlib import Path

import httpx
import pytest

from videorouter import (
    AsyncVideoRouter,
    Download,
    DownloadError,
    InvalidRequestError,
    NotFoundError,
    Video,
    VideoResult,
)
from videorouter.events import DownloadFinished, DownloadProgressed, RetryScheduled

pytestmark = pytest.mark.anyio
CUTS = 65536


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def open_full() -> io.RawIOBase:
    return Path("/dev/full").open("wb", buffering=0)


async def fail(router: AsyncVideoRouter, video: Video, place: object, **options: object) -> DownloadError:
    with pytest.raises(DownloadError) as caught:
        await router.save(video, place, **options)
    assert pickle.loads(pickle.dumps(caught.value)) == caught.value
    return caught.value


class TestSinks:
    async def test_a_file_object_gets_the_bytes_and_stays_open(self, host, router):
        sink = io.BytesIO()
        saved = await router.save(host.video(), sink, sha256=True)
        assert sink.getvalue() == host.body
        assert saved.sha256 == hashlib.sha256(host.body).hexdigest()

    async def test_an_async_writer_gets_the_bytes(self, host, router):
        class Writer:
            def __init__(self) -> None:
                self.parts: list[bytes] = []

            async def write(self, block: bytes) -> int:
                await asyncio.sleep(0)
                self.parts.append(block[:100_000])
                return len(self.parts[-1])

        writer = Writer()
        await router.save(host.video(), writer)
        assert b"".join(writer.parts) == host.body

    async def test_what_a_writer_raises_becomes_a_download_error(self, host, router, tmp_path):
        with open_full() as full:
            error = await fail(router, host.video(), full)
        assert "No space" in error.message
        with (tmp_path / "text").open("w") as text:
            error = await fail(router, host.video(), text)
        assert "binary" in error.message

    async def test_a_page_never_reaches_a_sink(self, host, router, plan):
        host.usual = plan(body=b"<html>" * 1000)
        sink = io.BytesIO()
        error = await fail(router, host.video(), sink)
        assert "HTML" in error.message
        assert sink.getvalue() == b""

    async def test_a_sink_is_never_given_two_versions(self, host, router, plan, mp4):
        host.plans = [plan(cut=10 * CUTS, etag=None), plan(etag=None)]
        sink = io.BytesIO()
        await router.save(host.video(), sink)
        assert sink.getvalue() == host.body
        host.plans = [plan(cut=10 * CUTS, etag=None), plan(body=mp4(len(host.body)), etag=None)]
        error = await fail(router, host.video(), io.BytesIO())
        assert "changed" in error.message

    async def test_several_videos_do_not_fit_one_sink(self, host, router):
        with pytest.raises(InvalidRequestError):
            await router.save(VideoResult(videos=(host.video(), host.video())), io.BytesIO())


class TestStream:
    async def test_chunks_are_the_file_whatever_is_cut_in_between(self, host, router, plan):
        host.usual = plan(cut=10 * CUTS)
        async with router.stream(host.video()) as chunks:
            assert b"".join([chunk async for chunk in chunks]) == host.body

    async def test_leaving_early_frees_the_connection(self, host, router, plan):
        host.plans = [plan(stall=10 * CUTS)]
        async with router.stream(host.url()) as chunks:
            async for _ in chunks:
                break
        async with router.stream(host.url()) as chunks:
            assert sum([len(chunk) async for chunk in chunks]) == len(host.body)

    async def test_a_page_is_refused_before_its_first_byte(self, host, router, plan):
        host.usual = plan(body=b"<html>no</html>")
        async with router.stream(host.video()) as chunks:
            with pytest.raises(DownloadError, match="HTML"):
                await anext(chunks)


class TestMany:
    async def test_many_come_in_their_order_into_one_folder(self, host, router, tmp_path):
        urls = [host.url(f"/{number}.mp4") for number in range(20)]
        saved = await router.download(urls, tmp_path / "clips", concurrency=5)
        assert [item.path.name for item in saved] == [f"{number}.mp4" for number in range(20)]
        assert all(item.path.read_bytes() == host.body for item in saved)

    async def test_the_same_name_twice_is_two_files(self, host, router, tmp_path):
        saved = await router.download([host.url("/a/x.mp4"), host.url("/b/x.mp4")], tmp_path)
        assert len({item.path for item in saved}) == 2

    async def test_one_failure_loses_no_other(self, host, router, tmp_path, plan):
        host.plans = [plan(status=404, body=b"")]
        urls = [host.url("/a.mp4"), host.url("/b.mp4")]
        with pytest.raises(DownloadError) as caught:
            await router.download(urls, tmp_path, concurrency=1)
        assert "b.mp4" in caught.value.__notes__[0]
        host.plans = [plan(status=404, body=b"")]
        found = await router.download(urls, [tmp_path / "c", tmp_path / "d"], concurrency=1, return_exceptions=True)
        assert isinstance(found[0], NotFoundError)
        assert isinstance(found[1], Download)

    async def test_places_must_be_as_many_as_files(self, host, router, tmp_path):
        with pytest.raises(InvalidRequestError, match="2 files and 1 places"):
            await router.download([host.url(), host.url()], [tmp_path / "a"])
        with pytest.raises(InvalidRequestError, match="file object"):
            await router.download([host.url(), host.url()], io.BytesIO())

    async def test_many_of_none_is_none(self, router, tmp_path):
        assert await router.download([], tmp_path) == []


class TestEvents:
    async def test_progress_and_end_are_told_to_both_hooks(self, host, tmp_path, plan):
        told, mine = [], []
        async with AsyncVideoRouter("k", base_url=host.url("/v1"), on_event=told.append) as router:
            host.plans = [plan(cut=10 * CUTS)]
            await router.save(host.video("/x.mp4?signature=s3cret"), tmp_path / "otter.mp4", on_progress=mine.append)
            host.usual = plan(status=404, body=b"")
            await fail(router, host.video(), tmp_path / "b.mp4", on_progress=mine.append)
        progress = [event for event in mine if isinstance(event, DownloadProgressed)]
        ends = [event for event in mine if isinstance(event, DownloadFinished)]
        assert (progress[-1].received, progress[-1].total, progress[-1].time_left) == (
            len(host.body),
            len(host.body),
            0,
        )
        assert [end.error_type for end in ends] == [None, "FileMissingError"]
        assert len({event.call_id for event in told}) == 2
        assert any(isinstance(event, RetryScheduled) for event in told)
        assert "s3cret" not in repr(told)

    async def test_a_hook_that_raises_changes_nothing(self, host, router, tmp_path):
        def hook(event: object) -> None:
            raise RuntimeError

        assert (await router.save(host.video(), tmp_path / "otter.mp4", on_progress=hook)).size

    async def test_a_file_whose_bytes_a_hook_of_your_client_has_read_is_saved(self, host, tmp_path):
        async def read(response: httpx.Response) -> None:
            await response.aread()

        async with (
            httpx.AsyncClient(event_hooks={"response": [read]}) as client,
            AsyncVideoRouter("k", base_url=host.url("/v1"), http_client=client) as router,
        ):
            saved = await router.save(host.video(), tmp_path / "otter.mp4", sha256=True, timeout=20)
        assert saved.sha256 == hashlib.sha256(host.body).hexdigest()
