from tests.cli.conftest import point_at


def test_models_are_ids_one_a_line(run, sandbox):
    ended = run("models", env=point_at(sandbox))
    assert ended.code == 0
    assert "veo3-fast" in ended.lines
    assert "gpt-5-mini" not in ended.lines


def test_all_models_are_listed_when_asked(run):
    ended = run("models", "--all", "--sandbox", "--json")
    assert {"id": "gpt-5-mini"}.items() <= {
        "id": next(record["id"] for record in ended.records if record["category"] == "text")
    }.items()


def test_the_balance_is_a_number(run):
    ended = run("balance", "--sandbox")
    assert ended.out == "1000.00\n"
    assert run("balance", "--sandbox", "--json").records[0]["credit_balance"] == 1000.0


def test_a_bad_key_is_said(run):
    from videorouter.sandbox import Sandbox

    with Sandbox(api_key="right").in_thread() as sandbox:
        ended = run("balance", env=point_at(sandbox, key="wrong"))
    assert ended.code == 4
    assert "wrong" not in ended.err.replace("What is wrong", "")
