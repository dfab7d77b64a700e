"""One list of parameters for each thing that people call, and what stands for it."""

from __future__ import annotations

import importlib
import inspect
import typing
from inspect import signature

import pytest

from videorouter import AsyncVideoRouter
from videorouter.config import OPTIONS, resolve
from videorouter.signatures import runs

OF_THE_CONNECTIONS = {"ssl_context", "http_client", "on_event", "on_in_doubt"}


def list_parameters(verb, *without):
    return [str(parameter) for name, parameter in signature(verb).parameters.items() if name not in {"self", *without}]


def test_a_job_takes_what_generate_takes_for_one_model():
    of_generate = list_parameters(AsyncVideoRouter.generate, "models", "fallback_on_failure")
    assert list_parameters(AsyncVideoRouter.submit) == of_generate


def test_an_edit_takes_what_a_job_takes_and_the_video():
    for verb in (AsyncVideoRouter.edit, AsyncVideoRouter.submit_edit):
        assert next(iter(list_parameters(verb))).startswith("video:")
        assert list_parameters(verb, "video") == list_parameters(AsyncVideoRouter.submit)


def test_each_option_of_the_client_can_be_set_and_has_the_default_that_its_signature_shows():
    shown = {name: parameter.default for name, parameter in signature(AsyncVideoRouter).parameters.items()}
    assert {*shown} == OPTIONS | OF_THE_CONNECTIONS
    defaults = {name: value for name, value in shown.items() if name not in OF_THE_CONNECTIONS}
    environ = {"INFRON_API_KEY": "key"}
    assert resolve(defaults, environ) == resolve({}, environ)


def test_an_option_that_there_is_not_is_an_unexpected_argument():
    for name in ("colour", "environ", "origins", "seen_keys"):
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'"):
            AsyncVideoRouter("key", **{name: 1})


@pytest.mark.parametrize("verb", [AsyncVideoRouter.generate, AsyncVideoRouter.edit, AsyncVideoRouter.submit])
def test_a_verb_is_a_coroutine_function_under_its_own_name(verb):
    assert inspect.iscoroutinefunction(verb)
    with pytest.raises(TypeError, match=rf"AsyncVideoRouter\.{verb.__name__}\(\) missing"):
        verb(AsyncVideoRouter("key"))


def test_what_stands_for_a_function_is_handed_what_was_given():
    @runs(lambda *given, **named: (given, named))
    def shown(one, /, *, two=2, **others):
        """Docs."""
        raise NotImplementedError

    assert shown(1, three=3) == ((1,), {"three": 3})
    assert (str(signature(shown)), shown.__doc__, shown.__name__) == ("(one, /, *, two=2, **others)", "Docs.", "shown")


# Annotations that programs read

PUBLIC = [
    "videorouter",
    "videorouter.errors",
    "videorouter.events",
    "videorouter.integrations.notebook",
    "videorouter.integrations.otel",
    "videorouter.integrations.pytest_plugin",
    "videorouter.integrations.ray",
    "videorouter.integrations.web",
    "videorouter.jobs.jobs",
    "videorouter.jobs.sync",
    "videorouter.jobs.jobs",
    "videorouter.jobs.models",
    "videorouter.jobs.queue",
    "videorouter.jobs.sync",
    "videorouter.models",
    "videorouter.sandbox",
    "videorouter.sync",
    "videorouter.testing",
]
NEEDED = {"videorouter.integrations.ray": "ray.data", "videorouter.integrations.web": "starlette"}


def list_public(module):
    """Each public class and function that a module defines, and each public method of its classes."""
    for name in getattr(module, "__all__", vars(module)):
        thing = getattr(module, name)
        here = (getattr(thing, "__module__", None) or "").startswith(module.__name__)
        if name.startswith("_") or not here or not callable(thing):
            continue
        yield name, thing
        for inner in dir(thing) if inspect.isclass(thing) else ():
            member = inspect.getattr_static(thing, inner)
            member = getattr(member, "fget", None) or getattr(member, "__func__", member)
            if inspect.isfunction(member) and (inner == "__init__" or not inner.startswith("_")):
                yield f"{name}.{inner}", member


@pytest.mark.parametrize("name", PUBLIC)
def test_the_annotations_of_each_public_name_can_be_evaluated(name):
    if name in NEEDED:
        pytest.importorskip(NEEDED[name])
    found = dict(list_public(importlib.import_module(name)))
    assert found
    unreadable = {}
    for label, thing in found.items():
        try:
            typing.get_type_hints(thing)
        except NameError as error:
            unreadable[label] = error
    assert unreadable == {}


def test_a_borrowed_parameter_means_what_it_means_where_it_was_written():
    client = importlib.import_module("videorouter.client")
    for verb in ("generate", "save", "generate_many", "download"):
        hints = typing.get_type_hints(getattr(client.AsyncVideoRouter, verb))
        borrowed = typing.get_type_hints(getattr(importlib.import_module("videorouter.sync").VideoRouter, verb))
        assert {**hints, "return": None} == {**borrowed, "return": None}
