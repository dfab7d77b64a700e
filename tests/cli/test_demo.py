import json
import re
import subprocess
import sys

import pytest

from tests.cli.conftest import make_environment

av = pytest.importorskip("av", reason="the demo's check needs the extra 'sandbox'")


def test_the_demo_runs_without_a_key_and_every_video_plays(run, tmp_path):
    ended = run("demo", "--json", env={"HTTP_PROXY": "http://127.0.0.1:9", "ALL_PROXY": "http://127.0.0.1:9"})
    assert ended.code == 0, ended.err
    [made] = ended.records
    assert len(made["videos"]) == 6
    assert sum(video["parent"] is not None for video in made["videos"]) == 1
    for video in made["videos"]:
        with av.open(str(tmp_path / video["path"])) as container:
            assert sum(1 for _ in container.decode(video=0)) == video["frames"] > 0
    page = (tmp_path / "videorouter-demo" / "index.html").read_text()
    assert re.findall(r'src="([^"]+)"', page) == [video["path"].rpartition("/")[2] for video in made["videos"]]
    assert "http://" not in page
    assert "<script" not in page


def test_the_demo_says_what_to_try_next(run, tmp_path):
    ended = run("demo", "-o", "my demo")
    assert ended.code == 0, ended.err
    assert ended.lines[-1] == "my demo/index.html"
    assert "videorouter sandbox" in ended.err
    assert (tmp_path / "my demo" / "index.html").as_uri() in ended.err


def test_without_the_extra_it_says_how_to_install_it(tmp_path):
    code = (
        "import sys\n"
        "class Missing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'aiohttp':\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Missing())\n"
        "from videorouter.cli import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    for arguments in (["demo"], ["sandbox"], ["generate", "x", "--sandbox"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            check=False,
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=make_environment(),
            timeout=30,
        )
        assert done.returncode == 13, done.stderr
        assert "pip install '.[sandbox]' in a clone" in done.stderr
        assert "Traceback" not in done.stderr


def test_a_folder_that_cannot_be_made_is_said(run, tmp_path):
    (tmp_path / "file").touch()
    ended = run("demo", "-o", "file/demo")
    assert ended.code == 2
    assert json.dumps("file/demo")[1:-1] in ended.err
