"""What a client is told is checked once, filled in from the environment, and keeps its key secret."""

import copy
import traceback

import pytest

from videorouter._version import __version__
from videorouter.config import NO_DEADLINE, check_key, default_user_agent, is_loopback, resolve
from videorouter.errors import ConfigurationError

KEY = "sk-secret-0123"


def settings(environ=None, **given):
    return resolve(given, {"INFRON_API_KEY": KEY} if environ is None else environ)


def test_the_vendors_hosts_are_the_default():
    found = settings()
    assert found.base_url == "https://video.onerouter.pro/v1"
    assert found.media_base_url == "https://media.onerouter.pro/v1"
    assert found.models_base_url == "https://llm.onerouter.pro/v1"


@pytest.mark.parametrize(
    ("environ", "key"),
    [
        ({"INFRON_API_KEY": "a", "ONEROUTER_API_KEY": "b"}, "a"),
        ({"ONEROUTER_API_KEY": "b"}, "b"),
        ({"INFRON_API_KEY": "", "ONEROUTER_API_KEY": " b\n"}, "b"),
    ],
)
def test_the_key_comes_from_the_environment_in_this_order_and_is_trimmed(environ, key):
    assert settings(environ).api_key.reveal() == key


def test_the_key_of_another_package_is_never_read():
    with pytest.raises(ConfigurationError, match="INFRON_API_KEY"):
        settings({"VIDEOROUTER_API_KEY": KEY})


def test_an_argument_wins_over_the_environment():
    environ = {"INFRON_API_KEY": "a", "INFRON_VIDEO_BASE_URL": "https://one.example/v1"}
    found = settings(environ, api_key="b", base_url="https://two.example/v1/")
    assert (found.api_key.reveal(), found.base_url) == ("b", "https://two.example/v1")


def test_media_and_models_follow_a_base_url_that_is_not_the_vendors():
    found = settings({"INFRON_API_KEY": KEY, "INFRON_VIDEO_BASE_URL": "http://127.0.0.1:8000/v1"})
    assert found.media_base_url == found.models_base_url == "http://127.0.0.1:8000/v1"
    assert found.loopback


def test_the_key_goes_to_the_clients_own_origins_only():
    found = settings(base_url="https://one.example:8443/v1", failover_urls=["https://two.example/v1"])
    assert found.origins == {("https", "one.example", 8443), ("https", "two.example", 443)}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"base_url": ""}, "base_url"),
        ({"base_url": "video.example/v1"}, "base_url"),
        ({"base_url": "ftp://video.example"}, "base_url"),
        ({"base_url": "http://video.example/v1"}, "allow_insecure"),
        ({"base_url": "https://user:word@video.example"}, "user name or password"),
        ({"base_url": "https://video.example/v1?a=b"}, "query"),
        ({"base_url": "https://video.example:99999"}, "base_url"),
        ({"failover_urls": "https://two.example"}, "list"),
        ({"allowed_hosts": "two.example"}, "list"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": float("inf")}, "timeout"),
        ({"timeout": "5"}, "timeout"),
        ({"max_retries": -1}, "max_retries"),
        ({"max_retries": 1.5}, "max_retries"),
        ({"max_concurrency": 0}, "max_concurrency"),
        ({"max_download_bytes": 0}, "max_download_bytes"),
        ({"idempotency": "honored"}, "idempotency"),
        ({"refused_statuses": [200]}, "refused_statuses"),
        ({"auth_scheme": "Bearer token"}, "auth_scheme"),
        ({"user_agent": "a\r\nb"}, "User-Agent"),
        ({"default_headers": {"Authorization": "x"}}, "api_key"),
        ({"default_headers": {"Content-Length": "1"}}, "set by the client"),
        ({"default_headers": {"a b": "x"}}, "header name"),
        ({"model": " "}, "model"),
        ({"api_key": "  "}, "empty"),
        ({"api_key": 5}, "text"),
    ],
)
def test_what_cannot_be_used_says_which_and_why(given, words):
    with pytest.raises(ConfigurationError, match=words):
        settings(**given)


def test_http_is_for_loopback_or_by_name():
    assert settings(base_url="http://localhost:1/v1").base_url == "http://localhost:1/v1"
    assert settings(base_url="http://video.example/v1", allow_insecure=True).base_url == "http://video.example/v1"


def test_no_deadline_ends_some_day():
    assert settings(timeout=None).timeout == NO_DEADLINE


@pytest.mark.parametrize("bad", ["sk-\u2019quoted", "sk\nbreak", "\x00", "sch\u00fcssel"])
def test_a_key_that_no_header_can_carry_is_refused_without_being_quoted(bad):
    with pytest.raises(ConfigurationError) as caught:
        check_key(bad)
    assert bad not in "".join(traceback.format_exception(caught.value))


def test_settings_show_no_key():
    found = settings()
    assert KEY not in repr(found)
    assert KEY not in repr(copy.copy(found))


@pytest.mark.parametrize("host", ["localhost", "a.localhost", "127.0.0.1", "127.9.9.9", "::1"])
def test_loopback_is_this_machine(host):
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["", "localhost.example", "10.0.0.1", "0.0.0.0", "video.example"])
def test_other_hosts_are_not(host):
    assert not is_loopback(host)


def test_the_default_agent_names_this_package_and_no_page_of_somebody_else():
    agent = default_user_agent()
    assert agent.startswith(f"videorouter/{__version__} ")
    assert "://" not in agent
