"""Out of descriptors, threads or memory at any moment: an error of the library that says what to do, and nothing paid lost."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
import trustme
from servers import Gateway, answer

from videorouter.sandbox import Sandbox

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the limits are those of Linux")
CHILD = Path(__file__).with_name("shortage.py")
PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(64)


def run(what, when, verb, client, url, *more, **environment):
    ended = subprocess.run(
        [sys.executable, str(CHILD), what, when, verb, client, url, *map(str, more)],
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **environment},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert ended.stdout, ended.stderr
    told = json.loads(ended.stdout.splitlines()[-1])
    assert told.get("own", True), told["trace"]
    assert told.get("afterwards", 1) == 1
    return told


@pytest.fixture(scope="module", params=["held", "task"])
def gateway(request):
    with Sandbox(mode=request.param, profile="instant").in_thread() as sandbox:
        yield sandbox


@pytest.mark.parametrize("client", ["async", "sync"])
@pytest.mark.parametrize("when", ["client", "call", "CallStarted", "AttemptStarted", "AttemptFinished"])
@pytest.mark.parametrize("what", ["descriptors", "threads"])
def test_a_call_that_runs_short_is_refused_unpaid_or_brings_its_video(gateway, what, when, client):
    before = len(gateway.charge_list())
    told = run(what, when, "generate", client, gateway.base_url)
    paid = len(gateway.charge_list()) - before - told.get("afterwards", 0)
    if "error" in told:
        assert told["error"] in {"ConfigurationError", "APIConnectionError"}
        assert "Nothing was sent" in told["message"]
        assert "ulimit" in told["message"] or "thread" in told["message"]
        assert (paid, told.get("in_doubt", 0)) == (0, 0)
    else:
        assert (paid, told["videos"]) == (1, 1)
    needed = {"descriptors": when != "AttemptFinished", "threads": client == "sync" and when in {"client", "call"}}
    assert ("error" in told) == needed[what]


@pytest.mark.parametrize("what", ["descriptors", "threads"])
def test_a_file_is_whole_or_the_error_says_why_it_is_not(gateway, what, tmp_path):
    told = run(what, "save", "save", "async", gateway.base_url, tmp_path / "otter.mp4")
    if what == "threads":
        assert Path(told["path"]).stat().st_size > 1000
    else:
        assert told["error"] == "DownloadError"
        assert "Too many open files" in told["message"]
        assert "ulimit -n" in told["message"]


@pytest.mark.parametrize("what", ["descriptors", "threads", "memory"])
def test_an_upload_is_whole_or_nothing_was_paid(gateway, what, tmp_path):
    picture = tmp_path / "cat.png"
    picture.write_bytes(PICTURE)
    told = run(what, "call", "upload", "async", gateway.base_url, picture)
    assert what != "threads" or told["asset"]
    assert "asset" in told or told["error"] in {"InvalidRequestError", "APIConnectionError"}


@pytest.mark.parametrize("when", ["call", "CallStarted", "AttemptStarted"])
@pytest.mark.parametrize("what", ["descriptors", "threads"])
def test_a_batch_sends_nothing_or_has_what_it_bought(gateway, what, when, tmp_path):
    before = len(gateway.charge_list())
    told = run(what, when, "batch", "async", gateway.base_url, tmp_path / "run.db")
    paid = len(gateway.charge_list()) - before - 1
    if "error" in told:
        assert (told["error"], paid) == ("ConfigurationError", 0)
    else:
        assert told["states"] == (["done"] * 2 if what == "threads" else ["not_sent"] * 2)
        assert paid == told["states"].count("done")


@pytest.mark.parametrize("what", ["descriptors", "threads"])
def test_a_queue_that_cannot_write_says_so_and_takes_the_next_job(gateway, what, tmp_path):
    told = run(what, "call", "queue", "async", gateway.base_url, tmp_path / "jobs.db")
    assert told["error"] in {"ConfigurationError", "JournalError"}


@pytest.mark.anyio
@pytest.mark.parametrize("trusted_by", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
@pytest.mark.parametrize("when", ["call", "AttemptStarted"])
@pytest.mark.parametrize("what", ["descriptors", "threads"])
async def test_authorities_that_could_not_be_read_are_no_invalid_certificate(tmp_path, what, when, trusted_by):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    await asyncio.to_thread(subprocess.run, ["openssl", "rehash", str(tmp_path)], check=True)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(server)
    place = tmp_path / "authority.pem" if trusted_by == "SSL_CERT_FILE" else tmp_path
    async with Gateway(answer(), ssl_context=server) as gateway:
        trust = {"SSL_CERT_FILE": "", trusted_by: str(place)}
        told = await asyncio.to_thread(run, what, when, "generate", "async", gateway.url, **trust)
        assert len(gateway.posts) == told.get("videos", 0) + told["afterwards"]
    if what == "descriptors":
        assert told["error"] == "APIConnectionError"
        assert "out of file descriptors" in told["message"]
    else:
        assert told["videos"] == 1


@pytest.mark.anyio
@pytest.mark.parametrize("when", ["AttemptStarted", "AttemptFinished"])
async def test_an_answer_that_is_too_large_for_memory_is_kept_without_a_thread(when):
    body = b'{"data":[{"b64_json":"' + b"AAAA" * 2**20 + b'"}],"created":1}'
    async with Gateway(answer(200, body)) as gateway:
        told = await asyncio.to_thread(run, "threads", when, "generate", "async", gateway.url)
    assert (told["videos"], told["bytes"]) == (1, 3 * 2**20)
