"""Who sends, and that choosing costs nothing."""

import subprocess
import sys

import httpx
import pytest

from videorouter import ConfigurationError
from videorouter.transport.httpx_sender import HttpxSender
from videorouter.transport.sender import SocketSender, open_sender


def test_a_users_client_is_used_and_everybody_else_gets_ours():
    assert isinstance(open_sender(http_client=httpx.AsyncClient()), HttpxSender)
    assert isinstance(open_sender(trust_env=False), SocketSender)


@pytest.mark.parametrize("client", [httpx.Client(), "http://127.0.0.1", object()])
def test_what_is_no_async_client_of_httpx_is_refused_before_anything_is_sent(client):
    with pytest.raises(ConfigurationError, match=r"must be an httpx\.AsyncClient"):
        open_sender(http_client=client)


def test_opening_makes_no_tls_context_and_starts_no_thread():
    program = """
import ssl, threading
def fail(*args, **options):
    raise AssertionError("a TLS context was made")
ssl.SSLContext.load_default_certs = fail
from videorouter.transport.sender import open_sender
open_sender(proxy="http://127.0.0.1:1")
open_sender(trust_env=False)
assert threading.active_count() == 1
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_naming_the_client_does_not_import_httpx():
    program = "import sys; from videorouter import AsyncVideoRouter; assert 'httpx' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
