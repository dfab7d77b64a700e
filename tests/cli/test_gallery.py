from videorouter.cli.gallery import Card, write_page
from videorouter.cli.inspection import Inspection

FOUND = Inspection(size=71_800, width=640, height=360, frames=48, seconds=2.0, codec="h264", poster=b"\xff\xd8\xff")


def make_card(**more):
    values = {"file": "a b#1.mp4", "prompt": "An otter", "model": "veo3-fast", "video_id": "video_1", "found": FOUND}
    return Card(**{**values, "elapsed": 1.5, **more})


def test_the_page_stands_alone():
    page = write_page([make_card()], elapsed=2.0, charged=1)
    assert 'src="a%20b%231.mp4"' in page
    assert "data:image/jpeg;base64,/9j/" in page
    assert "prefers-color-scheme: dark" in page
    for other in ("<script", "http://", "https://", "<link", "@import"):
        assert other not in page


def test_whatever_a_prompt_says_is_text():
    page = write_page([make_card(prompt='"><script>alert(1)</script>', model="<b>")], elapsed=2.0, charged=1)
    assert "<script" not in page
    assert "&lt;b&gt;" in page


def test_an_edit_names_its_parent():
    page = write_page([make_card(), make_card(parent="An otter", prompt="Make it snow")], elapsed=2.0, charged=2)
    assert "made from “An otter”" in page
    assert "1 prompts at once, 1 edit" in page
