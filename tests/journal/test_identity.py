"""Which requests are the same, whatever they look like."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings, strategies as st

from videorouter.journal.identity import (
    UNNAMED,
    digest_chain,
    digest_request,
    digest_spelling,
    digest_step,
    fill_step,
    name_item,
    name_parent,
)


def digest(body: str, verb: str = "generate") -> str:
    return digest_request(verb, body.encode())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('{"model":"m","prompt":"x"}', '{"prompt":"x","model":"m"}'),
        ('{"a":{"x":1,"y":2}}', '{"a":{"y":2,"x":1}}'),
        ('{"a":[{"x":1,"y":2}]}', '{"a":[{"y":2,"x":1}]}'),
        ('{"a":7}', '{"a":7.0}'),
        ('{"a":1000}', '{"a":1e3}'),
        ('{"a":0.1}', '{"a":0.10}'),
        ('{"a":0.1}', '{"a":1E-1}'),
        ('{"a":0}', '{"a":-0.0}'),
        ('{"a":[1.50,{"b":2.0}]}', '{"a":[1.5,{"b":2}]}'),
        ('{"a":10000000000000000000000}', '{"a":1e22}'),
        ('{"a":1,"b":null}', '{"a":1}'),
        ('{ "a" : "\\u00e9" }', '{"a":"é"}'),
    ],
)
def test_a_request_is_what_it_says(one, other):
    assert digest(one) == digest(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('{"a":9223372036854775807}', '{"a":9223372036854775806}'),
        ('{"a":9007199254740993}', '{"a":9007199254740992}'),
        ('{"a":9007199254740993}', '{"a":9007199254740992.0}'),
        ('{"a":0.1}', '{"a":0.1000000000000000055511151231257827}'),
        ('{"a":true}', '{"a":1}'),
        ('{"a":7}', '{"a":"7"}'),
        ('{"a":0.1}', '{"a":"0.1"}'),
        ('{"a":{"b":null}}', '{"a":{}}'),
        ('{"a":[1,2]}', '{"a":[2,1]}'),
        ('{"a":[null]}', '{"a":[]}'),
        ('{"a":""}', "{}"),
        ('{"a":false}', "{}"),
        ('{"a":"x"}', '{"a":"x "}'),
        ('{"a":1e400}', '{"a":1e401}'),
        ('{"a":1e-400}', '{"a":0}'),
    ],
)
def test_requests_that_say_different_things_differ(one, other):
    assert digest(one) != digest(other)


def test_the_same_body_is_another_request_as_an_edit():
    assert digest("{}") != digest("{}", "edit")
    assert digest_spelling("generate", b"{}") != digest_spelling("edit", b"{}")


def test_schema_1_took_a_request_for_its_spelling():
    assert digest_spelling("generate", b'{"a":1,"b":2}') != digest_spelling("generate", b'{"b":2,"a":1}')
    assert digest_spelling("generate", b'{"b":2,"a":1}') == "3aaf15d923aa59abc81da0b6dd8a90b7"


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
NUMBERS = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


def shuffle(value: object, draw) -> object:
    if isinstance(value, dict):
        return {name: shuffle(value[name], draw) for name in draw(st.permutations(list(value)))}
    if isinstance(value, list):
        return [shuffle(each, draw) for each in value]
    return float(value) if type(value) is int and abs(value) <= 2**53 and draw(st.booleans()) else value


def encode(fields: object) -> bytes:
    return json.dumps(fields, ensure_ascii=False).encode()


@settings(deadline=None)
@given(fields=st.dictionaries(TEXT, VALUES, max_size=5), data=st.data())
def test_no_spelling_makes_another_request_of_it(fields, data):
    respelt = shuffle(fields, data.draw)
    padded = {**respelt, **{name: None for name in data.draw(st.sets(TEXT)) if name not in fields}}
    assert digest_request("generate", encode(fields)) == digest_request("generate", encode(padded))


def test_a_chain_belongs_to_the_take_and_the_video_that_a_step_edits_does_not():
    snow, rain = (json.dumps({"model": "m", "video_id": UNNAMED, "prompt": word}).encode() for word in ("Snow", "Rain"))
    assert digest_chain("d", []) == "d"
    assert len({"d", digest_chain("d", [snow]), digest_chain("d", [rain]), digest_chain("d", [snow, rain])}) == 4
    assert digest_step(snow) == digest_step(b'{"prompt":"Snow","video_id":"vid-1","model":"m"}') != digest_step(rain)


def test_a_step_is_filled_with_the_item_that_it_edits():
    body = b'{"model":"m","video_id":"item:","prompt":"make \\"video_id\\":\\"item:\\" of it"}'
    assert fill_step(body, 'a"b') == body.replace(b'"item:"', b'"item:a\\"b"', 1)
    assert name_parent("a") == "item:a"
    assert name_item("ab", 4) == "ab-4"
