"""What a call was given becomes one request, complete, with a key of its own."""

from __future__ import annotations

import os

import msgspec
import pytest

from videorouter import AsyncVideoRouter, FieldWarning, InvalidRequestError
from videorouter.call.prepare import new_idempotency_key

pytestmark = pytest.mark.anyio


@pytest.fixture
async def builder(anyio_backend):
    async with AsyncVideoRouter("key", model="m", timeout=33.0) as router:
        yield router._builder


@pytest.mark.parametrize("options", [{}, {"model": "veo3-fast"}, {"duration": "8s", "aspect_ratio": "16:9", "seed": 1}])
@pytest.mark.parametrize(
    "prompt", ["otter", 'a "heron" at dawn', "\u00dcbergr\u00f6\u00dfentr\u00e4ger \U0001f9a6", "back\\slash\n"]
)
async def test_a_prompt_and_fields_reach_the_body_as_they_are(builder, options, prompt):
    made = await builder.prepare("generate", prompt, options)
    assert msgspec.json.decode(made.body) == {"model": "m", "prompt": prompt, "output_format": "url", **options}
    assert (made.model, made.timeout) == (options.get("model", "m"), 33.0)


async def test_what_is_prepared_is_what_is_built_but_for_its_key(builder):
    options = {"model": "veo", "timeout": 5, "extra_body": {"tools": [None]}, "extra_headers": {"x-a": "b"}}
    prepared, built = await builder.prepare("generate", "otter", options), builder.build("generate", "otter", options)
    assert prepared.idempotency_key != built.idempotency_key
    assert msgspec.structs.replace(prepared, idempotency_key=built.idempotency_key) == built


async def test_a_model_whose_field_is_ignored_warns_each_time(builder):
    options = {"model": "google/veo3.1/text-to-video", "duration": "eight"}
    for _ in range(2):
        with pytest.warns(FieldWarning, match="duration"):
            await builder.prepare("generate", "otter", options)


async def test_a_client_without_a_model_says_so():
    async with AsyncVideoRouter("key") as router:
        with pytest.raises(InvalidRequestError, match="No model"):
            await router._builder.prepare("generate", "otter", {})


async def test_a_view_has_its_own_settings_in_what_it_prepares(builder):
    async with AsyncVideoRouter("key", model="m", timeout=33.0) as router:
        view = router.with_options(timeout=5.0, model="other")
        made = await view._builder.prepare("generate", "otter", {})
        assert (made.timeout, made.model) == (5.0, "other")


# Idempotency keys


def test_keys_are_never_the_same():
    keys = [new_idempotency_key() for _ in range(1000)]
    assert len(set(keys)) == 1000
    assert {len(key) for key in keys} == {36}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_makes_keys_of_its_own():
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, new_idempotency_key().encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 36).decode()[:24] != new_idempotency_key()[:24]
    os.close(reader)
    os.close(writer)


class Immense:
    """A value that memory does not hold."""

    def tolist(self):
        raise MemoryError


async def test_a_request_that_memory_does_not_hold_is_refused_unsent(builder):
    with pytest.raises(InvalidRequestError, match=r"no memory left for this request\. Nothing was sent"):
        await builder.prepare("generate", "otter", {"reference": Immense()})
