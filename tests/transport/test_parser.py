"""One response out of bytes: when it is whole, what it may weigh, and whether its connection can go on."""

import pytest

from videorouter.transport.parser import HEAD_LIMIT, PARSE_ERRORS, ResponseParser

from .conftest import ANSWER, ok


def parse(*data, head_only=False):
    parser = ResponseParser()
    parser.head_only = head_only
    for piece in data:
        parser.feed(piece)
    return parser


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_a_response_is_the_same_however_it_is_cut(step):
    data = ok(ANSWER, b"X-A: 1")
    response = parse(*(data[start : start + step] for start in range(0, len(data), step))).build_response()
    assert (response.status, response.body) == (200, ANSWER)
    assert (b"x-a", b"1") in response.headers


def test_one_response_after_another():
    parser = parse(ok(b"first"))
    assert (parser.complete, parser.closes) == (True, False)
    parser.reset()
    parser.feed(ok(b"second"))
    assert parser.build_response().body == b"second"


@pytest.mark.parametrize("garbage", [b"garbage", ok(b"another")])
def test_what_follows_a_response_is_nobodys_and_ends_its_connection(garbage):
    parser = parse(ok(b"own") + garbage)
    assert parser.closes
    assert parser.build_response().body == b"own"


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\nConnection: close\r\n", b"HTTP/1.0 200 OK\r\n"])
def test_a_server_that_gives_the_connection_up_is_believed(head):
    parser = parse(head + b"Content-Length: 1\r\n\r\na")
    assert (parser.complete, parser.closes) == (True, True)


def test_a_response_to_head_has_no_body():
    parser = parse(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n", head_only=True)
    assert (parser.complete, parser.closes) == (True, True)


def test_a_response_without_a_length_ends_with_its_connection():
    parser = parse(b"HTTP/1.1 200 OK\r\n\r\nabc")
    assert not parser.complete
    assert parser.end()
    assert (parser.complete, parser.closes, parser.build_response().body) == (True, True, b"abc")


@pytest.mark.parametrize("data", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"])
def test_any_other_is_cut_when_its_connection_ends(data):
    assert not parse(data).end()


def test_no_more_than_the_limit_of_a_head_without_end_is_parsed():
    parser = parse(b"HTTP/1.1 200 OK\r\n", b"X: " + b"a" * 2 * HEAD_LIMIT)
    assert parser.status == 0
    assert parser.wire_size > HEAD_LIMIT
    with pytest.raises(PARSE_ERRORS):
        parse(b"hello\r\n\r\n")


def test_a_body_its_framing_and_its_trailers_are_bounded():
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert not parse(head, b"1\r\na\r\n" * 1000).exceeds(1000)
    assert parse(head, b"1\r\na\r\n" * 1001).exceeds(1000)
    assert parse(head, b"0\r\n", *[b"X: " + b"a" * 1000 + b"\r\n"] * 150).exceeds(1000)


def test_a_million_chunks_are_kept_in_few_pieces():
    parser = parse(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", *[b"1\r\na\r\n" * 1000] * 10)
    assert len(parser._pieces) <= 257
    assert parser.take_body() == b"a" * 10_000
    assert parser.take_body() == b""


def test_the_missing_rest_of_a_body_is_known_from_its_length_only():
    assert parse(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc").find_rest() == 6
    assert parse(b"HTTP/1.1 200 OK\r\n\r\nabc").find_rest() == -1
    assert parse(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n").find_rest() == -1
    assert parse(ok(b"whole")).find_rest() == -1
