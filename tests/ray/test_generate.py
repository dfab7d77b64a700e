"""From a file of prompts to a folder of videos, on a real cluster."""

from __future__ import annotations

import inspect
import sqlite3
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from videorouter.errors import ConfigurationError, JournalMismatchError

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def generate(cluster):
    from videorouter.integrations.ray import generate_dataset

    return generate_dataset


def count(rows) -> dict[str, int]:
    return dict(Counter(row["state"] for row in rows))


def test_a_parquet_file_becomes_a_folder_of_videos(generate, gateway, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    prompts = {
        "name": [f"clip-{n}" for n in range(40)],
        "text": [f"otter {n}" for n in range(40)],
        "size": list(range(40)),
    }
    pq.write_table(pa.table(prompts), tmp_path / "prompts.parquet")
    call = {
        "journal": tmp_path / "run.db",
        "model": "veo3-fast",
        "prompt_column": "text",
        "id_column": "name",
        "save_to": tmp_path / "clips",
        "client_options": gateway.options,
    }
    rows = generate(str(tmp_path / "prompts.parquet"), **call).take_all()

    assert count(rows) == {"done": 40}
    by_id = {row["id"]: row for row in rows}
    row = by_id["clip-7"]
    assert (row["prompt"], row["size"], row["index"], row["text"]) == ("otter 7", 7, 7, "otter 7")
    assert Path(row["path"]).read_bytes().startswith(b"\0\0\0\x10ftyp")
    assert len(list((tmp_path / "clips").glob("*.mp4"))) == 40

    again = generate(str(tmp_path / "prompts.parquet"), **call).take_all()
    assert all(row["resumed"] for row in again)
    assert set(gateway.ledger()["charges"].values()) == {1}

    with pytest.raises(JournalMismatchError):
        generate([{"name": "clip-7", "text": "another"}], **call)


def test_videos_go_into_a_store_that_fsspec_knows(generate, gateway, tmp_path):
    url = f"local://{tmp_path}/store/clips"
    call = {"journal": tmp_path / "run.db", "model": "m", "save_to": url, "client_options": gateway.options}
    rows = generate(["otter a", "otter b"], **call).take_all()
    assert sorted(row["path"] for row in rows) == [f"{url}/000000-otter-a.mp4", f"{url}/000001-otter-b.mp4"]
    assert len(list((tmp_path / "store" / "clips").iterdir())) == 2
    again = generate(["otter a", "otter b"], **call).take_all()
    assert [row["path"] for row in sorted(again, key=lambda row: row["index"])] == sorted(row["path"] for row in rows)


def test_a_retry_after_that_one_worker_hears_holds_all(generate, gateway, tmp_path):
    ended = threading.Event()

    def pause_once():
        while len(gateway.ledger()["charges"]) < 60:
            if ended.wait(0.05):
                return
        gateway.ask("/pause/3", "POST")

    pausing = threading.Thread(target=pause_once)
    pausing.start()
    rows = generate(
        [f"hold 0.3 of {n}" for n in range(300)],
        journal=tmp_path / "run.db",
        model="m",
        client_options=gateway.options,
        concurrency=40,
    ).take_all()
    ended.set()
    pausing.join()
    ledger = gateway.ledger()
    assert count(rows) == {"done": 300}
    assert max(ledger["charges"].values()) == 1
    assert ledger["most"] <= 40
    (refused,) = ledger["refused"]
    # Half a second for the word to go round; then nobody sends until the three seconds are over.
    assert not [moment for moment in ledger["arrivals"] if refused + 0.5 < moment < refused + 2.9]


def test_the_cap_holds_for_the_cluster_and_more_money_goes_on(generate, gateway, tmp_path):
    call = {"journal": tmp_path / "run.db", "model": "m", "price": 0.5, "client_options": gateway.options}
    prompts = [f"otter {n}" for n in range(60)]
    rows = generate(prompts, max_cost=10.0, **call).take_all()
    assert count(rows) == {"done": 20, "not_sent": 40}
    assert sum(row["cost"] or 0 for row in rows) == 10.0
    assert any("max_cost" in (row["error"] or "") for row in rows)
    again = generate(prompts, max_cost=10.0, **call).take_all()
    assert count(again) == {"done": 20, "not_sent": 40}, "what is done is shown although nothing more may be sent"
    assert count(generate(prompts, max_cost=100.0, **call).take_all()) == {"done": 60}
    assert len(gateway.ledger()["charges"]) == 60


def test_what_may_have_been_billed_is_reported_and_a_refusal_stays(generate, gateway, tmp_path):
    prompts = ["flaky one", "refuse two", "otter three"]
    call = {"journal": tmp_path / "run.db", "model": "m", "client_options": gateway.options}
    for _ in range(2):
        rows = generate(prompts, **call).take_all()
        assert [row["state"] for row in sorted(rows, key=lambda row: row["index"])] == ["in_doubt", "refused", "done"]
        assert gateway.ledger()["charges"] == {"flaky one": 1, "otter three": 1}


def test_what_is_in_doubt_stays_so_when_its_second_sending_is_refused(generate, gateway, tmp_path):
    call = {"journal": tmp_path / "run.db", "model": "m", "client_options": gateway.options}
    for _ in range(2):
        (row,) = generate(["flaky one"], on_outcome_unknown="resend", **call).take_all()
        assert row["state"] == "in_doubt"
        assert "and the gateway refused that" in row["error"]
    assert gateway.ledger()["charges"] == {"flaky one": 1}
    database = sqlite3.connect(tmp_path / "run.db")
    assert database.execute("SELECT state, sends FROM items").fetchall() == [("in_doubt", 3)]
    database.close()


def test_a_wall_stops_every_worker(generate, gateway, tmp_path):
    rows = generate(
        ["nokey"] + [f"hold 0.5 of {n}" for n in range(400)],
        journal=tmp_path / "run.db",
        model="m",
        client_options=gateway.options,
        concurrency=20,
    ).take_all()
    states = count(rows)
    assert states["refused"] == 1
    assert states["not_sent"] > 200
    assert any("401" in (row["error"] or "") for row in rows if row["state"] == "not_sent")


def test_the_key_is_in_no_log_and_no_journal(generate, gateway, cluster, tmp_path):
    key = "sk-of-this-very-test-0815"
    options = {**gateway.options, "api_key": key}
    generate(["otter key"], journal=tmp_path / "run.db", model="m", client_options=options)
    assert gateway.ledger()["keys"] == [key]
    session = Path(cluster.address_info["session_dir"])
    files = [path for path in [*session.rglob("*"), *tmp_path.rglob("*")] if path.is_file()]
    assert len(files) > 10
    assert [path for path in files if key.encode() in path.read_bytes()] == []


def test_the_key_lies_nowhere_when_the_ledger_never_starts(generate, gateway, tmp_path, monkeypatch):
    import tempfile

    from videorouter.integrations import ray as guest

    class BrokenLedger:
        def __init__(self, path, **options):
            raise OSError("Broken")

        def open(self):
            raise NotImplementedError

    monkeypatch.setattr(guest, "Ledger", BrokenLedger)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(Exception, match="Broken"):
        generate(["otter"], journal=tmp_path / "run.db", model="m", client_options=gateway.options)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_input_gives_an_empty_dataset_and_starts_nothing(generate, gateway, tmp_path):
    found = generate([], journal=tmp_path / "run.db", model="m", client_options=gateway.options)
    assert found.take_all() == []
    assert not (tmp_path / "run.db").exists()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"prompt_column": "nothing"}, "no column 'nothing'"),
        ({"max_cost": 5.0}, "price"),
        ({"workers": 0}, "workers"),
        ({"deduplicate": True}, "one process"),
        ({"field_columns": ["then"]}, "one process"),
        ({"field_columns": "size"}, "no column 'size'"),
        ({"block_rows": -5}, "block_rows"),
        ({"retry": "done"}, "not 'done'"),
        ({"save_to": "nowhere://bucket"}, "nowhere"),
        ({"client_options": {"api_key": "k", "http_client": object()}}, "http_client"),
    ],
)
def test_what_cannot_be_used_is_refused_before_anything_starts(generate, gateway, tmp_path, wrong, says):
    call = {"journal": tmp_path / "run.db", "model": "m", "client_options": gateway.options, **wrong}
    with pytest.raises(ConfigurationError, match=says):
        generate([{"prompt": "otter"}], **call)
    assert not (tmp_path / "run.db").exists()


def test_what_a_worker_cannot_use_ends_the_run_with_that_error(generate, gateway, tmp_path, monkeypatch):
    monkeypatch.delenv("INFRON_API_KEY", raising=False)
    (tmp_path / "file").write_text("in the way")
    for wrong, says in (
        ({"client_options": {"base_url": gateway.base_url}}, "No API key"),
        ({"save_to": tmp_path / "file"}, "cannot be written"),
    ):
        with pytest.raises(ConfigurationError, match=says):
            generate(["otter"], **{"journal": tmp_path / "run.db", "client_options": gateway.options, **wrong})
    assert gateway.ledger()["charges"] == {}


def test_the_journal_can_be_written_by_others_when_the_batch_is_over(generate, gateway, tmp_path):
    generate(["otter end"], journal=tmp_path / "run.db", model="m", client_options=gateway.options)
    with sqlite3.connect(tmp_path / "run.db", timeout=1) as database:
        assert database.execute("SELECT state FROM overview").fetchall() == [("done",)]
    from videorouter.locks import is_locked

    until = time.monotonic() + 10
    while is_locked(tmp_path / "run.db"):
        assert time.monotonic() < until
        time.sleep(0.1)


@pytest.mark.parametrize(("blocks", "most"), [(40, 20), (3, 2), (1, 1), (200, 64)])
def test_the_worker_that_starts_first_leaves_blocks_to_the_others(cluster, monkeypatch, blocks, most):
    import ray

    from videorouter.integrations import ray as guest
    from videorouter.integrations.ray.rows import number_rows, open_source

    given = {}
    strategy = ray.data.ActorPoolStrategy

    def watch(**options):
        given.update(options)
        return strategy(**options)

    monkeypatch.setattr(ray.data, "ActorPoolStrategy", watch)
    watch.__signature__ = inspect.signature(strategy)
    numbered, _ = number_rows(open_source([f"otter {n}" for n in range(blocks)], "prompt"), ["prompt"], 1, 1)
    guest.lay_out(numbered, None, 2)
    assert (given["size"], given["max_tasks_in_flight_per_actor"]) == (2, most)
