"""Families, durations, prices, latencies."""

import math

import pytest

from videorouter.sandbox.catalogue import draw_latency, list_models, name_family, read_duration, reckon_price


@pytest.mark.parametrize(
    ("model", "family"),
    [
        ("sora-2", "sora-2"),
        ("sora-2-video-to-video", "sora-2"),
        ("openai/sora-2/text-to-video", "sora-2"),
        ("google/veo3.1/text-to-video", "veo3.1"),
        ("google/veo3.1/image-to-video", "veo3.1"),
        ("sora-2-pro", "sora-2-pro"),
        ("kling-v2/edit", "kling-v2"),
        ("Veo3-Fast", "veo3-fast"),
    ],
)
def test_a_family_is_a_model_without_vendor_and_task(model, family):
    assert name_family(model) == family


@pytest.mark.parametrize(
    ("value", "model", "seconds"),
    [
        ("8s", "m", 8.0),
        ("8", "m", 8.0),
        (8, "m", 8.0),
        (2.5, "m", 2.5),
        ("auto", "m", None),
        (None, "m", None),
        ("", "m", None),
        (8, "google/veo3.1/text-to-video", None),
        ("8s", "google/veo3.1/text-to-video", 8.0),
    ],
)
def test_a_duration_is_read_as_the_gateway_reads_it(value, model, seconds):
    assert read_duration(value, model) == seconds


@pytest.mark.parametrize("value", ["banana", "-3", 0, -1, 61, "61s", True, [8], {}, math.nan, math.inf, "1e9"])
def test_a_duration_that_makes_no_sense_is_refused(value):
    with pytest.raises(ValueError, match="duration"):
        read_duration(value, "m")


def test_prices_follow_length_and_number():
    assert reckon_price("google/veo3.1/text-to-video", 8.0, 1) == 3.2
    assert reckon_price("google/veo3.1/text-to-video", None, 2) == 6.4
    assert reckon_price("unknown", 1.0, 1) > 0


def test_latencies_follow_profile_speed_and_token():
    assert draw_latency("instant", "m", None, 1.0, "a") == 0
    assert draw_latency("realistic", "m", 5.0, 2.0, "a") == 2.5
    assert 1 <= draw_latency("instant", "m", (1.0, 3.0), 1.0, "a") <= 3
    slow = draw_latency("realistic", "veo3-fast", None, 1.0, "a")
    assert 120 <= slow <= 165
    assert draw_latency("realistic", "veo3-fast", None, 1.0, "a") == slow
    assert draw_latency("realistic", "veo3-fast", None, 1.0, "b") != slow


def test_every_model_has_a_price():
    assert all(item["min_request_price"] > 0 for item in list_models())
