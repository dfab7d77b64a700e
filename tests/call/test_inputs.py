"""What a file is, whether it may be uploaded, and what the answer to an upload means."""

from email.parser import BytesParser
from email.policy import HTTP

import pytest
from hypothesis import given, strategies as st

from videorouter.call.inputs import (
    check_addresses,
    check_input,
    choose_address,
    classify_review,
    encode_upload,
    read_asset,
    recognise,
)
from videorouter.errors import InvalidRequestError
from videorouter.models import Asset

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 16
MP4 = b"\0\0\0\x18ftypmp42" + b"\0" * 16


@pytest.mark.parametrize(
    ("head", "mime"),
    [
        (PNG, "image/png"),
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "image/webp"),
        (b"RIFF\0\0\0\0WAVEfmt ", "audio/wav"),
        (MP4, "video/mp4"),
        (b"\0\0\0\x18ftypqt  ", "video/quicktime"),
        (b"\0\0\0\x18ftypM4A ", "audio/mp4"),
        (b"\0\0\0\x18ftypavif", "image/avif"),
        (b"\x1aE\xdf\xa3", "video/webm"),
        (b"ID3\x03", "audio/mpeg"),
        (b"\xff\xfb\x90", "audio/mpeg"),
        (b"<html>", None),
        (b"", None),
    ],
)
def test_a_file_is_recognised_by_its_first_bytes(head, mime):
    assert recognise(head) == mime


@given(st.binary(max_size=64))
def test_recognising_never_raises(head):
    mime = recognise(head)
    assert mime is None or mime.partition("/")[0] in {"image", "video", "audio"}


@pytest.mark.parametrize(
    ("head", "size", "field", "words"),
    [
        (b"", 0, "image_url", "empty"),
        (b"<html></html>", 13, "image_url", "not a known image"),
        (MP4, 28, "image_url", "takes images"),
        (PNG, 51 * 2**20, "image_url", "at most"),
    ],
)
def test_an_unfit_file_is_refused_before_anything_is_uploaded(head, size, field, words):
    with pytest.raises(InvalidRequestError, match=words):
        check_input(head, size, name="cat.png", field=field)


def test_the_multipart_body_reads_back_with_another_parser():
    blocks, content_type = encode_upload(
        model="m/x", filename='a"b\r\n.png', mime="image/png", blocks=(PNG, b"\r\n--"), boundary="edge"
    )
    message = BytesParser(policy=HTTP).parsebytes(
        b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + b"".join(blocks)
    )
    model, file = message.iter_parts()
    assert model.get_content().strip() == "m/x"
    assert file.get_payload(decode=True) == PNG + b"\r\n--"
    assert file.get_content_type() == "image/png"
    assert file.get_filename() == "a_b_.png"


def test_the_documented_answer_of_an_upload_is_read():
    asset = read_asset(
        b'{"code":200,"message":"success","data":{"id":14,"status":"processing","upstream_status":"Processing",'
        b'"upstream_asset_uri":"asset://asset-xyz","gcs_url":"https://storage.googleapis.com/x.png"}}',
        model="m",
    )
    assert asset == Asset(
        uri="asset://asset-xyz", id="14", url="https://storage.googleapis.com/x.png", status="Processing", model="m"
    )


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"data":null}', b'{"data":{"status":"Active"}}', b"[" * 10000])
def test_an_answer_without_a_resource_is_none(body):
    assert read_asset(body) is None


@pytest.mark.parametrize(
    ("word", "review"),
    [
        ("Active", "active"),
        ("Processing", "pending"),
        ("Rejected", "refused"),
        ("FAILED", "refused"),
        (None, "pending"),
    ],
)
def test_the_review_states(word, review):
    assert classify_review(word) == review


def test_references_take_the_asset_address_and_frames_the_public_one():
    asset = Asset(uri="asset://a", url="https://x.example/a.png")
    assert choose_address(asset, "image_urls") == "asset://a"
    assert choose_address(asset, "image_url") == "https://x.example/a.png"
    assert choose_address(Asset(uri="asset://a"), "image_url") == "asset://a"
    with pytest.raises(InvalidRequestError):
        choose_address(Asset(id="1"), "image_url")


@pytest.mark.parametrize(
    "text",
    [
        "https://x.example/a.png",
        "HTTP://x.example/a",
        " https://x.example/a.png\n",
        "data:image/png;base64,AA",
        "asset://a-1",
    ],
)
def test_an_address_has_a_scheme(text):
    check_addresses({"image_url": text, "image_urls": [text], "video_urls": (text,), "audio_urls": None})


@pytest.mark.parametrize(
    "text", ["cat.png", "./cat.png", "/tmp/cat.png", "C:\\cat.png", "www.x.example/cat.png", "", "//x.example/a"]
)
@pytest.mark.parametrize(
    "spell", [lambda text: {"image_url": text}, lambda text: {"video_urls": ["https://x.example/a", text]}]
)
def test_a_name_without_a_scheme_is_no_address(text, spell):
    with pytest.raises(InvalidRequestError, match=r"is not a URL\. Nothing was sent\..*pathlib\.Path"):
        check_addresses(spell(text))
