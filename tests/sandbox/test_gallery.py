"""The gallery lists what was made, plays it, and escapes every word of a user."""

import math

import pytest

from videorouter.sandbox import Sandbox

pytestmark = pytest.mark.anyio


async def page_of(http, sandbox):
    del http.headers["Authorization"]
    answer = await http.get(sandbox.url)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    return answer.text


async def test_it_plays_what_was_made_and_says_what_it_cost(http):
    async with Sandbox(size=(64, 36), seconds=0.2) as sandbox:
        url = f"{sandbox.base_url}/videos/generations"
        made = await http.post(url, json={"model": "m", "prompt": "<script>otter</script>", "n": 2})
        await http.post(url, json={"model": "m", "prompt": "bad"}, headers={"X-Sandbox-Fault": "failed_task=<b>no"})
        await http.post(
            f"{sandbox.base_url}/videos/edits",
            json={
                "model": "sora-2-video-to-video",
                "prompt": "snow",
                "video_id": "video_68fc872dba248190875ba0c177c7b0cf0974c02d85a9c020",
            },
        )
        page = await page_of(http, sandbox)
        for item in made.json()["data"]:
            assert f'src="{item["url"]}"' in page
        assert "<script>otter" not in page
        assert "&lt;script&gt;otter" in page
        assert "&lt;b&gt;no" in page
        assert "not charged" in page
        assert 'edit of <a href="#job-0">A cute baby sea otter' in page
        assert "prefers-color-scheme:dark" in page
        poster = page.partition('poster="')[2].partition('"')[0]
        answer = await http.get(sandbox.url + poster)
        assert answer.headers["content-type"] == "image/jpeg"
        assert (await http.get(sandbox.url + "/_sandbox/posters/none.jpg")).status_code == 404


async def test_it_shows_what_is_under_way(http):
    async with Sandbox(mode="task", latency=math.inf) as sandbox:
        await http.post(f"{sandbox.base_url}/videos/generations", json={"model": "m", "prompt": "otter"})
        page = await page_of(http, sandbox)
        assert 'class="spin"' in page
