"""Values that users hold: frozen, encodable, and what stands beside them is never encoded."""

import copy
import json
import pickle

import msgspec
import pytest

from videorouter.errors import OutcomeUnknownError
from videorouter.models import BatchItem, Task, Video, VideoResult

VIDEO = Video(url="https://x.example/<v>.mp4", video_id="v-1", revised_prompt='<script>"&')
RESULT = VideoResult(videos=(VIDEO,), created=1761380356, cost=0.4).with_extras(raw_=b'{"data": [], "extra": 1}')


def test_a_value_cannot_be_changed():
    with pytest.raises(AttributeError):
        VIDEO.url = "https://elsewhere.example"


def test_a_result_speaks_for_its_first_video():
    assert (RESULT.video, RESULT.url, RESULT.video_id) == (VIDEO, VIDEO.url, "v-1")


@pytest.mark.parametrize("encode", [lambda value: json.dumps(value.to_dict()), msgspec.json.encode])
def test_the_raw_answer_is_reachable_and_never_encoded(encode):
    assert RESULT.raw == {"data": [], "extra": 1}
    assert "extra" not in str(encode(RESULT))
    assert json.loads(encode(RESULT))["videos"][0]["video_id"] == "v-1"


@pytest.mark.parametrize("through", [lambda value: pickle.loads(pickle.dumps(value)), copy.copy, copy.deepcopy])
def test_what_stands_beside_travels_with_pickles_and_copies(through):
    again = through(RESULT)
    assert again == RESULT
    assert again.raw == RESULT.raw


@pytest.mark.parametrize("raw", [b"not json", b"[" * 100_000])
def test_a_raw_answer_that_is_no_json_is_text(raw):
    assert VideoResult(videos=(VIDEO,)).with_extras(raw_=raw).raw == raw.decode()


def test_a_notebook_gets_a_player_and_no_markup_of_the_gateway():
    page = RESULT._repr_html_()
    assert "<video" in page
    assert "<script>" not in page
    assert "<v>" not in page


def test_a_task_is_done_when_its_result_is_here():
    assert not Task(id="t-1").done
    assert Task(id=None, result=RESULT).done


def test_a_copy_with_other_fields_keeps_what_is_not_encoded():
    cheaper = RESULT.replace(cost=0.1)
    assert (cheaper.cost, RESULT.cost) == (0.1, 0.4)
    assert cheaper.raw == RESULT.raw
    cheaper.with_extras(raw_=b"{}")
    assert (cheaper.raw, RESULT.raw) == ({}, {"data": [], "extra": 1})


def test_an_items_error_stands_beside_it():
    item = BatchItem(index=0, id="a", state="in_doubt").with_extras(error_=OutcomeUnknownError("lost"))
    assert isinstance(pickle.loads(pickle.dumps(item)).error, OutcomeUnknownError)
    assert "lost" not in json.dumps(item.to_dict())
    assert not item.ok


def test_a_saved_item_has_a_path():
    assert BatchItem(index=0, id="a", state="done", files=("clips/a.mp4",)).path.name == "a.mp4"
    assert BatchItem(index=0, id="a", state="done").path is None


# A task is stored and waited for whole.


@pytest.mark.parametrize(
    "task",
    [
        Task(id="t-1", model="veo", poll_url="https://elsewhere.example/v1/videos/tasks/t-1", idempotency_key="k"),
        Task(id=None, result=VideoResult(videos=(Video(url="https://cdn.example/v.mp4", video_id="v"),), cost=0.5)),
        Task(
            id=None, result=VideoResult(videos=(Video().with_extras(data_=b"\0film"), Video(url="https://a.example/")))
        ),
    ],
    ids=["accepted", "held", "inline"],
)
def test_a_stored_task_comes_back_whole(task):
    again = Task.from_dict(json.loads(json.dumps(task.to_dict())))
    assert again == task
    if task.result is not None:
        assert [video.data for video in again.result.videos] == [video.data for video in task.result.videos]


@pytest.mark.parametrize(
    "stored",
    [
        {},
        {"id": 7},
        [],
        None,
        {"id": None, "result": {"videos": [{"data": "no base64!"}]}},
        {"id": None, "result": {"videos": [7]}},
        {"id": None, "result": 7},
    ],
)
def test_what_is_no_stored_task_is_refused(stored):
    with pytest.raises(ValueError, match="not a stored task"):
        Task.from_dict(stored)
