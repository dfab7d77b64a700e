"""The book is true: every block of the README and of docs/ runs, every link leads somewhere, every list is complete.

Each page runs in an empty folder against a sandbox of its own, with ``INFRON_VIDEO_BASE_URL`` and ``INFRON_API_KEY``
set, so that what a reader sees is plain user code. Blocks share names and files from the top of a page to its end:

- ``python`` runs; a top-level ``await`` works, as in a notebook.
- ``sh`` runs in bash; a line that begins with ``pip install`` is only checked for extras that exist.
- Any language with ``title="name"`` is written to the file of that name instead of being run.
- ``<!-- skip: next "reason" -->`` skips a block, ``<!-- sandbox: {"mode": "task"} -->`` chooses the page's sandbox.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from unittest import SkipTest
from urllib.parse import unquote, urlsplit

import pytest
from sybil import Document, Region
from sybil.parsers.markdown.lexers import RawFencedCodeBlockLexer
from sybil.parsers.markdown.skip import SkipParser

import videorouter
from videorouter import errors

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
BLOCK = re.compile(r"[ \t]*(?P<language>\w+)(?P<options>[^\n]*)$\n", re.MULTILINE)
TITLE = re.compile(r'title="(?P<name>[^"]+)"')
SANDBOX = re.compile(r"^<!--+ sandbox: (?P<options>\{.*\}) --+>$", re.MULTILINE)
SKIP = re.compile(r"<!--+\s*skip:(?P<arguments>.*?)--+>")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


# Blocks


class Reader:
    """Somebody who reads one page from top to bottom and does what it says."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self.environment = environment
        self.runner = asyncio.Runner()
        self.lexer = RawFencedCodeBlockLexer(BLOCK)

    def parse(self, document: Document):
        for block in self.lexer(document):
            yield Region(block.start, block.end, (block.lexemes["language"], block.lexemes), self.do)

    def do(self, example) -> None:
        language, lexemes = example.parsed
        title = TITLE.search(lexemes["options"])
        source = str(lexemes["source"])
        if title:
            place = self.folder / title["name"]
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(source)
        elif language in {"python", "py"}:
            self.run_python(example, source)
        elif language in {"sh", "bash", "shell", "console"}:
            self.run_shell(example, source)

    def run_python(self, example, source: str) -> None:
        padded = "\n" * example.line + source
        code = compile(padded, example.path, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        result = eval(code, example.namespace)
        if inspect.iscoroutine(result):
            self.runner.run(result)

    def run_shell(self, example, source: str) -> None:
        for line in re.findall(r"^(?:\S*/)?pip install .*$", source, re.MULTILINE):
            for extras in re.findall(r"\[([\w,]+)\]", line):
                assert set(extras.split(",")) <= PROJECT["project"]["optional-dependencies"].keys(), line
        source = re.sub(r"^(?:\S*/)?pip install .*$", "", source, flags=re.MULTILINE)
        command = ["bash", "-euo", "pipefail", "-c", source]
        run = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        said = f"{name_of(Path(example.path))}:{example.line} exited {run.returncode}\n{run.stdout}\n{run.stderr}"
        assert run.returncode == 0, said
        assert "Traceback (most recent call last)" not in run.stderr, said


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_every_block_of_the_page_runs(path, tmp_path, monkeypatch):
    reader_folder = tmp_path / "reader"
    reader_folder.mkdir()
    text = path.read_text()
    blocks = RawFencedCodeBlockLexer(BLOCK)(Document(text, str(path)))
    if not any(block.lexemes["language"] in {"python", "py", "sh", "bash", "shell", "console"} for block in blocks):
        return
    from videorouter.sandbox import Sandbox

    chosen = SANDBOX.search(text)
    options = {"mode": "mixed", "profile": "instant", "state": tmp_path / "sandbox.db"}
    if chosen:
        options |= json.loads(chosen["options"])
    with Sandbox(**options).in_thread() as sandbox:
        monkeypatch.chdir(reader_folder)
        monkeypatch.setenv("INFRON_VIDEO_BASE_URL", sandbox.base_url)
        monkeypatch.setenv("INFRON_API_KEY", "a-key-for-the-sandbox")
        monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.setenv("NO_COLOR", "1")
        reader = Reader(reader_folder, dict(os.environ))
        with reader.runner:
            document = Document.parse(str(path), reader.parse, SkipParser())
            for example in document.examples():
                with contextlib.suppress(SkipTest):  # each one has its reason beside it
                    example.evaluate()


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_every_skipped_block_has_a_reason(path):
    reasonless = [
        skip[0] for skip in SKIP.finditer(path.read_text()) if not re.search(r'".{10,}"|end', skip["arguments"])
    ]
    assert reasonless == []


# Links

LINK = re.compile(r"(?<!!)\[(?:[^\]\[]|\[[^\]]*\])*\]\((?P<target>[^)\s]+)(?:\s+\"[^\"]*\")?\)")
IMAGE = re.compile(r"!\[[^\]]*\]\((?P<target>[^)\s]+)\)|<(?:img|source)\b[^>]*\bsrc(?:set)?=\"(?P<source>[^\"]+)\"")


def strip_code(text: str) -> str:
    text = re.sub(r"^[ \t]*(`{3,}|~{3,})[^\n]*\n.*?^[ \t]*\1[ \t]*$", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]+`", "code", text)


def slugs_of(path: Path) -> set[str]:
    text = re.sub(r"^(`{3,}|~{3,}).*?^\1[ \t]*$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    found = set(re.findall(r"\{[^}]*#([\w.-]+)[^}]*\}", text)) | set(re.findall(r'\bid="([^"]+)"', text))
    for heading in re.findall(r"^#+[ \t]+(.+?)[ \t]*$", text, re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        plain = re.sub(r"[^\w\s-]", "", plain.replace("`", "")).strip().lower()
        found.add(re.sub(r"[\s-]+", "-", plain))
    for module in re.findall(r"^::: ([\w.]+)$", text, re.MULTILINE):
        found.update({module} | {f"{module}.{name}" for name in vars(errors)})
    return found


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_every_link_of_the_page_leads_somewhere(path):
    text = strip_code(path.read_text())
    targets = [match["target"] for match in LINK.finditer(text)]
    targets += [match["target"] or match["source"] for match in IMAGE.finditer(text)]
    dead = []
    for target in targets:
        parts = urlsplit(target)
        if parts.scheme in {"http", "https", "mailto"}:
            continue
        place = (path.parent / unquote(parts.path)).resolve() if parts.path else path
        if not place.exists() or place.is_dir():
            # The package's own source is not beside the docs where the wheel is tested
            source = Path(videorouter.__file__).resolve().parent.parent / place.relative_to(ROOT)
            if not place.is_relative_to(ROOT) or not source.is_file():
                dead.append(target)
        elif parts.fragment and place.suffix == ".md" and parts.fragment not in slugs_of(place):
            dead.append(target)
    assert dead == []


def pages_of(nav: object) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    parts = nav.values() if isinstance(nav, dict) else nav
    return [page for part in parts for page in pages_of(part)]


def test_every_page_stands_in_the_navigation():
    nav = tomllib.loads((ROOT / ".zensical.toml").read_text())["project"]["nav"]
    assert sorted(pages_of(nav)) == sorted(
        page.relative_to(DOCS).as_posix() for page in PAGES if page.is_relative_to(DOCS)
    )


def test_the_list_for_machines_names_every_page():
    listed = set(re.findall(r"\]\(([^)]+\.md)\)", (DOCS / "llms.txt").read_text()))
    assert listed == {page.relative_to(DOCS).as_posix() for page in PAGES if page.is_relative_to(DOCS)}


# Lists

SLICES = sorted(
    path.name for path in Path(videorouter.__file__).parent.iterdir() if path.is_dir() and path.name.isidentifier()
)
FILE = re.compile(
    rf"`(?:videorouter/)?((?:{'|'.join(SLICES)})/[\w/]+\.(?:py|html))`|`((?:tests|docs)/[\w/]+\.(?:py|md))`"
)
HISTORY = ("docs/changelog.md", "docs/design/")


@pytest.mark.parametrize("path", [page for page in PAGES if not name_of(page).startswith(HISTORY)], ids=name_of)
def test_each_file_that_the_page_names_exists(path):
    package = Path(videorouter.__file__).parent
    named = [package / own if own else ROOT / other for own, other in FILE.findall(path.read_text())]
    assert [place.name for place in named if not place.is_file()] == []


def test_the_error_table_names_every_error():
    rows = re.findall(r"^\| `(\w+)`", (DOCS / "reference" / "errors.md").read_text(), re.MULTILINE)
    tree = [
        name
        for name, thing in vars(errors).items()
        if isinstance(thing, type) and issubclass(thing, errors.VideoRouterError | Warning)
    ]
    assert sorted(rows) == sorted(tree)


def test_ci_runs_the_second_command_of_the_readme():
    first, second = re.findall(r"^```sh\n(python3 -m venv .*)\n```$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert first.endswith("videorouter demo")
    assert second in (ROOT / ".ci" / "run").read_text()


def test_the_sync_page_names_every_verb():
    cells = re.findall(r"^\| (`.*?) \|", (DOCS / "reference" / "sync.md").read_text(), re.MULTILINE)
    named = {verb for cell in cells for verb in re.findall(r"`(\w+)`", cell)}
    assert named == {name for name in dir(videorouter.VideoRouter) if not name.startswith("_")}


def test_each_row_about_money_names_a_test_that_exists():
    page = (DOCS / "explanation" / "money.md").read_text()
    rows = re.findall(r"^\| .*$", page, re.MULTILINE)[2:]
    written = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    proven = [re.findall(r"`(test_\w+)` \|$", row) for row in rows]
    assert [row for row, tests in zip(rows, proven, strict=True) if not tests] == []
    assert [name for tests in proven for name in tests if f"def {name}(" not in written] == []
