"""A client of a scripted gateway, as the tests of one call need it."""

from __future__ import annotations

import contextlib

import pytest
from servers import Gateway

from videorouter import AsyncVideoRouter, Phase, VideoRouterError

KEY = "sk-test-0123456789abcdef"


BUILT_ON: dict[str, object] = {}
"""Options that make every client of ``calling`` one that is built on somebody else's."""


LEFT = {Phase.SENDING, Phase.SENT, Phase.ANSWERED, Phase.COMPLETE}
"""Phases of a request that may have been accepted."""


@contextlib.asynccontextmanager
async def calling(*steps, **options):
    """A scripted gateway, a client of it, and nothing left behind."""
    options = {**BUILT_ON, **options}
    async with Gateway(*steps) as gateway, AsyncVideoRouter(KEY, base_url=gateway.url, **options) as router:
        yield gateway, router


async def fail(router, **options) -> VideoRouterError:
    options = {"model": "veo", "timeout": 5.0, **options}
    with pytest.raises(VideoRouterError) as caught:
        await router.generate("otter", **options)
    return caught.value
