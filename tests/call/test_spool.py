"""An answer that is too large for memory goes to the disk, and its inline videos come out of it whole."""

from __future__ import annotations

import base64
import gc
import json
import os
import pickle
import textwrap

import pytest
from hypothesis import given, strategies as st

from videorouter import Task, VideoResult
from videorouter.call.answers import read_post
from videorouter.call.spool import NotSplitError, Spool, split_answer
from videorouter.http import WireError, WireFailure

CLIP = os.urandom(1_000_003)
TEXT = base64.b64encode(CLIP).decode()
MOST = 4 * 2**20


def cut(data: bytes, size: int = 2**20):
    return iter([data[at : at + size] for at in range(0, len(data), size)])


def split(answer: object, size: int = 2**20, most: int = MOST):
    return split_answer(cut(json.dumps(answer).encode(), size), most)


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        TEXT.rstrip("="),
        base64.urlsafe_b64encode(CLIP).decode(),
        "\n".join(textwrap.wrap(TEXT, 76)),
        f"data:video/mp4;base64,{TEXT}",
    ],
    ids=["plain", "unpadded", "URL-safe", "wrapped", "data URL"],
)
@pytest.mark.parametrize("escaped", [False, True])
def test_a_long_base64_text_becomes_a_short_one_that_stands_for_its_bytes(text, escaped):
    whole = json.dumps({"created": 7, "data": [{"b64_json": text, "video_id": 'a "b" \\ c'}]})
    if escaped:
        whole = whole.replace("/", "\\/")
    body, files = split_answer(cut(whole.encode()), MOST)
    item = json.loads(body)["data"][0]
    token = base64.b64decode(item["b64_json"].rpartition(",")[2])
    assert bytes(files[token]) == CLIP
    assert len(body) < 1000
    assert item["video_id"] == 'a "b" \\ c'


@given(size=st.integers(1, 70), text=st.text(max_size=40))
def test_where_the_pieces_are_cut_changes_nothing(size, text):
    answer = {"a": [text, {"b": text + '"\\'}], "c": None, text: 1.5}
    body, files = split(answer, size)
    assert json.loads(body) == answer
    assert files == {}


def test_a_long_text_that_is_no_base64_stays_where_it_is():
    body, files = split({"data": [{"b64_json": TEXT, "revised_prompt": "An otter, " * 50_000}]})
    assert json.loads(body)["data"][0]["revised_prompt"] == "An otter, " * 50_000
    assert len(files) == 1


@pytest.mark.parametrize(
    "data",
    [
        b" " * (MOST + 1),
        b'{"a": "' + b"A" * MOST,
        b'{"a": "' + b"A" * 300_000 + b"." * 300_000 + b'"}',
        b'{"a": "' + b"A" * 300_001 + b'"}',
        b'{"a": "' + b". " * MOST + b'"}',
        b'"\\',
    ],
    ids=["spaces", "cut", "no base64", "odd", "prose", "cut escape"],
)
def test_what_makes_no_sense_is_refused(data):
    with pytest.raises(NotSplitError):
        split_answer(cut(data), MOST)


def test_the_bytes_go_into_a_pickle_and_their_file_has_no_name(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    _, files = split({"data": TEXT})
    (held,) = files.values()
    assert pickle.loads(pickle.dumps(held)) == CLIP
    assert list(tmp_path.iterdir()) == []


@pytest.mark.anyio
class TestSpool:
    async def test_a_result_has_its_video_back_and_no_file_is_left(self, tmp_path, monkeypatch):
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        spool = Spool(limit=2**30, most=MOST)
        answer = json.dumps({"created": 1, "data": [{"b64_json": TEXT}, {"url": "https://cdn.example/a.mp4"}]}).encode()
        for piece in cut(answer, 50_000):
            await spool.write(piece)
        result = read_post(200, await spool.finish(), model="m")
        assert isinstance(result, VideoResult)
        spool.attach(Task(id="t", result=result))
        assert [video.data for video in result.videos] == [CLIP, None]
        assert pickle.loads(pickle.dumps(result)).videos[0].data == CLIP
        assert list(tmp_path.iterdir()) == []

    async def test_more_than_the_limit_is_too_large_and_can_be_kept(self, tmp_path, monkeypatch):
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        spool = Spool(limit=3 * 2**20, most=MOST)
        for _ in range(3):
            await spool.write(b"[" * 2**20)
        with pytest.raises(WireError) as caught:
            await spool.write(b"[")
        assert caught.value.failure is WireFailure.TOO_LARGE
        assert spool.keep().stat().st_size == 3 * 2**20 + 1
        del spool
        assert len(list(tmp_path.iterdir())) == 1

    async def test_what_makes_no_sense_stays_in_a_file_that_goes_with_the_spool(self, tmp_path, monkeypatch):
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        spool = Spool(limit=2**30, most=1000)
        await spool.write(b'{"a": ' + b"9" * 2000)
        with pytest.raises(WireError, match="beside its videos"):
            await spool.finish()
        assert spool.path.read_bytes() == b'{"a": ' + b"9" * 2000
        del spool
        gc.collect()
        assert list(tmp_path.iterdir()) == []
