"""Videos straight into object stores: memory, S3 (moto's server) and Azure (Azurite, where it is installed)."""

# ruff: noqa: F401, F811  fixtures of another file
from __future__ import annotations

import asyncio
import hashlib
import subprocess
import sys

import pytest
from stores import azure, azurite, memory, names, place, read, s3, s3_server

from tests.downloads.conftest import Plan, make_mp4
from videorouter import AsyncVideoRouter, DownloadError, InvalidRequestError, Video

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore:Sending a large body directly:ResourceWarning"),  # adlfs, of itself
]

LARGE = 21 * 2**20
"""Five parts of an upload, the last of them short."""


async def test_a_video_stands_there_whole_with_its_facts_and_digest(host, router, place):
    saved = await router.save(host.video(), f"{place.url}/a/otter.mp4", sha256=True)
    assert read(place, "a/otter.mp4") == host.body
    assert (saved.file, saved.size) == (f"{place.url}/a/otter.mp4", len(host.body))
    assert (saved.sha256, saved.transferred) == (hashlib.sha256(host.body).hexdigest(), len(host.body))
    assert saved.media.container == "mp4"


async def test_a_large_video_goes_in_parts(host, router, place):
    host.body = make_mp4(LARGE)
    saved = await router.save(host.video(), f"{place.url}/otter.mp4", sha256=True)
    assert hashlib.sha256(read(place, "otter.mp4")).hexdigest() == saved.sha256 == hashlib.sha256(host.body).hexdigest()
    assert not place.uploads()


@pytest.mark.parametrize("size", [2**20, LARGE])
async def test_a_transfer_that_fails_leaves_nothing(host, place, size):
    host.body = make_mp4(size)
    host.plans += [Plan(cut=size - 1000, ranges=False)] * 3
    async with AsyncVideoRouter("a-key", base_url="http://127.0.0.1:1/v1", max_retries=0) as router:
        with pytest.raises(DownloadError):
            await router.save(host.video(), f"{place.url}/otter.mp4")
    assert names(place) == []
    assert not place.uploads()


async def test_a_page_leaves_nothing(host, router, place):
    host.plans += [Plan(body=b"<html>sorry</html>" * 100)]
    with pytest.raises(DownloadError, match="not a whole video"):
        await router.save(host.video(), f"{place.url}/otter.mp4")
    assert names(place) == []


async def test_what_ends_badly_leaves_nothing_and_an_older_object_as_it_was(host, router, place):
    place.store.pipe_file(f"{place.url}/otter.mp4", b"older")
    host.body = make_mp4(LARGE)[:-5]
    with pytest.raises(DownloadError, match="not a whole video"):
        await router.save(host.video(), f"{place.url}/otter.mp4")
    assert read(place, "otter.mp4") == b"older"
    assert not place.uploads()
    await router.save(host.video(), f"{place.url}/otter.mp4", check=False)
    assert read(place, "otter.mp4") == host.body


async def test_a_cancelled_save_leaves_nothing(host, router, place):
    host.body = make_mp4(LARGE)
    host.plans += [Plan(stall=LARGE - 10)]
    task = asyncio.ensure_future(router.save(host.video(), f"{place.url}/otter.mp4"))
    await host.wait_for(LARGE // 2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert names(place) == []
    assert not place.uploads()


@pytest.mark.parametrize("length", ["right", None])
async def test_the_same_video_is_left_where_it_is(host, router, place, length):
    host.usual.length = length
    first = await router.save(host.video("/video/otter.mp4?signature=1"), f"{place.url}/otter.mp4", sha256=True)
    again = await router.save(host.video("/video/otter.mp4?signature=2"), f"{place.url}/otter.mp4", sha256=True)
    assert (again.size, again.sha256, again.media) == (first.size, first.sha256, first.media)
    assert again.transferred < first.transferred
    host.body = make_mp4(len(host.body))
    await router.save(host.video(), f"{place.url}/otter.mp4", overwrite=True)
    assert read(place, "otter.mp4") == host.body


async def test_another_video_of_the_same_size_is_not_taken_for_it(host, router, place):
    other = make_mp4(len(host.body))
    place.store.pipe_file(f"{place.url}/otter.mp4", other)
    assert (await router.save(host.video(), f"{place.url}/")).file == f"{place.url}/otter.2.mp4"
    assert (read(place, "otter.mp4"), read(place, "otter.2.mp4")) == (other, host.body)
    inline = make_mp4(len(host.body))
    await router.save(Video(mime_type="video/mp4").with_extras(data_=inline), f"{place.url}/otter.2.mp4")
    assert read(place, "otter.2.mp4") == inline
    await router.save(host.video(), f"{place.url}/otter.mp4")
    assert read(place, "otter.mp4") == host.body


async def test_overwrite_says_what_becomes_of_an_older_object(host, router, place):
    place.store.pipe_file(f"{place.url}/otter.mp4", b"older")
    with pytest.raises(DownloadError, match="exists already"):
        await router.save(host.video(), f"{place.url}/otter.mp4", overwrite=False)
    assert host.requests == []
    assert (await router.save(host.video(), f"{place.url}/")).file == f"{place.url}/otter.2.mp4"
    await router.save(host.video(), f"{place.url}/otter.mp4")
    assert (read(place, "otter.mp4"), names(place)) == (host.body, ["otter.2.mp4", "otter.mp4"])


async def test_many_go_into_one_folder(host, router, place):
    saved = await router.download([host.url(f"/video/{n}.mp4") for n in range(5)], f"{place.url}/many")
    assert [one.file for one in saved] == [f"{place.url}/many/{n}.mp4" for n in range(5)]
    assert names(place) == [f"{n}.mp4" for n in range(5)]


async def test_inline_bytes_are_put_there_too(router, place):
    mp4 = make_mp4(LARGE)
    saved = await router.save(Video(mime_type="video/mp4").with_extras(data_=mp4), f"{place.url}/otter.mp4")
    assert (read(place, "otter.mp4"), saved.transferred) == (mp4, 0)


async def test_a_bucket_that_is_not_there_is_said(host, router, s3):
    with pytest.raises(DownloadError, match="nothing of the new video is there"):
        await router.save(host.video(), "s3://no-such-bucket-here/otter.mp4")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://example.com/a.mp4", "not at http://"),
        ("file:///tmp/a.mp4", "not at file://"),
        ("s3://bucket", "names no object"),
        ("s3:///key.mp4", "names no object"),
        ("s3:/bucket/key.mp4", "give URLs as text"),
        ("s3://AKIA0123:secret@bucket/otter.mp4", "holds no credentials"),
        ("az://clips/otter.mp4?sv=2024&sig=secret", "holds no credentials"),
    ],
)
async def test_a_url_that_is_no_place_is_refused_before_anything_is_sent(host, router, url, words):
    with pytest.raises(InvalidRequestError, match=words):
        await router.save(host.video(), url)
    assert host.requests == []


def test_without_the_package_the_message_names_the_extra():
    program = (
        "import sys; sys.modules['fsspec'] = None\n"
        "from videorouter.downloads.store import open_store\nfrom videorouter.places import read_url\n"
        "open_store(read_url('s3://bucket/otter.mp4'))"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "ConfigurationError" in ended.stderr
    assert "pip install '.[data]'" in ended.stderr
