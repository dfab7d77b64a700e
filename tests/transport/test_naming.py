"""What a URL's host is called, and where its name leads."""

import socket
import time

import pytest

from videorouter.http import WireError, WireFailure
from videorouter.transport.naming import find_host, resolve_name

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://a.example/x", "a.example:443"),
        ("http://a.example", "a.example:80"),
        ("http://[::1]:8080/", "[::1]:8080"),
        ("https://user:secret@a.example/", "a.example:443"),
        ("http://a:99999/", "http://a:99999/"),
    ],
)
def test_host_and_port_are_told(url, host):
    assert find_host(url) == host


async def test_literals_and_names_lead_to_addresses():
    assert await resolve_name("http://127.0.0.1:5/", deadline=time.monotonic() + 5) == ("127.0.0.1",)
    assert "127.0.0.1" in await resolve_name("http://localhost:5/", deadline=time.monotonic() + 5)


async def test_a_url_without_a_place_has_no_addresses():
    with pytest.raises(WireError) as caught:
        await resolve_name("http://a:99999/", deadline=time.monotonic() + 5)
    assert caught.value.failure is WireFailure.NAME_MISSING


async def test_a_name_server_that_says_nothing_ends_with_the_deadline(monkeypatch):
    import threading

    release = threading.Event()

    def look_up(*args, **options):
        release.wait(5)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    with pytest.raises(WireError) as caught:
        await resolve_name("http://gateway.test/", deadline=time.monotonic() + 0.1)
    release.set()
    assert caught.value.failure is WireFailure.NAME_TEMPORARY
