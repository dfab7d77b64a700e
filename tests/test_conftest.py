"""The guard that keeps tests on this machine does keep them there."""

from __future__ import annotations

import socket

import pytest

pytest_plugins = ["pytester"]


@pytest.mark.parametrize(
    "line",
    [
        "sock.connect(('192.0.2.1', 80))",
        "sock.connect_ex(('192.0.2.1', 80))",
        "sock.sendto(b'x', ('192.0.2.1', 53))",
        "socket.getaddrinfo('gateway.example', 443)",
    ],
)
def test_a_test_that_leaves_this_machine_fails_even_when_it_swallows_the_refusal(pytester, pytestconfig, line):
    source = (pytestconfig.rootpath / "tests" / "conftest.py").read_text()
    pytester.makeconftest(source)
    pytester.makepyfile(
        f"""
        import socket

        def test_it():
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                try:
                    {line}
                except RuntimeError:
                    pass
        """
    )
    pytester.runpytest_inprocess("-p", "no:cacheprovider").assert_outcomes(passed=1, errors=1)


def test_loopback_is_open():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        assert client.getpeername() == server.getsockname()


def test_names_that_exist_nowhere_are_answered_without_asking_anyone():
    with pytest.raises(socket.gaierror, match="not known"):
        socket.getaddrinfo("gateway.invalid", 443)
