"""Reading a batch's journal and deciding what is in doubt, from the command line."""

import csv
import io
import json
import sqlite3

import pytest

from tests.cli.conftest import point_at
from videorouter import VideoRouter
from videorouter.cli.batch_gallery import write_gallery


@pytest.fixture
def clips(run, sandbox, tmp_path):
    """A batch of four: two done, one refused, one in doubt."""
    (tmp_path / "p.txt").write_text("otter 0\notter 1\notter </script><b>2\n=otter 3\n")
    sandbox.faults.add("moderation", prompt="otter 1")
    sandbox.faults.add("status=500", prompt="otter 3", charged=True, times=1)
    ended = run("batch", "run", "p.txt", "--out", "clips", "--price", "0.4", env=point_at(sandbox))
    assert ended.code == 8, ended.err
    return tmp_path / "clips"


def test_status_accounts_for_every_cent(run, clips):
    ended = run("batch", "status", "clips")
    assert ended.code == 0
    assert "spent      $0.8000" in ended.out
    assert "in doubt   $0.4000" in ended.out
    assert "at most    $1.2000" in ended.out
    record = run("batch", "status", clips / "run.db", "--json").records[0]
    assert (record["done"], record["refused"], record["in_doubt"], record["not_met"]) == (2, 1, 1, 0)
    assert record["cost_at_most"] == 1.2


def test_what_nobody_knows_the_price_of_is_unknown_and_never_0(run, sandbox, tmp_path):
    (tmp_path / "p.txt").write_text("otter 0\notter 1\notter 2\n")
    sandbox.faults.add("status=500", prompt="otter 1", charged=True, times=1)
    ended = run("batch", "run", "p.txt", "--out", "clips", env=point_at(sandbox))
    assert "cost unknown, and 3 without a price" in ended.err
    ended = run("batch", "status", "clips")
    assert "        2  done       2 without a price" in ended.lines
    assert "        1  in doubt   1 without a price" in ended.lines
    assert ended.lines[-3:] == [
        "spent      unknown",
        "in doubt   unknown  may have been billed",
        "at most    unknown  3 without a price",
    ]
    record = run("batch", "status", "clips", "--json").records[0]
    money = ("cost", "reserved", "cost_in_doubt", "cost_at_most", "unpriced")
    assert [record[name] for name in money] == [None, 0, None, None, 3]
    run("batch", "gallery", "clips", "-o", "page.html")
    assert '"cost":null,"reserved":0.0,"unknown":null,"unpriced":3' in (tmp_path / "page.html").read_text()
    assert "$" not in "".join(ended.lines)


def test_status_says_what_each_state_holds_and_whose_word_it_is(run, task_sandbox, tmp_path):
    (tmp_path / "p.jsonl").write_text(
        "".join(json.dumps({"prompt": f"otter {n}", "model": model}) + "\n" for n, model in enumerate(["a/b"] * 3))
    )
    task_sandbox.faults.add("failed_task=no GPU was free", prompt="otter 1", times=1)
    task_sandbox.faults.add("status=404", path="/video/*", times=3)
    ended = run("batch", "run", "p.jsonl", "--out", "clips", "--price", "7", env=point_at(task_sandbox))
    assert ended.code == 12, ended.err
    assert "fetches" in ended.err
    ended = run("batch", "status", "clips")
    spent = sum(charge.amount for charge in task_sandbox.charge_list())
    assert f"        2  done       ${spent:,.4f} spent" in ended.lines
    assert "        1  failed     $7.0000 may have been billed" in ended.lines
    assert any(line.endswith("  of those done are not saved yet") for line in ended.lines)
    assert f"spent      ${spent:,.4f}" in ended.lines
    assert "(resumes)" in ended.err
    record = run("batch", "status", "clips", "--json").records[0]
    assert record["cost_reported"] == pytest.approx(spent)
    assert record["files_missing"] in {1, 2}
    ended = run("batch", "run", "p.jsonl", "--out", "clips", "--price", "7", env=point_at(task_sandbox))
    assert all(line.startswith("clips/") for line in ended.lines)
    assert run("batch", "status", "clips", "--json").records[0]["files_missing"] == 0


def test_money_that_the_gateway_did_not_name_is_told_as_the_callers_price(run, clips):
    assert "as the gateway says" not in run("batch", "status", "clips").out
    database = sqlite3.connect(clips / "run.db")
    database.execute("UPDATE items SET result = json_set(result, '$.cost', 0.4) WHERE position = 0")
    database.commit()
    database.close()
    assert (
        "spent      $0.8000  $0.4000 as the gateway says, the rest by your --price"
        in run("batch", "status", "clips").out
    )


@pytest.mark.parametrize(
    ("verdict", "spent"), [(["--not-bought"], 0.0), (["--bought"], 7.0), (["--bought", "--cost", "3"], 3.0)]
)
def test_the_money_of_a_failed_task_can_be_settled(run, task_sandbox, tmp_path, verdict, spent):
    (tmp_path / "p.txt").write_text("otter\n")
    task_sandbox.faults.add("failed_task=no GPU was free")
    assert run("batch", "run", "p.txt", "--out", "clips", "--price", "7", env=point_at(task_sandbox)).code == 10
    listed = run("batch", "settle", "clips")
    item, state, rest = listed.lines[0].split(maxsplit=2)
    assert (state, rest.split()[0]) == ("failed", "$7.00")
    assert "batch settle clips   (1 may have been billed)" in run("batch", "status", "clips").err
    refused = run("batch", "settle", "clips", item, "--send-again")
    assert refused.code == 2
    assert "`retry`" in refused.err
    assert run("batch", "settle", "clips", item, *verdict).code == 0
    record = run("batch", "status", "clips", "--json").records[0]
    assert (record["failed"], record["cost"], record["cost_in_doubt"]) == (1, spent, 0)
    assert run("batch", "settle", "clips").out == ""
    assert run("batch", "settle", "clips", item, *verdict).code == 2


def test_what_was_settled_as_paid_and_lost_is_not_bought_again_by_retry(run, clips, sandbox):
    item = run("batch", "settle", "clips", "--json").records[0]["id"]
    assert run("batch", "settle", "clips", item, "--bought").code == 0
    sandbox.faults.clear()
    again = run("batch", "retry", "clips", env=point_at(sandbox))
    assert set(sandbox.charges().values()) == {1}
    assert "batch retry" not in again.err
    assert "batch retry" not in run("batch", "status", "clips").err
    record = run("batch", "status", "clips", "--json").records[0]
    assert (record["done"], record["failed"], record["cost"]) == (3, 1, 1.6)


def test_a_retry_counts_what_the_entry_cost_before(run, task_sandbox, tmp_path):
    (tmp_path / "p.txt").write_text("otter\n")
    task_sandbox.faults.add("failed_task=no GPU was free", times=1)
    run("batch", "run", "p.txt", "--out", "clips", "--price", "7", env=point_at(task_sandbox))
    item = run("batch", "settle", "clips", "--json").records[0]["id"]
    run("batch", "settle", "clips", item, "--bought", "--cost", "3")
    again = run("batch", "retry", "clips", "--json", env=point_at(task_sandbox))
    item, summary = again.records[0], again.records[-1]["summary"]
    status = run("batch", "status", "clips", "--json").records[0]
    assert item["cost"] > 3
    assert summary["cost"] == pytest.approx(item["cost"]) == pytest.approx(status["cost"])


def test_files_that_a_resumed_run_fetches_are_printed_and_what_keeps_them_away_is_told(run, sandbox, tmp_path):
    (tmp_path / "p.txt").write_text("otter\n")
    sandbox.faults.add("status=404", path="/video/*", times=2)
    for code, printed in ((12, "http://"), (12, "http://"), (0, "clips/000000-otter.mp4")):
        ended = run("batch", "run", "p.txt", "--out", "clips", env=point_at(sandbox))
        assert (ended.code, len(ended.lines)) == (code, 1), ended.err
        assert ended.lines[0].startswith(printed)
        assert ("#0 done: otter:" in ended.err) is bool(code)


def test_a_second_sending_that_was_accepted_by_name_can_be_settled_afterwards(run, clips, sandbox):
    item = run("batch", "settle", "clips", "--json").records[0]["id"]
    assert run("batch", "settle", "clips", item, "--send-again").code == 0
    run("batch", "run", "p.txt", "--out", "clips", "--price", "0.4", env=point_at(sandbox))
    record = run("batch", "status", "clips", "--json").records[0]
    assert (record["done"], record["cost"], record["cost_in_doubt"]) == (3, 1.2, 0.4)
    assert run("batch", "settle", "clips", item, "--bought").code == 0
    record = run("batch", "status", "clips", "--json").records[0]
    assert (record["done"], record["cost"], record["cost_in_doubt"]) == (3, 1.6, 0)
    assert sum(charge.amount for charge in sandbox.charge_list() if charge.prompt == "=otter 3") > 0
    assert sandbox.charges()["=otter 3"] == 2


def test_a_doubt_outlives_the_refusal_of_its_second_sending_also_without_a_price(run, sandbox, tmp_path):
    (tmp_path / "p.txt").write_text("otter\n")
    sandbox.faults.add("status=500", charged=True, times=1)
    sandbox.faults.add("moderation", times=1)
    ended = run("batch", "run", "p.txt", "--out", "clips", "--on-unknown", "resend", env=point_at(sandbox))
    assert ended.code == 8
    assert "1 in doubt" in ended.err
    assert "1 may have been billed" in ended.err
    assert run("batch", "status", "clips", "--json").records[0]["in_doubt"] == 1
    (record,) = run("batch", "settle", "clips", "--json").records
    assert "and the gateway refused that" in record["failure"]
    assert run("batch", "settle", "clips", record["id"], "--not-bought").code == 0
    assert run("batch", "run", "p.txt", "--out", "clips", env=point_at(sandbox)).code == 0


def test_what_was_not_bought_runs_again(run, clips, sandbox):
    listed = run("batch", "settle", "clips")
    assert listed.code == 0
    assert "=otter 3" in listed.out
    item = listed.out.split()[0]
    ended = run("batch", "settle", "clips", item, "--not-bought")
    assert ended.code == 0, ended.err
    assert run("batch", "status", "clips", "--json").records[0]["cost_in_doubt"] == 0
    assert run("batch", "settle", "clips", item, "--not-bought").code == 2
    ended = run("batch", "run", "p.txt", "--out", "clips", "--price", "0.4", env=point_at(sandbox))
    assert ended.code == 6
    assert run("batch", "status", "clips", "--json").records[0]["done"] == 3


def test_what_was_bought_is_done_and_its_file_is_fetched(run, clips, sandbox):
    url = next(record["url"] for record in run("batch", "export", "clips").records if record["state"] == "done")
    item = run("batch", "settle", "clips", "--json").records[0]["id"]
    ended = run("batch", "settle", "clips", item, "--bought", "--url", url, "--cost", "0.3")
    assert ended.code == 0, ended.err
    record = run("batch", "status", "clips", "--json").records[0]
    assert (record["done"], record["cost"], record["cost_in_doubt"]) == (3, 1.1, 0)
    run("batch", "run", "p.txt", "--out", "clips", "--price", "0.4", env=point_at(sandbox))
    assert (clips / "000003-otter-3.mp4").is_file()
    assert sandbox.charges()["=otter 3"] == 1


def test_what_was_bought_and_lost_is_never_sent_again(run, clips, sandbox):
    assert run("batch", "settle", "clips", "--all", "--bought").code == 0
    assert run("batch", "run", "p.txt", "--out", "clips", env=point_at(sandbox)).code == 10
    assert sandbox.charges()["=otter 3"] == 1


def test_export_gives_json_lines_and_csv_that_no_spreadsheet_runs(run, clips, tmp_path):
    records = run("batch", "export", "clips").records
    assert [record["index"] for record in records] == [0, 1, 2, 3]
    assert records[0]["files"]
    assert run("batch", "export", "clips", "--state", "refused").records[0]["failure_type"] == "ContentPolicyError"
    assert run("batch", "export", "clips", "--format", "csv", "-o", "items.csv").code == 0
    rows = list(csv.DictReader(io.StringIO((tmp_path / "items.csv").read_text())))
    assert rows[3]["prompt"] == "'=otter 3"
    assert run("batch", "export", "clips", "--state", "misplaced").code == 2
    ended = run("batch", "export", "clips", "-o", "nowhere/items.csv")
    assert ended.code == 2
    assert "nowhere/items.csv cannot be written" in ended.err


def test_the_gallery_holds_no_markup_of_a_prompt_and_loads_nothing(run, clips):
    ended = run("batch", "gallery", "clips")
    assert ended.code == 0, ended.err
    page = (clips / "gallery.html").read_text()
    assert "</script><b>2" not in page
    data = page.split('id="batch">')[1].split("</script>")[0]
    items = json.loads(data)["items"]
    assert items[2]["prompt"] == "otter </script><b>2"
    assert items[0]["files"] == ["000000-otter-0.mp4"]
    assert "http" not in page.split('id="batch">')[0].replace("http-equiv", "")


def test_every_video_of_an_item_is_told_exported_and_shown(run, sandbox, tmp_path):
    (tmp_path / "p.txt").write_text("otter\n")
    ended = run("batch", "run", "p.txt", "--out", "clips", "-n", "3", "--no-save", env=point_at(sandbox))
    assert ended.code == 0, ended.err
    assert len(set(ended.lines)) == 3
    assert run("batch", "export", "clips").records[0]["urls"] == ended.lines
    run("batch", "gallery", "clips")
    page = (tmp_path / "clips" / "gallery.html").read_text()
    assert json.loads(page.split('id="batch">')[1].split("</script>")[0])["items"][0]["urls"] == ended.lines


def test_export_and_gallery_say_how_much_of_the_input_was_never_sent(run, sandbox, tmp_path):
    (tmp_path / "p.txt").write_text("".join(f"otter {n}\n" for n in range(7)))
    command = ("batch", "run", "p.txt", "--out", "clips", "--price", "1", "--no-save", "--max-cost")
    assert run(*command, "3", env=point_at(sandbox)).code == 15
    ended = run("batch", "export", "clips")
    assert len(ended.records) == 3
    assert "4 more of the input have no line: nothing was sent for them." in ended.err
    assert "4 more of the input" in run("batch", "export", "clips", "-o", "items.jsonl").err
    assert "more of the input" not in run("batch", "export", "clips", "--state", "done").err
    assert read_page(run, tmp_path)["unmet"] == run("batch", "status", "clips", "--json").records[0]["not_met"] == 4
    assert run(*command, "80", env=point_at(sandbox)).code == 0
    assert "more of the input" not in run("batch", "export", "clips").err
    assert read_page(run, tmp_path)["unmet"] == 0


def read_page(run, tmp_path):
    assert run("batch", "gallery", "clips").code == 0
    page = (tmp_path / "clips" / "gallery.html").read_text()
    return json.loads(page.split('id="batch">')[1].split("</script>")[0])


def test_what_is_not_as_it_was_asked_for_is_counted_exported_and_shown(run, sandbox, tmp_path):
    (tmp_path / "p.jsonl").write_text(
        "".join(json.dumps({"prompt": f"otter {n}", "duration": "8s", "generate_audio": True}) + "\n" for n in range(4))
    )
    sandbox.faults.add("wrong_seconds=4", prompt="otter 1")
    sandbox.faults.add("wrong_seconds=12", prompt="otter 2")
    sandbox.faults.add("no_sound", prompt="otter 3")
    command = ("batch", "run", "p.jsonl", "--out", "clips", "-m", "veo3-fast")
    ended = run(*command, env=point_at(sandbox))
    assert ended.code == 0, ended.err
    assert "3 not what was asked for" in ended.err
    line = "        3  videos are not what was asked for: 1 longer, 1 shorter, 1 without sound"
    assert line in run("batch", "status", "clips").lines
    status = run("batch", "status", "clips", "--json").records[0]
    assert (status["mismatched"], status["mismatches"]) == (3, {"shorter": 1, "longer": 1, "without sound": 1})
    records = run("batch", "export", "clips").records
    assert [[one["kind"] for one in record["mismatches"]] for record in records] == [
        [],
        ["shorter"],
        ["longer"],
        ["without sound"],
    ]
    assert [record["media"]["seconds"] for record in records] == [8.0, 4.0, 12.0, 8.0]
    run("batch", "export", "clips", "--format", "csv", "-o", "items.csv")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "items.csv").read_text())))
    assert [row["mismatches"] for row in rows[:2]] == ["", "asked for 8 s, got 4 s"]
    assert [(row["seconds"], row["has_sound"]) for row in rows[:4:3]] == [("8.0", "True"), ("8.0", "False")]
    items = read_page(run, tmp_path)["items"]
    assert [len(item.get("mismatches", ())) for item in items] == [0, 1, 1, 1]
    assert items[1]["media"]["width"] == 640
    assert "3 not what was asked for" in run(*command, env=point_at(sandbox)).err


def test_equal_entries_that_share_a_row_are_not_said_to_be_missing(run, sandbox, tmp_path):
    (tmp_path / "p.txt").write_text("otter\n" * 5)
    assert run("batch", "run", "p.txt", "--out", "clips", "--deduplicate", env=point_at(sandbox)).code == 0
    assert run("batch", "status", "clips", "--json").records[0]["not_met"] == 0
    assert "(resumes)" not in run("batch", "status", "clips").err


def test_a_link_that_is_no_web_address_is_no_link(clips):
    database = sqlite3.connect(clips / "run.db")
    database.execute("UPDATE items SET result = json_set(result, '$.videos[0].url', 'javascript:alert(1)')")
    database.execute("DELETE FROM files")
    database.commit()
    database.close()
    write_gallery(clips / "run.db", clips / "page.html", title="t")
    assert "javascript:alert" not in (clips / "page.html").read_text()


def test_forgetting_erases_the_prompts_from_the_disk(run, clips):
    assert b"otter" in (clips / "run.db").read_bytes()
    ended = run("batch", "forget", "clips")
    assert ended.code == 0, ended.err
    left = b"".join(path.read_bytes() for path in clips.glob("run.db*"))
    names = b"000000-otter-0.mp4"
    assert b"otter 3" not in left
    assert names in left
    assert run("batch", "status", "clips", "--json").records[0]["done"] == 2


def test_forgetting_says_when_a_reader_keeps_the_prompts_on_the_disk(run, clips):
    reader = sqlite3.connect(clips / "run.db", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM items").fetchall()
    ended = run("batch", "forget", "clips")
    assert ended.code == 14
    assert "still in" in ended.err
    assert b"otter 3" in b"".join(path.read_bytes() for path in clips.glob("run.db*"))
    reader.close()
    assert run("batch", "forget", "clips").code == 0
    assert b"otter 3" not in b"".join(path.read_bytes() for path in clips.glob("run.db*"))


@pytest.mark.parametrize("command", ["status", "gallery", "export", "settle", "forget", "retry"])
def test_a_journal_that_is_not_there_is_said(run, command, tmp_path):
    ended = run("batch", command, "nowhere")
    assert ended.code == 14
    assert "no journal at nowhere" in ended.err
    assert list(tmp_path.iterdir()) == []


def test_a_verdict_needs_its_words(run, clips):
    assert run("batch", "settle", "clips", "--all").code == 2
    assert run("batch", "settle", "clips", "--all", "--not-bought", "--cost", "1").code == 2


@pytest.fixture
def queue(sandbox, tmp_path):
    """A queue of two, one done and one in doubt, that is open in this process."""
    sandbox.faults.add("status=500", prompt="otter 1", charged=True, times=1)
    with VideoRouter("key", base_url=sandbox.base_url, model="m") as router, router.jobs(tmp_path / "jobs.db") as jobs:
        made = jobs.put_many(["otter 0", "otter 1"])
        for job in made:
            for event in jobs.events(job.id):
                if event.over:
                    break
        yield jobs


def test_a_queue_is_read_like_a_batch(run, queue, tmp_path):
    record = run("batch", "status", "jobs.db", "--json").records[0]
    assert (record["running"], record["done"], record["in_doubt"]) == (True, 1, 1)
    assert len(run("batch", "export", "jobs.db").out.splitlines()) == 2
    write_gallery(tmp_path / "jobs.db", tmp_path / "gallery.html", title="jobs")
    assert "otter 1" in (tmp_path / "gallery.html").read_text()


def test_a_queue_is_settled_beside_its_runner(run, queue):
    item = run("batch", "settle", "jobs.db", "--json").records[0]["id"]
    assert run("batch", "settle", "jobs.db", item, "--bought").code == 0
    assert queue.get(item).state == "failed"


def test_a_queue_is_not_forgotten_like_a_batch_and_not_run_as_one(run, queue, sandbox, tmp_path):
    assert run("batch", "forget", "jobs.db").code == 14
    queue.close()
    assert "queue of jobs" in run("batch", "forget", "jobs.db").err
    (tmp_path / "p.txt").write_text("otter\n")
    ended = run("batch", "run", "p.txt", "--journal", "jobs.db", "--out", "clips", env=point_at(sandbox))
    assert ended.code == 14
    assert "queue of jobs" in ended.err
