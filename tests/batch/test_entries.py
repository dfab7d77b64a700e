"""What a batch's input may hold."""

from __future__ import annotations

import dataclasses

import msgspec
import pytest

from videorouter.batch.entries import find_id, name_refused, read_entry
from videorouter.errors import InvalidRequestError
from videorouter.models import Video


def test_a_prompt_is_an_entry():
    entry = read_entry("An otter")
    assert (entry.prompt, entry.verb, entry.options, entry.id) == ("An otter", "generate", None, None)


def test_a_dict_keeps_gateway_fields_untouched():
    entry = read_entry({"id": 7, "prompt": "An otter", "model": "m", "duration": "8s", "seed": None})
    assert entry.id == "7"
    assert entry.options == {"model": "m", "duration": "8s", "seed": None}


def test_structs_and_dataclasses_give_their_filled_fields():
    class Row(msgspec.Struct):
        prompt: str
        seed: int | None = None

    @dataclasses.dataclass
    class Line:
        prompt: str
        model: str = "m"

    assert read_entry(Row(prompt="a")).options is None
    assert read_entry(Line(prompt="a")).options == {"model": "m"}


def test_an_edit_is_a_pair_or_a_dict():
    video = Video(video_id="v-1")
    assert read_entry((video, "Snow"), "edit").video is video
    assert read_entry({"video_id": "v-1", "prompt": "Snow"}, "edit").video == "v-1"
    assert read_entry({"video_id": "v-1", "prompt": "Snow"}).verb == "edit"


@pytest.mark.parametrize("empty", [{"video": None}, {"edit_of": None}, {"video": None, "edit_of": None, "then": None}])
def test_what_is_null_is_as_good_as_absent(empty):
    entry = read_entry({**empty, "video_id": "v-1", "prompt": "Snow"})
    assert (entry.verb, entry.video, entry.parent) == ("edit", "v-1", None)
    assert read_entry({**empty, "video_id": None, "prompt": "An otter"}).verb == "generate"


def test_a_chain_is_edit_of_or_then():
    assert read_entry({"id": "b", "edit_of": "a", "prompt": "Snow"}).parent == "a"
    entry = read_entry({"prompt": "An otter", "then": ["Snow", {"prompt": "Rain", "model": "m"}]})
    assert [(step.verb, step.prompt, step.options) for step in entry.then] == [
        ("edit", "Snow", None),
        ("edit", "Rain", {"model": "m"}),
    ]


@pytest.mark.parametrize(
    ("raw", "verb"),
    [
        (7, "generate"),
        (("v", "p"), "generate"),
        ("An otter", "edit"),
        ({"prompt": "x"}, "edit"),
        ({"prompt": "x", "edit_of": "a", "video": "v"}, "generate"),
        ({"prompt": "x", "id": "a\nb"}, "generate"),
        ({"prompt": "x", "id": "y" * 201}, "generate"),
        ({"prompt": "x", "id": name_refused(7)}, "generate"),
        ({"prompt": "x", "id": name_refused(7, 2)}, "generate"),
        ({"prompt": "x", "then": [{"prompt": "y", "video": "v"}]}, "generate"),
        ({"prompt": "x", "then": [3]}, "generate"),
        ({3: "x"}, "generate"),
        ({"prompt": "x", "meta": {"note": object()}}, "generate"),
        ({"prompt": "x", "then": [{"prompt": "y", "meta": {1j}}]}, "generate"),
    ],
)
def test_what_cannot_be_read_is_an_invalid_request(raw, verb):
    with pytest.raises(InvalidRequestError):
        read_entry(raw, verb)


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        ({"id": "a", "then": 3}, "a"),
        ({"id": 7, "then": 3}, "7"),
        ({"id": "a\nb"}, None),
        ({"id": name_refused(7)}, None),
        ({"id": ""}, None),
        ({}, None),
        (("a", "b"), None),
        (7, None),
    ],
)
def test_of_what_cannot_be_read_an_id_that_can_be_used_is_kept(raw, found):
    assert find_id(raw) == found


def test_meta_is_the_callers_own_and_no_field():
    entry = read_entry(
        {"prompt": "x", "meta": {"row": 7}, "seed": 1, "then": ["y", {"prompt": "z", "meta": {"row": 8}}]}
    )
    assert entry.meta == {"row": 7}
    assert entry.options == {"seed": 1}
    assert [(step.meta, step.options) for step in entry.then] == [({"row": 7}, None), ({"row": 8}, None)]
