"""File names of batch items: inside their folder, told apart, whatever a prompt or an id holds."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given, strategies as st

from videorouter.downloads.filing import DEFAULT_NAME, check_template, fill_template, slugify
from videorouter.errors import ConfigurationError


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
