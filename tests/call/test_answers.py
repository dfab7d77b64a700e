"""The ordered rules that tell the gateway's answers apart, and the bytes that go out."""

import json

import msgspec
import pytest
from hypothesis import given, strategies as st

from videorouter.call.answers import (
    ErrorAnswer,
    Unusable,
    classify_status,
    encode_request,
    read_code,
    read_post,
    read_task,
)
from videorouter.errors import InvalidRequestError
from videorouter.models import Task, TaskStatus, VideoResult

URL = "https://resource.onerouter.pro/video/generated%2Fonerouter_0688d9c3.mp4"
SPECIFIED = {"data": [{"url": URL, "revised_prompt": "", "video_id": "video_68fc"}], "created": 1761380356}
ACCEPTED = {
    "code": 200,
    "message": "success",
    "data": {
        "task_id": "cgt-1",
        "object": "video",
        "model": "m",
        "status": "created",
        "urls": {"query": "https://video.onerouter.pro/v1/videos/tasks/cgt-1"},
    },
}


def post(body, status=200, **named):
    return read_post(status, body if isinstance(body, bytes) else json.dumps(body).encode(), **named)


def look(body, status=200):
    return read_task(status, body if isinstance(body, bytes) else json.dumps(body).encode(), task_id="t-1")


# What goes out


def test_fields_pass_untouched_and_none_is_left_out():
    body = encode_request({"prompt": "otter", "duration": "8s", "seed": None, "n": 2, "tools": [{"a": None}]})
    assert json.loads(body) == {"prompt": "otter", "duration": "8s", "n": 2, "tools": [{"a": None}]}


def test_the_free_body_wins_and_keeps_its_null():
    assert json.loads(encode_request({"a": 1, "b": 2}, {"b": None, "c": 3})) == {"a": 1, "b": None, "c": 3}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), b"bytes", {"deep": [float("nan")]}, object(), 1j])
def test_what_has_no_json_form_is_refused_before_anything_is_sent(value):
    with pytest.raises(InvalidRequestError):
        encode_request({"field": value})


# Finished


def test_the_specified_answer_is_a_result_with_its_url_untouched():
    result = post(SPECIFIED, model="veo3-fast", request_id="r-1", idempotency_key="k-1")
    assert isinstance(result, VideoResult)
    assert (result.url, result.video_id, result.created) == (URL, "video_68fc", 1761380356)
    assert (result.model, result.request_id, result.idempotency_key) == ("veo3-fast", "r-1", "k-1")
    assert result.raw == SPECIFIED


@pytest.mark.parametrize(
    "body",
    [
        {"data": [{"url": URL}]},
        {"data": [{"url": URL, "video_id": None, "surprise": {"deep": [1]}}], "created": "soon"},
        {"data": [URL]},
        {"data": [{"url": "ftp://x/y"}, {"url": URL}]},
        {"data": [{"url": URL}], "error": None, "code": 200},
        {"data": [{"url": URL}], "error": {}},
    ],
)
def test_a_finished_answer_may_lack_and_add_fields(body):
    assert post(body).url == URL


@pytest.mark.parametrize(
    "body",
    [
        {"data": "AAAA", "mime_type": "video/mp4", "video_id": "v"},
        {"b64_json": "AAAA"},
        {"data": [{"b64_json": "data:video/mp4;base64,AAAA"}]},
    ],
)
def test_bytes_inside_the_answer_are_a_video(body):
    video = post(body).video
    assert (video.url, video.data, video.mime_type) == (None, b"\0\0\0", "video/mp4")


# Accepted


def test_an_accepted_task_has_its_id_and_the_gateways_word():
    task = post(ACCEPTED, model="veo", request_id="r-1", idempotency_key="k-1")
    assert isinstance(task, Task)
    assert (task.id, task.status, task.poll_url) == ("cgt-1", "created", ACCEPTED["data"]["urls"]["query"])
    assert (task.model, task.request_id, task.idempotency_key, task.result) == ("veo", "r-1", "k-1", None)


@pytest.mark.parametrize("body", [{"data": {"task_id": "t-1"}}, {"data": {"id": "t-1"}}, {"task_id": "t-1"}])
def test_the_smallest_forms_of_a_task_are_read(body):
    assert post(body).id == "t-1"


def test_a_number_serves_as_a_task_id():
    assert post({"data": {"id": 14}}).id == "14"


def test_a_task_that_is_final_already_carries_its_result():
    task = post({"data": {"task_id": "t-1", "status": "Completed", "outputs": [URL], "cost": {"total_cost": 0.6}}})
    assert (task.result.url, task.result.cost, task.result.task_id) == (URL, 0.6, "t-1")


# Errors


@pytest.mark.parametrize(
    ("status", "body", "effective"),
    [
        (422, {"error": {"message": "no", "type": "content_policy_violation", "param": "", "code": 422}}, 422),
        (500, b"<html>", 500),
        (404, {"data": [{"url": URL}]}, 404),
        (200, {"code": 400, "data": None, "message": "model is required"}, 400),
        (200, {"code": "429", "data": [{"url": URL}]}, 429),
        (200, {"error": {"message": "no", "code": "insufficient_quota"}}, 0),
        (200, {"error": {"message": "no", "code": 402}, "data": [{"url": URL}]}, 402),
        (200, {"error": "no"}, 0),
        (200, {"error": {"message": "no", "code": 400}}, 400),
        (200, {"error": {"message": "no"}, "code": 400}, 400),
        (200, {"error": {"message": "no", "code": 200}, "code": 429}, 429),
        (200, {"error": {"message": "no", "code": 399}, "code": 399}, 0),
        (300, {"data": [{"url": URL}]}, 300),
        (300, b"<html>", 300),
        (199, {"data": [{"url": URL}]}, 199),
    ],
)
def test_an_error_is_an_error_in_every_shape(status, body, effective):
    answer = post(body, status)
    assert isinstance(answer, ErrorAnswer)
    assert (answer.status, answer.effective) == (status, effective)


def test_an_error_answer_keeps_what_it_said():
    answer = post({"error": {"message": "bad", "type": "x", "param": "duration", "code": "invalid"}}, 400)
    assert (answer.message, answer.type, answer.param, answer.code) == ("bad", "x", "duration", "invalid")


@pytest.mark.parametrize("field", ["message", "detail", "msg", "error"])
def test_an_error_says_why_in_any_of_its_places(field):
    assert post({field: "bad"}, 400).message == "bad"


def test_what_an_error_does_not_say_in_its_object_is_read_beside_it():
    answer = post({"error": {"message": "bad"}, "type": "x", "code": "invalid"}, 400)
    assert (answer.type, answer.code) == ("x", "invalid")


@pytest.mark.parametrize("strange", ["", 0, [], [1], {"a": 1}, True, 1.5])
def test_what_an_error_says_in_no_words_is_left_out(strange):
    answer = post({"error": {"message": strange, "type": strange, "param": strange}}, 400)
    assert (answer.message, answer.type, answer.param) == ("", None, None)


@pytest.mark.parametrize("strange", [[], [1], {"a": 1}, True, 1.5])
def test_a_code_that_is_neither_number_nor_word_is_left_out(strange):
    assert post({"error": {"code": strange}}, 400).code is None


@pytest.mark.parametrize("body", [b'{"error": "no"}', b"<html>busy</html>"])
def test_an_error_answer_keeps_its_evidence(body):
    assert post(body, 500).body == body


# Nothing usable


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"data": None}, "empty"),
        ({"data": []}, "empty"),
        ({}, "empty"),
        ({"data": 5}, "unknown shape"),
        ({"data": {"task_id": "x" * 5000}}, "unknown shape"),
        ({"data": [{"url": "file:///etc/passwd"}]}, "no usable URL"),
        ([1], "not an object"),
        (b"", "not JSON (DecodeError)"),
        (b"<html>busy</html>", "not JSON (DecodeError)"),
    ],
)
def test_an_answer_that_brings_nothing_keeps_its_evidence(body, reason):
    answer = post(body)
    assert isinstance(answer, Unusable)
    assert (answer.status, answer.reason) == (200, reason)
    assert answer.body == (body if isinstance(body, bytes) else json.dumps(body).encode())


def test_a_url_that_cannot_be_taken_is_named():
    assert post({"data": [{"url": "javascript:alert(1)"}]}).url == "javascript:alert(1)"


# Tasks


@pytest.mark.parametrize(
    ("word", "state"),
    [
        *[(word, "pending") for word in ("created", "in_progress", "running", "queued", " In Progress ", "in-queue")],
        *[(word, "pending") for word in ("NOT_START", "SUBMITTED", "QUEUED", "IN_PROGRESS", "UNKNOWN", "processing")],
        *[(word, "completed") for word in ("completed", "SUCCEEDED", "Success", "SUCCESS")],
        *[(word, "completed") for word in ("succeed", "finished", "done", "complete", "ready")],
        *[(word, "failed") for word in ("failed", "error", "Cancelled", "canceled", "expired", "FAILURE", "fail")],
        *[
            (word, "failed")
            for word in ("rejected", "moderated", "timeout", "timed_out", "Timed Out", "content_filter")
        ],
        *[(word, "failed") for word in ("blocked", "aborted")],
        *[(word, "unknown") for word in ("Moon", "", None)],
    ],
)
def test_a_state_in_any_letters_is_known_and_a_strange_one_is_pending(word, state):
    assert classify_status(word) == state
    status = look({"data": {"status": word, "progress": "37%"}})
    if state == "completed":
        assert isinstance(status, Unusable)
    else:
        assert status.state == state.replace("unknown", "pending")


@pytest.mark.parametrize("word", ["Moon", None, "42%"])
def test_a_url_beside_a_word_that_nobody_knows_is_the_result(word):
    status = look({"data": {"status": word, "outputs": [URL]}})
    assert (status.state, status.status, status.result.url) == ("completed", word, URL)
    task = post({"data": {"task_id": "t-1", "status": word, "urls": {"video": URL}}})
    assert (task.status, task.result.url) == (word, URL)


@pytest.mark.parametrize("word", ["running", "SUBMITTED", "queued"])
def test_a_url_beside_a_pending_word_is_a_candidate(word):
    status = look({"data": {"status": word, "outputs": [URL]}})
    assert (status.state, status.result, status.candidate_.url) == ("pending", None, URL)
    assert post({"data": {"task_id": "t-1", "status": word, "urls": {"video": URL}}}).result is None
    assert look({"status": word, "data": {"video_url": URL}}).state == "pending"


@pytest.mark.parametrize("word", ["completed", "Moon", "running"])
def test_a_url_that_the_request_has_sent_is_no_result(word):
    request = json.dumps({"prompt": "see https://x.example/", "video_urls": ["https://x.example/in.mp4"]}).encode()

    def read(*urls):
        body = json.dumps({"data": {"status": word, "urls": {"video": urls[0]}, "outputs": urls[1:]}}).encode()
        return read_task(200, body, task_id="t-1", request=request)

    nothing = read("https://x.example/in.mp4")
    assert isinstance(nothing, Unusable) if word == "completed" else nothing.candidate_ is None
    found = read("https://x.example/in.mp4", URL)
    assert (found.result or found.candidate_).url == URL
    body = json.dumps({"data": {"task_id": "t-1", "status": word, "video_url": "https://x.example/in.mp4"}}).encode()
    assert read_post(200, body, request=request).result is None
    listed = json.dumps({"data": [{"url": "https://x.example/in.mp4"}], "status": word}).encode()
    found = read_task(200, listed, task_id="t-1", request=request)
    assert isinstance(found, Unusable) if word == "completed" else found.result is None


@pytest.mark.parametrize(
    "data",
    [
        {"urls": {"video": URL}},
        {"video_url": URL},
        {"outputs": [URL]},
        {"outputs": [{"url": URL}]},
        {"output": URL},
        {"urls": {"query": "https://x.example/q"}, "output": {"url": URL}},
    ],
)
def test_a_completed_task_brings_its_video_wherever_it_stands(data):
    status = look({"data": {"status": "completed", **data}})
    assert isinstance(status, TaskStatus)
    assert (status.state, status.result.url) == ("completed", URL)


def test_the_places_are_read_in_their_order():
    data = {"status": "completed", "urls": {"video": f"{URL}?1"}, "video_url": f"{URL}?2", "outputs": [f"{URL}?3"]}
    assert look({"data": data, "video_url": f"{URL}?4"}).result.url == f"{URL}?1"


def test_completed_without_a_url_is_no_endless_poll():
    assert isinstance(look({"data": {"status": "completed", "urls": {"query": URL}}}), Unusable)


def test_a_failed_task_says_why_even_with_an_error_object():
    status = look({"data": {"status": "failed", "fail_reason": "upstream error"}, "code": 500})
    assert (status.state, status.fail_reason) == ("failed", "upstream error")


@pytest.mark.parametrize(
    ("status", "body", "effective"),
    [
        (404, {"error": {"message": "no such task"}}, 404),
        (401, {"message": "no"}, 401),
        (500, b"<html>", 500),
        (300, b"", 300),
        (300, {"data": {"status": "failed"}}, 300),
        (404, {"data": {"status": "failed"}}, 404),
        (404, [1], 404),
        (200, {"code": 401, "data": None}, 401),
        (200, {"error": "no", "data": {"status": "completed", "outputs": [URL]}}, 0),
    ],
)
def test_a_look_that_brings_an_error_says_nothing_about_the_task(status, body, effective):
    answer = look(body, status)
    assert isinstance(answer, ErrorAnswer)
    assert (answer.status, answer.effective) == (status, effective)
    assert answer.body == (body if isinstance(body, bytes) else json.dumps(body).encode())


@pytest.mark.parametrize(
    ("body", "reason", "url"),
    [
        (b"<html>busy</html>", "not JSON (DecodeError)", None),
        ([1], "not an object", None),
        ({}, "empty", None),
        ({"data": {"status": "completed", "outputs": ["file:///x"]}}, "completed without a usable URL", "file:///x"),
    ],
)
def test_a_look_that_brings_nothing_keeps_its_evidence(body, reason, url):
    answer = look(body, 200)
    assert isinstance(answer, Unusable)
    assert (answer.status, answer.reason, answer.url) == (200, reason, url)
    assert answer.body == (body if isinstance(body, bytes) else json.dumps(body).encode())


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"data": {"status": "Completed", "urls": {"video": URL}, "cost": 0.5}, "created": 7}, "Completed"),
        ({"status": "success", "video_url": URL, "cost": 0.5, "created": 7}, "success"),
        ({"data": [{"url": URL}], "cost": 0.5, "created": 7}, None),
        ({"data": [{"url": URL}], "status": "completed", "cost": 0.5, "created": 7}, "completed"),
    ],
)
def test_a_completed_look_brings_all_that_it_says(body, word):
    raw = json.dumps(body).encode()
    found = read_task(200, raw, task_id="t-1", model="veo")
    assert (found.task_id, found.state, found.status, found.cost) == ("t-1", "completed", word, 0.5)
    assert found.raw == found.result.raw == body
    result = found.result
    assert (result.url, result.task_id, result.model, result.cost, result.created) == (URL, "t-1", "veo", 0.5, 7)


@pytest.mark.parametrize(
    ("body", "state", "word"),
    [
        ({"data": {"status": "running", "outputs": [URL], "cost": 0.5}}, "pending", "running"),
        ({"data": [{"url": URL}], "status": "running", "cost": 0.5}, "pending", "running"),
        ({"data": {"status": "failed", "cost": 0.5}}, "failed", "failed"),
    ],
)
def test_a_look_at_a_task_without_a_result_says_how_it_stands(body, state, word):
    found = look(body)
    assert (found.task_id, found.state, found.status, found.cost, found.result) == ("t-1", state, word, 0.5, None)
    assert found.raw == body


@pytest.mark.parametrize(
    ("cost", "dollars"), [({"total_cost": 0.6111}, 0.6111), (0.4, 0.4), (None, None), (-1, None), (1e308, None)]
)
def test_the_cost_is_read_where_it_makes_sense(cost, dollars):
    assert look({"data": {"status": "completed", "outputs": [URL], "cost": cost}}).cost == dollars


# Codes, anything


@pytest.mark.parametrize(("code", "number"), [(400, 400), ("429", 429), (400.0, 400), (True, None), ("x", None)])
def test_a_code_is_a_number_when_it_reads_as_one(code, number):
    assert read_code(code) == number


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(
        ["data", "error", "code", "url", "task_id", "id", "status", "urls", "outputs", "message", "video", "cost"]
    ), inner, max_size=5),
    max_leaves=20,
)  # fmt: skip


@given(JSON | st.binary(max_size=200), st.sampled_from([200, 201, 400, 422, 500]))
def test_no_answer_makes_the_rules_stumble(document, status):
    body = document if isinstance(document, bytes) else msgspec.json.encode(document)
    assert isinstance(read_post(status, body), VideoResult | Task | ErrorAnswer | Unusable)
    assert isinstance(read_task(status, body, task_id="t"), TaskStatus | ErrorAnswer | Unusable)
