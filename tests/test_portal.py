"""The four traps of a portal, each cured, and what every sync caller stands on."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest
import trio

from videorouter.errors import ClientClosedError, ConfigurationError
from videorouter.portal import Portal


class Client:
    """Stands for a client: remembers what ran, and where."""

    def __init__(self):
        self.closed = 0
        self.thread = None
        self.begun = threading.Event()
        self.cancelled = threading.Event()
        self.cancelled_at = 0.0
        self.pid = os.getpid()

    async def aclose(self):
        self.closed += 1

    async def echo(self, value):
        self.thread = threading.current_thread()
        await asyncio.sleep(0)
        return value

    async def fail(self):
        raise LookupError("from the loop")

    async def hold(self):
        self.begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            self.cancelled_at = time.monotonic()
            self.cancelled.set()
            raise


def press_until_cancelled(client, number):
    """Signal the main thread once ``client`` works, and again each second.

    A signal that arrives between CPython's last look and the wait of the main thread shows only at the next one.
    """

    def press():
        client.begun.wait(10)
        signal.pthread_kill(threading.main_thread().ident, number)
        while not client.cancelled.wait(1):
            signal.pthread_kill(threading.main_thread().ident, number)

    threading.Thread(target=press).start()


@pytest.fixture
def portal():
    portal = Portal(Client)
    yield portal
    portal.close()


def run(program, *, timeout=20, **options):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        **options,
    )


def test_work_runs_on_a_thread_of_its_own_and_its_value_comes_back(portal):
    assert portal.call(lambda client: client.echo(7)) == 7
    assert portal.client.thread is not threading.current_thread()


def test_what_the_work_raises_is_raised_in_the_caller(portal):
    with pytest.raises(LookupError, match="from the loop"):
        portal.call(lambda client: client.fail())


def test_no_thread_starts_before_the_first_call():
    before = threading.active_count()
    Portal(Client)
    assert threading.active_count() == before


def test_context_variables_of_the_caller_are_seen_by_the_work(portal):
    variable = contextvars.ContextVar("variable", default="none")
    variable.set("mine")

    async def look(_client):
        return variable.get()

    assert portal.call(look) == "mine"


def test_a_running_asyncio_loop_changes_nothing(portal):
    async def main():
        return portal.call(lambda client: client.echo("here"))

    assert asyncio.run(main()) == "here"


def test_a_running_trio_loop_changes_nothing(portal):
    async def main():
        return portal.call(lambda client: client.echo("here"))

    assert trio.run(main) == "here"


def test_threads_share_one_loop(portal):
    together = threading.Barrier(32, timeout=10)
    got = []

    async def meet(_client, number):
        await asyncio.sleep(0)
        return number, threading.get_ident()

    def work(number):
        together.wait()
        got.append(portal.call(lambda client: meet(client, number)))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(number for number, _ in got) == list(range(32))
    assert len({ident for _, ident in got}) == 1


# Ctrl-C


def test_an_interrupt_cancels_the_work_and_waits_for_its_end(portal):
    client = portal.client

    press_until_cancelled(client, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        portal.call(lambda client: client.hold())
    assert client.cancelled.is_set()
    assert portal.call(lambda client: client.echo("goes on")) == "goes on"


def test_an_interrupted_caller_waits_no_longer_than_its_work(portal, monkeypatch):
    monkeypatch.setattr("videorouter.portal.CANCEL_TIMEOUT", 60.0)
    client = portal.client
    press_until_cancelled(client, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        portal.call(lambda client: client.hold())
    assert time.monotonic() - client.cancelled_at < 30


def test_any_exception_of_a_signal_handler_cancels_the_work(portal):
    client = portal.client

    class TimeIsUpError(Exception):
        pass

    def handler(*_):
        raise TimeIsUpError

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        press_until_cancelled(client, signal.SIGUSR1)
        with pytest.raises(TimeIsUpError):
            portal.call(lambda client: client.hold())
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert client.cancelled.is_set()


# Closing


def test_close_closes_the_client_on_its_loop_and_ends_the_thread(portal):
    portal.call(lambda client: client.echo(1))
    client = portal.client
    portal.close()
    portal.close()
    assert client.closed == 1
    assert not client.thread.is_alive()


def test_a_closed_portal_says_so(portal):
    portal.close()
    with pytest.raises(ClientClosedError, match="closed"):
        portal.call(lambda client: client.echo(1))


def test_a_call_under_way_at_close_ends_with_an_error_of_ours(portal):
    raised = []

    def work():
        try:
            portal.call(lambda client: client.hold())
        except ClientClosedError as error:
            raised.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    portal.client.begun.wait(10)
    portal.close()
    thread.join(10)
    assert len(raised) == 1


def test_a_portal_that_is_forgotten_ends_its_thread():
    portal = Portal(Client)
    client = portal.client
    portal.call(lambda client: client.echo(1))
    del portal
    gc.collect()
    client.thread.join(10)
    assert not client.thread.is_alive()
    assert client.closed == 1


def test_a_portal_left_open_does_not_hang_the_interpreter_and_closes_its_client():
    program = """
        from videorouter.portal import Portal

        class Client:
            async def aclose(self):
                print("closed", flush=True)
            async def echo(self, value):
                return value

        portal = Portal(Client)
        print(portal.call(lambda client: client.echo("called")), flush=True)
    """
    ended = run(program)
    assert (ended.returncode, ended.stdout.split(), ended.stderr) == (0, ["called", "closed"], "")


def test_a_call_from_the_loops_own_thread_is_refused_instead_of_waiting_for_itself(portal):
    async def call_again(_client):
        return portal.call(lambda client: client.echo(1))

    with pytest.raises(ConfigurationError, match="wait for itself"):
        portal.call(call_again)


# Fork


def in_child(work):
    """Run ``work`` in a forked child and return the text that it gives."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            signal.alarm(15)
            text = str(work())
        except BaseException as error:  # noqa: BLE001  reported to the parent
            text = repr(error)
        os.write(writing, text.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    os.waitpid(pid, 0)
    return text


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_gets_a_client_and_a_loop_of_its_own(portal):
    portal.call(lambda client: client.echo(1))

    def work():
        return portal.call(lambda client: client.echo(client.pid == os.getpid()))

    assert in_child(work) == "True"
    assert portal.call(lambda client: client.echo("parent")) == "parent"


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_while_another_thread_starts_the_loop_does_not_block_the_child(portal):
    with portal._loop.mutex:
        holder = threading.Thread(target=lambda: portal.call(lambda client: client.echo(1)))
        holder.start()
        text = in_child(lambda: portal.call(lambda client: client.echo("child")))
    holder.join(10)
    assert text == "child"


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_that_ends_properly_leaves_the_parents_loop_alone(portal):
    program = """
        import os, sys
        from videorouter.portal import Portal

        class Client:
            async def aclose(self):
                pass
            async def echo(self, value):
                return value

        portal = Portal(Client)
        portal.call(lambda client: client.echo(1))
        if os.fork() == 0:
            portal.call(lambda client: client.echo(1))
            sys.exit(0)
        _, status = os.wait()
        print(status, portal.call(lambda client: client.echo("parent")))
    """
    # From 3.12 on CPython warns of every fork beside a thread
    quiet = [sys.executable, "-W", "ignore:This process:DeprecationWarning", "-c", textwrap.dedent(program)]
    ended = subprocess.run(quiet, capture_output=True, text=True, timeout=20, check=False)
    assert (ended.stdout.split(), ended.stderr) == (["0", "parent"], "")


# Tasks


def test_a_task_does_all_its_calls(portal):
    task = portal.open_task()

    async def name():
        return id(asyncio.current_task())

    first = task.call(name)
    assert task.call(name) == first
    task.close()
    task.close()


def test_an_interrupted_call_leaves_its_task_usable(portal):
    task = portal.open_task()
    client = portal.client

    press_until_cancelled(client, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        task.call(client.hold)

    async def pending():
        return asyncio.current_task().cancelling()

    assert client.cancelled.is_set()
    assert task.call(pending) == 0
    task.close()


def test_a_task_of_a_closed_portal_says_so(portal):
    task = portal.open_task()
    task.call(lambda: portal.client.echo(1))
    portal.close()
    with pytest.raises(ClientClosedError):
        task.call(lambda: portal.client.echo(1))


def test_a_derived_portal_shares_the_thread_and_has_its_own_client(portal):
    derived = portal.derive(lambda _client: Client())
    portal.call(lambda client: client.echo(1))
    derived.call(lambda client: client.echo(1))
    assert derived.client is not portal.client
    assert derived.client.thread is portal.client.thread
