"""What type checkers must know about the front door: checked by mypy and pyright, and never run.

Each ``assert_type`` is a promise. Each ignored line must stay an error: both checkers report an ignore that is not needed.
"""

# pyright: strict, reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

import io
import urllib.parse
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, assert_type

import httpx
import httpx2
import numpy as np
import pydantic
import yarl
from markupsafe import Markup
from starlette.datastructures import URL, UploadFile

from videorouter import (
    AsyncVideoRouter,
    Balance,
    BatchItem,
    BatchSummary,
    Download,
    DrainReport,
    InDoubt,
    Model,
    OutcomeUnknownError,
    Phase,
    Stats,
    Task,
    TaskStatus,
    Video,
    VideoResult,
    VideoRouter,
    VideoRouterError,
)
from videorouter.events import CallFinished, Event

if TYPE_CHECKING:
    from aiohttp.web_request import FileField
    from litestar.datastructures import UploadFile as LitestarUpload
    from werkzeug.datastructures import FileStorage

ADDRESS = "https://a.example"


async def use_async(router: AsyncVideoRouter) -> None:
    result = await router.generate("otter", model="veo3-fast", duration="8s", seed=7, a_field_of_the_gateway=[1])
    assert_type(result, VideoResult)
    assert_type(result.video, Video)
    assert_type(result.videos, tuple[Video, ...])
    assert_type(result.cost, float | None)
    assert_type(await router.edit(result, "snow", model="sora-2-video-to-video"), VideoResult)
    task = await router.submit("otter", model="veo3-fast", idempotency_key="mine", timeout=None)
    assert_type(task, Task)
    assert_type(await router.submit_edit(result.video, "snow"), Task)
    assert_type(await router.task("cgt-1"), TaskStatus)
    assert_type(await router.wait(task, timeout=5), VideoResult)
    assert_type(await router.models(), tuple[Model, ...])
    assert_type(await router.balance(), Balance)
    assert_type(await router.save(result, "otter.mp4"), Download)
    assert_type(await router.download("https://files.example/a.mp4", "a.mp4"), Download)
    assert_type(await router.download([result.video], "clips/"), list[Download])
    found = await router.download([result.video], "clips/", return_exceptions=True)
    assert_type(found, list[Download | VideoRouterError])
    async with router.stream(result) as chunks:
        assert_type(chunks, AsyncIterator[bytes])
    async for item in router.generate_many(["otter"], journal="run.db"):
        assert_type(item, BatchItem)
    assert_type(router.with_options(timeout=5.0), AsyncVideoRouter)
    assert_type(router.stats(), Stats)
    assert_type(await router.drain(timeout=5), DrainReport)
    assert_type(router.in_doubt, tuple[InDoubt, ...])
    await router.generate(7)  # type: ignore[arg-type]
    await router.submit("otter", seed="7")  # type: ignore[arg-type]
    await router.edit("video_1")  # type: ignore[call-arg]


async def pass_inputs(router: AsyncVideoRouter, path: Path, upload: UploadFile | LitestarUpload | FileStorage) -> None:
    with path.open("rb") as file:
        await router.generate("otter", image_url=file, audio_urls=[io.BytesIO(), memoryview(b""), bytearray()])
    await router.upload(upload)
    await router.generate("otter", image_urls=[path, PurePosixPath("cat.png"), b"", "https://cdn.example/cat.png"])
    await router.generate("otter", image_urls=[httpx.URL(ADDRESS), yarl.URL(ADDRESS), URL(ADDRESS)])
    await router.generate("otter", video_urls=(await router.generate("otter")).videos)
    await router.edit("video_1", Markup("snow"), image_url=pydantic.AnyUrl(ADDRESS))
    await router.download(urllib.parse.urlsplit("https://a.example/a.mp4"), path)
    with path.open() as text:
        await router.upload(text)  # type: ignore[arg-type]
    await router.upload(7)  # type: ignore[arg-type]


def pass_aiohttp(router: VideoRouter, field: FileField) -> None:
    router.upload(field)


async def pass_numbers(router: AsyncVideoRouter) -> None:
    await router.generate(np.str_("otter"), seed=np.int64(7), n=np.int32(1), duration=Decimal(8), timeout=np.float32(9))
    batch = router.generate_many(
        ["otter"], max_cost=Decimal("1.20"), price={"veo3-fast": Decimal("1.2")}, concurrency=np.int64(2)
    )
    assert_type(batch.summary, BatchSummary)


def use_sync(router: VideoRouter) -> None:
    result = router.generate("otter", model="veo3-fast", duration="8s", a_field_of_the_gateway=[1])
    assert_type(result, VideoResult)
    assert_type(router.edit(result, "snow"), VideoResult)
    assert_type(router.submit("otter"), Task)
    assert_type(router.submit_edit("video_1", "snow"), Task)
    assert_type(router.task("cgt-1"), TaskStatus)
    assert_type(router.wait("cgt-1"), VideoResult)
    assert_type(router.balance(), Balance)
    assert_type(router.save(result, "otter.mp4"), Download)
    assert_type(router.download([result.video], "clips/"), list[Download])
    with router.stream(result) as chunks:
        assert_type(chunks, Iterator[bytes])
    batch = router.generate_many(["otter"])
    for item in batch:
        assert_type(item, BatchItem)
    assert_type(batch.summary, BatchSummary)
    assert_type(router.stats(), Stats)
    assert_type(router.drain(), DrainReport)
    router.generate(7)  # type: ignore[arg-type]
    router.submit("otter", seed="7")  # type: ignore[arg-type]


def make_clients() -> None:
    async def fetch_key() -> str:
        return "key"

    async def hook(event: Event) -> None:
        if isinstance(event, CallFinished):
            assert_type(event.cost, float | None)

    AsyncVideoRouter("key", http_client=httpx.AsyncClient())
    VideoRouter("key", http_client=httpx2.AsyncClient())
    AsyncVideoRouter("key", http_client=httpx.Client())  # type: ignore[arg-type]
    AsyncVideoRouter("key", base_url=httpx.URL(ADDRESS), timeout=Decimal(5), max_concurrency=np.int64(2))
    AsyncVideoRouter(fetch_key, on_event=hook, max_retries=0)
    VideoRouter("key", on_event=print, idempotency="honoured")
    VideoRouter("key", idempotency="maybe")  # type: ignore[arg-type]
    VideoRouter("key", colour=5)  # type: ignore[call-arg]


def read_errors(error: VideoRouterError) -> None:
    assert_type(error.in_doubt, bool)
    assert_type(error.task_id, str | None)
    if isinstance(error, OutcomeUnknownError):
        assert_type(error.phase, Phase | None)
