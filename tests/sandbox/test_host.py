"""A sandbox in a program: its life, in an event loop and in a thread."""

import asyncio
import gc
import math
import socket
import threading

import httpx
import pytest

from videorouter.sandbox import Sandbox, Settings
from videorouter.sandbox.host import ThreadedSandbox

BODY = {"model": "m", "prompt": "otter"}
KEY = {"Authorization": "k"}


@pytest.mark.anyio
async def test_it_starts_stops_and_starts_again():
    sandbox = Sandbox()
    with pytest.raises(RuntimeError, match="does not run"):
        _ = sandbox.base_url
    await sandbox.start()
    with pytest.raises(RuntimeError, match="runs already"):
        await sandbox.start()
    await sandbox.stop()
    await sandbox.stop()
    async with sandbox:
        assert sandbox.base_url == f"{sandbox.url}/v1"
    with pytest.raises(RuntimeError, match="does not run"):
        await sandbox.charges()


@pytest.mark.anyio
async def test_a_taken_port_is_an_error_and_leaves_nothing_open():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(OSError, match="address already in use"):
            await Sandbox(port=other.getsockname()[1]).start()
    gc.collect()


@pytest.mark.anyio
async def test_two_sandboxes_live_side_by_side(http):
    async with Sandbox() as one, Sandbox() as two:
        await http.post(f"{one.base_url}/videos/generations", json=BODY)
        assert (await one.charges(), await two.charges()) == ({"otter": 1}, {})


@pytest.mark.anyio
async def test_waiting_for_what_never_happens_ends():
    async with Sandbox() as sandbox:
        with pytest.raises(TimeoutError):
            await sandbox.wait_until(lambda box: box.held == 99, timeout=0.01)


@pytest.mark.anyio
async def test_resetting_breaks_what_is_held(http):
    async with Sandbox(latency=math.inf) as sandbox:
        call = asyncio.create_task(http.post(f"{sandbox.base_url}/videos/generations", json=BODY))
        await sandbox.wait_until(lambda box: box.held == 1)
        await sandbox.reset()
        with pytest.raises(httpx.RemoteProtocolError):
            await call


@pytest.mark.anyio
async def test_an_error_of_its_own_is_told_and_logged(http, caplog):
    async with Sandbox() as sandbox:
        sandbox._running.store.close()
        answer = await http.post(f"{sandbox.base_url}/videos/generations", json=BODY)
        assert answer.status_code == 500
        assert "The sandbox itself failed" in answer.json()["error"]["message"]
    assert "The sandbox failed on POST" in caplog.text


def test_it_runs_in_a_thread_for_those_without_a_loop():
    with Sandbox(size=(64, 36), seconds=0.2).in_thread() as sandbox, httpx.Client(trust_env=False) as client:
        assert isinstance(sandbox, ThreadedSandbox)
        answer = client.post(f"{sandbox.base_url}/videos/generations", json=BODY, headers=KEY)
        assert client.get(answer.json()["data"][0]["url"]).content[4:8] == b"ftyp"
        assert sandbox.files_url in answer.text
        assert sandbox.charges() == {"otter": 1}
        assert sandbox.charge_list()[0].prompt == "otter"
        assert [record.side for record in sandbox.requests] == ["api", "files"]
        assert len(sandbox.jobs()) == 2
        assert client.get(sandbox.url).status_code == 200
        sandbox.faults.add("status=418")
        answer = client.post(f"{sandbox.base_url}/videos/generations", json=BODY, headers=KEY)
        assert answer.status_code == 418
        sandbox.reset()
        assert sandbox.charges() == {}
    with pytest.raises(RuntimeError, match="does not run"):
        sandbox.charges()
    sandbox.stop()
    assert not any(thread.name == "videorouter-sandbox" for thread in threading.enumerate())


def test_a_held_call_in_a_thread_is_released_from_another():
    with Sandbox(latency=math.inf).in_thread() as sandbox, httpx.Client(trust_env=False) as client:
        statuses = []

        def ask():
            answer = client.post(f"{sandbox.base_url}/videos/generations", json=BODY, headers=KEY)
            statuses.append(answer.status_code)

        thread = threading.Thread(target=ask)
        thread.start()
        sandbox.wait_until(lambda box: box.held == 1)
        assert sandbox.held == 1
        assert sandbox.release() == 1
        thread.join()
        assert statuses == [200]


def test_a_thread_that_cannot_start_says_why_and_can_be_tried_again():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        threaded = Sandbox(port=other.getsockname()[1]).in_thread()
        with pytest.raises(OSError, match="address already in use"):
            threaded.start()
    with threaded:
        with pytest.raises(RuntimeError, match="runs already"):
            threaded.start()
        assert threaded.charges() == {}


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"mode": "other"}, "mode must be one of"),
        ({"profile": "slow"}, "profile must be one of"),
        ({"auth": "none"}, "auth must be one of"),
        ({"host": "0.0.0.0"}, "loopback only"),
        ({"speed": 0}, "speed"),
        ({"latency": -1}, "latency"),
        ({"latency": (3, 1)}, "latency"),
        ({"limit_status": 500}, "limit_status"),
        ({"max_concurrency": 0}, "max_concurrency"),
        ({"rate": 0}, "rate"),
        ({"size": (1, 1)}, "size"),
        ({"seconds": 0}, "seconds"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused(options, word):
    with pytest.raises(ValueError, match=word):
        Settings(**options)


def test_an_option_that_does_not_exist_is_refused():
    with pytest.raises(TypeError, match="colour"):
        Sandbox(colour="red")
