import subprocess
import sys

import pytest

from tests.cli.conftest import make_environment, point_at
from videorouter.sandbox import Sandbox


def find(ended, name, group=None):
    [check] = [r for r in ended.records if r["name"] == name and group in (None, r["group"])]
    return check


def test_nothing_is_wrong_with_a_sandbox(run):
    ended = run("doctor", "--sandbox")
    assert ended.code == 0, ended.out + ended.err
    assert "yes, $1000.00 left" in ended.out


def test_a_gateway_on_this_machine_is_tried_at_once(run, sandbox):
    ended = run("doctor", "--json", env=point_at(sandbox))
    assert ended.code == 0, ended.out
    assert find(ended, "key")["found"] == "set in INFRON_API_KEY"
    assert find(ended, "key accepted")["state"] == "ok"
    assert "key-for-tests" not in ended.out + ended.err


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("<API_KEY>", "placeholder"),
        ('"quoted"', "quotes"),
        ("two\nlines", "not usable"),
        ("schlüssel", "not usable"),
    ],
)
def test_a_key_that_is_none_is_said_and_not_tried(run, key, words):
    ended = run("doctor", "--json", env={"INFRON_API_KEY": key, "INFRON_VIDEO_BASE_URL": "http://127.0.0.1:9/v1"})
    check = find(ended, "key")
    assert ended.code == 1
    assert check["state"] == "fail"
    assert words in check["found"]
    assert check["mend"]
    assert find(ended, "connection")["found"].startswith("not tried")


def test_a_missing_key_is_said(run):
    ended = run("doctor")
    assert ended.code == 1
    assert "export INFRON_API_KEY" in ended.out


def test_without_online_the_vendor_is_not_contacted(run):
    ended = run("doctor", "--json", env={"INFRON_API_KEY": "k"})
    check = find(ended, "connection")
    assert (check["state"], check["found"]) == ("info", "not tried")
    assert "--online" in check["mend"]


def test_two_keys_that_differ_are_said(run):
    ended = run("doctor", "--json", env={"INFRON_API_KEY": "one", "ONEROUTER_API_KEY": "two"})
    assert find(ended, "two keys")["state"] == "warn"


def test_a_port_where_nothing_listens_is_said(run):
    ended = run("doctor", "--json", "--base-url", "http://127.0.0.1:9/v1", env={"INFRON_API_KEY": "k"})
    assert ended.code == 1
    assert "refuses" in find(ended, "connection")["found"]


def test_a_key_that_is_not_accepted_is_said(run):
    with Sandbox(api_key="right").in_thread() as sandbox:
        ended = run("doctor", "--json", env=point_at(sandbox, key="other"))
    check = find(ended, "key accepted")
    assert (ended.code, check["state"]) == (1, "fail")
    assert "--bearer" in check["mend"]


def test_a_base_url_in_the_clear_is_said(run):
    ended = run("doctor", "--json", "--base-url", "http://gateway.invalid/v1", env={"INFRON_API_KEY": "k"})
    assert find(ended, "base URL")["state"] == "fail"


def test_a_proxy_is_told_without_its_password(run):
    env = {"INFRON_API_KEY": "k", "HTTPS_PROXY": "http://user:secret@proxy.invalid:3128"}
    ended = run("doctor", "--json", env=env)
    assert find(ended, "proxy")["found"] == "http://proxy.invalid:3128"
    assert "secret" not in ended.out


def test_certificates_that_do_not_exist_are_said(run):
    ended = run("doctor", "--json", env={"INFRON_API_KEY": "k", "SSL_CERT_FILE": "/nowhere/ca.pem"})
    check = find(ended, "certificates")
    assert check["state"] == "fail"
    assert "SSL_CERT_FILE" in check["mend"]


@pytest.mark.skipif(sys.platform == "win32", reason="no such limit there")
def test_few_open_files_are_said(tmp_path):
    line = f"ulimit -n 128; exec {sys.executable} -m videorouter.cli doctor"
    done = subprocess.run(
        ["bash", "-c", line],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=make_environment(),
        timeout=30,
    )
    assert "at most 128" in done.stdout
    assert "ulimit -n" in done.stdout


def test_quiet_shows_only_what_is_wrong(run):
    ended = run("doctor", "-q")
    assert "Key" in ended.out
    assert "Program" not in ended.out
