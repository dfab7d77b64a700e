"""A file is whole and right under its name, or it is not there: shown on real sockets and real disks."""

from __future__ import annotations

import asyncio
import hashlib
import io
import pickle
import signal
import sys
from pathlib import Path

import httpx
import pytest
import respx
from media_files import block, cluster, movie, webm

from videorouter import (
    AsyncVideoRouter,
    ClientClosedError,
    DownloadError,
    InternalServerError,
    InvalidRequestError,
    NotFoundError,
    RateLimitError,
    Task,
    Video,
    VideoResult,
)
from videorouter.call import retry
from videorouter.downloads import fetch

pytestmark = pytest.mark.anyio
CUTS = 65536


OTHERS = {
    "webm": webm(cluster(0, block(0), block(40))),
    "mkv": webm(cluster(0, block(0), block(40)), kind=b"matroska"),
    "mov": movie(ftyp=b""),
    "gif": b"GIF89a\x04\0\x03\0\0\0\0" + b",\0\0\0\0\x04\0\x03\0\0\x02\x02\x84\x51\0" + b";",
}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def read(path: str) -> bytes:
    return Path(path).read_bytes()


async def fail(router: AsyncVideoRouter, video: Video, place: object, **options: object) -> DownloadError:
    with pytest.raises(DownloadError) as caught:
        await router.save(video, place, **options)
    assert pickle.loads(pickle.dumps(caught.value)) == caught.value
    return caught.value


class TestWhole:
    async def test_a_saved_file_is_whole_and_nothing_stands_beside_it(self, host, router, tmp_path):
        saved = await router.save(host.video(), tmp_path / "otter.mp4", sha256=True)
        assert saved.path.read_bytes() == host.body
        assert saved.sha256 == hashlib.sha256(host.body).hexdigest()
        assert (saved.size, saved.transferred, saved.resumed_from) == (len(host.body), len(host.body), 0)
        assert names(tmp_path) == ["otter.mp4"]

    async def test_a_tilde_is_the_home_folder(self, host, router, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("USERPROFILE", str(tmp_path))
        assert (await router.save(host.video(), "~/otter.mp4")).path == tmp_path / "otter.mp4"
        (saved,) = await router.download([host.video()], "~/clips")
        assert saved.path.parent == tmp_path / "clips"

    async def test_neither_key_nor_cookie_nor_default_header_reaches_the_file_host(self, host, tmp_path):
        host.plans = [type(host.usual)(headers=(("Set-Cookie", "a=b"),))]
        async with AsyncVideoRouter(
            "test-key", base_url=host.url("/v1"), default_headers={"X-Team": "otters"}, user_agent="agent/1"
        ) as router:
            await router.save(host.video(), tmp_path / "a.mp4")
            await router.save(host.video(), tmp_path / "b.mp4")
        for _, fields in host.requests:
            assert fields["user-agent"] == "agent/1"
            assert fields["accept-encoding"] == "identity"
            assert not {"authorization", "cookie", "x-team", "idempotency-key"} & fields.keys()
            assert "test-key" not in str(fields)

    async def test_an_encoded_slash_reaches_the_wire_as_it_is(self, host, router, tmp_path):
        await router.save(host.video("/video/generated%2Fotter.mp4?sig=a%2Bb"), f"{tmp_path}/")
        assert host.requests[0][0] == "/video/generated%2Fotter.mp4?sig=a%2Bb"
        assert names(tmp_path) == ["otter.mp4"]

    @pytest.mark.parametrize("length", ["chunked", None])
    async def test_a_file_without_a_stated_length_is_saved(self, host, router, tmp_path, plan, length):
        host.usual = plan(length=length)
        saved = await router.save(host.video(), tmp_path / "otter.mp4")
        assert saved.path.read_bytes() == host.body

    async def test_an_mdat_that_reaches_to_the_end_is_whole_when_the_length_is_known(
        self, host, router, tmp_path, plan, mp4
    ):
        host.body = mp4(100_000, open_ended=True)
        assert (await router.save(host.video(), tmp_path / "a.mp4")).size == 100_000
        host.usual = plan(length=None)
        error = await fail(router, host.video(), tmp_path / "b.mp4")
        assert "where it ends" in error.message

    async def test_several_videos_of_one_result_are_numbered(self, host, router, tmp_path):
        result = VideoResult(videos=(host.video("/a.mp4"), host.video("/b.mp4"), host.video("/c.mp4")))
        saved = await router.save(result, tmp_path / "otter.mp4")
        assert [item.path.name for item in saved.all] == ["otter-1.mp4", "otter-2.mp4", "otter-3.mp4"]
        assert saved.path == saved.all[0].path
        await router.save(result, f"{tmp_path}/clips/")
        assert names(tmp_path / "clips") == ["a-1.mp4", "b-2.mp4", "c-3.mp4"]

    async def test_in_a_folder_another_file_is_never_replaced_unless_asked(self, host, router, tmp_path):
        for _ in range(2):
            await router.save(host.video(), tmp_path)
        assert names(tmp_path) == ["otter.2.mp4", "otter.mp4"]
        await router.save(host.video(), tmp_path, overwrite=True)
        assert names(tmp_path) == ["otter.2.mp4", "otter.mp4"]

    async def test_overwrite_false_sends_nothing_for_a_file_that_is_there(self, host, router, tmp_path):
        (tmp_path / "otter.mp4").write_bytes(b"old")
        error = await fail(router, host.video(), tmp_path / "otter.mp4", overwrite=False)
        assert "exists already" in error.message
        assert host.requests == []
        assert (tmp_path / "otter.mp4").read_bytes() == b"old"

    async def test_inline_bytes_go_through_the_same_door(self, host, router, tmp_path):
        video = Video(video_id="video_9").with_extras(data_=host.body)
        assert (await router.save(VideoResult(videos=(video,)), tmp_path)).path == tmp_path / "video_9.mp4"
        async with router.stream(video) as chunks:
            assert b"".join([chunk async for chunk in chunks]) == host.body
        error = await fail(router, Video().with_extras(data_=b"<html>no</html>"), tmp_path / "bad.mp4")
        assert read(error.path) == b"<html>no</html>"
        assert host.requests == []

    async def test_a_finished_task_can_be_saved_and_an_unfinished_one_says_what_to_do(self, host, router, tmp_path):
        result = VideoResult(videos=(host.video(),))
        assert (await router.save(Task(id="t", result=result), tmp_path / "a.mp4")).size == len(host.body)
        with pytest.raises(InvalidRequestError, match="wait"):
            await router.save(Task(id="t"), tmp_path / "a.mp4")
        with pytest.raises(InvalidRequestError, match="neither"):
            await router.save(Video(), tmp_path / "a.mp4")

    async def test_a_closed_client_saves_nothing(self, host, router, tmp_path):
        await router.aclose()
        with pytest.raises(ClientClosedError):
            await router.save(host.video(), tmp_path / "a.mp4")


class TestResume:
    async def test_a_file_that_is_cut_at_every_64_kib_arrives_and_moves_each_byte_once(
        self, host, router, tmp_path, plan
    ):
        host.usual = plan(cut=CUTS)
        saved = await router.save(host.video(), tmp_path / "otter.mp4")
        assert saved.path.read_bytes() == host.body
        assert host.sent <= 1.1 * len(host.body)
        assert all(fields["if-range"] == '"v1"' for _, fields in host.requests[1:])

    async def test_a_weak_etag_never_goes_on(self, host, router, tmp_path, plan):
        host.plans = [plan(cut=5 * CUTS, etag='W/"v1"'), plan(etag='W/"v1"')]
        saved = await router.save(host.video(), tmp_path / "otter.mp4")
        assert saved.path.read_bytes() == host.body
        assert "range" not in host.requests[1][1]

    async def test_a_changed_etag_starts_over(self, host, router, tmp_path, plan, mp4):
        old, new = host.body, mp4(len(host.body))
        host.plans = [plan(cut=5 * CUTS, body=old)]
        host.usual = plan(body=new, etag='"v2"')
        assert (await router.save(host.video(), tmp_path / "otter.mp4")).path.read_bytes() == new

    @pytest.mark.parametrize(("before", "after"), [(700_000, 20 * 2**20), (20 * 2**20, 700_000), (700_000, 700_000)])
    async def test_a_file_that_came_back_longer_or_shorter_is_whole(
        self, host, router, tmp_path, plan, mp4, before, after
    ):
        old = mp4(before)
        host.plans = [plan(cut=5 * CUTS, body=old), plan(cut=2 * CUTS, body=old)]
        host.usual = plan(body=mp4(after), etag='"v2"')
        assert (await router.save(host.video(), tmp_path / "otter.mp4")).path.read_bytes() == host.usual.body

    @pytest.mark.parametrize("etag", ['"v2"', None])
    async def test_a_host_that_ignores_if_range_cannot_mix_two_versions(self, host, router, tmp_path, plan, mp4, etag):
        old, new = host.body, mp4(len(host.body))
        host.plans = [plan(cut=5 * CUTS, body=old), plan(body=new, etag=etag, if_range=False)]
        host.usual = plan(body=new, etag=etag)
        assert (await router.save(host.video(), tmp_path / "otter.mp4")).path.read_bytes() == new

    async def test_a_host_that_ignores_range_starts_over(self, host, router, tmp_path, plan):
        host.plans = [plan(cut=5 * CUTS)]
        host.usual = plan(ranges=False)
        assert (await router.save(host.video(), tmp_path / "otter.mp4")).path.read_bytes() == host.body

    @pytest.mark.parametrize(
        "part", ["bytes 0-9/10", "bytes 1-2097151/2109497", "items 3-4/5", "bytes */2109497", "bytes 327680-9/99"]
    )
    async def test_a_content_range_that_was_not_asked_for_starts_over(self, host, router, tmp_path, plan, part):
        host.plans = [plan(cut=5 * CUTS), plan(content_range=part)]
        assert (await router.save(host.video(), tmp_path / "otter.mp4")).path.read_bytes() == host.body

    async def test_416_starts_over(self, host, router, tmp_path, plan):
        host.plans = [plan(cut=5 * CUTS), plan(status=416, body=b"")]
        assert (await router.save(host.video(), tmp_path / "otter.mp4")).path.read_bytes() == host.body

    async def test_a_failed_transfer_goes_on_in_the_next_call(self, host, router, tmp_path, plan):
        host.plans = [plan(cut=20 * CUTS)]
        error = await fail(router, host.video(), tmp_path / "otter.mp4", max_retries=0)
        assert "of 2109497 bytes" in error.message
        assert len(names(tmp_path)) == 2
        saved = await router.save(host.video(), tmp_path / "otter.mp4", sha256=True)
        assert saved.resumed_from > 0
        assert saved.sha256 == hashlib.sha256(host.body).hexdigest()
        assert host.sent <= 1.1 * len(host.body)
        assert names(tmp_path) == ["otter.mp4"]

    async def test_another_url_never_goes_on_from_it(self, host, router, tmp_path, plan, mp4):
        host.plans = [plan(cut=20 * CUTS)]
        await fail(router, host.video(), tmp_path / "otter.mp4", max_retries=0)
        host.body = mp4(len(host.body))
        saved = await router.save(host.video("/other.mp4"), tmp_path / "otter.mp4")
        assert saved.path.read_bytes() == host.body
        assert names(tmp_path) == ["otter.mp4"]

    async def test_a_cancelled_transfer_goes_on_in_the_next_call(self, host, router, tmp_path, plan):
        host.plans = [plan(stall=20 * CUTS)]
        running = asyncio.create_task(router.save(host.video(), tmp_path / "otter.mp4"))
        await host.wait_for(19 * CUTS)
        await asyncio.sleep(0.05)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        saved = await router.save(host.video(), tmp_path / "otter.mp4")
        assert saved.resumed_from > 0
        assert saved.path.read_bytes() == host.body

    async def test_kill_9_in_the_middle_then_resume_moves_at_most_a_tenth_again(
        self, host, router, tmp_path, plan, mp4
    ):
        host.body = mp4(20 * 2**20)
        host.plans = [plan(pace=0.002)]
        place = tmp_path / "otter.mp4"
        place.write_bytes(b"the old good file")
        script = (
            "import asyncio, sys; from videorouter import AsyncVideoRouter, Video\n"
            "async def main():\n"
            "    async with AsyncVideoRouter('k', base_url=sys.argv[1]) as router:\n"
            "        await router.save(Video(url=sys.argv[2]), sys.argv[3])\n"
            "asyncio.run(main())\n"
        )
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", script, host.url("/v1"), host.url(), str(place)
        )
        await host.wait_for(10 * 2**20)
        child.send_signal(signal.SIGKILL)
        await child.wait()
        assert place.read_bytes() == b"the old good file"
        saved = await router.save(host.video(), place)
        assert saved.path.read_bytes() == host.body
        assert saved.resumed_from > 0
        assert saved.resumed_from + saved.transferred == len(host.body)
        assert host.sent <= 1.1 * len(host.body)
        assert names(tmp_path) == ["otter.mp4"]


class TestRefused:
    async def test_html_json_and_empty_bodies_never_become_a_video(self, host, router, tmp_path, plan):
        place = tmp_path / "otter.mp4"
        place.write_bytes(b"the old good file")
        for body, word in [(b"<!DOCTYPE html><p>Sorry", "HTML"), (b'{"error": 1}', "JSON"), (b"", "empty")]:
            host.usual = plan(body=body, headers=(("Content-Type", "video/mp4"),))
            error = await fail(router, host.video(), place)
            assert word in error.message
            assert place.read_bytes() == b"the old good file"
            if body:
                assert Path(error.path).name.endswith(".rejected")
                assert read(error.path) == body
                assert error.path in error.message
        assert names(tmp_path) == ["otter.mp4", "otter.mp4.2.rejected", "otter.mp4.rejected"]
        assert read(tmp_path / "otter.mp4.rejected").startswith(b"<!DOCTYPE")

    @pytest.mark.parametrize(("kind", "ending"), [("webm", ".webm"), ("mkv", ".mkv"), ("mov", ".mov"), ("gif", ".gif")])
    async def test_a_whole_video_that_is_no_mp4_is_kept_under_its_own_ending(
        self, host, router, tmp_path, kind, ending, caplog
    ):
        host.body = OTHERS[kind]
        (tmp_path / f"otter{ending}").write_bytes(b"somebody's")
        saved = await router.save(host.video(), tmp_path / "otter.mp4")
        assert saved.path == tmp_path / f"otter.2{ending}"
        assert saved.path.read_bytes() == host.body
        assert saved.media.container == kind
        assert str(saved.path) in caplog.text
        assert names(tmp_path) == sorted([f"otter{ending}", f"otter.2{ending}"])
        sink = io.BytesIO()
        assert (await router.save(host.video(), sink)).media.container == kind
        assert sink.getvalue() == host.body
        host.body = host.body[:-1]
        error = await fail(router, host.video(), tmp_path / "cut.mp4")
        assert read(error.path) == host.body

    async def test_check_false_takes_any_bytes(self, host, router, tmp_path, plan):
        host.usual = plan(body=b"GIF89a")
        saved = await router.save(host.video(), tmp_path / "otter.gif", check=False)
        assert saved.path.read_bytes() == b"GIF89a"

    async def test_a_length_longer_than_the_body_fails_after_retries(self, host, router, tmp_path, plan, monkeypatch):
        monkeypatch.setattr(retry, "find_pause", lambda *_: 0.0)
        host.usual = plan(length=str(len(host.body) + 100), etag=None)
        error = await fail(router, host.video(), tmp_path / "otter.mp4")
        assert error.attempts == 5
        assert names(tmp_path) == []

    async def test_a_length_shorter_than_the_body_is_rejected(self, host, router, tmp_path, plan):
        host.usual = plan(length=str(len(host.body) - 100))
        error = await fail(router, host.video(), tmp_path / "otter.mp4", max_retries=0)
        assert "whole" in error.message
        assert not (tmp_path / "otter.mp4").exists()

    async def test_an_endless_body_ends_at_the_limit(self, host, tmp_path, plan):
        host.usual = plan(length=None, endless=True)
        async with AsyncVideoRouter("k", base_url=host.url("/v1"), max_download_bytes=2**22) as router:
            error = await fail(router, host.video(), tmp_path / "otter.mp4")
        assert "max_download_bytes" in error.message
        assert names(tmp_path) == []

    async def test_a_file_that_is_stated_as_too_large_is_not_begun(self, host, tmp_path):
        async with AsyncVideoRouter("k", base_url=host.url("/v1"), max_download_bytes=1000) as router:
            error = await fail(router, host.video(), tmp_path / "otter.mp4")
        assert "max_download_bytes" in error.message
        assert names(tmp_path) == []

    async def test_a_stalled_transfer_goes_on_over_another_connection(self, host, router, tmp_path, plan, monkeypatch):
        monkeypatch.setattr(fetch, "STALL_SECONDS", 0.2)
        host.plans = [plan(stall=10 * CUTS)]
        saved = await router.save(host.video(), tmp_path / "otter.mp4")
        assert saved.path.read_bytes() == host.body
        assert host.sent <= 1.1 * len(host.body)

    async def test_the_deadline_ends_a_transfer_and_keeps_what_came(self, host, router, tmp_path, plan):
        host.plans = [plan(stall=10 * CUTS)]
        error = await fail(router, host.video(), tmp_path / "otter.mp4", timeout=0.5)
        assert "timeout" in error.message
        assert (await router.save(host.video(), tmp_path / "otter.mp4")).resumed_from > 0

    async def test_a_missing_file_is_raised_at_once_under_both_names(self, host, router, tmp_path, plan):
        host.usual = plan(status=404, body=b"gone")
        error = await fail(router, host.video(), tmp_path / "otter.mp4")
        assert isinstance(error, NotFoundError)
        assert (error.status, error.body, len(host.requests)) == (404, "gone", 1)
        assert names(tmp_path) == []

    async def test_a_host_in_trouble_is_asked_again_and_then_named(self, host, router, tmp_path, plan, monkeypatch):
        monkeypatch.setattr(retry, "find_pause", lambda *_: 0.0)
        host.plans = [plan(status=502, body=b""), plan(status=500, body=b"")]
        assert (await router.save(host.video(), tmp_path / "otter.mp4")).size == len(host.body)
        host.usual = plan(status=500, body=b"")
        error = await fail(router, host.video(), tmp_path / "otter.mp4")
        assert isinstance(error, InternalServerError)
        assert error.attempts == 5

    async def test_a_host_that_asks_to_wait_is_waited_for_until_the_deadline(self, host, router, tmp_path, plan):
        host.plans = [plan(status=429, body=b"", headers=(("Retry-After", "0"),))]
        assert (await router.save(host.video(), tmp_path / "otter.mp4")).size == len(host.body)
        host.usual = plan(status=429, body=b"", headers=(("Retry-After", "60"),))
        error = await fail(router, host.video(), tmp_path / "otter.mp4", timeout=5)
        assert isinstance(error, RateLimitError)
        assert error.retry_after == 60


class TestRedirects:
    async def test_five_redirects_are_followed_and_a_sixth_is_not(self, host, router, tmp_path, plan):
        hops = [plan(status=302 + index % 2, headers=(("Location", f"/hop{index}"),), body=b"") for index in range(5)]
        host.plans = hops.copy()
        assert (await router.save(host.video(), tmp_path / "otter.mp4")).size == len(host.body)
        host.plans = [*hops, hops[0]]
        error = await fail(router, host.video(), tmp_path / "b.mp4")
        assert "redirects" in error.message

    @pytest.mark.parametrize(
        "location",
        [
            "http://169.254.169.254/latest/meta-data/",
            "http://10.0.0.1/x.mp4",
            "https://192.168.1.1/x.mp4",
            "http://files.invalid/x.mp4",
            "https://user:pass@files.invalid/x.mp4",
            "file:///etc/passwd",
            "//[::ffff:169.254.169.254]/x",
            "http://[fd00::1]/x",
            "http://2130706433/",
            "https://0x7f.1/",
            "gopher://x/",
            "http://exa mple/",
            "",
        ],
    )
    async def test_a_redirect_to_anywhere_else_is_refused(self, host, router, tmp_path, plan, location):
        host.plans = [plan(status=302, headers=(("Location", location),), body=b"")]
        error = await fail(router, host.video(), tmp_path / "otter.mp4")
        assert len(host.requests) == 1
        assert names(tmp_path) == []
        assert "user:pass" not in error.message


class TestGuard:
    @pytest.mark.parametrize(
        "url",
        [
            "http://127.0.0.1:{port}/x.mp4",
            "http://localhost:{port}/x.mp4",
            "https://127.0.0.1:{port}/x.mp4",
            "https://[::1]:{port}/x.mp4",
            "http://files.invalid/x.mp4",
            "https://10.1.2.3/x.mp4",
            "https://169.254.169.254/x.mp4",
            "https://0.0.0.0:{port}/x.mp4",
            "ftp://files.invalid/x.mp4",
            "https:///x.mp4",
            "https://a\\@b/x.mp4",
            "x.mp4",
        ],
    )
    async def test_a_client_of_a_public_gateway_fetches_nothing_from_here(self, host, tmp_path, url):
        async with AsyncVideoRouter("k", base_url="https://gateway.invalid/v1") as router:
            await fail(router, Video(url=url.format(port=host.port)), tmp_path / "x.mp4")
        assert host.requests == []
        assert names(tmp_path) == []

    async def test_a_name_that_resolves_to_a_private_address_is_refused_and_named(self, host, tmp_path, monkeypatch):
        async with AsyncVideoRouter("k", base_url="https://gateway.invalid/v1") as router:
            sender = router._caller.shared.sender

            async def resolve(url, *, deadline):
                return ("8.8.8.8", "10.0.0.7")

            monkeypatch.setattr(sender, "resolve", resolve)
            error = await fail(router, Video(url="https://cdn.invalid/x.mp4"), tmp_path / "x.mp4")
        assert "10.0.0.7" in error.message

    async def test_the_connection_goes_to_the_address_that_was_checked(self, host, router, tmp_path, monkeypatch):
        sender = router._caller.shared.sender

        async def resolve(url, *, deadline):
            return ("127.0.0.1",)

        monkeypatch.setattr(sender, "resolve", resolve)
        saved = await router.save(Video(url=host.url(host="rebound.invalid")), tmp_path / "x.mp4")
        assert saved.size == len(host.body)
        assert host.requests[0][1]["host"] == f"rebound.invalid:{host.port}"

    async def test_allow_private_hosts_permits_them_over_http(self, host, tmp_path):
        async with AsyncVideoRouter("k", base_url="https://gateway.invalid/v1", allow_private_hosts=True) as router:
            assert (await router.save(host.video(), tmp_path / "x.mp4")).size == len(host.body)
            await fail(router, Video(url="http://8.8.8.8/x.mp4"), tmp_path / "y.mp4")

    async def test_allowed_hosts_permits_only_these(self, host, tmp_path):
        async with AsyncVideoRouter("k", base_url=host.url("/v1"), allowed_hosts=["localhost"]) as router:
            error = await fail(router, host.video(), tmp_path / "x.mp4")
            assert "allowed_hosts" in error.message
            assert (await router.save(Video(url=host.url(host="localhost")), tmp_path / "x.mp4")).size

    async def test_a_mock_is_served_without_a_look_up(self, host, tmp_path):
        with respx.mock:
            respx.get("https://cdn.example/x.mp4").mock(return_value=httpx.Response(200, content=host.body))
            async with AsyncVideoRouter("k", base_url="https://gateway.example/v1") as router:
                assert (await router.save(Video(url="https://cdn.example/x.mp4"), tmp_path / "x.mp4")).size

    async def test_a_users_mock_transport_is_served_too(self, host, tmp_path):
        mock = httpx.MockTransport(lambda request: httpx.Response(200, content=host.body))
        async with (
            httpx.AsyncClient(transport=mock) as client,
            AsyncVideoRouter("k", base_url="https://gateway.example/v1", http_client=client) as router,
        ):
            assert (await router.save(Video(url="https://cdn.example/x.mp4"), tmp_path / "x.mp4")).size
            await fail(router, Video(url="https://10.0.0.1/x.mp4"), tmp_path / "y.mp4")


async def test_save_names_the_verb_that_takes_many(router, host, tmp_path):
    with pytest.raises(InvalidRequestError, match=r"not list\. For many of them: `await router\.download"):
        await router.save([host.video()], tmp_path)
