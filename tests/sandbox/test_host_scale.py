"""Thousands of held requests at once."""

import asyncio
import json
import math
import resource

import pytest

from videorouter.sandbox import Sandbox

pytestmark = pytest.mark.anyio
COUNT = 5000


@pytest.fixture
def many_files():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * COUNT + 500
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"both ends of {COUNT} connections need {wanted} open files, this machine allows {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def ask(port, number):
    body = json.dumps({"model": "m", "prompt": f"otter {number}"}).encode()
    head = f"POST /v1/videos/generations HTTP/1.1\r\nHost: localhost\r\nAuthorization: k\r\nContent-Length: {len(body)}\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(head.encode() + body)
        return await reader.readline()
    finally:
        writer.close()


@pytest.mark.slow
async def test_five_thousand_requests_are_held_answered_and_charged_once_each(many_files):
    async with Sandbox(latency=math.inf) as sandbox:
        port = int(sandbox.url.rsplit(":", 1)[1])
        calls = [asyncio.create_task(ask(port, number)) for number in range(COUNT)]
        await sandbox.wait_until(lambda box: box.held == COUNT, timeout=100)
        assert await sandbox.release() == COUNT
        assert set(await asyncio.gather(*calls)) == {b"HTTP/1.1 200 OK\r\n"}
        charges = await sandbox.charges()
        assert len(charges) == COUNT
        assert set(charges.values()) == {1}
