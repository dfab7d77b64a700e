"""Views of one client: what they share, and what belongs to another gateway or another key."""

from __future__ import annotations

import asyncio
import json
import time

import pytest
from servers import Gateway, answer, task_accepted

from videorouter import AsyncVideoRouter
from videorouter.sandbox import Sandbox

pytestmark = pytest.mark.anyio

PICTURE = b"\x89PNG\r\n\x1a\n" + b"\0" * 64


def catalog(name):
    return json.dumps({"data": [{"id": name, "category_type": "video"}]}).encode()


@pytest.fixture
async def two_gateways(anyio_backend):
    async with Sandbox() as one, Sandbox() as two:
        yield one, two


def uploads(sandbox):
    return len([record for record in sandbox.requests if record.path.endswith("/upload/resources")])


async def test_an_upload_stays_with_its_gateway_and_its_key(two_gateways):
    one, two = two_gateways
    async with AsyncVideoRouter("key-of-mine", base_url=one.base_url, model="veo3-fast") as router:
        await router.upload(PICTURE)
        for options, at_one, at_two in (
            ({"timeout": 5.0}, 1, 0),
            ({"base_url": one.base_url, "api_key": "key-of-mine"}, 1, 0),
            ({"base_url": two.base_url}, 1, 1),
            ({"api_key": "key-of-another"}, 2, 1),
            ({"media_base_url": two.base_url}, 2, 2),
        ):
            await router.with_options(**options).upload(PICTURE)
            assert (uploads(one), uploads(two)) == (at_one, at_two), options


async def test_an_edit_of_a_view_uses_no_asset_of_another_gateway(two_gateways):
    one, two = two_gateways
    async with AsyncVideoRouter("key-of-mine", base_url=one.base_url, model="veo3-fast") as router:
        await router.generate("otter", image_url=PICTURE)
        await router.with_options(base_url=two.base_url).generate("otter", image_url=PICTURE)
    assert (uploads(one), uploads(two)) == (1, 1)
    assert await one.charges() == await two.charges() == {"otter": 1}


async def test_each_gateway_has_a_catalogue_of_its_own():
    mine, other = Gateway(answer(200, catalog("mine"))), Gateway(answer(200, catalog("other")))
    async with mine, other, AsyncVideoRouter("key-of-mine", base_url=mine.url) as router:
        view = router.with_options(models_base_url=other.url)
        for _ in range(2):
            assert [model.id for model in await router.models()] == ["mine"]
            assert [model.id for model in await view.models()] == ["other"]
            assert [model.id for model in await router.with_options(timeout=9).models()] == ["mine"]
        await router.with_options(api_key="key-of-another").models()
        assert [request.headers["authorization"] for request in mine.gets] == ["key-of-mine", "key-of-another"]
        assert len(other.gets) == 1


async def test_a_gateway_that_asks_for_fewer_looks_holds_no_look_at_another():
    done = {"data": {"status": "completed", "urls": {"video": "https://x.example/v.mp4"}}}
    slow = Gateway(task_accepted(), answer(429, None, "Retry-After: 30"))
    quick = Gateway(task_accepted(), answer(200, done))
    async with slow, quick, AsyncVideoRouter("key-of-mine", base_url=slow.url) as router:
        waiting = asyncio.create_task(router.generate("otter", model="veo", timeout=60))
        async with asyncio.timeout(10):
            while not slow.gets:
                await asyncio.sleep(0.01)
        began = time.monotonic()
        await router.with_options(base_url=quick.url).generate("otter", model="veo", timeout=20)
        assert time.monotonic() - began < 5
        waiting.cancel()
        await asyncio.wait([waiting])
