"""A finished answer may bring its video inline, larger than any other answer may be: it is bought, and saved whole."""

from __future__ import annotations

import asyncio
import base64
import gzip
import io
import json
import os
import threading
import tracemalloc
from pathlib import Path

import httpx
import pytest
from calling import KEY, fail
from servers import Gateway, answer, raw, write_answer

from videorouter import AsyncVideoRouter, OutcomeUnknownError
from videorouter.call.spool import split_answer
from videorouter.journal.records import list_inline

pytestmark = pytest.mark.anyio

HEAD = b"\0\0\0\x18ftypisom\0\0\0\0isommp42"
CLIP = HEAD + (8 + 9 * 2**20).to_bytes(4, "big") + b"mdat" + os.urandom(9 * 2**20)
BODY = json.dumps({"created": 1, "data": [{"b64_json": base64.b64encode(CLIP).decode(), "video_id": "v"}]}).encode()
SMALL = HEAD + (8 + 7 * 2**19).to_bytes(4, "big") + b"mdat" + os.urandom(7 * 2**19)
SMALL_BODY = json.dumps({"data": [{"b64_json": base64.b64encode(SMALL).decode(), "video_id": "v"}]}).encode()
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
WAYS = {
    "a length": answer(200, BODY),
    "chunks": raw(
        OK + b"Transfer-Encoding: chunked\r\n\r\n",
        *(b"%x\r\n%b\r\n" % (len(part), part) for part in (BODY[:100], BODY[100:7_000_000], BODY[7_000_000:])),
        b"0\r\n\r\n",
    ),
    "gzip": answer(200, gzip.compress(BODY, 1), "Content-Encoding: gzip"),
    "little gzip": answer(200, gzip.compress(SMALL_BODY), "Content-Encoding: gzip"),
    "its end": raw(OK + b"\r\n", BODY),
}


def read(path: str) -> bytes:
    return Path(path).read_bytes()


@pytest.fixture(params=["our transport", "stock httpx"])
async def client(request):
    async with httpx.AsyncClient() as stock:
        yield stock if request.param == "stock httpx" else None


@pytest.mark.parametrize("way", WAYS)
async def test_a_large_inline_video_is_saved_whole(client, way, tmp_path, spool_folder):
    clip = SMALL if way == "little gzip" else CLIP
    async with Gateway(WAYS[way]) as gateway:
        router = AsyncVideoRouter(KEY, base_url=gateway.url, http_client=client)
        result = await router.generate("otter", model="m", timeout=20)
        assert result.video.data == clip
        assert result.video.video_id == "v"
        saved = await router.save(result, tmp_path / "otter.mp4", sha256=True)
        assert saved.path.read_bytes() == clip
        sink = io.BytesIO()
        await router.save(result, sink)
        assert sink.getvalue() == clip
        async with router.stream(result) as pieces:
            assert b"".join([piece async for piece in pieces]) == clip
        assert [data for _, _, data in list_inline(result)] == [clip]
        assert list(spool_folder.iterdir()) == []
        assert len(gateway.posts) == 1


async def test_a_poll_may_bring_it_too(client, tmp_path):
    accepted = answer(200, {"task_id": "task_1", "status": "queued"})
    finished = {"task_id": "task_1", "status": "completed", "data": [{"b64_json": base64.b64encode(CLIP).decode()}]}
    async with Gateway(accepted, answer(200, finished)) as gateway:
        router = AsyncVideoRouter(KEY, base_url=gateway.url, http_client=client)
        saved = await router.save(await router.generate("otter", model="m", timeout=20), tmp_path / "otter.mp4")
        assert saved.path.read_bytes() == CLIP


async def test_it_is_not_held_in_memory(tmp_path):
    whole = write_answer(200, BODY)
    async with Gateway(raw(*(whole[at : at + 65536] for at in range(0, len(whole), 65536)))) as gateway:
        router = AsyncVideoRouter(KEY, base_url=gateway.url)
        tracemalloc.start()
        try:
            result = await router.generate("otter", model="m", timeout=20)
            await router.save(result, tmp_path / "otter.mp4")
            held, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert held < 2 * 2**20
        assert peak < 12 * 2**20 < len(BODY)


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b'{"data": [' + b"7," * 3_000_000 + b"7]}", "beside its videos"),
        (b"<html>" + b" " * 5_000_000, "not JSON text"),
        (BODY[:-1_000_000].ljust(len(BODY) - 1, b"%"), "not base64"),
    ],
    ids=["numbers", "a page", "no base64"],
)
async def test_what_is_too_large_otherwise_stays_in_a_file_that_the_error_names(client, body, word):
    async with Gateway(answer(200, body)) as gateway:
        error = await fail(AsyncVideoRouter(KEY, base_url=gateway.url, http_client=client), timeout=20)
    assert type(error) is OutcomeUnknownError
    assert word in error.message
    assert error.path in error.message
    assert body.startswith(read(error.path))
    assert error.body
    assert len(gateway.posts) == 1


async def test_more_than_max_download_bytes_is_never_written(client):
    async with Gateway(answer(200, BODY)) as gateway:
        router = AsyncVideoRouter(KEY, base_url=gateway.url, http_client=client, max_download_bytes=6 * 2**20)
        error = await fail(router, timeout=20)
    assert "more than 6291456 bytes" in error.message
    assert len(read(error.path)) < 8 * 2**20


async def test_one_that_is_cut_leaves_what_came(client):
    cut = raw(write_answer(200, BODY)[: 6 * 2**20])
    async with Gateway(cut) as gateway:
        error = await fail(AsyncVideoRouter(KEY, base_url=gateway.url, http_client=client), timeout=20)
    assert type(error) is OutcomeUnknownError
    assert BODY.startswith(read(error.path))
    assert len(gateway.posts) == 1


async def test_of_a_call_that_is_cancelled_while_it_reads_its_answer_the_bytes_stay(client, monkeypatch, caplog):
    begun, release = threading.Event(), threading.Event()

    def split(blocks, most):
        begun.set()
        assert release.wait(20)
        return split_answer(blocks, most)

    monkeypatch.setattr("videorouter.call.spool.split_answer", split)
    async with Gateway(answer(200, BODY)) as gateway:
        router = AsyncVideoRouter(KEY, base_url=gateway.url, http_client=client)
        call = asyncio.ensure_future(router.generate("otter", model="m", timeout=20))
        assert await asyncio.to_thread(begun.wait, 20)
        call.cancel()
        asyncio.get_running_loop().call_later(0.05, release.set)
        with pytest.raises(asyncio.CancelledError):
            await call
    assert read(caplog.messages[-1].rpartition(" ")[2]) == BODY
    assert len(router.in_doubt) == 1
