"""``videorouter batch run`` and ``retry`` as a user runs them: processes, signals, kills, real files."""

import json
import re
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import finish, make_environment, point_at
from videorouter.sandbox import Sandbox

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.csv"
    path.write_text("id,prompt,model,seed\n" + "".join(f"n{n},otter {n},m,{n}\n" for n in range(6)))
    return path


def states(folder):
    database = sqlite3.connect(folder / "run.db")
    try:
        return dict(database.execute("SELECT state, count(*) FROM items GROUP BY state").fetchall())
    finally:
        database.close()


def test_a_csv_becomes_videos_a_journal_and_an_exit_code_of_zero(run, sandbox, prompts, tmp_path):
    ended = run("batch", "run", "prompts.csv", "--out", "clips", "--price", "0.5", env=point_at(sandbox))
    assert ended.code == 0, ended.err
    assert sorted(ended.lines) == [f"clips/{n:06d}-otter-{n}.mp4" for n in range(6)]
    assert all((tmp_path / line).read_bytes()[4:8] == b"ftyp" for line in ended.lines)
    assert states(tmp_path / "clips") == {"done": 6}
    assert "spent $3.00" in ended.err
    assert "batch gallery clips" in ended.err
    assert "name no model" not in ended.err


def test_entries_that_name_no_model_are_told_whose_they_become(run, sandbox, tmp_path):
    (tmp_path / "prompts.csv").write_text("prompt,model\notter,m\nheron,\n")
    ended = run("batch", "run", "prompts.csv", env=point_at(sandbox))
    assert "Entries that name no model are made by veo3-fast" in ended.err


def test_the_same_command_again_sends_nothing(run, sandbox, prompts):
    for _ in range(2):
        ended = run("batch", "run", "prompts.csv", env=point_at(sandbox))
        assert ended.code == 0, ended.err
    assert ended.out == ""
    assert set(sandbox.charges().values()) == {1}


def test_a_killed_batch_is_resumed_by_the_same_command(start, run, prompts, tmp_path):
    with Sandbox(latency=float("inf")).in_thread() as sandbox:
        process = start("batch", "run", "prompts.csv", "-c", "3", "--out", "clips", env=point_at(sandbox))
        sandbox.wait_until(lambda running: running.held == 3)
        process.kill()
        process.wait(30)
        assert states(tmp_path / "clips") == {"sending": 3}
        ended = run("batch", "status", "clips", "--json")
        assert ended.records[0]["in_doubt"] == 3
        assert ended.records[0]["not_met"] == 3
    with Sandbox().in_thread() as sandbox:
        ended = run("batch", "run", "prompts.csv", "--out", "clips", env=point_at(sandbox))
        assert ended.code == 8
        assert "batch settle clips" in ended.err
        assert len(sandbox.charges()) == 3
        assert states(tmp_path / "clips") == {"done": 3, "in_doubt": 3}


@pytest.mark.parametrize(
    ("number", "words", "code"),
    [
        (signal.SIGINT, b"Interrupted: 2 in flight, for at most 5 min.", 130),
        (signal.SIGTERM, b"Terminated (SIGTERM): 2 in flight, for at most 8 s.", 143),
        (signal.SIGHUP, b"Hung up (SIGHUP): 2 in flight, for at most 8 s.", 129),
    ],
    ids=["SIGINT", "SIGTERM", "SIGHUP"],
)
def test_one_signal_says_what_is_in_flight_and_lets_it_come_to_its_end(start, prompts, tmp_path, number, words, code):
    with Sandbox(latency=float("inf")).in_thread() as sandbox:
        process = start("batch", "run", "prompts.csv", "-c", "2", "--out", "clips", env=point_at(sandbox))
        sandbox.wait_until(lambda running: running.held == 2)
        process.send_signal(number)
        assert any(words in line for line in process.stderr)
        assert process.stderr.readline() == b"  next: videorouter batch run prompts.csv -c 2 --out clips   (resumes)\n"
        sandbox.release()
        out, _ = process.communicate(timeout=30)
        assert process.returncode == code
        assert len(out.splitlines()) == 2
        assert states(tmp_path / "clips") == {"done": 2}
        assert len(sandbox.charges()) == 2


def test_a_grace_that_is_over_ends_it_and_writes_down_what_is_in_doubt(start, prompts, tmp_path):
    with Sandbox(latency=float("inf")).in_thread() as sandbox:
        process = start(
            "batch", "run", "prompts.csv", "-c", "2", "--out", "clips", "--grace", "1", env=point_at(sandbox)
        )
        sandbox.wait_until(lambda running: running.held == 2)
        ended = finish(process, signal.SIGTERM)
        assert ended.code == 143
        assert "2 in flight, for at most 1 s." in ended.err
        assert states(tmp_path / "clips") == {"in_doubt": 2}


NOHUP = """\
import signal, sys
for number in (signal.SIGHUP, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
from videorouter.cli import main
sys.exit(main())
"""


def test_signals_that_were_ignored_at_the_start_stay_so(prompts, tmp_path):
    (tmp_path / "nohup.py").write_text(NOHUP)
    with Sandbox(latency=float("inf")).in_thread() as sandbox:
        words = [sys.executable, "nohup.py", "batch", "run", "prompts.csv", "-c", "6", "--out", "clips"]
        process = subprocess.Popen(
            words,
            cwd=tmp_path,
            env=make_environment(**point_at(sandbox)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            sandbox.wait_until(lambda running: running.held == 6)
            for number in (signal.SIGHUP, signal.SIGTERM):
                process.send_signal(number)
            sandbox.release()
            _, err = process.communicate(timeout=30)
        finally:
            process.kill()
            process.communicate()
    assert process.returncode == 0, err
    assert states(tmp_path / "clips") == {"done": 6}


def test_a_reader_that_went_away_stops_it_and_loses_nothing(start, sandbox, prompts, tmp_path):
    process = start("batch", "run", "prompts.csv", "-c", "1", "--out", "clips", env=point_at(sandbox))
    process.stdout.close()
    err = process.stderr.read().decode()
    assert process.wait(30) == 141
    assert "Whoever read the output went away: " in err
    assert "next: videorouter batch run prompts.csv -c 1 --out clips" in err
    assert "Traceback" not in err
    assert states(tmp_path / "clips") == {"done": len(sandbox.charges())}
    assert len(sandbox.charges()) < 6


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_stdout_stops_it_and_is_told(sandbox, prompts, tmp_path):
    words = [sys.executable, "-m", "videorouter.cli", "batch", "run", "prompts.csv", "-c", "1", "--out", "clips"]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            words,
            stdout=full,
            stderr=subprocess.PIPE,
            cwd=tmp_path,
            env=make_environment(**point_at(sandbox)),
            check=False,
            timeout=60,
        )
    err = done.stderr.decode()
    assert done.returncode == 1
    assert "Stdout cannot be written: No space left on device: " in err
    assert "(resumes)" in err
    assert "Traceback" not in err
    assert states(tmp_path / "clips") == {"done": len(sandbox.charges())}


def test_a_second_signal_stops_now_and_writes_down_what_is_in_doubt(start, prompts, tmp_path):
    with Sandbox(latency=float("inf")).in_thread() as sandbox:
        process = start("batch", "run", "prompts.csv", "-c", "2", "--out", "clips", env=point_at(sandbox))
        sandbox.wait_until(lambda running: running.held == 2)
        process.send_signal(signal.SIGINT)
        assert any(b"Interrupted" in line for line in process.stderr)
        ended = finish(process, signal.SIGTERM)
        assert ended.code == 130
        assert "(resumes)" in ended.err
        assert states(tmp_path / "clips") == {"in_doubt": 2}


def test_a_batch_that_pauses_says_so_and_ends_at_once_when_it_is_told_to(start, sandbox, prompts, tmp_path):
    sandbox.faults.add("status=500")
    process = start(
        "batch", "run", "prompts.csv", "--out", "clips", "-c", "1", "--stop-after", "1", env=point_at(sandbox)
    )
    told = next(line for line in process.stderr if line.startswith(b"Paused, probe 1 of 4: one request probes"))
    assert b"Outcomes in doubt in a row: 1. The last one: " in told
    ended = finish(process, signal.SIGINT)
    assert ended.code == 130
    assert states(tmp_path / "clips") == {"in_doubt": 1}


def test_a_dry_run_says_what_it_would_cost_and_sends_nothing(run, sandbox, prompts):
    ended = run("batch", "run", "prompts.csv", "--dry-run", "--price", "0.4", env=point_at(sandbox))
    assert ended.code == 0, ended.err
    assert "6  calls, cost $2.40" in ended.out
    assert sandbox.charges() == {}


def test_a_dry_run_names_a_column_that_looks_mistyped_and_an_id_that_comes_twice(run, tmp_path):
    (tmp_path / "prompts.csv").write_text("id,prompt,modle,mood\na,otter,m,wet\na,heron,m,dry\n")
    ended = run("batch", "run", "prompts.csv", "--dry-run", "--field-columns", "all")
    assert ended.code == 2
    assert "'modle' goes to the gateway as a field of that name. Is it meant to be 'model'?" in ended.err
    assert "'mood'" not in ended.err
    assert "line 3: the id 'a' came before" in ended.err


@pytest.fixture
def noted(tmp_path):
    """A table with columns that are no documented fields."""
    (tmp_path / "p.csv").write_text("id,prompt,modle,mood\na,otter,m,wet\nb,heron,m,=dry\n")


def sent_fields(sandbox):
    return [sorted(json.loads(record.body)) for record in sandbox.requests if record.method == "POST"]


@pytest.mark.usefixtures("noted")
def test_columns_that_nobody_knows_stop_the_run_before_it_pays(run, sandbox):
    ended = run("batch", "run", "p.csv", env=point_at(sandbox))
    assert ended.code == 2
    assert "no documented fields: modle, mood. Is 'modle' meant to be 'model'?" in ended.err
    assert "--field-columns" in ended.err
    assert sandbox.charges() == {}


@pytest.mark.usefixtures("noted")
@pytest.mark.parametrize(
    ("choice", "fields", "own"),
    [("all", ["modle", "mood"], []), ("none", [], ["modle", "mood"]), ("mood", ["mood"], ["modle"])],
)
def test_own_columns_are_kept_and_exported_and_never_sent(run, sandbox, choice, fields, own):
    ended = run("batch", "run", "p.csv", "--field-columns", choice, "--json", env=point_at(sandbox))
    assert ended.code == 0, ended.err
    assert sent_fields(sandbox) == [sorted(["model", "output_format", "prompt", *fields])] * 2
    kept = {record["id"]: record.get("meta", {}) for record in ended.records if "id" in record}
    assert {name: list(meta) for name, meta in kept.items()} == {"a": own, "b": own}
    # The journal remembers: the same command without the choice, and `export`.
    ended = run("batch", "run", "p.csv", "--json", env=point_at(sandbox))
    assert ended.code == 0, ended.err
    assert {record["id"]: record.get("meta", {}) for record in ended.records if "id" in record} == kept
    assert sandbox.charges() == {"otter": 1, "heron": 1}
    lines = run("batch", "export", "p-videos", "--format", "csv").lines
    assert lines[0].endswith(",".join(["failure", *own]))
    assert [json.loads(line)["meta"] for line in run("batch", "export", "p-videos").lines] == [
        kept[name] or None for name in "ab"
    ]
    if "mood" in own:
        assert lines[2].endswith(",m,'=dry")


@pytest.mark.usefixtures("noted")
def test_a_journal_of_a_version_that_sent_every_column_is_gone_on_with_like_that(run, sandbox, tmp_path):
    run("batch", "run", "p.csv", "--field-columns", "all", env=point_at(sandbox))
    database = sqlite3.connect(tmp_path / "p-videos" / "run.db")
    with database:
        database.execute("DELETE FROM meta WHERE key = 'field_columns'")
    database.close()
    ended = run("batch", "run", "p.csv", env=point_at(sandbox))
    assert ended.code == 0, ended.err
    assert sandbox.charges() == {"otter": 1, "heron": 1}


@pytest.mark.usefixtures("noted")
def test_a_choice_that_the_table_does_not_have_is_refused(run):
    ended = run("batch", "run", "p.csv", "--dry-run", "--field-columns", "moo")
    assert ended.code == 2
    assert "no column 'moo'. Its own are modle, mood" in ended.err


def test_a_dry_run_names_the_lines_that_cannot_be_read(run, tmp_path):
    (tmp_path / "x.jsonl").write_text('{"prompt": "a", "then": ["b"]}\n{"prompt": \n["x"]\n{"model": "m"}\n')
    ended = run("batch", "run", "x.jsonl", "--dry-run", "--json")
    assert ended.code == 2
    assert ended.records[0]["calls"] == 2
    assert "line 2" in ended.err
    assert "line 3" in ended.err


def test_the_budget_is_kept_and_has_an_exit_code_of_its_own(run, sandbox, prompts):
    command = ("batch", "run", "prompts.csv", "--price", "0.4", "--out", "clips")
    ended = run(*command, "--max-cost", "1", env=point_at(sandbox))
    assert ended.code == 15
    assert len(sandbox.charge_list()) == 2
    assert run(*command, "--max-cost", "80", env=point_at(sandbox)).code == 0
    assert set(sandbox.charges().values()) == {1}


def test_a_budget_that_is_spent_says_what_it_takes_to_go_on(run, sandbox, prompts):
    ended = run("batch", "run", "prompts.csv", "--price", "0.4", "--max-cost", "1", "--no-save", env=point_at(sandbox))
    assert "(resumes, with a higher --max-cost)" in ended.err
    assert ended.err.count("It was not sent. Raise max_cost") == 1
    assert "not sent: " not in ended.err


def test_a_price_that_the_gateway_exceeds_is_told_once(run, task_sandbox, prompts):
    ended = run(
        "batch", "run", "prompts.csv", "--price", "0.1", "--max-cost", "9", "--no-save", env=point_at(task_sandbox)
    )
    assert ended.code == 0, ended.err
    cost = task_sandbox.charge_list()[0].amount
    (note,) = [line for line in ended.err.splitlines() if line.startswith("note: ")]
    assert note.startswith(f"note: m costs ${cost:.4g}, says the gateway, and --price says $0.1; ")
    assert "may exceed --max-cost" in note
    enough = run(
        "batch", "run", "prompts.csv", "--out", "b", "--price", f"{cost}", "--no-save", env=point_at(task_sandbox)
    )
    assert "note: " not in enough.err


FULL = """\
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
from videorouter.cli import main
sys.exit(main())
"""


def test_a_journal_that_cannot_grow_stops_the_batch_loses_nothing_and_has_its_exit_code(run, sandbox, tmp_path):
    (tmp_path / "p.jsonl").write_text("".join(f'{{"prompt": "otter {n} {"x" * 900}"}}\n' for n in range(100)))
    (tmp_path / "full.py").write_text(FULL)
    words = [sys.executable, "full.py", "batch", "run", "p.jsonl", "--out", "clips", "--no-save", "-c", "4", "--json"]
    done = subprocess.run(
        words, capture_output=True, cwd=tmp_path, env=make_environment(**point_at(sandbox)), check=False, timeout=60
    )
    out, err = done.stdout.decode(), done.stderr.decode()
    assert done.returncode == 14, err
    assert "stopped: Could not" in err
    assert "(resumes)" in err
    paid = set(sandbox.charges())
    assert 0 < len(paid) < 100
    told = {record["prompt"] for record in map(json.loads, out.splitlines()) if record.get("state") == "done"}
    assert told == paid
    found = re.search(r"keep the lines above: (\d+) outcomes", err)
    unwritten = int(found[1]) if found else 0
    after = states(tmp_path / "clips")
    # SQLite may fail after its commit has reached the disk: what it said is not written can be there all the same
    lost = len(paid) - after.get("done", 0)
    assert 0 <= lost <= unwritten
    assert sum(after.values()) >= len(paid)
    ended = run("batch", "run", "p.jsonl", "--out", "clips", "--no-save", "-c", "4", env=point_at(sandbox))
    assert ended.code == (8 if lost else 0), ended.err
    assert max(sandbox.charges().values()) == 1
    assert states(tmp_path / "clips").get("in_doubt", 0) == lost <= 4


def test_rows_that_cannot_be_read_are_all_named_and_nothing_is_sent(run, sandbox, tmp_path):
    (tmp_path / "p.csv").write_text("prompt,seed\notter,1\nheron,x\nboat,2,3\n")
    ended = run("batch", "run", "p.csv", env=point_at(sandbox))
    assert ended.code == 2
    assert "line 3: seed" in ended.err
    assert "line 4: 3 cells for 2 columns" in ended.err
    assert "2 of 3 rows of p.csv cannot be read" in ended.err
    assert sandbox.charges() == {}
    ended = run("batch", "run", "p.csv", "--skip-bad-rows", env=point_at(sandbox))
    assert ended.code == 0, ended.err
    assert sandbox.charges() == {"otter": 1}
    assert "2 rows of p.csv cannot be read and were left out" in ended.err


def test_plain_prompts_come_over_stdin_by_their_form(run, sandbox):
    ended = run("batch", "run", "-", "--format", "lines", "--no-save", stdin="otter\nheron", env=point_at(sandbox))
    assert ended.code == 0, ended.err
    assert sandbox.charges() == {"otter": 1, "heron": 1}


def test_a_cap_without_a_price_is_refused(run, sandbox, prompts):
    ended = run("batch", "run", "prompts.csv", "--max-cost", "1", env=point_at(sandbox))
    assert ended.code == 2
    assert "--price" in ended.err
    assert run("batch", "run", "prompts.csv", "--max-cost", "1", "--dry-run").code == 2


@pytest.mark.parametrize("price", ["0", "$0.00", "*=0", "=1"])
def test_0_is_a_price_only_by_name(run, sandbox, prompts, price):
    ended = run("batch", "run", "prompts.csv", "--max-cost", "1", "--price", price, env=point_at(sandbox))
    assert ended.code == 2
    assert "MODEL=" in ended.err
    assert sandbox.charges() == {}


def test_a_dry_run_counts_what_has_no_price(run, prompts):
    del prompts
    ended = run("batch", "run", "-", "--dry-run", "--price", "a=2", stdin='{"prompt": "A", "model": "a"}\n"B"\n')
    assert "2  calls, cost $2.00, and 1 without a price" in ended.out
    ended = run("batch", "run", "-", "--dry-run", "--price", "b=0", stdin='{"prompt": "A", "model": "b"}\n')
    assert "1  calls, cost $0.00" in ended.out


def test_a_dry_run_reads_stdin_too(run):
    ended = run("batch", "run", "-", "--dry-run", "--price", "2", stdin='"A"\n{"prompt": "B", "then": ["C"]}\n')
    assert ended.code == 0, ended.err
    assert "3  calls, cost $6.00" in ended.out


def test_stdin_is_read_as_json_lines_and_ends_at_the_first_that_is_none(run, sandbox, tmp_path):
    ended = run(
        *("batch", "run", "-", "--no-save", "--json"),
        stdin='\ufeff"quoted words"\n{"prompt": "fields", "model": "m"}\n\nplain words\n"after it"\n',
        env=point_at(sandbox),
    )
    assert ended.code == 2
    assert "the input ended early: stdin, line 4: 'plain words' is no JSON object" in ended.err
    items = [record for record in ended.records if "index" in record]
    assert {item["prompt"] for item in items} == {"quoted words", "fields"}
    assert ended.records[-1]["summary"]["done"] == 2
    assert ended.records[-1]["input"]["ended"].startswith("stdin, line 4: 'plain words' is no JSON object")
    assert (tmp_path / "batch-videos" / "run.db").is_file()


def test_rows_of_a_stream_that_were_left_out_are_counted(run, sandbox):
    ended = run(
        *("batch", "run", "-", "--no-save", "--json", "--model", "m", "--skip-bad-rows"),
        stdin='"otter"\nplain words\n"heron"\n',
        env=point_at(sandbox),
    )
    assert ended.code == 0, ended.err
    assert "1 rows of stdin cannot be read and were left out" in ended.err
    assert ended.records[-1]["input"] == {"ended": None, "skipped": 1}


def test_what_a_model_will_ignore_is_told_as_a_note_and_not_as_a_line_of_a_program(run, sandbox, tmp_path):
    (tmp_path / "p.jsonl").write_text('{"prompt": "a", "model": "google/veo3.1/text-to-video", "duration": 8}\n' * 2)
    ended = run("batch", "run", "p.jsonl", "--no-save", env={**point_at(sandbox), "PYTHONWARNINGS": "default"})
    assert ended.code == 0, ended.err
    notes = [line for line in ended.err.splitlines() if "duration" in line]
    assert len(notes) == 1
    assert notes[0].startswith("note: google/veo3.1/text-to-video: ")
    assert ".py" not in ended.err


def test_refused_entries_are_sent_again_by_retry(run, sandbox, prompts, tmp_path):
    sandbox.faults.add("moderation", times=2)
    ended = run("batch", "run", "prompts.csv", "--out", "clips", env=point_at(sandbox))
    assert ended.code == 6
    assert "batch retry clips" in ended.err
    ended = run("batch", "retry", "clips", env=point_at(sandbox))
    assert ended.code == 0, ended.err
    assert states(tmp_path / "clips") == {"done": 6}
    assert set(sandbox.charges().values()) == {1}


def test_a_batch_whose_folder_was_renamed_is_retried_and_resumed_where_it_is_now(run, sandbox, prompts, tmp_path):
    sandbox.faults.add("moderation", times=2)
    assert run("batch", "run", "prompts.csv", "--out", "clips", env=point_at(sandbox)).code == 6
    (tmp_path / "clips").rename(tmp_path / "kept")
    ended = run("batch", "retry", "kept", env=point_at(sandbox))
    assert ended.code == 0, ended.err
    assert states(tmp_path / "kept") == {"done": 6}
    assert not (tmp_path / "clips").exists()
    assert set(sandbox.charges().values()) == {1}
    next((tmp_path / "kept").glob("*.mp4")).unlink()
    (tmp_path / "kept").rename(tmp_path / "third")
    ended = run("batch", "retry", "third", env=point_at(sandbox))
    assert ended.code == 0, ended.err
    assert len(list((tmp_path / "third").glob("*.mp4"))) == 6
    assert not (tmp_path / "kept").exists()
    assert set(sandbox.charges().values()) == {1}


def test_a_gateway_that_is_away_when_a_batch_goes_on_is_told_once_and_waited_for(start, prompts, tmp_path):
    state = tmp_path / "state"
    with Sandbox(mode="task", latency=float("inf"), state=state).in_thread() as sandbox:
        process = start("batch", "run", "prompts.csv", "--out", "clips", env=point_at(sandbox))
        sandbox.wait_until(lambda one: len({made.path for made in one.requests if "/tasks/" in made.path}) == 6)
        process.kill()
        process.wait(30)
        env, port = point_at(sandbox), int(sandbox.url.rpartition(":")[2])
    again = start("batch", "run", "prompts.csv", "--out", "clips", env=env)
    told = b""
    while b"cannot be reached since" not in told:
        told += again.stderr.readline()
    with Sandbox(mode="task", state=state, port=port).in_thread() as sandbox:
        sandbox.release()
        _, rest = again.communicate(timeout=60)
        assert again.returncode == 0, told + rest
        assert (told + rest).count(b"connection refused") == 1
        assert sandbox.charges() == {f"otter {n}": 1 for n in range(6)}


def test_two_processes_never_share_a_journal(start, run, prompts):
    with Sandbox(latency=float("inf")).in_thread() as sandbox:
        process = start("batch", "run", "prompts.csv", "-c", "2", "--out", "clips", env=point_at(sandbox))
        sandbox.wait_until(lambda running: running.held == 2)
        ended = run("batch", "run", "prompts.csv", "--out", "clips", env=point_at(sandbox))
        assert ended.code == 14
        assert f"process {process.pid}" in ended.err
        assert run("batch", "status", "clips", "--json").records[0]["running"] is True


def test_a_file_that_is_not_there_is_said_and_makes_no_folder(run, tmp_path):
    ended = run("batch", "run", "missing.csv", "--sandbox")
    assert ended.code == 2
    assert "missing.csv cannot be read" in ended.err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_said_before_anything_is_sent(run, sandbox, prompts, tmp_path):
    (tmp_path / "clips").write_text("a file")
    ended = run("batch", "run", "prompts.csv", "--out", "clips", env=point_at(sandbox))
    assert ended.code == 2
    assert "--out clips cannot be made" in ended.err
    assert "Traceback" not in ended.err
    assert sandbox.charges() == {}
    ended = run("batch", "run", "prompts.csv", "--no-save", "--journal", "j.db", env=point_at(sandbox))
    assert ended.code == 0, ended.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clips", "j.db", "j.db.lock", "prompts.csv"]


def test_another_cap_for_a_retry_is_kept_in_the_command_that_resumes(run, sandbox, prompts):
    sandbox.faults.add("moderation", times=2)
    run("batch", "run", "prompts.csv", "--out", "clips", "--price", "1", "--max-cost", "9", env=point_at(sandbox))
    ended = run("batch", "retry", "clips", "--max-cost", "4.5", env=point_at(sandbox))
    assert ended.code == 15
    assert "--max-cost 9 --max-cost 4.5   (resumes, with a higher --max-cost)" in ended.err


def test_the_whole_walk_of_a_chain(run, tmp_path):
    lines = [
        {"id": "a", "prompt": "An otter", "model": "sora-2"},
        {"id": "b", "edit_of": "a", "prompt": "Snow", "model": "sora-2"},
        {"prompt": "A heron", "model": "sora-2", "then": ["Rain", "Fog"]},
    ]
    (tmp_path / "chain.jsonl").write_text("\n".join(map(json.dumps, lines)))
    ended = run("batch", "run", "chain.jsonl", "--sandbox")
    assert ended.code == 0, ended.err
    assert len(set(ended.lines)) == 5
