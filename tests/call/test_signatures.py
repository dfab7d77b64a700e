"""What one verb lends to another: the same arguments, so that none can be forgotten."""

from __future__ import annotations

from inspect import signature

from videorouter import AsyncVideoRouter
from videorouter.call.signatures import edit_job, job

OMITTED = {"self", "models", "fallback_on_failure"}


def list_parameters(verb):
    return [str(parameter) for name, parameter in signature(verb).parameters.items() if name not in OMITTED]


def test_a_job_takes_what_generate_takes_for_one_model():
    assert list_parameters(job) == list_parameters(AsyncVideoRouter.generate)


def test_an_edit_takes_what_a_job_takes_and_the_video():
    here = list_parameters(edit_job)
    assert [parameter for parameter in here if not parameter.startswith("video:")] == list_parameters(job)
