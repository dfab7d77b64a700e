"""One TLS context for a process, made once, in a thread."""

import asyncio
import datetime as dt
import os
import ssl
import sys
import threading

import pytest
import trustme
import truststore
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from videorouter import APIConnectionError, AsyncVideoRouter
from videorouter.transport import tls
from videorouter.transport.sender import open_sender

from .conftest import ANSWER, answer_all, post, send

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def plain_trust(monkeypatch):
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", tls.STRICT_VARIABLE):
        monkeypatch.delenv(name, raising=False)


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
    monkeypatch.setattr(ssl.SSLContext, "set_default_verify_paths", lambda context: None)
    monkeypatch.setattr(tls, "_has_directory", lambda: False)
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


# Whom a client trusts, over real connections


async def fail(url):
    async with AsyncVideoRouter("key", base_url=f"{url}/v1", model="veo", max_retries=0) as router:
        with pytest.raises(APIConnectionError) as caught:
            await router.generate("otter")
    return str(caught.value)


async def ask(url):
    sender = open_sender(trust_env=False)
    try:
        return (await send(sender, post(url))).body
    finally:
        await sender.aclose()


def write_pem(authority, path):
    authority.cert_pem.write_to_path(path)
    return str(path)


async def test_a_changed_certificate_file_counts_from_the_next_connection(
    serve, server_tls, authority, tmp_path, monkeypatch
):
    server = await serve(answer_all, tls=server_tls)
    file = write_pem(trustme.CA(), tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", file)
    words = await fail(server.url)
    assert f"SSL_CERT_FILE={file} was read and does not hold the issuer" in words
    write_pem(authority, tmp_path / "ca.pem")
    assert await ask(server.url) == ANSWER
    monkeypatch.setenv("SSL_CERT_FILE", write_pem(trustme.CA(), tmp_path / "other.pem"))
    assert "does not hold the issuer" in await fail(server.url)
    monkeypatch.setenv("SSL_CERT_FILE", write_pem(authority, tmp_path / "third.pem"))
    assert await ask(server.url) == ANSWER


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
async def test_a_misspelt_variable_is_said_and_not_ignored(serve, server_tls, tmp_path, monkeypatch, variable):
    server = await serve(answer_all, tls=server_tls)
    monkeypatch.setenv(variable, str(tmp_path / "misspelt"))
    words = await fail(server.url)
    assert f"{variable}={tmp_path / 'misspelt'}" in words
    assert "correct the variable" in words
    assert server.requests == []


async def test_an_unknown_issuer_is_said(serve, server_tls):
    server = await serve(answer_all, tls=server_tls)
    words = await fail(server.url)
    assert "nobody whom this machine trusts" in words
    assert "set SSL_CERT_FILE to its authority" in words


@pytest.mark.parametrize(
    ("name", "until", "words"),
    [
        ("127.0.0.1", dt.datetime(2020, 1, 1, tzinfo=dt.UTC), "out of date, or this machine's clock"),
        ("127.0.0.2", None, "for another host"),
        ("elsewhere.example", None, "for another host"),
    ],
)
async def test_an_expired_certificate_and_another_hosts_are_said(
    serve, authority, tmp_path, monkeypatch, name, until, words
):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name, not_after=until).configure_cert(context)
    server = await serve(answer_all, tls=context)
    monkeypatch.setenv("SSL_CERT_FILE", write_pem(authority, tmp_path / "ca.pem"))
    said = await fail(server.url)
    assert words in said
    assert "SSL_CERT_FILE" not in said


def make_loose_root(folder):
    """The files of a root as inspecting proxies make them, without key usage, and of a certificate that it issued."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name.from_rfc4514_string("CN=Inspecting proxy")
    now = dt.datetime.now(dt.UTC)
    valid = x509.CertificateBuilder(not_valid_before=now - dt.timedelta(1), not_valid_after=now + dt.timedelta(1))
    root = valid.issuer_name(name).subject_name(name).public_key(key.public_key()).serial_number(1)
    root = root.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=False)
    leaf = valid.issuer_name(name).subject_name(x509.Name([])).public_key(key.public_key()).serial_number(2)
    host = x509.SubjectAlternativeName([x509.DNSName("localhost")])
    signed = [one.sign(key, hashes.SHA256()) for one in (root, leaf.add_extension(host, critical=True))]
    for file, certificate in zip(("root.pem", "leaf.pem"), signed, strict=True):
        (folder / file).write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


BY_ITSELF = pytest.mark.skipif(sys.version_info < (3, 13), reason="Python 3.13 has begun to be strict by itself")


@pytest.mark.parametrize("strict", ["set here", pytest.param("by Python itself", marks=BY_ITSELF)])
async def test_a_root_that_fails_the_strict_check_is_said_and_can_be_allowed(serve, tmp_path, monkeypatch, strict):
    make_loose_root(tmp_path)
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(tmp_path / "leaf.pem", tmp_path / "key.pem")
    server = await serve(answer_all, tls=server_side)
    url = server.url.replace("127.0.0.1", "localhost")
    make = ssl.create_default_context

    def make_strict():
        context = make()
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    if strict == "set here":
        monkeypatch.setattr(ssl, "create_default_context", make_strict)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "root.pem"))
    words = await fail(url)
    assert "strict check" in words
    assert "INFRON_X509_STRICT=0" in words
    monkeypatch.setenv("INFRON_X509_STRICT", "0")
    assert await ask(url) == ANSWER


async def test_truststore_decides_where_it_was_injected(serve, server_tls, authority, tmp_path, monkeypatch):
    server = await serve(answer_all, tls=server_tls)
    monkeypatch.setenv("SSL_CERT_FILE", write_pem(authority, tmp_path / "ca.pem"))
    assert await ask(server.url) == ANSWER
    truststore.inject_into_ssl()
    try:
        assert await ask(server.url) == ANSWER
        assert type(await tls.share_context()) is truststore.SSLContext
        monkeypatch.delenv("SSL_CERT_FILE")
        assert "nobody whom this machine trusts" in await fail(server.url)
    finally:
        truststore.extract_from_ssl()
