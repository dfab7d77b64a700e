"""Values of other libraries, as people pass them: from templates, data frames, settings and web forms."""

from __future__ import annotations

import contextlib
import decimal
import enum
import io
import json
import pathlib
import types
import urllib.parse

import aiofiles
import httpx
import msgspec
import numpy as np
import pydantic
import pytest
import yarl
from calling import calling
from django.core.files.uploadedfile import SimpleUploadedFile
from django.utils.safestring import mark_safe
from fastapi import FastAPI, UploadFile
from litestar.datastructures import UploadFile as LitestarUpload
from markupsafe import Markup
from servers import Gateway, answer
from starlette.datastructures import URL
from werkzeug.datastructures import FileStorage

from videorouter import AsyncVideoRouter, InvalidRequestError
from videorouter.call.answers import encode_request
from videorouter.plain import as_path, as_url

pytestmark = pytest.mark.anyio

ADDRESS = "https://cdn.example/cat.png?size=1"


class Length(enum.Enum):
    SHORT = "8s"


class Model(str, enum.Enum):  # noqa: UP042  people still write it so
    VEO = "veo3-fast"


class Takes(enum.IntEnum):
    TWO = 2


class Celsius(float):
    """A number of a class of its own."""


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Markup("a < b"), "a < b"),
        (mark_safe("a & b"), "a & b"),
        (np.str_("8s"), "8s"),
        (np.int64(2**53 + 1), 2**53 + 1),
        (np.float32(0.5), 0.5),
        (np.float64(0.25), 0.25),
        (np.bool_(True), True),
        (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        (decimal.Decimal("7.50"), 7.5),
        (Length.SHORT, "8s"),
        (Model.VEO, "veo3-fast"),
        (Takes.TWO, 2),
        (Celsius(1.5), 1.5),
        (types.MappingProxyType({"x": np.int8(1)}), {"x": 1}),
        ([Markup("a"), {"b": decimal.Decimal(2), np.str_("c"): np.uint8(3)}], ["a", {"b": 2, "c": 3}]),
        *((url(ADDRESS), ADDRESS) for url in (yarl.URL, httpx.URL, URL, pydantic.HttpUrl)),
    ],
    ids=repr,
)
def test_a_field_goes_out_as_what_it_says(value, plain):
    assert json.loads(encode_request({"field": value, "other": "x"})) == {"field": plain, "other": "x"}
    assert json.loads(encode_request({}, {"field": value})) == {"field": plain}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.float32("nan"), "finite"),
        (np.array([1.0, float("inf")]), "finite"),
        (decimal.Decimal("NaN"), "finite"),
        (decimal.Decimal("-Infinity"), "finite"),
        ([{"x": decimal.Decimal("sNaN")}], "finite"),
        ({decimal.Decimal("1.5"): 1}, "key"),
        (enum.Enum("Odd", {"NAN": float("nan")}).NAN, "finite"),
        (pathlib.Path("cat.png"), "'cat.png' is a file of this machine"),
        (pathlib.PurePosixPath("cat.png"), "'cat.png' is a file of this machine"),
        (object(), "object has no JSON form"),
        (yarl.URL("/no/host"), "URL has no JSON form"),
    ],
    ids=repr,
)
def test_a_field_that_no_gateway_could_read_is_refused_before_anything_is_sent(value, words):
    with pytest.raises(InvalidRequestError, match=words):
        encode_request({"field": value})


class Place:
    """A path of somebody's own."""

    def __init__(self, name):
        self.name = name

    def __fspath__(self):
        return self.name


@pytest.mark.parametrize("name", ["dir/cat.png", b"dir/cat.png"])
def test_whatever_names_a_file_is_a_path(name):
    assert as_path(Place(name)) == pathlib.Path("dir/cat.png")
    assert as_path("dir/cat.png") is None


def test_what_only_looks_like_a_url_object_is_none():
    assert as_url(types.SimpleNamespace(scheme="https")) is None
    assert as_url(types.SimpleNamespace(scheme=7)) is None


# A whole call


PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(64)


@pytest.mark.parametrize("text", [Markup, mark_safe, np.str_], ids=["Markup", "SafeString", "numpy.str_"])
async def test_a_result_holds_plain_text_only_whatever_was_passed(text):
    async with calling(answer()) as (gateway, router):
        result = await router.generate(
            text("A cat & a dog"),
            model=text("veo"),
            idempotency_key=text("key-1"),
            timeout=np.int64(30),
            max_retries=np.int64(1),
        )
        (request,) = gateway.posts
        assert json.loads(request.body)["prompt"] == "A cat & a dog"
        assert [type(value) for value in (result.model, result.idempotency_key)] == [str, str]
        assert json.loads(msgspec.json.encode(result))["model"] == "veo"


async def test_a_row_of_a_data_frame_is_an_entry_of_a_batch(tmp_path):
    row = {"id": np.int64(7), "prompt": np.str_("otter"), "model": np.str_("veo"), "seed": np.int64(3)}
    async with calling(answer()) as (gateway, router):
        first = [item async for item in router.generate_many([row], journal=tmp_path / "run.db")]
        again = [item async for item in router.generate_many([row], journal=tmp_path / "run.db")]
        assert len(gateway.posts) == 1
    assert [(item.id, item.prompt, item.state, item.resumed) for item in first + again] == [
        ("7", "otter", "done", False),
        ("7", "otter", "done", True),
    ]
    assert [type(value) for value in (first[0].id, first[0].prompt, first[0].model)] == [str, str, str]


async def test_a_batch_tells_url_objects_apart(tmp_path):
    entries = [{"prompt": "otter", "image_url": yarl.URL(f"https://cdn.example/{n}/cat.png")} for n in range(2)]
    async with calling(answer(), model="veo") as (gateway, router):
        items = [item async for item in router.generate_many(entries, deduplicate=True)]
        assert {item.state for item in items} == {"done"}
        assert len(gateway.posts) == 2


async def test_urls_of_a_client_may_be_url_objects():
    async with Gateway(answer()) as gateway:
        async with AsyncVideoRouter("key", base_url=httpx.URL(gateway.url), model=Model.VEO) as router:
            await router.generate("otter", image_url=yarl.URL(ADDRESS))
        sent = json.loads(gateway.posts[0].body)
    assert (sent["model"], sent["image_url"]) == ("veo3-fast", ADDRESS)


async def test_a_url_object_is_one_thing_to_download(sandbox, tmp_path):
    async with AsyncVideoRouter("key", base_url=sandbox.base_url, model="veo3-fast") as router:
        url = (await router.generate("otter")).url
        for number, kind in enumerate((yarl.URL, httpx.URL, urllib.parse.urlsplit)):
            saved = await router.download(kind(url), tmp_path / f"{number}.mp4")
            assert saved.path.read_bytes()[4:8] == b"ftyp"


# Uploads of web frameworks


async def test_the_upload_of_a_fastapi_route_is_an_input(sandbox):
    app = FastAPI()

    @app.post("/videos")
    async def make(picture: UploadFile) -> dict[str, str]:
        result = await router.generate("otter", image_url=picture)
        return {"url": result.url}

    async with AsyncVideoRouter("key", base_url=sandbox.base_url, model="veo3-fast") as router:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://app") as browser:
            for size in (64, 2 * 2**20):  # the second is on disk
                said = await browser.post("/videos", files={"picture": ("cat.png", PICTURE + bytes(size))})
                assert said.json()["url"].startswith("http"), said.text
    uploads = [record for record in sandbox.requests if record.path.endswith("/upload/resources")]
    assert len(uploads) == 2


@pytest.mark.parametrize(
    "make",
    [
        lambda: LitestarUpload("image/png", "cat.png", PICTURE),
        lambda: FileStorage(io.BytesIO(PICTURE), "cat.png", "picture"),
        lambda: SimpleUploadedFile("cat.png", PICTURE),
        lambda: types.SimpleNamespace(file=io.BytesIO(PICTURE), filename="cat.png", name="picture"),  # aiohttp's
    ],
    ids=["litestar", "flask", "django", "aiohttp"],
)
async def test_an_upload_of_another_framework_is_an_input(sandbox, make):
    upload = make()
    async with AsyncVideoRouter("key", base_url=sandbox.base_url, model="veo3-fast") as router:
        with contextlib.closing(getattr(upload, "file", upload)):
            asset = await router.upload(upload)
        assert asset.sha256
        await router.generate("otter", image_url=asset)


async def test_an_async_file_is_an_input(sandbox, tmp_path):
    path = tmp_path / "cat.png"
    path.write_bytes(PICTURE)
    async with AsyncVideoRouter("key", base_url=sandbox.base_url, model="veo3-fast") as router:
        async with aiofiles.open(path, "rb") as file:
            of_file = await router.upload(file)
        assert await router.upload(Place(str(path))) == of_file
