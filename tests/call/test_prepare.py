"""Requests that are filled in rather than built are the same requests, and only those that can be."""

from __future__ import annotations

import pytest

from videorouter import AsyncVideoRouter, FieldWarning, InvalidRequestError

pytestmark = pytest.mark.anyio

SHAPES = (
    {},
    {"model": "veo3-fast"},
    {"model": "sora-2", "duration": "8s", "aspect_ratio": "16:9", "resolution": "720p"},
)


@pytest.fixture
async def maker(anyio_backend):
    async with AsyncVideoRouter("key", model="m", timeout=33.0) as router:
        yield router._maker


@pytest.mark.parametrize("given", SHAPES)
async def test_a_filled_request_is_the_one_that_is_prepared(maker, given):
    for prompt in ("otter", 'a "heron" at dawn', "Übergrößenträger 🦦", "back\\slash\n"):
        filled, prepared = maker.fill(prompt, given), await maker.prepare("generate", prompt, given, {})
        assert (filled.body, filled.model, filled.timeout) == (prepared.body, prepared.model, 33.0)
        assert filled.idempotency_key != prepared.idempotency_key


@pytest.mark.parametrize(
    "given",
    [
        {"seed": 1},
        {"duration": 8},
        {"image_url": "https://x.example/a.png"},
        {"idempotency_key": "k"},
        {"timeout": 5.0},
    ],
)
async def test_a_request_with_more_than_a_shape_is_prepared(maker, given):
    assert maker.fill("otter", given) is None


async def test_a_model_whose_field_is_ignored_warns_each_time(maker):
    given = {"model": "google/veo3.1/text-to-video", "duration": "eight"}
    for _ in range(2):
        assert maker.fill("otter", given) is None
        with pytest.warns(FieldWarning, match="duration"):
            await maker.prepare("generate", "otter", given, {})


async def test_a_client_without_a_model_says_so_and_not_its_shape():
    async with AsyncVideoRouter("key") as router:
        for _ in range(2):
            assert router._maker.fill("otter", {}) is None
            with pytest.raises(InvalidRequestError, match="No model"):
                await router._maker.prepare("generate", "otter", {}, {})


async def test_a_view_has_its_own_settings_in_what_it_fills(maker):
    async with AsyncVideoRouter("key", model="m", timeout=33.0) as router:
        router._maker.fill("otter", {})
        view = router.with_options(timeout=5.0, model="other")
        assert (view._maker.fill("otter", {}).timeout, view._maker.fill("otter", {}).model) == (5.0, "other")


async def test_a_thousand_shapes_are_not_all_remembered(maker):
    for number in range(1000):
        assert maker.fill("otter", {"model": f"m-{number}"}).model == f"m-{number}"
    assert len(maker._shapes) <= 256
