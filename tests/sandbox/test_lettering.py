"""Words on frames: wrapped, sized, and escaped where no font covers them."""

from videorouter.sandbox import lettering
from videorouter.sandbox.lettering import measure, own_font, read_coverage, split_runs, wrap


def test_the_coverage_is_read_from_the_font_itself():
    covered = read_coverage(own_font())
    assert all(ord(char) in covered for char in "Aäñ Ωжё…")
    assert 0x1F9A6 not in covered
    assert len(covered) > 2000


def test_a_file_that_is_no_font_covers_nothing(tmp_path):
    broken = tmp_path / "broken.ttf"
    broken.write_bytes(own_font().read_bytes()[:300])
    assert read_coverage(broken) == frozenset()
    assert read_coverage(tmp_path / "missing.ttf") == frozenset()


def test_what_no_font_covers_is_escaped():
    text = "".join(piece for piece, _ in split_runs("x\U0010fffe\n\x00y"))
    assert text == "x\\u{10fffe}\\u{a}\\u{0}y"


def test_a_short_text_is_one_line_in_the_largest_size():
    assert wrap("otter", 500, 3, range(30, 10, -2)) == (["otter"], 30)


def test_a_long_text_gets_smaller_and_then_an_ellipsis():
    text = "a very long prompt about an otter " * 40
    lines, size = wrap(text, 300, 3, range(30, 11, -2))
    assert (len(lines), size) == (3, 12)
    assert lines[-1].endswith("…")
    assert all(measure(line, size) <= 300 for line in lines)


def test_a_word_without_end_is_broken():
    lines, size = wrap("w" * 400, 200, 50, range(12, 11, -1))
    assert "".join(lines) == "w" * 400
    assert all(measure(line, size) <= 200 for line in lines)


def test_an_empty_text_is_an_empty_line():
    assert wrap("", 100, 2, range(12, 11, -1)) == ([""], 12)


def test_a_font_of_the_system_helps_out(tmp_path, monkeypatch):
    (tmp_path / "deep").mkdir()
    helper = tmp_path / "deep" / "NotoSansOther.ttf"
    for name in ("NotoSansOther.ttf", "NotoSans-Bold.ttf", "Comic.ttf", "noto.txt"):
        (tmp_path / "deep" / name).write_bytes(b"")
    monkeypatch.setattr(lettering, "_FOLDERS", (str(tmp_path), str(tmp_path / "missing")))
    covered = {own_font(): frozenset(map(ord, "ab\\u{}0123456789cdef")), helper: frozenset({ord("海")})}
    monkeypatch.setattr(lettering, "read_coverage", covered.__getitem__)
    lettering.system_fonts.cache_clear()
    lettering._font_for.cache_clear()
    try:
        assert lettering.system_fonts() == (helper,)
        assert split_runs("a海b獭") == [("a", own_font()), ("海", helper), ("b\\u{736d}", own_font())]
    finally:
        lettering.system_fonts.cache_clear()
        lettering._font_for.cache_clear()
