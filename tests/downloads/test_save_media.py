"""What came is measured while it is saved, and compared with what was asked for; a paid file never fails over it."""

from __future__ import annotations

import asyncio
import io
import pickle

import pytest
from media_files import audio_entry, make_file, movie, picture_track, sound_track, video_entry, webm

from videorouter import AsyncVideoRouter, DownloadError, Media, Mismatch, Video, VideoRouter
from videorouter.events import DownloadFinished
from videorouter.sandbox import Sandbox

pytestmark = pytest.mark.anyio
FACTS = Media(
    container="mp4", seconds=4.0, width=320, height=180, fps=25.0, video_codec="h264", audio_codec="aac", has_sound=True
)
SHORT = Mismatch(field="duration", asked="8 s", delivered="4 s")
FAULT = "wrong_seconds=4"


@pytest.fixture
async def sandbox():
    async with Sandbox(mode="mixed", profile="instant") as opened:
        yield opened


@pytest.fixture
async def client(sandbox):
    async with AsyncVideoRouter("a-key", base_url=sandbox.base_url) as opened:
        yield opened


# Facts


async def test_a_file_a_writer_and_inline_bytes_are_measured(host, router, tmp_path):
    host.body = movie()
    inline = Video().with_extras(data_=movie())
    assert (await router.save(host.video(), tmp_path / "a.mp4")).media == FACTS
    assert (await router.save(host.video(), io.BytesIO())).media == FACTS
    assert (await router.save(inline, tmp_path / "b.mp4")).media == FACTS
    assert (await router.save(inline, io.BytesIO())).media == FACTS


async def test_a_file_that_is_resumed_is_measured_whole(host, router, tmp_path, plan):
    host.body = movie() + b"\0\0\x40\0free" + bytes(0x4000 - 8)
    host.plans = [plan(cut=9000), plan(status=404, body=b"")]
    with pytest.raises(DownloadError):
        await router.save(host.video(), tmp_path / "a.mp4")
    saved = await router.save(host.video(), tmp_path / "a.mp4")
    assert saved.resumed_from == 9000
    assert saved.media == FACTS


async def test_unchecked_bytes_are_measured_where_they_are_a_video(host, router, tmp_path):
    host.body = webm()
    saved = await router.save(host.video(), tmp_path / "a.webm", check=False)
    assert (saved.media.container, saved.media.video_codec) == ("webm", "vp9")
    host.body = b"<html>no video</html>"
    assert (await router.save(host.video(), tmp_path / "a.html", check=False)).media is None


async def test_facts_go_out_as_data(host, router, tmp_path):
    host.body = movie(picture_track(entry=video_entry(b"av01", 1280, 720)), sound_track(entry=audio_entry(b"Opus")))
    shown = (await router.save(host.video(), tmp_path / "a.mp4")).to_dict()
    assert shown["media"]["video_codec"] == "av1"
    assert shown["media"]["audio_codec"] == "opus"
    assert shown["mismatches"] == ()


async def test_a_real_file_is_measured(host, router, tmp_path):
    pytest.importorskip("av", reason="PyAV makes this file: install the extra 'sandbox'")
    host.body = make_file("mp4", "libx264", "aac", options={"movflags": "frag_keyframe+empty_moov"})
    saved = await router.save(host.video(), tmp_path / "a.mp4")
    assert (saved.media.seconds, saved.media.width, saved.media.has_sound) == (pytest.approx(2.0, abs=0.05), 160, True)


# What was asked for


@pytest.mark.parametrize("model", ["veo3-fast", "google/veo3.1/text-to-video"])
async def test_four_seconds_in_place_of_eight_are_told(sandbox, client, tmp_path, model):
    sandbox.faults.add(FAULT)
    result = await client.generate("An otter", model=model, duration="8s")
    for source in (result, result.video):
        saved = await client.save(source, tmp_path / "otter.mp4")
        assert saved.mismatches == (SHORT,)
        assert saved.path.exists()


async def test_what_was_delivered_as_asked_has_no_mismatch(client, tmp_path):
    asked = {"duration": "4s", "aspect_ratio": "9:16", "resolution": "480p", "generate_audio": True}
    result = await client.generate("An otter", model="veo3-fast", **asked)
    saved = await client.save(result, tmp_path / "otter.mp4")
    assert saved.mismatches == ()
    assert (saved.media.seconds, saved.media.height, saved.media.has_sound) == (4.0, 854, True)


async def test_a_bare_number_that_veo_ignores_is_told(client, tmp_path):
    with pytest.warns(match="silently ignored"):
        result = await client.generate("An otter", model="google/veo3.1/text-to-video", duration=8)
    saved = await client.save(result, tmp_path / "otter.mp4")
    assert [str(mismatch) for mismatch in saved.mismatches] == ["asked for 8 s, got 2 s"]


@pytest.mark.parametrize(
    ("fault", "asked", "field"),
    [
        ("wrong_ratio=9:16", {"aspect_ratio": "16:9"}, "aspect_ratio"),
        ("wrong_ratio", {"ratio": "16:9"}, "ratio"),
        ("no_sound", {"generate_audio": True}, "generate_audio"),
    ],
)
async def test_another_shape_and_silence_are_told(sandbox, client, tmp_path, fault, asked, field):
    sandbox.faults.add(fault)
    result = await client.generate("An otter", model="veo3-fast", **asked)
    saved = await client.save(result, tmp_path / "otter.mp4")
    assert [mismatch.field for mismatch in saved.mismatches] == [field]


async def test_fields_of_the_extra_body_count(sandbox, client, tmp_path):
    sandbox.faults.add(FAULT)
    result = await client.generate("An otter", model="veo3-fast", extra_body={"duration": "8s"})
    assert (await client.save(result, tmp_path / "otter.mp4")).mismatches == (SHORT,)


async def test_an_edit_is_compared_too(sandbox, client, tmp_path):
    first = await client.generate("An otter", model="veo3-fast")
    sandbox.faults.add(FAULT)
    edited = await client.edit(first, "Make it snow", model="veo3-fast", duration="8s")
    assert (await client.save(edited, tmp_path / "otter.mp4")).mismatches == (SHORT,)


@pytest.mark.parametrize("through", [lambda task: task, lambda task: pickle.loads(pickle.dumps(task))])
async def test_a_task_remembers_what_was_asked_for(sandbox, client, tmp_path, through):
    sandbox.faults.add(FAULT)
    task = through(await client.submit("An otter", model="google/veo3.1/text-to-video", duration="8s"))
    assert (await client.save(await client.wait(task), tmp_path / "a.mp4")).mismatches == (SHORT,)
    assert (await client.save(await client.task(task), tmp_path / "b.mp4")).mismatches == (SHORT,)


async def test_a_held_task_remembers_it_too(sandbox, client, tmp_path):
    sandbox.faults.add(FAULT)
    task = await client.submit("An otter", model="veo3-fast", duration="8s")
    assert (await client.save(await client.wait(task), tmp_path / "a.mp4")).mismatches == (SHORT,)


async def test_of_a_task_s_id_or_a_url_nobody_knows_what_was_asked_for(sandbox, client, tmp_path):
    sandbox.faults.add(FAULT)
    task = await client.submit("An otter", model="google/veo3.1/text-to-video", duration="8s")
    result = await client.wait(task.id)
    saved = await client.save(result, tmp_path / "a.mp4")
    assert (saved.mismatches, saved.media.seconds) == ((), 4.0)
    assert (await client.download(result.url, tmp_path / "b.mp4")).mismatches == ()


async def test_the_event_says_it(sandbox, client, tmp_path):
    told = []
    sandbox.faults.add(FAULT)
    result = await client.generate("An otter", model="veo3-fast", duration="8s")
    await client.save(result, tmp_path / "otter.mp4", on_progress=told.append)
    (end,) = [event for event in told if isinstance(event, DownloadFinished)]
    assert (end.media.seconds, end.mismatches) == (4.0, (SHORT,))
    assert "otter.mp4" in repr(end)
    assert "An otter" not in repr(end)


async def test_nothing_that_is_shown_holds_the_request(client, tmp_path):
    result = await client.generate("An otter", model="veo3-fast", duration="8s")
    saved = await client.save(result, tmp_path / "otter.mp4")
    for record in (result, result.video, saved):
        assert "An otter" not in repr(record)
        assert "An otter" not in repr(record.to_dict())


def test_the_sync_client_says_it_too(tmp_path):
    with Sandbox(profile="instant").in_thread() as sandbox, VideoRouter("a-key", base_url=sandbox.base_url) as router:
        sandbox.faults.add(FAULT)
        result = router.generate("An otter", model="veo3-fast", duration="8s")
        assert router.save(result, tmp_path / "otter.mp4").mismatches == (SHORT,)


# Batches


async def test_each_item_of_a_batch_says_it(sandbox, client, tmp_path):
    sandbox.faults.add(FAULT, prompt="short")
    prompts = [f"{'short' if index % 2 else 'whole'} {index}" for index in range(6)]
    found = {}
    async for item in client.generate_many(prompts, model="veo3-fast", duration="8s", save_to=tmp_path):
        found[item.index] = item
    assert [found[index].mismatches for index in range(6)] == [(), (SHORT,)] * 3
    assert [found[index].media.seconds for index in range(6)] == [8.0, 4.0] * 3
    assert {item.state for item in found.values()} == {"done"}


async def test_a_task_that_a_resumed_batch_collects_says_it(tmp_path):
    async with Sandbox(mode="task", latency=0.6) as sandbox:
        sandbox.faults.add(FAULT)
        ended = []
        for seconds in (0.3, 30):
            async with AsyncVideoRouter("a-key", base_url=sandbox.base_url) as router:
                batch = router.generate_many(
                    ["An otter"], model="m", duration="8s", journal=tmp_path / "run.db", save_to=tmp_path
                )
                items = []
                try:
                    async with asyncio.timeout(seconds):
                        items = [item async for item in batch]
                except TimeoutError:
                    await batch.aclose()
                ended.append(len(items))
        assert ended == [0, 1]
        assert [item.mismatches for item in items] == [(SHORT,)]
        assert await sandbox.charges() == {"An otter": 1}


@pytest.mark.slow
async def test_a_thousand_short_videos_are_all_found(sandbox, client, tmp_path):
    sandbox.faults.add(FAULT)
    count = 0
    batch = client.generate_many(
        ["An otter"] * 1000, model="veo3-fast", duration="8s", resolution="360p", save_to=tmp_path, concurrency=50
    )
    async for item in batch:
        count += item.mismatches == (SHORT,)
    assert (count, batch.summary.mismatched) == (1000, 1000)
