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
