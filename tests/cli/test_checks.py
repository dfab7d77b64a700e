import socket

import pytest
import truststore

from videorouter.cli.checks import check_base_url, check_certificates, check_machine, check_proxies, check_secret
from videorouter.cli.parser import parse

VENDOR = "https://gateway.invalid/v1"


def secret(text=None, *argv, **environ):
    return check_secret(parse(["doctor", *argv]), environ, text)


@pytest.mark.parametrize(
    ("key", "state"),
    [
        ("sk-123", "ok"),
        ("Bearer sk-123", "ok"),
        (" sk-123\n", "ok"),
        ("<API_KEY>", "fail"),
        ("YOUR_API_KEY", "fail"),
        ("'sk-123'", "fail"),
        ("sk 123", "warn"),
        ("\u201csk\u201d", "fail"),
    ],
)
def test_a_key_is_judged_by_its_looks_and_never_shown(key, state):
    [check] = secret(INFRON_API_KEY=key)
    assert check.state == state
    assert "123" not in check.found + (check.mend or "")


def test_the_other_package_s_variable_is_named():
    [check] = secret(VIDEOROUTER_API_KEY="x")
    assert "another package" in check.found


@pytest.mark.parametrize(
    ("url", "state"),
    [
        ("https://video.onerouter.pro/v1", "ok"),
        ("http://127.0.0.1:8700/v1", "ok"),
        ("https://video.onerouter.pro", "warn"),
        ("http://video.onerouter.pro/v1", "fail"),
        ("video.onerouter.pro", "fail"),
        ("https://user:secret@h/v1", "fail"),
    ],
)
def test_an_address_is_judged(url, state):
    check = check_base_url(url, "from a test", allow_insecure=False)
    assert check.state == state
    assert "secret" not in check.found + (check.mend or "")


@pytest.mark.parametrize(
    ("proxy", "url", "state"),
    [
        (None, VENDOR, "ok"),
        ("http://u:secret@proxy.invalid:3128", VENDOR, "info"),
        ("proxy.invalid:3128", VENDOR, "info"),
        ("ftp://proxy.invalid", VENDOR, "fail"),
        ("socks://proxy.invalid:1080", VENDOR, "fail"),
        ("http://127.0.0.1:9", VENDOR, "fail"),
        ("http://proxy.invalid:3128", "http://127.0.0.1:1/v1", "warn"),
    ],
)
def test_a_proxy_is_judged(monkeypatch, proxy, url, state):
    if proxy is not None:
        monkeypatch.setenv("https_proxy", proxy)
        monkeypatch.setenv("http_proxy", proxy)
    check, *_ = check_proxies(url, online=False)
    assert (check.name, check.state) == ("proxy", state)
    assert "secret" not in check.found


def test_a_proxy_that_no_request_needs_is_told_and_is_no_problem(monkeypatch):
    monkeypatch.setenv("https_proxy", "http://proxy.invalid:3128")
    monkeypatch.setenv("all_proxy", "socks://proxy.invalid:1080/")
    used, unused = check_proxies(VENDOR, online=False)
    assert (used.found, used.state) == ("http://proxy.invalid:3128", "info")
    assert (unused.name, unused.state) == ("unused proxy", "info")
    assert "ALL_PROXY" in unused.found


def test_a_proxy_that_is_not_there_is_named_as_the_proxy(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{port}")
        [there] = check_proxies(VENDOR, online=False)
    [gone] = check_proxies(VENDOR, online=False)
    assert (there.state, gone.state) == ("info", "fail")
    assert f"127.0.0.1:{port} cannot be reached" in gone.found


def test_no_proxy_is_heeded(monkeypatch):
    monkeypatch.setenv("https_proxy", "http://proxy.invalid:3128")
    monkeypatch.setenv("no_proxy", "gateway.invalid")
    assert [check.state for check in check_proxies(VENDOR, online=True)] == ["ok"]


@pytest.mark.parametrize("variable", ["SSL_CERT_DIR", "SSL_CERT_FILE"])
def test_certificates_that_cannot_be_read_are_said(tmp_path, monkeypatch, variable):
    assert check_certificates().state in {"ok", "info"}
    monkeypatch.setenv(variable, str(tmp_path / "none"))
    check = check_certificates()
    assert check.state == "fail"
    assert f"{variable}={tmp_path / 'none'}" in check.found


def test_a_file_that_holds_no_certificate_is_said(monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", __file__)
    assert check_certificates().state == "fail"


def test_certificates_that_the_system_decides_about_are_fine():
    truststore.inject_into_ssl()
    try:
        assert (check_certificates().state, check_certificates().found) == ("ok", "the system decides (truststore)")
    finally:
        truststore.extract_from_ssl()


def test_a_clock_from_before_the_install_is_said():
    clock = next(check for check in check_machine(0.0) if check.name == "clock")
    assert clock.state == "fail"
    assert clock.mend
