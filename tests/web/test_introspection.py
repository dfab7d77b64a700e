"""What pydantic, Sphinx and mkdocstrings read of the public names."""

from __future__ import annotations

import inspect
import io
import pathlib
import subprocess
import sys
from decimal import Decimal

import httpx
import numpy as np
import pydantic
import pytest
from calling import calling
from pydantic import BaseModel, TypeAdapter, ValidationError, validate_call
from servers import answer

from videorouter import AsyncVideoRouter, Balance, InDoubt, RateLimitError, Task, Video, VideoResult, VideoRouter
from videorouter.models import Input

MODULES = [
    "videorouter.client",
    "videorouter.errors",
    "videorouter.events",
    "videorouter.integrations.notebook",
    "videorouter.integrations.otel",
    "videorouter.models",
    "videorouter.sandbox",
    "videorouter.sync",
    "videorouter.testing",
]
VERBS = [
    getattr(client, name)
    for client in (AsyncVideoRouter, VideoRouter)
    for name, _ in inspect.getmembers(client, inspect.isfunction)
    if not name.startswith("_")
]
PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(64)


pytestmark = pytest.mark.anyio


# pydantic


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.__qualname__)
def test_each_verb_can_be_validated(verb):
    assert validate_call(verb)


async def test_what_is_validated_arrives_as_it_was_passed():
    async with calling(answer(), model="veo") as (gateway, router):
        generate = validate_call(router.generate)
        with pytest.raises(ValidationError):
            await generate(7)
        with pytest.raises(ValidationError):
            await generate("otter", models=3)
        assert gateway.posts == []
        result = await generate(
            "otter", seed=np.int64(7), duration=Decimal(8), timeout=30, image_url=httpx.URL("https://a.b/c")
        )
        assert isinstance(result, VideoResult)
        assert b'"seed":7' in gateway.posts[0].body
        assert b'"https://a.b/c"' in gateway.posts[0].body


async def test_a_validated_batch_reads_its_entries_no_earlier_than_a_batch_does():
    async with calling(answer(), model="veo") as (gateway, router):
        with pytest.raises(Exception, match="dict"):
            [item async for item in validate_call(router.generate_many)({"prompt": "otter"})]
        items = [
            item
            async for item in validate_call(router.generate_many)(
                ["otter"], retry="failed", max_cost=Decimal(1), price=0.5
            )
        ]
        assert [item.state for item in items] == ["done"]
        assert len(gateway.posts) == 1


@pytest.mark.parametrize(
    "value",
    [
        "https://a.b/c",
        pathlib.Path("cat.png"),
        PICTURE,
        bytearray(PICTURE),
        io.BytesIO(PICTURE),
        httpx.URL("https://a.b"),
        Video(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_input_is_handed_on_as_it_is(value):
    assert TypeAdapter(Input).validate_python(value) is value


def test_a_model_of_pydantic_holds_values_and_errors():
    class Job(BaseModel):
        task: Task
        results: list[VideoResult] = []
        balance: Balance | None = None
        doubt: InDoubt | None = None
        error: RateLimitError | None = None
        picture: Input | None = None

    error = RateLimitError("Wait.", status=429)
    job = Job(task=Task(id="t-1"), results=[VideoResult(videos=(Video(url="https://a.b/c.mp4"),))], error=error)
    assert job.error is error
    stored = job.model_dump_json(exclude={"error"})
    assert Job.model_validate_json(stored) == job.model_copy(update={"error": None})
    with pytest.raises(ValidationError):
        Job(task="t-1", error=ValueError("no"))


def test_the_schema_of_what_takes_an_input_can_be_written():
    class Request(BaseModel):
        picture: Input

    assert Request.model_json_schema()["required"] == ["picture"]
    assert pydantic.VERSION.startswith("2")


# Makers of documentation


def run(*command, folder):
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-m", *command],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


def test_sphinx_builds_the_public_names_without_a_warning(tmp_path):
    (tmp_path / "conf.py").write_text(
        'extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon"]\nautodoc_typehints = "both"\n'
    )
    pages = [f".. automodule:: {name}\n   :members:\n" for name in MODULES]
    (tmp_path / "index.rst").write_text("Names\n=====\n\n" + "\n".join(pages))
    ended = run("sphinx", "-W", "-q", "-b", "text", ".", "out", folder=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    text = (tmp_path / "out" / "index.txt").read_text()
    for client in ("client.AsyncVideoRouter", "sync.VideoRouter"):
        assert client in text
    assert text.count("Make a video and wait until it is finished.") == 2


def test_mkdocstrings_builds_the_public_names_without_a_warning(tmp_path):
    (tmp_path / "theme").mkdir()
    (tmp_path / "theme" / "main.html").write_text("{{ page.content }}")
    (tmp_path / "mkdocs.yml").write_text(
        "site_name: names\n"
        "theme: {name: null, custom_dir: theme}\n"
        "plugins: [{mkdocstrings: {handlers: {python: {options: {docstring_style: google}}}}}]\n"
    )
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("# Names\n\n" + "\n".join(f"::: {name}\n" for name in MODULES))
    ended = run("mkdocs", "build", "--strict", "-d", "out", folder=tmp_path)
    assert ended.returncode == 0, ended.stderr
    page = (tmp_path / "out" / "index.html").read_text()
    for name in ("videorouter.client.AsyncVideoRouter.generate", "videorouter.sync.VideoRouter.generate"):
        assert f'id="{name}"' in page
