"""The control path: charges, requests, jobs, faults, release and reset over HTTP, without a key."""

import httpx
import pytest

from videorouter.sandbox import Sandbox

pytestmark = pytest.mark.anyio
BODY = {"model": "kling-v2", "prompt": "otter"}


@pytest.fixture
async def control():
    async with Sandbox() as sandbox, httpx.AsyncClient(base_url=f"{sandbox.url}/_sandbox/", trust_env=False) as http:
        yield sandbox, http


async def generate(sandbox, http, **headers):
    return await http.post(
        f"{sandbox.base_url}/videos/generations", json=BODY, headers={"Authorization": "Bearer s3cret-key", **headers}
    )


async def test_charges_are_told_by_prompt_and_one_by_one(control):
    sandbox, http = control
    await generate(sandbox, http)
    await generate(sandbox, http)
    answer = (await http.get("charges")).json()
    assert answer["charges"] == {"otter": 2}
    assert [item["amount"] for item in answer["list"]] == [0.35, 0.35]
    assert answer["total_cost"] == 0.7


async def test_the_request_log_holds_no_secret(control):
    sandbox, http = control
    await http.post(
        f"{sandbox.base_url}/videos/generations?key=s3cret-key",
        json={**BODY, "prompt": "my key is s3cret-key"},
        headers={"Authorization": "Bearer s3cret-key", "Cookie": "a=b", "X-Note": "s3cret-key", "X-Api-Key": "other"},
    )
    answer = await http.get("requests")
    assert "s3cret-key" not in answer.text
    (record,) = answer.json()
    assert record["headers"]["authorization"] == record["headers"]["cookie"] == "<redacted>"
    assert record["headers"]["x-api-key"] == "<redacted>"
    assert "my key is <redacted>" in record["body"]
    assert (record["status"], record["charged"], record["method"]) == (200, True, "POST")


async def test_faults_are_added_listed_and_removed(control):
    sandbox, http = control
    made = await http.post("faults", json={"fault": "status=503; retry-after=2", "prompt": "otter", "times": 1})
    assert made.status_code == 201
    number = made.json()["id"]
    other = (await http.post("faults", json={"kind": "status", "status": 500})).json()["id"]
    assert [item["id"] for item in (await http.get("faults")).json()] == [number, other]
    assert (await generate(sandbox, http)).status_code == 503
    assert (await http.delete(f"faults/{number}")).status_code == 200
    assert (await http.delete(f"faults/{number}")).status_code == 404
    assert (await generate(sandbox, http)).status_code == 500
    assert (await http.delete("faults")).json() == []
    assert (await generate(sandbox, http)).status_code == 200


@pytest.mark.parametrize(
    "body", [{"fault": "banana"}, {"kind": "status"}, {"nothing": 1}, {"fault": "reset", "kind": "x"}]
)
async def test_a_fault_that_makes_no_sense_is_refused(control, body):
    _, http = control
    assert (await http.post("faults", json=body)).status_code == 400


async def test_jobs_health_release_and_reset(control):
    sandbox, http = control
    await generate(sandbox, http)
    assert [job["prompt"] for job in (await http.get("jobs")).json()] == ["otter", "A cute baby sea otter"]
    assert (await http.get("health")).json()["held"] == 0
    assert (await http.post("release")).json() == {"released": 0}
    assert (await http.post("reset")).json() == {"reset": True}
    assert (await http.get("charges")).json() == {"charges": {}, "list": [], "total_cost": 0}


@pytest.mark.parametrize(("method", "path"), [("GET", "nothing"), ("POST", "charges"), ("GET", "reset")])
async def test_what_is_not_there_is_404(control, method, path):
    _, http = control
    assert (await http.request(method, path)).status_code == 404
