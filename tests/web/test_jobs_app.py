"""``jobs_app`` over real sockets: what a browser may ask, whose jobs it sees, and that it misses no event."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys

import httpx
import pytest

from videorouter import AsyncVideoRouter, ConfigurationError
from videorouter.integrations.web import jobs_app
from videorouter.sandbox import Sandbox

pytestmark = pytest.mark.anyio

APP = """
import sys
from contextlib import asynccontextmanager
from starlette.applications import Starlette
from starlette.routing import Mount
import uvicorn
from videorouter import AsyncVideoRouter
from videorouter.integrations.web import jobs_app
base, path, files = sys.argv[1:4]
router = AsyncVideoRouter("key", base_url=base, adaptive=False)
jobs = router.jobs(path, save_to=files, max_queued=5)
@asynccontextmanager
async def lifespan(app):
    async with router, jobs:
        yield
def owner(request):
    return request.headers.get("x-user")
site = Starlette(lifespan=lifespan, routes=[Mount("/videos", jobs_app(jobs, owner=owner, models=["veo3-fast", "other"]))])
config = uvicorn.Config(site, port=0, log_level="warning", timeout_graceful_shutdown=5)
class Server(uvicorn.Server):
    async def startup(self, sockets=None):
        await super().startup(sockets)
        print(self.servers[0].sockets[0].getsockname()[1], flush=True)
Server(config).run()
"""


class Site:
    """A server process, and a client of one user."""

    def __init__(self, folder, base, *, program=APP):
        self.folder, self.base, self.program = folder, base, program
        self.start()

    def start(self):
        command = [
            sys.executable,
            "-c",
            self.program,
            self.base,
            str(self.folder / "jobs.db"),
            str(self.folder / "files"),
        ]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.url = f"http://127.0.0.1:{int(self.process.stdout.readline())}/videos"

    def client(self, user):
        headers = {} if user is None else {"x-user": user}
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=30, trust_env=False)

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def stop(self):
        self.process.terminate()
        return self.process.wait(timeout=30)


@pytest.fixture
async def sandbox(anyio_backend):
    async with Sandbox(mode="task") as running:
        yield running


@pytest.fixture
async def site(tmp_path, sandbox):
    running = await asyncio.to_thread(Site, tmp_path, sandbox.base_url)
    try:
        yield running
    finally:
        running.kill()


async def read_events(client, path, *, after=None, most=None):
    """The events of a stream, until it ends or so many have come."""
    headers = {} if after is None else {"Last-Event-ID": str(after)}
    found = []
    async with client.stream("GET", path, headers=headers) as answer:
        if answer.status_code == 204:
            return found
        assert answer.headers["content-type"].startswith("text/event-stream")
        async for line in answer.aiter_lines():
            if line.startswith("data: "):
                found.append(json.loads(line[6:]))
                if most is not None and len(found) == most:
                    break
    return found


async def test_a_job_is_put_followed_and_played(site):
    async with site.client("ada") as ada:
        answer = await ada.post("/", json={"prompt": "An otter", "duration": "4"})
        assert answer.status_code == 202, answer.text
        job = answer.json()
        assert answer.headers["location"] == f"/videos/{job['id']}" == job["self"]
        assert job["model"] == "veo3-fast"  # the first of those that may be asked for
        events = await read_events(ada, f"/{job['id']}/events")
        assert [event["state"] for event in events][-2:] == ["done", "saved"]
        assert [event["number"] for event in events] == sorted({event["number"] for event in events})
        assert events[-1]["over"]
        assert not any(event["over"] for event in events[:-1])
        found = (await ada.get(f"/{job['id']}")).json()
        assert found["state"] == "done"
        assert not {"cost", "key", "owner", "task_id"} & found.keys()
        whole = await ada.get(found["videos"][0].removeprefix("/videos"))
        assert whole.headers["content-type"] == "video/mp4"
        assert whole.content[4:8] == b"ftyp"
        part = await ada.get(f"/{job['id']}/video", headers={"Range": "bytes=4-7"})
        assert (part.status_code, part.content) == (206, b"ftyp")
        again = await ada.get(f"/{job['id']}/events", headers={"Last-Event-ID": str(events[-1]["number"])})
        assert again.status_code == 204  # an EventSource comes back for ever otherwise


async def test_nobody_sees_takes_back_or_hears_of_another_ones_job(site):
    async with site.client("ada") as ada, site.client("bob") as bob, site.client(None) as unknown:
        job = (await ada.post("/", json={"prompt": "An otter"})).json()["id"]
        for path in (f"/{job}", f"/{job}/events", f"/{job}/video"):
            assert (await bob.get(path)).status_code == 404
        assert (await bob.delete(f"/{job}")).status_code == 404
        assert (await bob.get("/")).json()["jobs"] == []
        assert [one["id"] for one in (await ada.get("/")).json()["jobs"]] == [job]
        for path in ("/", f"/{job}", "/events"):
            answer = await unknown.get(path)
            assert answer.status_code == 401
            assert answer.headers["content-type"] == "application/problem+json"
        mine = (await bob.post("/", json={"prompt": "A fox"})).json()["id"]
        heard = await read_events(bob, "/events", after=0, most=3)
        assert {event["job"] for event in heard} == {mine}


@pytest.mark.parametrize(
    "field",
    ["price", "max_cost", "notify", "priority", "owner", "key", "n", "timeout", "extra_body", "extra_headers", "meta"],
)
async def test_a_browser_sets_the_listed_fields_alone(site, sandbox, field):
    async with site.client("ada") as ada:
        answer = await ada.post("/", json={"prompt": "An otter", field: 1})
        assert answer.status_code == 400
        assert field in answer.json()["detail"]
        assert (await ada.get("/")).json()["jobs"] == []
    assert await sandbox.charges() == {}


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b'{"prompt": "x", "model": "dear"}', "application/json", 400),
        (b'{"prompt": ""}', "application/json", 400),
        (b'{"model": "other"}', "application/json", 400),
        (b"[]", "application/json", 400),
        (b"{", "application/json", 400),
        (b'{"prompt": "x"}', "text/plain", 415),
        (b"prompt=x", "application/x-www-form-urlencoded", 415),
        (b'{"prompt": "' + b"x" * 300_000 + b'"}', "application/json", 413),
    ],
)
async def test_what_cannot_be_put_is_a_problem_with_words(site, body, kind, status):
    async with site.client("ada") as ada:
        answer = await ada.post("/", content=body, headers={"Content-Type": kind})
        assert answer.status_code == status
        problem = answer.json()
        assert answer.headers["content-type"] == "application/problem+json"
        assert problem["status"] == status
        assert problem["detail"]
        assert problem["title"]


async def test_one_idempotency_key_from_fifty_requests_at_once_is_one_job_and_one_charge(site, sandbox):
    async with site.client("ada") as ada, site.client("bob") as bob:
        headers = {"Idempotency-Key": "order-7"}
        answers = await asyncio.gather(
            *(ada.post("/", json={"prompt": "An otter"}, headers=headers) for _ in range(50))
        )
        assert {answer.status_code for answer in answers} == {202}
        (job,) = {answer.json()["id"] for answer in answers}
        other = await ada.post("/", json={"prompt": "A fox"}, headers=headers)
        assert other.status_code == 422
        theirs = await bob.post("/", json={"prompt": "An otter"}, headers=headers)
        assert theirs.json()["id"] != job
        await read_events(ada, f"/{job}/events")
        await read_events(bob, f"/{theirs.json()['id']}/events")
    assert len(await sandbox.charge_list()) == 2


async def test_a_full_queue_says_when_to_come_again(tmp_path):
    site = Site(tmp_path, "http://127.0.0.1:9")
    try:
        async with site.client("ada") as ada:
            answers = [await ada.post("/", json={"prompt": f"Otter {number}"}) for number in range(6)]
            assert [answer.status_code for answer in answers] == [202] * 5 + [503]
            assert int(answers[-1].headers["retry-after"]) > 0
            gone = await ada.delete(f"/{answers[0].json()['id']}")
            assert gone.json()["state"] == "cancelled"
            assert (await ada.delete(f"/{answers[0].json()['id']}")).status_code == 200
    finally:
        site.kill()


async def test_what_is_sent_is_not_taken_back(site, sandbox):
    async with site.client("ada") as ada:
        job = (await ada.post("/", json={"prompt": "An otter"})).json()["id"]
        await read_events(ada, f"/{job}/events")
        answer = await ada.delete(f"/{job}")
        assert answer.status_code == 409
        assert "done" in answer.json()["detail"]


async def test_a_browser_that_comes_back_after_a_kill_misses_no_event(tmp_path, sandbox):
    site = await asyncio.to_thread(Site, tmp_path, sandbox.base_url)
    try:
        async with site.client("ada") as ada:
            jobs = [(await ada.post("/", json={"prompt": f"Otter {number}"})).json()["id"] for number in range(3)]
            first = await read_events(ada, "/events", after=0, most=4)
        site.kill()
        await asyncio.to_thread(site.start)
        told = first
        async with site.client("ada") as ada, asyncio.timeout(60):
            while sum(event["over"] for event in told) < 3:
                told += await read_events(ada, "/events", after=told[-1]["number"], most=1)
        numbers = [event["number"] for event in told]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))  # there is one owner: no gap
        assert {event["job"] for event in told} == set(jobs)
    finally:
        site.kill()
    assert len(await sandbox.charge_list()) == 3


async def test_open_streams_end_at_the_signal_and_the_server_with_them(site):
    async with site.client("ada") as ada:
        streams = [asyncio.ensure_future(read_events(ada, "/events", after=0)) for _ in range(5)]
        await asyncio.sleep(0.5)
        status = await asyncio.to_thread(site.stop)
        assert status in {0, -15}
        await asyncio.gather(*streams)


async def test_a_number_of_another_file_starts_from_the_beginning(site):
    async with site.client("ada") as ada:
        job = (await ada.post("/", json={"prompt": "An otter"})).json()["id"]
        assert await read_events(ada, f"/{job}/events", after=5000)


async def test_the_description_names_every_route_and_the_models(site):
    async with site.client("ada") as ada:
        found = (await ada.get("/openapi.json")).json()
        assert found["openapi"].startswith("3.1")
        assert found["servers"] == [{"url": "/videos"}]
        assert found["paths"].keys() == {"/", "/events", "/{id}", "/{id}/events", "/{id}/video"}
        body = found["paths"]["/"]["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert body["properties"]["model"]["enum"] == ["veo3-fast", "other"]
        assert not {"price", "n", "notify"} & body["properties"].keys()


async def test_a_browser_gets_the_page_and_a_program_gets_json(site):
    async with site.client("ada") as ada:
        page = await ada.get("/", headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
        assert page.headers["content-type"].startswith("text/html")
        assert "<form" in page.text
        assert (await ada.get("/", headers={"Accept": "*/*"})).json()["jobs"] == []


async def test_what_only_the_application_may_set_is_no_field_of_a_browser(tmp_path):
    async with AsyncVideoRouter("key", base_url="http://127.0.0.1:9") as router:
        jobs = router.jobs(tmp_path / "jobs.db")
        with pytest.raises(ConfigurationError, match="notify"):
            jobs_app(jobs, owner=lambda _: "x", models=["m"], fields=["seed", "notify"])
        with pytest.raises(ConfigurationError, match="models"):
            jobs_app(jobs, owner=lambda _: "x", models=[])
        await jobs.aclose()
