import asyncio
import contextlib
import email.utils
import ssl

import pytest
import trustme

from videorouter import AsyncVideoRouter
from videorouter.cli.probing import probe
from videorouter.sandbox import Sandbox

pytestmark = pytest.mark.anyio


@contextlib.asynccontextmanager
async def serve(answer, *, context=None):
    """A server that says the same to everyone; it leaves when all of its connections have ended."""
    ended = []

    async def handle(reader, writer):
        ended.append(done := asyncio.Event())
        with contextlib.suppress(OSError):
            await reader.read(65536)
            writer.write(answer)
            await writer.drain()
            writer.close()
            await writer.wait_closed()
        done.set()

    async with await asyncio.start_server(handle, "127.0.0.1", 0, ssl=context) as server:
        yield server.sockets[0].getsockname()[1]
        for done in ended:
            await done.wait()


async def look(url, **options):
    async with AsyncVideoRouter("k", base_url=url, max_retries=0, timeout=10, trust_env=False, **options) as router:
        return {check.name: check for check in await probe(router, url, trust_env=False)}


async def test_everything_is_well_with_a_sandbox():
    async with Sandbox() as sandbox:
        found = await look(sandbox.base_url)
        assert [check.state for check in found.values()] == ["ok", "ok", "ok"]
        assert await sandbox.charges() == {}


async def test_an_empty_account_is_a_warning():
    async with Sandbox(balance=0.0) as sandbox:
        assert (await look(sandbox.base_url))["key accepted"].state == "warn"


@pytest.mark.parametrize(
    ("fault", "state"), [("status=401", "fail"), ("status=403", "fail"), ("status=404", "info"), ("status=500", "fail")]
)
async def test_what_the_gateway_says_of_the_key_is_told(fault, state):
    async with Sandbox() as sandbox:
        sandbox.faults.add(fault, path="*/balance")
        assert (await look(sandbox.base_url))["key accepted"].state == state


async def test_a_certificate_that_nobody_trusts_is_said():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    async with serve(b"", context=context) as port:
        found = await look(f"https://127.0.0.1:{port}/v1")
    assert list(found) == ["connection"]
    assert "not trusted" in found["connection"].found
    assert "SSL_CERT_FILE" in found["connection"].mend


async def test_a_server_without_tls_is_said():
    async with serve(b"HTTP/1.1 200 OK\r\n\r\n") as port:
        found = await look(f"https://127.0.0.1:{port}/v1")
    assert found["connection"].state == "fail"


@pytest.mark.parametrize(
    ("offset", "state", "words"),
    [(-3600, "warn", "ahead of"), (3600, "warn", "behind"), (0, "ok", "agrees")],
)
async def test_a_clock_that_is_wrong_is_said(offset, state, words):
    import time

    date = email.utils.formatdate(time.time() + offset, usegmt=True)
    async with serve(f"HTTP/1.1 404 Not Found\r\nDate: {date}\r\nContent-Length: 0\r\n\r\n".encode()) as port:
        found = await look(f"http://127.0.0.1:{port}/v1")
    assert found["clock"].state == state
    assert words in found["clock"].found


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nDate: never\r\n\r\n"])
async def test_a_server_that_tells_no_time_is_no_problem(head):
    async with serve(head) as port:
        found = await look(f"http://127.0.0.1:{port}/v1")
    assert found["clock"].state == "info"


async def test_a_name_that_does_not_exist_is_said():
    found = await look("https://gateway.invalid/v1")
    assert "does not resolve" in found["connection"].found
