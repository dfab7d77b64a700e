import argparse

import pytest

from videorouter.cli.options import read_count, read_field, read_seconds, read_value


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90.0), ("1.5", 1.5), ("90s", 90.0), ("15m", 900.0), ("2H", 7200.0), ("none", None)]
)
def test_times_have_units(text, seconds):
    assert read_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "-1", "nan", "inf", "soon", "m", "1d"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError):
        read_seconds(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8", 8),
        ('"8"', "8"),
        ("8s", "8s"),
        ("true", True),
        ("null", None),
        ("[1, 2]", [1, 2]),
        ("16:9", "16:9"),
        ("NaN", "NaN"),
        ("", ""),
        ("[" * 100_000, "[" * 100_000),
    ],
)
def test_values_are_json_where_they_are_json(text, value):
    assert read_value(text) == value


def test_a_field_is_a_name_and_a_value():
    assert read_field("url=https://x/?a=b") == ("url", "https://x/?a=b")
    for text in ("name", "=value", " =value"):
        with pytest.raises(argparse.ArgumentTypeError):
            read_field(text)


@pytest.mark.parametrize("text", ["-1", "1.0", "x", ""])
def test_a_count_is_whole(text):
    with pytest.raises(argparse.ArgumentTypeError):
        read_count(text)
