"""Notes warn of what is known and stay silent on everything else."""

import pytest

from videorouter.call.notes import differ_in_family, find_family, find_notes


@pytest.mark.parametrize(
    ("model", "duration", "warns"),
    [
        ("google/veo3.1/text-to-video", "8s", False),
        ("google/veo3.1/text-to-video", 8, True),
        ("google/veo3.1/text-to-video", "8", True),
        ("bytedance/seedance-2.0/image-to-video", "4", False),
        ("bytedance/seedance-2.0/image-to-video", "auto", False),
        ("bytedance/seedance-2.0/image-to-video", "16", True),
        ("bytedance/seedance-2.0/image-to-video", 5, True),
        ("veo3-fast", 8, False),
        ("some/new-model", object(), False),
        ("google/veo3.1/text-to-video", None, False),
    ],
)
def test_a_duration_that_a_model_is_known_to_ignore_is_noted(model, duration, warns):
    assert bool(find_notes(model, {"duration": duration})) is warns


@pytest.mark.parametrize(
    ("model", "family"),
    [("sora-2-video-to-video", "sora"), ("google/veo3.1/text-to-video", "veo"), ("unheard-of-9", None), (None, None)],
)
def test_a_family_is_read_from_either_style_of_id(model, family):
    assert find_family(model) == family


def test_families_differ_only_when_both_are_known():
    assert differ_in_family("veo3-fast", "sora-2-video-to-video")
    assert not differ_in_family("sora-2", "sora-2-video-to-video")
    assert not differ_in_family("veo3-fast", "unheard-of-9")
