"""The sync client against a running gateway: from scripts, threads, loops, forks, and under Ctrl-C."""

from __future__ import annotations

import asyncio
import inspect
import math
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
import trio

from videorouter import AsyncVideoRouter, ClientClosedError, ConfigurationError, VideoRouter
from videorouter.sandbox import Sandbox, ThreadedSandbox

MODEL = "veo3-fast"


@pytest.fixture
def box():
    with ThreadedSandbox(Sandbox(mode="mixed")) as box:
        yield box


@pytest.fixture
def holding():
    """A gateway that holds every POST until it is told to release."""
    with ThreadedSandbox(Sandbox(latency=math.inf)) as box:
        yield box


@pytest.fixture
def router(box):
    with VideoRouter("k-1", base_url=box.base_url, model=MODEL) as router:
        yield router


def test_a_call_blocks_until_the_video_is_finished(router, box):
    result = router.generate("A cute baby sea otter")
    assert result.video.url.startswith(box.files_url)
    assert box.charges() == {"A cute baby sea otter": 1}


def test_submit_wait_task_and_edit_take_the_road_of_the_async_verbs(router, box):
    task = router.submit("otter", model="google/veo3.1/text-to-video")
    assert router.wait(task).task_id == task.id
    assert router.task(task).state == "completed"
    first = router.generate("otter")
    assert router.edit(first, "snow", model=MODEL).video.video_id != first.video.video_id
    assert router.submit_edit(first, "rain").result is not None


def test_save_writes_the_file(router, tmp_path):
    file = router.save(router.generate("otter"), tmp_path / "otter.mp4")
    assert file.path.read_bytes()[4:8] == b"ftyp"


def test_download_takes_one_or_many(router, tmp_path):
    first, second = router.generate("otter"), router.generate("snow")
    assert router.download(first.video.url, tmp_path / "one.mp4").path.exists()
    files = router.download([first.video, second.video], tmp_path / "many")
    assert [file.size > 0 for file in files] == [True, True]


def test_stream_is_a_plain_context_manager_over_a_plain_iterator(router, tmp_path):
    result = router.generate("otter")
    with router.stream(result) as chunks:
        whole = b"".join(chunks)
    assert whole == router.save(result, tmp_path / "otter.mp4").path.read_bytes()


def test_a_stream_that_is_left_early_closes_its_connection(router, box):
    result = router.generate("otter")
    with router.stream(result) as chunks:
        next(chunks)
    with pytest.raises(LookupError, match="mine"), router.stream(result) as chunks:
        raise LookupError("mine")
    assert router.balance()


def test_generate_many_is_a_plain_iterator(router, box, tmp_path):
    batch = router.generate_many(["otter", "snow"], save_to=tmp_path, ordered=True)
    assert [item.state for item in batch] == ["done", "done"]
    assert batch.summary.done == 2
    assert box.charges() == {"otter": 1, "snow": 1}


def test_a_loop_that_is_left_early_ends_its_batch(holding):
    with VideoRouter("k-1", base_url=holding.base_url, model=MODEL) as router:

        def interrupt():
            holding.wait_until(lambda sandbox: sandbox.held == 2)
            holding.release()

        threading.Thread(target=interrupt).start()
        for _ in router.generate_many((f"otter {number}" for number in range(1000)), concurrency=2):
            break
        holding.wait_until(lambda sandbox: sandbox.held == 0)
        assert router.stats().in_flight == 0


def test_ctrl_c_ends_a_batch_and_records_what_is_in_doubt(holding):
    with VideoRouter("k-1", base_url=holding.base_url, model=MODEL) as router:

        def interrupt():
            holding.wait_until(lambda sandbox: sandbox.held == 3)
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

        threading.Thread(target=interrupt).start()
        with pytest.raises(KeyboardInterrupt):
            list(router.generate_many(["a", "b", "c"]))
        assert len(router.in_doubt) == 3


def test_a_batch_that_outlives_its_client_ends_quietly(router):
    items = iter(router.generate_many(["otter", "snow"], ordered=True))
    next(items)
    router.close()
    items.close()


def test_a_refused_key_is_refused_when_the_client_is_made():
    with pytest.raises(ConfigurationError, match="No API key"):
        VideoRouter()


def test_an_unknown_option_is_refused_as_python_does():
    with pytest.raises(TypeError, match="unknown"):
        VideoRouter("k-1", unknown=1)


def test_the_key_shows_nowhere(router):
    shown = repr(router) + repr(vars(router)) + repr(vars(router._portal)) + str(router)
    assert "k-1" not in shown


def test_verbs_show_the_parameters_and_the_words_of_the_async_ones():
    for name in ("generate", "submit", "edit", "submit_edit", "wait"):
        verb, other = getattr(VideoRouter, name), getattr(AsyncVideoRouter, name)
        assert inspect.signature(verb) == inspect.signature(other)
        assert verb.__doc__ == other.__doc__.replace("await ", "").replace("async ", "")
        assert verb.__qualname__ == f"VideoRouter.{name}"
        assert not inspect.iscoroutinefunction(verb)


def test_a_closed_client_says_so(router):
    router.close()
    router.close()
    with pytest.raises(ClientClosedError):
        router.generate("otter")


def test_it_works_inside_a_running_asyncio_loop_as_notebooks_have(router):
    async def cell():
        return router.generate("otter").video.url

    assert asyncio.run(cell()).startswith("http")


def test_it_works_inside_a_running_trio_loop(router):
    async def main():
        return router.generate("otter").video.url

    assert trio.run(main).startswith("http")


def test_32_threads_share_one_client(holding):
    with VideoRouter("k-1", base_url=holding.base_url, model=MODEL) as router, ThreadPoolExecutor(32) as threads:
        results = [threads.submit(router.generate, f"take {number}") for number in range(32)]
        holding.wait_until(lambda sandbox: sandbox.held == 32)
        holding.release()
        urls = {future.result(20).video.url for future in results}
    assert len(urls) == 32
    assert holding.charges() == {f"take {number}": 1 for number in range(32)}


def test_ctrl_c_stops_the_paid_call_and_records_the_doubt(holding):
    def interrupt():
        holding.wait_until(lambda sandbox: sandbox.held == 1)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    with VideoRouter("k-1", base_url=holding.base_url, model=MODEL) as router:
        threading.Thread(target=interrupt).start()
        with pytest.raises(KeyboardInterrupt):
            router.generate("otter", idempotency_key="mine")
        assert [record.idempotency_key for record in router.in_doubt] == ["mine"]
        holding.wait_until(lambda sandbox: sandbox.held == 0)
        assert router.balance().account_name == "sandbox"


class InterruptedLate(Future):
    """A result that Ctrl-C snatches away when it has come."""

    snatched = False

    def result(self, timeout=None):
        value = super().result(timeout)
        if not self.snatched:
            self.snatched = True
            raise KeyboardInterrupt
        return value


@pytest.mark.parametrize("verb", ["generate", "submit", "edit", "submit_edit"])
@pytest.mark.parametrize("mode", ["held", "task"])
def test_what_ctrl_c_snatches_away_stays_reachable(verb, mode, monkeypatch):
    told = threading.Event()
    with ThreadedSandbox(Sandbox(mode=mode)) as box:
        with VideoRouter("k-1", base_url=box.base_url, model="sora-2", on_in_doubt=lambda _: told.set()) as router:
            first = router.generate("otter")
            args = (first,) if "edit" in verb else ()
            monkeypatch.setattr("videorouter.portal.Future", InterruptedLate)
            with pytest.raises(KeyboardInterrupt):
                getattr(router, verb)(*args, "snow", idempotency_key="mine")
            monkeypatch.undo()
            (record,) = router.in_doubt
            assert record.idempotency_key == "mine"
            assert record.verb == ("edit" if "edit" in verb else "generate")
            assert router.wait(record).videos
            assert told.wait(5)


def test_the_video_of_an_item_that_ctrl_c_snatches_away_stays_reachable(router, monkeypatch):
    router.generate("warm")
    items = iter(router.generate_many(["otter"]))
    monkeypatch.setattr("videorouter.portal.Future", InterruptedLate)
    with pytest.raises(KeyboardInterrupt):
        next(items)
    monkeypatch.undo()
    assert [record.result is not None for record in router.in_doubt] == [True]


@pytest.mark.slow
def test_ctrl_c_at_any_moment_loses_nothing_that_was_charged():
    dice = random.Random(11)
    with (
        ThreadedSandbox(Sandbox(latency=0.02)) as box,
        VideoRouter("k-1", base_url=box.base_url, model=MODEL) as router,
    ):
        router.generate("warm", idempotency_key="warm")
        got = {"warm"}
        for number in range(60):
            key = f"key-{number}"
            timer = threading.Timer(
                0.018 + dice.random() * 0.02, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT)
            )
            try:
                timer.start()
                router.generate(key, idempotency_key=key)
                got.add(key)
                timer.join()
                time.sleep(0.001)  # the signal comes here
            except KeyboardInterrupt:
                timer.join()
        kept = {record.idempotency_key for record in router.in_doubt}
        assert set(box.charges()) <= got | kept


def test_a_script_that_forgets_to_close_ends_by_itself(box):
    program = f"""
        from videorouter import VideoRouter
        router = VideoRouter("k-1", base_url={box.base_url!r}, model={MODEL!r})
        print(len(router.generate("otter").videos))
    """
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "1\n", "")


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("limit", [None, 1])
def test_a_forked_child_and_its_parent_go_on_apart(holding, limit):
    """Even where the parent's only slot is taken at the moment of the fork."""
    client = VideoRouter("k-1", base_url=holding.base_url, model=MODEL, max_concurrency=limit)
    with client as router, ThreadPoolExecutor(1) as threads:
        parents = threads.submit(router.generate, "the parent's")
        holding.wait_until(lambda sandbox: sandbox.held == 1)
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                signal.alarm(20)
                status = 0 if router.generate("the child's").videos else 2
            finally:
                os._exit(status)
        holding.wait_until(lambda sandbox: sandbox.held == 2)
        holding.release()
        _, status = os.waitpid(pid, 0)
        assert parents.result(20).videos
    assert os.waitstatus_to_exitcode(status) == 0
    assert holding.charges() == {"the parent's": 1, "the child's": 1}


def test_a_hook_that_calls_the_same_client_is_told_instead_of_waiting_for_ever(box):
    raised = []

    def hook(_event):
        try:
            router.balance()
        except ConfigurationError as error:
            raised.append(error)

    with VideoRouter("k-1", base_url=box.base_url, model="google/veo3.1/text-to-video", on_event=hook) as router:
        router.generate("otter")
    assert raised
