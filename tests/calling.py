"""A client of a scripted gateway, as the tests of one call need it."""

from __future__ import annotations

import contextlib

import pytest
from servers import Gateway

from videorouter import AsyncVideoRouter, VideoRouterError

KEY = "sk-test-0123456789abcdef"


@contextlib.asynccontextmanager
async def calling(*steps, **options):
    """A scripted gateway, a client of it, and nothing left behind."""
    async with Gateway(*steps) as gateway, AsyncVideoRouter(KEY, base_url=gateway.url, **options) as router:
        yield gateway, router


async def fail(router, **options) -> VideoRouterError:
    options = {"model": "veo", "timeout": 5.0, **options}
    with pytest.raises(VideoRouterError) as caught:
        await router.generate("otter", **options)
    return caught.value
