"""A call's arguments, checked and frozen before anything is sent."""

import json

import pytest
from hypothesis import given, strategies as st

from videorouter.call.requests import (
    OPTIONS,
    build_submission,
    differ_in_family,
    find_family,
    find_near_miss,
    find_notes,
    find_task_id,
    find_video_id,
)
from videorouter.config import NO_DEADLINE
from videorouter.errors import InvalidRequestError
from videorouter.models import BatchItem, Task, TaskStatus, Video, VideoResult

RESULT = VideoResult(videos=(Video(url="https://x.example/v.mp4", video_id="v-1"),))


def build(verb="generate", prompt="otter", video=None, **options):
    options = {"model": "veo", **options}
    return build_submission(
        verb, prompt, options, video=video, model="any/thing at all", timeout=5.0, max_retries=4, idempotency_key="k-1"
    )


def test_a_generation_is_what_the_specification_shows():
    submission = build(duration="8s", seed=None)
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
    assert build(model=None).model == "any/thing at all"


def test_the_clients_own_options_hold_where_the_call_has_none():
    of_the_client, of_the_call = build(), build(timeout=7, max_retries=0, idempotency_key="k-2", output_format="b64")
    assert (of_the_client.timeout, of_the_client.max_retries, of_the_client.idempotency_key) == (5.0, 4, "k-1")
    assert (of_the_call.timeout, of_the_call.max_retries, of_the_call.idempotency_key) == (7.0, 0, "k-2")
    assert json.loads(of_the_call.body)["output_format"] == "b64"
    assert build(timeout=None).timeout == NO_DEADLINE


def test_a_call_without_a_model_says_so():
    with pytest.raises(InvalidRequestError, match="No model"):
        build_submission("generate", "otter", {}, timeout=5.0, max_retries=4, idempotency_key="k-1")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prompt": ""}, "prompt is empty"),
        ({"prompt": " \n"}, "prompt is empty"),
        ({"prompt": 5}, "prompt must be text"),
        ({"prompt": None}, "There is no prompt"),
        ({"model": " "}, "No model"),
        ({"models": ["veo", "sora-2"]}, "Only generate takes models"),
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


# Near misses


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("timout", "timeout"),
        ("tiemout", "timeout"),
        ("time_out", "timeout"),
        ("Timeout", "timeout"),
        ("max_retry", None),
        ("max_retrie", "max_retries"),
        ("extra_header", "extra_headers"),
        ("extra_bodyy", "extra_body"),
        ("idempotencykey", "idempotency_key"),
        ("fallback_on_failures", "fallback_on_failure"),
        ("modles", "models"),
        ("timeout", None),
        ("model", None),
        ("duratoin", None),
        ("image_ur", None),
        ("n", None),
        ("m", None),
        ("", None),
    ],
)
def test_a_name_that_differs_by_one_edit_from_an_option_is_a_near_miss(name, near):
    assert find_near_miss(name) == near


@given(st.sampled_from(OPTIONS), st.data())
def test_each_single_edit_of_each_option_is_found(option, data):
    place = data.draw(st.integers(0, len(option) - 1))
    letter = data.draw(st.sampled_from("abcxyz_"))
    edits = [option[:place] + option[place + 1 :], option[:place] + letter + option[place:]]
    edits += [
        option[:place] + letter + option[place + 1 :],
        option[:place] + option[place : place + 2][::-1] + option[place + 2 :],
    ]
    for name in edits:
        assert find_near_miss(name) == (None if name in {*OPTIONS, "model"} else option)


@given(st.text("abc_", max_size=12))
def test_no_name_is_a_near_miss_that_needs_two_edits(name):
    assert find_near_miss(name) is None


def test_a_field_of_the_gateway_is_never_a_near_miss():
    assert json.loads(build(model="veo", mode="fast", duratoin="8s", n=2).body)["duratoin"] == "8s"


def test_extra_body_is_the_way_past_a_near_miss():
    with pytest.raises(InvalidRequestError, match=r"Did you mean timeout=\?"):
        build(timout=3)
    assert json.loads(build(extra_body={"timout": 3}).body)["timout"] == 3


# What is noted before anything is paid


@pytest.mark.parametrize(
    ("model", "duration", "warns"),
    [
        ("google/veo3.1/text-to-video", "8s", False),
        ("google/veo3.1/text-to-video", 8, True),
        ("google/veo3.1/text-to-video", "8", True),
        ("bytedance/seedance-2.0/image-to-video", "4", False),
        ("bytedance/seedance-2.0/image-to-video", "auto", False),
        ("bytedance/seedance-2.0/image-to-video", "16", True),
        ("bytedance/seedance-2.0/image-to-video", 5, True),
        ("veo3-fast", 8, False),
        ("some/new-model", object(), False),
        ("google/veo3.1/text-to-video", None, False),
    ],
)
def test_a_duration_that_a_model_is_known_to_ignore_is_noted(model, duration, warns):
    assert bool(find_notes(model, {"duration": duration})) is warns


@pytest.mark.parametrize(
    ("model", "family"),
    [("sora-2-video-to-video", "sora"), ("google/veo3.1/text-to-video", "veo"), ("unheard-of-9", None), (None, None)],
)
def test_a_family_is_read_from_either_style_of_id(model, family):
    assert find_family(model) == family


def test_families_differ_only_when_both_are_known():
    assert differ_in_family("veo3-fast", "sora-2-video-to-video")
    assert not differ_in_family("sora-2", "sora-2-video-to-video")
    assert not differ_in_family("veo3-fast", "unheard-of-9")
