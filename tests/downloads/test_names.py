"""Names of files, as a table; those of batch items stay inside their folder and apart, whatever a prompt holds."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given, strategies as st

from videorouter.downloads.names import (
    DEFAULT_NAME,
    check_template,
    clean_name,
    fill_template,
    is_part_of,
    join_words,
    name_content,
    name_video,
    number_name,
    number_paths,
    part_name,
    rejected_name,
    resume_file_name,
    slugify,
)
from videorouter.errors import ConfigurationError

HOST = "https://cdn.example"
SPEC = "https://resource.onerouter.pro/video/generated%2Fonerouter_0688d9c3-4e7f-45c5-a30d-7923dfd056a6.mp4"


@pytest.mark.parametrize(
    ("url", "name"),
    [
        (SPEC, "onerouter_0688d9c3-4e7f-45c5-a30d-7923dfd056a6.mp4"),
        (f"{HOST}/a/clip.mp4?x=/../b.mp4#c.mp4", "clip.mp4"),
        (f"{HOST}/clip.MP4", "clip.mp4"),
        (f"{HOST}/clip", "clip.mp4"),
        (f"{HOST}/clip.webm", "clip.webm.mp4"),
        (f"{HOST}/../../etc/passwd", "passwd.mp4"),
        (f"{HOST}/..%2F..%2Fetc%2Fpasswd", "passwd.mp4"),
        (f"{HOST}/..%5C..%5Cwindows%5Cwin.ini", "win.ini.mp4"),
        (f"{HOST}/%252e%252e%252fx.mp4", "%2e%2e%2fx.mp4"),
        (f"{HOST}/a%00b.mp4", "ab.mp4"),
        (f"{HOST}/a%0Ab%1B[31m.mp4", "ab[31m.mp4"),
        (f"{HOST}/%E2%80%AEgnp.mp4", "gnp.mp4"),
        (f"{HOST}/.bashrc", "bashrc.mp4"),
        (f"{HOST}/-rf.mp4", "rf.mp4"),
        (f"{HOST}/...", "video_1.mp4"),
        (f"{HOST}/", "video_1.mp4"),
        (HOST, "video_1.mp4"),
        (f"{HOST}/.mp4", "video_1.mp4"),
        (f"{HOST}/CON", "_CON.mp4"),
        (f"{HOST}/nul.mp4", "_nul.mp4"),
        (f"{HOST}/com1.tar.mp4", "_com1.tar.mp4"),
        (f"{HOST}/LPT%C2%B9.mp4", "_LPT¹.mp4"),
        (f"{HOST}/a%3Ab%7Cc%3F.mp4", "a_b_c_.mp4"),
        (f"{HOST}/otter%20in%20%20snow%20.mp4", "otter in snow.mp4"),
        (f"{HOST}/%EF%BC%8Fetc.mp4", "etc.mp4"),
        (f"{HOST}/%ff%fe.mp4", "video_1.mp4"),
        (f"{HOST}/{'x' * 400}.mp4", "x" * 150 + ".mp4"),
        (None, "video_1.mp4"),
    ],
)
def test_a_url_gives_a_harmless_name(url, name):
    assert name_video(url, "video_1") == name


def test_without_a_useful_url_or_id_it_is_a_video():
    assert name_video(None) == name_video("https://[", "../..") == "video.mp4"


@given(st.text(max_size=400))
def test_any_text_becomes_a_harmless_name(text):
    for name in (clean_name(text), name_video(f"https://a.example/{text}")):
        assert name == "" or name.endswith(".mp4")
        assert not set(name) & set('/\\\0<>:"|?*')
        assert not name.startswith((".", "-", " "))
        assert all(char.isprintable() for char in name)
        assert len(name.encode()) <= 160


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("A cute baby sea otter", "A-cute-baby-sea-otter.mp4"),
        ("../../etc/passwd", "etc-passwd.mp4"),
        (".hidden", "hidden.mp4"),
        ("a/b\\c\0d", "a-b-c-d.mp4"),
        ("カワウソ", "カワウソ.mp4"),
        ("clip.mp4", "clip.mp4"),
        ("...", "video.mp4"),
        ("", "video.mp4"),
        ("x" * 500, "x" * 60 + ".mp4"),
    ],
)
def test_joined_words_are_plain_whatever_they_are_made_from(text, name):
    assert join_words(text) == name


@pytest.mark.parametrize(
    ("name", "container", "named"),
    [
        ("otter.mp4", "mp4", "otter.mp4"),
        ("otter.mov", "mp4", "otter.mov"),
        ("otter.mp4", "webm", "otter.webm"),
        ("otter.MP4", "mov", "otter.mov"),
        ("otter.webm.mp4", "webm", "otter.webm"),
        ("otter.WEBM", "webm", "otter.WEBM"),
        ("otter.gif", "mkv", "otter.mkv"),
        ("otter", "gif", "otter"),
        ("otter.v2", "gif", "otter.v2"),
        (".mp4", "gif", ".mp4"),
    ],
)
def test_a_file_that_is_no_mp4_has_its_own_ending(name, container, named):
    assert name_content(name, container) == named


def test_numbers_stand_before_the_suffix():
    assert number_name("otter.mp4", 2) == "otter-2.mp4"
    assert number_name("otter", 2) == "otter-2"
    assert number_name("otter.mp4", 2, ".") == "otter.2.mp4"
    paths = number_paths(Path("clips/otter.mp4"))
    assert [next(paths).name for _ in range(3)] == ["otter.mp4", "otter-2.mp4", "otter-3.mp4"]


@pytest.mark.parametrize("name", ["otter.mp4", "x" * 255, "ö" * 127])
def test_hidden_names_fit_a_file_system_and_are_told_apart(name):
    token = "0123456789abcdef" * 2
    part = part_name(name, token)
    assert all(len(text.encode()) <= 255 for text in (part, resume_file_name(name), rejected_name(name)))
    assert is_part_of(name, part)
    for forged in ("../../etc/passwd", f"{part}/x", part[:-1], f".other.{token}.part", 7, None):
        assert not is_part_of(name, forged)


# Templates


def test_the_default_name_counts_and_says_what_it_shows():
    name = fill_template(DEFAULT_NAME, index=7, item_id="x-1", prompt="A cute baby sea otter!", model="m")
    assert name == "000007-a-cute-baby-sea-otter.mp4"


def test_a_step_of_a_chain_has_its_own_name():
    assert (
        fill_template(DEFAULT_NAME, index=7, item_id="x", prompt="Snow", model="m", step=1) == "000007-snow-then1.mp4"
    )


@given(prompt=st.text(), item=st.text(min_size=1), model=st.text(min_size=1))
def test_no_text_leaves_the_folder(prompt, item, model):
    name = fill_template("{model}/{index}-{id}-{slug}.mp4", index=0, item_id=item, prompt=prompt, model=model)
    parts = PurePosixPath(name).parts
    assert len(parts) == 2
    assert not any(part in {"..", "."} or part.startswith(".") for part in parts)
    assert Path("/clips", name).resolve().is_relative_to("/clips")


@given(one=st.text(min_size=1), other=st.text(min_size=1))
def test_two_ids_have_two_names(one, other):
    names = {fill_template("{id}.mp4", index=0, item_id=item, prompt="", model="m") for item in (one, other)}
    assert len(names) == len({one, other})


@pytest.mark.parametrize(
    "template",
    ["video.mp4", "{slug}.mp4", "/abs/{index}.mp4", "../{index}.mp4", "a/../{index}.mp4", "{index", "{secret}{index}",
     "{index:zz}.mp4", "{index.__class__}", "~/{index}.mp4", "{index:{id}}.mp4"],
)  # fmt: skip
def test_a_template_that_could_lose_or_misplace_a_video_is_refused(template):
    with pytest.raises(ConfigurationError):
        check_template(template)


def test_a_prompt_without_letters_still_has_a_slug():
    assert slugify("海獭 🦦") == "video"
    assert slugify("Élan vital") == "elan-vital"
