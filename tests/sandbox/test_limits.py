"""Rate and concurrency limits, and what their refusals say."""

import math

import anyio
import pytest

from videorouter.sandbox import Sandbox, Settings
from videorouter.sandbox.answers import RefusalError
from videorouter.sandbox.limits import Limits

pytestmark = pytest.mark.anyio
BODY = {"model": "m", "prompt": "otter"}


async def test_one_job_too_many_is_refused_until_one_is_over(http):
    async with Sandbox(max_concurrency=2, latency=math.inf, limit_status=503) as sandbox:
        url = f"{sandbox.base_url}/videos/generations"
        async with anyio.create_task_group() as tasks:
            for _ in range(2):
                tasks.start_soon(lambda: http.post(url, json=BODY))
            await sandbox.wait_until(lambda box: box.held == 2)
            refused = await http.post(url, json=BODY)
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
            await sandbox.release()
        assert await sandbox.charges() == {"otter": 2}


async def test_a_rate_is_refused_with_429_and_nothing_charged(http):
    async with Sandbox(rate=0.01, limit_retry_after=0.5) as sandbox:
        url = f"{sandbox.base_url}/videos/generations"
        first, second = [await http.post(url, json=BODY) for _ in range(2)]
        assert (first.status_code, second.status_code) == (200, 429)
        assert second.headers["retry-after"] == "0.5"
        assert second.json()["error"]["type"] == "rate_limit_error"
        assert await sandbox.charges() == {"otter": 1}


def test_tokens_come_back_with_time():
    limits = Limits(Settings(rate=2.0))
    for _ in range(2):
        limits.admit(100.0)
    with pytest.raises(RefusalError) as caught:
        limits.admit(100.0)
    assert caught.value.retry_after == 1
    limits.admit(100.5)


def test_the_wait_of_a_full_house_is_until_the_first_job_is_ready():
    limits = Limits(Settings(max_concurrency=1))
    limits.admit(100.0)
    limits.note(130.5)
    with pytest.raises(RefusalError) as caught:
        limits.admit(100.0)
    assert caught.value.retry_after == 31
    assert limits.count(130.5) == 0
