import json
import signal
import urllib.request

from tests.cli.conftest import finish


def test_it_runs_until_it_is_stopped_and_says_how_to_use_it(start, run):
    process = start("sandbox", "--fault", "status=422; prompt=bad")
    base_url = process.stdout.readline().decode().strip()
    env = {"INFRON_VIDEO_BASE_URL": base_url, "INFRON_API_KEY": "any"}
    assert run("generate", "good", env=env).code == 0
    assert run("generate", "bad", env=env).code == 3
    with urllib.request.urlopen(base_url.removesuffix("/v1") + "/_sandbox/charges", timeout=10) as answer:
        assert b"good" in answer.read()
    ended = finish(process, signal.SIGINT)
    assert ended.code == 0
    assert f"export INFRON_VIDEO_BASE_URL={base_url}" in ended.err
    assert f"curl {base_url}/videos/generations" in ended.err


def test_json_says_where_it_is(start):
    process = start("sandbox", "--json", "-q")
    places = json.loads(process.stdout.readline())
    assert places["base_url"].endswith("/v1")
    ended = finish(process, signal.SIGTERM)
    assert (ended.code, ended.err) == (0, "")


def test_options_that_make_no_sense_are_refused(run):
    for options in (("--fault", "nonsense"), ("--host", "0.0.0.0"), ("--speed", "0"), ("--key-file", "missing")):
        ended = run("sandbox", *options)
        assert ended.code == 2, options
        assert "next:" in ended.err


def test_a_port_that_is_taken_is_said(start, run):
    process = start("sandbox", "-q")
    port = process.stdout.readline().decode().strip().removesuffix("/v1").rsplit(":", 1)[1]
    ended = run("sandbox", "--port", port)
    assert ended.code == 2
    assert "--port" in ended.err
