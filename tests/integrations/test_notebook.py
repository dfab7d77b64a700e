from __future__ import annotations

from videorouter.integrations.notebook import tabulate
from videorouter.models import BatchItem, BatchSummary, Failure, Video, VideoResult

EVIL = '"><script>alert(1)</script>'


def make_items():
    video = Video(url="https://files.example/otter.mp4?a=1&b=2", video_id="v")
    done = BatchItem(index=0, id="a", state="done", prompt=EVIL, cost=0.4, result=VideoResult(videos=(video,)))
    failure = Failure(type="TaskFailedError", message=f"no GPU {EVIL}")
    return [done, BatchItem(index=1, id="b", state="failed", prompt="snow", failure=failure)]


def test_items_show_as_a_table_with_players():
    table = tabulate(make_items())
    shown = table._repr_html_()
    assert len(table) == 2
    assert shown.count("<tr>") == 3
    assert 'src="https://files.example/otter.mp4?a=1&amp;b=2"' in shown
    assert "$0.40" in shown
    assert "no GPU" in shown


def test_no_text_of_an_item_becomes_markup():
    assert "<script>" not in tabulate(make_items())._repr_html_()


def test_without_a_notebook_it_is_plain_lines():
    assert repr(tabulate(make_items())).splitlines()[1].split() == ["1", "failed", "snow"]


def test_a_summary_shows_as_a_table():
    shown = BatchSummary(done=2, in_doubt=1, cost=0.8, cost_in_doubt=0.4, stopped=EVIL)._repr_html_()
    assert "<td>$0.80</td>" in shown
    assert "cost in doubt" in shown
    assert "<script>" not in shown
