"""The key shows nowhere: not in errors, logs, tracebacks, pickles or results, even when a server echoes it."""

from __future__ import annotations

import asyncio
import base64
import copy
import io
import json
import logging
import pickle
import traceback
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
from servers import Gateway, answer, find_dead_port, lose, raw, task_accepted, until

import videorouter
from videorouter import AsyncVideoRouter, ConfigurationError, VideoRouterError
from videorouter.secrets import Sealed, Secret

pytestmark = pytest.mark.anyio

KEY = "sk-Sekret/0123+456=789.abcdef"
HOUSE = str(Path(videorouter.__file__).parent)
SPELLINGS = {
    "bare": KEY,
    "json": KEY.replace("/", "\\/"),
    "percent": quote(KEY, safe=""),
    "percent, lower case": quote(KEY, safe="").replace("%2F", "%2f").replace("%2B", "%2b").replace("%3D", "%3d"),
    "percent, twice": quote(quote(KEY, safe=""), safe=""),
    "unicode escapes": "".join(f"\\u{ord(char):04x}" for char in KEY),
    "some unicode escapes": KEY.replace("/", "\\u002F").replace("+", "\\u002b"),
    "html": KEY.replace("/", "&#47;").replace("+", "&#x2B;").replace("=", "&#061;"),
}
TELLING = ("Sekret", "0123+456", "0123%2B456", "789.abcdef", "\\u0053\\u0065", "0123&#x2B;456")


def collect(error: BaseException) -> str:
    """Everything that a log, a crash reporter or a worker pool would see of an error."""
    texts = ["".join(traceback.format_exception(error)), str(error), repr(error)]
    texts.append(repr(getattr(error, "__dict__", "")))
    current: BaseException | None = error
    while current is not None:
        for frame, _ in traceback.walk_tb(current.__traceback__):
            if frame.f_code.co_filename.startswith(HOUSE):
                for name, value in frame.f_locals.items():
                    texts.append(f"{name}={look_into(value)}")
        current = current.__cause__ or current.__context__
    if isinstance(error, VideoRouterError):
        texts.append(pickle.dumps(error).decode("latin-1"))
        texts.append(repr(copy.copy(error).facts))
    return "\n".join(texts)


def look_into(value: object, depth: int = 0) -> str:
    """As deep as a tool that shows locals looks: containers and plain attributes."""
    if depth > 3:
        return ""
    words = [repr(value)]
    if type(value) in {str, bytes}:
        words.append(str(value))
    elif isinstance(value, dict):
        words += [look_into(item, depth + 1) for pair in value.items() for item in pair]
    elif isinstance(value, list | tuple | set | frozenset):
        words += [look_into(item, depth + 1) for item in value]
    elif str(getattr(value, "__module__", "")).startswith("videorouter") and hasattr(value, "__dict__"):
        words += [look_into(item, depth + 1) for item in vars(value).values()]
    return " ".join(words)


def assert_clean(text: str) -> None:
    for piece in TELLING:
        assert piece not in text, (
            f"{piece!r} shows in ...{text[max(0, text.index(piece) - 300) : text.index(piece) + 60]}"
        )


@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS.keys())
@pytest.mark.parametrize("status", [400, 401, 422, 500, 524, 200, 302])
async def test_an_echoed_key_is_redacted_in_every_error(status, spelling, caplog):
    caplog.set_level(logging.DEBUG)
    body = (
        '{"error":{"message":"bad key '
        + spelling.replace('"', "")
        + '","type":"'
        + spelling
        + '","param":"'
        + spelling
        + '","code":"'
        + spelling
        + '"},"key":"'
        + spelling
        + '"}'
    ).encode()
    fields = (f"x-infron-request-id: {spelling}", f"Location: https://x.example/?key={spelling}", f"X-Echo: {spelling}")
    async with Gateway(answer(status, body, *fields)) as gateway:
        router = AsyncVideoRouter(KEY, base_url=gateway.url, auth_scheme="Bearer")
        with pytest.raises(VideoRouterError) as caught:
            await router.generate("otter", model="veo", timeout=5)
        assert gateway.posts[0].headers["authorization"] == f"Bearer {KEY}"
        assert_clean(collect(caught.value))
        assert_clean(repr(router.in_doubt) + pickle.dumps(router.in_doubt).decode("latin-1"))
        assert_clean(caplog.text)
        await router.aclose()


@pytest.mark.parametrize("offset", range(0, 40, 3))
async def test_no_piece_of_the_key_survives_the_cut_of_the_evidence(offset):
    body = b"x" * (4096 - offset) + KEY.encode() + b"y" * 100
    async with Gateway(answer(500, body)) as gateway, AsyncVideoRouter(KEY, base_url=gateway.url) as router:
        with pytest.raises(VideoRouterError) as caught:
            await router.generate("otter", model="veo", timeout=5)
        assert_clean(collect(caught.value))


@pytest.mark.parametrize("size", [8, 15, 22, len(KEY) - 1])
async def test_a_key_cut_by_the_end_of_the_connection_is_redacted(size):
    piece = b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\nyour key is " + KEY[:size].encode()
    async with Gateway(raw(piece, then="reset")) as gateway, AsyncVideoRouter(KEY, base_url=gateway.url) as router:
        with pytest.raises(VideoRouterError) as caught:
            await router.generate("otter", model="veo", timeout=5)
        assert "Sekr" not in collect(caught.value)


async def test_a_protocol_error_does_not_quote_the_key():
    noise = raw(f"HTTP/1.1 200 {KEY}\r\n{KEY} {KEY}\r\n\r\n".encode())
    async with Gateway(noise) as gateway, AsyncVideoRouter(KEY, base_url=gateway.url) as router:
        with pytest.raises(VideoRouterError) as caught:
            await router.generate("otter", model="veo", timeout=5)
        assert_clean(collect(caught.value))


@pytest.mark.parametrize(
    "noise",
    [
        f"{KEY}\r\n\r\n",
        f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{KEY}\r\n",
        f"HTTP/1.1 200 {KEY}\r\nContent-Length: 100\r\n\r\ncut",
        f"HTTP/1.1 200 OK\r\n{KEY}: \0\r\n\r\n",
    ],
    ids=["status line", "chunk", "reason phrase", "field"],
)
async def test_no_frame_on_the_way_through_your_own_client_shows_an_echoed_key(noise):
    async with Gateway(raw(noise.encode())) as gateway, httpx.AsyncClient() as client:
        router = AsyncVideoRouter(KEY, base_url=gateway.url, http_client=client)
        with pytest.raises(VideoRouterError) as caught:
            await router.generate("otter", model="veo", timeout=5)
    error: BaseException | None = caught.value
    # The first frame is this test's own.
    trace = caught.value.__traceback__.tb_next
    while error is not None:
        for frame, _ in traceback.walk_tb(trace):
            assert_clean(repr(frame.f_locals))
        error = error.__cause__ or error.__context__
        trace = error.__traceback__ if error is not None else None


async def test_results_and_tasks_do_not_carry_an_echoed_key():
    video = {"url": "https://x.example/v.mp4", "revised_prompt": f"an otter with {KEY}"}
    ok = {"data": [video], "debug": {"authorization": KEY}}
    done = {"data": {"status": "completed", "urls": {"video": "https://x.example/v.mp4"}, "debug": KEY}}
    failed = {"data": {"status": "failed", "fail_reason": f"key {KEY} expired"}}
    steps = answer(200, ok), task_accepted(debug=KEY), answer(200, done), answer(200, failed)
    async with Gateway(*steps) as gateway, AsyncVideoRouter(KEY, base_url=gateway.url) as router:
        result = await router.generate("otter", model="veo")
        assert_clean(repr(result) + repr(result.raw) + pickle.dumps(result).decode("latin-1"))
        task = await router.submit("otter", model="veo")
        assert_clean(repr(task) + pickle.dumps(task).decode("latin-1"))
        result = await router.wait(task)
        assert_clean(repr(result) + repr(result.raw) + pickle.dumps(result).decode("latin-1"))
        with pytest.raises(VideoRouterError) as caught:
            await router.wait(task)
        assert_clean(collect(caught.value))


@pytest.mark.parametrize("where", ["refused", "lost", "deadline", "queue", "cancelled", "look", "closed"])
async def test_no_traceback_of_a_failed_call_shows_the_key(where, caplog):
    caplog.set_level(logging.DEBUG)
    look = task_accepted(), answer(401)
    steps = {"lost": (lose(),), "look": look}.get(where, (lose("hold"),))
    async with Gateway(*steps) as gateway:
        url = gateway.url if where != "refused" else f"http://127.0.0.1:{find_dead_port()}/v1"
        router = AsyncVideoRouter(KEY, base_url=url, max_concurrency=1, max_retries=1)
        blocker = None
        if where == "queue":
            blocker = asyncio.create_task(router.generate("otter", model="veo"))
            await until(lambda: gateway.posts)
        if where == "closed":
            await router.aclose()
        call = asyncio.create_task(router.generate("otter", model="veo", timeout=0.3))
        if where == "cancelled":
            await until(lambda: gateway.posts)
            call.cancel()
        with pytest.raises((VideoRouterError, asyncio.CancelledError)) as caught:
            await call
        assert_clean(collect(caught.value))
        assert_clean(caplog.text)
        if blocker is not None:
            blocker.cancel()
            await asyncio.wait([blocker])
        await router.aclose()


@pytest.mark.parametrize(
    "bad",
    [
        {"api_key": f"{KEY}\nx"},
        {"api_key": f"{KEY}\u2013"},
        {"api_key": KEY, "base_url": "ftp://x"},
        {"api_key": KEY, "timeout": -1},
    ],
    ids=["line break", "dash", "base_url", "timeout"],
)
async def test_a_constructor_that_refuses_does_not_show_the_key(bad, monkeypatch):
    with pytest.raises(ConfigurationError) as caught:
        AsyncVideoRouter(**bad)
    assert_clean(collect(caught.value))
    monkeypatch.setenv("INFRON_API_KEY", bad["api_key"])
    bad = {name: value for name, value in bad.items() if name != "api_key"}
    with pytest.raises(ConfigurationError) as caught:
        AsyncVideoRouter(**bad)
    assert_clean(collect(caught.value))


async def test_a_key_callable_that_quotes_the_key_is_not_repeated():
    def fetch():
        raise RuntimeError(f"vault says {KEY}")

    async with Gateway(answer()) as gateway, AsyncVideoRouter(fetch, base_url=gateway.url) as router:
        with pytest.raises(ConfigurationError) as caught:
            await router.generate("otter", model="veo")
        assert "RuntimeError" in str(caught.value)
        assert_clean("".join(traceback.format_exception(caught.value)))


async def test_a_key_from_a_callable_is_redacted_too():
    gateway = Gateway(answer(400, {"error": {"message": KEY}}))
    async with gateway, AsyncVideoRouter(lambda: KEY, base_url=gateway.url) as router:
        with pytest.raises(VideoRouterError) as caught:
            await router.generate("otter", model="veo")
        assert_clean(collect(caught.value))


async def test_a_rich_traceback_with_locals_does_not_show_the_key():
    console = pytest.importorskip("rich.console").Console(file=io.StringIO(), width=400)
    from rich.traceback import Traceback

    async with Gateway(lose()) as gateway, AsyncVideoRouter(KEY, base_url=gateway.url) as router:
        with pytest.raises(VideoRouterError) as caught:
            await router.generate("otter", model="veo")
        error = caught.value
        trace = error.__traceback__
        while trace is not None and not trace.tb_frame.f_code.co_filename.startswith(HOUSE):
            trace = trace.tb_next
        console.print(Traceback.from_exception(type(error), error, trace, show_locals=True, locals_max_length=100))
        assert_clean(console.file.getvalue())


def test_secrets_do_not_show():
    secret = Secret(KEY)
    sealed = Sealed(KEY.encode())
    for thing in (secret, sealed, (secret, sealed), {"key": secret}):
        assert_clean(repr(thing) + str(thing) + f"{thing}" + pickle.dumps(thing).decode("latin-1"))
    assert secret.reveal() == KEY
    assert bytes(sealed) == KEY.encode()
    assert pickle.loads(pickle.dumps(secret)).reveal() == "<redacted>"
    assert json.dumps(repr(vars) + str(getattr(secret, "__dict__", "")))
    assert base64.b64encode(sealed) == base64.b64encode(KEY.encode())
