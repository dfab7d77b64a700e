"""A key shows nowhere, and is taken out of what a server echoes."""

import base64
import html
import pickle
import time
from urllib.parse import quote

import pytest

from videorouter.secrets import Secret, authorize

KEY = "sk-secret-0123"


@pytest.mark.parametrize("show", [repr, str, format, lambda secret: f"{secret:>20}", pickle.dumps, lambda s: f"{s!r}"])
def test_a_secret_does_not_show(show):
    assert KEY not in str(show(Secret(KEY)))


@pytest.mark.parametrize(
    ("key", "scheme", "header"),
    [
        ("k", None, "k"),
        ("k", "Bearer", "Bearer k"),
        ("Bearer k", "Bearer", "Bearer k"),
        ("bearer k", "Bearer", "bearer k"),
        ("Bearer k", None, "Bearer k"),
    ],
)
def test_the_key_goes_bare_or_with_its_scheme_and_never_with_two(key, scheme, header):
    assert authorize(Secret(key), scheme) == header.encode()


@pytest.mark.parametrize("echo", [KEY, f"Authorization: Bearer {KEY}", f"https://x.example/?key={KEY}"])
def test_an_echoed_key_is_taken_out(echo):
    assert KEY not in Secret(f"Bearer {KEY}").redact(echo)


@pytest.mark.parametrize("key", ["sk-a&b<c>d\"e'f&", "sk-ends-with-%"])
@pytest.mark.parametrize(
    "spell", [html.escape, lambda key: html.escape(html.escape(key)), lambda key: quote(key, safe="")]
)
def test_an_escaped_key_is_taken_out_to_its_last_character(key, spell):
    assert Secret(key).redact(f"your key {spell(key)}.") == "your key <redacted>."


@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
@pytest.mark.parametrize("before", ["", "a", "ab", "user:"])
def test_a_key_in_base64_is_taken_out(before, encode):
    token = encode(f"{before}sk-?>~0123456789:".encode()).decode()
    shown = Secret("sk-?>~0123456789").redact(f"Basic {token} is wrong")
    assert token[8:-8] not in shown
    assert "<redacted>" in shown


@pytest.mark.parametrize("noise", ["\\" * 250_000, "&#" + "0" * 250_000, "&" + "amp;" * 60_000, "%" + "25" * 100_000])
def test_no_answer_takes_long_to_search_for_the_key(noise):
    began = time.monotonic()
    assert Secret(KEY).redact(noise) == noise
    assert time.monotonic() - began < 10
