"""Every check of this project, by name. ``nox`` runs what CI runs; ``nox -l`` lists all.

The wheel is what is tested, never the checkout: tests run in a copy of the project that lacks the package's source. The
full suite runs on the interpreter that runs nox; a smoke run covers each other supported interpreter of this machine.
"""

from __future__ import annotations

import collections
import os
import re
import shutil
import subprocess
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "types", "tests", "smoke", "docs", "readme", "fuzz", "ray"]

ROOT = Path(__file__).parent
PROJECT = nox.project.load_toml(ROOT / "pyproject.toml")
SUPPORTED = ("3.11", "3.12", "3.13", "3.14")
SESSIONS_OF_THEIR_OWN = ("benchmarks", "fuzz", "kill", "ray", "test_docs.py")
SMOKE = (
    "tests/call",
    "tests/transport",
    "tests/batch/test_entries.py",
    "tests/batch/test_output.py",
    "tests/batch/test_source.py",
    "tests/downloads/test_codecs.py",
    "tests/downloads/test_gif.py",
    "tests/downloads/test_guard.py",
    "tests/downloads/test_media.py",
    "tests/downloads/test_mp4.py",
    "tests/downloads/test_mp4_facts.py",
    "tests/downloads/test_names.py",
    "tests/downloads/test_resume.py",
    "tests/downloads/test_webm.py",
    "tests/journal",
    "tests/test_client.py",
    "tests/test_signatures.py",
    "tests/test_sync.py",
)
CORE = (
    "tests/test_client.py",
    "tests/batch/test_batch.py",
    "tests/call/test_caller.py",
    "tests/call/test_caller_cancellation.py",
    "tests/call/test_caller_table.py",
    "tests/call/test_limiter.py",
    "tests/call/test_tasks.py",
    "tests/downloads/test_download.py",
    "tests/transport/test_exchange.py",
    "tests/transport/test_exchange_cancelled.py",
    "tests/transport/test_pool.py",
)
"""What runs on uvloop and with eager tasks, too: calls, batches, downloads, ends."""
LEAST_KILLED = {"videorouter.call.retry": 97.5}
KILLED = ("killed", "timeout")
MADE = shutil.ignore_patterns(
    ".git", ".venv", ".nox", "__pycache__", ".*_cache", ".hypothesis", ".coverage*", "mutants", "site", "dist"
)


def group(*names: str) -> list[str]:
    """The requirements of dependency groups: pip before 25.1 cannot read them itself."""
    return [requirement for name in names for requirement in nox.project.dependency_groups(PROJECT, name)]


def build_wheel(session: nox.Session, python: str = "python", *, made: list[Path] = []) -> Path:  # noqa: B006  once a run
    """The wheel of this checkout, built once a run. pip's isolation brings the build backend."""
    if not made:
        folder = ROOT / ".nox" / "wheel"
        shutil.rmtree(folder, ignore_errors=True)
        session.run(python, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(folder), str(ROOT), external=True)
        made.extend(folder.glob("*.whl"))
    return made[0]


def install_wheel(session: nox.Session, extras: str, *requirements: str) -> None:
    wheel = build_wheel(session)
    session.install(f"videorouter[{extras}] @ {wheel.as_uri()}", *requirements)
    session.install("--force-reinstall", "--no-deps", str(wheel))


def enter_copy(session: nox.Session, *left_out: str) -> None:
    """Go to a fresh copy of the project."""
    # Not session.create_tmp(): it moves TMPDIR into the environment, where Ray refuses to live
    stage = ROOT / ".nox" / "stage" / session.name
    shutil.rmtree(stage, ignore_errors=True)
    shutil.copytree(ROOT, stage, ignore=lambda folder, names: {*MADE(folder, names), *left_out} & {*names})
    session.chdir(stage)


def leave_source(session: nox.Session, python: str = "python") -> None:
    """Go where the package's source is on no path, so that what is imported is what was installed."""
    enter_copy(session, "videorouter")
    session.run(
        python, "-c", "import videorouter as v; assert 'site-packages' in v.__file__, v.__file__", external=True
    )


def run_pytest(session: nox.Session, *arguments: str, python: str = "python") -> None:
    session.run(python, "-m", "pytest", *arguments, *session.posargs, external=True)


@nox.session
def lint(session: nox.Session) -> None:
    """Style, format and the import law."""
    session.install(*group("lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports")


@nox.session
def types(session: nox.Session) -> None:
    """Strict types inside, and every public name typed for the people who use it."""
    node = [] if shutil.which("node") else ["pyright[nodejs]"]
    install_wheel(session, "sandbox,otel,ray", *group("types", "test", "web"), *node)
    session.run("mypy")
    session.run("mypy", "tests/typing_examples.py")
    leave_source(session)
    session.run("pyright", "tests/typing_examples.py")
    session.run("pyright", "--verifytypes", "videorouter", "--ignoreexternal")


@nox.session
def tests(session: nox.Session) -> None:
    """Everything but the sessions of their own, on the built wheel, with branch coverage; then the core on uvloop."""
    install_wheel(session, "sandbox,otel,data", *group("test", "web"))
    leave_source(session)
    ignored = [f"--ignore=tests/{name}" for name in SESSIONS_OF_THEIR_OWN]
    session.run("coverage", "run", "-m", "pytest", "-m", "not fuzz and not ray", *ignored, *session.posargs)
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "report", "--fail-under=90")
    session.install(*group("loops"))
    run_pytest(session, "-q", "-m", "not slow", "--event-loop=uvloop", *CORE)


def find_interpreters(running: str) -> dict[str, str]:
    """Each supported interpreter of this machine but the one that runs nox; pyenv's, too."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found: dict[str, str] = {}
    for version in SUPPORTED:
        places = [
            shutil.which(f"python{version}"),
            *sorted(map(str, pyenv.glob(f"{version}.*/bin/python")), reverse=True),
        ]
        for place in filter(None, places):
            # A shim of pyenv stands on the path and then says that no such version is active
            works = subprocess.run([place, "-c", "import ssl, venv"], check=False, capture_output=True).returncode == 0
            if works and version != running:
                found[version] = place
                break
    return found


@nox.session
def smoke(session: nox.Session) -> None:
    """The quick tests on every other supported interpreter that this machine has; from 3.12 on with eager tasks, too."""
    running = session.run("python", "-c", "import sys; print('%d.%d' % sys.version_info[:2])", silent=True)
    found = find_interpreters(str(running).strip())
    missing = [version for version in SUPPORTED if version not in found and version != str(running).strip()]
    session.log(
        f"other interpreters found: {', '.join(found) or 'none'}; not on this machine: {', '.join(missing) or 'none'}"
    )
    if not found:
        session.skip("this machine has no other supported interpreter; the suite ran on the one that it has")
    for version, place in found.items():
        home = ROOT / ".nox" / f"smoke-{version}"
        python = str(home / "bin" / "python")
        if not Path(python).exists():
            session.run(place, "-m", "venv", str(home), external=True)
        wheel = build_wheel(session, python)
        pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        session.run(*pip, f"videorouter[sandbox,otel] @ {wheel.as_uri()}", *group("test"), external=True)
        session.run(*pip, "--force-reinstall", "--no-deps", str(wheel), external=True)
        leave_source(session, python)
        run_pytest(session, "-q", "-m", "not slow", *SMOKE, python=python)
        if version != "3.11":  # which has no eager tasks
            run_pytest(session, "-q", "-m", "not slow", "--event-loop=eager", *CORE, python=python)
        session.chdir(ROOT)


@nox.session
def docs(session: nox.Session) -> None:
    """The book: built with warnings as errors, every block run, every link followed."""
    install_wheel(session, "sandbox,otel,data", *group("test", "web", "docs"))
    leave_source(session)
    session.run("zensical", "build", "--clean", "--strict", "-f", ".zensical.toml")
    for page in (ROOT / "docs").rglob("*.md"):  # what llms.txt links to
        shutil.copy(page, Path("site") / page.relative_to(ROOT / "docs"))
    run_pytest(session, "tests/test_docs.py")


def read_command(number: int) -> str:
    """One of the README's two commands, word for word."""
    commands = re.findall(r"^```sh\n(python3 -m venv .*)\n```$", (ROOT / "README.md").read_text(), re.MULTILINE)
    return commands[number - 1]


@nox.session(venv_backend="none")
def readme(session: nox.Session) -> None:
    """Command 1 of the README, word for word, on a clean copy. Command 2 is the one that runs all this."""
    copy = ROOT / ".nox" / "stage" / "readme"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(ROOT, copy, ignore=MADE)
    session.chdir(copy)
    session.run("bash", "-c", read_command(1), external=True)


@nox.session
def fuzz(session: nox.Session) -> None:
    """Random input for a bounded time."""
    if not (ROOT / "tests" / "fuzz").exists():
        session.skip("there is no tests/fuzz yet")
    install_wheel(session, "sandbox,otel", *group("test"))
    leave_source(session)
    run_pytest(session, "-m", "fuzz", "tests/fuzz", "--session-timeout=300")


@nox.session
def ray(session: nox.Session) -> None:
    """The Ray Data integration on a local cluster whose workers, nodes and drivers are killed, in a bounded time."""
    if not (ROOT / "tests" / "ray").exists():
        session.skip("there is no tests/ray yet")
    install_wheel(session, "sandbox,ray", *group("test"))
    leave_source(session)
    # By thread: a driver that waits inside Ray's native code takes no signal
    run_pytest(session, "-m", "ray", "tests/ray", "--session-timeout=480", "--timeout-method=thread")


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """By hand: ratios against openai-python, aiohttp and raw httpx, each script one interleaved run."""
    install_wheel(session, "sandbox", *group("test", "bench"))
    leave_source(session)
    for script in ("calls", "startup", "downloads", "batches"):
        session.run("python", f"tests/benchmarks/{script}.py", *session.posargs)


@nox.session(default=False)
def compare(session: nox.Session) -> None:
    """By hand, about ten minutes: peers as they ship, on faults, hostile answers and broken downloads."""
    install_wheel(session, "sandbox", *group("test", "peers"))
    leave_source(session)
    for script in ("charges", "hostile", "download_faults"):
        session.run("python", f"tests/benchmarks/{script}.py", *session.posargs)


@nox.session(default=False)
def kill(session: nox.Session) -> None:
    """By hand: kill a batch at random points, resume it, and compare its journal with the server's ledger."""
    install_wheel(session, "sandbox", *group("test"))
    leave_source(session)
    session.run("python", "tests/kill/kill_batches.py", *session.posargs)


@nox.session(default=False)
def mutation(session: nox.Session) -> None:
    """By hand: change the retry law in every way that mutmut knows, and see its tests fail.

    ``nox -s mutation -- 'videorouter.call.answers.*'`` does it to another file of ``only_mutate`` in pyproject.toml.
    """
    install_wheel(session, "sandbox", *group("test", "mutation"))
    enter_copy(session)  # with the source: it is what is changed, and wins over the wheel
    session.run("mutmut", "run", *(session.posargs or [f"{name}.*" for name in LEAST_KILLED]))
    told = str(session.run("mutmut", "results", "--all", "true", silent=True))
    ends = [end for end in re.findall(r"^ +((\S+)\.\S+): (.+)$", told, re.MULTILINE) if end[2] != "not checked"]
    for name, _, end in ends:
        if end not in KILLED:
            session.run("mutmut", "show", name)
    scores = {
        module: 100 * len([end for _, of, end in ends if of == module and end in KILLED]) / count
        for module, count in collections.Counter(of for _, of, _ in ends).items()
    }
    for module, score in scores.items():
        session.log(f"{module}: {score:.1f} % killed; at least {LEAST_KILLED.get(module, 0)} % must be")
    if any(score < LEAST_KILLED.get(module, 0) for module, score in scores.items()):
        session.error("a change of the law went unnoticed: add the test that names it")
