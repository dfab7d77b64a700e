"""The next model is tried only after a verdict that proves that nothing was charged."""

import pytest

from videorouter import (
    AsyncVideoRouter,
    AuthenticationError,
    ContentPolicyError,
    InsufficientCreditsError,
    InvalidRequestError,
    OutcomeUnknownError,
    TaskFailedError,
)
from videorouter.sandbox import Sandbox

pytestmark = pytest.mark.anyio


@pytest.fixture
async def router(sandbox):
    async with AsyncVideoRouter("key", base_url=sandbox.base_url) as client:
        yield client


@pytest.mark.parametrize("status", [400, 403, 404, 422, 429])
async def test_a_refusal_lets_the_next_model_try_and_is_told(sandbox, router, status):
    sandbox.faults.add("status", model="first", status=status)
    result = await router.generate("otter", models=["first", "veo3-fast"])
    assert result.model == "veo3-fast"
    assert [(skipped.model, skipped.status) for skipped in result.skipped] == [("first", status)]
    assert await sandbox.charges() == {"otter": 1}


@pytest.mark.parametrize("where", ["422", "403", "200"])
async def test_moderation_lets_the_next_model_try(sandbox, router, where):
    sandbox.faults.add("moderation", model="first", where=where)
    result = await router.generate("otter", models=["first", "veo3-fast"])
    assert [skipped.error for skipped in result.skipped] == [ContentPolicyError.__name__]
    assert await sandbox.charges() == {"otter": 1}


@pytest.mark.parametrize(("status", "error"), [(401, AuthenticationError), (402, InsufficientCreditsError)])
async def test_what_the_next_model_would_meet_too_ends_the_list(sandbox, router, status, error):
    sandbox.faults.add("status", model="first", status=status)
    with pytest.raises(error):
        await router.generate("otter", models=["first", "veo3-fast"])
    assert await sandbox.charges() == {}


@pytest.mark.parametrize("status", [402, 403, 429])
async def test_an_account_without_credit_ends_the_list_at_the_first_answer(sandbox, router, status):
    sandbox.faults.add(f"no_credit={status}")
    with pytest.raises(InsufficientCreditsError) as caught:
        await router.generate("otter", models=["first", "veo3-fast"])
    assert caught.value.status == status
    assert len([record for record in sandbox.requests if record.method == "POST"]) == 1
    assert await sandbox.charges() == {}


@pytest.mark.parametrize("fault", ["status=500", "status=502", "reset; at=body", "empty", "html"])
async def test_what_is_in_doubt_is_raised_and_never_bought_again(sandbox, router, fault):
    sandbox.faults.add(fault, model="first", charged=True)
    with pytest.raises(OutcomeUnknownError):
        await router.generate("otter", models=["first", "veo3-fast"])
    assert (await sandbox.charges()).get("otter", 0) <= 1
    assert len([record for record in sandbox.requests if record.method == "POST"]) == 1


async def test_a_failed_task_lets_the_next_model_try_only_when_allowed(anyio_backend):
    async with Sandbox(mode="task") as sandbox, AsyncVideoRouter("key", base_url=sandbox.base_url) as router:
        sandbox.faults.add("failed_task", model="vendor/first")
        with pytest.raises(TaskFailedError):
            await router.generate("otter", models=["vendor/first", "veo3-fast"])
        assert len(sandbox.requests) == 2
        result = await router.generate("snow", models=["vendor/first", "veo3-fast"], fallback_on_failure=True)
        assert result.model == "veo3-fast"
        assert [skipped.error for skipped in result.skipped] == ["TaskFailedError"]


async def test_the_last_error_names_the_models_tried_before(sandbox, router):
    sandbox.faults.add("status", status=404)
    with pytest.raises(Exception, match="404") as caught:
        await router.generate("otter", models=["first", "second"])
    assert any("first" in note for note in caught.value.__notes__)


@pytest.mark.parametrize("models", ["veo3-fast", [], [""], [7], {"veo3-fast"}])
async def test_a_bad_list_is_refused_before_anything_is_sent(sandbox, router, models):
    with pytest.raises(InvalidRequestError):
        await router.generate("otter", models=models)
    assert sandbox.requests == []


async def test_model_and_models_together_are_refused(sandbox, router):
    with pytest.raises(InvalidRequestError, match="not both"):
        await router.generate("otter", model="a", models=["b"])
    assert sandbox.requests == []


async def test_each_model_has_a_key_of_its_own(anyio_backend):
    async with (
        Sandbox(honour_idempotency=True) as sandbox,
        AsyncVideoRouter("key", base_url=sandbox.base_url, idempotency="honoured") as router,
    ):
        sandbox.faults.add("status", model="first", status=404)
        result = await router.generate("otter", models=["first", "veo3-fast"], idempotency_key="mine")
        assert result.idempotency_key == "mine.2"
        assert await sandbox.charges() == {"otter": 1}
