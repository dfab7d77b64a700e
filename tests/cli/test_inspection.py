import pytest

pytest.importorskip("av", reason="needs the extra 'sandbox'")

from videorouter.cli.inspection import NotPlayableError, inspect_video


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    import httpx

    from videorouter.sandbox import Sandbox

    with Sandbox().in_thread() as sandbox:
        answer = httpx.post(
            f"{sandbox.base_url}/videos/generations",
            json={"model": "veo3-fast", "prompt": "x"},
            headers={"Authorization": "k"},
        ).json()
        return httpx.get(answer["data"][0]["url"]).content


def write(tmp_path, data):
    path = tmp_path / "clip.mp4"
    path.write_bytes(data)
    return path


def test_a_whole_video_is_described(tmp_path, clip):
    found = inspect_video(write(tmp_path, clip))
    assert (found.width, found.height, found.codec) == (640, 360, "h264")
    assert found.frames == round(found.seconds * 24)
    assert found.poster.startswith(b"\xff\xd8")


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.99])
def test_a_cut_video_is_found_out(tmp_path, clip, kept):
    with pytest.raises(NotPlayableError):
        inspect_video(write(tmp_path, clip[: int(len(clip) * kept)]))


@pytest.mark.parametrize("data", [b"<html>" * 100, b"\0" * 4096, b"\0\0\0\x18ftypisom" + b"\xff" * 500])
def test_what_is_no_video_is_found_out(tmp_path, data):
    with pytest.raises(NotPlayableError):
        inspect_video(write(tmp_path, data))
