"""The second reading of what llhttp refuses: what it takes, what it still refuses, however the bytes are cut."""

import contextlib

import pytest

from videorouter.transport.lenient import LenientReader
from videorouter.transport.parser import HEAD_LIMIT, PARSE_ERRORS, ResponseParser

TEXT = b'{"data":[{"url":"https://resource.example/v.mp4"}]}'
N = len(TEXT)
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n"


def with_length(*fields: bytes) -> bytes:
    return OK + b"".join(field + b"\r\n" for field in fields) + b"Content-Length: %d\r\n\r\n" % N + TEXT


def in_chunks(head: bytes = CHUNKED, size: bytes = b"%x", end: bytes = b"\r\n", last: bytes = b"0") -> bytes:
    return head + b"\r\n" + size % N + end + TEXT + end + last + end + end


READABLE = {
    "bare LF": with_length(b"A: b").replace(b"\r\n", b"\n"),
    "some bare LF": OK.replace(b"\r\n", b"\n") + b"A: b\r\nContent-Length: %d\n\r\n" % N + TEXT,
    "folded": with_length(b"A: one\r\n two\r\n\tthree"),
    "equal lengths": with_length(b"Content-Length: %d" % N),
    "equal lengths in a list": with_length(b"Content-Length: %d, %d" % (N, N)),
    "a length with a sign": OK + b"Content-Length: +%d\r\n\r\n" % N + TEXT,
    "a length beside chunks": in_chunks(CHUNKED + b"Content-Length: 7\r\n"),
    "a length of nothing beside chunks": in_chunks(CHUNKED + b"Content-Length: x\r\n"),
    "chunks beside lengths": in_chunks(
        OK + b"Content-Length: 7\r\nContent-Length: 8\r\nTransfer-Encoding: chunked\r\n"
    ),
    "padded chunk sizes": in_chunks(size=b"%x   ", last=b"0  "),
    "chunk sizes after a space": in_chunks(size=b" %x"),
    "chunks with bare LF": in_chunks(end=b"\n"),
    "an extension of a chunk": in_chunks(size=b'%x ; a = "b'),
    "a broken trailer": in_chunks()[:-2] + b"A B: c\r\n\r\n",
    "identity": OK + b"Transfer-Encoding: identity\r\nContent-Length: %d\r\n\r\n" % N + TEXT,
    "odd bytes in a value": with_length(b"A: a\x01\0\x7f\xffb"),
    "CR in a value": with_length(b"A: a\rb"),
    "a name with a space": with_length(b"A B: c"),
    "a space before the colon": OK + b"Content-Length : %d\r\n\r\n" % N + TEXT,
    "odd bytes in a name": with_length(b"X-\xe9[a]: b"),
    "no name": with_length(b": b"),
    "no colon": with_length(b"nonsense"),
    "a folded first line": with_length(b" A: b"),
    "a version of tomorrow": with_length().replace(b"1.1", b"2", 1),
    "a small http": with_length().replace(b"HTTP", b"http", 1),
    "two spaces": with_length(b"A B: c").replace(b" 200", b"  200", 1),
    "an interim response": b"HTTP/1.1 103 Early Hints\r\nA B: c\r\n\r\n" + with_length(),
    "an empty line before it": b"\r\n\n" + with_length(b"A B: c"),
}
UNREADABLE = {
    "lengths that differ": with_length(b"Content-Length: 7"),
    "a length of nothing": OK + b"Content-Length: \r\n\r\n" + TEXT,
    "a negative length": OK + b"Content-Length: -1\r\n\r\n" + TEXT,
    "a huge length": OK + b"Content-Length: %d\r\n\r\n" % 10**20 + TEXT,
    "another protocol": b"SSH-2.0-OpenSSH_9.6\r\n",
    "nothing of HTTP": b"\x16\x03\x01",
    "HTML": b"<!doctype html><title>Sign in</title>",
    "a status of four digits": with_length().replace(b"200", b"2000", 1),
    "a status of two digits": with_length().replace(b"200", b"20", 1),
    "an upgrade": b"HTTP/1.1 101 Switching\r\nA B: c\r\n\r\n",
    "a chunk without a size": CHUNKED + b"\r\nzz\r\n",
    "an endless chunk size": CHUNKED + b"\r\n1" + b" " * 5000,
    "a chunk that does not end": CHUNKED + b"\r\n2 \r\nabc\r\n0\r\n\r\n",
    "an endless head": OK + b"A B: " + b"c" * HEAD_LIMIT,
}


def read(answer: bytes, size: int) -> ResponseParser:
    parser = ResponseParser()
    for start in range(0, len(answer), size):
        parser.feed(answer[start : start + size])
    return parser


@pytest.mark.parametrize("size", [1, 2, 7, 10**6])
@pytest.mark.parametrize("answer", READABLE.values(), ids=READABLE.keys())
def test_what_curl_reads_is_read_and_closes_its_connection(answer, size):
    parser = read(answer, size)
    response = parser.build_response()
    assert (response.status, response.body) == (200, TEXT)
    assert parser.complete
    assert parser.closes


@pytest.mark.parametrize("size", [1, 7, 10**6])
@pytest.mark.parametrize("answer", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_what_could_mean_two_things_is_refused(answer, size):
    with pytest.raises(PARSE_ERRORS):
        read(answer, size)


@pytest.mark.parametrize("answer", READABLE.values(), ids=READABLE.keys())
def test_it_needs_no_first_reading(answer):
    reader = LenientReader(head_only=False, head_limit=HEAD_LIMIT)
    assert reader.feed(answer) == TEXT
    assert reader.complete


def test_a_body_without_a_length_ends_with_its_connection():
    parser = read(OK + b"A B: c\r\n\r\n" + TEXT, 5)
    assert not parser.complete
    assert parser.end()
    assert parser.build_response().body == TEXT


def test_a_response_without_a_body_ends_with_its_head():
    assert read(b"HTTP/1.1 204 No\r\nA B: c\r\n\r\n", 9).complete
    parser = ResponseParser()
    parser.head_only = True
    parser.feed(with_length(b"A B: c"))
    assert (parser.complete, parser.build_response().body) == (True, b"")


def test_lengths_are_told_once():
    parser = read(with_length(b"Content-Length: %d, %d" % (N, N)), 40)
    assert parser.headers == [(b"content-length", b"%d" % N)]
    assert parser.find_rest() == -1


def test_a_refusal_within_the_body_repeats_no_byte_of_it():
    answer = CHUNKED + b"\r\n2\r\n" + TEXT[:2] + b"\r\n%x  \r\n" % (N - 2) + TEXT[2:] + b"\r\n0\r\n\r\n"
    parser = ResponseParser()
    taken = b""
    for start in range(0, len(answer), 3):
        parser.feed(answer[start : start + 3])
        taken += parser.take_body()
    assert taken == TEXT
    assert parser.complete


def test_what_is_kept_of_a_stream_is_little_and_enough_for_its_first_chunks():
    parser = ResponseParser()
    parser.most_kept = 100
    parser.feed(CHUNKED + b"\r\n100\r\n" + b"a" * 256)
    with pytest.raises(PARSE_ERRORS):
        parser.feed(b"\r\n2  \r\nab\r\n")


@pytest.mark.parametrize("answer", [with_length(b"Content-Length: 7"), with_length()[:20], b"no HTTP", b""])
def test_bytes_before_a_head_are_evidence(answer):
    parser = ResponseParser()
    with contextlib.suppress(*PARSE_ERRORS):
        parser.feed(answer)
    assert parser.find_unread() == answer[:HEAD_LIMIT]
