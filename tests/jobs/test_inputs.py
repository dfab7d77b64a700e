"""Files that jobs bring: kept when the job is put, uploaded by the runner, and not sent as in doubt meanwhile."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import sqlite3

import pytest

from videorouter import AsyncVideoRouter, InvalidRequestError
from videorouter.jobs import runner
from videorouter.sandbox import Sandbox

pytestmark = pytest.mark.anyio
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    monkeypatch.setattr(runner, "PATIENCE", 0.05)


def client(sandbox):
    return AsyncVideoRouter("key", base_url=sandbox.base_url, media_base_url=sandbox.base_url, model="m", max_retries=0)


async def test_a_file_that_is_gone_when_the_runner_comes_is_uploaded_once(tmp_path):
    picture = tmp_path / "otter.png"
    picture.write_bytes(PNG)
    async with Sandbox() as sandbox, client(sandbox) as router:
        jobs = router.jobs(tmp_path / "jobs.db")
        first = await jobs.put("an otter", image_url=picture, key="a")
        again = await jobs.put("an otter", image_url=io.BytesIO(PNG), key="a2")
        picture.unlink()
        assert (await jobs.put("an otter", image_url=PNG, key="a")).state == "not_sent"
        async with router.jobs(tmp_path / "jobs.db"):
            for job in (first, again):
                await jobs.result(job.id, timeout=30)
        bodies = [json.loads(record.body) for record in sandbox.requests if record.path.endswith("/generations")]
        assert len(bodies) == 2
        assert all(body["image_url"].startswith("http") for body in bodies)
        assert [event.state async for event in jobs.events(first.id)] == ["not_sent", "sending", "done"]
        await jobs.aclose()


async def test_an_input_that_the_gateway_does_not_take_refuses_its_job_alone(tmp_path):
    async with Sandbox() as sandbox, client(sandbox) as router:
        async with router.jobs(tmp_path / "jobs.db") as jobs:
            bad = await jobs.put("an otter", image_url=b"no picture at all")
            good = await jobs.put("a fox")
            await jobs.result(good.id, timeout=30)
            with pytest.raises(InvalidRequestError, match="not a known image"):
                await jobs.result(bad.id, timeout=30)
        assert len(await sandbox.charge_list()) == 1


async def test_a_job_whose_file_is_being_uploaded_is_not_on_the_wire(tmp_path):
    async with Sandbox() as sandbox, client(sandbox) as router:
        sandbox.faults.add("stall", path="*asset*", at="body")
        async with router.jobs(tmp_path / "jobs.db", drain=0) as jobs:
            job = await jobs.put("an otter", image_url=PNG)
            await sandbox.wait_until(lambda running: len(running.requests) > 0)
            async with asyncio.timeout(20):
                while (await jobs.get(job.id)).state != "not_sent":
                    await asyncio.sleep(0.01)
        database = sqlite3.connect(tmp_path / "jobs.db")
        assert database.execute("SELECT state FROM items").fetchall() == [("not_sent",)]
        database.close()
