"""The sandbox as a process, and what loading it costs."""

import json
import os
import signal
import subprocess
import sys

import httpx
import pytest

import videorouter.sandbox


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_process_says_where_it_is_and_ends_by_a_signal(number, tmp_path):
    command = [sys.executable, "-m", "videorouter.sandbox", "--profile", "instant", "--state", str(tmp_path / "s.db")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            places = json.loads(process.stdout.readline())
            answer = httpx.post(
                f"{places['base_url']}/videos/generations",
                json={"model": "m", "prompt": "otter"},
                headers={"Authorization": "k"},
                trust_env=False,
            )
            assert answer.json()["data"][0]["url"].startswith(places["files_url"])
            assert httpx.get(places["gallery"], trust_env=False).status_code == 200
        finally:
            process.send_signal(number)
        assert process.wait(10) == 0
        assert process.stderr.read() == ""


def test_a_process_that_cannot_start_says_why(tmp_path):
    (tmp_path / "notes.txt").write_text("no database " * 100)
    command = [sys.executable, "-m", "videorouter.sandbox", "--state", str(tmp_path / "notes.txt")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("The sandbox could not start: ")
    assert "Traceback" not in done.stderr


def loaded_by(code):
    """Return the names of the modules that a fresh interpreter has after running some code."""
    program = f"{code}\nimport sys; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20, check=True)
    return set(done.stdout.split())


def test_the_front_door_loads_nothing_heavy():
    assert not loaded_by("import videorouter.sandbox") & {"aiohttp", "av", "PIL", "sqlite3", "asyncio"}


def test_the_start_loads_neither_video_nor_client():
    code = (
        "import asyncio\nfrom videorouter.sandbox import Sandbox\n"
        "async def main():\n    async with Sandbox(): pass\nasyncio.run(main())"
    )
    loaded = loaded_by(code)
    assert "aiohttp" in loaded
    assert not loaded & {"av", "PIL", "httpx", "msgspec", "anyio", "numpy"}
    ours = {name for name in loaded if name.startswith("videorouter.")} - {"videorouter._version"}
    assert all(name == "videorouter.sandbox" or name.startswith("videorouter.sandbox.") for name in ours)


def test_every_name_of_the_front_door_is_there():
    for name in videorouter.sandbox.__all__:
        assert getattr(videorouter.sandbox, name).__name__ == name
    assert set(videorouter.sandbox.__all__) <= set(dir(videorouter.sandbox))
    with pytest.raises(AttributeError, match="nothing"):
        _ = videorouter.sandbox.nothing


def test_a_missing_extra_is_named_with_its_remedy(tmp_path):
    (tmp_path / "aiohttp.py").write_text("raise ModuleNotFoundError(\"No module named 'aiohttp'\", name='aiohttp')")
    done = subprocess.run(
        [sys.executable, "-c", "from videorouter.sandbox import Sandbox"],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert "pip install '.[sandbox]'" in done.stderr
