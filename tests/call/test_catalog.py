"""The catalogue is read once in five minutes, and the balance each time, both leniently: what is missing costs nothing."""

import pytest
from hypothesis import given, strategies as st

from videorouter import AsyncVideoRouter, UnexpectedResponseError
from videorouter.call.catalog import pick_models, read_balance, read_models
from videorouter.models import Balance
from videorouter.sandbox import Sandbox

pytestmark = pytest.mark.anyio

ROWS = (
    b'{"data":[{"id":"veo3-fast","display_name":"Veo 3 Fast","category_type":"Text to Video","min_request_price":"0.4",'
    b'"deprecated":false,"extra":[1]},{"id":"gpt","category_type":"LLM"},{"id":"old","category_type":"video",'
    b'"is_display_only":true},{"no":"id"},7,null,"bare"],"success":true}'
)


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


def test_rows_are_read_and_kept_whole():
    models = read_models(ROWS)
    assert [model.id for model in models] == ["veo3-fast", "gpt", "old", "bare"]
    assert models[0].min_price == 0.4
    assert models[0].raw["extra"] == [1]


def test_only_callable_video_models_are_picked():
    assert [model.id for model in pick_models(read_models(ROWS), "video")] == ["veo3-fast"]
    assert len(pick_models(read_models(ROWS), None)) == 4


def test_a_catalogue_without_categories_is_given_whole():
    assert len(pick_models(read_models(b'{"data":[{"id":"a"},{"id":"b"}]}'), "video")) == 2


@pytest.mark.parametrize("body", [b"", b"null", b"{}", b'{"data":3}', b"<html>", b"[" * 20000])
def test_an_answer_without_a_list_is_none(body):
    assert read_models(body) is None


@pytest.mark.parametrize(
    ("body", "balance"),
    [
        (b'{"account_name":"me","credit_balance":9.99}', Balance(credit_balance=9.99, account_name="me")),
        (b'{"data":{"credit_balance":"3"}}', Balance(credit_balance=3.0)),
        (b'{"credit_balance":true}', None),
        (b"[]", None),
    ],
)
def test_the_balance_is_read(body, balance):
    assert read_balance(body) == balance


@given(st.binary(max_size=200))
def test_reading_never_raises(body):
    assert read_models(body) is None or isinstance(read_models(body), tuple)
    assert read_balance(body) is None or isinstance(read_balance(body), Balance)
