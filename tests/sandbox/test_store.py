"""State: it survives a restart, and what is no state is left alone."""

import sqlite3

import pytest

from videorouter.sandbox import Sandbox
from videorouter.sandbox.store import SAMPLE_VIDEO_ID, Store

pytestmark = pytest.mark.anyio
BODY = {"model": "sora-2", "prompt": "otter"}


async def test_everything_survives_a_restart(http, tmp_path):
    path = tmp_path / "deep" / "state.db"
    async with Sandbox(state=path, mode="task", latency=1000.0, size=(64, 36), seconds=0.2) as sandbox:
        base, files = sandbox.base_url, sandbox.files_url
        url = f"{base}/videos/generations"
        running = (await http.post(url, json=BODY)).json()["data"]["urls"]["query"]
        await http.post(f"{base}/upload/resources", data={"model": "m"}, files={"file": ("x.gif", b"GIF89a")})
    async with Sandbox(state=path, mode="task", latency=1000.0, size=(64, 36), seconds=0.2) as sandbox:
        assert (sandbox.base_url, sandbox.files_url) == (base, files)
        assert (await http.get(running)).json()["data"]["status"] in {"created", "running"}
        await sandbox.release()
        data = (await http.get(running)).json()["data"]
        assert (await http.get(data["outputs"][0])).status_code == 200
        edit = {"model": "sora-2-video-to-video", "prompt": "snow", "video_id": data["video_id"]}
        assert (await http.post(f"{base}/videos/edits", json=edit)).status_code == 200
        assert await sandbox.charges() == {"otter": 1, "snow": 1}
        assert (await http.get(f"{base}/status/resources/1")).json()["data"]["id"] == 1
        assert (await http.get(f"{base}/balance")).json()["credit_balance"] == 999.2
    assert path.stat().st_mode & 0o777 == 0o600


async def test_a_reset_forgets_all_but_the_sample(http, tmp_path):
    async with Sandbox(state=tmp_path / "state.db") as sandbox:
        old = (await http.post(f"{sandbox.base_url}/videos/generations", json=BODY)).json()["data"][0]
        sandbox.faults.add("status=500")
        await sandbox.reset()
        assert (await sandbox.charges(), len(sandbox.faults), sandbox.requests) == ({}, 0, [])
        assert [job["number"] for job in await sandbox.jobs()] == [0]
        new = (await http.post(f"{sandbox.base_url}/videos/generations", json=BODY)).json()["data"][0]
        assert new["video_id"] != old["video_id"]
        assert (await http.get(old["url"])).status_code == 404


def test_a_file_that_is_no_state_is_refused_and_left_alone(tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("these are my notes, not a database, and they are long enough to look like one\n" * 40)
    before = text.read_bytes()
    with pytest.raises(ValueError, match="no state of a sandbox"):
        Store(text, 1.0)
    assert text.read_bytes() == before
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as db:
        db.execute("CREATE TABLE mine(x)")
    db.close()
    with pytest.raises(ValueError, match="not a sandbox's"):
        Store(other, 1.0)
    with sqlite3.connect(other) as db:
        db.execute("DROP TABLE mine")
        db.execute("PRAGMA user_version=99")
    db.close()
    with pytest.raises(ValueError, match="version 99"):
        Store(other, 1.0)


def test_the_sample_is_there_and_was_not_charged():
    store = Store(None, 5.0)
    try:
        video = store.find_video(video_id=SAMPLE_VIDEO_ID)
        job = store.job_of_number(video.number)
        assert (job.model, job.family, job.charged) == ("sora-2", "sora-2", False)
        assert store.charges() == []
    finally:
        store.close()
