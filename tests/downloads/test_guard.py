"""The address guard, as a table."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from videorouter import DownloadError
from videorouter.downloads.guard import (
    AddressPolicy,
    check_addresses,
    check_file_url,
    classify_address,
    follow_redirect,
    show_url,
)

PUBLIC = AddressPolicy()
SANDBOX = AddressPolicy(loopback=True)
PRIVATE = AddressPolicy(private=True)


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("8.8.8.8", "public"),
        ("2606:4700::1111", "public"),
        ("64:ff9b::808:808", "public"),
        ("127.0.0.1", "loopback"),
        ("127.8.9.1", "loopback"),
        ("::1", "loopback"),
        ("::ffff:127.0.0.1", "loopback"),
        ("10.0.0.1", "private"),
        ("172.16.0.1", "private"),
        ("192.168.0.1", "private"),
        ("100.64.0.1", "private"),
        ("fd00::1", "private"),
        ("fec0::1", "private"),
        ("::ffff:10.0.0.1", "private"),
        ("169.254.169.254", "unusable"),
        ("::ffff:169.254.169.254", "unusable"),
        ("64:ff9b::a9fe:a9fe", "unusable"),
        ("2002:7f00:1::", "unusable"),
        ("2001:0:1::", "unusable"),
        ("::127.0.0.1", "unusable"),
        ("fe80::1", "unusable"),
        ("fe80::1%eth0", "unusable"),
        ("0.0.0.0", "unusable"),
        ("::", "unusable"),
        ("224.0.0.1", "unusable"),
        ("ff02::1", "unusable"),
        ("255.255.255.255", "unusable"),
        ("240.0.0.1", "unusable"),
        ("192.0.2.1", "unusable"),
        ("198.18.0.1", "unusable"),
        ("nonsense", "unusable"),
    ],
)
def test_each_address_has_its_kind(address, kind):
    assert classify_address(address) == kind


@pytest.mark.parametrize(
    "url",
    [
        "https://cdn.example/a%2Fb.mp4?x=1",
        "https://8.8.8.8/a.mp4",
        "https://[2606:4700::1111]:8443/a.mp4",
        "https://münchen.example/a.mp4",
        "HTTPS://CDN.example./a.mp4",
    ],
)
def test_public_https_is_fetched(url):
    target = check_file_url(url, PUBLIC)
    assert target.url.split("/", 3)[3] == url.split("/", 3)[3]
    check_addresses(target, ("8.8.8.8",), PUBLIC)


@pytest.mark.parametrize(
    "url",
    [
        "http://cdn.example/a",
        "ftp://cdn.example/a",
        "cdn.example/a",
        "//cdn.example/a",
        "https://",
        "https://:443/a",
        "https://user@cdn.example/a",
        "https://user:pass@cdn.example/a",
        "https://@cdn.example/a",
        "https://cdn.example\\@evil.example/a",
        "https://cdn.example:99999/a",
        "https://cdn .example/a",
        "https://cdn.example/a\r\nHost: x",
        "https://127.0.0.1/a",
        "https://127.1/a",
        "https://2130706433/a",
        "https://0x7f000001/a",
        "https://0177.0.0.1/a",
        "https://127.0.0.1./a",
        "https://\uff11\uff12\uff17.0.0.1/a",
        "https://[::1]/a",
        "https://[::ffff:7f00:1]/a",
        "https://[fe80::1%25eth0]/a",
        "https://localhost/a",
        "https://LOCALHOST./a",
        "https://files.localhost/a",
        "https://-bad-.example/a",
        "https://a..b/a",
        "https://cdn.example/" + "a" * 5000,
        "",
        None,
        b"https://cdn.example/",
    ],
)
def test_everything_else_is_refused_before_a_name_is_looked_up(url):
    with pytest.raises(DownloadError) as caught:
        check_file_url(url, PUBLIC)
    assert "pass@" not in caught.value.message


@pytest.mark.parametrize(
    ("policy", "url", "addresses", "permitted"),
    [
        (PUBLIC, "https://a.example/", ("8.8.8.8", "10.0.0.1"), False),
        (PUBLIC, "https://a.example/", ("127.0.0.1",), False),
        (PUBLIC, "https://a.example/", (), True),
        (SANDBOX, "http://a.example/", ("127.0.0.1", "::1"), True),
        (SANDBOX, "https://a.example/", ("127.0.0.1",), True),
        (SANDBOX, "http://a.example/", ("127.0.0.1", "8.8.8.8"), False),
        (SANDBOX, "http://a.example/", ("10.0.0.1",), False),
        (SANDBOX, "http://a.example/", (), False),
        (SANDBOX, "https://a.example/", ("8.8.8.8",), True),
        (PRIVATE, "http://a.example/", ("10.0.0.1",), True),
        (PRIVATE, "http://a.example/", ("8.8.8.8",), False),
        (PRIVATE, "http://a.example/", (), True),
        (PRIVATE, "https://a.example/", ("169.254.169.254",), False),
    ],
)
def test_every_address_of_a_name_must_be_permitted(policy, url, addresses, permitted):
    target = check_file_url(url, policy)
    if permitted:
        check_addresses(target, addresses, policy)
    else:
        with pytest.raises(DownloadError):
            check_addresses(target, addresses, policy)


def test_allowed_hosts_are_exact_or_below_a_star():
    policy = AddressPolicy(hosts=frozenset({"cdn.example", "*.files.example"}))
    for url in ("https://cdn.example./a", "https://CDN.example/a", "https://a.files.example/a"):
        check_file_url(url, policy)
    for url in ("https://a.cdn.example/a", "https://files.example/a", "https://evilfiles.example/", "https://8.8.8.8/"):
        with pytest.raises(DownloadError, match="allowed_hosts"):
            check_file_url(url, policy)
    with pytest.raises(DownloadError, match="own network"):
        check_file_url("https://10.0.0.1/", AddressPolicy(hosts=frozenset({"10.0.0.1"})))


@pytest.mark.parametrize(
    ("location", "leads"),
    [
        ("/b%2Fc.mp4", "https://a.example/b%2Fc.mp4"),
        ("//cdn.example/x", "https://cdn.example/x"),
        ("?sig=1", "https://a.example/v/1?sig=1"),
        ("x y.mp4", "https://a.example/v/x%20y.mp4"),
        ("https://cdn.example/é", "https://cdn.example/%C3%A9"),
        ("https://cdn.example/x#part", "https://cdn.example/x"),
    ],
)
def test_a_redirect_is_joined_and_judged(location, leads):
    assert follow_redirect(check_file_url("https://a.example/v/1", PUBLIC), location, PUBLIC).url == leads


@pytest.mark.parametrize(
    "location", [None, "", "http://a.example/", "https://10.0.0.1/", "https://[", "http://127.0.0.1/"]
)
def test_a_redirect_to_less_is_refused(location):
    with pytest.raises(DownloadError):
        follow_redirect(check_file_url("https://a.example/v/1", SANDBOX), location, SANDBOX)


@given(st.text())
def test_any_text_is_a_target_or_a_download_error(text):
    for url in (text, f"https://{text}", f"https://a.example/{text}"):
        try:
            check_file_url(url, PUBLIC)
        except DownloadError:
            continue


def test_messages_show_no_signature():
    assert show_url("https://u:p@cdn.example/a.mp4?X-Signature=secret#x") == "https://cdn.example/a.mp4"
