"""The API over real sockets: the specification's words, states, keys, refusals, money."""

import math

import anyio
import httpx
import pytest

from videorouter.sandbox import Sandbox

pytestmark = pytest.mark.anyio
SAMPLE = "video_68fc872dba248190875ba0c177c7b0cf0974c02d85a9c020"
OTTER = {"model": "veo3-fast", "prompt": "A cute baby sea otter", "output_format": "url"}


async def generate(http, sandbox, **fields):
    return await http.post(f"{sandbox.base_url}/videos/generations", json={**OTTER, **fields})


async def edit(http, sandbox, **fields):
    body = {"model": "sora-2-video-to-video", "video_id": SAMPLE, "prompt": "Make it snow", **fields}
    return await http.post(f"{sandbox.base_url}/videos/edits", json=body)


async def test_a_generation_answers_in_exactly_the_specified_shape(http):
    async with Sandbox() as sandbox:
        answer = await generate(http, sandbox)
        assert answer.status_code == 200
        body = answer.json()
        assert list(body) == ["data", "created"]
        assert list(body["data"][0]) == ["url", "revised_prompt", "video_id"]
        assert body["data"][0]["revised_prompt"] == ""
        assert isinstance(body["created"], int)
        assert body["data"][0]["url"].startswith(f"{sandbox.files_url}/video/generated%2Fonerouter_")
        assert body["data"][0]["video_id"].startswith("video_")
        assert await sandbox.charges() == {OTTER["prompt"]: 1}


async def test_the_specifications_second_command_works_on_a_fresh_sandbox(http):
    async with Sandbox() as sandbox:
        answer = await edit(http, sandbox)
        assert answer.status_code == 200
        assert answer.json()["data"][0]["video_id"] != SAMPLE


async def test_an_edit_of_an_edit_stays_in_the_family(http):
    async with Sandbox() as sandbox:
        first = (await edit(http, sandbox)).json()["data"][0]["video_id"]
        assert (await edit(http, sandbox, video_id=first)).status_code == 200


@pytest.mark.parametrize(
    ("fields", "status", "word"),
    [
        ({"video_id": "video_nobody"}, 404, "not known"),
        ({"model": "veo3-fast"}, 422, "family"),
        ({"video_id": None}, 400, "video_id is required"),
        ({"video_id": 7}, 422, "video_id must be text"),
    ],
)
async def test_an_edit_of_what_cannot_be_edited_is_refused(http, fields, status, word):
    async with Sandbox() as sandbox:
        answer = await edit(http, sandbox, **fields)
        assert answer.status_code == status
        error = answer.json()["error"]
        assert error["param"] == ("video_id")
        assert word in error["message"]
        assert f"(request id: {answer.headers['x-infron-request-id']})" in error["message"]
        assert await sandbox.charges() == {}


async def test_task_mode_answers_at_once_and_the_task_ends_with_a_video(http):
    async with Sandbox(mode="task", latency=math.inf) as sandbox:
        answer = (await generate(http, sandbox)).json()
        assert answer["data"]["status"] == "created"
        query = answer["data"]["urls"]["query"]
        assert query == f"{sandbox.base_url}/videos/tasks/{answer['data']['task_id']}"
        assert (await http.get(query)).json()["data"]["status"] in {"created", "running"}
        assert await sandbox.release() == 1
        state = (await http.get(query)).json()["data"]
        assert state["status"] == "completed"
        assert state["outputs"] == [state["urls"]["video"]]
        assert state["cost"] == {"total_cost": 1.2}
        assert state["video_id"].startswith("video_")


async def test_held_mode_holds_until_the_video_is_ready(http):
    async with Sandbox(latency=math.inf) as sandbox:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(generate, http, sandbox)
            await sandbox.wait_until(lambda box: box.held == 1)
            assert sandbox.requests[0].elapsed is None
            assert sandbox.requests[0].charged
            assert await sandbox.release() == 1
        assert sandbox.requests[0].status == 200


async def test_stopping_breaks_held_requests_at_once():
    sandbox = Sandbox(latency=math.inf)
    await sandbox.start()
    broken = []

    async def ask():
        async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
            try:
                await client.post(
                    f"{sandbox.base_url}/videos/generations", json=OTTER, headers={"Authorization": "Bearer k"}
                )
            except httpx.RemoteProtocolError as error:
                broken.append(error)

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(ask)
            await sandbox.wait_until(lambda box: box.held == 20)
            await sandbox.stop()
            await sandbox.stop()
    assert len(broken) == 20


@pytest.mark.parametrize(
    ("header", "form"),
    [
        ("abc", "bare"),
        ("Bearer abc", "bearer"),
        ("bearer abc", "bearer"),
        (None, None),
        ("", None),
        ("Bearer", None),
        ("Bearer Bearer abc", None),
        ("wrong", None),
    ],
)
async def test_the_key_comes_bare_or_as_bearer_and_must_be_right(header, form):
    async with Sandbox(api_key="abc") as sandbox, httpx.AsyncClient(trust_env=False) as client:
        headers = {} if header is None else {"Authorization": header}
        answer = await client.post(f"{sandbox.base_url}/videos/generations", json=OTTER, headers=headers)
        assert answer.status_code == (401 if form is None else 200)
        if form is None:
            error = answer.json()["error"]
            assert (error["type"], error["code"]) == ("authentication_error", 401)
            assert answer.headers["x-infron-request-id"] in error["message"]
        else:
            assert sandbox.requests[0].authorization == form


@pytest.mark.parametrize(("auth", "good", "bad"), [("bare", "k", "Bearer k"), ("bearer", "Bearer k", "k")])
async def test_one_form_of_the_key_can_be_demanded(auth, good, bad):
    async with Sandbox(auth=auth) as sandbox, httpx.AsyncClient(trust_env=False) as client:
        url = f"{sandbox.base_url}/balance"
        assert (await client.get(url, headers={"Authorization": good})).status_code == 200
        assert (await client.get(url, headers={"Authorization": bad})).status_code == 401


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        (b"", 400, ""),
        (b"not json", 400, ""),
        (b"[1]", 400, ""),
        (b"[" * 100_000, 400, ""),
        (b'{"prompt":"x"}', 400, "model"),
        (b'{"model":"m"}', 400, "prompt"),
        (b'{"model":"m","prompt":"  "}', 400, "prompt"),
        (b'{"model":"m","prompt":5}', 422, "prompt"),
        (b'{"model":"m","prompt":"\\ud800"}', 400, "prompt"),
        (b'{"model":"m","prompt":"x","output_format":"gif"}', 422, "output_format"),
        (b'{"model":"m","prompt":"x","duration":"banana"}', 422, "duration"),
        (b'{"model":"m","prompt":"x","duration":999}', 422, "duration"),
        (b'{"model":"m","prompt":"x","n":0}', 422, "n"),
        (b'{"model":"m","prompt":"x","n":true}', 422, "n"),
        (b'{"model":"gpt-5-mini","prompt":"x"}', 400, "model"),
        (b'{"model":"m","prompt":"x","image_url":"asset://nothing"}', 422, "image_url"),
    ],
)
async def test_a_wrong_body_is_refused_and_costs_nothing(http, body, status, param):
    async with Sandbox() as sandbox:
        answer = await http.post(f"{sandbox.base_url}/videos/generations", content=body)
        assert answer.status_code == status
        assert answer.json()["error"]["param"] == param
        assert await sandbox.charges() == {}


async def test_unknown_fields_and_models_are_welcome_unless_models_are_strict(http):
    async with Sandbox() as sandbox:
        assert (await generate(http, sandbox, model="no/such", whatever={"a": [1]})).status_code == 200
    async with Sandbox(strict_models=True) as sandbox:
        assert (await generate(http, sandbox, model="no/such")).status_code == 404
        assert (await generate(http, sandbox)).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/videos/generations", 405),
        ("DELETE", "/videos/tasks/x", 405),
        ("GET", "/videos/tasks/none", 404),
        ("GET", "/videos/tasks/", 404),
    ],
)
async def test_what_is_not_there_is_said_in_the_gateways_shape(http, method, path, status):
    async with Sandbox() as sandbox:
        answer = await http.request(method, sandbox.base_url + path)
        assert answer.status_code == status
        assert answer.json()["error"]["code"] == status


async def test_several_takes_of_one_request_are_several_videos_at_several_prices(http):
    async with Sandbox() as sandbox:
        data = (await generate(http, sandbox, n=3, duration="2s")).json()["data"]
        assert len({item["video_id"] for item in data}) == len({item["url"] for item in data}) == 3
        (charge,) = await sandbox.charge_list()
        assert (charge.amount, charge.kind, charge.model) == (0.9, "generation", "veo3-fast")


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (403, "insufficient_user_quota", "Your current credits have been used up"),
        (429, 429, "Free model requires Team balance"),
        (402, 402, "Insufficient credits"),
    ],
)
async def test_the_balance_goes_down_and_its_end_is_told_as_in_life(http, status, code, words):
    async with Sandbox(balance=2.0, **({} if status == 403 else {"no_credit_status": status})) as sandbox:
        url = f"{sandbox.base_url}/balance"
        assert (await http.get(url)).json() == {"account_name": "sandbox", "credit_balance": 2.0}
        assert (await generate(http, sandbox)).status_code == 200
        assert (await http.get(url)).json()["credit_balance"] == 0.8
        answer = await generate(http, sandbox)
        assert answer.status_code == status
        assert answer.json()["error"]["code"] == code
        assert answer.json()["error"]["message"].startswith(words)
        assert len(await sandbox.charge_list()) == 1


async def test_the_usual_balance_never_ends(http):
    async with Sandbox() as sandbox:
        for _ in range(3):
            assert (await generate(http, sandbox, n=10, duration="60s")).status_code == 200
        assert (await http.get(f"{sandbox.base_url}/balance")).json()["credit_balance"] == 730.0


async def test_the_catalogue_is_told(http):
    async with Sandbox() as sandbox:
        body = (await http.get(f"{sandbox.base_url}/models")).json()
        assert body["success"] is True
        by_id = {item["id"]: item for item in body["data"]}
        assert by_id["veo3-fast"]["category_type"] == "video"
        assert by_id["gpt-5-mini"]["category_type"] != "video"
        assert set(by_id["sora-2"]) == {
            "id",
            "display_name",
            "category_type",
            "min_request_price",
            "deprecated",
            "is_display_only",
        }


async def test_an_idempotency_key_is_only_noted_by_default(http):
    async with Sandbox() as sandbox:
        for _ in range(2):
            await http.post(f"{sandbox.base_url}/videos/generations", json=OTTER, headers={"Idempotency-Key": "one"})
        assert await sandbox.charges() == {OTTER["prompt"]: 2}
        assert {charge.idempotency_key for charge in await sandbox.charge_list()} == {"one"}
        assert [record.idempotency_key for record in sandbox.requests] == ["one", "one"]


@pytest.mark.parametrize("mode", ["held", "task"])
async def test_an_honoured_idempotency_key_replays_the_first_answer(http, mode):
    async with Sandbox(mode=mode, honour_idempotency=True) as sandbox:
        url, headers = f"{sandbox.base_url}/videos/generations", {"Idempotency-Key": "one"}
        sandbox.faults.add("reset", at="answer", byte=0, times=1)
        with pytest.raises(httpx.TransportError):
            await http.post(url, json=OTTER, headers=headers)
        second, third = [await http.post(url, json=OTTER, headers=headers) for _ in range(2)]
        assert second.json() == third.json()
        assert await sandbox.charges() == {OTTER["prompt"]: 1}
        other = await http.post(url, json={**OTTER, "prompt": "else"}, headers=headers)
        assert other.status_code == 422
        assert "Idempotency-Key" in other.json()["error"]["message"]


async def test_mixed_mode_decides_by_the_style_of_the_model_id(http):
    async with Sandbox(mode="mixed") as sandbox:
        assert "created" in (await generate(http, sandbox)).json()
        assert "task_id" in (await generate(http, sandbox, model="google/veo3.1/text-to-video")).json()["data"]


async def test_final_mode_answers_with_a_finished_task(http):
    async with Sandbox(mode="final") as sandbox:
        data = (await generate(http, sandbox)).json()["data"]
        assert data["status"] == "completed"
        assert data["outputs"]


async def test_the_realistic_profile_takes_minutes_that_speed_divides(http):
    async with Sandbox(profile="realistic", speed=1e4) as sandbox:
        assert (await generate(http, sandbox)).status_code == 200
        job = sandbox._running.store.job_of_number(1)
        assert 120 <= (job.ready - job.created) * 1e4 <= 240


async def test_a_question_for_the_rest_of_a_body_is_answered():
    async with Sandbox() as sandbox:
        port = int(sandbox.url.rsplit(":", 1)[1])
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            await stream.send(
                b"POST /v1/videos/generations HTTP/1.1\r\nHost: localhost\r\nAuthorization: k\r\n"
                b"Expect: 100-continue\r\nContent-Length: 26\r\n\r\n"
            )
            assert (await stream.receive()).startswith(b"HTTP/1.1 100 Continue")
            await stream.send(b'{"model":"m","prompt":"x"}')
            assert (await stream.receive()).startswith(b"HTTP/1.1 200")


async def test_the_quick_profile_takes_fractions_of_a_second(http):
    async with Sandbox(profile="quick", speed=10) as sandbox:
        assert (await generate(http, sandbox)).status_code == 200
        job = sandbox._running.store.job_of_number(1)
        assert 0.15 <= (job.ready - job.created) * 10 <= 0.6


async def test_the_log_shows_that_a_connection_was_used_again(http):
    async with Sandbox() as sandbox:
        await generate(http, sandbox)
        await generate(http, sandbox)
        async with httpx.AsyncClient(trust_env=False, headers={"Authorization": "k"}) as other:
            await generate(other, sandbox)
        one, two, three = [record.connection for record in sandbox.requests]
        assert one == two != three
