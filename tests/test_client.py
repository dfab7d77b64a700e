"""The front door against a running gateway: the same calls in every mode, and errors that a stranger understands."""

import copy
import inspect
import pickle
import socket

import msgspec
import pytest

from videorouter import (
    APIConnectionError,
    AsyncVideoRouter,
    ClientClosedError,
    ConfigurationError,
    FieldWarning,
    InvalidRequestError,
    NotFoundError,
    OutcomeUnknownError,
    Task,
    VideoResult,
    VideoRouter,
    VideoRouterError,
)
from videorouter.sandbox import Sandbox

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["held", "task", "mixed", "final"])
async def sandbox(request, anyio_backend):
    async with Sandbox(mode=request.param) as running:
        yield running


@pytest.fixture
async def router(sandbox):
    async with AsyncVideoRouter("key", base_url=sandbox.base_url) as client:
        yield client


async def test_every_named_field_reaches_the_wire_under_its_own_name(router, monkeypatch):
    given = {
        "model": "m",
        **{name: f"https://x.example/{name}" for name in ("image_url", "start_image_url", "end_image_url")},
        **{name: [f"https://x.example/{name}"] for name in ("image_urls", "video_urls", "audio_urls")},
        "duration": "d",
        "aspect_ratio": "a",
        "resolution": "r",
        "generate_audio": True,
        "seed": 5,
        "n": 2,
        "output_format": "url",
    }
    options = {
        "timeout": 77.0,
        "max_retries": 2,
        "extra_headers": {"x-a": "b"},
        "extra_body": {"tools": 1},
        "idempotency_key": "k",
    }
    assert {*given, *options} == {*inspect.signature(AsyncVideoRouter.submit).parameters} - {"self", "prompt", "fields"}
    made = []

    async def run_job(_, submission):
        made.append(submission)

    monkeypatch.setattr("videorouter.call.tasks.run_job", run_job)
    await router.generate("p", **given, **options)
    await router.generate("p", model="m", duration="d")
    assert msgspec.json.decode(made[0].body) == {**given, "prompt": "p", "tools": 1}
    assert (made[0].timeout, made[0].max_retries, made[0].headers, made[0].idempotency_key) == (
        77.0,
        2,
        (("x-a", "b"),),
        "k",
    )
    assert msgspec.json.decode(made[1].body) == {
        "model": "m",
        "prompt": "p",
        "output_format": "url",
        "duration": "d",
    }


async def test_the_same_code_makes_saves_and_edits_in_every_mode(router, sandbox, tmp_path):
    result = await router.generate("A cute baby sea otter", model="sora-2")
    saved = await router.save(result, tmp_path / "otter.mp4")
    edited = await router.edit(result, "Make it snow", model="sora-2-video-to-video")
    assert saved.path.read_bytes()[4:8] == b"ftyp"
    assert edited.video.url != result.video.url
    assert await sandbox.charges() == {"A cute baby sea otter": 1, "Make it snow": 1}


async def test_submit_and_wait_come_to_the_same_result_in_every_mode(router, sandbox):
    task = await router.submit("A cute baby sea otter", model="google/veo3.1/text-to-video", duration="8s")
    assert isinstance(task, Task)
    result = await router.wait(task)
    assert result.video.url
    assert (await router.task(task)).state == "completed"
    if task.id is not None:
        assert (await router.wait(task.id)).video.url == result.video.url
    assert sum((await sandbox.charges()).values()) == 1


async def test_submit_edit_takes_a_result_a_video_or_an_id(router):
    result = await router.generate("otter", model="sora-2")
    for video in (result, result.video, result.video_id):
        task = await router.submit_edit(video, "snow", model="sora-2-video-to-video")
        assert (await router.wait(task)).video_id


async def test_fields_pass_through_untouched_and_the_extra_body_wins(router, sandbox):
    await router.generate(
        "otter",
        model="some/new-model",
        duration=7,
        seed=0,
        generate_audio=False,
        brand_new={"a": [1, None]},
        extra_body={"seed": 9, "watermark": None},
    )
    body = msgspec.json.decode(next(record.body for record in sandbox.requests if record.method == "POST"))
    assert body == {
        "model": "some/new-model",
        "prompt": "otter",
        "output_format": "url",
        "duration": 7,
        "seed": 9,
        "generate_audio": False,
        "brand_new": {"a": [1, None]},
        "watermark": None,
    }


async def test_a_result_encodes_pickles_and_keeps_its_raw_answer_beside(router):
    result = await router.generate("otter", model="veo3-fast")
    assert msgspec.json.decode(msgspec.json.encode(result), type=VideoResult) == result
    again = pickle.loads(pickle.dumps(result))
    assert again == result
    assert again.raw == result.raw
    assert "raw" not in result.to_dict()
    assert "<video" in result.video._repr_html_()


async def test_an_unknown_video_id_says_so(router):
    with pytest.raises(VideoRouterError, match=r"video_id|no video") as caught:
        await router.edit("video_nowhere", "snow", model="sora-2-video-to-video")
    assert not caught.value.in_doubt
    assert isinstance(caught.value, NotFoundError) or caught.value.status in {400, 404, 422}


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ({"prompt": ""}, "prompt is empty"),
        ({"prompt": "  \n"}, "prompt is empty"),
        ({"prompt": 7}, "must be text"),
        ({"prompt": "x", "model": None}, "No model"),
        ({"prompt": "x", "seed": float("nan")}, "no JSON form"),
        ({"prompt": "x", "odd": object()}, "JSON"),
        ({"prompt": "x", "odd": b"bytes"}, "bytes"),
        ({"prompt": "\ud800"}, "JSON"),
        ({"prompt": "x", "timeout": 0}, "positive"),
        ({"prompt": "x", "timeout": float("inf")}, "positive"),
        ({"prompt": "x", "max_retries": -1}, "max_retries"),
        ({"prompt": "x", "extra_headers": {"A": "b\r\nC: d"}}, "cannot stand in a header"),
        ({"prompt": "x", "extra_headers": {"Authorization": "b"}}, "api_key"),
        ({"prompt": "x", "extra_body": [1]}, "mapping"),
        ({"prompt": "x", "idempotency_key": "a b"}, "idempotency_key"),
    ],
)
async def test_a_bad_argument_is_refused_before_anything_is_sent(router, sandbox, call, words):
    with pytest.raises(InvalidRequestError, match=words):
        await router.generate(**{"model": "veo3-fast", **call})
    assert sandbox.requests == []


@pytest.mark.parametrize("video", ["", None, 7, "https://x.example/v.mp4"])
async def test_an_edit_of_what_is_no_generation_is_refused_before_anything_is_sent(router, sandbox, video):
    with pytest.raises(InvalidRequestError):
        await router.edit(video, "snow", model="sora-2-video-to-video")
    assert sandbox.requests == []


async def test_a_field_that_is_known_to_be_ignored_is_warned_of_and_sent(router, sandbox):
    with pytest.warns(FieldWarning, match="8s"):
        await router.generate("otter", model="google/veo3.1/text-to-video", duration=8)
    assert len(await sandbox.charges()) == 1


async def test_a_missing_key_says_where_keys_come_from():
    with pytest.raises(ConfigurationError, match="INFRON_API_KEY"):
        AsyncVideoRouter()


async def test_the_environment_fills_what_is_not_given(monkeypatch, sandbox):
    monkeypatch.setenv("ONEROUTER_API_KEY", "second")
    monkeypatch.setenv("INFRON_VIDEO_BASE_URL", sandbox.base_url)
    async with AsyncVideoRouter(model="veo3-fast") as router:
        await router.generate("otter")
    monkeypatch.setenv("INFRON_API_KEY", "first")
    async with AsyncVideoRouter(model="veo3-fast") as router:
        await router.generate("otter")
    assert len(sandbox.requests) >= 2


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "must be a URL"),
        ("video.onerouter.pro/v1", "not a usable URL"),
        ("ftp://x.example", "not a usable URL"),
        ("http://x.example/v1", "in the clear"),
        ("https://me:secret@x.example/v1", "user name or password"),
        ("https://x.example/v1?a=b", "query"),
        ("https://x.example:99999/v1", "not a usable URL"),
    ],
)
async def test_a_bad_base_url_says_what_is_wrong(url, words):
    with pytest.raises(ConfigurationError, match=words):
        AsyncVideoRouter("key", base_url=url)


async def test_an_unreachable_host_is_named_with_its_port_and_nothing_was_sent():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        async with AsyncVideoRouter("key", base_url=f"http://127.0.0.1:{port}/v1", max_retries=0) as router:
            with pytest.raises(APIConnectionError, match=f"127.0.0.1:{port}") as caught:
                await router.generate("otter", model="veo3-fast")
    assert not isinstance(caught.value, OutcomeUnknownError)


async def test_a_closed_client_says_so_and_closing_twice_is_fine(sandbox):
    router = AsyncVideoRouter("key", base_url=sandbox.base_url)
    await router.aclose()
    await router.aclose()
    with pytest.raises(ClientClosedError):
        await router.generate("otter", model="veo3-fast")
    assert sandbox.requests == []


@pytest.mark.parametrize("kind", [AsyncVideoRouter, VideoRouter])
@pytest.mark.parametrize("take", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_client_that_is_to_be_pickled_or_copied_says_what_to_do_instead(kind, take):
    client = kind("sk-test")
    with pytest.raises(TypeError, match=f"{kind.__name__} cannot be pickled.*Make a client in each process"):
        take(client)


NEAR_MISSES = [
    ({"timout": 3}, "timeout="),
    ({"max_retriess": 3}, "max_retries="),
    ({"extra_boody": {"a": 1}}, "extra_body="),
    ({"image_url": "cat.png"}, "pathlib.Path('cat.png')"),
    ({"image_urls": ["https://x.example/a.png", "cat.png"]}, "pathlib.Path('cat.png')"),
    ({"image_urls": [b"\x89PNG\r\n\x1a\n", "cat.png"]}, "pathlib.Path('cat.png')"),
]


@pytest.mark.parametrize(("options", "words"), NEAR_MISSES)
@pytest.mark.parametrize("verb", ["generate", "submit", "edit", "submit_edit"])
async def test_a_near_miss_is_refused_before_anything_is_sent(router, sandbox, verb, options, words):
    video = ("video_1",) if "edit" in verb else ()
    with pytest.raises(InvalidRequestError) as caught:
        await getattr(router, verb)(*video, "otter", model="veo3-fast", **options)
    assert words in str(caught.value)
    assert sandbox.requests == []
    assert await sandbox.charges() == {}


async def test_extra_body_is_the_way_past_a_near_miss(router, sandbox):
    await router.generate("otter", model="veo3-fast", extra_body={"timout": 3, "image_url": "gs://bucket/cat.png"})
    assert await sandbox.charges() == {"otter": 1}


async def test_a_file_name_is_not_uploaded_as_an_address(router, sandbox):
    with pytest.raises(InvalidRequestError, match=r"pathlib\.Path\('cat.png'\)"):
        await router.upload("cat.png", model="veo3-fast")
    assert sandbox.requests == []


@pytest.mark.parametrize(
    ("name", "near"), [("concurency", "concurrency"), ("journl", "journal"), ("timout", "timeout")]
)
async def test_a_near_miss_of_a_batch_is_refused_before_anything_is_sent(router, sandbox, name, near):
    with pytest.raises(ConfigurationError, match=f"Did you mean {near}="):
        router.generate_many(["otter"], model="veo3-fast", **{name: 1})
    items = [item async for item in router.generate_many([{"prompt": "otter", "timout": 3}], model="veo3-fast")]
    assert [item.state for item in items] == ["refused"]
    assert sandbox.requests == []
