"""Each web recipe under its real server, driven by a real HTTP client."""

from __future__ import annotations

import asyncio
import json
import math

import pytest

from videorouter.testing import run_sandbox

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
TASK_MODEL = "google/veo3.1/text-to-video"


async def read_events(http, url):
    """Every event of a stream, until the server ends it."""
    async with http.stream("GET", url) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = [line async for line in answer.aiter_lines()]
    return [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]


async def test_fastapi_answers_202_tells_its_progress_by_events_and_serves_the_file(serve, sandbox, http):
    app = serve("how-to/fastapi.md", "uvicorn", sandbox)
    answer = await http.post(f"{app.url}/videos/", json={"prompt": "otter", "model": TASK_MODEL})
    assert answer.status_code == 202
    place = answer.headers["Location"]
    assert place == f"/videos/{answer.json()['id']}"
    steps = await read_events(http, f"{app.url}{place}/events")
    assert [step["state"] for step in steps] == ["not_sent", "sending", "accepted", "done", "saved"]
    found = (await http.get(f"{app.url}{place}")).json()
    assert found["over"]
    assert (await http.get(app.url + found["videos"][0])).content[4:8] == b"ftyp"
    assert (await http.get(f"{app.url}/videos/unknown")).status_code == 404
    assert "<video" not in (await http.get(f"{app.url}/videos/")).text
    assert sandbox.charges() == {"otter": 1}
    assert app.stop(), app.output


async def test_fastapi_says_what_may_have_been_billed(serve, sandbox, http):
    sandbox.faults.add("reset", times=1)
    app = serve("how-to/fastapi.md", "uvicorn", sandbox)
    place = (await http.post(f"{app.url}/videos/", json={"prompt": "otter"})).headers["Location"]
    steps = await read_events(http, f"{app.url}{place}/events")
    assert steps[-1]["state"] == "in_doubt"
    assert sandbox.charges() == {"otter": 1}


async def test_fastapi_waits_for_a_running_job_when_it_is_told_to_stop(serve, http):
    with run_sandbox(mode="held", latency=1.5) as sandbox:
        app = serve("how-to/fastapi.md", "uvicorn", sandbox)
        place = (await http.post(f"{app.url}/videos/", json={"prompt": "otter"})).headers["Location"]
        sandbox.wait_until(lambda sandbox: sandbox.held == 1)
        assert app.stop(), app.output
        assert sandbox.charges() == {"otter": 1}
        again = serve("how-to/fastapi.md", "uvicorn", sandbox)
        assert (await read_events(http, f"{again.url}{place}/events"))[-1]["state"] == "saved"
        assert sandbox.charges() == {"otter": 1}


async def test_fastapi_as_printed_keeps_every_job_through_a_kill(serve, http):
    with run_sandbox(mode="task", latency=0.2) as sandbox:
        app = serve("how-to/fastapi.md", "uvicorn", sandbox)
        wanted = [
            {"json": {"prompt": f"otter {number}"}, "headers": {"X-User": f"u{number % 5}"}} for number in range(40)
        ]
        answers = [await http.post(f"{app.url}/videos/", **one) for one in wanted]
        assert {answer.status_code for answer in answers} == {202}
        sandbox.wait_until(lambda sandbox: any(record.method == "POST" for record in sandbox.requests))
        app.process.kill()
        app.process.wait()
        again = serve("how-to/fastapi.md", "uvicorn", sandbox)
        states = []
        for answer, one in zip(answers, wanted, strict=True):
            place = f"{again.url}{answer.headers['Location']}"
            async with asyncio.timeout(60):
                while not (job := (await http.get(place, headers=one["headers"])).json())["over"]:
                    await asyncio.sleep(0.05)
            states.append(job["state"])
        charges = sandbox.charges()
        assert set(states) <= {"done", "in_doubt"}
        assert states.count("in_doubt") <= 20  # those on the wire: five owners with four jobs each
        assert set(charges.values()) == {1}
        assert len(charges) >= states.count("done")


async def test_a_starlette_application_hands_its_task_to_a_worker_and_back(serve, http):
    with run_sandbox(mode="task", latency=math.inf) as sandbox:
        app = serve("how-to/workers.md", "uvicorn", sandbox)
        answer = await http.post(f"{app.url}/videos", json={"prompt": "otter"})
        assert answer.status_code == 202, answer.text
        place = app.url + answer.headers["Location"]
        assert (await http.get(place)).json()["state"] == "accepted"
        assert (await http.get(f"{place}/file")).status_code == 404
        program = "import worker; from videorouter import VideoRouter\nwith VideoRouter() as r: print(worker.work(r))"
        with app.start(program) as killed:
            sandbox.wait_until(lambda sandbox: any(record.method == "GET" for record in sandbox.requests))
            killed.kill()
        assert (await http.get(place)).json()["state"] == "accepted"
        sandbox.release()
        ended = app.run(program)
        assert ended.stdout == "1\n", ended.stderr
        assert (await http.get(place)).json()["state"] == "done"
        assert (await http.get(f"{place}/file")).content[4:8] == b"ftyp"
        assert sandbox.charges() == {"otter": 1}
        assert app.stop(), app.output
        assert "drained: True" in app.output


async def test_litestar_takes_our_structs_as_its_own(serve, sandbox, http):
    app = serve("how-to/litestar.md", "uvicorn", sandbox)
    task = (await http.post(f"{app.url}/videos", json={"prompt": "otter", "model": TASK_MODEL})).json()
    result = (await http.get(f"{app.url}/tasks/{task['id']}/result")).json()
    assert result["videos"][0]["url"].startswith(sandbox.files_url)
    assert (await http.get(f"{app.url}/tasks/{task['id']}")).json()["state"] == "completed"
    made = await http.post(f"{app.url}/videos/now", json={"prompt": "snow"})
    assert made.json()["videos"][0]["video_id"]
    assert "raw" not in made.text
    assert (await http.get(f"{app.url}/health")).json()["succeeded"] == 2
    described = (await http.get(f"{app.url}/schema/openapi.json")).json()["components"]["schemas"]
    assert {"VideoResult", "Video", "Task", "TaskStatus", "Stats"} <= {name.rpartition("_")[2] for name in described}
    sandbox.faults.add("moderation=422", times=1)
    refused = await http.post(f"{app.url}/videos/now", json={"prompt": "bad"})
    assert (refused.status_code, refused.json()["error"]) == (422, "ContentPolicyError")
    sandbox.faults.add("status=502", times=1)
    doubtful = await http.post(f"{app.url}/videos/now", json={"prompt": "lost"})
    assert (doubtful.status_code, doubtful.json()["in_doubt"]) == (502, True)
    assert app.stop(), app.output
    assert "drained: DrainReport(finished=True" in app.output


async def test_django_serves_async_views_and_plain_ones(serve, sandbox, http):
    app = serve("how-to/django.md", "hypercorn", sandbox)
    answer = await http.post(f"{app.url}/videos", json={"prompt": "otter", "model": TASK_MODEL})
    assert answer.status_code == 202, answer.text
    task_id = answer.json()["id"]
    file = await http.get(f"{app.url}/tasks/{task_id}/file")
    assert file.content[4:8] == b"ftyp"
    assert (await http.get(f"{app.url}/tasks/{task_id}")).json()["state"] == "completed"
    assert (await http.post(f"{app.url}/videos/now", json={"prompt": "snow"})).json()["videos"]
    assert (await http.get(f"{app.url}/tasks/unknown")).status_code == 404
    assert (await http.get(f"{app.url}/health")).json()["calls"] == 1
    assert app.stop(), app.output
    assert "drained: True" in app.output


async def test_quart_makes_videos_in_the_background(serve, sandbox, http):
    app = serve("how-to/quart.md", "hypercorn", sandbox)
    answer = await http.post(f"{app.url}/videos", json={"prompt": "otter"})
    assert answer.status_code == 202
    steps = await read_events(http, app.url + answer.headers["Location"])
    assert steps[-1]["state"] == "done"
    assert steps[-1]["url"].startswith(sandbox.files_url)
    assert (await http.get(f"{app.url}/health")).json()["succeeded"] == 1
    assert app.stop(), app.output
    assert "drained: True" in app.output
