"""From an exception, however wrapped, to a cause and a sentence that helps."""

import errno
import socket
import ssl

import pytest

from videorouter.http import WireFailure
from videorouter.transport.causes import explain, name_connect_failure


def wrap(error):
    """As anyio and httpcore do it."""
    try:
        try:
            raise ExceptionGroup("multiple attempts failed", [error])  # noqa: TRY301 - as it comes
        except ExceptionGroup as group:
            raise OSError("All connection attempts failed") from group
    except OSError as outer:
        return outer


CASES = [
    (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), WireFailure.CONNECTION_REFUSED),
    (OSError(errno.ENETUNREACH, "no route"), WireFailure.UNREACHABLE),
    (OSError(errno.EHOSTUNREACH, "no route"), WireFailure.UNREACHABLE),
    (OSError(errno.EMFILE, "too many"), WireFailure.OUT_OF_FILES),
    (TimeoutError("slow"), WireFailure.CONNECT_TIMEOUT),
    (socket.gaierror(socket.EAI_NONAME, "none"), WireFailure.NAME_MISSING),
    (socket.gaierror(socket.EAI_AGAIN, "later"), WireFailure.NAME_TEMPORARY),
    (ssl.SSLCertVerificationError("bad"), WireFailure.CERTIFICATE),
    (ssl.SSLEOFError("cut"), WireFailure.TLS_CUT),
    (ConnectionResetError(errno.ECONNRESET, "reset"), WireFailure.TLS_CUT),
    (RuntimeError("what?"), WireFailure.UNREACHABLE),
]


@pytest.mark.parametrize(("error", "failure"), CASES)
def test_a_cause_is_named(error, failure):
    assert name_connect_failure(error) is failure


@pytest.mark.parametrize(("error", "failure"), CASES[:-1])
def test_a_cause_is_found_however_deep_it_lies(error, failure):
    assert name_connect_failure(wrap(error)) is failure


def test_a_ring_of_causes_ends():
    first, second = OSError("a"), OSError("b")
    first.__context__, second.__context__ = second, first
    assert name_connect_failure(first) is WireFailure.UNREACHABLE


def test_the_sentence_names_place_cause_and_what_to_do():
    error = explain(
        WireFailure.CONNECTION_REFUSED, "gateway.example:443", ConnectionRefusedError(errno.ECONNREFUSED, "refused")
    )
    assert error.host == "gateway.example:443"
    assert error.message.startswith("connection refused at gateway.example:443: [Errno 111] refused")
    assert "base URL" in error.message


def test_a_long_cause_is_cut():
    assert len(explain(WireFailure.RESET, "a:1", OSError("x" * 10_000)).message) < 1000
