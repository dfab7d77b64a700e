"""One list of parameters for each thing that people call, and what stands for it."""

from __future__ import annotations

import inspect
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
