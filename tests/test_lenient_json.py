"""JSON as servers write it: what httpx reads is read, in bounded memory."""

import json
import tracemalloc

import msgspec
import pytest
from hypothesis import given, strategies as st

from videorouter.lenient_json import BROKEN_JSON, decode_json, decode_raw

SPELT = {
    "a byte order mark": b'\xef\xbb\xbf{"a":"b"}',
    "white space around it": b' \r\n\t{"a":"b"}\n\0',
    "a control character": b'{"a":"b","c":"d\ne\x01"}',
}


@pytest.mark.parametrize("body", SPELT.values(), ids=SPELT.keys())
def test_it_is_read_however_it_is_spelt(body):
    assert decode_json(body)["a"] == "b"
    assert decode_raw(body)["a"] == "b"


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e999"])
def test_what_is_no_number_is_null(number):
    assert decode_json(b'{"a":[%b],"b":%b,"c":1.5,"d":12345678901234567890123}' % (number, number)) == {
        "a": [None],
        "b": None,
        "c": 1.5,
        "d": 12345678901234567890123,
    }


@pytest.mark.parametrize(
    ("text", "read"),
    [
        (rb'"a\ud800b"', "a\ufffdb"),
        (rb'["\udfff",{"k":["\ud800"]}]', ["\ufffd", {"k": ["\ufffd"]}]),
        (rb'"\ud83d\ude00 \ud83d"', "\U0001f600 \ufffd"),
        (b'"a\xed\xa0\x80b"', "a\ufffd\ufffd\ufffdb"),
        (b'"a\xffb"', "a\ufffdb"),
    ],
)
def test_text_that_no_encoder_takes_is_read_with_a_sign_in_its_place(text, read):
    assert decode_json(text) == read
    msgspec.json.encode(decode_json(text))


@pytest.mark.parametrize("body", [b"", b"{", b"<html>", b'{"a":1}x', b"[" * 200_000, b"[" * 100_000, b"1" * 10_000])
def test_what_is_none_is_none(body):
    with pytest.raises(BROKEN_JSON) as caught:
        decode_json(body)
    assert not isinstance(caught.value, json.JSONDecodeError)  # it holds the whole text, and the key may be in it
    assert decode_raw(body) == body.decode()


def test_a_large_one_stays_within_bounds():
    text = "\U0001f600" + "a" * (4 * 2**20 - 100)
    body = b'\xef\xbb\xbf{"a":"' + text.encode() + rb'\ud800","b":NaN}'
    tracemalloc.start()
    try:
        assert decode_json(body)["b"] is None
        assert tracemalloc.get_traced_memory()[1] < 60 * 2**20
    finally:
        tracemalloc.stop()


DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=5),
    max_leaves=20,
)


@given(DOCUMENTS, st.booleans())
def test_whatever_python_writes_is_read_and_can_be_written_again(document, ascii_only):
    body = json.dumps(document, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    msgspec.json.encode(decode_json(body))


@given(st.binary(max_size=300))
def test_no_bytes_make_it_stumble(body):
    decode_raw(body)
