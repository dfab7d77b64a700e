"""The ``httpx.AsyncClient`` behind the front door: what is set on it counts for every request, whoever answers."""

import httpx
import pytest
import respx
from clients import forward
from servers import Gateway, answer, task_accepted

from videorouter import AsyncVideoRouter, VideoRouter
from videorouter.sandbox import Sandbox, ThreadedSandbox

pytestmark = pytest.mark.anyio
DONE = answer(200, {"data": {"status": "completed", "outputs": ["https://cdn.example/v.mp4"]}})
PIECE = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
async def gateway():
    async with Gateway() as gateway:
        yield gateway


@pytest.fixture
async def router(gateway):
    async with AsyncVideoRouter("key", base_url=gateway.url, model="veo") as router:
        yield router


async def ask_all(gateway, router):
    """Every kind of request to the gateway: a POST, a poll, an upload, a review, the catalogue and the balance."""
    gateway.steps = [
        answer(200, {"data": {"id": 7, "status": "processing", "upstream_status": "Processing"}}),
        answer(
            200, {"data": {"id": 7, "status": "active", "upstream_status": "Active", "upstream_asset_uri": "asset://a"}}
        ),
        task_accepted(),
        DONE,
        answer(200, {"data": [], "success": True}),
        answer(200, {"credit_balance": 1.0}),
    ]
    await router.generate("otter", image_url=PIECE, timeout=10)
    await router.models()
    await router.balance()
    assert len(gateway.requests) == 6


class Signed(httpx.Auth):
    def auth_flow(self, request):
        request.headers["X-Signed"] = "1"
        yield request


async def test_it_is_an_httpx_client_and_one_for_all_views(router):
    assert type(router.http_client) is httpx.AsyncClient
    assert router.with_options(model="other").http_client is router.http_client


async def test_the_client_that_was_brought_is_it(gateway):
    async with httpx.AsyncClient() as mine:
        assert AsyncVideoRouter("key", base_url=gateway.url, http_client=mine).http_client is mine


async def test_one_that_nobody_touched_is_passed_by(gateway, router, monkeypatch):
    async def send(*args, **options):
        raise AssertionError("the short way leads past the client")

    assert not router.http_client.headers
    monkeypatch.setattr(type(router._sender._exchanger), "open", send)
    gateway.steps = [answer()]
    await router.generate("otter")


async def test_hooks_see_every_request_and_every_answer(gateway, router):
    asked, answered = [], []

    async def note(request):
        asked.append(request.url.path)

    async def note_answer(response):
        answered.append(response.status_code)

    router.http_client.event_hooks["request"].append(note)
    router.http_client.event_hooks["response"].append(note_answer)
    await ask_all(gateway, router)
    assert asked == [request.path for request in gateway.requests]
    assert answered == [200] * 6


def sign(client):
    client.auth = Signed()


def add_header(client):
    client.headers["X-Signed"] = "1"


def set_cookie(client):
    client.cookies.set("X-Signed", "1")


def set_params(client):
    client.params = {"X-Signed": "1"}


def mount(client):
    client._mounts[httpx._utils.URLPattern("http://")] = httpx.MockTransport(mark)


def replace(client):
    client._transport = httpx.MockTransport(mark)


async def mark(request):
    request.headers["X-Signed"] = "1"
    return await forward(request)


@pytest.mark.parametrize("touch", [sign, add_header, set_cookie, set_params, mount, replace])
async def test_whatever_is_set_on_it_counts_for_every_request(gateway, router, touch):
    touch(router.http_client)
    await ask_all(gateway, router)
    assert all(b"x-signed" in request.head.lower() for request in gateway.requests)


async def test_no_cookie_of_a_server_is_kept(gateway, router):
    router.http_client.headers["X-Signed"] = "1"
    gateway.steps = [answer(200, None, "Set-Cookie: a=b")]
    await router.generate("otter")
    assert not list(router.http_client.cookies.jar)


async def test_it_sends_what_one_asks_it_to(gateway, router):
    gateway.steps = [answer(200, {"plain": True})]
    response = await router.http_client.get(f"{gateway.url}/anything")
    assert response.json() == {"plain": True}
    assert "authorization" not in gateway.requests[0].headers


async def test_hooks_and_a_proxy_both_count(gateway):
    from clients import CLIENTS

    asked = []

    async def note(request):
        asked.append(request.url.path)

    async with CLIENTS["proxy"](None) as options:
        async with AsyncVideoRouter("key", base_url=gateway.url, model="veo", **options) as router:
            router.http_client.event_hooks["request"].append(note)
            gateway.steps = [answer()]
            await router.generate("otter")
            assert asked == ["/v1/videos/generations"]
            assert router.stats().connections == 0  # none of our own: the proxy has it


async def test_respx_sees_it_as_any_other(router):
    with respx.mock as mock:
        mock.post(path="/v1/videos/generations").respond(json={"data": [{"url": "https://cdn.example/v.mp4"}]})
        mock.get("https://elsewhere.example/").respond(204)
        router.http_client.headers["X-Signed"] = "1"
        assert (await router.generate("otter")).url == "https://cdn.example/v.mp4"
        assert mock.calls.last.request.headers["X-Signed"] == "1"
        assert (await router.http_client.get("https://elsewhere.example/")).status_code == 204


async def test_pytest_httpx_sees_it_as_any_other(router, httpx_mock):
    httpx_mock.add_response(method="POST", json={"data": [{"url": "https://cdn.example/v.mp4"}]})
    httpx_mock.add_response(method="GET", status_code=204)
    router.http_client.headers["X-Signed"] = "1"
    assert (await router.generate("otter")).url == "https://cdn.example/v.mp4"
    assert httpx_mock.get_requests()[0].headers["X-Signed"] == "1"
    assert (await router.http_client.get("https://elsewhere.example/")).status_code == 204


async def test_it_is_closed_with_the_client(gateway):
    async with AsyncVideoRouter("key", base_url=gateway.url) as router:
        client = router.http_client
    assert client.is_closed


async def test_a_download_takes_the_hooks_and_none_of_the_secrets(sandbox, tmp_path):
    asked = []

    async def note(request):
        asked.append(request)

    async with AsyncVideoRouter("key", base_url=sandbox.base_url, model="veo") as router:
        result = await router.generate("otter")
        router.http_client.event_hooks["request"].append(note)
        router.http_client.headers["X-Signed"] = "1"
        router.http_client.auth = Signed()
        await router.save(result, tmp_path / "v.mp4")
    assert [request.url.path.partition("/")[0] for request in asked] == [""]
    assert all("x-signed" not in request.headers for request in asked)


def test_the_client_without_await_has_it_too():
    asked = []

    async def note(request):
        asked.append(request.url.path)

    with ThreadedSandbox(Sandbox()) as sandbox, VideoRouter("key", base_url=sandbox.base_url, model="veo") as router:
        router.http_client.event_hooks["request"].append(note)
        assert router.with_options(model="other").http_client is router.http_client
        router.generate("otter")
    assert asked == ["/v1/videos/generations"]
