"""Result files: a port of their own, no key, ranges, ETags, and names that must be encoded."""

import contextlib

import httpx
import pytest

from videorouter.sandbox import Sandbox

pytestmark = pytest.mark.anyio
SMALL = {"size": (64, 36), "seconds": 0.2}


@pytest.fixture
async def made(http):
    async with Sandbox(**SMALL) as sandbox:
        answer = await http.post(f"{sandbox.base_url}/videos/generations", json={"model": "m", "prompt": "otter"})
        url = answer.json()["data"][0]["url"]
        del http.headers["Authorization"]
        yield sandbox, url, (await http.get(url)).content


async def test_a_file_is_a_video_with_a_strong_etag_and_needs_no_key(http, made):
    sandbox, url, data = made
    answer = await http.get(url)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "video/mp4"
    assert answer.headers["etag"].startswith('"')
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.content == data
    assert data[4:8] == b"ftyp"
    assert data.index(b"moov") < data.index(b"mdat")
    assert url.startswith(sandbox.files_url)
    assert sandbox.files_url != sandbox.url


async def test_head_says_the_length_and_sends_nothing(http, made):
    _, url, data = made
    answer = await http.head(url)
    assert (answer.status_code, answer.content) == (200, b"")
    assert int(answer.headers["content-length"]) == len(data)


@pytest.mark.parametrize(
    ("wanted", "first", "last"),
    [("bytes=0-0", 0, 1), ("bytes=5-99", 5, 100), ("bytes=100-", 100, None), ("bytes=-7", -7, None)],
)
async def test_a_range_is_served(http, made, wanted, first, last):
    _, url, data = made
    answer = await http.get(url, headers={"Range": wanted})
    assert answer.status_code == 206
    assert answer.content == data[first:last]
    start = first if first >= 0 else len(data) + first
    assert answer.headers["content-range"] == f"bytes {start}-{start + len(answer.content) - 1}/{len(data)}"


async def test_a_range_beyond_the_end_is_416(http, made):
    _, url, data = made
    answer = await http.get(url, headers={"Range": f"bytes={len(data)}-"})
    assert answer.status_code == 416
    assert answer.headers["content-range"] == f"bytes */{len(data)}"


@pytest.mark.parametrize("wanted", ["bytes=0-1,4-5", "bytes=5-2", "items=0-1", "bytes=-", "bytes=a-b"])
async def test_a_range_that_cannot_be_served_gets_the_whole(http, made, wanted):
    _, url, data = made
    answer = await http.get(url, headers={"Range": wanted})
    assert (answer.status_code, len(answer.content)) == (200, len(data))


async def test_if_range_serves_a_part_only_of_the_same_file(http, made):
    _, url, data = made
    etag = (await http.get(url)).headers["etag"]
    same = await http.get(url, headers={"Range": "bytes=9-", "If-Range": etag})
    assert (same.status_code, same.content) == (206, data[9:])
    for other in ('"another"', f"W/{etag}"):
        answer = await http.get(url, headers={"Range": "bytes=9-", "If-Range": other})
        assert (answer.status_code, len(answer.content)) == (200, len(data))


async def test_if_none_match_is_304(http, made):
    _, url, _ = made
    etag = (await http.get(url)).headers["etag"]
    assert (await http.get(url, headers={"If-None-Match": etag})).status_code == 304


async def test_the_encoded_slash_must_reach_the_wire(http, made):
    _, url, _ = made
    assert "%2F" in url
    assert (await http.get(url.replace("%2F", "/"))).status_code == 404
    assert (await http.get(url.replace("%2F", "%252F"))).status_code == 404


async def test_a_key_that_leaks_to_the_files_is_noticed(http, made):
    sandbox, url, _ = made
    await http.get(url)
    assert sandbox.requests[-1].authorization is None
    await http.get(url, headers={"Authorization": "Bearer leaked"})
    assert sandbox.requests[-1].side == "files"
    assert sandbox.requests[-1].authorization == "bearer"
    assert "leaked" not in str(sandbox.requests[-1].to_dict())


async def test_only_get_and_head_are_allowed(http, made):
    _, url, _ = made
    assert (await http.post(url)).status_code == 405


@pytest.mark.parametrize("path", ["/", "/video/", "/video/x", "/asset/x", "/video/generated%2F..%2F..%2Fetc"])
async def test_what_is_not_there_is_404(http, made, path):
    sandbox, _, _ = made
    assert (await http.get(sandbox.files_url + path)).status_code == 404


async def test_the_same_request_gives_the_same_bytes(http, made):
    sandbox, _, data = made
    async with Sandbox(**SMALL) as other:
        answer = await http.post(
            f"{other.base_url}/videos/generations",
            json={"prompt": "otter", "model": "m"},
            headers={"Authorization": "k"},
        )
        assert (await http.get(answer.json()["data"][0]["url"])).content == data
        assert other.url != sandbox.url


async def test_faults_strike_files_too(http, made):
    sandbox, url, data = made
    sandbox.faults.add("no_range", path="/video/*", times=1)
    assert (await http.get(url, headers={"Range": "bytes=5-"})).status_code == 200
    sandbox.faults.add("html", path="/video/*", times=1)
    assert (await http.get(url)).text.startswith("<!DOCTYPE html>")
    sandbox.faults.add("status=302", headers={"Location": "http://127.0.0.1:1/x"}, path="/video/*", times=1)
    assert (await http.get(url)).headers["location"] == "http://127.0.0.1:1/x"
    sandbox.faults.add("length=-20", path="/video/*", times=1)
    assert len((await http.get(url)).content) == len(data) - 20


async def test_a_request_for_a_file_can_bring_its_own_fault(http, made):
    _, url, _ = made
    assert (await http.get(url, headers={"X-Sandbox-Fault": "status=503; retry-after=1"})).status_code == 503
    assert (await http.get(url, headers={"X-Sandbox-Fault": "banana"})).status_code == 400
    with pytest.raises(httpx.ReadError):
        await http.get(url, headers={"X-Sandbox-Fault": "reset; at=head"})


async def test_a_cut_file_can_be_finished_by_a_range(http, made):
    sandbox, url, data = made
    sandbox.faults.add("cut=100", path="/video/*", times=1)
    got = b""
    async with http.stream("GET", url) as answer:
        with contextlib.suppress(httpx.RemoteProtocolError):
            async for piece in answer.aiter_raw():
                got += piece
    assert got == data[:100]
    rest = await http.get(url, headers={"Range": "bytes=100-", "If-Range": answer.headers["etag"]})
    assert got + rest.content == data


async def test_files_expire_and_grow_when_told(http):
    async with Sandbox(**SMALL, url_ttl=0.0, min_file_bytes=300_000) as sandbox:
        sample = f"{sandbox.files_url}/video/generated%2Fonerouter_0688d9c3-4e7f-45c5-a30d-7923dfd056a6.mp4"
        data = (await http.get(sample)).content
        assert len(data) == 300_000
        answer = await http.post(f"{sandbox.base_url}/videos/generations", json={"model": "m", "prompt": "otter"})
        assert (await http.get(answer.json()["data"][0]["url"])).status_code == 404
