"""Videos: real H.264 in a real MP4, of the asked length and size, the same every time, showing what was asked."""

import io
import json

import av
import pytest
from PIL import ImageChops, ImageStat

from videorouter.sandbox import Settings
from videorouter.sandbox.painting import Painter
from videorouter.sandbox.scene import Picture, Scene, stage
from videorouter.sandbox.store import Store
from videorouter.sandbox.studio import Studio, render, render_poster

SCENE = {
    "prompt": "A cute baby sea otter",
    "model": "m",
    "take": 0,
    "seconds": 0.5,
    "width": 160,
    "height": 90,
    "rate": 24,
    "seed": 0,
}


def difference(one, two, box=None):
    return sum(ImageStat.Stat(ImageChops.difference(one.crop(box), two.crop(box))).mean)


def staged(**body):
    store = Store(None, 1.0)
    try:
        body = {"model": "m", "prompt": "otter", **body}
        job = store.add_job(
            request_id="r",
            kind="generation",
            model=body["model"],
            family=body["model"],
            prompt=body["prompt"],
            body=json.dumps(body),
            parent=None,
            takes=1,
            created=0.0,
            ready=0.0,
            cost=0.0,
            charged=False,
            outcome="completed",
            reason=None,
            lost=False,
            expired=False,
            idempotency_key=None,
            digest=b"",
            form="held",
        )
        return stage(job, 0, store=store, settings=Settings(), files_url="http://127.0.0.1:1")
    finally:
        store.close()


def test_a_video_is_h264_that_browsers_play():
    data = render(Scene(**SCENE), 0).data
    with av.open(io.BytesIO(data)) as file:
        (stream,) = file.streams
        context = stream.codec_context
        assert (context.name, context.pix_fmt, context.width, context.height) == ("h264", "yuv420p", 160, 90)
        assert len(list(file.decode(stream))) == 12
        assert file.duration == pytest.approx(500_000, abs=50_000)
    assert data.index(b"moov") < data.index(b"mdat")


def test_the_same_scene_gives_the_same_bytes_and_another_gives_others():
    one = render(Scene(**SCENE), 0)
    assert render(Scene(**SCENE), 0) == one
    assert Scene(**SCENE).digest() == Scene(**SCENE).digest()
    for change in ({"prompt": "whale"}, {"model": "n"}, {"seed": 1}, {"take": 1}):
        other = Scene(**{**SCENE, **change})
        assert other.digest() != Scene(**SCENE).digest()
        assert render(other, 0).etag != one.etag


def test_padding_is_a_box_of_its_own():
    plain = render(Scene(**SCENE), 0).data
    padded = render(Scene(**SCENE), len(plain) + 5000).data
    assert padded.startswith(plain)
    assert padded[len(plain) + 4 : len(plain) + 8] == b"free"
    assert int.from_bytes(padded[len(plain) : len(plain) + 4], "big") == 5000


def test_something_moves_and_the_sandbox_says_its_name():
    painter = Painter(Scene(**SCENE))
    assert difference(painter.paint(0), painter.paint(6)) > 1
    badge = ImageStat.Stat(painter.paint(0).crop((6, 4, 20, 8))).mean
    assert badge[0] > 1.5 * badge[2]


def test_an_edit_shows_its_parent():
    parent = Scene(**SCENE)
    edit = Scene(**{**SCENE, "prompt": "Make it snow", "parent": parent})
    alone = Painter(Scene(**{**SCENE, "prompt": "Make it snow"})).paint(6)
    frame = Painter(edit).paint(6)
    corner = (92, 5, 155, 40)
    small = Painter(parent, live=False).paint(6).resize((67, 38))
    inset = frame.crop((160 - 67 - 4, 4, 160 - 4, 42)).resize((67, 38))
    assert difference(frame, alone, corner) > 20
    assert difference(inset, small) < 45
    assert edit.digest() != Scene(**{**SCENE, "prompt": "Make it snow"}).digest()


def test_an_edit_of_an_edit_of_an_edit_is_painted():
    scene = Scene(**SCENE)
    for word in ("snow", "rain", "night"):
        scene = Scene(**{**SCENE, "prompt": word, "parent": scene})
    assert Painter(scene).paint(3).size == (160, 90)


@pytest.mark.parametrize(
    ("body", "size", "seconds"),
    [
        ({}, (640, 360), 2.0),
        ({"duration": "8s"}, (640, 360), 8.0),
        ({"duration": 4}, (640, 360), 4.0),
        ({"duration": "auto"}, (640, 360), 2.0),
        ({"duration": "60s"}, (640, 360), 15.0),
        ({"aspect_ratio": "9:16"}, (360, 640), 2.0),
        ({"aspect_ratio": "1:1", "resolution": "720p"}, (720, 720), 2.0),
        ({"resolution": "480p"}, (854, 480), 2.0),
        ({"resolution": "1080p", "aspect_ratio": "16:9"}, (1280, 720), 2.0),
        ({"aspect_ratio": "banana", "resolution": "big"}, (640, 360), 2.0),
        ({"aspect_ratio": "99:1"}, (1080, 360), 2.0),
        ({"ratio": "4:3", "resolution": 7}, (480, 360), 2.0),
    ],
)
def test_size_and_length_follow_the_request_within_bounds(body, size, seconds):
    scene = staged(**body)
    assert (scene.width, scene.height) == size
    assert scene.seconds == seconds


def test_references_are_shown():
    scene = Scene(**{**SCENE, "references": (Picture(label="x", data=None),)})
    assert difference(Painter(scene).paint(0), Painter(Scene(**SCENE)).paint(0)) > 1


def test_a_poster_is_a_small_jpeg():
    reel = render_poster(Scene(**{**SCENE, "width": 1280, "height": 720}), 0)
    assert reel.data.startswith(b"\xff\xd8")


@pytest.mark.anyio
async def test_many_who_ask_at_once_get_one_rendering_and_one_who_leaves_does_not_end_it():
    import anyio

    store = Store(None, 1.0)
    studio = Studio(Settings(size=(64, 36), seconds=0.2), store)
    got = []
    try:
        job = store.job_of_number(0)

        async def fetch():
            got.append(await studio.film(job, 0))

        async with anyio.create_task_group() as tasks:
            with anyio.CancelScope() as leaver:
                leaver.cancel()
                await studio.film(job, 0)
            for _ in range(5):
                tasks.start_soon(fetch)
        assert len({id(reel) for reel in got}) == 1
        assert await studio.film(job, 0) is got[0]
    finally:
        studio.close()
        store.close()


@pytest.mark.parametrize("seconds", [0.5, 1.0, 2.25])
def test_a_scene_with_sound_has_a_track_of_its_length(seconds):
    reel = render(Scene(**{**SCENE, "seconds": seconds, "sound": True}), 0)
    assert reel == render(Scene(**{**SCENE, "seconds": seconds, "sound": True}), 0)
    with av.open(io.BytesIO(reel.data)) as file:
        (sound,) = file.streams.audio
        assert float(sound.duration * sound.time_base) == pytest.approx(seconds, abs=0.03)
        assert any(any(bytes(frame.planes[0])) for frame in file.decode(sound))


def test_sound_is_made_where_it_is_asked_for():
    assert staged(generate_audio=True).sound
    assert not staged(generate_audio=False).sound
    assert not staged().sound
    assert staged(generate_audio=True).digest() != staged().digest()
