"""Every fault strikes over a real socket, where it was ordered, and charges what it says."""

import email.utils
import io
import math

import anyio
import httpx
import pytest

from videorouter.sandbox import Fault, Faults, Sandbox
from videorouter.sandbox.faults import KINDS, make_fault, parse_fault

pytestmark = pytest.mark.anyio
BODY = {"model": "veo3-fast", "prompt": "otter"}


async def ask(http, sandbox, words=None, **fields):
    headers = {} if words is None else {"X-Sandbox-Fault": words}
    return await http.post(f"{sandbox.base_url}/videos/generations", json={**BODY, **fields}, headers=headers)


async def raw(sandbox, *, body=b'{"model":"m","prompt":"otter"}', words="", length=None):
    """Send one POST over a bare socket and return every byte that came, and how it ended."""
    head = (
        f"POST /v1/videos/generations HTTP/1.1\r\nHost: localhost\r\nAuthorization: k\r\n"
        f"Content-Length: {len(body) if length is None else length}\r\n"
        + (f"X-Sandbox-Fault: {words}\r\n" if words else "")
        + "\r\n"
    )
    port = int(sandbox.url.rsplit(":", 1)[1])
    got = b""
    async with await anyio.connect_tcp("127.0.0.1", port) as stream:
        try:
            await stream.send(head.encode() + body)
            while True:
                got += await stream.receive()
        except anyio.EndOfStream:
            return got, "end"
        except anyio.BrokenResourceError:
            return got, "reset"


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 408, 409, 422, 429, 500, 502, 503, 504, 524])
async def test_any_status_comes_in_the_gateways_shape(http, status):
    async with Sandbox() as sandbox:
        answer = await ask(http, sandbox, f"status={status}; type=odd; message=so it is")
        assert answer.status_code == status
        error = answer.json()["error"]
        assert (error["code"], error["type"], error["param"]) == (status, "odd", "")
        assert error["message"] == f"so it is (request id: {answer.headers['x-infron-request-id']})"
        assert await sandbox.charges() == ({"otter": 1} if status in {504, 524} else {})


async def test_retry_after_comes_in_both_forms(http):
    async with Sandbox() as sandbox:
        seconds = await ask(http, sandbox, "status=503; retry-after=2")
        assert seconds.headers["retry-after"] == "2"
        assert (await ask(http, sandbox, "status=429; retry-after=0.25")).headers["retry-after"] == "0.25"
        date = await ask(http, sandbox, "status=429; retry-after=7; retry-after-form=date")
        later = email.utils.parsedate_to_datetime(date.headers["retry-after"])
        now = email.utils.parsedate_to_datetime(date.headers["date"])
        assert (later - now).total_seconds() == 7
        assert await sandbox.charges() == {}


@pytest.mark.parametrize(("charged", "count"), [("yes", {"otter": 1}), ("no", {})])
@pytest.mark.parametrize("words", ["status=500", "reset", "close", "cut", "html", "bad-json", "empty", "error_200"])
async def test_whether_a_fault_charges_can_be_said(sandbox_words, words, charged, count):
    sandbox, send = sandbox_words
    await send(f"{words}; charged={charged}")
    assert await sandbox.charges() == count


@pytest.fixture
async def sandbox_words(http):
    async with Sandbox() as sandbox:

        async def send(words):
            try:
                return await ask(http, sandbox, words)
            except httpx.TransportError:
                return None

        yield sandbox, send


async def test_an_error_under_200_is_one_of_two_forms(http):
    async with Sandbox() as sandbox:
        code = await ask(http, sandbox, "error_200")
        assert (code.status_code, code.json()) == (200, {"code": 400, "data": None, "message": "model is required"})
        assert (await ask(http, sandbox, "error_200=500; message=boom")).json()["code"] == 500
        whole = await ask(http, sandbox, "error_200; error=object; code=insufficient_quota")
        assert whole.status_code == 200
        assert whole.json()["error"]["code"] == "insufficient_quota"


@pytest.mark.parametrize(("where", "status"), [("422", 422), ("403", 403)])
async def test_moderation_refuses_by_status_and_type(http, where, status):
    async with Sandbox() as sandbox:
        answer = await ask(http, sandbox, f"moderation={where}")
        assert answer.status_code == status
        assert answer.json()["error"]["type"] == "content_policy_violation"
        assert await sandbox.charges() == {}


async def test_moderation_refuses_under_200(http):
    async with Sandbox() as sandbox:
        answer = await ask(http, sandbox, "moderation=200")
        assert answer.status_code == 200
        assert answer.json()["code"] == 422
        assert "content_policy_violation" in answer.json()["message"]


@pytest.mark.parametrize(
    ("words", "status", "code", "message"),
    [
        ("no_credit", 403, "insufficient_user_quota", "Your current credits have been used up and we are unable to"),
        ("no_credit=403; code=403", 403, 403, "Your current credits have been used up"),
        ("no_credit=429", 429, 429, "Free model requires Team balance greater than $4.999999. (request id: "),
        ("no_credit=429; code=insufficient_quota", 429, "insufficient_quota", "Free model requires"),
        ("no_credit=402; message=Pay first", 402, 402, "Pay first (request id: "),
    ],
)
async def test_out_of_credit_is_said_in_each_form_that_was_seen(http, words, status, code, message):
    async with Sandbox() as sandbox:
        answer = await ask(http, sandbox, words)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (status, code)
        assert error["message"].startswith(message)
        assert "retry-after" not in answer.headers
        assert await sandbox.charges() == {}


async def test_the_wait_of_a_rate_limit_stands_in_the_text_only(http):
    async with Sandbox() as sandbox:
        answer = await ask(http, sandbox, "rate_limit")
        assert answer.status_code == 429
        assert "retry-after" not in answer.headers
        words = "Rate limit exceeded (5 requests per minute). Please try again after 6 seconds."
        assert answer.json()["error"]["message"].startswith(words)
        shorter = await ask(http, sandbox, "rate_limit=0.5")
        assert "after 0.5 seconds." in shorter.json()["error"]["message"]
        minutes = await ask(http, sandbox, "rate_limit; message=Please try again after 2 minutes")
        assert minutes.json()["error"]["message"].startswith("Please try again after 2 minutes (")
        assert await sandbox.charges() == {}


async def test_moderation_can_be_said_by_code_or_by_words_alone(http):
    async with Sandbox() as sandbox:
        code = await ask(http, sandbox, "moderation; type=invalid_request_error; code=content_policy_violation")
        error = code.json()["error"]
        assert (error["type"], error["code"]) == ("invalid_request_error", "content_policy_violation")
        whole = await ask(http, sandbox, "moderation=200; error=object")
        assert (whole.status_code, whole.json()["error"]["type"]) == (200, "content_policy_violation")
        assert await sandbox.charges() == {}


@pytest.mark.parametrize("word", ["SUCCESS", "succeed", "finished", "queued", "no such word"])
async def test_a_tasks_state_goes_by_another_word_and_the_rest_is_as_ever(http, word):
    async with Sandbox(mode="task") as sandbox:
        query = (await ask(http, sandbox)).json()["data"]["urls"]["query"]
        sandbox.faults.add(f"task_word={word}", path="*/tasks/*", times=1)
        called, usual = [(await http.get(query)).json()["data"] for _ in range(2)]
        assert (called.pop("status"), usual.pop("status")) == (word, "completed")
        assert called == usual
        assert await sandbox.charges() == {"otter": 1}


async def test_a_url_can_stand_beside_a_word_before_the_video_is_ready(http):
    async with Sandbox(mode="task", latency=math.inf) as sandbox:
        query = (await ask(http, sandbox, "task_word=QUEUED")).json()["data"]
        assert query["status"] == "QUEUED"
        sandbox.faults.add("task_word=queued; url=https://cdn.example/wait.mp4", path="*/tasks/*")
        state = (await http.get(query["urls"]["query"])).json()["data"]
        assert (state["status"], state["urls"]["video"]) == ("queued", "https://cdn.example/wait.mp4")
        assert "outputs" not in state


@pytest.mark.parametrize("words", ["failed_task=no GPU; word=FAILURE", "moderation=task; word=FAILURE"])
async def test_a_failure_goes_by_another_word(http, words):
    async with Sandbox(mode="task") as sandbox:
        sandbox.faults.add(words)
        posted = (await ask(http, sandbox)).json()["data"]
        assert posted["status"] == "created"
        state = (await http.get(posted["urls"]["query"])).json()["data"]
        assert state["status"] == "FAILURE"
        assert state["fail_reason"].startswith(("no GPU", "content_policy_violation"))
        assert await sandbox.charges() == {}


async def test_moderation_fails_the_task(http):
    async with Sandbox(mode="task") as sandbox:
        query = (await ask(http, sandbox, "moderation=task")).json()["data"]["urls"]["query"]
        state = (await http.get(query)).json()["data"]
        assert state["status"] == "failed"
        assert state["fail_reason"].startswith("content_policy_violation")
        assert await sandbox.charges() == {}


async def test_moderation_of_a_held_job_refuses_in_the_end(http):
    async with Sandbox() as sandbox:
        answer = await ask(http, sandbox, "moderation=task")
        assert answer.status_code == 422
        assert answer.json()["error"]["type"] == "content_policy_violation"


async def test_a_failed_task_says_why_and_costs_nothing(http):
    async with Sandbox(mode="task") as sandbox:
        query = (await ask(http, sandbox, "failed_task=no GPU")).json()["data"]["urls"]["query"]
        assert (await http.get(query)).json()["data"]["fail_reason"] == "no GPU"
        assert await sandbox.charges() == {}


async def test_a_lost_task_was_paid_for_and_is_404(http):
    async with Sandbox(mode="task") as sandbox:
        answer = await ask(http, sandbox, "lost-task")
        assert answer.status_code == 200
        assert (await http.get(answer.json()["data"]["urls"]["query"])).status_code == 404
        assert await sandbox.charges() == {"otter": 1}


async def test_a_look_at_a_task_can_fail_without_the_task_failing(http):
    async with Sandbox(mode="task") as sandbox:
        query = (await ask(http, sandbox)).json()["data"]["urls"]["query"]
        sandbox.faults.add("lost_task", path="*/tasks/*", times=1)
        sandbox.faults.add("status=502", path="*/tasks/*", times=1)
        sandbox.faults.add("failed_task", path="*/tasks/*", times=1)
        assert [(await http.get(query)).status_code for _ in range(2)] == [404, 502]
        assert (await http.get(query)).json()["data"]["status"] == "failed"
        assert (await http.get(query)).json()["data"]["status"] == "completed"


async def test_an_expired_file_is_gone_though_its_job_succeeded(http):
    async with Sandbox() as sandbox:
        answer = await ask(http, sandbox, "expired")
        assert (await http.get(answer.json()["data"][0]["url"])).status_code == 404
        sandbox.faults.add("expired=410", path="/video/*", times=1)
        url = (await ask(http, sandbox)).json()["data"][0]["url"]
        assert (await http.get(url)).status_code == 410


async def test_a_page_comes_instead_of_json(http):
    async with Sandbox() as sandbox:
        answer = await ask(http, sandbox, "html=502")
        assert answer.status_code == 502
        assert answer.headers["content-type"].startswith("text/html")
        assert answer.text.startswith("<!DOCTYPE html>")


async def test_bad_json_is_the_answer_cut_short_under_a_right_length(http):
    async with Sandbox() as sandbox:
        answer = await ask(http, sandbox, "bad_json")
        assert answer.text.startswith('{"data":[{"url"')
        with pytest.raises(ValueError, match=r"JSON|Unterminated|Expecting|delimiter"):
            answer.json()


@pytest.mark.parametrize(
    ("where", "body"),
    [
        ("list", {"data": [], "created": 0}),
        ("null", {"data": None, "created": 0}),
        ("missing", {"created": 0}),
    ],
)
async def test_an_empty_answer_has_many_forms(http, where, body):
    async with Sandbox() as sandbox:
        assert (await ask(http, sandbox, f"empty={where}")).json() == body
        assert (await ask(http, sandbox, "empty=nothing")).content == b""


async def test_a_cut_body_ends_early(http):
    async with Sandbox() as sandbox:
        got, end = await raw(sandbox, words="cut=7")
        head, _, body = got.partition(b"\r\n\r\n")
        assert (body, end) == (b'{"data"', "end")
        assert int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]) > 100
        with pytest.raises(httpx.RemoteProtocolError):
            await ask(http, sandbox, "cut")


@pytest.mark.parametrize("by", [-10, 25])
async def test_a_wrong_length_is_wrong_by_what_was_said(by):
    async with Sandbox() as sandbox:
        got, _ = await raw(sandbox, words=f"length={by}")
        head, _, body = got.partition(b"\r\n\r\n")
        assert int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]) == len(body) + by


@pytest.mark.parametrize("byte", [0, 1, 15, 120])
@pytest.mark.parametrize(("kind", "end"), [("reset", "reset"), ("close", "end")])
async def test_an_answer_breaks_at_the_chosen_byte(kind, end, byte):
    async with Sandbox() as sandbox:
        got, how = await raw(sandbox, words=f"{kind}; at=answer; byte={byte}")
        assert (len(got), how) == (byte, end)
        assert got == b"HTTP/1.1 200 OK\r\n"[:byte] or byte > 17
        assert await sandbox.charges() == {"otter": 1}


async def test_a_reset_at_the_head_leaves_the_body_unread():
    async with Sandbox() as sandbox:
        sandbox.faults.add("reset", at="head", path="*/generations")
        got, how = await raw(sandbox, length=1_000_000)
        assert (got, how) == (b"", "reset")
        assert sandbox.requests[0].body == ""
        assert await sandbox.charges() == {}


async def test_a_reset_after_the_body_was_paid_for():
    async with Sandbox() as sandbox:
        assert await raw(sandbox, words="reset") == (b"", "reset")
        assert await raw(sandbox, words="close") == (b"", "end")
        assert await sandbox.charges() == {"otter": 2}


@pytest.mark.parametrize("place", ["at=head", "at=body", "at=answer; byte=20"])
async def test_a_stall_ends_after_its_seconds_with_the_answer(place):
    async with Sandbox() as sandbox:
        port = int(sandbox.url.rsplit(":", 1)[1])
        async with httpx.AsyncClient(trust_env=False, timeout=10) as client:
            answer = await client.post(
                f"http://127.0.0.1:{port}/v1/videos/generations",
                json=BODY,
                headers={"Authorization": "k", "X-Sandbox-Fault": f"stall=0.05; {place}"},
            )
        assert answer.status_code == 200
        assert answer.json()["data"][0]["video_id"]
        assert await sandbox.charges() == {"otter": 1}


async def test_a_stall_for_ever_ends_with_the_sandbox():
    sandbox = Sandbox()
    await sandbox.start()
    ends = []

    async def stalled(words):
        ends.append(await raw(sandbox, words=words))

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            for words in ("stall; at=head", "stall", "stall; at=answer; byte=9"):
                tasks.start_soon(stalled, words)
            await sandbox.wait_until(lambda box: sum(bool(record.fault) for record in box.requests) == 3)
            await anyio.wait_all_tasks_blocked()
            await sandbox.stop()
    assert {len(got) for got, _ in ends} <= {0, 9}


async def test_slow_bytes_arrive_one_by_one(http):
    async with Sandbox() as sandbox:
        answer = await ask(http, sandbox, "slow=0.0001")
        assert answer.json()["data"][0]["video_id"]


async def test_a_delay_comes_before_the_fault(http):
    async with Sandbox() as sandbox:
        answer = await ask(http, sandbox, "status=524; delay=0.02")
        assert answer.status_code == 524
        assert sandbox.requests[0].elapsed >= 0.02


async def test_rules_match_by_path_prompt_model_and_number(http):
    async with Sandbox() as sandbox:
        sandbox.faults.add("status=500", prompt="whale")
        sandbox.faults.add("status=501", model="kling-v2")
        sandbox.faults.add("status=502", nth=2, path="*/generations")
        sandbox.faults.add("status=503", path="*/models", method="get")
        assert (await ask(http, sandbox, prompt="a whale at sea")).status_code == 500
        assert (await ask(http, sandbox, model="kling-v2")).status_code == 501
        assert [(await ask(http, sandbox)).status_code for _ in range(3)] == [200, 502, 200]
        assert (await http.get(f"{sandbox.base_url}/models")).status_code == 503
        sandbox.faults.clear()
        assert (await http.get(f"{sandbox.base_url}/models")).status_code == 200


async def test_the_header_goes_before_the_rules(http):
    async with Sandbox() as sandbox:
        sandbox.faults.add("status=500")
        assert (await ask(http, sandbox, "status=418")).status_code == 418


async def test_nonsense_in_the_header_is_refused_with_a_reason(http):
    async with Sandbox() as sandbox:
        for words in ("banana", "status=abc", "status", "reset; at=moon", "bad_json=3", "reset; at=connect"):
            answer = await ask(http, sandbox, words)
            assert answer.status_code == 400, words
            assert "X-Sandbox-Fault" in answer.json()["error"]["message"]
        assert await sandbox.charges() == {}


def test_times_every_and_probability_are_counted():
    faults = Faults(seed=3)
    faults.add("reset", times=2)
    assert [faults.pick("call") is not None for _ in range(4)] == [True, True, False, False]
    faults.clear()
    faults.add("reset", every=3)
    assert [faults.pick("call") is not None for _ in range(6)] == [False, False, True] * 2
    faults.clear()
    faults.add("reset", probability=0.5)
    first = [faults.pick("call") is not None for _ in range(50)]
    assert 10 < sum(first) < 40
    faults.clear()
    faults.add("reset", probability=0.5)
    assert [faults.pick("call") is not None for _ in range(50)] == first


def test_a_rule_can_be_removed_and_described():
    faults = Faults()
    number = faults.add(Fault(kind="status", status=503), prompt="x")
    assert faults.describe() == [
        {"id": number, "kind": "status", "status": 503, "prompt": "x", "matched": 0, "struck": 0}
    ]
    assert [fault.prompt for fault in faults] == ["x"]
    assert faults.remove(number)
    assert not faults.remove(number)
    assert len(faults) == 0


def test_words_and_fields_mean_the_same():
    assert parse_fault("status=503; retry-after=2; charged=yes") == Fault(
        kind="status", status=503, retry_after=2.0, charged=True
    )
    assert make_fault({"kind": "moderation", "where": 403}).where == "403"
    assert all(parse_fault(f"{kind}; status=403; word=x").kind == kind for kind in KINDS)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"kind": "banana"}, "no fault"),
        ({}, "needs a kind"),
        ({"kind": "status"}, "needs a status"),
        ({"kind": "status", "status": 99}, "from 200 to 599"),
        ({"kind": "cut", "at": "head"}, "fits no"),
        ({"kind": "reset", "at": "head", "prompt": "x"}, "before prompt"),
        ({"kind": "reset", "at": "connect", "path": "/x"}, "before the path"),
        ({"kind": "moderation", "where": "moon"}, "422, 403, 200 or task"),
        ({"kind": "no_credit", "status": 500}, "403, 429 or 402"),
        ({"kind": "task_word"}, "needs its word"),
        ({"kind": "reset", "colour": "red"}, "no field colour"),
        ({"kind": "reset", "retry_after_form": "moon"}, "seconds"),
        ({"kind": "reset", "probability": 2}, "from 0 to 1"),
    ],
)
def test_a_fault_that_makes_no_sense_is_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        make_fault(fields)


async def test_a_client_that_goes_away_frees_its_hold():
    async with Sandbox(latency=math.inf) as sandbox:
        with anyio.move_on_after(5):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(raw, sandbox)
                await sandbox.wait_until(lambda box: box.held == 1)
                tasks.cancel_scope.cancel()
        await sandbox.wait_until(lambda box: box.requests[0].elapsed is not None)
        assert sandbox.held == 0
        assert await sandbox.charges() == {"otter": 1}


def read_shape(data):
    import av

    with av.open(io.BytesIO(data)) as file:
        video = file.streams.video[0]
        return file.duration / 1e6, video.width, video.height, bool(file.streams.audio)


@pytest.mark.parametrize(
    ("words", "asked", "shape"),
    [
        (None, {"duration": "3s", "generate_audio": True}, (3.0, 640, 360, True)),
        ("wrong_seconds=1.5", {"duration": "3s"}, (1.5, 640, 360, False)),
        ("wrong_seconds", {}, (4.0, 640, 360, False)),
        ("wrong_ratio=9:16", {"duration": "1s", "aspect_ratio": "16:9", "resolution": "480p"}, (1.0, 480, 854, False)),
        ("wrong_ratio", {"duration": "1s", "ratio": "16:9"}, (1.0, 360, 360, False)),
        ("no_sound", {"duration": "1s", "generate_audio": True}, (1.0, 640, 360, False)),
    ],
)
async def test_a_video_may_be_other_than_was_asked_for_and_is_paid(http, words, asked, shape):
    async with Sandbox() as sandbox:
        answer = await ask(http, sandbox, words, **asked)
        assert answer.status_code == 200
        assert read_shape((await http.get(answer.json()["data"][0]["url"])).content) == shape
        assert await sandbox.charges() == {"otter": 1}
