"""Events: what a log line made of one shows, and what it never shows."""

from __future__ import annotations

from videorouter.events import ItemFinished
from videorouter.models import BatchItem, Video, VideoResult


def test_a_finished_item_is_logged_without_its_prompt_and_its_url():
    result = VideoResult(videos=(Video(url="https://files.example/otter.mp4", revised_prompt="A wet otter"),))
    item = BatchItem(index=3, id="otter", state="done", prompt="A dry otter", result=result, cost=1.2)
    line = f"{ItemFinished(call_id='otter', item=item)}"
    assert line == "ItemFinished(call_id='otter', index=3, state='done', cost=1.2)"
