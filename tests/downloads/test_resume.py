"""Start, go on, start over, wait or refuse: what each head means."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from videorouter import DownloadError, InternalServerError, NotFoundError, PermissionDeniedError
from videorouter.call.retry import TABLE, Outcome, Raise, RequestKind, Retry
from videorouter.downloads.resume import (
    FailedFetch,
    FullContent,
    PartialContent,
    Redirect,
    TransferState,
    build_range_headers,
    check_length,
    choose_block_size,
    find_file_outcome,
    read_answer,
)
from videorouter.http import WireFailure

HALF = TransferState(offset=50, etag='"v1"', total=100)
WHOLE_PART = ((b"content-range", b"bytes 50-99/100"), (b"etag", b'"v1"'), (b"content-length", b"50"))


def read(status, headers=(), state=HALF, limit=1000):
    url = "https://cdn.example/a.mp4?sig=secret"
    return read_answer(status, headers, state, url=url, host="cdn.example:443", limit=limit, wall=0.0)


def replace(**changed: bytes | None) -> tuple[tuple[bytes, bytes], ...]:
    fields = dict(WHOLE_PART)
    fields.update({name.replace("_", "-").encode(): value for name, value in changed.items()})
    return tuple((name, value) for name, value in fields.items() if value is not None)


def test_only_a_strong_etag_asks_for_the_rest():
    assert build_range_headers(HALF) == ((b"range", b"bytes=50-"), (b"if-range", b'"v1"'))
    assert build_range_headers(TransferState(offset=50, total=100)) == ()
    assert build_range_headers(TransferState(etag='"v1"')) == ()


@pytest.mark.parametrize(
    ("headers", "start"),
    [
        (((b"content-length", b"7"), (b"etag", b'"a"')), FullContent(total=7, etag='"a"')),
        (((b"etag", b'W/"a"'),), FullContent(framed=False)),
        (((b"etag", b"a"), (b"transfer-encoding", b"chunked")), FullContent()),
        (((b"etag", b'"a"'), (b"etag", b'"b"'), (b"content-length", b"0")), FullContent(total=0)),
        (((b"content-length", b"7"), (b"content-length", b"7")), FullContent(total=7)),
        (((b"content-type", b"video/mp4"),), FullContent(framed=False)),
    ],
)
def test_200_starts_from_the_first_byte(headers, start):
    assert read(200, headers) == start


@pytest.mark.parametrize("length", [b"-1", b"1e3", b"", b"9" * 30, b"0x10", b"7, 7"])
def test_a_length_that_makes_no_sense_is_asked_again(length):
    found = read(200, ((b"content-length", length),))
    assert found.start_over
    assert "cdn.example:443 states a length that makes no sense" in found.raised.message
    assert (found.raised.status, found.raised.result_url) == (200, "https://cdn.example/a.mp4")


def test_contradicting_lengths_are_asked_again():
    assert isinstance(read(200, ((b"content-length", b"7"), (b"content-length", b"8"))), FailedFetch)


def test_more_than_the_limit_is_refused():
    with pytest.raises(DownloadError, match="1001 bytes, more than max_download_bytes=1000") as caught:
        read(200, ((b"content-length", b"1001"),))
    assert caught.value.result_url == "https://cdn.example/a.mp4"
    with pytest.raises(DownloadError, match="2000 bytes, more than max_download_bytes=1000") as caught:
        read(206, replace(content_range=b"bytes 50-99/2000"), TransferState(offset=50, etag='"v1"'))
    assert caught.value.result_url == "https://cdn.example/a.mp4"


def test_206_with_everything_right_goes_on():
    assert read(206, WHOLE_PART) == PartialContent(total=100)
    assert read(206, replace(content_range=b"bytes 50-99/*")) == PartialContent(total=100)
    assert read(206, replace(content_range=b"bytes 50-69/100", content_length=b"20")) == PartialContent(total=100)
    assert read(206, replace(content_length=None)) == PartialContent(total=100)
    assert read(206, WHOLE_PART, TransferState(offset=50, etag='"v1"')) == PartialContent(total=100)


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        (replace(etag=b'"v2"'), "has another version of the file by now"),
        (replace(etag=None), "has another version of the file by now"),
        (replace(etag=b'W/"v1"'), "has another version of the file by now"),
        (replace(content_range=None), "does not say which part of the file it sent"),
        (replace(content_range=b"bytes */100"), "does not say which part of the file it sent"),
        (replace(content_range=b"bytes 0-99/100"), "sent another part of the file than was asked for"),
        (replace(content_range=b"bytes 51-99/100"), "sent another part of the file than was asked for"),
        (replace(content_range=b"bytes 50-100/100"), "sent another part of the file than was asked for"),
        (replace(content_range=b"bytes 50-49/100"), "sent another part of the file than was asked for"),
        (replace(content_range=b"bytes 50-99/101"), "has a file of another length by now"),
        (replace(content_range=b"bytes 50-100/*"), "has a file of another length by now"),
        (replace(content_length=b"49"), "contradicts itself about the length of a part"),
    ],
)
def test_206_with_anything_else_starts_over(headers, reason):
    found = read(206, headers)
    assert found.start_over
    assert found.outcome is Outcome.UNUSABLE
    assert f"cdn.example:443 {reason}" in found.raised.message
    assert (found.raised.status, found.raised.result_url) == (206, "https://cdn.example/a.mp4")


def test_a_part_of_one_byte_after_one_byte_goes_on():
    state = TransferState(offset=1, etag='"v1"', total=2)
    assert build_range_headers(state)[0] == (b"range", b"bytes=1-")
    assert read(206, replace(content_range=b"bytes 1-1/2", content_length=b"1"), state) == PartialContent(total=2)
    assert read(416, (), state).start_over


def test_a_part_of_a_file_whose_length_nobody_states_goes_on_unframed():
    state = TransferState(offset=50, etag='"v1"')
    assert read(206, replace(content_range=b"bytes 50-99/*"), state) == PartialContent(total=None, framed=False)


def test_a_file_may_be_as_large_as_the_limit():
    assert read(200, ((b"content-length", b"1000"),)) == FullContent(total=1000)
    state = TransferState(offset=50, etag='"v1"')
    assert read(206, replace(content_range=b"bytes 50-99/1000"), state) == PartialContent(total=1000)


@pytest.mark.parametrize("state", [TransferState(), HALF, TransferState(offset=50, total=100)])
def test_206_that_holds_the_whole_file_is_the_whole_file(state):
    whole = replace(content_range=b"bytes 0-99/100", content_length=b"100")
    assert read(206, whole, state) == FullContent(total=100, etag='"v1"')
    assert read(206, replace(content_range=b"bytes 0-99/100", content_length=None), state).total == 100
    for headers in (replace(content_range=b"bytes 0-98/100"), replace(content_range=b"bytes 0-99/*")):
        assert isinstance(read(206, headers, state), FailedFetch)
    with pytest.raises(DownloadError, match="max_download_bytes=99"):
        read(206, whole, state, limit=99)


def test_206_and_416_that_nobody_asked_for():
    for state in (TransferState(), TransferState(etag='"v1"'), TransferState(offset=50, total=100)):
        found = read(206, WHOLE_PART, state)
        assert found.start_over
        assert "sent a part of the file though the whole was asked for" in found.raised.message
    found = read(416)
    assert found.start_over
    assert "cdn.example:443 has no bytes where the transfer stopped" in found.raised.message
    assert (found.raised.status, found.raised.result_url) == (416, "https://cdn.example/a.mp4")
    assert not read(416, (), TransferState()).start_over


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_says_where_the_file_lies(status):
    assert read(status, ((b"location", b"/x"),)) == Redirect(location="/x")


@pytest.mark.parametrize("status", [408, 500, 502, 503, 504, 520, 524, 526, 599, 204])
def test_trouble_is_asked_again(status):
    found = read(status)
    assert found.outcome is (Outcome.UNUSABLE if status == 204 else Outcome.SERVER_ERROR)
    assert not found.start_over
    assert found.raised.status == status
    assert "cdn.example:443" in found.raised.message
    assert found.raised.result_url == "https://cdn.example/a.mp4"
    assert isinstance(found.raised, InternalServerError) == (status >= 500)


@pytest.mark.parametrize(("status", "retry_after"), [(429, None), (429, b"7"), (425, None), (503, b"7")])
def test_a_refusal_is_waited_for(status, retry_after):
    found = read(status, () if retry_after is None else ((b"retry-after", retry_after),))
    assert found.outcome is Outcome.THROTTLED
    assert found.retry_after == found.raised.retry_after == (None if retry_after is None else 7.0)
    assert found.raised.status == status


def test_a_retry_after_that_is_a_date_is_measured_against_the_clock_where_the_answer_has_none():
    assert read(429, ((b"retry-after", b"Thu, 01 Jan 1970 00:00:09 GMT"),)).retry_after == 9.0


@pytest.mark.parametrize(
    ("status", "cls"),
    [
        (404, NotFoundError),
        (410, NotFoundError),
        (403, PermissionDeniedError),
        (409, DownloadError),
        (304, DownloadError),
        (300, DownloadError),
        (416, DownloadError),
    ],
)
def test_a_refusal_for_good_has_both_its_classes_and_not_the_signature(status, cls):
    found = read(status, state=TransferState())
    assert TABLE[found.outcome][RequestKind.FILE] == (Retry.STOP, Raise.FILE)
    assert isinstance(found.raised, cls)
    assert isinstance(found.raised, DownloadError)
    assert found.raised.status == status
    assert "secret" not in f"{found.raised}{found.raised.facts}"


@pytest.mark.parametrize("failure", WireFailure)
def test_what_the_wire_has_ended_is_asked_again_unless_that_cannot_help(failure):
    final = {
        WireFailure.NAME_MISSING,
        WireFailure.CERTIFICATE,
        WireFailure.PROXY_REFUSED,
        WireFailure.ADDRESS_REFUSED,
        WireFailure.TOO_LARGE,
        WireFailure.DEADLINE,
        WireFailure.CLOSED,
    }
    assert (TABLE[find_file_outcome(failure)][RequestKind.FILE][0] is Retry.STOP) == (failure in final)


def test_a_length_is_right_short_or_long():
    assert check_length(TransferState(offset=7)) is None
    assert check_length(TransferState(offset=7, total=7)) is None
    assert "ended" in check_length(TransferState(offset=6, total=7))
    assert "longer" in check_length(TransferState(offset=8, total=7))


def test_blocks_are_large_for_large_files_and_never_more_than_one_mib():
    assert choose_block_size(200 * 2**20) == choose_block_size(2**40) == 2**20
    assert choose_block_size(20 * 2**20) == 20 * 2**15
    assert choose_block_size(0) == choose_block_size(8 * 2**20) == 256 * 2**10
    assert choose_block_size(None) == 2**20


HEADER = st.tuples(
    st.sampled_from([b"content-range", b"content-length", b"etag", b"location", b"retry-after"]), st.binary(max_size=60)
)


@given(
    st.integers(100, 599),
    st.lists(HEADER, max_size=6),
    st.sampled_from([HALF, TransferState(), TransferState(offset=5, etag='""')]),
)
def test_any_head_is_an_answer_or_a_download_error(status, headers, state):
    try:
        found = read(status, tuple(headers), state)
    except DownloadError:
        return
    if isinstance(found, PartialContent):
        assert state.etag is not None
        assert status == 206
