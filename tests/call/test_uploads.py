"""Inputs from disk and memory reach the gateway once, and nothing is paid for a bad one."""

import asyncio
import io
import itertools
import struct
import threading
import zlib

import anyio
import pytest

from videorouter import AsyncVideoRouter, InvalidRequestError, UnprocessableEntityError

pytestmark = pytest.mark.anyio


def draw_png(red: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + bytes((red, 20, 20)) * 16 for _ in range(9))
    head = struct.pack(">IIBBBBB", 16, 9, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.fixture
async def router(sandbox):
    async with AsyncVideoRouter("key", base_url=sandbox.base_url, model="veo3-fast") as client:
        yield client


def uploads(sandbox):
    return [record for record in sandbox.requests if record.path.endswith("/upload/resources")]


async def test_a_path_bytes_and_a_file_object_of_one_content_are_uploaded_once(sandbox, router, tmp_path):
    picture = draw_png(200)
    path = tmp_path / "cat.png"
    path.write_bytes(picture)
    for number, source in enumerate((path, picture, io.BytesIO(picture))):
        result = await router.generate(f"take {number}", image_url=source)
        assert result.video.url
    assert len(uploads(sandbox)) == 1
    assert len(await sandbox.charges()) == 3


async def test_many_calls_at_once_share_one_upload(sandbox, router):
    async with anyio.create_task_group() as group:
        for number in range(20):
            group.start_soon(lambda n=number: router.generate(f"take {n}", image_urls=[draw_png(90)]))
    assert len(uploads(sandbox)) == 1


async def test_another_content_and_another_model_are_uploaded_again(sandbox, router):
    for red, model in itertools.product((10, 20), ("veo3-fast", "sora-2")):
        await router.generate("take", image_url=draw_png(red), model=model)
    assert len(uploads(sandbox)) == 4


async def test_the_picture_is_the_first_frame(sandbox, router, tmp_path):
    av = pytest.importorskip("av", reason="PyAV reads the frame back; it comes with the sandbox extra")
    result = await router.generate("The cat opens its eyes", image_url=draw_png(200))
    saved = await router.save(result, tmp_path / "cat.mp4")
    with av.open(str(saved.path)) as video:
        frame = next(video.decode(video=0)).to_image()
    red, green, blue = frame.getpixel((frame.width // 2, frame.height // 2))
    assert red > 150
    assert green < 80
    assert blue < 80


async def test_an_asset_stands_where_a_url_stands_and_is_not_uploaded_again(sandbox, router):
    asset = await router.upload(draw_png(50))
    assert asset.id
    assert asset.sha256
    await router.generate("take", image_url=asset)
    await router.generate("take", image_url=draw_png(50))
    assert len(uploads(sandbox)) == 1


async def test_a_review_that_refuses_is_an_error_and_no_video_is_bought(sandbox, router):
    sandbox.faults.add("rejected_review")
    with pytest.raises(UnprocessableEntityError, match="No video was bought"):
        await router.generate("take", image_url=draw_png(50))
    assert await sandbox.charges() == {}


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (b"", "empty"),
        (b"<html>not found</html>", "known image"),
        (io.StringIO("text"), "binary mode"),
        (42, "pass a URL"),
    ],
)
async def test_a_bad_input_is_refused_before_anything_is_sent(sandbox, router, source, words):
    with pytest.raises(InvalidRequestError, match=words):
        await router.generate("take", image_url=source)
    assert sandbox.requests == []


async def test_a_missing_file_is_named(sandbox, router, tmp_path):
    with pytest.raises(InvalidRequestError, match=r"nowhere\.png cannot be read"):
        await router.generate("take", image_url=tmp_path / "nowhere.png")
    assert sandbox.requests == []


async def test_a_bad_prompt_is_refused_before_its_picture_is_uploaded(sandbox, router):
    with pytest.raises(InvalidRequestError, match="prompt is empty"):
        await router.generate(" ", image_url=draw_png(50))
    assert sandbox.requests == []


async def test_a_failed_upload_is_tried_again_by_the_next_call(sandbox, router):
    sandbox.faults.add("status", path="*/upload/resources", status=400, times=1)
    with pytest.raises(Exception, match="refused"):
        await router.generate("take", image_url=draw_png(50))
    assert (await router.generate("take", image_url=draw_png(50))).video.url


async def test_a_file_object_stands_where_it_stood_and_serves_the_next_request(sandbox, router):
    source = io.BytesIO(b"before" + draw_png(3))
    source.seek(6)
    for number in range(2):
        await router.generate(f"take {number}", image_url=source)
    assert source.tell() == 6
    assert len(uploads(sandbox)) == 1


async def test_a_cancelled_call_reads_no_more_from_a_file_that_its_owner_then_closes(router):
    begun, release = threading.Event(), threading.Event()

    class Slow(io.BytesIO):
        late = False

        def read(self, *_) -> bytes:
            begun.set()
            assert release.wait(20)
            self.late = self.closed
            return draw_png(7)

    slow = Slow()

    async def generate() -> None:
        with slow:
            await router.generate("take", image_url=slow)

    task = asyncio.ensure_future(generate())
    assert await asyncio.to_thread(begun.wait, 20)
    for _ in range(2):
        task.cancel()
        await asyncio.sleep(0)
    asyncio.get_running_loop().call_later(0.05, release.set)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (slow.closed, slow.late) == (True, False)
