"""Which idle connection carries a request, and that no place is ever lost."""

import asyncio
import contextlib
import gc
import os
import random
import socket
import threading
import time
import warnings
from pathlib import Path

import pytest

from videorouter.errors import Phase
from videorouter.http import Attempt, WireError, WireFailure
from videorouter.transport.sender import open_sender

from .conftest import ANSWER, Server, answer_all, get, ok, post, send

pytestmark = pytest.mark.anyio


def find_pool(sender):
    return sender._exchanger.pools.find()


def list_connections(sender):
    return [connection for origin in find_pool(sender)._origins.values() for connection in (*origin.idle, *origin.busy)]


async def settle(condition):
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never came to rest")


def count_files():
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def count_timers():
    """Those of asyncio's own loop: uvloop does not list its own."""
    scheduled = getattr(asyncio.get_running_loop(), "_scheduled", ())
    return sum(1 for handle in scheduled if not handle.cancelled())


async def test_a_server_that_closes_after_each_answer_without_saying_so(serve, sender):
    """Where the FIN has arrived nothing fails, however often."""

    async def script(peer):
        await peer.request()
        await peer.say(ok())
        peer.close()

    server = await serve(script)
    for _ in range(200):
        assert (await send(sender, post(server.url))).body == ANSWER
        await asyncio.sleep(0.001)
    assert server.connections == 200


async def test_a_fin_that_arrived_while_the_loop_was_busy_is_seen_before_writing(serve, sender):
    """The loop had no turn to notice it: only the look at the socket does."""
    listener = socket.create_server(("127.0.0.1", 0))
    served = []

    def answer_and_close():
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            served.append(sock.recv(65_536))
            sock.sendall(ok())
            sock.close()

    thread = threading.Thread(target=answer_and_close, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    for _ in range(50):
        await send(sender, get(url))
        time.sleep(0.002)  # noqa: ASYNC251 - the loop is meant to stand still
    assert len(served) == 50
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(5)


async def test_a_close_that_crosses_the_request_is_in_doubt_and_never_repeated(serve, sender):
    seen = []

    async def script(peer):
        while request := await peer.request():
            seen.append(request)
            if peer.number == 1 and len(seen) == 2:
                peer.close()
                return
            await peer.say(ok())

    server = await serve(script)
    await send(sender, post(server.url))
    attempt = Attempt()
    with pytest.raises(WireError) as caught:
        await send(sender, post(server.url), attempt=attempt)
    assert (caught.value.failure, attempt.phase) == (WireFailure.RESET, Phase.SENT)
    assert len(seen) == 2
    await send(sender, post(server.url))
    await send(sender, post(server.url))
    assert server.connections == 3, "an origin that closed silently gets a fresh connection for each POST"


@pytest.mark.parametrize("silently", [True, False])
async def test_there_are_never_more_connections_than_were_once_busy_together(serve, sender, silently):
    """Whether an origin has closed one silently, or each call comes after the two seconds in which a POST uses one."""
    server = await serve(answer_all)
    await send(sender, post(server.url))
    pool = find_pool(sender)
    (origin,) = pool._origins.values()
    origin.closes_silently = silently
    most = 0

    async def work():
        nonlocal most
        for _ in range(40):
            await send(sender, post(server.url))
            most = max(most, len(list_connections(sender)))
            for connection in origin.idle:
                connection.idle_since -= 2.5

    await asyncio.gather(*(work() for _ in range(8)))
    assert server.connections > 100
    assert most <= 8
    await settle(lambda: len(server.peers) <= 8)


async def test_a_read_may_use_what_a_post_may_not(serve, sender):
    server = await serve(answer_all)
    await send(sender, post(server.url))
    (connection,) = list_connections(sender)
    connection.idle_since -= 2.5
    await send(sender, get(server.url))
    assert server.connections == 1
    connection.idle_since -= 2.5
    await send(sender, post(server.url))
    assert server.connections == 2


async def test_connections_that_were_idle_for_too_long_are_closed(serve, sender):
    server = await serve(answer_all)
    await asyncio.gather(*(send(sender, post(server.url)) for _ in range(20)))
    pool = find_pool(sender)
    assert pool.count() == len(list_connections(sender)) == server.connections
    for connection in list_connections(sender):
        connection.idle_since -= 20
    pool.sweep()
    assert list_connections(sender) == []


@pytest.mark.parametrize("request_for", [get, post])
async def test_no_connection_of_before_a_suspension_is_used(serve, sender, monkeypatch, request_for):
    """The clock of the event loop stands still meanwhile; a server, or a NAT on the way, does not."""
    server = await serve(answer_all)
    await send(sender, get(server.url))
    monkeypatch.setattr("videorouter.transport.connection.read_clock", lambda: time.monotonic() + 1e9)
    assert (await send(sender, request_for(server.url))).body == ANSWER
    assert server.connections == 2


async def test_an_origin_that_is_being_connected_to_is_not_swept_away(full_backlog):
    sender = open_sender(trust_env=False, connect_timeout=0.3)
    call = asyncio.ensure_future(send(sender, post(full_backlog)))
    await asyncio.sleep(0.05)
    pool = find_pool(sender)
    pool.sweep()
    assert len(pool._origins) == 1
    with pytest.raises(WireError):
        await call
    pool.sweep()
    assert len(pool._origins) == 0
    await sender.aclose()


async def test_connections_can_be_counted_from_another_thread(serve, sender):
    server = await serve(answer_all)
    ended = threading.Event()

    def count():
        most = 0
        while not ended.is_set():
            most = max(most, sender.connections)
        return most

    counting = asyncio.ensure_future(asyncio.to_thread(count))
    for _ in range(20):
        await asyncio.gather(*(send(sender, post(server.url)) for _ in range(50)))
        for connection in list_connections(sender):
            connection.idle_since -= 2.5
    ended.set()
    assert 0 < await counting <= 50


@pytest.mark.parametrize("garbage", [b"garbage", ok(b"another's answer"), b"HTTP/1.1 200"])
async def test_what_arrives_unasked_is_nobodys_answer(serve, sender, garbage):
    """On an idle connection, and right behind an answer."""

    async def script(peer):
        while await peer.request():
            await peer.say(ok(b"own") + (garbage if peer.number == 1 else b""))
            if peer.number == 2:
                await peer.say(garbage)

    server = await serve(script)
    for _ in range(3):
        assert (await send(sender, post(server.url))).body == b"own"
        await asyncio.sleep(0.02)
    assert server.connections == 3


@pytest.mark.parametrize("close", [b"Connection: close", b"HTTP/1.0"])
async def test_a_connection_that_the_server_gives_up_is_not_kept(serve, sender, close):
    async def script(peer):
        await peer.request()
        answer = ok().replace(b"HTTP/1.1", close) if close == b"HTTP/1.0" else ok(ANSWER, close)
        await peer.say(answer)
        await peer.gone()

    server = await serve(script)
    await send(sender, post(server.url))
    await send(sender, post(server.url))
    assert server.connections == 2
    assert list_connections(sender) == []


async def test_cancelled_at_random_points_no_place_is_lost(serve, sender):
    """30 workers on 10 places, thousands of rounds: afterwards all is as before."""
    dice = random.Random(4)
    places = asyncio.Semaphore(10)

    async def script(peer):
        while await peer.request():
            if dice.random() < 0.5:
                await asyncio.sleep(dice.random() * 0.003)
            await peer.say(ok())

    server = await serve(script)
    tasks_before = asyncio.all_tasks()

    async def call(request):
        async with places:
            return await send(sender, request)

    async def work():
        for _ in range(100):
            task = asyncio.ensure_future(call(get(server.url) if dice.random() < 0.9 else post(server.url)))
            await asyncio.sleep(dice.random() * 0.002)
            if dice.random() < 0.7:
                task.cancel()
            await asyncio.wait((task,))

    await asyncio.gather(*(work() for _ in range(30)))
    answers = await asyncio.wait_for(asyncio.gather(*(call(post(server.url)) for _ in range(10))), 5)
    assert all(answer.body == ANSWER for answer in answers)
    pool = find_pool(sender)
    assert pool.connects.value == 96
    assert all(connection.future is None and connection.timer is None for connection in list_connections(sender))
    assert asyncio.all_tasks() - tasks_before - server.peers == set()
    await sender.aclose()
    await settle(lambda: not server.peers)
    assert count_timers() == 0


async def test_a_sibling_that_fails_in_a_group_leaves_nothing_behind(serve, sender):
    async def script(peer):
        while await peer.request():
            await peer.gone()

    server = await serve(script)

    async def fail():
        await settle(lambda: server.connections >= 20)
        raise ValueError

    async def run_group():
        async with asyncio.TaskGroup() as group:
            for _ in range(20):
                group.create_task(send(sender, get(server.url)))
            group.create_task(fail())

    with pytest.raises(ExceptionGroup):
        await run_group()
    assert list_connections(sender) == []
    await settle(lambda: not server.peers)


async def test_a_cancelled_read_ends_at_once(serve, sender, monkeypatch):
    monkeypatch.setattr("videorouter.transport.exchange.CANCEL_GRACE", 60.0)

    async def script(peer):
        await peer.request()
        await peer.gone()

    server = await serve(script)
    attempt = Attempt()
    task = asyncio.ensure_future(send(sender, get(server.url), attempt=attempt))
    await settle(lambda: attempt.phase is Phase.SENT)
    task.cancel()
    await asyncio.wait((task,), timeout=20)
    assert task.cancelled()
    await settle(lambda: not server.peers)


async def test_a_cancelled_post_catches_an_answer_that_is_on_its_way(serve, sender):
    release = asyncio.Event()

    async def script(peer):
        await peer.request()
        await release.wait()
        await peer.say(ok())
        await peer.gone()

    server = await serve(script)
    attempt = Attempt()
    task = asyncio.ensure_future(send(sender, post(server.url), attempt=attempt))
    await settle(lambda: attempt.phase is Phase.SENT)
    task.cancel()
    await asyncio.sleep(0.01)
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert attempt.phase is Phase.COMPLETE
    assert attempt.response.body == ANSWER


async def test_a_cancelled_post_waits_no_longer_than_a_second(serve, sender, monkeypatch):
    monkeypatch.setattr("videorouter.transport.exchange.CANCEL_GRACE", 0.1)

    async def script(peer):
        await peer.request()
        await peer.gone()

    server = await serve(script)
    attempt = Attempt()
    task = asyncio.ensure_future(send(sender, post(server.url), attempt=attempt))
    await settle(lambda: attempt.phase is Phase.SENT)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert attempt.phase is Phase.SENT
    await settle(lambda: not server.peers)


async def test_a_second_cancellation_is_not_held_back(serve, sender, monkeypatch):
    monkeypatch.setattr("videorouter.transport.exchange.CANCEL_GRACE", 60.0)

    async def script(peer):
        await peer.request()
        await peer.gone()

    server = await serve(script)
    attempt = Attempt()
    task = asyncio.ensure_future(send(sender, post(server.url), attempt=attempt))
    await settle(lambda: attempt.phase is Phase.SENT)
    task.cancel()
    await asyncio.sleep(0.01)
    assert not task.done()
    task.cancel()
    await asyncio.wait((task,), timeout=20)
    assert task.cancelled()
    await settle(lambda: not server.peers)


async def test_connects_are_gated_and_all_succeed(serve, sender):
    server = await serve(answer_all)
    answers = await asyncio.gather(*(send(sender, post(server.url)) for _ in range(1000)))
    assert len(answers) == 1000
    assert find_pool(sender).connects.value == 96


def in_new_loop(work):
    """One ``asyncio.run`` with a server of its own."""

    async def main():
        server = await Server(answer_all).start()
        try:
            return await work(server)
        finally:
            await server.stop()

    return asyncio.run(main())


def test_one_sender_works_in_three_successive_loops():
    sender = open_sender(trust_env=False)

    async def work(server):
        answers = await asyncio.gather(*(send(sender, post(server.url)) for _ in range(5)))
        assert (await send(sender, post(server.url))).body == ANSWER
        return len(answers)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [in_new_loop(work) for _ in range(3)] == [5, 5, 5]
        asyncio.run(sender.aclose())
        gc.collect()


def test_pools_are_dropped_with_their_loops():
    sender = open_sender(trust_env=False)
    before = count_files()

    async def work(server):
        await send(sender, post(server.url))

    for _ in range(100):
        in_new_loop(work)
    gc.collect()
    assert len(sender._exchanger.pools._by_loop) <= 1
    assert count_files() <= before + 4
    asyncio.run(sender.aclose())


def test_one_sender_works_in_two_threads_at_once():
    sender = open_sender(trust_env=False)
    results = []

    async def work(server):
        for number in range(50):
            body = b"%d-%d" % (threading.get_ident(), number)
            results.append((await send(sender, post(server.url, body))).body == ANSWER)

    threads = [threading.Thread(target=in_new_loop, args=(work,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert results == [True] * 100
    asyncio.run(sender.aclose())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks are a matter of POSIX")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_uses_connections_of_its_own():
    """The parent's idle connection stays the parent's: both send at the same time and get their own answers."""

    async def main():
        async def echo(peer):
            while request := await peer.request():
                await peer.say(ok(b"%d:" % peer.number + request[1]))

        server = await Server(echo).start()
        sender = open_sender(trust_env=False)
        first = await send(sender, post(server.url, b"parent"))
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                asyncio.events._set_running_loop(None)
                asyncio.set_event_loop(None)
                answer = asyncio.run(send(sender, post(server.url, b"child")))
                os.write(write, answer.body)
            finally:
                os._exit(0)
        os.close(write)
        loop = asyncio.get_running_loop()
        child = await loop.run_in_executor(None, os.read, read, 100)
        await loop.run_in_executor(None, os.waitpid, pid, 0)
        second = await send(sender, post(server.url, b"parent"))
        await sender.aclose()
        await server.stop()
        return first.body, child, second.body

    assert asyncio.run(main()) == (b"1:parent", b"2:child", b"1:parent")


async def test_out_of_file_descriptors_is_said_clearly(serve, sender):
    import resource

    server = await serve(answer_all)
    await send(sender, post(server.url))
    await sender.aclose()
    sender = open_sender(trust_env=False)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    held = []
    try:
        with contextlib.suppress(OSError):
            while True:
                held.append(os.dup(0))
        attempt = Attempt()
        with pytest.raises(WireError) as caught:
            await send(sender, post(server.url), attempt=attempt)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for number in held:
            os.close(number)
    assert (caught.value.failure, attempt.phase) == (WireFailure.OUT_OF_FILES, Phase.CONNECTING)
    assert "max_concurrency" in caught.value.message
    assert (await send(sender, post(server.url))).body == ANSWER
    await sender.aclose()
