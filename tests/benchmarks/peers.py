"""The clients that are compared on faults: each makes its own ordinary paid call against a base URL on loopback.

A contender opens its client with the settings it ships with. Only two are ever given: where the server is, and, where
a fault would last for minutes, the client's own option for its timeout. ``answer`` is what its server says when a job
was accepted, ``package`` whose errors are its own, ``id_of`` what its user can collect the job by.
"""

from __future__ import annotations

import contextlib
import os
import sys
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

PROMPT = "A cute baby sea otter"
KEY = "sk-test-0123456789abcdef"


@contextlib.asynccontextmanager
async def videorouter(url, patience):
    from videorouter import AsyncVideoRouter

    options = {} if patience is None else {"timeout": patience}
    async with AsyncVideoRouter(KEY, base_url=f"{url}/v1", **options) as router:
        yield lambda: router.generate(PROMPT, model="veo3-fast")


@contextlib.asynccontextmanager
async def openai(url, patience):
    from openai import AsyncOpenAI

    options = {} if patience is None else {"timeout": patience}
    async with AsyncOpenAI(api_key=KEY, base_url=f"{url}/v1", **options) as client:
        yield lambda: client.videos.create(model="sora-2", prompt=PROMPT)


@contextlib.asynccontextmanager
async def runwayml(url, patience):
    from runwayml import AsyncRunwayML

    options = {} if patience is None else {"timeout": patience}
    async with AsyncRunwayML(api_key=KEY, base_url=url, **options) as client:
        yield lambda: client.text_to_video.create(model="veo3.1", prompt_text=PROMPT, ratio="1280:720", duration=4)


@contextlib.asynccontextmanager
async def lumaai(url, patience):
    from lumaai import AsyncLumaAI

    options = {} if patience is None else {"timeout": patience}
    async with AsyncLumaAI(auth_token=KEY, base_url=url, **options) as client:
        yield lambda: client.generations.create(model="ray-2", prompt=PROMPT)


@contextlib.asynccontextmanager
async def together(url, patience):
    from together import AsyncTogether

    options = {} if patience is None else {"timeout": patience}
    async with AsyncTogether(api_key=KEY, base_url=url, **options) as client:
        yield lambda: client.videos.create(model="openai/sora-2", prompt=PROMPT)


@contextlib.asynccontextmanager
async def fal(url, patience):
    # Its host comes from the environment, when it is imported, and the scheme is always https.
    os.environ["FAL_QUEUE_RUN_HOST"] = url.partition("://")[2]
    from fal_client import AsyncClient

    options = {} if patience is None else {"default_timeout": patience}
    client = AsyncClient(key=KEY, **options)
    yield lambda: client.submit("fal-ai/veo3", arguments={"prompt": PROMPT})


@contextlib.asynccontextmanager
async def replicate(url, patience):
    import httpx
    from replicate import Client

    options = {} if patience is None else {"timeout": httpx.Timeout(patience)}
    client = Client(api_token=KEY, base_url=url, **options)
    yield lambda: client.predictions.async_create(model="google/veo-3-fast", input={"prompt": PROMPT})


@contextlib.asynccontextmanager
async def google(url, patience):
    # As it installs; it works otherwise where aiohttp happens to be there.
    sys.modules.setdefault("aiohttp", None)
    async with google_aiohttp(url, patience) as call:
        yield call


@contextlib.asynccontextmanager
async def google_aiohttp(url, patience):
    from google import genai
    from google.genai import types

    options = types.HttpOptions(base_url=url, timeout=None if patience is None else int(patience * 1000))
    source = types.GenerateVideosSource(prompt=PROMPT)
    async with genai.Client(vertexai=True, api_key=KEY, http_options=options).aio as client:
        yield lambda: client.models.generate_videos(model="veo-3.1-generate-preview", source=source)


@contextlib.asynccontextmanager
async def handwritten(url, patience):
    """What many write: three tries, with back-off, after errors of transport, 429 and 5xx."""
    import httpx
    import tenacity

    def is_transient(error):
        status = error.response.status_code if isinstance(error, httpx.HTTPStatusError) else 0
        return isinstance(error, httpx.TransportError) or status == 429 or status >= 500

    async with httpx.AsyncClient(timeout=patience or 600, headers={"Authorization": KEY}) as client:

        @tenacity.retry(
            stop=tenacity.stop_after_attempt(3),
            wait=tenacity.wait_exponential(),
            retry=tenacity.retry_if_exception(is_transient),
            reraise=True,
        )
        async def call():
            response = await client.post(f"{url}/v1/videos/generations", json={"model": "veo3-fast", "prompt": PROMPT})
            response.raise_for_status()
            return response.json()["data"][0]["url"]

        yield call


@dataclass(frozen=True)
class Contender:
    open: Callable
    package: str
    distribution: str
    answer: dict
    id_of: Callable
    tls: bool = False


VIDEO = {"data": [{"url": "https://resource.example/v.mp4", "video_id": "video_1"}], "created": 1}
SORA = {
    "id": "video_1",
    "object": "video",
    "created_at": 1,
    "model": "sora-2",
    "progress": 0,
    "seconds": "4",
    "size": "720x1280",
    "status": "queued",
}
FAL = {
    "request_id": "job-1",
    "response_url": "https://localhost/r",
    "status_url": "https://localhost/s",
    "cancel_url": "https://localhost/c",
}
PREDICTION = {
    "id": "job-1",
    "model": "google/veo-3-fast",
    "version": "hidden",
    "status": "starting",
    "input": {},
    "output": None,
    "logs": "",
    "error": None,
    "metrics": None,
    "created_at": "2026-11-22T12:00:00Z",
    "started_at": None,
    "completed_at": None,
    "urls": {},
}
RUNWAY = {"id": "00000000-0000-4000-8000-000000000001", "estimatedCost": {"credits": 1}}
OPERATION = {"name": "models/veo/operations/job-1"}
ID = attrgetter("id")

CONTENDERS = {
    "videorouter": Contender(videorouter, "videorouter", "videorouter", VIDEO, lambda result: result.video.video_id),
    "openai": Contender(openai, "openai", "openai", SORA, ID),
    "runwayml": Contender(runwayml, "runwayml", "runwayml", RUNWAY, ID),
    "lumaai": Contender(lumaai, "lumaai", "lumaai", {"id": "job-1", "state": "queued"}, ID),
    "together": Contender(together, "together", "together", SORA | {"status": "in_progress"}, ID),
    "fal-client": Contender(fal, "fal_client", "fal-client", FAL, attrgetter("request_id"), tls=True),
    "replicate": Contender(replicate, "replicate", "replicate", PREDICTION, ID),
    "google-genai": Contender(google, "google", "google-genai", OPERATION, attrgetter("name")),
    "google-genai[aiohttp]": Contender(google_aiohttp, "google", "google-genai", OPERATION, attrgetter("name")),
    "httpx + tenacity": Contender(handwritten, "httpx", "tenacity", VIDEO, str),
}
