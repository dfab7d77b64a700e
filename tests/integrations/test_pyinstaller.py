"""The command line as one folder that needs no Python: built by PyInstaller, and run."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from videorouter.integrations.pyinstaller import list_hook_folders

ROOT = Path(__file__).resolve().parents[2]
ENTRY = "from videorouter.cli import main\nraise SystemExit(main())\n"
NOT_OURS = [
    "IPython",
    "django",
    "docutils",
    "fsspec",
    "hypothesis",
    "jedi",
    "litestar",
    "moto",
    "numpy",
    "pandas",
    "pyarrow",
]
NOT_OURS += ["pydantic", "pytest", "setuptools", "sphinx", "tkinter", "trio", "zmq"]
"""What lies beside the package where it is tested, and would be packed, too: minutes of work."""


def test_pyinstaller_finds_the_hook():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["pyinstaller40"]
    module, _, name = declared["hook-dirs"].partition(":")
    assert getattr(importlib.import_module(module), name) is list_hook_folders
    (folder,) = list_hook_folders()
    assert (Path(folder) / "hook-videorouter.py").is_file()


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    pytest.importorskip("PyInstaller")
    folder = tmp_path_factory.mktemp("build")
    (folder / "entry.py").write_text(ENTRY)
    hooks = [f"--additional-hooks-dir={place}" for place in list_hook_folders()]
    left_out = [f"--exclude-module={name}" for name in NOT_OURS]
    subprocess.run(
        [
            sys.executable,
            "-m",
            "PyInstaller",
            "--noconfirm",
            "--log-level=ERROR",
            "--name=videorouter",
            *hooks,
            *left_out,
            "entry.py",
        ],
        cwd=folder,
        check=True,
        timeout=550,
    )
    return folder / "dist" / "videorouter" / "videorouter"


@pytest.mark.slow
@pytest.mark.timeout(600)  # the build of everything that the package needs
def test_what_it_builds_makes_videos_where_there_is_no_python(program, tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "INFRON"))}

    def run(*arguments):
        return subprocess.run(
            [program, *arguments],
            cwd=tmp_path,
            env=environment,
            check=True,
            capture_output=True,
            text=True,
            timeout=120,
        ).stdout

    assert run("--version").startswith("videorouter ")
    assert "batch" in run("--help")
    assert "--max-cost" in run("batch", "run", "--help")
    told = json.loads(run("generate", "An otter", "--sandbox", "-m", "veo3-fast", "-o", "otter.mp4", "--json"))
    assert told
    assert (tmp_path / "otter.mp4").read_bytes()[4:8] == b"ftyp"
    (tmp_path / "prompts.txt").write_text("A heron at dawn\nNeon rain\n")
    run("batch", "run", "prompts.txt", "--out", "clips", "-m", "veo3-fast", "--sandbox")
    assert len(list((tmp_path / "clips").rglob("*.mp4"))) == 2
    run("demo", "-q")
    assert len(list(tmp_path.glob("videorouter-demo/*.mp4"))) == 6
