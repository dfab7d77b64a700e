"""A web page in a browser on the same machine gets nothing from the sandbox, and buys nothing there."""

import pytest

from videorouter.sandbox import Sandbox, Settings
from videorouter.sandbox.visitors import find_stranger

BODY = {"model": "m", "prompt": "otter"}


@pytest.mark.parametrize(
    "host",
    [
        None,
        "127.0.0.1",
        "127.0.0.1:8765",
        "127.8.8.8:1",
        "localhost:8765",
        "LocalHost",
        "localhost.:80",
        "app.localhost:3000",
        "[::1]:8765",
        "sandbox.test:80",
        "sandbox:8765",
        "192.168.1.7:8765",
        "[::]",
        "",
    ],
)
def test_names_that_no_stranger_owns_and_those_that_were_allowed_are_known(host):
    assert find_stranger(host, None, {"sandbox.test"}) is None


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8765",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "evil.example@127.0.0.1.evil.example",
        "a.sandbox.test",
    ],
)
def test_every_other_name_is_a_strangers(host):
    assert find_stranger(host, None, {"sandbox.test"})


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "",
        "https://evil.example",
        "http://localhost.evil.example",
        "http://192.168.1.7",
        "http://sandbox",
        "file://",
        "x",
    ],
)
def test_a_page_of_another_origin_is_a_stranger(origin):
    assert find_stranger("127.0.0.1:8765", origin, {"sandbox.test"})


@pytest.mark.parametrize("origin", ["http://127.0.0.1:8765", "http://localhost:3000", "https://sandbox.test"])
def test_a_page_of_this_machine_is_none(origin):
    assert find_stranger("127.0.0.1:8765", origin, {"sandbox.test"}) is None


@pytest.mark.anyio
@pytest.mark.parametrize("headers", [{"Host": "evil.example"}, {"Origin": "https://evil.example"}])
async def test_a_web_page_neither_reads_nor_buys_nor_changes_anything(http, headers):
    async with Sandbox() as sandbox:
        bought = await http.post(f"{sandbox.base_url}/videos/generations", json=BODY)
        (video,) = bought.json()["data"]
        reads = [sandbox.url, f"{sandbox.url}/_sandbox/requests", f"{sandbox.base_url}/models", video["url"]]
        answers = [await http.get(url, headers=headers) for url in reads]
        answers.append(await http.post(f"{sandbox.base_url}/videos/generations", json=BODY, headers=headers))
        answers.append(await http.post(f"{sandbox.url}/_sandbox/reset", headers=headers))
        assert [answer.status_code for answer in answers] == [403] * 6
        assert "--allow-host evil.example" in answers[0].json()["error"]["message"]
        assert "otter" not in "".join(answer.text for answer in answers)
        assert await sandbox.charges() == {"otter": 1}


@pytest.mark.anyio
async def test_a_name_that_leads_to_it_on_purpose_can_be_allowed(http):
    async with Sandbox(allowed_hosts=["Sandbox.test"]) as sandbox:
        headers = {"Host": "sandbox.test", "Origin": "https://sandbox.test"}
        answer = await http.post(f"{sandbox.base_url}/videos/generations", json=BODY, headers=headers)
        assert answer.status_code == 200


@pytest.mark.parametrize("wrong", ["sandbox.test", ["http://sandbox.test"], ["sandbox.test:80"], ["*"], [""], [7]])
def test_what_is_no_name_is_refused_when_it_is_made(wrong):
    with pytest.raises(ValueError, match="allowed_hosts"):
        Settings(allowed_hosts=wrong)


@pytest.mark.anyio
async def test_its_own_gallery_may_ask_it(http):
    async with Sandbox() as sandbox:
        answer = await http.post(f"{sandbox.url}/_sandbox/release", headers={"Origin": sandbox.url})
        assert answer.status_code == 200
