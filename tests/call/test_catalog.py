"""The catalogue is read once in five minutes, and the balance each time."""

import pytest

from videorouter import AsyncVideoRouter, UnexpectedResponseError
from videorouter.sandbox import Sandbox

pytestmark = pytest.mark.anyio


@pytest.fixture
async def router(sandbox):
    async with AsyncVideoRouter("key", base_url=sandbox.base_url) as client:
        yield client


def reads(sandbox):
    return len([record for record in sandbox.requests if record.path.endswith("/models")])


async def test_the_catalogue_is_remembered_and_read_anew_on_request(sandbox, router):
    models = await router.models()
    assert any(model.id == "veo3-fast" for model in models)
    assert await router.models() == models
    assert reads(sandbox) == 1
    await router.models(refresh=True)
    assert reads(sandbox) == 2


async def test_every_row_is_given_on_request(router):
    assert len(await router.models(category=None)) >= len(await router.models())


async def test_the_balance_goes_down_with_each_video(anyio_backend):
    async with Sandbox(balance=20.0) as sandbox, AsyncVideoRouter("key", base_url=sandbox.base_url) as router:
        assert (await router.balance()).credit_balance == 20.0
        await router.generate("otter", model="veo3-fast")
        assert (await router.balance()).credit_balance < 20.0


@pytest.mark.parametrize("verb", ["models", "balance"])
async def test_an_answer_that_makes_no_sense_is_said_to_be_one(sandbox, router, verb):
    sandbox.faults.add("html", method="GET")
    with pytest.raises(UnexpectedResponseError):
        await getattr(router, verb)()
