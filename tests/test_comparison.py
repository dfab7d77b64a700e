"""The scripts behind the comparison page run, and videorouter's own column is what the page says; peers are not needed."""

from __future__ import annotations

import importlib
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from servers import find_dead_port

from videorouter.call import limiter

pytestmark = pytest.mark.anyio

SCRIPTS = Path(__file__).parent / "benchmarks"
BOUGHT = {
    "connection refused for 0.2 s, then up",
    "503 with `Retry-After: 1` once",
    "429 with `Retry-After: 1` once",
    "idle connection closed, then a call",
}
NOTHING_BOUGHT = {
    "connection refused for 3 s, then up": "APIConnectionError",
    "out of credit, as 403": "InsufficientCreditsError",
    "out of credit, as 429": "InsufficientCreditsError",
    "307 to another path": "APIStatusError",
    "reset before the server read anything": "OutcomeUnknownError",
    "idle connection closed as the call comes": "OutcomeUnknownError",
}
MAYBE_BOUGHT = {
    "reset after the whole request",
    "silence (timeout set to 1 s)",
    "the answer is cut in half",
    "500 from the application",
    "500 once, then it works",
    "502, a proxy's page",
    "504, a proxy's page",
    "524, Cloudflare's page",
    "200 with an empty body",
}


@pytest.fixture
def charges(monkeypatch):
    limiter.PROCESS_LIMITS.model_limits.clear()
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module("charges")


@pytest.fixture
def ours(charges):
    return charges.CONTENDERS["videorouter"]


def test_every_fault_has_its_row_here(charges):
    assert set(charges.FAULTS) == BOUGHT | NOTHING_BOUGHT.keys() | MAYBE_BOUGHT


@pytest.mark.parametrize("fault", sorted(BOUGHT))
async def test_a_fault_that_passes_ends_in_one_video(charges, ours, fault):
    found = await charges.meet(ours, charges.FAULTS[fault], port=find_dead_port())
    assert found.cell == "1, result"


@pytest.mark.parametrize(("fault", "error"), sorted(NOTHING_BOUGHT.items()))
async def test_a_fault_that_lets_nothing_through_charges_nothing(charges, ours, fault, error):
    found = await charges.meet(ours, charges.FAULTS[fault], port=find_dead_port())
    assert found.cell == f"0, {error}"  # which would say it if it had been sent more than once


@pytest.mark.parametrize("fault", sorted(MAYBE_BOUGHT))
async def test_a_lost_answer_is_charged_once_and_its_error_says_so(charges, ours, fault):
    found = await charges.meet(ours, charges.FAULTS[fault], port=find_dead_port())
    assert found.cell == "1, OutcomeUnknownError"
    assert (found.own, found.warned, found.keyed, found.keys) == (True, True, True, 1)


@pytest.mark.parametrize("fault", ["the answer is cut in half", "500 from the application", "200 with an empty body"])
async def test_the_error_carries_the_request_id_that_came(charges, ours, fault):
    found = await charges.meet(ours, charges.FAULTS[fault], port=find_dead_port())
    assert found.named


@asynccontextmanager
async def stubborn(url, patience):
    async with httpx.AsyncClient(timeout=patience) as client:

        async def call():
            for _ in range(3):
                answer = await client.post(f"{url}/v1", json={"prompt": "A cute baby sea otter"})
                if answer.is_success:
                    return answer.json()
            answer.raise_for_status()
            return None

        yield call


@pytest.fixture
def bystander(charges):
    return importlib.import_module("peers").Contender(
        stubborn, "httpx", "httpx", {"id": "job-1"}, lambda job: job["id"]
    )


async def test_the_ledger_counts_each_prompt_that_a_careless_client_sends(charges, bystander):
    found = await charges.meet(bystander, charges.FAULTS["500 from the application"], port=find_dead_port())
    assert found.cell == "**3**, HTTPStatusError"
    assert (found.own, found.warned, found.keys) == (True, False, 0)


async def test_the_ledger_does_not_count_what_was_refused(charges, bystander):
    found = await charges.meet(bystander, charges.FAULTS["429 with `Retry-After: 1` once"], port=find_dead_port())
    assert (found.cell, found.posts) == ("1, result", 2)


async def test_the_cell_of_a_refusal_says_how_often_it_was_asked_for(charges, bystander):
    found = await charges.meet(bystander, charges.FAULTS["out of credit, as 429"], port=find_dead_port())
    assert found.cell == "0, HTTPStatusError, sent 3 times"


def run(script: str, *arguments: str) -> list[str]:
    """The cells of videorouter's column in each table that a script prints."""
    command = [sys.executable, str(SCRIPTS / script), "--only", "videorouter", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_script_of_double_charges_prints_its_tables():
    lines = run("charges.py", "--fault", "500 from", "--fault", "half")
    assert "| 500 from the application | 1, OutcomeUnknownError |" in lines
    assert "| the answer is cut in half | 1, OutcomeUnknownError |" in lines
    assert "| videorouter | 1 | 0 | 2 of 2 | 2 of 2 | 2 of 2 | 2 of 2 | 0 |" in lines


@pytest.mark.skipif(sys.platform != "linux", reason="reads the highest resident size from /proc")
def test_the_script_of_hostile_answers_prints_its_tables():
    answers = ("bomb", "100 MB", "every 0.3 s", "HTML", "echoes")
    lines = run("hostile.py", *(word for answer in answers for word in ("--answer", answer)))
    assert "| a gzip bomb: 500 MB | OutcomeUnknownError |" in lines  # which would say it if memory had grown
    assert "| a JSON body of 100 MB | result |" in lines
    assert "| a byte every 0.3 s | OutcomeUnknownError |" in lines
    assert "| an HTML page under 200 | OutcomeUnknownError |" in lines
    assert "| 401 that echoes the API key | AuthenticationError |" in lines
    assert "| videorouter | no | no | no | yes | no | no |" in lines


def test_the_script_of_broken_downloads_prints_its_table():
    lines = run("download_faults.py", "--fault", "knows `Range`", "--fault", "whole length", "--fault", "kill")
    assert "| lost every 3 MB; the host knows `Range` | **the film**, no error |" in lines
    assert "| 3 MB of it, stated as the whole length | nothing, DownloadError |" in lines
    assert "| kill -9 after 3 MB | nothing; after a second run: **the film** |" in lines
    assert "| the file's host is sent the API key | no |" in lines
