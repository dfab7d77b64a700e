"""One TLS context for a process, made once, in a thread."""

import asyncio
import os
import ssl
import threading

import pytest

from videorouter.transport import tls

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    monkeypatch.setattr(tls._shared, "_making", None)


async def test_everybody_gets_the_same_and_it_is_made_once_in_a_thread(monkeypatch):
    made = []

    def make():
        made.append(threading.current_thread())
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

    monkeypatch.setattr(tls, "make_context", make)
    contexts = await asyncio.gather(*(tls.share_context() for _ in range(20)))
    assert len(set(map(id, contexts))) == 1
    assert await tls.share_context() is contexts[0]
    assert tls.wait_for_context() is contexts[0]
    assert len(made) == 1
    assert made[0] is not threading.main_thread()


async def test_a_failure_is_told_and_not_remembered(monkeypatch):
    def fail():
        raise OSError("no such file")

    with monkeypatch.context() as patch:
        patch.setattr(tls, "make_context", fail)
        with pytest.raises(OSError, match="no such file"):
            await tls.share_context()
    assert await tls.share_context() is not None


async def test_one_waiters_cancellation_is_not_everybodys(monkeypatch):
    release = threading.Event()

    def make():
        release.wait(5)
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

    monkeypatch.setattr(tls, "make_context", make)
    first, second = (asyncio.ensure_future(tls.share_context()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    release.set()
    assert await second is not None


def test_the_context_verifies():
    context = tls.make_context()
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname


def test_where_the_system_has_no_store_certifis_is_used(monkeypatch):
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.setenv(name, "/nowhere")
    assert tls.make_context().cert_store_stats()["x509_ca"] > 50


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks are a matter of POSIX")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_does_not_wait_for_its_parents_thread(monkeypatch):
    release = threading.Event()
    monkeypatch.setattr(tls, "make_context", lambda: release.wait(30))
    making = tls._shared.make()
    pid = os.fork()
    if pid == 0:
        tls.make_context = lambda: "made in the child"
        os._exit(0 if tls.wait_for_context() == "made in the child" else 1)
    _, status = os.waitpid(pid, 0)
    release.set()
    assert os.waitstatus_to_exitcode(status) == 0
    assert making.result(5)
