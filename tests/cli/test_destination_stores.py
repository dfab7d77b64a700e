"""The command line into an object store: the real command, against moto's server for S3."""

# ruff: noqa: F401, F811  fixtures of another file
import pytest
from stores import names, read, s3, s3_server

from tests.cli.conftest import point_at


@pytest.fixture
def environment(sandbox, s3_server):
    return {**point_at(sandbox), **s3_server, "PYTHONWARNINGS": ""}


def test_a_batch_goes_into_a_store_and_its_journal_tells_where(run, environment, s3, tmp_path):
    (tmp_path / "prompts.txt").write_text("otter\nheron\n")
    command = ("batch", "run", "prompts.txt", "-o", f"{s3.url}/clips")
    ended = run(*command, env=environment)
    assert ended.code == 0, ended.err
    wanted = [f"{s3.url}/clips/000000-otter.mp4", f"{s3.url}/clips/000001-heron.mp4"]
    assert sorted(ended.lines) == wanted
    assert read(s3, "clips/000000-otter.mp4")[4:8] == b"ftyp"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["prompts-videos", "prompts.txt"]
    s3.store.rm_file(wanted[1])
    again = run(*command, env=environment)
    assert (again.code, again.lines) == (0, [wanted[1]])
    records = run("batch", "export", "prompts-videos", env=environment).records
    assert [record["files"] for record in records] == [[url] for url in wanted]
    assert run("batch", "gallery", "prompts-videos", env=environment).code == 0
    page = (tmp_path / "prompts-videos" / "gallery.html").read_text()
    assert all(f'"{url}"' in page for url in wanted)
    assert names(s3) == ["000000-otter.mp4", "000001-heron.mp4"]


def test_one_video_goes_into_a_store(run, environment, s3):
    for name in ("an-otter.mp4", "an-otter-2.mp4"):
        ended = run("generate", "an otter", "-o", f"{s3.url}/", env=environment)
        assert (ended.code, ended.lines) == (0, [f"{s3.url}/{name}"]), ended.err
    assert names(s3) == ["an-otter-2.mp4", "an-otter.mp4"]


@pytest.mark.parametrize("place", ["s3://no-such-bucket-here/clips/", "http://example.com/clips/"])
def test_a_place_that_cannot_be_used_costs_nothing(run, environment, sandbox, tmp_path, place):
    (tmp_path / "prompts.txt").write_text("otter\n")
    for command in (("generate", "otter"), ("batch", "run", "prompts.txt")):
        ended = run(*command, "-o", place, env=environment)
        assert ended.code == 2, ended.err
        assert "Traceback" not in ended.err
    assert sandbox.charge_list() == []
