"""The videos of an answer: addresses and base64 in any spelling, and what cannot be used named."""

import base64
import json

import pytest

from videorouter.call.answers import Unusable, read_post, read_task
from videorouter.call.videos import clean_url, read_id

URL = "https://x.example/v.mp4"
VIDEO = bytes(range(256)) * 3


def post(document, **named):
    return read_post(200, json.dumps(document).encode(), **named)


def look(document, **named):
    return read_task(200, json.dumps(document).encode(), task_id="t-1", **named)


@pytest.mark.parametrize(
    "url", ["", "ftp://x/y", "//x/y", "https://", "https://x/" + "a" * 4096, "https://x y/", 5, None]
)
def test_an_address_that_no_client_could_use_is_none(url):
    assert clean_url(url) is None


@pytest.mark.parametrize(
    "url",
    ["https:// x.example/", "https://x.example/a\nb", "https://x.example/\ufffd", "https://\ud800/", "https://[x/"],
)
def test_an_address_that_could_lead_elsewhere_is_none(url):
    assert clean_url(url) is None


@pytest.mark.parametrize(
    ("url", "cleaned"),
    [
        (URL, URL),
        ("HTTPS://x.example/v.mp4", URL),
        ("Http://x.example/v.mp4", "http://x.example/v.mp4"),
        (" https://x.example/v.mp4\r\n", URL),
        ("\ufeff https://x.example/v.mp4"[1:], URL),
        ("https://x.example/my video.mp4?a=b c#d e", "https://x.example/my%20video.mp4?a=b%20c#d%20e"),
        ("https://x.example?a b", "https://x.example?a%20b"),
        ("https://x.example/a%2Fb", "https://x.example/a%2Fb"),
        ("https://x.example/\u00e9 b", "https://x.example/\u00e9%20b"),
    ],
)
def test_an_address_is_cleaned_as_curl_would_clean_it(url, cleaned):
    assert clean_url(url) == cleaned
    assert post({"data": [{"url": url}]}).url == cleaned
    assert look({"data": {"status": "completed", "outputs": [url]}}).result.url == cleaned
    task = {"task_id": "t-1", "status": "created", "urls": {"query": url}}
    assert post({"data": task}).poll_url == cleaned


def test_a_poll_address_that_cannot_be_used_is_none():
    for query in ("ftp://x/y", "https://x y/", 5, ["https://x.example/"], ""):
        assert post({"data": {"task_id": "t-1", "urls": {"query": query}}}).poll_url is None


def wrap(text):
    return "\r\n".join(text[start : start + 76] for start in range(0, len(text), 76))


STANDARD = base64.b64encode(VIDEO + b"\xfb\xff").decode()
SAFE = base64.urlsafe_b64encode(VIDEO + b"\xfb\xff").decode()


@pytest.mark.parametrize(
    "text",
    [
        STANDARD,
        SAFE,
        STANDARD.rstrip("="),
        SAFE.rstrip("="),
        wrap(STANDARD),
        wrap(SAFE) + "\n",
        " " + STANDARD,
        "data:video/mp4;base64," + SAFE,
    ],
)
def test_base64_is_read_in_any_alphabet_and_wrapping(text):
    for document in ({"data": text}, {"b64_json": text}, {"data": [{"b64_json": text}]}):
        assert post(document).video.data == VIDEO + b"\xfb\xff"
    assert look({"data": {"status": "completed", "b64_json": text}}).result.video.data == VIDEO + b"\xfb\xff"


@pytest.mark.parametrize(
    "text", ["ok", "success", "not_start", "processing", "a b c d!", STANDARD + "!", "\u00e9" * 80]
)
def test_a_word_is_no_video(text):
    assert isinstance(post({"data": text}), Unusable)


def test_each_video_that_cannot_be_used_is_named():
    items = [{"url": "ftp://x/1"}, {"url": URL}, {"revised_prompt": "x"}, "file:///2", 5, {"url": "a" * 500}]
    named = ("ftp://x/1", "", "file:///2", "", "a" * 200)
    for result in (post({"data": items}), look({"data": {"status": "completed", "outputs": items}}).result):
        assert [video.url for video in result.videos] == [URL]
        assert result.unusable == named
    nothing = post({"data": [items[0], *items[2:]]})
    assert isinstance(nothing, Unusable)
    assert (nothing.urls, nothing.url) == (named, "ftp://x/1")
    assert post({"data": [{"url": URL}]}).unusable == ()


def test_not_more_than_a_few_are_named():
    assert len(post({"data": [{"url": URL}, *({"url": "x"} for _ in range(1000))]}).unusable) == 20


def test_an_address_that_the_request_sent_is_no_result_of_a_held_call():
    request = json.dumps({"image_url": "HTTPS://x.example/cat.png", "prompt": "otter"}).encode()
    found = post({"data": [{"url": "https://x.example/cat.png"}, {"url": URL}]}, request=request)
    assert [video.url for video in found.videos] == [URL]
    assert isinstance(post({"data": [{"url": "https://x.example/cat.png"}]}, request=request), Unusable)
    assert post({"data": [{"url": URL}]}, request=request).url == URL


@pytest.mark.parametrize("value", ["", " ", True, None, 1.5, "a\ufffd", "a" * 5000])
def test_what_is_no_id_is_none(value):
    assert read_id(value) is None


def test_an_id_may_be_a_number():
    assert (read_id(7), read_id("7")) == ("7", "7")
