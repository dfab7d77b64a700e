"""Uploads, their review, and pictures that become the first frame."""

import base64
import io
import random

import av
import pytest
from PIL import Image

from videorouter.sandbox import Sandbox
from videorouter.sandbox.uploads import guess_type

pytestmark = pytest.mark.anyio


def picture(colour, size=(64, 36)):
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, "PNG")
    return out.getvalue()


RED = picture((220, 30, 30))


async def send(http, sandbox, data=RED, **fields):
    return await http.post(
        f"{sandbox.base_url}/upload/resources",
        data={"model": "veo3-fast", **fields},
        files={"file": ("cat.png", data, "image/png")},
    )


async def first_and_last(http, sandbox, **fields):
    answer = await http.post(f"{sandbox.base_url}/videos/generations", json={"model": "m", "prompt": "otter", **fields})
    data = (await http.get(answer.json()["data"][0]["url"])).content
    with av.open(io.BytesIO(data)) as file:
        frames = [frame.to_image() for frame in file.decode(video=0)]
    return [frame.getpixel((frame.width // 2, frame.height // 3)) for frame in (frames[0], frames[-1])]


async def test_an_upload_is_reviewed_and_becomes_active(http):
    async with Sandbox() as sandbox:
        answer = (await send(http, sandbox)).json()
        assert (answer["code"], answer["message"]) == (200, "success")
        data = answer["data"]
        assert (data["id"], data["status"], data["upstream_status"]) == (1, "processing", "Processing")
        assert data["upstream_asset_uri"].startswith("asset://")
        state = (await http.get(f"{sandbox.base_url}/status/resources/1")).json()["data"]
        assert state["upstream_status"] == "Active"
        assert (await http.get(data["gcs_url"])).content == RED


async def test_any_bytes_arrive_as_they_were_sent(http):
    rough = bytes(range(256)) * 64 + b"\r\n--\r\n\r\n\n\r--x--\r" + random.Random(1).randbytes(50_000)
    async with Sandbox() as sandbox:
        for data in (rough, b"\r\n", b"\n" * 3, b"x" * 3_000_000):
            answer = (await send(http, sandbox, data=data)).json()["data"]
            assert (await http.get(answer["gcs_url"])).content == data
        url, kind = f"{sandbox.base_url}/upload/resources", {"Content-Type": "multipart/form-data"}
        assert (await http.post(url, content=b"--x", headers=kind)).status_code == 400


async def test_a_review_that_takes_time_is_processing_and_refuses_use(http):
    async with Sandbox(review=1000) as sandbox:
        uri = (await send(http, sandbox)).json()["data"]["upstream_asset_uri"]
        state = (await http.get(f"{sandbox.base_url}/status/resources/1")).json()["data"]
        assert state["upstream_status"] == "Processing"
        body = {"model": "m", "prompt": "x", "image_url": uri}
        answer = await http.post(f"{sandbox.base_url}/videos/generations", json=body)
        assert answer.status_code == 422
        assert "processing" in answer.json()["error"]["message"]


@pytest.mark.parametrize(("kind", "state"), [("failed_review", "Failed"), ("rejected_review", "Rejected")])
async def test_a_review_can_fail_or_reject(http, kind, state):
    async with Sandbox() as sandbox:
        sandbox.faults.add(kind, reason="because")
        assert (await send(http, sandbox)).status_code == 200
        data = (await http.get(f"{sandbox.base_url}/status/resources/1")).json()["data"]
        assert (data["upstream_status"], data["fail_reason"]) == (state, "because")


async def test_a_file_of_no_known_kind_fails_its_review(http):
    async with Sandbox() as sandbox:
        await send(http, sandbox, data=b"just text")
        data = (await http.get(f"{sandbox.base_url}/status/resources/1")).json()["data"]
        assert data["upstream_status"] == "Failed"


async def test_an_upload_needs_a_model_and_a_file(http):
    async with Sandbox() as sandbox:
        url = f"{sandbox.base_url}/upload/resources"
        for answer in (
            await send(http, sandbox, model=""),
            await send(http, sandbox, data=b""),
            await http.post(url, data={"model": "m"}, files={"other": b"x"}),
            await http.post(url, json={"file": "https://example.com/a.png"}),
            await http.post(url, json={"model": "m"}),
        ):
            assert answer.status_code == 400
        assert (await http.post(url, json={"model": "m", "file": "ftp://x/y"})).status_code == 422
        assert (await http.get(f"{sandbox.base_url}/status/resources/1")).status_code == 404
        assert (await http.get(f"{sandbox.base_url}/status/resources/x")).status_code == 404


async def test_a_url_is_kept_without_being_fetched(http):
    async with Sandbox() as sandbox:
        body = {"model": "m", "file": f"{sandbox.url}/trap.png"}
        data = (await http.post(f"{sandbox.base_url}/upload/resources", json=body)).json()["data"]
        state = (await http.get(f"{sandbox.base_url}/status/resources/{data['id']}")).json()["data"]
        assert state["upstream_status"] == "Active"
        assert (await http.get(data["gcs_url"])).status_code == 404
        assert not any("trap" in record.path for record in sandbox.requests)


@pytest.mark.parametrize("form", ["asset", "public", "data"])
async def test_a_picture_is_visibly_the_first_frame(http, form):
    async with Sandbox(size=(128, 72), seconds=0.4) as sandbox:
        data = (await send(http, sandbox)).json()["data"]
        url = {
            "asset": data["upstream_asset_uri"],
            "public": data["gcs_url"],
            "data": f"data:image/png;base64,{base64.b64encode(RED).decode()}",
        }[form]
        first, _ = await first_and_last(http, sandbox, image_url=url)
        assert first[0] > 180
        assert max(first[1:]) < 80


async def test_first_and_last_frame_can_be_named(http):
    async with Sandbox(size=(128, 72), seconds=0.5) as sandbox:
        red = (await send(http, sandbox)).json()["data"]["upstream_asset_uri"]
        blue = (await send(http, sandbox, data=picture((20, 40, 220)))).json()["data"]["upstream_asset_uri"]
        first, last = await first_and_last(http, sandbox, start_image_url=red, end_image_url=blue)
        assert first[0] > 180 > first[2]
        assert last[2] > 150 > last[0]


async def test_a_picture_that_is_not_held_or_broken_still_gives_a_video(http):
    async with Sandbox(size=(128, 72), seconds=0.2) as sandbox:
        broken = (await send(http, sandbox, data=RED[:40])).json()["data"]["gcs_url"]
        for url in ("https://example.com/cat.png", broken, "data:nothing", "data:image/png;base64,%%%"):
            assert len(await first_and_last(http, sandbox, image_url=url)) == 2


def test_the_kind_of_a_file_is_read_from_its_bytes():
    assert guess_type(RED) == "image/png"
    assert guess_type(b"\xff\xd8\xff\xe0") == "image/jpeg"
    assert guess_type(b"RIFF0000WEBP") == "image/webp"
    assert guess_type(b"\0\0\0\x20ftypisom") == "video/mp4"
    assert guess_type(b"\0\0\0\x20ftypavif") == "image/avif"
    assert guess_type(b"hello") == guess_type(b"") == "application/octet-stream"
