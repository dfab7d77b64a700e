"""A client that knows nothing of videorouter: what the sandbox says is judged by its bytes."""

import httpx
import pytest


@pytest.fixture
async def http(anyio_backend):
    async with httpx.AsyncClient(trust_env=False, timeout=20, headers={"Authorization": "key-for-tests"}) as client:
        yield client
