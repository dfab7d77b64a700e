"""The house rules: what holds for every file, so that nobody has to remember it."""

from __future__ import annotations

import ast
import copy
import inspect
import json
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest

import videorouter
from videorouter import errors

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = Path(videorouter.__file__).resolve().parent  # of the wheel, when that is what is tested
TESTS = ROOT / "tests"
MODULES = sorted(PACKAGE.rglob("*.py"))
SOURCES = [*MODULES, *sorted(TESTS.rglob("*.py")), *sorted((ROOT / "docs").rglob("*.py")), *ROOT.glob("*.py")]
PURE = {
    "batch/entries.py",
    "call/answers.py",
    "call/inputs.py",
    "call/model_list.py",
    "call/notes.py",
    "call/pace.py",
    "call/polling.py",
    "call/refusals.py",
    "call/requests.py",
    "call/retry.py",
    "call/signatures.py",
    "config.py",
    "downloads/guard.py",
    "downloads/mp4.py",
    "downloads/names.py",
    "downloads/transfer.py",
    "errors.py",
    "events.py",
    "journal/budget.py",
    "journal/states.py",
    "models.py",
    "secrets.py",
}
"""The files that decide: no I/O, no clock, no dice."""
WITHOUT_IO = {"httpx", "anyio", "asyncio", "socket", "time", "random", "threading", "ssl", "sqlite3", "subprocess"}
HEAVY = {"httpx", "ssl", "aiohttp", "av", "rich", "ray", "opentelemetry", "pytest", "asyncio", "anyio", "msgspec"}
SESSIONS_OF_THEIR_OWN = {"benchmarks", "fuzz", "kill", "ray", "servers", "web"}
"""Folders of ``tests/`` that mirror no floor of the package: sessions of their own, and the servers tests talk to."""


HAS_SYNC = (PACKAGE / "sync.py").exists()
NEEDS_SYNC = pytest.mark.skipif(not HAS_SYNC, reason="videorouter/sync.py has not landed yet")


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE.parent if path.is_relative_to(PACKAGE) else ROOT).as_posix()


def runtime_imports(path: Path) -> set[str]:
    """Every module that a file imports when it runs, at its head or inside a function; typing-only ones are not."""
    found: set[str] = set()

    def walk(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            for other in node.orelse:
                walk(other)
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            walk(child)

    walk(ast.parse(path.read_text()))
    return found


def roots_of(modules: set[str]) -> set[str]:
    return {module.partition(".")[0] for module in modules}


def offenders(paths: list[Path], offends) -> list[str]:
    return [name_of(path) for path in paths if offends(path)]


def test_no_file_is_longer_than_600_lines():
    assert offenders(SOURCES, lambda path: len(path.read_text().splitlines()) > 600) == []


def test_each_ignored_warning_names_its_code():
    bare = re.compile(r"#\s*(type: ignore(?!\[)|pyright: ignore(?!\[)|noqa(?!:))")
    assert offenders(SOURCES, lambda path: bare.search(path.read_text())) == []


def test_each_file_says_at_its_head_what_it_does():
    assert offenders(MODULES, lambda path: not ast.get_docstring(ast.parse(path.read_text()))) == []


def test_the_files_that_decide_know_neither_wire_nor_clock_nor_dice():
    assert offenders([PACKAGE / name for name in PURE], lambda path: roots_of(runtime_imports(path)) & WITHOUT_IO) == []


def test_only_the_transport_and_the_call_know_httpx():
    rooms = ("videorouter/transport/", "videorouter/call/")
    above = [path for path in MODULES if not name_of(path).startswith(rooms)]
    assert offenders(above, lambda path: "httpx" in roots_of(runtime_imports(path))) == []


def test_the_sandbox_knows_nothing_of_the_house():
    def knows_the_house(path: Path) -> list[str]:
        own = [module for module in runtime_imports(path) if module.partition(".")[0] == "videorouter"]
        return [module for module in own if not (module + ".").startswith("videorouter.sandbox.")]

    assert offenders(sorted((PACKAGE / "sandbox").rglob("*.py")), knows_the_house) == []


def test_no_module_has_a_name_that_says_nothing():
    assert [path.name for path in MODULES if path.stem in {"utils", "helpers", "common", "manager", "base"}] == []


# The front door


def test_the_front_door_shows_exactly_its_names():
    head = ast.parse((PACKAGE / "__init__.py").read_text())
    typed = {
        alias.asname or alias.name
        for node in head.body
        if isinstance(node, ast.If)
        for statement in node.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }
    assert typed | {"__version__"} == set(videorouter.__all__)
    assert len(videorouter.__all__) == len(set(videorouter.__all__))
    assert set(dir(videorouter)) == set(videorouter.__all__)


NAMES = [name for name in videorouter.__all__ if name != "VideoRouter" or HAS_SYNC]


@pytest.mark.parametrize("name", NAMES)
def test_each_name_of_the_front_door_loads_and_has_a_docstring(name):
    thing = getattr(videorouter, name)
    assert name == "__version__" or inspect.getdoc(thing)


def test_the_front_door_refuses_names_that_it_does_not_have():
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = videorouter.Nothing


def test_every_error_stands_in_the_front_door():
    public = {
        name for name, thing in vars(errors).items() if isinstance(thing, type) and thing.__module__ == errors.__name__
    }
    assert public <= set(videorouter.__all__)


def loaded_by(line: str) -> set[str]:
    program = f"import sys; before = set(sys.modules)\n{line}\nimport json; print(json.dumps(sorted(set(sys.modules) - before)))"
    run = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    return roots_of(set(json.loads(run.stdout)))


def test_importing_the_package_loads_nothing_heavy():
    assert loaded_by("import videorouter") & HEAVY == set()


def test_importing_the_client_loads_no_guest():
    # rich is missing here on purpose: httpx itself imports it where its command line could run
    guests = {"aiohttp", "av", "PIL", "ray", "opentelemetry", "pytest", "sqlite3", "respx", "trio"}
    assert loaded_by("from videorouter import AsyncVideoRouter") & guests == set()


@pytest.mark.parametrize("name", ["AsyncVideoRouter", pytest.param("VideoRouter", marks=NEEDS_SYNC)])
def test_each_verb_has_a_docstring(name):
    verbs = {verb: thing for verb, thing in inspect.getmembers(getattr(videorouter, name)) if not verb.startswith("_")}
    assert [verb for verb, thing in verbs.items() if not inspect.getdoc(thing)] == []


# Sync and async

PAIRS = {"aclose": "close"}


def verbs_of(client: type) -> dict[str, object]:
    return {name: thing for name, thing in inspect.getmembers(client) if not name.startswith("_")}


def parameters_of(verb: object) -> list[tuple[str, object, object]]:
    return [(p.name, p.kind, p.default) for p in inspect.signature(verb).parameters.values()]


@NEEDS_SYNC
def test_sync_and_async_have_the_same_verbs():
    ours = {PAIRS.get(name, name) for name in verbs_of(videorouter.AsyncVideoRouter)}
    assert ours == set(verbs_of(videorouter.VideoRouter))


@NEEDS_SYNC
def test_sync_and_async_take_the_same_arguments():
    theirs = verbs_of(videorouter.VideoRouter)
    differing = {
        name
        for name, verb in verbs_of(videorouter.AsyncVideoRouter).items()
        if callable(verb) and parameters_of(verb) != parameters_of(theirs[PAIRS.get(name, name)])
    }
    assert differing == set()
    assert parameters_of(videorouter.AsyncVideoRouter) == parameters_of(videorouter.VideoRouter)


# Errors

ERRORS = sorted(
    (
        thing
        for thing in vars(errors).values()
        if isinstance(thing, type) and issubclass(thing, errors.VideoRouterError)
    ),
    key=lambda cls: cls.__name__,
)


@pytest.mark.parametrize("cls", ERRORS)
@pytest.mark.parametrize("through", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy, copy.deepcopy])
def test_each_error_pickles_and_copies_with_equal_fields(cls, through):
    error = cls(
        "What happened.", status=502, task_id="t-1", phase=errors.Phase.SENT, headers=(("a", "b"),), elapsed=1.5
    )
    error.add_note("seen in a test")
    again = through(error)
    assert type(again) is cls
    assert again == error
    assert {name: getattr(again, name) for name in error.FACTS} == {name: getattr(error, name) for name in error.FACTS}
    assert again.__notes__ == ["seen in a test"]


def test_an_unknown_outcome_is_caught_by_no_blanket_retry():
    assert not issubclass(errors.OutcomeUnknownError, TimeoutError | ConnectionError | OSError)


# Tests mirror the package


def mirrored(path: Path) -> bool:
    """Whether a test file stands where its module stands; ``test_wire_errors.py`` may be a part of ``wire``."""
    folder = PACKAGE / path.parent.relative_to(TESTS)
    stem = path.stem.removeprefix("test_")
    modules = {module.stem for module in folder.glob("*.py")} | {room.name for room in folder.glob("*/")}
    return any(stem == module or stem.startswith(f"{module}_") for module in modules)


OF_THE_HOUSE = {"test_house.py", "test_docs.py", "test_conftest.py", "test_comparison.py"}
TEST_FILES = [
    path
    for path in sorted(TESTS.rglob("test_*.py"))
    if path.name not in OF_THE_HOUSE and path.relative_to(TESTS).parts[0] not in SESSIONS_OF_THEIR_OWN
]


def test_each_test_file_stands_where_its_module_stands():
    assert offenders(TEST_FILES, lambda path: not mirrored(path)) == []
