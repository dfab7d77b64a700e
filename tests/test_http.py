"""The values that cross the wire's seam."""

import pytest

from videorouter.http import name_host, origin_of


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
    assert name_host(url) == host


def test_an_origin_is_scheme_host_and_port():
    assert origin_of("HTTPS://Video.Example./v1") == ("https", "video.example", 443)
    assert origin_of("http://[::1]:8000/v1") == ("http", "::1", 8000)
