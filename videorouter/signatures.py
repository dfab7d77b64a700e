"""What a public verb shows of itself: parameters that it borrows, and annotations that can be read while it runs.

A list of parameters is written where people read it, and what does the work is handed what was given, by name.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Container, Coroutine
from typing import Any, Concatenate, ForwardRef, ParamSpec, TypeVar

from videorouter.errors import ConfigurationError

P = ParamSpec("P")
S = TypeVar("S")
R = TypeVar("R")


class LazyModule:
    """A module that is imported when it is first used, or when an annotation that names it is evaluated.

    Type checkers are shown the import itself, ``if TYPE_CHECKING``.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("_"):  # no annotation asks for it; programs that look around, as pytest does, do
            raise AttributeError(attribute)
        try:
            module = importlib.import_module(self._name)
        except (OSError, MemoryError) as error:
            raise ConfigurationError(
                f"{self._name} cannot be loaded: {str(error) or 'out of memory'}. Nothing was sent. This process has no file descriptor or "
                "memory left: lower max_concurrency, raise `ulimit -n`, or use this earlier in the program."
            ) from error
        return getattr(module, attribute)


def runs(work: Callable[..., Any]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let ``work`` be what a function does that only has a name, parameters and a docstring."""

    def stand_for(stub: Callable[P, R]) -> Callable[P, R]:
        return functools.update_wrapper(work, stub)

    return stand_for


def takes_what(
    lender: Callable[Concatenate[Any, P], object], *, without: Container[str] = ()
) -> Callable[
    [Callable[Concatenate[S, ...], Coroutine[Any, Any, R]]], Callable[Concatenate[S, P], Coroutine[Any, Any, R]]
]:
    """Give a verb that takes ``**options`` the parameters of ``lender``; its result stays its own.

    Type checkers cannot take a parameter out of a list: those ``without`` are hidden at run time only.
    """

    def lend(
        borrower: Callable[Concatenate[S, ...], Coroutine[Any, Any, R]],
    ) -> Callable[Concatenate[S, P], Coroutine[Any, Any, R]]:
        dress(borrower, lender, returns=inspect.signature(borrower).return_annotation, without=without)
        return borrower

    return lend


def dress(
    borrower: Callable[..., Any], lender: Callable[..., Any], *, returns: object, without: Container[str] = ()
) -> None:
    """Show ``lender``'s parameters, and ``returns``, on ``borrower``."""
    signature = inspect.signature(lender)
    parameters = [parameter for name, parameter in signature.parameters.items() if name not in without]
    vars(borrower)["__signature__"] = signature.replace(parameters=parameters, return_annotation=returns)
    # What an annotation says is known in the module that it was written in
    written = {
        name: ForwardRef(annotation, module=lender.__module__) if isinstance(annotation, str) else annotation
        for name, annotation in lender.__annotations__.items()
        if name not in without
    }
    borrower.__annotations__ = {**written, "return": returns}


def dress_without_await(call: Callable[P, R], stub: Callable[..., Any], verb: Callable[..., Any]) -> Callable[P, R]:
    """Show the async ``verb``'s parameters and docs on ``call``, under the name and with the result of ``stub``."""
    functools.update_wrapper(call, stub)
    dress(call, verb, returns=inspect.signature(stub).return_annotation)
    call.__doc__ = (verb.__doc__ or "").replace("await ", "").replace("async ", "") or stub.__doc__
    return call
