"""The values that cross the wire's seam."""

import pytest

from videorouter.http import find_host


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://a.example/x", "a.example:443"),
        ("http://a.example", "a.example:80"),
        ("http://[::1]:8080/", "[::1]:8080"),
        ("https://user:secret@a.example/", "a.example:443"),
        ("http://a:99999/", "http://a:99999/"),
    ],
)
def test_host_and_port_are_told(url, host):
    assert find_host(url) == host
