"""What an editor completes by jedi, without running anything."""

from __future__ import annotations

import inspect
from pathlib import Path

import jedi
import pytest

import videorouter

PROJECT = jedi.Project("/", added_sys_path=[str(Path(videorouter.__file__).parent.parent)], smart_sys_path=False)


def complete(code: str) -> set[str]:
    return {found.name for found in jedi.Script(code, project=PROJECT).complete()}


def test_each_public_name_is_completed():
    assert complete("import videorouter\nvideorouter.") >= set(videorouter.__all__)
    assert "AsyncVideoRouter" in complete("from videorouter import Async")


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("from videorouter import VideoRouter\nVideoRouter().gen", {"generate", "generate_many"}),
        ("from videorouter import VideoRouter\nVideoRouter().generate('x').vid", {"video", "video_id", "videos"}),
        ("from videorouter import VideoResult\nVideoResult().co", {"cost"}),
        ("from videorouter import APIStatusError\nAPIStatusError('x').st", {"status"}),
    ],
)
def test_what_clients_results_and_errors_have_is_completed(code, names):
    assert names <= complete(code)


@pytest.mark.parametrize("verb", ["generate", "edit", "save", "generate_many"])
def test_what_a_verb_takes_is_completed(verb):
    code = f"from videorouter import AsyncVideoRouter\nAsyncVideoRouter().{verb}("
    taken = set(inspect.signature(getattr(videorouter.AsyncVideoRouter, verb)).parameters)
    assert {name.removesuffix("=") for name in complete(code)} >= taken - {"self", "fields"}


@pytest.mark.parametrize("client", [videorouter.AsyncVideoRouter, videorouter.VideoRouter])
@pytest.mark.parametrize(
    "verb", ["generate", "edit", "submit", "submit_edit", "save", "download", "generate_many", "wait"]
)
def test_a_notebook_completes_what_a_verb_of_its_client_takes(client, verb):
    found = jedi.Interpreter(f"router.{verb}(", [{"router": client("key")}]).complete()
    taken = set(inspect.signature(getattr(client, verb)).parameters)
    assert {completion.name.removesuffix("=") for completion in found} >= taken - {"self", "fields", "options"}
