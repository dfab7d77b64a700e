"""A call's arguments, checked and frozen before anything is sent."""

import json

import pytest
from hypothesis import given, strategies as st

from videorouter.call.requests import build_submission, cut_stencil, find_task_id, find_video_id
from videorouter.errors import InvalidRequestError
from videorouter.models import BatchItem, Task, TaskStatus, Video, VideoResult

RESULT = VideoResult(videos=(Video(url="https://x.example/v.mp4", video_id="v-1"),))


def build(verb="generate", **changes):
    given = {
        "prompt": "otter",
        "model": "veo",
        "fields": {},
        "idempotency_key": "k-1",
        "timeout": 5.0,
        "max_retries": 4,
        **changes,
    }
    return build_submission(verb, **given)


def test_a_generation_is_what_the_specification_shows():
    submission = build(fields={"duration": "8s", "seed": None})
    assert submission.path == "/videos/generations"
    assert json.loads(submission.body) == {
        "model": "veo",
        "prompt": "otter",
        "output_format": "url",
        "duration": "8s",
    }


def test_an_edit_names_its_video():
    submission = build("edit", video=RESULT)
    assert submission.path == "/videos/edits"
    assert json.loads(submission.body)["video_id"] == "v-1"


def test_the_default_model_stands_in_and_is_never_checked_against_a_list():
    assert build(model=None, default_model="any/thing at all").model == "any/thing at all"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prompt": ""}, "prompt is empty"),
        ({"prompt": " \n"}, "prompt is empty"),
        ({"prompt": 5}, "prompt must be text"),
        ({"prompt": None}, "There is no prompt"),
        ({"model": None}, "No model"),
        ({"model": " "}, "No model"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": float("nan")}, "timeout"),
        ({"max_retries": -1}, "max_retries"),
        ({"max_retries": True}, "max_retries"),
        ({"idempotency_key": "with space"}, "idempotency_key"),
        ({"idempotency_key": "x" * 256}, "idempotency_key"),
        ({"extra_body": [1]}, "extra_body"),
        ({"extra_headers": {"Authorization": "x"}}, "api_key"),
        ({"extra_headers": {"X": "a\r\nb"}}, "extra_headers"),
    ],
)
def test_an_argument_that_cannot_be_used_says_which_and_why(changes, words):
    with pytest.raises(InvalidRequestError, match=words):
        build(**changes)


@pytest.mark.parametrize(
    "video",
    [RESULT, RESULT.video, Task(id="t", result=RESULT), BatchItem(index=0, id="a", state="done", result=RESULT), "v-1"],
)
def test_a_video_id_is_found_in_whatever_holds_one(video):
    assert find_video_id(video) == "v-1"


@pytest.mark.parametrize("video", [None, "", 5, "https://x.example/v.mp4", Video(url="https://x.example/v.mp4")])
def test_what_cannot_be_edited_is_refused(video):
    with pytest.raises(InvalidRequestError):
        find_video_id(video)


@pytest.mark.parametrize("task", [Task(id="t-1"), TaskStatus(task_id="t-1", state="pending"), "t-1"])
def test_a_task_id_is_found_in_whatever_holds_one(task):
    assert find_task_id(task) == "t-1"


@pytest.mark.parametrize("task", [None, "", Task(id=None), "t-\ud800"])
def test_what_is_no_task_is_refused(task):
    with pytest.raises(InvalidRequestError):
        find_task_id(task)


COMMON = {"fields": {"duration": "8s", "seed": 7}, "extra_body": {"tools": [None, "ß"]}, "extra_headers": {"x-a": "b"}}


@given(st.text(min_size=1).filter(lambda text: text.strip()))
def test_a_stencil_gives_the_very_request_that_would_have_been_built(prompt):
    stencil = cut_stencil(build(prompt="a-random-one", **COMMON))
    assert stencil.fill(prompt, "k-2") == build(prompt=prompt, idempotency_key="k-2", **COMMON)


@pytest.mark.parametrize(
    "prompt", ["", " \n", None, 7, ["otter"], "lone \ud800 surrogate", type("Text", (str,), {})("otter")]
)
def test_a_stencil_leaves_a_prompt_that_needs_a_look_to_the_builder(prompt):
    assert cut_stencil(build(prompt="a-random-one")).fill(prompt, "k-2") is None


@pytest.mark.parametrize("extra", [{"prompt": "another"}, {"note": "a-random-one"}])
def test_no_stencil_is_cut_where_the_prompt_does_not_stand_in_the_body_just_once(extra):
    assert cut_stencil(build(prompt="a-random-one", extra_body=extra)) is None
