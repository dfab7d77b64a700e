"""The clients that are compared: each turns a base URL into a coroutine function that makes one call and checks it."""

import asyncio
import contextlib
import json
import ssl
import time

BODY = {"model": "veo3-fast", "prompt": "A cute baby sea otter", "output_format": "url"}
PATH = "/videos/generations"


def trust(ca):
    return ssl.create_default_context(cafile=ca) if ca else None


@contextlib.asynccontextmanager
async def videorouter(url, ca):
    """Our default client with all features of ``generate`` on."""
    from videorouter import AsyncVideoRouter

    async with AsyncVideoRouter(
        "sk-test", base_url=url, ssl_context=trust(ca), trust_env=False, max_concurrency=20_000, timeout=300
    ) as router:

        async def call():
            result = await router.generate("A cute baby sea otter", model="veo3-fast")
            assert result.video.video_id

        yield call


@contextlib.asynccontextmanager
async def videorouter_fixed(url, ca):
    """The same with ``adaptive=False``: what is measured is not the start of its pacing."""
    from videorouter import AsyncVideoRouter

    async with AsyncVideoRouter(
        "sk-test",
        base_url=url,
        ssl_context=trust(ca),
        trust_env=False,
        max_concurrency=20_000,
        timeout=300,
        adaptive=False,
    ) as router:

        async def call():
            result = await router.generate("A cute baby sea otter", model="veo3-fast")
            assert result.video.video_id

        yield call


@contextlib.asynccontextmanager
async def videorouter_stock(url, ca):
    """Ours on a user's own stock ``httpx.AsyncClient``."""
    import httpx

    from videorouter import AsyncVideoRouter

    limits = httpx.Limits(max_connections=None)
    async with (
        httpx.AsyncClient(verify=trust(ca) or True, trust_env=False, limits=limits) as client,
        AsyncVideoRouter(
            "sk-test",
            base_url=url,
            http_client=client,
            trust_env=False,
            max_concurrency=20_000,
            timeout=300,
            adaptive=False,
        ) as router,
    ):

        async def call():
            result = await router.generate("A cute baby sea otter", model="veo3-fast")
            assert result.video.video_id

        yield call


@contextlib.asynccontextmanager
async def transport(url, ca):
    """Our transport alone, behind its seam."""
    import msgspec

    from videorouter.http import Attempt, Request
    from videorouter.transport.sender import open_sender

    sender = open_sender(ssl_context=trust(ca), trust_env=False)
    headers = (
        (b"Authorization", b"sk-test"),
        (b"Content-Type", b"application/json"),
        (b"User-Agent", b"videorouter"),
        (b"Accept", b"application/json"),
        (b"Idempotency-Key", b"0123456789abcdef"),
    )

    async def call():
        request = Request(method="POST", url=url + PATH, headers=headers, body=msgspec.json.encode(BODY))
        incoming = await sender.send(request, Attempt(), deadline=time.monotonic() + 300, max_body=4 << 20)
        assert msgspec.json.decode(incoming.body)["data"][0]["video_id"]

    yield call
    await sender.aclose()


@contextlib.asynccontextmanager
async def aiohttp(url, ca):
    """aiohttp with msgspec, limits off."""
    import aiohttp
    import msgspec

    class Video(msgspec.Struct):
        url: str
        video_id: str = ""
        revised_prompt: str = ""

    class Answer(msgspec.Struct):
        data: list[Video]
        created: int = 0

    encode = msgspec.json.Encoder().encode
    decode = msgspec.json.Decoder(Answer).decode
    headers = {"Authorization": "sk-test", "Content-Type": "application/json"}
    context = trust(ca)
    connector = aiohttp.TCPConnector(limit=0, **({"ssl": context} if context else {}))
    timeout = aiohttp.ClientTimeout(total=300)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, headers=headers) as session:

        async def call():
            async with session.post(url + PATH, data=encode(BODY)) as response:
                response.raise_for_status()
                assert decode(await response.read()).data[0].video_id

        yield call


@contextlib.asynccontextmanager
async def httpx(url, ca):
    """Stock httpx with its limits off."""
    import httpx

    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    headers = {"Authorization": "sk-test"}
    async with httpx.AsyncClient(
        verify=trust(ca) or True, trust_env=False, limits=limits, timeout=300, headers=headers
    ) as client:

        async def call():
            response = await client.post(url + PATH, json=BODY)
            response.raise_for_status()
            assert response.json()["data"][0]["video_id"]

        yield call


@contextlib.asynccontextmanager
async def openai(url, ca):
    """openai-python, its own defaults but for retries."""
    import httpx
    from openai import AsyncOpenAI, BaseModel, DefaultAsyncHttpxClient

    class Video(BaseModel):
        url: str
        video_id: str = ""

    class Answer(BaseModel):
        data: list[Video]
        created: int = 0

    client = DefaultAsyncHttpxClient(verify=trust(ca)) if ca else None
    async with AsyncOpenAI(
        api_key="sk-test", base_url=url, max_retries=0, timeout=httpx.Timeout(300), http_client=client
    ) as session:

        async def call():
            answer = await session.post(PATH, body=BODY, cast_to=Answer)
            assert answer.data[0].video_id

        yield call


class _Floor(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
        self.future = None

    def data_received(self, data):
        self.future.set_result(data)


@contextlib.asynccontextmanager
async def floor(url, ca):
    """The least that asyncio can do: no checks, no deadline, no parser. Nobody should use this."""
    _, _, rest = url.partition("://")
    place, _, path = rest.partition("/")
    host, _, port = place.partition(":")
    loop = asyncio.get_running_loop()
    context = trust(ca)
    idle = []

    async def call():
        body = json.dumps(BODY).encode()
        if idle:
            protocol = idle.pop()
        else:
            _, protocol = await loop.create_connection(_Floor, host, int(port), ssl=context)
        protocol.future = loop.create_future()
        head = f"POST /{path}{PATH} HTTP/1.1\r\nHost: {place}\r\nContent-Length: {len(body)}\r\n\r\n"
        protocol.transport.write(head.encode() + body)
        data = await protocol.future
        assert json.loads(data[data.index(b"\r\n\r\n") :])["data"][0]["video_id"]
        idle.append(protocol)

    yield call
    for protocol in idle:
        protocol.transport.abort()


CONTENDERS = {
    "videorouter": videorouter,
    "videorouter adaptive=False": videorouter_fixed,
    "videorouter on stock httpx": videorouter_stock,
    "videorouter transport alone": transport,
    "aiohttp + msgspec": aiohttp,
    "openai-python": openai,
    "stock httpx": httpx,
    "bare floor": floor,
}
