"""A client that is mocked makes no look-up of a name when it saves: the mock alone says what lies there."""

from __future__ import annotations

import socket

import httpx
import pytest
import respx

from videorouter import AsyncVideoRouter, DownloadError, Video

pytestmark = pytest.mark.anyio
VIDEO = Video(url="https://cdn.example/x.mp4")


@pytest.fixture(autouse=True)
def no_look_up(monkeypatch):
    def refuse(*args: object, **_: object) -> None:
        pytest.fail(f"looked up {args[0]}")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(params=["its own client", "a stock client"])
async def router(request):
    async with httpx.AsyncClient() as stock:
        given = {"http_client": stock} if request.param == "a stock client" else {}
        async with AsyncVideoRouter("k", base_url="https://gateway.example/v1", **given) as router:
            yield router


async def test_pytest_httpx_serves_a_save(router, httpx_mock, mp4, tmp_path):
    httpx_mock.add_response(url=VIDEO.url, content=mp4(5000))
    assert (await router.save(VIDEO, tmp_path / "x.mp4")).size == 5000


@pytest.mark.parametrize("using", ["httpcore", "httpx"])
async def test_respx_serves_a_save(router, mp4, tmp_path, using):
    with respx.mock(using=using) as mock:
        mock.get(VIDEO.url).respond(200, content=mp4(5000))
        assert (await router.save(VIDEO, tmp_path / "x.mp4")).size == 5000


async def test_a_mock_does_not_open_private_addresses(router, httpx_mock, tmp_path):
    with pytest.raises(DownloadError, match="private"):
        await router.save(Video(url="https://10.0.0.1/x.mp4"), tmp_path / "x.mp4")
    assert httpx_mock.get_requests() == []
