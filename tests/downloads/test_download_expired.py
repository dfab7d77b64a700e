"""A link that has expired is worth one look at its task."""

from __future__ import annotations

import io
import json
import pickle
from typing import TYPE_CHECKING

import pytest

from videorouter import AsyncVideoRouter, DownloadError, Video, VideoResult

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


@pytest.fixture
def result(host):
    return VideoResult(videos=(host.video("/old.mp4?sig=1"),), task_id="task_1", model="m")


@pytest.fixture
def current(host, plan):
    """The task's answer, with the link of now."""
    answer = {"task_id": "task_1", "status": "completed", "data": [{"url": host.url("/new.mp4?sig=2")}]}
    return plan(body=json.dumps(answer).encode(), headers=(("Content-Type", "application/json"),), etag=None)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 410, 451])
async def test_any_4xx_is_worth_one_fresh_link(host, router, tmp_path, plan, result, current, status):
    host.plans = [plan(status=status, body=b"<Error>ExpiredToken"), current]
    saved = await router.save(result, tmp_path / "otter.mp4")
    assert saved.path.read_bytes() == host.body
    assert saved.url == host.url("/new.mp4?sig=2")
    assert [path for path, _ in host.requests][::2] == ["/old.mp4?sig=1", "/new.mp4?sig=2"]
    assert "task_1" in host.requests[1][0]
    assert names(tmp_path) == ["otter.mp4"]


async def test_one_fresh_link_and_no_more(host, router, tmp_path, plan, result, current):
    host.plans = [plan(status=403, body=b""), current, plan(status=403, body=b""), current]
    error = await fail(router, result, tmp_path / "otter.mp4")
    assert error.status == 403
    assert len(host.requests) == 3


async def test_a_file_object_gets_it_too_while_nothing_was_written(host, router, plan, result, current):
    host.plans = [plan(status=400, body=b""), current]
    sink = io.BytesIO()
    await router.save(result, sink)
    assert sink.getvalue() == host.body
    host.plans = [plan(cut=10 * CUTS), plan(status=403, body=b""), current]
    await fail(router, result, io.BytesIO())
    assert len(host.requests) == 5


async def test_without_a_task_or_where_it_cannot_be_read_the_refusal_is_raised(host, router, tmp_path, plan, result):
    host.plans = [plan(status=403, body=b""), plan(status=404, body=b"{}")]
    assert (await fail(router, result, tmp_path / "a.mp4")).status == 403
    host.plans = [plan(status=403, body=b"")]
    assert (await fail(router, host.video(), tmp_path / "a.mp4")).status == 403
    host.plans = [plan(status=429, body=b"")]
    assert (await fail(router, result, tmp_path / "a.mp4", max_retries=0)).status == 429
    assert host.plans == []
