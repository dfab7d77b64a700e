"""What holds for every file of the project, so that nobody has to remember it."""

from __future__ import annotations

import ast
import collections
import copy
import graphlib
import inspect
import json
import pickle
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import videorouter
from videorouter import errors

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = Path(videorouter.__file__).resolve().parent  # of the wheel, when that is what is tested
TESTS = ROOT / "tests"
MODULES = sorted(PACKAGE.rglob("*.py"))
SOURCES = [*MODULES, *sorted(TESTS.rglob("*.py")), *sorted((ROOT / "docs").rglob("*.py")), *ROOT.glob("*.py")]
DECIDING = {
    "videorouter.batch.entries",
    "videorouter.call.answers",
    "videorouter.call.failures",
    "videorouter.call.inputs",
    "videorouter.call.money",
    "videorouter.call.pace",
    "videorouter.call.requests",
    "videorouter.call.retry",
    "videorouter.call.videos",
    "videorouter.config",
    "videorouter.downloads.codecs",
    "videorouter.downloads.gif",
    "videorouter.downloads.guard",
    "videorouter.downloads.host_errors",
    "videorouter.downloads.media",
    "videorouter.downloads.mp4",
    "videorouter.downloads.mp4_facts",
    "videorouter.downloads.names",
    "videorouter.downloads.resume",
    "videorouter.downloads.webm",
    "videorouter.errors",
    "videorouter.events",
    "videorouter.http",
    "videorouter.journal.budget",
    "videorouter.journal.identity",
    "videorouter.journal.states",
    "videorouter.lenient_json",
    "videorouter.models",
    "videorouter.places",
    "videorouter.plain",
    "videorouter.record",
    "videorouter.secrets",
}
"""The files that decide, named here and in pyproject.toml, so that none leaves the list by the way."""
COMPUTING = {
    "__future__",
    "base64",
    "binascii",
    "collections.abc",
    "dataclasses",
    "datetime",
    "decimal",
    "enum",
    "functools",
    "html",
}
COMPUTING |= {
    "hashlib",
    "inspect",
    "ipaddress",
    "itertools",
    "json",
    "math",
    "msgspec",
    "numbers",
    "pathlib",
    "re",
    "string",
    "struct",
}
COMPUTING |= {"typing", "unicodedata", "urllib.parse"}
"""What a file that decides may import besides others of its kind: packages that compute."""
DOING = {"open", "print", "input", "exec", "eval", "__import__", "breakpoint"}
DOING |= {"now", "utcnow", "today", "read_text", "read_bytes", "write_text", "write_bytes", "exists", "is_file", "stat"}
"""What even packages that compute can do to the world, or ask of it."""
GUESTS = ("cli", "integrations", "testing")
HEAVY = {"httpx", "ssl", "aiohttp", "av", "rich", "ray", "opentelemetry", "pytest", "asyncio", "anyio", "msgspec"}
SESSIONS_OF_THEIR_OWN = {"benchmarks", "fuzz", "kill", "ray", "servers", "web"}
"""Folders of ``tests/`` that mirror no slice of the package: sessions of their own, and the servers tests talk to."""
TOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
CONTRACTS = {contract["name"]: contract for contract in TOOLS["importlinter"]["contracts"]}


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE.parent if path.is_relative_to(PACKAGE) else ROOT).as_posix()


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


TREES = {dotted(path): ast.parse(path.read_text()) for path in MODULES}


def imports_of(module: str, *, typing: bool = True) -> set[str]:
    """Every module that a file imports, at its head or inside a function; those for type checkers alone, if asked."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if not typing and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            for other in node.orelse:
                visit(other)
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found.update(name if name in TREES else node.module for name in names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(TREES[module])
    return found - {module}


def own(modules: set[str]) -> set[str]:
    return modules & TREES.keys()


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


# Imports


def test_imports_point_down_only():
    layers = CONTRACTS["Imports point down only, and every file has a slice"]["layers"]
    height = {part: -number for number, line in enumerate(layers) for part in re.findall(r"\w+", line)}
    independent = {part for line in layers if "|" in line for part in re.findall(r"\w+", line)}

    def points_down(module: str, imported: str) -> bool:
        part, other = module.split(".")[1], imported.split(".")[1]
        level = height[part] == height[other] and not {part, other} & independent
        return part == other or level or height[part] > height[other]

    inner = [name for name in TREES if name.count(".") and name.split(".")[1] in height]
    upwards = [
        (one, other) for one in inner for other in own(imports_of(one)) & {*inner} if not points_down(one, other)
    ]
    assert upwards == []
    assert {name.split(".")[1] for name in TREES if name.count(".")} == {*height, "sandbox", "_version"}


def test_nothing_below_the_front_door_asks_the_front_door():
    below = [name for name in TREES if name.count(".") and name.split(".")[1] not in GUESTS]
    assert [name for name in below if "videorouter" in imports_of(name)] == []


def test_no_import_goes_in_a_circle():
    """Not even one for type checkers alone, or one inside a function."""
    graph = {name: own(imports_of(name)) - {"videorouter"} for name in TREES if name != "videorouter"}
    graphlib.TopologicalSorter(graph).prepare()


def test_the_files_that_decide_are_on_the_list():
    contract = CONTRACTS["The files that decide know no I/O, no clock and no dice"]
    assert set(contract["source_modules"]) == DECIDING


def test_the_map_names_each_file_of_a_slice_that_decides():
    page = (ROOT / "docs" / "explanation" / "house.md").read_text()
    table = page.partition("{ #what-decides-what }")[2].partition("\n## ")[0]
    named = {f"videorouter.{name.replace('/', '.')}" for name in re.findall(r"`(\w+/\w+)\.py`", table)}
    assert named == {module for module in DECIDING if module.count(".") > 1}


@pytest.mark.parametrize("module", sorted(DECIDING))
def test_a_file_that_decides_knows_neither_wire_nor_clock_nor_dice(module):
    allowed = DECIDING | {"videorouter._version"}
    outside = {name for name in imports_of(module) - COMPUTING if name not in allowed}
    called = {node.func for node in ast.walk(TREES[module]) if isinstance(node, ast.Call)}
    names = {getattr(func, "attr", None) or getattr(func, "id", None) for func in called}
    assert outside == set()
    assert names & DOING == set()


def test_only_the_transport_and_the_call_know_httpx():
    slices = ("videorouter.transport", "videorouter.call")
    knowing = {name for name in TREES if "httpx" in roots_of(imports_of(name, typing=False))}
    assert {name for name in knowing if not name.startswith(slices)} == set()


def test_the_sandbox_imports_nothing_of_the_client():
    sandbox = [name for name in TREES if name.startswith("videorouter.sandbox")]
    imported = {other for name in sandbox for other in imports_of(name) if other.startswith("videorouter")}
    assert {name for name in imported if not name.startswith("videorouter.sandbox")} == set()


# Names

NAMED = {module: tree for module, tree in TREES.items() if not module.startswith("videorouter.integrations.ray")}
"""Ray's inside is exempt from what is said of names and classes: it will be replaced as a whole."""
RIDDLES = {"books", "desk", "letterhead", "mint", "minting", "stencil", "landing", "knock", "wish", "wishes", "bay"}
RIDDLES |= {"purse", "tally", "walk", "herd", "mend", "dearest", "whoever", "lane", "lanes", "gate", "maker", "hop"}
RIDDLES |= {"blockade", "overruns", "ruling"}
"""Words that nobody could guess the meaning of. The trade's words took their place."""
KEPT = {"cli.batch_desk", "cli.checks", "cli.doctor", "cli.probing"}
"""``mend`` is a key of what ``doctor --json`` prints; both wait for the command line to be written anew."""


def classes_of(tree: ast.Module) -> list[ast.ClassDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]


def names_in(tree: ast.Module) -> set[str]:
    """Every name that a file gives: to functions, classes, arguments, variables and attributes."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.id if isinstance(node, ast.Name) else node.attr)
    return found


def test_no_module_has_a_name_that_says_nothing():
    assert [path.name for path in MODULES if path.stem in {"utils", "helpers", "common", "manager", "base"}] == []


def test_no_class_name_stands_twice():
    count = collections.Counter(cls.name for tree in NAMED.values() for cls in classes_of(tree))
    assert {name for name in count if count[name] > 1} == set()


def test_no_class_but_the_front_door_has_more_than_30_methods():
    large = {
        cls.name
        for module, tree in NAMED.items()
        if module not in {"videorouter.client", "videorouter.sync"}
        for cls in classes_of(tree)
        if sum(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) for node in cls.body) > 30
    }
    assert large == set()


def test_no_name_is_a_riddle():
    riddles = {
        f"{module}: {name}"
        for module, tree in NAMED.items()
        if module.removeprefix("videorouter.") not in KEPT
        for name in names_in(tree) | {module.rpartition(".")[2]}
        if RIDDLES.intersection(re.findall(r"[a-z]+", re.sub(r"([A-Z]+)", r"_\1", name).lower()))
    }
    assert riddles == set()


# Each idea once

CORE = {module: tree for module, tree in NAMED.items() if not module.startswith("videorouter.sandbox")}
LAW = "videorouter.call.retry"
DRIVER = "videorouter.call.caller"
CHECKING = {LAW, "videorouter.config", "videorouter.call.requests"}
SQL = re.compile(r"\b(SELECT|INSERT|UPDATE|DELETE|REPLACE|CREATE|ALTER|DROP)\s+\w")


def where(found) -> set[str]:
    """The modules of the core in whose syntax tree a node is found."""
    return {module for module, tree in CORE.items() if any(found(node) for node in ast.walk(tree))}


def named(node: ast.AST, name: str) -> bool:
    return name in (getattr(node, "attr", None), getattr(node, "id", None))


def test_sql_stands_in_the_journal_alone():
    def is_sql(node: ast.AST) -> bool:
        return isinstance(node, ast.Constant) and isinstance(node.value, str) and bool(SQL.search(node.value))

    assert {module for module in where(is_sql) if not module.startswith("videorouter.journal.")} == set()


def test_only_the_driver_asks_the_law_of_retries():
    def asks(node: ast.AST) -> bool:
        return isinstance(node, ast.Call) and named(node.func, "decide")

    asking = [module for module in where(asks) if LAW in imports_of(module)]
    assert asking == [DRIVER]
    assert sum(asks(node) for node in ast.walk(CORE[DRIVER])) == 1


def test_only_the_driver_hands_requests_to_the_sender():
    def sends(node: ast.AST) -> bool:
        called = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        return called and node.func.attr in {"send", "stream"} and named(node.func.value, "sender")

    assert where(sends) == {DRIVER}


def test_only_the_law_compares_what_was_tried_with_max_retries():
    def compares(node: ast.AST) -> bool:
        return isinstance(node, ast.Compare) and any(
            named(part, name) for part in ast.walk(node) for name in ("max_retries", "_max_retries")
        )

    assert where(compares) <= CHECKING


def test_only_the_law_lets_pauses_grow():
    def grows(node: ast.AST) -> bool:
        power = isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow)
        return power and not isinstance(node.right, ast.Constant)

    assert where(grows) == {LAW}


def test_dice_are_thrown_for_the_law_alone():
    assert {module for module in CORE if "random" in imports_of(module)} == {DRIVER}


def test_no_task_of_the_core_begins_before_it_is_known():
    """As eager tasks do, which no limit counts then: ``loops.start_task`` starts all."""

    def starts(node: ast.AST) -> bool:
        return isinstance(node, ast.Call) and (named(node.func, "create_task") or named(node.func, "ensure_future"))

    inner = {module for module in where(starts) if module.split(".")[1] not in GUESTS}
    assert inner == {"videorouter.portal"}  # whose loop is its own


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


@pytest.mark.parametrize("name", videorouter.__all__)
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
    guests = {"aiohttp", "av", "httpx", "PIL", "ray", "opentelemetry", "pytest", "sqlite3", "respx", "trio"}
    assert loaded_by("from videorouter import AsyncVideoRouter") & guests == set()


@pytest.mark.parametrize("name", ["AsyncVideoRouter", "VideoRouter"])
def test_each_verb_has_a_docstring(name):
    verbs = {verb: thing for verb, thing in inspect.getmembers(getattr(videorouter, name)) if not verb.startswith("_")}
    assert [verb for verb, thing in verbs.items() if not inspect.getdoc(thing)] == []


# Sync and async

PAIRS = {"aclose": "close"}


def verbs_of(client: type) -> dict[str, object]:
    return {name: thing for name, thing in inspect.getmembers(client) if not name.startswith("_")}


def parameters_of(verb: object) -> list[tuple[str, object, object]]:
    return [(p.name, p.kind, p.default) for p in inspect.signature(verb).parameters.values()]


def test_sync_and_async_have_the_same_verbs():
    ours = {PAIRS.get(name, name) for name in verbs_of(videorouter.AsyncVideoRouter)}
    assert ours == set(verbs_of(videorouter.VideoRouter))


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


def test_the_lists_of_the_sessions_name_what_exists():
    lists = {
        ast.unparse(node.targets[0]): ast.literal_eval(node.value)
        for node in ast.parse((ROOT / "noxfile.py").read_text()).body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple | ast.Dict)
    }
    tests = {TESTS / name for name in lists["SESSIONS_OF_THEIR_OWN"]} | {
        ROOT / path for path in lists["SMOKE"] + lists["CORE"]
    }
    tests |= {ROOT / path for path in TOOLS["mutmut"]["pytest_add_cli_args_test_selection"]}
    assert [name_of(path) for path in tests if not path.exists()] == []
    mutated = {dotted(PACKAGE.parent / path) for path in TOOLS["mutmut"]["only_mutate"]}
    assert mutated <= DECIDING
    assert lists["LEAST_KILLED"].keys() <= mutated


def test_no_statement_binds_a_numbered_parameter():
    """Python 3.14 refuses them with a sequence, and 3.12 warns."""
    numbered = [path.name for path in PACKAGE.rglob("*.py") if re.search(r"[=(,<> ]\?\d", path.read_text())]
    assert numbered == []


def test_no_install_line_names_a_package_index():
    """What an index has under this name is not this project: everything installs from a clone."""
    named = [
        str(path) for path in PACKAGE.rglob("*.py") if re.search(r"pip install [\"']?videorouter", path.read_text())
    ]
    assert named == []
